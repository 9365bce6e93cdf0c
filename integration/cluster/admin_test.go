package cluster

import (
	"net/http"
	"testing"
)

// TestReadAnswer ensures that each documented answer to an operator is taken, and any other is a defect.
func TestReadAnswer(t *testing.T) {
	const problem = "application/problem+json"
	for _, tt := range []struct {
		name        string
		status      int
		contentType string
		etag, body  string
		wantETag    string // "" = a defect
	}{
		{"members", 200, "application/json", `"1-7"`, "{}", "1-7"},
		{"conf has changed", 412, problem, `"1-8"`, `{"type":"/problems/precondition-failed","status":412,"applied":"no"}`, "1-8"},
		{"unknown", 504, problem, `"x"`, `{"type":"/problems/outcome-unknown","status":504,"applied":"unknown"}`, "x"},
		{"conf without quotes", 200, "application/json", "1-7", "{}", ""},
		{"conflict that may have happened", 409, problem, `"x"`, `{"status":409,"applied":"unknown"}`, ""},
		{"unknown that did not happen", 504, problem, `"x"`, `{"status":504,"applied":"no"}`, ""},
		{"broken server", 500, problem, `"x"`, `{"status":500,"applied":"unknown"}`, ""},
		{"plain text", 409, "text/plain", `"x"`, "no", ""},
		{"another status in the body", 409, problem, `"x"`, `{"status":412,"applied":"no"}`, ""},
		{"redirect", 307, "", `"x"`, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{}
			h.Set("Content-Type", tt.contentType)
			h.Set("ETag", tt.etag)
			a, err := readAnswer(tt.status, h, []byte(tt.body))
			switch {
			case tt.wantETag == "" && err == nil:
				t.Errorf("taken: %s", a)
			case tt.wantETag != "" && (err != nil || a.ETag != tt.wantETag):
				t.Errorf("ETag %q, %v, want %q", a.ETag, err, tt.wantETag)
			}
		})
	}
}
