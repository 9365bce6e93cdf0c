package httpapi

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// checkProblem fails unless an answer is a complete problem of that status.
func checkProblem(t *testing.T, status int, header http.Header, body []byte, wantStatus int, wantName string, wantApplied Applied) Problem {
	t.Helper()
	var p Problem
	if status != wantStatus {
		t.Fatalf("got status %d, want %d; body %q", status, wantStatus, body)
	}
	if got := header.Get("Content-Type"); got != problemType {
		t.Fatalf("got Content-Type %q, want %q", got, problemType)
	}
	decoder := json.NewDecoder(strings.NewReader(string(body)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		t.Fatalf("body %q is no problem: %v", body, err)
	}
	if p.Status != wantStatus || p.Type != "/problems/"+wantName || p.Applied != wantApplied || p.Title == "" || p.Detail == "" {
		t.Fatalf("got problem %+v, want status %d, type /problems/%s, applied %s, a title and a detail", p, wantStatus, wantName, wantApplied)
	}
	return p
}
