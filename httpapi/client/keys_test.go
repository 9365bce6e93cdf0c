package client

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// inTurn answers each request with the next of handlers, the last one from then on.
func inTurn(handlers ...http.HandlerFunc) http.HandlerFunc {
	n := 0
	return func(w http.ResponseWriter, r *http.Request) {
		h := handlers[min(n, len(handlers)-1)]
		n++
		h(w, r)
	}
}

// collect lists keys until the first error.
func collect(seq func(yield func(string, error) bool)) (keys []string, err error) {
	for key, e := range seq {
		if err = e; e == nil {
			keys = append(keys, key)
		}
	}
	return keys, err
}

// TestKeysPages ensures that keys are listed page by page to the end, empty pages included, by the cursor that each page gave; that a
// prefix of any bytes arrives; and that who stops listening sends nothing more.
func TestKeysPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1")
		w.setTable(oneShard(1, "a"))
		pages := func() http.HandlerFunc {
			return inTurn(batchAnswer(`{"keys":[{"key":"a"},{"key_b64":"/wA="}],"cursor":"c1"}`), batchAnswer(`{"keys":[],"cursor":"c2"}`), batchAnswer(`{"keys":[{"key":"\u2028"}],"cursor":""}`))
		}
		w.set("a:1", pages())
		c := w.client(Config{})
		keys, err := collect(c.Keys(t.Context(), "a \xff/+", Bounded(time.Second)))
		if err != nil || !slices.Equal(keys, []string{"a", "\xff\x00", "\u2028"}) {
			t.Errorf("got %q, %v", keys, err)
		}
		const query = "GET /v1/keys?consistency=bounded&"
		want := []string{query + "max-staleness=1s&prefix=a+%FF%2F%2B", query + "cursor=c1&max-staleness=1s&prefix=a+%FF%2F%2B", query + "cursor=c2&max-staleness=1s&prefix=a+%FF%2F%2B"}
		if got := w.got("a:1"); !slices.Equal(got, want) {
			t.Errorf("requests %q", got)
		}
		w.set("a:1", pages())
		for key := range c.Keys(t.Context(), "") {
			if key == "a" {
				break
			}
		}
		if got := w.got("a:1"); !slices.Equal(got, []string{"GET /v1/keys?prefix="}) {
			t.Errorf("requests %q", got)
		}
	})
}

// TestKeysErrors ensures that a page is asked for again where nobody serves it, elsewhere too, and that each error ends the list as its last; that
// what is no page of Larder's is none; and that what can't be sent isn't.
func TestKeysErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1", "b:1", "c:1")
		w.setTable(oneShard(1, "a"))
		good := batchAnswer(`{"keys":[{"key":"a"}],"cursor":""}`)
		c := w.client(Config{})
		w.set("a:1", inTurn(problem(503, "no-leader", "no"), raw("HTTP/1.1 200 OK\r\n\r\n"), good))
		w.set("b:1", good)
		w.set("c:1", good)
		if keys, err := collect(c.Keys(t.Context(), "")); err != nil || len(keys) != 1 {
			t.Errorf("got %q, %v", keys, err)
		}
		for _, row := range []struct {
			handler http.HandlerFunc
			kind    error
		}{
			{inTurn(batchAnswer(`{"keys":[{"key":"a"}],"cursor":"x"}`), problem(400, "bad-parameter", "no")), ErrBadRequest},
			{inTurn(batchAnswer(`{"keys":[{"key":"a"}],"cursor":"x"}`), problem(429, "overloaded", "no")), ErrUnavailable},
			{inTurn(batchAnswer(`{"keys":[{"key":"a"}],"cursor":"x"}`), batchAnswer(`{"cursor":""}`)), ErrUnavailable},
			{inTurn(batchAnswer(`{"keys":[{"key":"a"}],"cursor":"x"}`), batchAnswer(`{"keys":[]}`)), ErrUnavailable},
			{inTurn(batchAnswer(`{"keys":[{"key":"a"}],"cursor":"x"}`), batchAnswer(`{"keys":[`)), ErrUnavailable},
		} {
			for _, addr := range []string{"a:1", "b:1", "c:1"} {
				w.set(addr, row.handler)
			}
			keys, err := collect(c.Keys(t.Context(), ""))
			if len(keys) != 1 {
				t.Errorf("got %q", keys)
			}
			check(t, "keys", err, row.kind)
		}
		w.got("a:1")
		for _, seq := range []func(func(string, error) bool){c.Keys(t.Context(), strings.Repeat("k", 1025)), c.Keys(t.Context(), "", Fill(time.Second))} {
			_, err := collect(seq)
			check(t, "keys", err, ErrBadRequest)
		}
		if got := w.got("a:1"); len(got) > 0 {
			t.Errorf("requests %q", got)
		}
	})
}

// TestDeletePrefix ensures that removal goes on until all are removed, with their sum; that it is sent again only where it was certainly not
// applied; and that an error comes with what was removed before.
func TestDeletePrefix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1")
		w.setTable(oneShard(1, "a"))
		c := w.client(Config{})
		some, rest := batchAnswer(`{"removed":3,"cursor":"c1"}`), batchAnswer(`{"removed":4,"cursor":""}`)
		for _, row := range []struct {
			name     string
			handlers []http.HandlerFunc
			removed  uint64
			kind     error
			requests int
		}{
			{"all", []http.HandlerFunc{some, problem(503, "no-leader", "no"), rest}, 7, nil, 3},
			{"none", []http.HandlerFunc{batchAnswer(`{"removed":0,"cursor":""}`)}, 0, nil, 1},
			{"unknown", []http.HandlerFunc{some, problem(504, "outcome-unknown", "unknown"), rest}, 3, ErrOutcomeUnknown, 2},
			{"no answer", []http.HandlerFunc{some, raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"), rest}, 3, ErrOutcomeUnknown, 2},
			{"not Larder's", []http.HandlerFunc{batchAnswer(`{"cursor":""}`)}, 0, ErrOutcomeUnknown, 1},
			{"refused", []http.HandlerFunc{problem(400, "bad-parameter", "no")}, 0, ErrBadRequest, 1},
		} {
			w.set("a:1", inTurn(row.handlers...))
			removed, err := c.DeletePrefix(t.Context(), "user:")
			got := w.got("a:1")
			if removed != row.removed || !errors.Is(err, row.kind) || (err == nil) != (row.kind == nil) || len(got) != row.requests {
				t.Errorf("%s: %d removed, %v, requests %q", row.name, removed, err, got)
			}
			if got[0] != "DELETE /v1/keys?prefix=user%3A" || len(got) > 1 && got[1] != "DELETE /v1/keys?cursor=c1&prefix=user%3A" {
				t.Errorf("%s: requests %q", row.name, got)
			}
		}
		_, err := c.DeletePrefix(t.Context(), "")
		check(t, "delete prefix", err, ErrBadRequest)
		if got := w.got("a:1"); len(got) > 0 {
			t.Errorf("requests %q", fmt.Sprint(got))
		}
	})
}
