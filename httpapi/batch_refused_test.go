package httpapi

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// A stream whose bytes are not what they would be read as is refused as a body of JSON is, and nothing of it is done. The answer comes while the
// client still holds the stream open.
func TestStreamRefused(t *testing.T) {
	f := newFixture(t)
	for head, want := range map[string]struct {
		status int
		name   string
	}{
		"Content-Type: application/x-ndjson\r\nContent-Encoding: gzip":              {415, "content-encoding"},
		"Content-Encoding: identity\r\nContent-Type: application/x-ndjson":          {415, "content-encoding"},
		"Content-Type: application/x-ndjson; charset=utf-8\r\nContent-Encoding: br": {415, "content-encoding"},
		"Content-Type: application/x-ndjson; charset=utf-16":                        {415, "media-type"},
		"Content-Type: application/x-ndjson\r\nContent-Type: application/json":      {400, "bad-header"},
		"Content-Type: application/x-ndjson\r\nIdempotency-Key: \"k\"":              {422, "bad-batch"},
	} {
		line := `{"op":"put","key":"k","value":"v"}` + "\n"
		conn := f.dial(t)
		fmt.Fprintf(conn, "POST /v1/batch HTTP/1.1\r\nHost: x\r\n%s\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", head, len(line), line)
		reader := bufio.NewReader(conn)
		got := readAnswer(t, reader, "POST")
		checkProblem(t, got.status, got.header, got.body, want.status, want.name, AppliedNo)
		if _, err := reader.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection goes on in the middle of a stream: %v", head, err)
		}
		w := f.request(t, "POST", "/v1/batch", line, pairs(head)...)
		checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), want.status, want.name, AppliedNo)
	}
	if f.data.reached() != 0 || len(f.data.batches) != 0 {
		t.Error("something was done")
	}
	w := f.request(t, "POST", "/v1/batch", `{"op":"put","key":"k","value":"v"}`, "Content-Type", ndjson+"; charset=UTF-8")
	if w.Code != 200 || !strings.HasPrefix(w.Body.String(), `{"status":201`) {
		t.Errorf("a plain stream: %d %s", w.Code, w.Body)
	}
}

// pairs takes lines of a header apart.
func pairs(head string) (list []string) {
	for line := range strings.SplitSeq(head, "\r\n") {
		name, value, _ := strings.Cut(line, ": ")
		list = append(list, name, value)
	}
	return list
}
