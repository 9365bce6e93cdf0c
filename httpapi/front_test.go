package httpapi

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/gorilla/mux"
	"pgregory.net/rapid"
)

// Whatever a path looks like, it is served as a key's exactly if the router would take it for one.
func TestFrontAgreesWithRouter(t *testing.T) {
	s, err := newServer(fixtureConfig(&fakeData{entries: map[string]fakeEntry{}}))
	if err != nil {
		t.Fatal(err)
	}
	router := s.router()
	check := func(t rapid.TB, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL = u
		want := false
		var match mux.RouteMatch
		if router.Match(r, &match) && match.Route != nil {
			template, err := match.Route.GetPathTemplate()
			want = err == nil && template == kvPrefix
		}
		if got := isData(r); got != want {
			t.Fatalf("%q: served as a key %t, by the router %t", target, got, want)
		}
	}
	for _, target := range []string{"/v1/kv/a", "/v1/kv/", "/v1/kv", "/v1/kv?", "/v1/kv/?a", "/v1%2fkv/a", "/v1/kv%2fa", "/v1/%6bv/a", "/v1/kv//", "//v1/kv/a",
		"/v1/kv/../x", "/v1/x/../kv/a", "/./v1/kv/a", "/v1/batch", "*", "http://h/v1/kv/a", "http://h", "http:/v1/kv/a", "/v1/kv/\xff", "/v1/kv/a\"b%2f"} {
		check(t, target)
	}
	for _, tc := range oddKeys {
		check(t, kvPrefix+tc.wire)
	}
	rapid.Check(t, func(t *rapid.T) {
		pieces := rapid.SliceOf(rapid.SampledFrom([]string{"/", "v1", "kv", "locate", "/v1/kv/", "/v1/", "kv/", ".", "..", "%2f", "%6b", "k", "?", "\"", "\xff", "%", "x"}))
		check(t, "/"+strings.Join(pieces.Draw(t, "target"), ""))
	})
}

// Answers of one kind after the other are counted each under its own labels.
func TestMetricsTellAnswersApart(t *testing.T) {
	f := newFixture(t)
	for _, line := range []string{"PUT /v1/kv/k", "PUT /v1/kv/k", "GET /v1/kv/k", "GET /v1/kv/absent", "GET /v1/kv/k", "HEAD /v1/kv/k", "GET /livez", "BREW /v1/kv/k"} {
		method, path, _ := strings.Cut(line, " ")
		f.request(t, method, path, "")
	}
	metrics := f.request(t, http.MethodGet, "/metrics", "").Body.String()
	for labels, count := range map[string]string{
		`code="201",method="PUT",route="/v1/kv/"`:   "1",
		`code="204",method="PUT",route="/v1/kv/"`:   "1",
		`code="200",method="GET",route="/v1/kv/"`:   "2",
		`code="404",method="GET",route="/v1/kv/"`:   "1",
		`code="200",method="HEAD",route="/v1/kv/"`:  "1",
		`code="200",method="GET",route="/livez"`:    "1",
		`code="405",method="other",route="/v1/kv/"`: "1",
	} {
		if line := "larder_http_request_duration_seconds_count{" + labels + "} " + count + "\n"; !strings.Contains(metrics, line) {
			t.Errorf("the metrics lack %s", line)
		}
	}
}
