package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/larder-cache/larder/shard"
)

var statusLine = regexp.MustCompile(`HTTP/1\.[01] `)

// A request of which two could say where its body ends, by its length and by its transfer coding, is refused, on whatever place of a connection
// and however it is cut; nothing is done of it, nor of what follows, and the connection ends.
func TestTwoFramingsAreRefused(t *testing.T) {
	const smuggled = "DELETE /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n"
	befores := map[string]string{
		"":                         "",
		"a plain one":              "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
		"one that is not plain":    "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n",
		"one with a body":          "PUT /v1/kv/n HTTP/1.1\r\nHost: a\r\nPragma: x\r\nContent-Length: 6\r\n\r\nab\r\n\r\n",
		"one with chunks":          "PUT /v1/kv/n HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n2;x=y\r\nab\r\n3 \r\n\r\n\n\r\n00\r\n\r\n",
		"one with a trailer":       "PUT /v1/kv/n HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nContent-Length: 9\r\n\r\n",
		"one whose body is unread": "PUT /v1/kv/n?x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
		"a form with a line end":   "POST /v1/kv/n?op=incr HTTP/1.1\r\nHost: a\r\nPragma: x\r\n\r\n\r\n",
	}
	for what, request := range map[string]string{
		"length first": "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
		"coding first": "PUT /v1/kv/k HTTP/1.1\r\ntransfer-encoding: chunked\r\nHost: a\r\nCONTENT-LENGTH: 4\r\n\r\n1\r\nx\r\n0\r\n\r\n",
		"no body":      "GET /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"a stream":     "POST /v1/batch HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\nContent-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"line feeds":   "PUT /v1/kv/k HTTP/1.1\nHost: a\nContent-Length: 60\nTransfer-Encoding: chunked\n\n1\r\nx\r\n0\r\n\r\n",
		"HTTP/1.0":     "PUT /v1/kv/k HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
	} {
		for where, before := range befores {
			for _, piece := range []int{1, 7, 1 << 20} {
				for _, byNetHTTP := range []bool{false, true} {
					synctest.Test(t, func(t *testing.T) {
						s := newPipeServer(t, byNetHTTP)
						defer s.stop(t)
						var pieces []string
						for part := range slices.Chunk([]byte(before+request+smuggled), piece) {
							pieces = append(pieces, string(part))
						}
						got := s.talk(t, pieces, 0, true)
						answers := statusLine.Split(got.answers, -1)[1:]
						want := 1
						if before != "" {
							want = 2
						}
						last := answers[len(answers)-1]
						if len(answers) != want || !strings.HasPrefix(last, "400 Bad Request\r\n") || !strings.Contains(last, "Connection: close\r\n") ||
							!strings.Contains(last, `"/problems/malformed-request"`) || !strings.Contains(last, `"applied":"no"`) || got.after > 2*lingerTime {
							t.Errorf("%s, behind %q, by net/http %t: answered after %s\n%s", what, where, byNetHTTP, got.after, got.answers)
						}
						for _, r := range s.data.requests {
							if string(r.Key) == "k" || r.Op == shard.OpDelete {
								t.Errorf("%s, behind %q, by net/http %t: %+v was done", what, where, byNetHTTP, r)
							}
						}
					})
				}
			}
		}
	}
}

// seen is what a handler of net/http was given.
type seen struct {
	line, body string
	whole      bool
}

// seenBy returns which requests net/http finds in what is sent in pieces, itself or behind framing.
func seenBy(t rapid.TB, framed bool, pieces [][]byte) (all []seen) {
	srv, _ := newRest(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		all = append(all, seen{r.Method + " " + r.RequestURI + " " + r.Proto, string(body), err == nil})
	}))
	srv.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	client, end := newPipe()
	var served net.Conn = end
	if framed {
		count := &connCount{limit: &connLimit{most: 1}}
		count.take()
		served = &conn{Conn: served, count: count}
	}
	l := newPipeListener()
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(l)
	}()
	l.take(served)
	client.SetReadDeadline(time.Now().Add(time.Hour))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for _, piece := range pieces {
			client.Write(piece) // fails once the server has closed
		}
		client.CloseWrite()
	}()
	if _, err := io.Copy(io.Discard, client); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%q: no end", pieces)
	}
	client.Close()
	srv.Close()
	<-sent
	<-done
	time.Sleep(2 * lingerTime) // for which net/http lets clients go on sending; virtual
	return all
}

// Whatever comes on a connection, behind framing net/http finds the same requests in it, up to one that is refused. Where lines end by line feeds
// alone, what it reads depends on what else has come: there framing may end a connection earlier.
func TestFramingAgreesWithNetHTTP(t *testing.T) {
	check := func(to rapid.TB, pieces ...[]byte) {
		var own, net []seen
		synctest.Test(t, func(t *testing.T) { own, net = seenBy(t, true, pieces), seenBy(t, false, pieces) })
		raw := bytes.Join(pieces, nil)
		text := strings.ToLower(string(raw))
		refuses := strings.Contains(text, "transfer-encoding") && (strings.Contains(text, "content-length") || strings.Contains(text, "http/1.0"))
		odd := bareLineFeed(raw)
		agree := len(own) == len(net) || len(own) < len(net) && (refuses || odd)
		for i := 0; i < len(own) && agree; i++ {
			cut := odd && i == len(own)-1 && !own[i].whole && own[i].line == net[i].line && strings.HasPrefix(net[i].body, own[i].body)
			agree = own[i] == net[i] || cut
		}
		if !agree {
			to.Fatalf("%q is\n%q, to net/http\n%q", pieces, own, net)
		}
	}
	for _, text := range conversations {
		check(t, []byte(text))
	}
	rapid.Check(t, func(t *rapid.T) { check(t, anyRequests(t)...) })
}

// anyRequests draws requests, good and bad, with the ends of bodies in their bodies, cut anywhere.
func anyRequests(t *rapid.T) (pieces [][]byte) {
	pick := func(from ...string) string { return rapid.SampledFrom(from).Draw(t, "part") }
	var raw bytes.Buffer
	for range rapid.IntRange(1, 4).Draw(t, "requests") {
		end := pick("\r\n", "\r\n", "\r\n", "\r\n", "\n")
		fmt.Fprintf(&raw, "%s /%d HTTP/1.%s%sHost: a%[4]s", pick("GET", "PUT", "POST"), raw.Len(), pick("1", "1", "1", "1", "0"), end)
		raw.WriteString(pick("", "", "", "Connection: keep-alive", "X: y\r\n Content-Length: 7", "Content-Length:\r\n 3", " Transfer-Encoding: chunked", "\r\r", "X"))
		if raw.Bytes()[raw.Len()-1] != '\n' {
			raw.WriteString(end)
		}
		switch pick("none", "length", "chunks", "chunks") {
		case "none":
			raw.WriteString(end)
		case "length":
			body := pick("", "a", "\r\n\r\n", "GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
			line := fmt.Sprintf("%s:%s%s%d%s", pick("Content-Length", "content-length", "Content-Length "), pick("", " ", "\t"), pick("", "", "", "0", "+"), len(body), end)
			raw.WriteString(line + pick("", "", "", "", line) + end + body)
		case "chunks":
			raw.WriteString(pick("Transfer-Encoding", "TRANSFER-encoding") + ":" + pick("", " ", "\t", "\r\n ") + pick("chunked", "chunked", "chunked", "Chunked ", "gzip", "chunked, chunked") + end + end)
			for range rapid.IntRange(0, 3).Draw(t, "chunks") {
				data := pick("a", "\r\n", "0\r\n\r\n", "GET /y HTTP/1.1\r\nHost: a\r\n\r\n")
				fmt.Fprintf(&raw, "%s%s%s%s%s", pick("", "", "0", "000000000000000"), fmt.Sprintf(pick("%x", "%X"), len(data)), pick("", "", "", " ", ";x=y", " ;x", ";\r"), pick("\r\n", "\r\n", "\r\n", "\r\n", "\n"), data+pick("\r\n", "\r\n", "\r\n", "\r\n", "\n", "x\r\n"))
			}
			raw.WriteString(pick("0", "0", "000", "0;x", "", "-0") + "\r\n" + pick("", "", "X: y\r\n", "X: y\n", "bad\r\n") + pick("\r\n", "\r\n", "\r\n", "\n"))
		}
		raw.WriteString(pick("", "", "", "\r\n", "\n", "\r\n\r\n"))
	}
	rest := raw.Bytes()
	for range rapid.IntRange(0, 3).Draw(t, "cuts") {
		n := rapid.IntRange(0, len(rest)).Draw(t, "cut")
		pieces, rest = append(pieces, rest[:n]), rest[n:]
	}
	return append(pieces, rest)
}
