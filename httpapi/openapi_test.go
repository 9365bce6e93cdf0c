package httpapi

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"
)

// fill puts something into each variable of a path of the document.
func fill(path string) string {
	return regexp.MustCompile(`\{\w+\}`).ReplaceAllString(path, "5")
}

// The document declares exactly the paths and methods that the router serves.
func TestOpenAPIRoutes(t *testing.T) {
	c := openContract(t)
	s, err := newServer(Config{Node: "a", Data: &fakeData{}, Directory: &fakeDirectory{}, Admin: &fakeAdmin{},
		Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	router := s.router()
	var routed, declared []string
	err = router.Walk(func(route *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		path, err := route.GetPathTemplate()
		if err != nil {
			return err
		}
		if path == kvPrefix || path == locatePrefix {
			path += "{key}"
		}
		// No route has the method OPTIONS, so its answer lists those that there are.
		w := httptest.NewRecorder()
		router.ServeHTTP(&recorder{ResponseWriter: w}, httptest.NewRequest(http.MethodOptions, fill(path), nil))
		if w.Code != http.StatusMethodNotAllowed {
			t.Errorf("OPTIONS %s: got %d, want 405", path, w.Code)
		}
		for method := range strings.SplitSeq(w.Header().Get("Allow"), ", ") {
			routed = append(routed, method+" "+path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, methods := range c.operations {
		for method := range methods {
			declared = append(declared, method+" "+path)
		}
	}
	slices.Sort(routed)
	slices.Sort(declared)
	for _, one := range routed {
		if !slices.Contains(declared, one) {
			t.Errorf("%s is served and not declared", one)
		}
	}
	for _, one := range declared {
		if !slices.Contains(routed, one) {
			t.Errorf("%s is declared and not served", one)
		}
	}
	if len(routed) < 40 {
		t.Errorf("found %d routes with their methods: the test does not see them", len(routed))
	}
}

// What is built takes exactly the query parameters that are declared; what is planned is not built.
func TestOpenAPIParameters(t *testing.T) {
	c := openContract(t)
	f := newHandler(t)
	for path, methods := range c.operations {
		for method, op := range methods {
			w := f.request(t, method, fill(path)+"?no-such-parameter=1", "")
			var p Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
				t.Fatalf("%s %s: %v in %s", method, path, err, w.Body)
			}
			if op.planned() {
				if w.Code != http.StatusNotImplemented {
					t.Errorf("%s %s is declared as planned, and answers with %d", method, path, w.Code)
				}
				continue
			}
			if p.Type != "/problems/bad-parameter" {
				t.Errorf("%s %s: got %d %s for an unknown parameter", method, path, w.Code, p.Type)
			}
			var declared, taken []string
			for _, parameter := range op.Parameters {
				if parameter.In == "query" {
					declared = append(declared, parameter.Name)
				}
			}
			if _, list, ok := strings.Cut(p.Detail, "these are: "); ok {
				taken = strings.Split(strings.TrimSuffix(list, "."), ", ")
			}
			slices.Sort(declared)
			slices.Sort(taken)
			if !slices.Equal(declared, taken) {
				t.Errorf("%s %s takes %q, declared are %q", method, path, taken, declared)
			}
		}
	}
}

// The document lists exactly the types of problems that the code has.
func TestOpenAPIProblems(t *testing.T) {
	c := openContract(t)
	var problem struct {
		Properties struct {
			Type struct{ Enum []string }
		}
	}
	if err := json.Unmarshal(c.Components.Schemas["Problem"], &problem); err != nil {
		t.Fatal(err)
	}
	declared := problem.Properties.Type.Enum
	names, err := fs.Glob(os.DirFS("."), "*.go")
	if err != nil {
		t.Fatal(err)
	}
	made := map[string]bool{}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			composite, ok := n.(*ast.CompositeLit)
			if !ok || len(composite.Elts) == 0 {
				return true
			}
			if id, ok := composite.Type.(*ast.Ident); !ok || id.Name != "kind" {
				return true
			}
			if text, ok := composite.Elts[0].(*ast.BasicLit); ok {
				if value, err := strconv.Unquote(text.Value); err == nil {
					made["/problems/"+value] = true
				}
			}
			return true
		})
	}
	for _, one := range slices.Sorted(maps.Keys(made)) {
		if !slices.Contains(declared, one) {
			t.Errorf("%s is not declared", one)
		}
	}
	for _, one := range declared {
		if !made[one] {
			t.Errorf("%s is declared, and no problem of the code", one)
		}
	}
	if len(made) < 30 {
		t.Errorf("found %d kinds: the test does not see them", len(made))
	}
}

// The document is what OpenAPI 3.1 asks for, in the part of that language that it uses: decoding it refuses
// members that are unknown, so this is about what they say.
func TestOpenAPIDocument(t *testing.T) {
	c := openContract(t)
	if c.OpenAPI != "3.1.0" || c.Info.Title == "" || c.Info.Version == "" {
		t.Errorf("got OpenAPI %q, title %q, version %q", c.OpenAPI, c.Info.Title, c.Info.Version)
	}
	tags := map[string]bool{}
	for _, tag := range c.Tags {
		tags[tag.Name] = true
	}
	ids := map[string]string{}
	for path, methods := range c.operations {
		variables := regexp.MustCompile(`\{\w+\}`).FindAllString(path, -1)
		for method, op := range methods {
			name := method + " " + path
			if other, twice := ids[op.OperationID]; twice || op.OperationID == "" {
				t.Errorf("%s: operationId %q is that of %q", name, op.OperationID, other)
			}
			ids[op.OperationID] = name
			if op.Summary == "" || len(op.Tags) != 1 || !tags[op.Tags[0]] {
				t.Errorf("%s: got summary %q and tags %q, want a summary and one tag that is described", name, op.Summary, op.Tags)
			}
			seen := map[string]bool{}
			var inPath []string
			for _, p := range op.Parameters {
				if seen[p.In+p.Name] || p.Description == "" || len(p.Schema) == 0 || p.Required != (p.In == "path") {
					t.Errorf("%s: the parameter %s is there twice, lacks description or schema, or is wrongly required", name, p.Name)
				}
				seen[p.In+p.Name] = true
				switch p.In {
				case "path":
					inPath = append(inPath, "{"+p.Name+"}")
				case "header":
					if slices.Contains([]string{"Accept", "Content-Type", "Authorization"}, p.Name) {
						t.Errorf("%s: OpenAPI ignores a parameter %s", name, p.Name)
					}
				case "query":
				default:
					t.Errorf("%s: the parameter %s is in %q", name, p.Name, p.In)
				}
			}
			if !slices.Equal(inPath, variables) {
				t.Errorf("%s: declares %q, has %q", name, inPath, variables)
			}
			for status, r := range op.Responses {
				if r.Description == "" || method == http.MethodHead && len(r.Content) > 0 {
					t.Errorf("%s %s: got description %q and content %v", name, status, r.Description, r.Content)
				}
				code, err := strconv.Atoi(status)
				if (err != nil || code < 200 || code > 599) && status != "default" {
					t.Errorf("%s: %q is no status", name, status)
				}
				if (code == 429 || code == 503) != (r.Headers["Retry-After"] != nil) {
					t.Errorf("%s %s: Retry-After is declared: %t", name, status, r.Headers["Retry-After"] != nil)
				}
			}
			if op.planned() {
				if op.Status != "planned" || len(op.Responses) != 1 || op.Responses["501"] == nil || op.RequestBody != nil {
					t.Errorf("%s: got x-larder-status %q and responses %v, want planned and 501 alone", name, op.Status, op.Responses)
				}
			} else if op.Responses["default"] == nil || op.Responses["400"] == nil || op.Responses["500"] == nil {
				t.Errorf("%s: lacks default, 400 or 500", name)
			}
			withBody := path == "/v1/kv/{key}" && (method == http.MethodPut || method == http.MethodPatch || method == http.MethodPost) ||
				path == "/v1/shards/{id}/leader" || path == "/v1/shards/{id}/recover" || path == "/v1/directory/rebuild" || name == "PATCH /v1/settings" || path == batchPath
			if (op.RequestBody != nil) != withBody {
				t.Errorf("%s: has a request body: %t", name, op.RequestBody != nil)
			}
		}
	}
}

// Each component is used, each reference leads to one, and each schema is one of JSON Schema 2020-12.
func TestOpenAPIComponents(t *testing.T) {
	c := openContract(t)
	text := string(openAPI)
	sections := map[string][]string{
		"schemas":    slices.Collect(maps.Keys(c.Components.Schemas)),
		"parameters": slices.Collect(maps.Keys(c.Components.Parameters)),
		"headers":    slices.Collect(maps.Keys(c.Components.Headers)),
		"responses":  slices.Collect(maps.Keys(c.Components.Responses)),
	}
	for section, names := range sections {
		for _, name := range names {
			if !strings.Contains(text, `{"$ref": "#/components/`+section+"/"+name+`"}`) {
				t.Errorf("%s/%s is not used", section, name)
			}
		}
	}
	for _, m := range regexp.MustCompile(`"\$ref": "#/components/(\w+)/([^"]+)"`).FindAllStringSubmatch(text, -1) {
		if !slices.Contains(sections[m[1]], m[2]) {
			t.Errorf("there is no %s/%s", m[1], m[2])
		}
	}
	compile := func(at string) {
		if _, err := c.schema(at); err != nil {
			t.Errorf("%s: %v", at, err)
		}
	}
	for _, name := range sections["schemas"] {
		compile("/components/schemas/" + name)
	}
	for _, name := range sections["parameters"] {
		compile("/components/parameters/" + name + "/schema")
	}
	for _, name := range sections["headers"] {
		compile("/components/headers/" + name + "/schema")
	}
}

// The check of answers finds what the document does not say: it is no check that always passes.
func TestCheckAnswers(t *testing.T) {
	c := openContract(t)
	problem := `{"type":"/problems/conflict","title":"t","status":409,"detail":"d","applied":"no"}`
	problemHeader := http.Header{"Content-Type": {problemType}}
	jsonHeader := http.Header{"Content-Type": {"application/json"}, "Etag": {`"1"`}}
	tests := []struct {
		what, method, target string
		status               int
		header               http.Header
		body                 string
		ok                   bool
	}{
		{"a conflict", "DELETE", "/v1/nodes/a", 409, problemHeader, problem, true},
		{"an undeclared status", "DELETE", "/v1/nodes/a", 418, problemHeader, problem, false},
		{"an unknown type", "DELETE", "/v1/nodes/a", 409, problemHeader, strings.Replace(problem, "conflict", "row", 1), false},
		{"a missing member", "DELETE", "/v1/nodes/a", 409, problemHeader, strings.Replace(problem, `,"applied":"no"`, "", 1), false},
		{"another member", "DELETE", "/v1/nodes/a", 409, problemHeader, strings.Replace(problem, `"no"`, `"no","x":1`, 1), false},
		{"another media type", "DELETE", "/v1/nodes/a", 409, http.Header{"Content-Type": {"text/html"}}, problem, false},
		{"an undeclared header", "DELETE", "/v1/nodes/a", 409, http.Header{"Content-Type": {problemType}, "Larder-Odd": {"1"}}, problem, false},
		{"a body where there is none", "DELETE", "/v1/nodes/a", 204, nil, "x", false},
		{"an undeclared method", "POST", "/v1/nodes/a", 200, nil, "", false},
		{"an undeclared path", "GET", "/v1/nodes/a/b", 200, nil, "", false},
		{"a list", "GET", "/v1/nodes", 200, jsonHeader, `{"nodes":[],"planned":[]}`, true},
		{"null for a list", "GET", "/v1/nodes", 200, jsonHeader, `{"nodes":null}`, false},
		{"an element of another shape", "GET", "/v1/nodes", 200, jsonHeader, `{"nodes":[{}]}`, false},
		{"a header that is no number", "GET", "/v1/kv/a/b", 200, http.Header{"Age": {"old"}}, "v", false},
		{"a header that is one", "GET", "/v1/kv/a/b", 200, http.Header{"Age": {"1"}}, "v", true},
	}
	for _, tc := range tests {
		r := httptest.NewRequest(tc.method, tc.target, nil)
		if err := c.check(r, tc.status, tc.header, []byte(tc.body)); (err == nil) != tc.ok {
			t.Errorf("%s: got %v, want ok %t", tc.what, err, tc.ok)
		}
	}
}
