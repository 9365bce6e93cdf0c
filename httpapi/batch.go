package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

const (
	batchPath = "/v1/batch"
	// maxBatchOps bounds the operations of a batch that comes as one JSON body; a stream has no end.
	maxBatchOps = 10_000
	// maxBatchBody bounds such a body, bytes.
	maxBatchBody = 16 << 20
	// opBytes is about what an operation takes in memory beside its bytes, until it is answered.
	opBytes = 1 << 10
)

// ndjson is the media type of a stream of JSON values, one a line.
const ndjson = "application/x-ndjson"

// batch serves POST: operations on many keys in one request. The operations of a body of JSON are read and checked before
// anything is done; a stream of lines is performed as it comes (batch_stream.go).
func (s *server) batch(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "lease")
	if err != nil {
		return err
	}
	if values.Has("lease") && values.Get("lease") != "never" {
		return kindBadParameter.problem("lease is never, or absent.")
	}
	noLease := values.Has("lease")
	key, err := idempotencyKeyOf(r.Header)
	if err != nil {
		return err
	}
	timeout, err := timeoutOf(r.Header)
	if err != nil {
		return err
	}
	for _, name := range []string{"If-Match", "If-None-Match"} {
		if len(r.Header.Values(name)) > 0 {
			return kindBadHeader.problem("%s is not for a batch: its operations have members of that name.", name)
		}
	}
	badType := checkJSONType(r.Header, ndjson)
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && mediaType == ndjson {
		switch {
		case badType != nil:
			return refuseStream(w, badType)
		case key != "":
			return refuseStream(w, kindBadBatch.problem("A stream is not atomic, so it takes no Idempotency-Key."))
		}
		return s.batchStream(w, r, timeout, noLease)
	}
	if badType != nil {
		return badType
	}
	deadline := time.Now().Add(timeout)
	size := r.ContentLength
	if size < 0 || size > maxBatchBody {
		size = maxBatchBody
	}
	release, err := s.admission.take(1, 2*size) // as it comes, and decoded
	if err != nil {
		return err
	}
	defer release()
	body, err := readBody(w, r, maxBatchBody, deadline, kindBodyTooLarge.problem("The body of a batch may have %d bytes. Send more than one, or a stream.", maxBatchBody))
	if err != nil {
		return err
	}
	b, err := s.parseBatch(body, key, noLease)
	if err != nil {
		return err
	}
	if release, err = s.admission.take(0, int64(len(b.ops))*opBytes); err != nil {
		return err
	}
	defer release()
	replies, err := s.performBatch(r, deadline, b)
	if err != nil {
		return err
	}
	return s.writeBatch(w, b, replies)
}

// performBatch has the operations done.
func (s *server) performBatch(r *http.Request, deadline time.Time, b *batchRequest) ([]shard.Reply, error) {
	if len(b.ops) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithDeadline(r.Context(), deadline)
	defer cancel()
	return s.cfg.Data.DoBatch(ctx, shard.Batch{Ops: b.ops, Atomic: b.atomic, IdempotencyKey: b.key})
}

// writeBatch answers a batch. Values are written out one after the other: together they may be many.
func (s *server) writeBatch(w http.ResponseWriter, b *batchRequest, replies []shard.Reply) error {
	applied := Applied("")
	if b.atomic && len(replies) > 0 {
		first := replies[0].Response
		if p := statusProblem(first); p != nil && ofWhole(first.Status) {
			setPlace(w.Header(), first)
			return p
		}
		applied = AppliedYes
		for i := range replies {
			noRoom := errors.Is(replies[i].Err, shard.ErrAnswerTooLarge) // for the value, whatever was applied
			if !noRoom && replies[i].Response.Status != fsm.StatusOK {
				applied = AppliedNo
			}
		}
		if first.Replayed {
			w.Header().Set("Idempotency-Replayed", "?1")
		}
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	protect(h)
	w.WriteHeader(http.StatusOK)
	out := bufio.NewWriterSize(w, 64<<10)
	out.WriteString("{")
	if applied != "" {
		out.WriteString(`"applied":"` + string(applied) + `",`)
	}
	out.WriteString(`"results":[`)
	for i := range replies {
		if i > 0 {
			out.WriteString(",\n")
		}
		result := result(&b.ops[i], b.unless[i], &replies[i])
		if err := json.MarshalWrite(out, &result, resultOptions); err != nil {
			return nil // the client that doesn't hear it has gone
		}
	}
	out.WriteString("]}\n")
	out.Flush()
	return nil
}

// resultOptions: a media type that some client gave need not be text; what is not becomes U+FFFD.
var resultOptions = jsontext.AllowInvalidUTF8(true)

// ofWhole reports whether a status is that of an atomic batch, rather than of one of its operations: what its idempotency
// key came to.
func ofWhole(s fsm.Status) bool {
	switch s {
	case fsm.StatusKeyReused, fsm.StatusKeyTooOld, fsm.StatusKeyTooNew, fsm.StatusKeysFull:
		return true
	}
	return false
}

// batchRequest is a batch that was read and found to be in order.
type batchRequest struct {
	ops    []shard.Request
	unless map[int]*tagList // of gets, by their number
	atomic bool
	key    string
	// noLease: no read may be confirmed by a lease.
	noLease bool
}

// parseBatch reads {"ops":[...],"atomic":true}. The operations are counted as they are read: a body of the size that is
// allowed has room for more than a node should hold.
func (s *server) parseBatch(body []byte, key string, noLease bool) (*batchRequest, error) {
	b := &batchRequest{key: key, noLease: noLease}
	syntax := func(err error) error { return kindBadBody.problem("The body is no JSON of a batch: %s.", err) }
	d := jsontext.NewDecoder(bytes.NewBuffer(body))
	if d.PeekKind() != '{' {
		return nil, kindBadBody.problem(`The body is a JSON object: {"ops":[{"op":"get","key":"a"}]}.`)
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, syntax(err)
	}
	known := false
	for d.PeekKind() == '"' {
		name, err := d.ReadToken()
		if err != nil {
			return nil, syntax(err)
		}
		switch name.String() {
		case "ops":
			known = true
			if err := s.parseOps(d, b); err != nil {
				return nil, err
			}
		case "atomic":
			if err := json.UnmarshalDecode(d, &b.atomic); err != nil {
				return nil, kindBadBatch.problem("atomic is true or false.")
			}
		default:
			return nil, kindBadBatch.problem("%q is no member of a batch: there are ops and atomic.", name.String())
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, syntax(err)
	}
	if _, err := d.ReadToken(); err != io.EOF {
		return nil, kindBadBody.problem("Something follows the JSON of the batch.")
	}
	if !known {
		return nil, kindBadBatch.problem("A batch has the member ops, an array of operations.")
	}
	return b, s.checkBatch(b)
}

func (s *server) parseOps(d *jsontext.Decoder, b *batchRequest) error {
	if d.PeekKind() != '[' {
		return kindBadBatch.problem("ops is an array of operations.")
	}
	if _, err := d.ReadToken(); err != nil {
		return kindBadBody.problem("The body is no JSON of a batch: %s.", err)
	}
	for d.PeekKind() != ']' {
		if len(b.ops) == maxBatchOps {
			return kindBatchTooLarge.problem("A batch may have %d operations. Send more than one, or a stream.", maxBatchOps)
		}
		var raw rawOp
		if err := json.UnmarshalDecode(d, &raw, json.RejectUnknownMembers(true)); err != nil {
			p := badOp(err)
			return p.within("Operation %d: ", len(b.ops))
		}
		if p := s.addOp(b, &raw); p != nil {
			return p.within("Operation %d: ", len(b.ops))
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return kindBadBody.problem("The body is no JSON of a batch: %s.", err)
	}
	return nil
}

// addOp adds an operation to b.
func (s *server) addOp(b *batchRequest, raw *rawOp) *Problem {
	req, unless, p := s.readOp(raw)
	if p != nil {
		return p
	}
	req.NoLease = b.noLease && req.Op == shard.OpGet
	req.DefaultTTL = req.DefaultTTL && b.key != "" // of no use without
	if unless != nil {
		if b.unless == nil {
			b.unless = map[int]*tagList{}
		}
		b.unless[len(b.ops)] = unless
	}
	b.ops = append(b.ops, req)
	return nil
}

// checkBatch refuses what goes together in no batch, and settles what its operations depend on the whole for.
func (s *server) checkBatch(b *batchRequest) error {
	if b.key != "" && !b.atomic {
		return kindBadBatch.problem("An Idempotency-Key goes with an atomic batch alone: give operations of their own to be repeated, or add \"atomic\":true.")
	}
	size, appends := 0, 0
	for i := range b.ops {
		op := &b.ops[i]
		size += op.Size()
		if op.Op == shard.OpAppend {
			appends++
		}
		switch {
		case b.atomic && op.Cond.Kind == fsm.CondFill:
			return kindBadBatch.problem("Operation %d: a fill_token is not for an atomic batch.", i)
		case b.key != "" && op.Op == shard.OpGet:
			return kindBadBatch.problem("Operation %d: values are not remembered under an Idempotency-Key, so an atomic batch that has one has no get.", i)
		}
	}
	switch {
	case b.atomic && len(b.ops) == 0:
		return kindBadBatch.problem("An atomic batch has an operation at least.")
	case b.atomic && len(b.ops) > shard.MaxAtomicOps:
		return kindBatchTooLarge.problem("An atomic batch may have %d operations.", shard.MaxAtomicOps)
	case b.atomic && appends > shard.MaxBatchAppends:
		return kindBatchTooLarge.problem("An atomic batch may have %d appends.", shard.MaxBatchAppends)
	case b.atomic && size > shard.MaxAtomicBytes && len(b.ops) > 1:
		return kindBatchTooLarge.problem("The keys and values of an atomic batch may have %d bytes, these have %d.", shard.MaxAtomicBytes, size)
	}
	return nil
}

// within puts what p is about before its detail.
func (p *Problem) within(format string, args ...any) *Problem {
	p.Detail = fmt.Sprintf(format, args...) + p.Detail
	return p
}

// badOp is the problem with an operation that is no JSON, or not that of an operation.
func badOp(err error) *Problem {
	var semantic *json.SemanticError
	if !errors.As(err, &semantic) {
		return kindBadBody.problem("no JSON: %s.", err)
	}
	name := semantic.JSONPointer.LastToken()
	switch {
	case errors.Is(err, json.ErrUnknownName):
		return kindBadBatch.problem("%q is no member of an operation.", name)
	case semantic.JSONPointer == "" || semantic.GoType == nil || semantic.GoType == rawOpType:
		return kindBadBatch.problem("an operation is a JSON object.")
	}
	return kindBadBatch.problem("%s is no %s of JSON, and takes %s.", name, semantic.JSONKind, rawMembers[name])
}
