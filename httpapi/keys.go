package httpapi

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/http"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

const (
	keysPath = "/v1/keys"
	// defaultPage is how many keys a page has at most where the request does not say.
	defaultPage = 1000
	// pageBytes is about what a page takes in memory until it is answered.
	pageBytes = 3 * fsm.MaxPageBytes
)

// keyPage is a page of keys.
type keyPage struct {
	Keys   []keyName `json:"keys"`
	Cursor string    `json:"cursor"`
}

// keyName is a key in an answer.
type keyName struct {
	Key    string `json:"key,omitzero"`     // where it is UTF-8
	KeyB64 []byte `json:"key_b64,omitzero"` // else
}

// keysRemoved is what the removal of keys came to.
type keysRemoved struct {
	Removed uint64 `json:"removed"`
	Cursor  string `json:"cursor"`
}

// listKeys serves GET: a page of keys, in the order of slots and then of bytes.
func (s *server) listKeys(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "prefix", "limit", "cursor", "consistency", "max-staleness", "lease")
	if err != nil {
		return err
	}
	read, err := readOf(values)
	if err != nil {
		return err
	}
	scan, err := scanOf(values)
	if err != nil {
		return err
	}
	scan.Consistency, scan.MaxStaleness, scan.NoLease = read.Consistency, read.MaxStaleness, read.NoLease
	if scan.Limit = defaultPage; values.Has("limit") {
		scan.Limit, err = strconv.Atoi(values.Get("limit"))
		if err != nil || scan.Limit < 1 || scan.Limit > fsm.MaxPage {
			return kindBadParameter.problem("limit is a number of keys, 1 to %d.", fsm.MaxPage)
		}
	}
	ctx, done, err := s.beginScan(r)
	if err != nil {
		return err
	}
	defer done()
	page, err := s.cfg.Data.Scan(ctx, scan)
	if err != nil {
		return err
	}
	answer := keyPage{Keys: make([]keyName, len(page.Keys)), Cursor: formatCursor(page.Next)}
	for i, key := range page.Keys {
		if utf8.Valid(key) {
			answer.Keys[i].Key = string(key)
		} else {
			answer.Keys[i].KeyB64 = key
		}
	}
	if page.ServedBy != "" { // at the end of the keys nobody is asked
		f := setPlace(w.Header(), page.Response)
		f.set("Larder-Read", string(page.Read))
	}
	if scan.Consistency != shard.Linearizable {
		w.Header().Set("Age", strconv.FormatInt(int64((page.Age+time.Second-1)/time.Second), 10))
	}
	return writeKeys(w, r, answer)
}

// removeKeys serves DELETE: the keys that begin with a prefix.
func (s *server) removeKeys(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "prefix", "cursor")
	if err != nil {
		return err
	}
	scan, err := scanOf(values)
	if err != nil {
		return err
	}
	if len(scan.Prefix) == 0 {
		return kindBadParameter.problem("prefix is needed, a byte of it at least: keys are not removed all at once by mistake.")
	}
	for _, name := range []string{"If-Match", "If-None-Match", "Idempotency-Key"} {
		if len(r.Header.Values(name)) > 0 {
			return kindBadHeader.problem("%s is for a key by itself. To remove keys by a prefix again does no harm but to what was written since.", name)
		}
	}
	ctx, done, err := s.beginScan(r)
	if err != nil {
		return err
	}
	defer done()
	page, err := s.cfg.Data.Erase(ctx, scan)
	if errors.Is(err, shard.ErrOutcomeUnknown) {
		return problemOf(err, false).within("%d keys are removed for certain. ", page.Removed)
	}
	if err != nil {
		return err
	}
	if p := statusProblem(page.Response); p != nil && page.Removed == 0 && page.ServedBy != "" {
		return p
	}
	return writeKeys(w, r, keysRemoved{page.Removed, formatCursor(page.Next)})
}

// scanOf is what the parameters prefix and cursor say. A prefix is any bytes, percent-encoded.
func scanOf(values url.Values) (s shard.Scan, err error) {
	s.Prefix = []byte(values.Get("prefix"))
	if len(s.Prefix) > maxKeyBytes {
		return s, kindBadParameter.problem("prefix has %d bytes, no key has more than %d.", len(s.Prefix), maxKeyBytes)
	}
	if text := values.Get("cursor"); text != "" {
		var ok bool
		if s.From, ok = parseCursor(text); !ok {
			return s, kindBadParameter.problem("cursor is none that this cache gave. Begin without one.")
		}
		if len(s.From.After) > 0 && !bytes.HasPrefix(s.From.After, s.Prefix) {
			return s, kindBadParameter.problem("cursor is of another prefix. Begin without one.")
		}
	}
	return s, nil
}

// beginScan takes the request's header, and its place among those that the node has in hand.
func (s *server) beginScan(r *http.Request) (ctx context.Context, done func(), err error) {
	timeout, err := timeoutOf(r.Header)
	if err != nil {
		return nil, nil, err
	}
	release, err := s.admission.take(1, pageBytes)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	return ctx, func() {
		cancel()
		release()
	}, nil
}

// writeKeys answers with JSON of other people's keys.
func writeKeys(w http.ResponseWriter, r *http.Request, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	body = append(body, '\n')
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	protect(h)
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		w.Write(body) // the client that doesn't hear it has gone
	}
	return nil
}

// A cursor is in base64 (that of URLs, without padding), its integers big-endian:
//
//	| 1 | slot u16 | key | CRC-32 of what is before u32 |
//
// It names a place among keys and no shard, so it holds whatever becomes of those. The sum is no secret: it tells what was cut short or made up.
// The empty one is before the first key in a request, and behind the last in an answer.
const (
	cursorVersion = 1
	cursorBytes   = 1 + 2 + 4 // beside the key
)

var cursorText = base64.RawURLEncoding.Strict()

func formatCursor(c fsm.Cursor) string {
	if c.Slot >= fsm.Slots {
		return ""
	}
	b := make([]byte, 0, cursorBytes+len(c.After))
	b = binary.BigEndian.AppendUint16(append(b, cursorVersion), uint16(c.Slot))
	b = append(b, c.After...)
	return cursorText.EncodeToString(binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b)))
}

// parseCursor is the inverse of formatCursor, but for the empty one.
func parseCursor(text string) (c fsm.Cursor, ok bool) {
	b, err := cursorText.DecodeString(text)
	if err != nil || len(b) < cursorBytes || len(b) > cursorBytes+maxKeyBytes || b[0] != cursorVersion {
		return c, false
	}
	content := b[:len(b)-4]
	c.Slot, c.After = uint32(binary.BigEndian.Uint16(content[1:])), content[3:]
	sum := binary.BigEndian.Uint32(b[len(content):])
	ok = sum == crc32.ChecksumIEEE(content) && c.Slot < fsm.Slots && (len(c.After) == 0 || uint32(fsm.Slot(c.After)) == c.Slot)
	return c, ok && text == formatCursor(c)
}
