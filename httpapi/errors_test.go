package httpapi

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"strings"
	"testing"

	"github.com/larder-cache/larder/directory"
	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// errorCases has each exported error of packages shard and directory by name, and what it is for a
// write and for a read.
var errorCases = map[string]struct {
	err         error
	status      int
	name        string
	applied     Applied
	readStatus  int
	readName    string
	readApplied Applied
}{
	"ErrOutcomeUnknown": {shard.ErrOutcomeUnknown, 504, "outcome-unknown", AppliedUnknown, 503, "unavailable", AppliedNo},
	"ErrNoLeader":       {shard.ErrNoLeader, 503, "no-leader", AppliedNo, 503, "no-leader", AppliedNo},
	"ErrOverloaded":     {shard.ErrOverloaded, 429, "overloaded", AppliedNo, 429, "overloaded", AppliedNo},
	"ErrUnknownShard":   {shard.ErrUnknownShard, 503, "unavailable", AppliedNo, 503, "unavailable", AppliedNo},
	"ErrStopped":        {shard.ErrStopped, 503, "unavailable", AppliedNo, 503, "unavailable", AppliedNo},
	"ErrDeadline":       {shard.ErrDeadline, 503, "deadline", AppliedNo, 503, "deadline", AppliedNo},
	"ErrUnreachable":    {shard.ErrUnreachable, 503, "unavailable", AppliedNo, 503, "unavailable", AppliedNo},
	"ErrDataLost":       {shard.ErrDataLost, 503, "unavailable", AppliedNo, 503, "unavailable", AppliedNo},
	"ErrRejoin":         {shard.ErrRejoin, 503, "unavailable", AppliedNo, 503, "unavailable", AppliedNo},
	"ErrWrongCluster":   {shard.ErrWrongCluster, 503, "unavailable", AppliedNo, 503, "unavailable", AppliedNo},
	"NotLeaderError":    {&shard.NotLeaderError{Leader: "b"}, 503, "no-leader", AppliedNo, 503, "no-leader", AppliedNo},
	"ErrRetired":        {shard.ErrRetired, 503, "unavailable", AppliedNo, 503, "unavailable", AppliedNo},
	"ErrConfChanged":    {shard.ErrConfChanged, 503, "unavailable", AppliedNo, 503, "unavailable", AppliedNo},
	"ErrDiverged":       {shard.ErrDiverged, 503, "diverged", AppliedNo, 503, "diverged", AppliedNo},
	"ErrNoTable":        {directory.ErrNoTable, 503, "unavailable", AppliedNo, 503, "unavailable", AppliedNo},
	"NotOwnerError":     {&shard.NotOwnerError{Epoch: 4}, 503, "moved", AppliedNo, 503, "moved", AppliedNo},
}

// batchErrorCases has the errors that batches alone meet, and what each is for an operation, or for all of them.
var batchErrorCases = map[string]struct {
	err    error
	status int
	name   string
	whole  bool
}{
	"ErrAnswerTooLarge": {shard.ErrAnswerTooLarge, 413, "answer-too-large", false},
	"SpansShardsError":  {&directory.SpansShardsError{A: 0, B: 1}, 422, "batch-spans-shards", true},
	"NotAttemptedError": {&directory.NotAttemptedError{Cause: shard.ErrOutcomeUnknown}, 503, "not-attempted", false},
}

// adminErrorCases has the errors of package directory that only changes of the cluster, and questions
// about them, meet: what each is for a change, and for a read (0: it meets none).
var adminErrorCases = map[string]struct {
	err        error
	status     int
	name       string
	etag       string
	readStatus int
}{
	"ConflictError":          {&directory.ConflictError{Reason: "operation 4 runs on the shard"}, 409, "conflict", "", 0},
	"ConfError":              {&directory.ConfError{Conf: "1-8"}, 412, "precondition-failed", `"1-8"`, 0},
	"UnknownError":           {&directory.UnknownError{What: "shard"}, 404, "unknown-shard", "", 404},
	"UnknownError node":      {&directory.UnknownError{What: "node"}, 404, "unknown-node", "", 404},
	"UnknownError operation": {&directory.UnknownError{What: "operation"}, 404, "unknown-operation", "", 404},
}

// Each error that packages shard and directory export for requests has a row in the table and a case
// here, so that none can be added without deciding what a client is told.
func TestEveryErrorHasARow(t *testing.T) {
	checkErrorsHaveCases(t, "../shard/errors.go", 10, func(name string) bool {
		_, ok := errorCases[name]
		_, ofBatch := batchErrorCases[name]
		return ok || ofBatch
	})
	checkErrorsHaveCases(t, "../directory/batch.go", 2, func(name string) bool { _, ok := batchErrorCases[name]; return ok })
	checkErrorsHaveCases(t, "../directory/operation_view.go", 3, func(name string) bool {
		_, ok := adminErrorCases[name]
		return ok || !strings.HasSuffix(name, "Error")
	})
	for _, file := range []string{"options.go", "settings_change.go"} {
		checkErrorsHaveCases(t, "../directory/"+file, 2, func(name string) bool {
			_, ok := settingsErrorCases[name]
			return ok || !strings.HasSuffix(name, "Error")
		})
	}
}

// settingsErrorCases are the errors of a change of settings alone.
var settingsErrorCases = map[string]struct {
	err    error
	status int
	name   string
	etag   string
}{
	"SettingError":         {&directory.SettingError{Name: "default-ttl", Reason: "too long"}, 422, "bad-setting", ""},
	"SettingsVersionError": {&directory.SettingsVersionError{Version: 18}, 412, "precondition-failed", `"18"`},
}

// checkErrorsHaveCases fails unless has knows each exported name of a file, of which there are at least
// atLeast.
func checkErrorsHaveCases(t *testing.T, path string, atLeast int, has func(string) bool) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, decl := range file.Decls {
		decl, ok := decl.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range decl.Specs {
			var names []*ast.Ident
			switch spec := spec.(type) {
			case *ast.ValueSpec:
				names = spec.Names
			case *ast.TypeSpec:
				names = []*ast.Ident{spec.Name}
			}
			for _, name := range names {
				if !name.IsExported() {
					continue
				}
				found++
				if !has(name.Name) {
					t.Errorf("%s: %s has no case, and maybe no row in errorTable", path, name.Name)
				}
			}
		}
	}
	if found < atLeast {
		t.Fatalf("found %d exported names in %s: the test does not see them", found, path)
	}
}

// Each error gets its documented answer, plain and wrapped, for writes and reads; no row is unused;
// 429 and 503 say when to come back.
func TestErrorTable(t *testing.T) {
	used := make([]bool, len(errorTable))
	use := func(err error) {
		for i, row := range errorTable {
			if row.is(err) {
				used[i] = true
				break
			}
		}
	}
	for name, tc := range adminErrorCases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			for _, err := range []error{tc.err, fmt.Errorf("shard 3 on b: %w", tc.err)} {
				f.admin.err = err
				use(err)
				for _, method := range []string{http.MethodPut, http.MethodDelete} {
					w := f.request(t, method, "/v1/shards/3/members/b?force=true", "")
					p := checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), tc.status, tc.name, AppliedNo)
					if p.ETag != tc.etag || w.Header().Get("ETag") != tc.etag {
						t.Errorf("got ETag %q in the body and %q in the header, want %q", p.ETag, w.Header().Get("ETag"), tc.etag)
					}
				}
				if tc.readStatus != 0 {
					w := f.request(t, http.MethodGet, "/v1/shards/3/members", "")
					checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), tc.readStatus, tc.name, AppliedNo)
				}
			}
			f.admin.err = fmt.Errorf("%w: %w", shard.ErrOutcomeUnknown, tc.err)
			w := f.request(t, http.MethodPut, "/v1/shards/3/members/b?force=true", "")
			checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 504, "outcome-unknown", AppliedUnknown)
		})
	}
	for name, tc := range settingsErrorCases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			for _, err := range []error{tc.err, fmt.Errorf("asking a: %w", tc.err)} {
				f.admin.err = err
				use(err)
				w := f.request(t, http.MethodPatch, "/v1/settings", `{"default-ttl":"1h"}`)
				p := checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), tc.status, tc.name, AppliedNo)
				if p.ETag != tc.etag || w.Header().Get("ETag") != tc.etag {
					t.Errorf("got ETag %q in the body and %q in the header, want %q", p.ETag, w.Header().Get("ETag"), tc.etag)
				}
			}
		})
	}
	for name, tc := range batchErrorCases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			for _, err := range []error{tc.err, fmt.Errorf("shard 3 on b: %w", tc.err)} {
				use(err)
				f.data.answerBatch = func(context.Context, shard.Batch) ([]shard.Reply, error) {
					if tc.whole {
						return nil, err
					}
					return []shard.Reply{{Err: err}}, nil
				}
				w := f.request(t, http.MethodPost, "/v1/batch", `{"ops":[{"op":"delete","key":"k"}],"atomic":true}`)
				if tc.whole {
					checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), tc.status, tc.name, AppliedNo)
					continue
				}
				if got := resultsOf(t, w)[0]; got.Status != tc.status || got.Problem == nil || got.Problem.Type != "/problems/"+tc.name || got.Problem.Applied != AppliedNo {
					t.Errorf("got %+v, want %d %s", got, tc.status, tc.name)
				}
			}
		})
	}
	for name, tc := range errorCases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			for _, err := range []error{tc.err, fmt.Errorf("shard 3 on b: %w", tc.err)} {
				f.data.answer = func(context.Context, shard.Request) (shard.Response, error) { return shard.Response{}, err }
				f.admin.err = err
				use(err)
				for _, line := range adminChanges {
					method, path, body := cutRequest(line)
					w := f.request(t, method, path, body)
					checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), tc.status, tc.name, tc.applied)
					checkRetryAfter(t, w.Code, w.Header())
				}
				w := f.request(t, http.MethodGet, "/v1/shards/3/members", "")
				checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), tc.readStatus, tc.readName, tc.readApplied)
				for _, line := range []string{"PUT /v1/kv/k", "DELETE /v1/kv/k", "POST /v1/kv/k?op=incr", "POST /v1/kv/k?op=touch", `PATCH /v1/kv/k {"ttl":null}`} {
					method, path, body := cutRequest(line)
					w := f.request(t, method, path, body)
					checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), tc.status, tc.name, tc.applied)
					checkRetryAfter(t, w.Code, w.Header())
				}
				w = f.request(t, http.MethodGet, "/v1/kv/k", "")
				checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), tc.readStatus, tc.readName, tc.readApplied)
				checkRetryAfter(t, w.Code, w.Header())
			}
			if shard.Refused(tc.err) != (tc.applied == AppliedNo) {
				t.Errorf("shard.Refused(%v) is %t, the table says applied %s", tc.err, shard.Refused(tc.err), tc.applied)
			}
		})
	}
	for i, row := range errorTable {
		if !used[i] {
			t.Errorf("row %d (%s) of errorTable is never used", i, row.kind.name)
		}
	}
}

func checkRetryAfter(t *testing.T, status int, header http.Header) {
	t.Helper()
	want := status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable
	if got := header.Get("Retry-After") != ""; got != want {
		t.Errorf("status %d: Retry-After present is %t, want %t", status, got, want)
	}
}

// An error that nobody planned never claims that a write did not happen.
func TestUnplannedErrors(t *testing.T) {
	f := newFixture(t)
	tests := []struct {
		err          error
		write, read  int
		applied      Applied
		wName, rName string
	}{
		{errors.New("disk on fire"), 500, 500, AppliedUnknown, "internal", "internal"},
		{context.DeadlineExceeded, 504, 503, AppliedUnknown, "outcome-unknown", "deadline"},
		{context.Canceled, 504, 503, AppliedUnknown, "outcome-unknown", "deadline"},
		{fmt.Errorf("%w: %w", shard.ErrOutcomeUnknown, shard.ErrNoLeader), 504, 503, AppliedUnknown, "outcome-unknown", "unavailable"},
		{&directory.UnknownError{What: "moon"}, 500, 500, AppliedUnknown, "internal", "internal"},
		{fmt.Errorf("%w: %w", shard.ErrDeadline, shard.ErrOverloaded), 429, 429, AppliedNo, "overloaded", "overloaded"},
	}
	for _, tc := range tests {
		f.data.answer = func(context.Context, shard.Request) (shard.Response, error) { return shard.Response{}, tc.err }
		w := f.request(t, http.MethodPut, "/v1/kv/k", "v")
		checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), tc.write, tc.wName, tc.applied)
		w = f.request(t, http.MethodGet, "/v1/kv/k", "")
		checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), tc.read, tc.rName, AppliedNo)
		f.admin.err = tc.err
		for _, line := range adminChanges {
			method, path, body := cutRequest(line)
			w := f.request(t, method, path, body)
			checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), tc.write, tc.wName, tc.applied)
		}
		w = f.request(t, http.MethodGet, "/v1/shards/3/members", "")
		checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), tc.read, tc.rName, AppliedNo)
	}
	if !strings.Contains(f.logs.String(), "disk on fire") {
		t.Error("an unplanned error left no line in the log")
	}
}

// Each verdict of the state machine gets its documented answer.
func TestStatusTable(t *testing.T) {
	f := newFixture(t)
	tests := []struct {
		status  fsm.Status
		version uint64
		want    int
		name    string
		applied Applied
		etag    string
	}{
		{fsm.StatusCondition, 12, 412, "precondition-failed", AppliedNo, `"12"`},
		{fsm.StatusCondition, 0, 412, "precondition-failed", AppliedNo, ""},
		{fsm.StatusTooLarge, 0, 413, "entry-too-large", AppliedNo, ""},
		{fsm.StatusExhausted, 0, 503, "versions-exhausted", AppliedNo, ""},
		{fsm.StatusNotOwner, 0, 503, "moved", AppliedNo, ""},
		{fsm.StatusKeyReused, 0, 422, "idempotency-key-reused", AppliedNo, ""},
		{fsm.StatusKeyTooOld, 0, 422, "idempotency-key-too-old", AppliedUnknown, ""},
		{fsm.StatusKeyTooNew, 0, 422, "idempotency-key-too-new", AppliedNo, ""},
		{fsm.StatusKeysFull, 0, 429, "idempotency-keys-full", AppliedNo, ""},
		{fsm.StatusStale, 0, 500, "internal", AppliedUnknown, ""},
		{0, 0, 500, "internal", AppliedUnknown, ""},
	}
	for _, tc := range tests {
		f.data.answer = func(context.Context, shard.Request) (shard.Response, error) {
			return shard.Response{Shard: 3, Epoch: 7, Index: 9, Position: 1, ServedBy: "b", Status: tc.status, Version: tc.version}, nil
		}
		for method, target := range map[string]string{http.MethodPut: "/v1/kv/k", http.MethodDelete: "/v1/kv/k", http.MethodPost: "/v1/kv/k?op=incr"} {
			w := f.request(t, method, target, "")
			p := checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), tc.want, tc.name, tc.applied)
			checkPlace(t, w.Header(), "3", "7", "9.1", "b")
			checkRetryAfter(t, w.Code, w.Header())
			if p.ETag != tc.etag || w.Header().Get("ETag") != tc.etag {
				t.Errorf("status %d: got ETag %q in the body and %q in the header, want %q", tc.status, p.ETag, w.Header().Get("ETag"), tc.etag)
			}
		}
	}
}

// checkPlace fails unless the answer tells its place in a shard's log.
func checkPlace(t *testing.T, h http.Header, shardID, epoch, index, node string) {
	t.Helper()
	for name, want := range map[string]string{
		"Larder-Shard": shardID, "Larder-Epoch": epoch, "Larder-Index": index, "Larder-Served-By": node,
	} {
		if got := h.Get(name); got != want {
			t.Errorf("got %s %q, want %q", name, got, want)
		}
	}
}

// A read that was not done in time says nothing of proposals, also where the deadline is but the last
// cause; a write does.
func TestReadDeadline(t *testing.T) {
	f := newFixture(t)
	for _, err := range []error{shard.ErrDeadline, fmt.Errorf("%w: b did not answer the read in time: %w", shard.ErrNoLeader, shard.ErrDeadline)} {
		f.data.answer = func(context.Context, shard.Request) (shard.Response, error) { return shard.Response{}, err }
		if got := f.request(t, http.MethodGet, "/v1/kv/k", "").Body.String(); strings.Contains(got, "proposed") || !strings.Contains(got, "he time is over") {
			t.Errorf("a read after %q: got %s", err, got)
		}
		if got := f.request(t, http.MethodPut, "/v1/kv/k", "v").Body.String(); !strings.Contains(got, "before anything was proposed") {
			t.Errorf("a write after %q: got %s", err, got)
		}
	}
}
