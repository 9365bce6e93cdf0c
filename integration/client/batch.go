package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// Batch sends operations to target in one request, records each as an operation of its own, and returns them. Each has a Process of
// its own, as they are under way at the same time. atomic: all of them are to apply, or none.
func (c *Client) Batch(ctx context.Context, target Target, ops []history.Operation, atomic bool) []history.Operation {
	invoke := c.cfg.Recorder.Now()
	for i := range ops {
		ops[i].Node, ops[i].Invoke = target.Node, invoke
	}
	if err := c.sendBatch(ctx, target, ops, atomic); err != nil {
		c.cfg.Recorder.Defect(fmt.Errorf("%w: a batch of %d, atomic %t, the first: %s", err, len(ops), atomic, ops[0]))
		for i := range ops {
			doubtful(&ops[i])
		}
	}
	for _, o := range ops {
		c.cfg.Recorder.Add(o)
	}
	return ops
}

// sendBatch sends operations and fills in their answers; its error is a defect of the server.
func (c *Client) sendBatch(ctx context.Context, target Target, ops []history.Operation, atomic bool) error {
	body, err := encodeBatch(ops, atomic)
	if err != nil {
		return err
	}
	q := &request{method: "POST", uri: "/v1/batch", body: string(body), sized: true}
	q.header("Content-Type", "application/json")
	q.header("Larder-Timeout", max(time.Millisecond, c.cfg.Timeout-c.cfg.Timeout/margin).Round(time.Millisecond).String())
	a, sent, err := c.conns.exchange(ctx, target.addr(), q, time.Now().Add(c.cfg.Timeout))
	for i := range ops {
		o := &ops[i]
		o.Return = c.cfg.Recorder.Now()
		if err != nil {
			o.Err, o.Outcome = err.Error(), history.Unknown
			if !sent || !o.Kind.Write() {
				o.Outcome = history.Refused
			}
		}
	}
	switch {
	case err != nil:
		return nil
	case a.status != http.StatusOK:
		return fillAll(ops, target.Node, a)
	}
	return fillBatch(ops, target.Node, a, atomic)
}

// fillAll sets the fields of operations that were answered by one problem.
func fillAll(ops []history.Operation, node string, a *answer) error {
	for i := range ops {
		o := &ops[i]
		if o.Status = a.status; o.Kind.Read() { // of whatever it is, nothing was read
			o.Outcome = history.Refused
			continue
		}
		if err := fill(o, node, a); err != nil {
			return err
		}
		if o.Outcome == history.OK {
			return fmt.Errorf("status %d answers a batch", a.status)
		}
	}
	return nil
}

// opJSON is an operation on the wire.
type opJSON struct {
	Op          string  `json:"op"`
	Key         string  `json:"key"`
	Value       *string `json:"value,omitempty"`
	TTL         any     `json:"ttl,omitempty"`
	IfMatch     string  `json:"if_match,omitempty"`
	IfNoneMatch string  `json:"if_none_match,omitempty"`
	Return      string  `json:"return,omitempty"`
	By          int64   `json:"by,omitempty"`
	Touch       *bool   `json:"touch,omitempty"`
}

// names are the kinds as batches name them.
var names = map[history.Kind]string{
	history.Get: "get", history.Put: "put", history.Create: "put", history.Replace: "put", history.Swap: "put", history.Delete: "delete",
	history.DeleteIf: "delete", history.Incr: "incr", history.Append: "append", history.Expire: "expire", history.Touch: "touch",
}

func encodeBatch(ops []history.Operation, atomic bool) ([]byte, error) {
	body := struct {
		Ops    []opJSON `json:"ops"`
		Atomic bool     `json:"atomic,omitempty"`
	}{make([]opJSON, len(ops)), atomic}
	for i := range ops {
		o, out := &ops[i], &body.Ops[i]
		if *out = (opJSON{Op: names[o.Kind], Key: o.Key}); out.Op == "" {
			return nil, fmt.Errorf("no batch has a %s", o.Kind)
		}
		if o.Kind.Stores() {
			out.Value = &o.Value
		}
		switch o.Kind {
		case history.Get:
			if o.NoTouch {
				out.Touch = new(bool)
			}
		case history.Create:
			out.IfNoneMatch = "*"
		case history.Replace, history.DeleteIf:
			out.IfMatch = quoted(o.IfMatch)
		case history.Swap:
			out.Return = "old"
		case history.Incr:
			out.By = o.Delta
		}
		switch {
		case o.TTL != 0:
			out.TTL = o.TTL.String()
		case o.Kind == history.Expire:
			out.TTL = json.RawMessage("null")
		}
	}
	return json.Marshal(body)
}

// resultJSON is a result on the wire.
type resultJSON struct {
	Status      int             `json:"status"`
	ETag        string          `json:"etag"`
	Existed     *bool           `json:"existed"`
	Value       *string         `json:"value"`
	ContentType string          `json:"content_type"`
	TTL         string          `json:"ttl"`
	Miss        string          `json:"miss"`
	Shard       uint64          `json:"shard"`
	Epoch       uint64          `json:"epoch"`
	Index       string          `json:"index"`
	ServedBy    string          `json:"served_by"`
	Read        string          `json:"read"`
	Problem     json.RawMessage `json:"problem"`
}

// answer is the answer that a single request would have been given.
func (r *resultJSON) answer(o *history.Operation) *answer {
	h := http.Header{"X-Content-Type-Options": {"nosniff"}}
	set := func(name, value string) {
		if value != "" {
			h.Set(name, value)
		}
	}
	set("ETag", r.ETag)
	if r.ServedBy != "" {
		set("Larder-Shard", strconv.FormatUint(r.Shard, 10))
		set("Larder-Epoch", strconv.FormatUint(r.Epoch, 10))
	}
	set("Larder-Index", r.Index)
	set("Larder-Served-By", r.ServedBy)
	set("Larder-Read", r.Read)
	if r.Existed != nil && (o.Kind == history.Delete || o.Kind == history.DeleteIf || o.Kind == history.Swap) {
		h.Set("Larder-Existed", map[bool]string{true: "?1", false: "?0"}[*r.Existed])
	}
	a := &answer{status: r.Status, header: h}
	if r.Value != nil {
		a.body = []byte(*r.Value)
	}
	switch {
	case r.Status >= 400:
		h.Set("Content-Type", "application/problem+json")
		h.Set("Retry-After", "1") // for all
		a.body = r.Problem
	case o.Kind == history.Get && r.TTL != "":
		left, err := time.ParseDuration(r.TTL)
		h.Set("Cache-Status", fmt.Sprintf("larder; hit; ttl=%d", int64(left/time.Second)))
		if err != nil {
			h.Set("Cache-Status", r.TTL) // which is none
		}
	case o.Kind == history.Get:
		h.Set("Cache-Status", "larder; hit")
	}
	if o.Kind == history.Get && r.Status == http.StatusNotFound {
		h.Set("Cache-Status", "larder; detail="+r.Miss)
	}
	return a
}

// fillBatch sets the fields of operations by their results.
func fillBatch(ops []history.Operation, node string, a *answer, atomic bool) error {
	var body struct {
		Applied string
		Results []resultJSON
	}
	if err := json.Unmarshal(a.body, &body); err != nil {
		return fmt.Errorf("a body that is no JSON: %w", err)
	}
	if len(body.Results) != len(ops) {
		return fmt.Errorf("%d results of %d operations", len(body.Results), len(ops))
	}
	for i := range ops {
		o, r := &ops[i], &body.Results[i]
		o.Status = r.Status
		if err := fill(o, node, r.answer(o)); err != nil {
			return fmt.Errorf("result %d: %w", i, err)
		}
	}
	if err := ordered(ops); err != nil {
		return err
	}
	if atomic {
		return together(ops, body.Applied)
	}
	if body.Applied != "" {
		return fmt.Errorf("applied %q of a batch that is not atomic", body.Applied)
	}
	return nil
}

// ordered checks that operations of one shard have places in the order in which they were sent: each its own, but for reads that
// did not go through the log.
func ordered(ops []history.Operation) error {
	last := map[uint64]history.Place{}
	for i := range ops {
		o := &ops[i]
		if o.Outcome != history.OK {
			continue
		}
		before, ok := last[o.Place.Shard]
		logged := o.Kind.Write() || o.Path == "log"
		if n := o.Place.CompareSlot(before); ok && (n < 0 || n == 0 && logged) {
			return fmt.Errorf("operation %d of a batch has %s, after %s", i, o.Place, before)
		}
		last[o.Place.Shard] = o.Place
	}
	return nil
}

// together checks the results of an atomic batch: all of it is one part of a log entry, or one operation was refused and says why.
func together(ops []history.Operation, applied string) error {
	var refused []string
	for i := range ops {
		o := &ops[i]
		switch {
		case o.Problem == history.ProblemAborted:
		case o.Outcome != history.OK:
			return fmt.Errorf("operation %d of an atomic batch is %s by itself", i, o.Outcome)
		case o.Conflict || o.Status == http.StatusNotFound && o.Kind.Write():
			refused = append(refused, strconv.Itoa(i))
		case applied != "yes":
			return fmt.Errorf("operation %d of an atomic batch was done, which was applied: %q", i, applied)
		case i > 0 && (o.Place.Index != ops[0].Place.Index || o.Place.Position != ops[0].Place.Position+uint64(i)):
			return fmt.Errorf("operation %d of an atomic batch has %s, the first %s", i, o.Place, ops[0].Place)
		}
		if applied == "yes" && o.Problem == history.ProblemAborted {
			return fmt.Errorf("operation %d was aborted in an atomic batch that was applied", i)
		}
	}
	switch {
	case applied == "yes" && len(refused) == 0, applied == "no" && len(refused) == 1:
		return nil
	}
	return fmt.Errorf("an atomic batch was applied: %q, and refused were its operations [%s]", applied, strings.Join(refused, " "))
}
