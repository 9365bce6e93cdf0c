package httpapi

import (
	"bytes"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
)

// maxPlainBody bounds the body of a plain request, bytes. net/http takes in as much of a body that a handler left
// unread before it answers; what is longer it cuts off, which is left to it.
const maxPlainBody = 256<<10 - 1

// keptFields is how many fields a header may have whose memory serves the connection's next request, too. A header has
// room for a thousand, and a connection may be idle for long.
const keptFields = 64

// plainMethods begin the request lines of plain requests.
var plainMethods = []string{http.MethodGet, http.MethodPut, http.MethodHead, http.MethodDelete, http.MethodPost, http.MethodPatch}

// plainPaths are the paths of plain requests: what clients ask for on the connections that they use for keys. The answers of
// their handlers all have a Content-Length, or no body.
var plainPaths = []string{kvPrefix, tablePath, locatePrefix}

// isPlain reports whether a target is under one of plainPaths, or is one with or without a query.
func isPlain(target string) bool {
	for _, path := range plainPaths {
		if rest, ok := strings.CutPrefix(target, path); ok && (rest == "" || rest[0] == '?' || strings.HasSuffix(path, "/")) {
			return true
		}
	}
	return false
}

// Classes of bytes, as bits of plainBytes.
const (
	inToken  = 1 << iota // of the name of a field (RFC 9110 5.6.2)
	inValue              // of its value
	inTarget             // of a target
	inPath               // of a path that stands for itself, by the rules of package url
	inHost               // of a host and its port
)

var plainBytes = func() (classes [256]uint8) {
	for c := range classes {
		alnum := '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		for class, others := range map[uint8]string{inToken: "!#$%&'*+-.^_`|~", inPath: "-_.~$&+,/:;=@", inHost: "-_.:[]"} {
			if alnum || strings.IndexByte(others, byte(c)) >= 0 {
				classes[c] |= class
			}
		}
		if ' ' <= c && c <= '~' {
			classes[c] |= inValue
		}
		if ' ' < c && c <= '~' && c != '#' {
			classes[c] |= inTarget
		}
	}
	return classes
}()

// all reports whether all bytes of s are of a class.
func all(s string, class uint8) bool {
	for i := range len(s) {
		if plainBytes[s[i]]&class == 0 {
			return false
		}
	}
	return true
}

// mayBePlain reports whether a plain request may begin with b.
func mayBePlain(b []byte) bool {
	if bareLineFeed(b) {
		return false // to others the header could end here, and its client wait for an answer
	}
	for _, method := range plainMethods {
		if !hasCommonPrefix(b, method) {
			continue
		}
		target, _ := bytes.CutPrefix(b[min(len(b), len(method)):], []byte(" "))
		for _, path := range plainPaths {
			if hasCommonPrefix(target, path) {
				return true
			}
		}
	}
	return false
}

// bareLineFeed reports whether b has a line feed that no carriage return precedes.
func bareLineFeed(b []byte) bool {
	return bytes.Count(b, []byte("\n")) != bytes.Count(b, []byte("\r\n"))
}

func hasCommonPrefix(b []byte, s string) bool {
	n := min(len(b), len(s))
	return string(b[:n]) == s[:n]
}

// plainHeader takes in the header of one plain request after the other. What it has parsed holds until the next.
type plainHeader struct {
	method, target, host string
	url                  *url.URL
	length               int64 // of the body
	fields               http.Header
	values               []string // memory of the values of fields
}

var endOfHeader = []byte("\r\n\r\n")

// parse takes in the header that b begins with, up to and with its empty line at end, and reports whether the request
// is plain: one for plainPaths, of HTTP/1.1, each byte of which is where the strictest reading of the grammar wants it, with
// nothing in it that asks for more than an answer. Those it reads as net/http does; of all others it says nothing.
func (h *plainHeader) parse(b []byte, end int) bool {
	text := string(b[:end]) // without the last CRLF; all that is kept of the header is part of it
	line, rest, _ := strings.Cut(text, "\r\n")
	var version string
	var ok bool
	if h.method, line, ok = strings.Cut(line, " "); !ok {
		return false
	}
	if h.target, version, ok = strings.Cut(line, " "); !ok || version != "HTTP/1.1" {
		return false
	}
	if !isPlain(h.target) || !all(h.target, inTarget) || !h.knownMethod() {
		return false
	}
	if all(h.target, inPath) {
		h.url = &url.URL{Path: h.target}
	} else {
		var err error
		if h.url, err = url.ParseRequestURI(h.target); err != nil {
			return false
		}
	}
	return h.parseFields(rest)
}

// knownMethod makes the method one of plainMethods, so that it keeps no header in memory.
func (h *plainHeader) knownMethod() bool {
	for _, method := range plainMethods {
		if h.method == method {
			h.method = method
			return true
		}
	}
	return false
}

func (h *plainHeader) parseFields(lines string) bool {
	if h.fields == nil || len(h.fields) > keptFields {
		h.fields, h.values = http.Header{}, nil
	}
	clear(h.fields)
	values := h.values[:0]
	h.length, h.host = 0, ""
	hosts, lengths := 0, 0
	for lines != "" {
		var line string
		line, lines, _ = strings.Cut(lines, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		if value = strings.Trim(value, " \t"); !ok || name == "" || !all(name, inToken) || !all(value, inValue) {
			return false
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		switch name {
		case "Host":
			if hosts++; value == "" || !all(value, inHost) {
				return false
			}
			h.host = value
			continue
		case "Content-Length":
			if lengths++; !h.parseLength(value) {
				return false
			}
		case "Connection":
			if !strings.EqualFold(value, "keep-alive") {
				return false
			}
		case "Transfer-Encoding", "Trailer", "Expect", "Upgrade", "Pragma":
			return false
		}
		if earlier := h.fields[name]; earlier != nil {
			h.fields[name] = append(earlier, value)
			continue
		}
		values = append(values, value)
		h.fields[name] = values[len(values)-1 : len(values) : len(values)]
	}
	h.values = values
	return hosts == 1 && lengths <= 1
}

func (h *plainHeader) parseLength(value string) bool {
	if value == "" || len(value) > 6 {
		return false
	}
	for i := range len(value) {
		if value[i] < '0' || value[i] > '9' {
			return false
		}
		h.length = 10*h.length + int64(value[i]-'0')
	}
	return h.length <= maxPlainBody
}

// headerEnd is where the empty line that ends the header in b begins, less the line end before it; -1: not in b.
func headerEnd(b []byte) int { return bytes.Index(b, endOfHeader) }
