package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Op is an operation of a batch; GetOp and the others make them. The zero value is refused.
type Op struct{ r *request }

// GetOp reads key, as Get does.
func GetOp(key string) Op { return Op{&request{op: "get", key: key}} }

// PutOp stores value under key, as Put does.
func PutOp(key string, value []byte, opts ...PutOption) Op {
	return op(&request{op: "put", method: http.MethodPut, key: key, value: value}, opts)
}

// CreateOp stores value under key if there is no entry, as Create does.
func CreateOp(key string, value []byte, opts ...CreateOption) Op {
	return op(&request{op: "create", method: http.MethodPut, key: key, value: value, condition: condition{"If-None-Match", "*"}}, opts)
}

// SwapOp is PutOp, and has the value that it replaced in OpResult.Entry.
func SwapOp(key string, value []byte, opts ...PutOption) Op {
	r := &request{op: "swap", method: http.MethodPut, key: key, value: value}
	r.set("return", "old")
	return op(r, opts)
}

// DeleteOp removes key, as Delete does.
func DeleteOp(key string, opts ...ChangeOption) Op {
	return op(&request{op: "delete", method: http.MethodDelete, key: key}, opts)
}

// IncrOp adds by to the integer under key, as Incr does; OpResult.Entry has the sum as its value.
func IncrOp(key string, by int64, opts ...PutOption) Op {
	r := &request{op: "incr", key: key}
	r.set("by", strconv.FormatInt(by, 10))
	return op(r, opts)
}

// AppendOp adds value at the end of the one under key, as Append does; OpResult.Entry has the whole.
func AppendOp(key string, value []byte, opts ...PutOption) Op {
	return op(&request{op: "append", key: key, value: value}, opts)
}

// ExpireOp has the entry of key end after ttl, 0 for never, as Expire does.
func ExpireOp(key string, ttl time.Duration, opts ...ChangeOption) Op {
	r := &request{op: "expire", key: key}
	if ttl < 0 || ttl%time.Millisecond != 0 {
		r.refuse("the TTL %s is not a number of milliseconds", ttl)
	}
	if ttl != 0 {
		r.set("ttl", ttl.String())
	}
	return op(r, opts)
}

// TouchOp counts as a use of key's entry, as Touch does.
func TouchOp(key string) Op { return Op{&request{op: "touch", key: key}} }

func op[O interface{ apply(*request) }](r *request, opts []O) Op {
	for _, o := range opts {
		o.apply(r)
	}
	if r.once != "" {
		r.refuse("an idempotency key goes with an atomic batch, not with an operation of it")
	}
	return Op{r}
}

// BatchOption is what Batch takes: Atomic, and with it an IdempotencyKey.
type BatchOption interface {
	apply(*request)
	ofBatch()
}

func (IdempotencyKey) ofBatch() {}

// AtomicOption makes one change of a batch: see Atomic.
type AtomicOption struct{}

func (AtomicOption) ofBatch()         {}
func (AtomicOption) apply(r *request) { r.batch.atomic = true }

// Atomic applies all operations of a batch or none: one that is refused has its own error, the others ErrAborted. The keys must be
// of one shard: give them the same {tag}. At most 512 operations, 64 appends among them.
func Atomic() AtomicOption { return AtomicOption{} }

// OpResult is what an operation of a batch came to. Err is nil, or an *Error as the single call would have returned it.
type OpResult struct {
	Entry  Entry  // get; of swap, incr and append Value and ContentType, where Result.HasValue
	Result Result // writes; of all of them Place
	Err    error
}

// batch is what a request has that is one.
type batch struct {
	ops    []Op
	atomic bool
	reads  bool // there are gets alone
}

// Batch performs operations on many keys in one request, and returns a result for each, in their order. Operations of one shard are
// done in order, and a get among them sees exactly those before it; nothing spans shards. See the server's description for what keeps
// what from being tried.
//
// The error is that of all: then nothing is known of each operation but what it says (ErrUnavailable: none was applied). Operations
// that their shard refused for the moment are not sent again: ErrUnavailable in their results. An atomic batch without gets
// is sent again as a single write is, under an idempotency key.
func (c *Client) Batch(ctx context.Context, ops []Op, opts ...BatchOption) ([]OpResult, error) {
	r := &request{op: "batch", method: http.MethodPost, contentType: "application/json", batch: &batch{ops: ops, reads: true}}
	for _, o := range opts {
		o.apply(r)
	}
	gets := 0
	for i, o := range ops {
		switch {
		case o.r == nil:
			r.refuse("operation %d is empty", i)
			continue
		case o.r.op == "get":
			gets++
		}
		if e := o.r.check(c.cfg.MaxValueBytes); e != nil {
			r.refuse("operation %d: %s", i, e.Detail)
		}
	}
	r.batch.reads = gets == len(ops) && !r.batch.atomic
	switch {
	case r.once != "" && (!r.batch.atomic || gets > 0):
		r.refuse("an idempotency key goes with an atomic batch that has no get")
	case len(ops) > 0 && ops[0].r != nil:
		r.key = ops[0].r.key // the shard's leader takes it best
	}
	if r.bad == nil {
		r.value = r.batch.encode()
	}
	a, err := c.do(ctx, r)
	if a == nil || err != nil {
		return nil, err
	}
	return a.results, nil
}

// opJSON is an operation on the wire.
type opJSON struct {
	Op          string      `json:"op"`
	Key         *string     `json:"key,omitempty"`
	KeyB64      []byte      `json:"key_b64,omitempty"`
	Value       *string     `json:"value,omitempty"`
	ValueB64    []byte      `json:"value_b64,omitempty"`
	ContentType string      `json:"content_type,omitempty"`
	TTL         any         `json:"ttl,omitempty"`
	IfMatch     string      `json:"if_match,omitempty"`
	IfNoneMatch string      `json:"if_none_match,omitempty"`
	FillToken   string      `json:"fill_token,omitempty"`
	Return      string      `json:"return,omitempty"`
	By          json.Number `json:"by,omitempty"`
}

// encode is the body of the request.
func (b *batch) encode() []byte {
	body := struct {
		Atomic bool     `json:"atomic,omitempty"`
		Ops    []opJSON `json:"ops"`
	}{b.atomic, make([]opJSON, len(b.ops))}
	for i, o := range b.ops {
		r, out := o.r, &body.Ops[i]
		switch out.Op = r.op; r.op {
		case "create", "swap":
			out.Op = "put"
		}
		if utf8.ValidString(r.key) {
			out.Key = &r.key
		} else {
			out.KeyB64 = []byte(r.key)
		}
		if out.Op == "put" || out.Op == "append" {
			if len(r.value) == 0 || utf8.Valid(r.value) {
				value := string(r.value)
				out.Value = &value
			} else {
				out.ValueB64 = r.value
			}
		}
		out.ContentType = r.contentType
		if r.query.Has("ttl") {
			out.TTL = r.query.Get("ttl")
		} else if r.op == "expire" {
			out.TTL = json.RawMessage("null")
		}
		out.Return, out.By = r.query.Get("return"), json.Number(r.query.Get("by"))
		switch r.condition.name {
		case "If-Match":
			out.IfMatch = r.condition.value
		case "If-None-Match":
			out.IfNoneMatch = r.condition.value
		case fillHeader:
			out.FillToken = r.condition.value
		}
	}
	text, err := json.Marshal(body)
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	return text
}

// resultJSON is a result on the wire.
type resultJSON struct {
	Status      int
	ETag        string
	Existed     bool
	Value       *string
	ValueB64    []byte `json:"value_b64"`
	ContentType string `json:"content_type"`
	TTL         string
	Shard       uint64
	Epoch       uint64
	Index       string
	ServedBy    string `json:"served_by"`
	Read        ReadPath
	Replayed    bool
	Problem     *problemJSON
}

// settleBatch is settle for a batch.
func (r *request) settleBatch(n *node, resp *http.Response, maxValue int64) (*answer, *Error) {
	const escaped = 6                                                                            // bytes of JSON for a control character
	limit := maxValue*escaped*int64(max(len(r.batch.ops), 1)) + int64(len(r.batch.ops))*(64<<10) // any answer of Larder's is shorter
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || media != "application/json" || resp.StatusCode != http.StatusOK {
		return nil, r.foreign(n, resp, fmt.Errorf("its content type is %q", resp.Header.Get("Content-Type")))
	}
	var body struct {
		Applied Applied
		Results []resultJSON
	}
	text, err := readBody(resp, limit)
	if err == nil {
		err = json.Unmarshal(text, &body)
	}
	if err == nil && len(body.Results) != len(r.batch.ops) {
		err = fmt.Errorf("it has %d results of %d operations", len(body.Results), len(r.batch.ops))
	}
	if err != nil { // what came of each is not here
		return nil, r.foreign(n, resp, err)
	}
	a := &answer{results: make([]OpResult, len(body.Results))}
	for i := range body.Results {
		op := r.batch.ops[i].r
		a.results[i] = op.opResult(n, &body.Results[i])
		changed := op.op != "get" && (op.op != "delete" || a.results[i].Result.Existed)
		a.changed = a.changed || body.Applied == AppliedYes && changed
	}
	return a, nil
}

// opResult reads the result of an operation. What no server of Larder's answers says nothing about what happened.
func (r *request) opResult(n *node, in *resultJSON) (out OpResult) {
	place := Place{Shard: in.Shard, Epoch: in.Epoch, Index: in.Index, ServedBy: in.ServedBy}
	version := Version(strings.Trim(in.ETag, `"`))
	out.Entry.Place, out.Result.Place = place, place
	if in.Status >= 400 {
		out.Err = r.opError(n, in, version)
		return out
	}
	var value []byte
	has := in.Value != nil
	if value = in.ValueB64; has {
		value = []byte(*in.Value)
	}
	has = has || len(value) > 0
	good := false
	switch {
	case r.op == "get":
		out.Entry = Entry{Value: value, ContentType: in.ContentType, Version: version, ReadPath: in.Read, Place: place}
		if in.TTL != "" {
			ttl, err := time.ParseDuration(in.TTL)
			out.Entry.Expires, out.Entry.TTL = err == nil, ttl
		}
		good = in.Status == http.StatusOK && has && version.valid()
	default:
		out.Result = Result{Version: version, Existed: in.Existed, HasValue: has, Replayed: in.Replayed, Place: place}
		if out.Result.HasValue {
			out.Entry.Value, out.Entry.ContentType = value, in.ContentType
		}
		if r.op == "expire" || r.op == "touch" {
			out.Result.Existed = true
		}
		good = in.Status >= 200 && in.Status < 300 && in.Index != ""
	}
	if !good {
		e := r.failed(n, true, errors.New("the result is not one of Larder's"))
		e.again, e.Status = false, in.Status
		return OpResult{Err: e}
	}
	return out
}

// opError is the error of a result.
func (r *request) opError(n *node, in *resultJSON, version Version) *Error {
	if in.Problem == nil || !in.Problem.good(in.Status) {
		e := r.failed(n, true, errors.New("the result has no problem of Larder's"))
		e.again, e.Status = false, in.Status
		return e
	}
	e := &Error{Op: r.op, Applied: in.Problem.Applied, Node: n.host, Status: in.Status, Type: in.Problem.Type, Detail: in.Problem.Detail}
	switch {
	case e.Applied != AppliedNo && r.op != "get":
		e.Kind = ErrOutcomeUnknown
	case e.Applied != AppliedNo:
		e.Kind, e.Applied = ErrUnavailable, AppliedNo
	case e.Type == "/problems/not-found":
		e.Kind = ErrNotFound
	case e.Type == "/problems/not-an-integer":
		e.Kind = ErrNotInteger
	case e.Type == "/problems/aborted":
		e.Kind = ErrAborted
	case e.Status == http.StatusPreconditionFailed:
		e.Kind, e.Version = ErrPrecondition, version
	case e.Status == http.StatusRequestEntityTooLarge:
		e.Kind = ErrTooLarge
	case e.Status == http.StatusTooManyRequests || e.Status >= 500:
		e.Kind = ErrUnavailable
	default:
		e.Kind = ErrBadRequest
	}
	return e
}
