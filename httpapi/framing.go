package httpapi

import (
	"bytes"
	"math"
	"slices"
	"strconv"
	"strings"
)

// maxFramed bounds what is kept of a header or line: net/http refuses one that is as long.
const maxFramed = maxHeaderBytes + 8<<10

// framing follows the requests that net/http is given on a connection, for what it tells nobody: whether a header had both a length and a
// transfer coding, of which it drops the length. Who stands before this server and goes by the length would take the rest of that request for
// another one (RFC 9112, 6.1 and 11.2).
//
// It reads as net/http does, and only what bodies end by. Where that is not clear net/http refuses the request, and nothing more is read.
//
//	header ---> body (of a length) ---> header
//	       ---> chunk's size -> chunk's data -> chunk's end -> size ... -> trailer ---> header
type framing struct {
	at     framePart
	bad    bool   // the header that ended last is that of a request to be refused; nothing follows it
	kept   []byte // of the header, up to here; of any other part its line
	line   int    // where in kept the line begins
	length uint64 // what is left of a body or chunk
}

// framePart is what comes next on a connection.
type framePart uint8

const (
	inHeader framePart = iota
	inBody
	inChunkSize
	inChunk
	inChunkEnd
	inTrailer
	afterAll // nothing that could be a request
)

// advance follows the first bytes of b, up to and with the end of a header, and returns how many these are. Whatever comes after the last
// request counts for none.
func (f *framing) advance(b []byte) (n int) {
	for n < len(b) && f.at != afterAll {
		if f.at == inBody || f.at == inChunk {
			step := int(min(f.length, uint64(len(b)-n)))
			n += step
			f.length -= uint64(step)
			switch {
			case f.length > 0:
				return n
			case f.at == inBody:
				f.at = inHeader
			default:
				f.at = inChunkEnd
			}
			continue
		}
		step := bytes.IndexByte(b[n:], '\n') + 1
		ended := step > 0
		if !ended {
			step = len(b) - n
		}
		f.kept = append(f.kept, b[n:n+step]...)
		n += step
		switch {
		case len(f.kept) > maxFramed:
			f.end(afterAll)
		case ended && f.endLine():
			return n
		}
	}
	return n
}

// end goes on to another part.
func (f *framing) end(next framePart) {
	f.at, f.kept, f.line = next, f.kept[:0], 0
	if cap(f.kept) > 4<<10 {
		f.kept = nil // a connection may be idle for long
	}
}

// endLine takes in the line that has just ended, and reports whether a header ended with it.
func (f *framing) endLine() (header bool) {
	line := f.kept[f.line:]
	empty := len(line) == 1 || len(line) == 2 && line[0] == '\r'
	switch f.at {
	case inHeader:
		if f.line = len(f.kept); !empty {
			return false
		}
		f.endHeader(string(f.kept))
		return true
	case inChunkSize:
		size, ok := chunkSize(line)
		switch f.length = size; {
		case !ok:
			f.end(afterAll)
		case size == 0:
			f.end(inTrailer)
		default:
			f.end(inChunk)
		}
	case inChunkEnd:
		if string(line) == "\r\n" {
			f.end(inChunkSize)
		} else {
			f.end(afterAll)
		}
	case inTrailer:
		f.end(inTrailer)
		if empty {
			f.end(inHeader)
		}
	}
	return false
}

// endHeader finds out what follows a header.
func (f *framing) endHeader(header string) {
	request, fields, _ := strings.Cut(header, "\n")
	var lengths, codings, others []string
	list := &others // that the last line belongs to
	for line := range strings.Lines(fields) {
		name, value, _ := strings.Cut(line, ":")
		if line[0] == ' ' || line[0] == '\t' { // the last line goes on
			if n := len(*list) - 1; n >= 0 {
				(*list)[n] = strings.Trim((*list)[n]+" "+line, " \t\r\n")
			}
			continue
		}
		switch list = &others; {
		case strings.EqualFold(name, "Content-Length"):
			list = &lengths
		case strings.EqualFold(name, "Transfer-Encoding"):
			list = &codings
		}
		*list = append(*list, strings.Trim(value, " \t\r\n"))
	}
	oldVersion := strings.HasSuffix(strings.TrimRight(request, "\r"), " HTTP/1.0") // which knows no codings: its length is anyone's guess
	switch {
	case len(codings) > 0 && (len(lengths) > 0 || oldVersion):
		f.bad = true
		f.end(afterAll)
	case len(codings) == 1 && strings.EqualFold(codings[0], "chunked"):
		f.end(inChunkSize)
	case len(codings) > 0:
		f.end(afterAll)
	case len(lengths) > 0:
		length, err := strconv.ParseUint(lengths[0], 10, 63)
		switch f.length = length; {
		case err != nil || slices.ContainsFunc(lengths, func(other string) bool { return other != lengths[0] }):
			f.end(afterAll)
		case length > 0:
			f.end(inBody)
		default:
			f.end(inHeader)
		}
	default:
		f.end(inHeader)
	}
}

// chunkSize reads the line before a chunk.
func chunkSize(line []byte) (size uint64, ok bool) {
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok || bytes.IndexByte(text, '\r') >= 0 {
		return 0, false
	}
	digits, _, _ := bytes.Cut(bytes.TrimRight(text, " \t"), []byte(";"))
	if len(digits) > 16 {
		return 0, false
	}
	size, err := strconv.ParseUint(string(digits), 16, 64)
	return size, err == nil && size <= math.MaxInt64
}
