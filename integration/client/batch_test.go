package client

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/larder-cache/larder/integration/history"
)

// written is the result of a put.
func written(status int, place string) string {
	return fmt.Sprintf(`{"status":%d,"etag":"\"8\"","existed":%t,"shard":1,"epoch":2,"index":%q,"served_by":"a"}`, status, status != 201, place)
}

// refusal is a result with a problem.
func refused(status int, name, more string) string {
	return fmt.Sprintf(`{"status":%d,%s"problem":{"type":"/problems/%s","title":"t","detail":"d","status":%d,"applied":"no"}}`, status, more, name, status)
}

// TestBatchResults ensures that good results of a batch are taken as they are meant, and that each which breaks the interface is
// a defect: above all those that a batch which is not done in order, or half of an atomic one, would have.
func TestBatchResults(t *testing.T) {
	const at = `"shard":1,"epoch":2,"index":"5.3","served_by":"a",`
	put := history.Operation{Kind: history.Put, Key: "k", Value: "v"}
	create := history.Operation{Kind: history.Create, Key: "k", Value: "v"}
	get := history.Operation{Kind: history.Get, Key: "k"}
	hit := func(path, place string) string {
		return fmt.Sprintf(`{"status":200,"etag":"\"8\"","value":"v","ttl":"1.5s","shard":1,"epoch":2,"index":%q,"served_by":"a","read":%q}`, place, path)
	}
	miss := refused(404, "not-found", at+`"read":"log","miss":"deleted",`)
	aborted := refused(424, "aborted", "")
	conflict := refused(412, "precondition-failed", at)
	for _, tc := range []struct {
		name    string
		ops     []history.Operation
		applied string // of an atomic batch
		results []string
		defect  string
		want    []history.Outcome
	}{
		{"good", []history.Operation{put, get, put}, "", []string{written(201, "5.1"), hit("log", "5.2"), written(204, "5.3")}, "", []history.Outcome{history.OK, history.OK, history.OK}},
		{"reads see one place", []history.Operation{get, get}, "", []string{hit("probe", "5.1"), hit("probe", "5.1")}, "", []history.Outcome{history.OK, history.OK}},
		{"refused in the middle", []history.Operation{put, put, put}, "", []string{written(201, "5.1"), refused(503, "not-attempted", ""), refused(429, "overloaded", "")}, "", []history.Outcome{history.OK, history.Refused, history.Refused}},
		{"out of order", []history.Operation{put, put}, "", []string{written(201, "5.2"), written(204, "5.1")}, "operation 1 of a batch has", nil},
		{"one place for two", []history.Operation{put, get}, "", []string{written(201, "5.2"), hit("log", "5.2")}, "operation 1 of a batch has", nil},
		{"too few", []history.Operation{put, put}, "", []string{written(201, "5.2")}, "1 results of 2 operations", nil},
		{"applied of no atomic", []history.Operation{put}, "!yes", []string{written(201, "5.2")}, "that is not atomic", nil},
		{"no value", []history.Operation{get}, "", []string{`{"status":200,"shard":1,"epoch":2,"index":"5.1","served_by":"a","read":"log"}`}, "ETag", nil},
		{"a status of none", []history.Operation{put}, "", []string{written(202, "5.2")}, "not in the outcome table", nil},
		{"atomic", []history.Operation{put, get, put}, "yes", []string{written(201, "5.1"), strings.Replace(miss, "5.3", "5.2", 1), written(204, "5.3")}, "", []history.Outcome{history.OK, history.OK, history.OK}},
		{"atomic, refused", []history.Operation{put, create, get}, "no", []string{aborted, conflict, aborted}, "", []history.Outcome{history.Refused, history.OK, history.Refused}},
		{"half of it", []history.Operation{put, create}, "no", []string{written(201, "5.1"), conflict}, "was done, which was applied", nil},
		{"another half", []history.Operation{put, create}, "yes", []string{written(201, "5.1"), aborted}, "was aborted", nil},
		{"refused, and applied", []history.Operation{put, create}, "yes", []string{written(201, "5.2"), conflict}, "refused were", nil},
		{"aborted by nobody", []history.Operation{put, create}, "no", []string{aborted, aborted}, "refused were", nil},
		{"in two entries", []history.Operation{put, put}, "yes", []string{written(201, "5.1"), written(204, "6.2")}, "of an atomic batch has", nil},
		{"with others between", []history.Operation{put, put}, "yes", []string{written(201, "5.1"), written(204, "5.3")}, "of an atomic batch has", nil},
		{"one by itself", []history.Operation{put, put}, "no", []string{refused(503, "no-leader", ""), aborted}, "by itself", nil},
	} {
		applied, atomic := strings.CutPrefix(tc.applied, "!")
		atomic = !atomic && tc.applied != ""
		body := `{"results":[` + strings.Join(tc.results, ",") + `]`
		if applied != "" {
			body += `,"applied":"` + applied + `"`
		}
		err := fillBatch(tc.ops, "a", &answer{status: 200, header: http.Header{}, body: []byte(body + "}")}, atomic)
		if tc.defect == "" && err != nil || tc.defect != "" && (err == nil || !strings.Contains(err.Error(), tc.defect)) {
			t.Errorf("%s: %v, want a defect with %q", tc.name, err, tc.defect)
		}
		for i, want := range tc.want {
			if tc.ops[i].Outcome != want {
				t.Errorf("%s: operation %d is %s, want %s", tc.name, i, tc.ops[i].Outcome, want)
			}
		}
	}
}

// TestBatchEncoding ensures that operations are asked for as the interface has it.
func TestBatchEncoding(t *testing.T) {
	got, err := encodeBatch([]history.Operation{
		{Kind: history.Get, Key: "a", NoTouch: true}, {Kind: history.Put, Key: "a", Value: "", TTL: 1500e6}, {Kind: history.Create, Key: "a", Value: "v"},
		{Kind: history.Replace, Key: "a", Value: "v", IfMatch: 7}, {Kind: history.Swap, Key: "a", Value: "v"}, {Kind: history.DeleteIf, Key: "a", IfMatch: 7},
		{Kind: history.Incr, Key: "n", Delta: -2}, {Kind: history.Append, Key: "l", Value: "x;"}, {Kind: history.Expire, Key: "a"}, {Kind: history.Touch, Key: "a"},
	}, true)
	want := `{"ops":[{"op":"get","key":"a","touch":false},{"op":"put","key":"a","value":"","ttl":"1.5s"},{"op":"put","key":"a","value":"v","if_none_match":"*"},` +
		`{"op":"put","key":"a","value":"v","if_match":"\"7\""},{"op":"put","key":"a","value":"v","return":"old"},{"op":"delete","key":"a","if_match":"\"7\""},` +
		`{"op":"incr","key":"n","by":-2},{"op":"append","key":"l","value":"x;"},{"op":"expire","key":"a","ttl":null},{"op":"touch","key":"a"}],"atomic":true}`
	if err != nil || string(got) != want {
		t.Errorf("got\n%s, %v, want\n%s", got, err, want)
	}
	if _, err := encodeBatch([]history.Operation{{Kind: history.GetAny, Key: "a"}}, false); err == nil {
		t.Error("a batch with a read that may be old")
	}
}
