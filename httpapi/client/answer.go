package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxProblem bounds the body of an error, bytes.
const maxProblem = 64 << 10

// answer is what a good answer says, and that a key is absent.
type answer struct {
	place       Place
	path        ReadPath
	hot         bool // of a read: other replicas had better answer some
	version     Version
	value       []byte
	contentType string
	expires     bool
	ttl, age    time.Duration
	existed     bool
	hasValue    bool // of a write
	replayed    bool
	fillToken   string

	results []OpResult // of a batch
	changed bool       // an atomic batch was applied, and made a change

	keys    []string // of a page
	removed uint64   // keys
	cursor  string   // where the next page begins, "" for none
}

func (a *answer) entry() Entry {
	if a == nil {
		return Entry{}
	}
	return Entry{Value: a.value, ContentType: a.contentType, Version: a.version, Expires: a.expires, TTL: a.ttl,
		ReadPath: a.path, Age: a.age, Place: a.place, FillToken: a.fillToken}
}

func (a *answer) result() Result {
	if a == nil {
		return Result{}
	}
	return Result{Version: a.version, Existed: a.existed, Place: a.place, HasValue: a.hasValue, Replayed: a.replayed}
}

// made reports whether a write that succeeded changed something, now or at an earlier attempt. All do but the delete of
// what is not there, and batches that were refused, or did nothing else.
func (a *answer) made(r *request) bool {
	if r.batch != nil {
		return a.changed
	}
	return r.method != http.MethodDelete || a.existed
}

// settle says what came of r by the answer resp. With the error ErrNotFound or ErrPrecondition comes the
// answer's place.
func (r *request) settle(n *node, resp *http.Response, maxValue int64) (*answer, *Error) {
	if resp.StatusCode >= 400 {
		return r.problem(n, resp)
	}
	if r.batch != nil {
		return r.settleBatch(n, resp, maxValue)
	}
	if r.scan {
		return r.settleScan(n, resp)
	}
	a, err := r.success(resp)
	if err != nil {
		return nil, r.foreign(n, resp, err)
	}
	if !r.read() && !a.hasValue {
		return a, nil
	}
	if a.value, err = readBody(resp, maxValue); err == nil {
		return a, nil
	}
	tooLong := errors.Is(err, errTooLong)
	switch {
	case r.read() && tooLong:
		return nil, &Error{Op: r.op, Kind: ErrTooLarge, Applied: AppliedNo, Node: n.host, Status: resp.StatusCode, Err: err}
	case r.read():
		return nil, r.foreign(n, resp, err)
	}
	// It happened; what it gave is not here.
	e := r.failed(n, true, err)
	e.Applied, e.Status, e.Detail = AppliedYes, resp.StatusCode, "the value did not come"
	e.again = e.again && !tooLong
	return nil, e
}

// foreign is the error of an answer that Larder does not give: it says nothing about what happened.
func (r *request) foreign(n *node, resp *http.Response, cause error) *Error {
	e := r.failed(n, true, cause)
	e.Status, e.Detail = resp.StatusCode, "the answer is not one of Larder's"
	return e
}

// success reads the header of an answer below 400. Its error says that it isn't a good answer to r.
func (r *request) success(resp *http.Response) (*answer, error) {
	h, a := resp.Header, &answer{}
	var err error
	if a.place, err = placeOf(h); err != nil {
		return nil, err
	}
	a.replayed = h.Get("Idempotency-Replayed") == "?1"
	status := resp.StatusCode
	switch {
	case r.read() && status == http.StatusOK:
		a.contentType = h.Get("Content-Type")
		if a.path, err = pathOf(h); err != nil {
			return nil, err
		}
		a.hot = hotBy(h)
		if a.expires, a.ttl, err = ttlOf(h); err != nil {
			return nil, err
		}
		if h.Get("Age") != "" {
			age, err := number(h, "Age")
			if err != nil {
				return nil, err
			}
			a.age = time.Duration(min(age, 1<<31)) * time.Second
		}
		a.version, err = versionOf(h)
	case r.method == http.MethodPut && (status == http.StatusCreated || status == http.StatusNoContent):
		a.existed = status == http.StatusNoContent
		a.version, err = versionOf(h)
	case (r.op == "swap" || r.op == "incr" || r.op == "append") && status == http.StatusOK:
		a.existed = r.op == "swap"
		a.hasValue, a.contentType = true, h.Get("Content-Type")
		a.version, err = versionOf(h)
	case r.method == http.MethodDelete && status == http.StatusNoContent:
		switch existed := h.Get("Larder-Existed"); existed {
		case "?1", "?0":
			a.existed = existed == "?1"
		default:
			err = fmt.Errorf("Larder-Existed is %q", existed)
		}
	case r.op == "touch" && status == http.StatusNoContent:
		a.existed = true
		a.version, _ = versionOf(h) // it need not tell
	case (r.op == "incr" || r.op == "append") && status == http.StatusNoContent && a.replayed:
		a.version, err = versionOf(h)
	case r.op == "expire" && status == http.StatusNoContent:
		a.existed = true
		a.version, err = versionOf(h)
	default:
		err = fmt.Errorf("status %d answers no %s", status, r.op)
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

func placeOf(h http.Header) (p Place, err error) {
	if p.Shard, err = number(h, "Larder-Shard"); err != nil {
		return p, err
	}
	if p.Epoch, err = number(h, "Larder-Epoch"); err != nil {
		return p, err
	}
	p.Index, p.ServedBy = h.Get("Larder-Index"), h.Get("Larder-Served-By")
	index, position, ok := strings.Cut(p.Index, ".")
	_, indexErr := strconv.ParseUint(index, 10, 64)
	_, positionErr := strconv.ParseUint(position, 10, 64)
	if !ok || indexErr != nil || positionErr != nil {
		return p, fmt.Errorf("Larder-Index is %q", p.Index)
	}
	return p, nil
}

func pathOf(h http.Header) (ReadPath, error) {
	switch p := ReadPath(h.Get("Larder-Read")); p {
	case ReadProbe, ReadLease, ReadLog, ReadFollower, ReadLocal:
		return p, nil
	default:
		return "", fmt.Errorf("Larder-Read is %q", p)
	}
}

// hotBy reports whether a leader says that other voters had better answer some reads.
func hotBy(h http.Header) bool { return h.Get("Larder-Hot") == "?1" }

// versionOf reads a strong entity tag.
func versionOf(h http.Header) (Version, error) {
	tag := h.Get("ETag")
	if len(tag) > 2 && tag[0] == '"' && tag[len(tag)-1] == '"' {
		if v := Version(tag[1 : len(tag)-1]); v.valid() {
			return v, nil
		}
	}
	return "", fmt.Errorf("ETag is %q", tag)
}

// ttlOf finds the time to live in Cache-Status (RFC 9211), where caches on the way may have added members.
func ttlOf(h http.Header) (expires bool, ttl time.Duration, err error) {
	for member := range strings.SplitSeq(strings.Join(h.Values("Cache-Status"), ","), ",") {
		name, parameters, _ := strings.Cut(member, ";")
		if strings.TrimSpace(name) != "larder" {
			continue
		}
		for parameter := range strings.SplitSeq(parameters, ";") {
			text, ok := strings.CutPrefix(strings.TrimSpace(parameter), "ttl=")
			if !ok {
				continue
			}
			seconds, err := strconv.ParseInt(text, 10, 64)
			if err != nil || seconds < 0 || seconds > int64((1<<63-1)/time.Second) {
				return false, 0, fmt.Errorf("Cache-Status has ttl=%q", text)
			}
			return true, time.Duration(seconds) * time.Second, nil
		}
	}
	return false, 0, nil
}

// The problems of an idempotency key whose time is wrong. One that is too old may have been used before.
const (
	tooOld = "/problems/idempotency-key-too-old"
	tooNew = "/problems/idempotency-key-too-new"
)

// problemJSON is a problem on the wire.
type problemJSON struct {
	Type, Detail string
	Status       int
	Applied      Applied
}

// good reports whether p is a problem of Larder's with that status.
func (p *problemJSON) good(status int) bool {
	return p.Status == status && strings.HasPrefix(p.Type, "/problems/") &&
		(p.Applied == AppliedNo || p.Applied == AppliedYes || p.Applied == AppliedUnknown)
}

// problem reads an answer of 400 or above.
func (r *request) problem(n *node, resp *http.Response) (*answer, *Error) {
	var p problemJSON
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || media != "application/problem+json" {
		return nil, r.foreign(n, resp, fmt.Errorf("its content type is %q", resp.Header.Get("Content-Type")))
	}
	body, err := readBody(resp, maxProblem)
	if err == nil {
		err = json.Unmarshal(body, &p)
	}
	if err != nil {
		return nil, r.foreign(n, resp, err)
	}
	if !p.good(resp.StatusCode) {
		return nil, r.foreign(n, resp, errors.New("its body is another problem's"))
	}
	e := &Error{Op: r.op, Applied: p.Applied, Node: n.host, Status: p.Status, Type: p.Type, Detail: p.Detail}
	if p.Applied != AppliedNo {
		e.Kind = ErrOutcomeUnknown
		switch {
		case r.read(): // which has none
			e.Kind, e.Applied, e.again = ErrUnavailable, AppliedNo, true
		case p.Type != tooOld:
			e.again = r.repeatable()
		}
		return nil, e
	}
	switch {
	case r.read() && p.Type == "/problems/not-found":
		a := &answer{}
		if a.place, err = placeOf(resp.Header); err == nil {
			a.path, err = pathOf(resp.Header)
			a.hot = hotBy(resp.Header)
		}
		if err != nil {
			return nil, r.foreign(n, resp, err)
		}
		e.Kind, a.fillToken = ErrNotFound, resp.Header.Get(fillHeader)
		return a, e
	case (r.op == "expire" || r.op == "touch") && p.Type == "/problems/not-found":
		a := &answer{}
		a.place, _ = placeOf(resp.Header) // the refusal counts without it
		e.Kind = ErrNotFound
		return a, e
	case p.Type == "/problems/not-an-integer":
		e.Kind = ErrNotInteger
	case p.Status == http.StatusPreconditionFailed:
		e.Kind = ErrPrecondition
		e.Version, _ = versionOf(resp.Header)
		a := &answer{}
		a.place, _ = placeOf(resp.Header) // the refusal counts without it
		return a, e
	case p.Status == http.StatusRequestEntityTooLarge:
		e.Kind = ErrTooLarge
	case p.Status == http.StatusMisdirectedRequest, p.Status == http.StatusTooManyRequests, p.Status == http.StatusServiceUnavailable:
		e.Kind, e.again = ErrUnavailable, true
		e.leader = resp.Header.Get("Larder-Leader")
		e.epoch, _ = number(resp.Header, "Larder-Epoch")
		if seconds, err := number(resp.Header, "Retry-After"); err == nil {
			e.retryAfter = time.Duration(min(seconds, 3600)) * time.Second
		}
	case p.Status == http.StatusRequestTimeout, p.Status == http.StatusInsufficientStorage:
		e.Kind = ErrUnavailable
	case p.Status == http.StatusInternalServerError:
		e.Kind, e.again, e.broken = ErrUnavailable, r.read(), r.read()
	default:
		e.Kind = ErrBadRequest
	}
	return nil, e
}
