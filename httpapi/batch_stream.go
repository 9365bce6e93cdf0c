package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/larder-cache/larder/shard"
)

const (
	// A stream is performed by windows: what lines are there when the one before is answered, up to windowOps of them or
	// windowBytes.
	windowOps   = shard.MaxBatchOps / 2
	windowBytes = shard.MaxBatchBytes
	// streamIdle is how long a stream may bring nothing, and how long its client may take nothing.
	streamIdle = maxTimeout
	// streamBytes is what a stream counts for while it lasts: a window and what it is answered.
	streamBytes = 4 << 20
)

// batchStream serves a stream of operations, one a line, by a stream of results, one a line and in the same order. Results
// come as soon as they are there, whether or not the client is still sending. The timeout is that of each window, from when
// it was read.
//
// The stream ends with the client's, after a line that is no operation (whose result says so), or after results of which one
// is unknown: what follows that might overtake it. Lines behind the end are not read, so nothing was done of them.
func (s *server) batchStream(w http.ResponseWriter, r *http.Request, timeout time.Duration, noLease bool) error {
	release, err := s.admission.take(1, streamBytes)
	if err != nil {
		return refuseStream(w, err)
	}
	defer release()
	conn := http.NewResponseController(w)
	// Without it HTTP/1.1 has the body read to its end before the answer begins. Whatever isn't a connection needs no leave.
	if err := conn.EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return kindMalformed.problem("The body could not be read: %v.", err).hangingUp()
	}
	ending := closing(r.Context())
	defer context.AfterFunc(ending, func() { conn.SetReadDeadline(time.Now()) })()
	h := w.Header()
	h.Set("Content-Type", ndjson)
	h.Set("Cache-Control", "no-store")
	protect(h)
	in := lineReader{from: bufio.NewReaderSize(r.Body, 64<<10), most: int(s.cfg.MaxValueBytes)/3*4 + 64<<10}
	defer func() {
		if in.err != io.EOF { // net/http is about to read what is left of the body, which may never come
			conn.SetReadDeadline(time.Now())
		}
	}()
	out := bufio.NewWriterSize(w, 64<<10)
	for {
		conn.SetReadDeadline(time.Now().Add(streamIdle))
		if ending.Err() != nil { // looked at afterwards, or the wait could outlast the shutdown
			return nil
		}
		b, bad, end := s.readWindow(&in, noLease)
		if ending.Err() != nil && errors.Is(in.err, os.ErrDeadlineExceeded) {
			bad = nil // what is here is done; the end of the stream says that nothing else is
		}
		conn.SetWriteDeadline(time.Now().Add(timeout + streamIdle))
		replies, err := s.performBatch(r, time.Now().Add(timeout), b)
		if err != nil {
			bad, end = problemOf(err, false), true
		}
		for i := range replies {
			result := result(&b.ops[i], b.unless[i], &replies[i])
			if result.Problem != nil && result.Problem.Applied == AppliedUnknown {
				end = true
			}
			if err := writeLine(out, &result); err != nil {
				return nil // the client has gone
			}
		}
		if bad != nil {
			result := failed(bad)
			if err := writeLine(out, &result); err != nil {
				return nil
			}
		}
		if err := out.Flush(); err != nil {
			return nil
		}
		if end {
			return nil
		}
		if err := conn.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return nil
		}
	}
}

// refuseStream is the answer to a stream that is not begun. It comes at once, and the connection ends with it: net/http would wait for the end of
// the body, which the client may not mean to send before it has read results.
func refuseStream(w http.ResponseWriter, err error) error {
	http.NewResponseController(w).SetReadDeadline(time.Now()) // whatever isn't a connection has nothing to wait for
	return problemOf(err, false).hangingUp()
}

func writeLine(out *bufio.Writer, result *batchResult) error {
	if err := json.MarshalWrite(out, result, resultOptions); err != nil {
		return err
	}
	return out.WriteByte('\n')
}

// readWindow reads the next operations: it waits for the first, and takes as many more as are there. end says that no
// others follow, because of bad where that is set.
func (s *server) readWindow(in *lineReader, noLease bool) (b *batchRequest, bad *Problem, end bool) {
	b = &batchRequest{noLease: noLease}
	for size := 0; len(b.ops) < windowOps && size < windowBytes && (len(b.ops) == 0 || in.ready()); {
		line, err := in.next()
		switch {
		case errors.Is(err, errLongLine):
			return b, kindBodyTooLarge.problem("A line may have %d bytes. Values of any bytes are shortest as value_b64.", in.most), true
		case errors.Is(err, os.ErrDeadlineExceeded):
			in.err = err
			return b, kindBodyTimeout.problem("No operation came within %s.", streamIdle), true
		case err == io.EOF:
			in.err = err
			return b, nil, true
		case err != nil:
			return b, kindMalformed.problem("The stream could not be read: %v.", err), true
		}
		if len(line) == 0 {
			continue
		}
		size += len(line)
		var raw rawOp
		if err := json.Unmarshal(line, &raw, json.RejectUnknownMembers(true)); err != nil {
			return b, badOp(err), true
		}
		if p := s.addOp(b, &raw); p != nil {
			return b, p, true
		}
	}
	return b, nil, false
}

// errLongLine is a line that has no end within what is allowed.
var errLongLine = errors.New("line too long")

// lineReader reads lines of at most most bytes.
type lineReader struct {
	from *bufio.Reader
	most int
	err  error // that it ended by, where that is the deadline, or io.EOF
}

// ready reports whether a line can be read without waiting.
func (l *lineReader) ready() bool {
	there, _ := l.from.Peek(l.from.Buffered())
	return bytes.IndexByte(there, '\n') >= 0
}

// next returns the next line without what ends it; the last one may have no end. It is valid until the next call.
func (l *lineReader) next() ([]byte, error) {
	line, err := l.from.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		long := bytes.Clone(line)
		for errors.Is(err, bufio.ErrBufferFull) && len(long) <= l.most {
			line, err = l.from.ReadSlice('\n')
			long = append(long, line...)
		}
		line = long
	}
	switch {
	case len(line) > l.most:
		return nil, errLongLine
	case err == io.EOF && len(line) > 0:
		err = nil
	case err != nil:
		return nil, err
	}
	return bytes.TrimRight(line, " \t\r\n"), nil
}
