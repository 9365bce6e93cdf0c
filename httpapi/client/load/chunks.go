package load

import (
	"bytes"
	"errors"
	"io"
)

// readChunks reads a body that comes in chunks (RFC 9112, 7.1), without extensions or trailers, of which got bytes of c.in from
// head on are there. It puts the chunks together where they lie:
//
//	head          end         at                got
//	| body so far | free      | not looked at   |
func (c *httpConn) readChunks(head, got int) (body []byte, err error) {
	// need reads until there are n bytes from at on.
	at, end := head, head
	need := func(n int) error {
		for got-at < n {
			if got == len(c.in) {
				c.grow(2*len(c.in), got)
			}
			more, err := c.Read(c.in[got:])
			got += more
			if err != nil && more == 0 {
				if errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
		}
		return nil
	}
	const maxDigits = 8
	for {
		line := -1
		for n := 1; line < 0; n++ {
			if n > maxDigits+len(endOfLine) {
				return nil, errMalformed
			}
			if err := need(n); err != nil {
				return nil, err
			}
			line = bytes.Index(c.in[at:at+n], endOfLine)
		}
		size := hexadecimal(c.in[at : at+line])
		if size < 0 || end-head+size > MaxValue {
			return nil, errMalformed
		}
		at += line + len(endOfLine)
		if err := need(size + len(endOfLine)); err != nil {
			return nil, err
		}
		copy(c.in[end:], c.in[at:at+size])
		end, at = end+size, at+size
		if !bytes.Equal(c.in[at:at+len(endOfLine)], endOfLine) {
			return nil, errMalformed
		}
		at += len(endOfLine)
		if size == 0 {
			break
		}
	}
	if got > at {
		return nil, errMalformed // there is one request at a time
	}
	return c.in[head:end], nil
}

// hexadecimal returns the number that text is, -1 if it is none.
func hexadecimal(text []byte) int {
	if len(text) == 0 {
		return -1
	}
	n := 0
	for _, c := range text {
		switch {
		case '0' <= c && c <= '9':
			n = n*16 + int(c-'0')
		case 'a' <= c && c <= 'f':
			n = n*16 + int(c-'a') + 10
		case 'A' <= c && c <= 'F':
			n = n*16 + int(c-'A') + 10
		default:
			return -1
		}
	}
	return n
}
