package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/larder-cache/larder/shard"
)

// twins are two servers over caches of the same content: one serves plain requests itself, one leaves all to net/http.
type twins struct{ own, net *fixture }

func newTwins(t *testing.T, change ...func(*Config)) twins {
	t.Helper()
	defer func(was bool) { allByNetHTTP = was }(allByNetHTTP)
	allByNetHTTP = false
	own := newFixture(t, change...)
	allByNetHTTP = true
	return twins{own, newFixture(t, change...)}
}

// reset empties the caches.
func (tw twins) reset() {
	for _, f := range []*fixture{tw.own, tw.net} {
		f.data.mu.Lock()
		f.data.entries, f.data.version, f.data.requests = map[string]fakeEntry{"old": {value: []byte("value"), contentType: "a/b", version: 9, ttl: time.Minute}}, 9, nil
		f.data.mu.Unlock()
	}
}

var dateLine = regexp.MustCompile(`(?m)^Date: [^\r]*\r\n`)

// converse writes pieces to a new connection, ends it, and returns all that comes back but for dates. reset tells that the
// end of it may be lost, since the server had closed before it had read all.
func (f *fixture) converse(t rapid.TB, pieces [][]byte) (answers string, reset bool) {
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for _, piece := range pieces {
			if _, err := conn.Write(piece); err != nil {
				return
			}
		}
		conn.(*net.TCPConn).CloseWrite()
	}()
	all, err := io.ReadAll(conn)
	if reset = errors.Is(err, syscall.ECONNRESET); err != nil && !reset {
		t.Fatalf("after %q: %v", all, err)
	}
	<-sent
	return dateLine.ReplaceAllString(string(all), ""), reset
}

// check sends the same bytes to both servers, and fails unless the same comes back and the same reached the cache.
func (tw twins) check(t rapid.TB, pieces ...[]byte) (answers string) {
	tw.reset()
	own, ownReset := tw.own.converse(t, pieces)
	net, netReset := tw.net.converse(t, pieces)
	if ownReset || netReset {
		if !strings.HasPrefix(own, net) && !strings.HasPrefix(net, own) {
			t.Fatalf("to %q\nwas answered\n%s\nby net/http\n%s", pieces, own, net)
		}
	} else if own != net {
		t.Fatalf("to %q\nwas answered\n%s\nby net/http\n%s", pieces, own, net)
	}
	if !reflect.DeepEqual(tw.own.data.entries, tw.net.data.entries) || !reflect.DeepEqual(tw.own.data.requests, tw.net.data.requests) {
		t.Fatalf("%q made of the cache\n%+v by\n%+v\nby net/http\n%+v by\n%+v", pieces, tw.own.data.entries, tw.own.data.requests, tw.net.data.entries, tw.net.data.requests)
	}
	return own
}

// conversations are what clients send on one connection, by what is special about it.
var conversations = map[string]string{
	"a read":                        "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"a miss":                        "GET /v1/kv/absent HTTP/1.1\r\nHost: a\r\n\r\n",
	"HEAD":                          "HEAD /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\nHEAD /v1/kv/absent HTTP/1.1\r\nHost: a\r\n\r\nHEAD /v1/kv/ HTTP/1.1\r\nHost: a\r\n\r\n",
	"a write and reads":             "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /v1/kv/k HTTP/1.1\r\nHost: a\r\n\r\nPUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET /v1/kv/k HTTP/1.1\r\nHost: a\r\n\r\n",
	"all methods":                   "PATCH /v1/kv/old HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n{\"ttl\":null}POST /v1/kv/n?op=incr HTTP/1.1\r\nHost: a\r\n\r\nPOST /v1/kv/n?op=append HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n0DELETE /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\nPUT /v1/kv/n?return=old HTTP/1.1\r\nHost: a\r\n\r\n",
	"304":                           "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"9\"\r\n\r\nHEAD /v1/kv/old HTTP/1.1\r\nHost: a\r\nIf-None-Match: *\r\n\r\n",
	"412":                           "PUT /v1/kv/old HTTP/1.1\r\nHost: a\r\nIf-Match: \"8\"\r\nContent-Length: 1\r\n\r\nxDELETE /v1/kv/absent HTTP/1.1\r\nHost: a\r\nIf-Match: *\r\n\r\n",
	"a body nobody asks for":        "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"a body that is refused unread": "PUT /v1/kv/k?x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"a body that is too long":       "PATCH /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n" + strings.Repeat(" ", 5000) + "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"a body cut short":              "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab",
	"a refused body cut short":      "PUT /v1/kv/k?x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab",
	"a length that is a smuggler's": "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 50\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"twice the same length":         "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nxGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"a list of lengths":             "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\nxGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"length and chunks":             "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"chunks and length":             "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 30\r\n\r\n1\r\nx\r\n0\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"chunks":                        "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nTrail: er\r\n\r\nGET /v1/kv/k HTTP/1.1\r\nHost: a\r\n\r\n",
	"two codings":                   "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
	"an odd coding":                 "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\nContent-Length: 1\r\n\r\nx",
	"a space before the colon":      "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\nContent-Length: 1\r\n\r\nx",
	"a space before the length":     "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length : 1\r\n\r\nx",
	"a folded header":               "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nX: b\r\n Content-Length: 30\r\nContent-Length: 1\r\n\r\nx",
	"a folded first header":         "GET /v1/kv/old HTTP/1.1\r\n Host: a\r\nHost: b\r\n\r\n",
	"bare line feeds":               "GET /v1/kv/old HTTP/1.1\nHost: a\n\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"a line feed in a header":       "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nX: y\nContent-Length: 1\r\n\r\nx",
	"a carriage return in a header": "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\nX: y\rZ: z\r\n\r\n",
	"a zero byte in a header":       "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
	"tabs and spaces":               "GET /v1/kv/old HTTP/1.1\r\nHost:\ta \t\r\nX: \t y\tz \t \r\nIf-None-Match:\"9\"\t\r\n\r\n",
	"signs and zeros of lengths":    "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 001\r\n\r\nxPUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx",
	"no length":                     "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nx",
	"a hexadecimal length":          "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\nx",
	"no Host":                       "GET /v1/kv/old HTTP/1.1\r\n\r\n",
	"an empty Host":                 "GET /v1/kv/old HTTP/1.1\r\nHost:\r\n\r\n",
	"two Hosts":                     "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
	"odd Hosts":                     "GET /v1/kv/old HTTP/1.1\r\nHost: [::1]:7070\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a@b\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a/b\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a b\r\n\r\n",
	"HTTP/1.0":                      "GET /v1/kv/old HTTP/1.0\r\n\r\n",
	"HTTP/1.0 kept alive":           "GET /v1/kv/old HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /v1/kv/absent HTTP/1.0\r\nHost: a\r\n\r\n",
	"HTTP/0.9":                      "GET /v1/kv/old\r\n\r\n",
	"HTTP/1.2":                      "GET /v1/kv/old HTTP/1.2\r\nHost: a\r\n\r\n",
	"HTTP/2.0":                      "GET /v1/kv/old HTTP/2.0\r\nHost: a\r\n\r\n",
	"HTTP/2 preface":                "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	"kept alive":                    "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"closed":                        "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
	"closed among others":           "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n",
	"an upgrade":                    "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
	"expectations":                  "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nxPUT /v1/kv/k?x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
	"an expectation of no body":     "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"another expectation":           "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nExpect: x\r\nContent-Length: 1\r\n\r\nx",
	"Pragma":                        "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nPragma: no-cache\r\nContent-Length: 1\r\n\r\nx",
	"a trailer that isn't there":    "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nTrailer: X\r\nContent-Length: 1\r\n\r\nx",
	"a bad trailer":                 "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nTrailer: Content-Length\r\nContent-Length: 1\r\n\r\nx",
	"line ends between":             "POST /v1/kv/n?op=incr HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"many line ends between":        "POST /v1/kv/n?op=incr HTTP/1.1\r\nHost: a\r\n\r\n\r\n\r\n\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"four line ends at the end":     "POST /v1/kv/n?op=incr HTTP/1.1\r\nHost: a\r\n\r\n\r\n\r\n",
	"line ends first":               "\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"nothing":                       "",
	"three bytes":                   "GET",
	"three bytes more":              "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\nGET",
	"half a header":                 "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n",
	"another resource":              "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\nGET /livez HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\nPUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
	"the table":                     "GET /v1/directory HTTP/1.1\r\nHost: a\r\n\r\nHEAD /v1/directory HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/directory HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"42\"\r\n\r\nGET /v1/directory?x=1 HTTP/1.1\r\nHost: a\r\n\r\nPUT /v1/directory HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
	"paths near the table":          "GET /v1/directory/ HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/directoryx HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/director HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/director%79 HTTP/1.1\r\nHost: a\r\n\r\n",
	"the place of a key":            "GET /v1/locate/a%2Fb HTTP/1.1\r\nHost: a\r\n\r\nDELETE /v1/locate/a HTTP/1.1\r\nHost: a\r\n\r\nHEAD /v1/locate/ HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/locate HTTP/1.1\r\nHost: a\r\n\r\n",
	"no resource":                   "GET /v1/kv HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"a path in another writing":     "GET /v1/k%76/old HTTP/1.1\r\nHost: a\r\n\r\nGET //v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/./kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"an absolute target":            "GET http://b/v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\nGET http://b/v1/kv/old HTTP/1.1\r\n\r\n",
	"other targets":                 "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\nGET * HTTP/1.1\r\nHost: a\r\n\r\nCONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
	"unknown methods":               "BREW /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\nget /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\nG(T /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"known methods with no meaning": "OPTIONS /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\nTRACE /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"spaces in the request line":    "GET  /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"spaces at its end":             "GET /v1/kv/old HTTP/1.1 \r\nHost: a\r\n\r\n",
	"a space in the key":            "GET /v1/kv/o ld HTTP/1.1\r\nHost: a\r\n\r\n",
	"tabs in the request line":      "GET\t/v1/kv/old\tHTTP/1.1\r\nHost: a\r\n\r\n",
	"a long header":                 "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 5000) + "\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"a header that fills a buffer":  "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 4096-43) + "\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"a header that is too long":     "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 70_000) + "\r\n\r\n",
	"a long body":                   "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + strings.Repeat("v", 200_000) + "GET /v1/kv/k HTTP/1.1\r\nHost: a\r\n\r\n",
	"a longer body":                 "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + strings.Repeat("v", 300_000) + "GET /v1/kv/k HTTP/1.1\r\nHost: a\r\n\r\n",
	"a long body, refused unread":   "PUT /v1/kv/k?x HTTP/1.1\r\nHost: a\r\nContent-Length: 262143\r\n\r\n" + strings.Repeat("v", 262_143) + "GET /v1/kv/k HTTP/1.1\r\nHost: a\r\n\r\n",
	"a longer body, refused unread": "PUT /v1/kv/k?x HTTP/1.1\r\nHost: a\r\nContent-Length: 262144\r\n\r\n" + strings.Repeat("v", 262_144) + "GET /v1/kv/k HTTP/1.1\r\nHost: a\r\n\r\n",
	"a value over its limit":        "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 250001\r\n\r\n" + strings.Repeat("v", 250_001),
	"headers of many lines":         "GET /v1/kv/old HTTP/1.1\r\nhost: a\r\nif-none-match: \"8\"\r\nIF-NONE-MATCH: \"9\"\r\n\r\nPUT /v1/kv/k HTTP/1.1\r\nHost: a\r\ncontent-type: a/b\r\nContent-Type: a/c\r\n\r\n",
	"names of headers":              "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\n!#$%&'*+-.^_`|~: x\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n(): x\r\n\r\n",
	"a header without a name":       "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
	"a header beyond ASCII":         "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Type: t/\xc3\xa4\r\n\r\nGET /v1/kv/k HTTP/1.1\r\nHost: a\r\n\r\n",
	"a query of a key":              "GET /v1/kv/old? HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/kv/old?? HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/kv/?touch=false HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/kv/old?touch=%66alse HTTP/1.1\r\nHost: a\r\n\r\n",
	"many reads":                    strings.Repeat("GET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n", 500),
	"bodies of all methods":         "HEAD /v1/kv/old HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcDELETE /v1/kv/absent HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /v1/kv/old HTTP/1.1\r\nHost: a\r\nIf-None-Match: *\r\nContent-Length: 3\r\n\r\nabcPOST /v1/kv/old?op=touch HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"a body that is a request":      "DELETE /v1/kv/absent HTTP/1.1\r\nHost: a\r\nContent-Length: 37\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/kv/absent HTTP/1.1\r\nHost: a\r\n\r\n",
	"kept alive in many ways":       "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, close\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"closed after being kept":       "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"connection names a field":      "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nConnection: Content-Length\r\nContent-Length: 1\r\n\r\nx",
	"a proxy's connection":          "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\nProxy-Connection: close\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"a line feed ends the header":   "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\nxGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"a huge length":                 "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\nx",
	"a length of two words":         "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1\r\n\r\nx",
	"a length in six digits":        "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 000001\r\n\r\nxPUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 0000001\r\n\r\nx",
	"a field like the length":       "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent_Length: 1\r\n\r\nGET /v1/kv/k HTTP/1.1\r\nHost: a\r\n\r\n",
	"a folded coding":               "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
	"a coding behind a tab":         "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\nPUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\vchunked\r\n\r\n0\r\n\r\n",
	"an empty coding":               "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\nContent-Length: 1\r\n\r\nx",
	"two codings in two lines":      "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
	"a coding in HTTP/1.0":          "PUT /v1/kv/k HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
	"odd chunks":                    "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
	"a chunk's line feed":           "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;x\na\r\n0\r\n\r\n",
	"a chunk that is too long":      "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\na\r\n0\r\n\r\n",
	"other versions":                "GET /v1/kv/old HTTP/1.10\r\nHost: a\r\n\r\n",
	"a version in two digits":       "GET /v1/kv/old HTTP/01.1\r\nHost: a\r\n\r\n",
	"two versions":                  "GET /v1/kv/old HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n",
	"CONNECT to a key":              "CONNECT /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n",
	"zero bytes":                    "GET /v1/kv/o\x00ld HTTP/1.1\r\nHost: a\r\n\r\n",
	"a zero byte in a name":         "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\nX\x00: y\r\n\r\n",
	"a zero byte in a key":          "PUT /v1/kv/%00 HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/kv/%00 HTTP/1.1\r\nHost: a\r\n\r\n",
	"dots and slashes in keys":      "PUT /v1/kv/. HTTP/1.1\r\nHost: a\r\n\r\nPUT /v1/kv/../x HTTP/1.1\r\nHost: a\r\n\r\nPUT /v1/kv//x/ HTTP/1.1\r\nHost: a\r\n\r\nPUT /v1/kv/%2e%2e%2fx HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/locate/../kv/x HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/directory/../kv/x HTTP/1.1\r\nHost: a\r\n\r\n",
	"semicolons in a query":         "PUT /v1/kv/k;a=b?ttl=60s;return=old HTTP/1.1\r\nHost: a\r\n\r\nPUT /v1/kv/k?ttl=60s&ttl=60s HTTP/1.1\r\nHost: a\r\n\r\nPUT /v1/kv/k?ttl=60s&%74tl=60s HTTP/1.1\r\nHost: a\r\n\r\nPUT /v1/kv/k?& HTTP/1.1\r\nHost: a\r\n\r\n",
	"bytes of TLS":                  "\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
}

// To each conversation both servers answer the same, to the byte but for the Date; and the same reaches the cache.
func TestSameAnswers(t *testing.T) {
	tw := newTwins(t, func(c *Config) { c.MaxValueBytes = 250_000 })
	for what, text := range conversations {
		t.Run(what, func(t *testing.T) {
			tw.check(t, []byte(text))
			// Wherever the network cuts it.
			var pieces [][]byte
			for piece := range slices.Chunk([]byte(text), max(7, len(text)/50)) {
				pieces = append(pieces, piece)
			}
			tw.check(t, pieces...)
		})
	}
	for _, tc := range oddKeys {
		for _, wire := range []string{tc.wire, escapeAll(tc.key)} {
			tw.check(t, fmt.Appendf(nil, "PUT /v1/kv/%s HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nxGET /v1/kv/%s?touch=false HTTP/1.1\r\nHost: a\r\n\r\n", wire, wire))
		}
	}
	for _, tc := range badInputs {
		if strings.HasPrefix(tc.target, kvPrefix) {
			tw.check(t, fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: a\r\n%s\r\n", tc.method, tc.target, strings.Join(append(tc.headers, ""), "\r\n")))
		}
	}
}

// A redirect, which has no body, is the same of both servers.
func TestSameRedirects(t *testing.T) {
	tw := newTwins(t)
	tw.own.data.local = refuseWith(&shard.NotLeaderError{Leader: "b"})
	tw.net.data.local = tw.own.data.local
	for _, method := range []string{"GET", "HEAD", "PUT", "DELETE"} {
		got := tw.check(t, fmt.Appendf(nil, "%s /v1/kv/a%%2Fb?route=redirect HTTP/1.1\r\nHost: a\r\n\r\n%[1]s /v1/kv/k?route=local HTTP/1.1\r\nHost: a\r\n\r\n", method))
		if !strings.HasPrefix(got, "HTTP/1.1 307 ") || !strings.Contains(got, "HTTP/1.1 421 ") {
			t.Errorf("%s: got %q", method, got)
		}
	}
}

// Requests of any parts, good and bad, one after the other on a connection, cut anywhere, get the same answers from both
// servers.
func TestSameAnswersToAny(t *testing.T) {
	tw := newTwins(t, func(c *Config) { c.MaxValueBytes = 1000 })
	lines := []string{
		"Host: a", "Host: a", "Host: a", "Host: a", "Host: a", "host:a", "HOST: b:1", "Host: ", "Host : a",
		"Connection: keep-alive", "Connection: x", "Accept: */*", "X-A: b", "x-a:", "User-Agent: t/1",
		"Content-Type: text/plain", "Cache-Control: max-age=60", "Cache-Control: no-cache", "Idempotency-Key: \"k\"", "If-Match: *", "If-None-Match: *",
		"If-None-Match: \"9\"", "If-Match: \"9\"", "Larder-Timeout: 3s", "Larder-Timeout: x", "Content-Encoding: gzip", "Expect: 100-continue", "Pragma: no-cache", "Upgrade: x",
		" folded: x", "\tfolded", "no colon", "X: a\tb", "X: \xff", "X: \x01", "Content-Length: 0", "Content-Length: 3", "Content-Length: 03", "Content-Length: 1",
		"Content-Length: -1", "Transfer-Encoding: chunked", "Transfer-Encoding: identity", "Trailer: X", "TE: trailers", "Keep-Alive: 5",
	}
	targets := []string{"/v1/kv/old", "/v1/kv/old", "/v1/kv/k", "/v1/kv/k", "/v1/kv/a%2Fb", "/v1/kv/a//b", "/v1/kv/../b", "/v1/kv/%00", "/v1/kv/%ff", "/v1/kv/%zz", "/v1/kv/", "/v1/kv/a\"<>|b",
		"/v1/kv/\xc3\xa4", "/v1/kv/a#b", "/v1/kv/a b", "/v1/kv/k?ttl=60s", "/v1/kv/k?return=old", "/v1/kv/k?op=incr", "/v1/kv/k?op=append", "/v1/kv/k?op=touch", "/v1/kv/k?", "/v1/kv/k??",
		"/v1/kv/k?x=1", "/v1/kv/k?consistency=any", "/v1/kv/k?route=local", "/v1/kv/k?a;b", "/v1/kv", "/livez", "/v1/directory", "/v1/directory?", "/v1/locate/k", "/v1/directory/rebuild", "/nothing", "//v1/kv/k", "http://h/v1/kv/k", "*", "", "/v1/kv/k?ttl=%36%30s"}
	rapid.Check(t, func(t *rapid.T) {
		var raw bytes.Buffer
		for range rapid.IntRange(1, 4).Draw(t, "requests") {
			usually := func(usual string, others ...string) string {
				if rapid.IntRange(0, 19).Draw(t, "odd") != 0 {
					return usual
				}
				return rapid.SampledFrom(others).Draw(t, "other")
			}
			end := func() string { return usually("\r\n", "\n", "\r", "\r\r\n", "\r\n\r\n") }
			method := rapid.SampledFrom([]string{"GET", "GET", "HEAD", "PUT", "PUT", "PUT", "DELETE", "POST", "PATCH"}).Draw(t, "method")
			method = usually(method, "BREW", "get", "OPTIONS", "CONNECT", "G T", "")
			raw.WriteString(method + usually(" ", "  ", "\t") + rapid.SampledFrom(targets).Draw(t, "target") + usually(" ", "  ") + usually("HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 ") + end())
			head := []string{usually("Host: a", "", "Host: a b")}
			if rapid.IntRange(0, 2).Draw(t, "simple") == 0 {
				head = append(head, rapid.SliceOfN(rapid.SampledFrom(lines), 0, 4).Draw(t, "lines")...)
			}
			body := ""
			switch rapid.IntRange(0, 4).Draw(t, "body") {
			case 0, 1:
				body = rapid.SampledFrom([]string{"a", "17", "{\"ttl\":\"5s\"}", strings.Repeat("b", 999), strings.Repeat("c", 1001), strings.Repeat("d", 5000)}).Draw(t, "value")
				head = append(head, fmt.Sprintf("Content-Length: %d", len(body)))
			case 2:
				head = append(head, "Transfer-Encoding: chunked")
				body = "3\r\nabc\r\n0\r\n\r\n"
			}
			for _, line := range head {
				if line != "" {
					raw.WriteString(line + end())
				}
			}
			raw.WriteString("\r\n" + body + usually("", "\r\n", "\n", "x", "\r\n\r\n"))
		}
		var pieces [][]byte
		rest := raw.Bytes()
		for range rapid.IntRange(0, 3).Draw(t, "cuts") {
			n := rapid.IntRange(0, len(rest)).Draw(t, "cut")
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		tw.check(t, append(pieces, rest)...)
	})
}

// Whatever bytes come, a header that is taken for a plain request's is one that net/http reads in just the same way.
func FuzzPlainHeader(f *testing.F) {
	for _, text := range conversations {
		f.Add([]byte(text))
	}
	for _, tc := range oddKeys {
		f.Add([]byte("GET /v1/kv/" + tc.wire + " HTTP/1.1\r\nHost: a\r\n\r\n"))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		end := headerEnd(raw)
		if end < 0 {
			return
		}
		var h plainHeader
		if !h.parse(raw, end+2) {
			return
		}
		for n := 0; n < end; n += 1 + end/100 {
			if !mayBePlain(raw[:n]) {
				t.Fatalf("%q is plain, and can't be after %d bytes", raw, n)
			}
		}
		body := bytes.NewReader(raw)
		reader := bufio.NewReaderSize(body, len(raw)+16)
		r, err := http.ReadRequest(reader)
		if err != nil {
			t.Fatalf("%q is plain, to net/http it is not: %v", raw, err)
		}
		r.Header.Del("Host")
		if r.Method != h.method || r.RequestURI != h.target || r.Host != h.host || r.ContentLength != h.length || !reflect.DeepEqual(r.URL, h.url) || !reflect.DeepEqual(r.Header, h.fields) {
			t.Errorf("%q is read as\n%+v\nby net/http as\n%+v", raw, h, r)
		}
		if r.Proto != "HTTP/1.1" || r.Close || len(r.TransferEncoding) > 0 || r.Trailer != nil {
			t.Errorf("%q is plain, and asks for %s, close %t, coding %q, trailer %v", raw, r.Proto, r.Close, r.TransferEncoding, r.Trailer)
		}
		if left := reader.Buffered(); left != len(raw)-end-len(endOfHeader) {
			t.Errorf("%q: net/http leaves %d bytes for the body", raw, left)
		}
	})
}

// What a client sends piece by piece, with an answer to one request before the next, is answered as well; and a connection
// that was left to net/http for one request goes on.
func TestPiecemeal(t *testing.T) {
	f := newFixture(t)
	conn := f.dial(t)
	reader := bufio.NewReader(conn)
	for i, text := range []string{
		"PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
		"GET /v1/kv/k HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET /v1/kv/k HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		for j := range len(text) {
			if _, err := conn.Write([]byte(text[j : j+1])); err != nil {
				t.Fatal(err)
			}
		}
		method, _, _ := strings.Cut(text, " ")
		got := readAnswer(t, reader, method)
		if want := []int{201, 200, 200, 200}[i]; got.status != want || i%2 == 1 && string(got.body) != "abc" {
			t.Errorf("request %d: got %d %q", i, got.status, got.body)
		}
	}
}

// An operation ends when its client goes, or says that it will send no more, long before its deadline.
func TestClientGone(t *testing.T) {
	for what, leave := range map[string]func(net.Conn){
		"closed":      func(c net.Conn) { c.Close() },
		"half closed": func(c net.Conn) { c.(*net.TCPConn).CloseWrite() },
		"reset":       func(c net.Conn) { c.(*net.TCPConn).SetLinger(0); c.Close() },
	} {
		for _, method := range []string{"GET", "PUT"} {
			t.Run(what+" "+method, func(t *testing.T) {
				f := newFixture(t)
				arrived, ended := make(chan struct{}), make(chan error, 1)
				f.data.answer = func(ctx context.Context, _ shard.Request) (shard.Response, error) {
					below, cancel := context.WithTimeout(ctx, time.Minute) // as the layers below have it
					defer cancel()
					close(arrived)
					<-below.Done()
					ended <- below.Err()
					return shard.Response{}, shard.ErrDeadline
				}
				conn := f.dial(t)
				fmt.Fprintf(conn, "%s /v1/kv/k HTTP/1.1\r\nHost: a\r\nLarder-Timeout: 60s\r\nContent-Length: 0\r\n\r\n", method)
				<-arrived
				leave(conn)
				select {
				case err := <-ended:
					if !errors.Is(err, context.Canceled) {
						t.Errorf("it ended with %v", err)
					}
				case <-time.After(20 * time.Second):
					t.Error("it goes on")
				}
			})
		}
	}
}

// A wait for a change of the table ends when its client goes.
func TestWaitingClientGone(t *testing.T) {
	f := newFixture(t)
	waiting, ended := make(chan struct{}), make(chan error, 1)
	f.admin.newer = func(ctx context.Context, _ uint64) error {
		close(waiting)
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}
	conn := f.dial(t)
	fmt.Fprintf(conn, "GET /v1/directory HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"42\"\r\nPrefer: wait=60\r\n\r\n")
	<-waiting
	conn.Close()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
}

// An operation ends at its deadline, with the error that a context has then, and not before.
func TestDeadlineEnds(t *testing.T) {
	f := newFixture(t)
	for _, timeout := range []time.Duration{time.Millisecond, 40 * time.Millisecond, 300 * time.Millisecond} {
		f.data.answer = func(ctx context.Context, _ shard.Request) (shard.Response, error) {
			below, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			<-below.Done()
			deadline, ok := ctx.Deadline()
			if late := time.Since(deadline); !ok || late < 0 || ctx.Err() != context.DeadlineExceeded || below.Err() != context.DeadlineExceeded {
				t.Errorf("%s: ended %s after the deadline (there is one: %t) with %v, below with %v", timeout, late, ok, ctx.Err(), below.Err())
			}
			return shard.Response{}, shard.ErrDeadline
		}
		start := time.Now()
		got := f.send(t, "GET", "/v1/kv/k", nil, false, "Larder-Timeout: "+timeout.String())
		checkProblem(t, got.status, got.header, got.body, 503, "deadline", AppliedNo)
		if took := time.Since(start); took < timeout || took > timeout+10*time.Second {
			t.Errorf("%s: took %s", timeout, took)
		}
	}
}

// A server that shuts down answers what it has in hand, says that the connection ends, and closes those that are idle.
func TestShutdownAnswers(t *testing.T) {
	f := newFixture(t)
	idle := f.dial(t)
	fmt.Fprintf(idle, "GET /v1/kv/k HTTP/1.1\r\nHost: a\r\n\r\n")
	idleReader := bufio.NewReader(idle)
	readAnswer(t, idleReader, "GET")

	arrived, release := make(chan struct{}), make(chan struct{})
	f.data.answer = func(context.Context, shard.Request) (shard.Response, error) {
		close(arrived)
		<-release
		return shard.Response{}, shard.ErrNoLeader
	}
	busy := f.dial(t)
	fmt.Fprintf(busy, "GET /v1/kv/k HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/kv/next HTTP/1.1\r\nHost: a\r\n\r\n")
	<-arrived
	down := make(chan error, 1)
	go func() { down <- f.server.Shutdown(t.Context()) }()
	if _, err := idleReader.ReadByte(); err != io.EOF {
		t.Errorf("the idle connection: %v", err)
	}
	select {
	case err := <-down:
		t.Fatalf("it did not wait: %v", err)
	default:
	}
	close(release)
	got := readAnswer(t, bufio.NewReader(busy), "GET")
	checkProblem(t, got.status, got.header, got.body, 503, "no-leader", AppliedNo)
	if got.header.Get("Connection") != "close" {
		t.Error("the answer does not say that the connection ends")
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
	if got := f.data.reached(); got != 2 {
		t.Errorf("%d requests reached the cache, want the first of each connection", got)
	}
	if conn, err := net.Dial("tcp", f.addr); err == nil {
		conn.Close()
		t.Error("it still accepts connections")
	}
}

// A shutdown gives up when its context ends, and Close ends what is left.
func TestShutdownGivesUp(t *testing.T) {
	f := newFixture(t)
	arrived := make(chan struct{})
	f.data.answer = func(ctx context.Context, _ shard.Request) (shard.Response, error) {
		close(arrived)
		<-ctx.Done()
		return shard.Response{}, shard.ErrDeadline
	}
	conn := f.dial(t)
	fmt.Fprintf(conn, "GET /v1/kv/k HTTP/1.1\r\nHost: a\r\n\r\n")
	<-arrived
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := f.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	f.server.Close()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is still open")
	}
}

// A handler that panics with half an answer out cuts the connection; with none, it answers 500, and no further request.
func TestPanics(t *testing.T) {
	f := newFixture(t)
	f.data.answer = func(context.Context, shard.Request) (shard.Response, error) { panic("boom") }
	conn := f.dial(t)
	reader := bufio.NewReader(conn)
	fmt.Fprintf(conn, "GET /v1/kv/k HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/kv/next HTTP/1.1\r\nHost: a\r\n\r\n")
	got := readAnswer(t, reader, "GET")
	checkProblem(t, got.status, got.header, got.body, 500, "internal", AppliedNo)
	if _, err := reader.ReadByte(); err == nil || f.data.reached() != 1 {
		t.Errorf("after the answer: %v, and %d requests reached the cache", err, f.data.reached())
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10000")
		w.Write(make([]byte, 9000))
		panic(http.ErrAbortHandler)
	}), 0)
	srv.noPlain = allByNetHTTP
	defer srv.Close()
	go srv.Serve(l)
	f.addr = l.Addr().String()
	conn = f.dial(t)
	fmt.Fprintf(conn, "GET /v1/kv/k HTTP/1.1\r\nHost: a\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil {
		_, err = io.ReadAll(resp.Body)
	}
	if err == nil {
		t.Error("half an answer looks whole")
	}
}

// A client whose request is refused for its body can send the rest of it all the same, for a while: the connection is not
// reset under its hands, which could cost it the answer.
func TestRefusedBodyIsTakenIn(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.MaxValueBytes = 1000 })
	var err error
	for range 5 { // what a slow machine does not get done in time one time
		conn := f.dial(t)
		fmt.Fprintf(conn, "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n")
		got := readAnswer(t, bufio.NewReader(conn), "PUT")
		checkProblem(t, got.status, got.header, got.body, 413, "value-too-large", AppliedNo)
		for range 20 {
			if _, err = conn.Write(make([]byte, 10_000)); err != nil {
				break
			}
		}
		if err == nil {
			return
		}
	}
	t.Errorf("the connection is closed at once: %v", err)
}

// A request is looked after no later than its deadline, also where a look for an earlier one is still to come.
func TestLooksInTime(t *testing.T) {
	c := &plainConn{}
	now := time.Now()
	for _, timeout := range []time.Duration{time.Hour, time.Minute, time.Millisecond, time.Hour} {
		ctx := &plainContext{conn: c, began: now}
		c.watch(ctx, now.Add(timeout))
		c.mu.Lock()
		if late := c.looks.Sub(now.Add(min(timeout, firstLook))); c.looks.IsZero() || late > 0 {
			t.Errorf("%s: looked after %s late", timeout, late)
		}
		c.waiting = nil
		c.mu.Unlock()
		ctx.end(context.Canceled)
	}
}

// A header of many fields costs a connection its memory no longer than until the next.
func TestManyFieldsAreLetGo(t *testing.T) {
	var h plainHeader
	var many strings.Builder
	for i := range 900 {
		fmt.Fprintf(&many, "%x:\r\n", i)
	}
	for _, lines := range []string{many.String(), "", ""} {
		raw := []byte("GET /v1/kv/k HTTP/1.1\r\nHost: a\r\n" + lines + "\r\n")
		if !h.parse(raw, headerEnd(raw)+2) {
			t.Fatalf("%q is not plain", raw)
		}
	}
	if kept := cap(h.values); kept > 2*keptFields {
		t.Errorf("memory for %d fields is kept", kept)
	}
}
