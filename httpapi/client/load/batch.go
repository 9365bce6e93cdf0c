package load

import (
	"context"
	"encoding/base64"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json"
)

// batchAnswer is what came back for a batch that was performed.
type batchAnswer struct {
	Results []batchResult `json:"results"`
}

// batchResult is what became of an operation, as far as is looked at. Its value is passed over.
type batchResult struct {
	Status   int          `json:"status"`
	Shard    uint64       `json:"shard"`
	ServedBy string       `json:"served_by"`
	Problem  *problemBody `json:"problem"`
}

// Batch implements BatchConn.
func (c *larderConn) Batch(ctx context.Context, ops []Op, errs []error) {
	all := func(failure func(read bool) error) {
		for i := range ops {
			errs[i] = failure(ops[i].Read)
		}
	}
	addr, err := c.route(ctx, ops[0].Key)
	if err != nil {
		all(func(bool) error { return &Failure{Unavailable, err.Error()} })
		return
	}
	conn, err := c.to(ctx, addr)
	if err != nil {
		c.learn(ops[0].Key, addr, "")
		all(func(bool) error { return &Failure{Unavailable, "no connection"} })
		return
	}
	conn.batch(ops, addr, c.target.headers)
	a, sent, err := conn.do()
	if err != nil {
		c.drop(addr)
		c.learn(ops[0].Key, addr, "")
		all(func(read bool) error { return broken(read, sent, err) })
		return
	}
	if a.closing {
		defer c.drop(addr)
	}
	if a.status != http.StatusOK {
		all(a.outcome)
		return
	}
	c.batch.Results = c.batch.Results[:0]
	if err := json.Unmarshal(a.body, &c.batch); err != nil || len(c.batch.Results) != len(ops) {
		all(func(read bool) error { return problemBody{}.failure(a.status, read) })
		return
	}
	if by := c.batch.Results[0].ServedBy; by != "" {
		c.learn(ops[0].Key, addr, by)
	}
	for i := range ops {
		errs[i] = c.batch.Results[i].outcome(ops[i].Read)
	}
}

// outcome is what a result says became of its operation.
func (r *batchResult) outcome(read bool) error {
	if done, err := outcomeOf(r.Status, r.Shard != 0, read); done {
		return err
	}
	var p problemBody
	if r.Problem != nil {
		p = *r.Problem
	}
	return p.failure(r.Status, read)
}

// batch makes c.out a batch.
func (c *httpConn) batch(ops []Op, host, headers string) {
	c.chunks = true
	b := append(c.ops[:0], `{"ops":[`...)
	for i := range ops {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendOp(b, &ops[i])
	}
	c.ops = append(b, "]}"...)
	b = append(append(c.out[:0], "POST /v1/batch HTTP/1.1\r\nHost: "...), host...)
	b = append(append(append(b, endOfLine...), headers...), "Content-Type: application/json\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(c.ops)), 10)
	b = append(append(b, endOfLine...), endOfLine...)
	c.out = append(b, c.ops...)
}

// appendOp adds an operation as JSON. Values are no text.
func appendOp(b []byte, op *Op) []byte {
	if op.Read {
		b = append(b, `{"op":"get"`...)
	} else {
		b = append(b, `{"op":"put","value_b64":"`...)
		b = append(base64.StdEncoding.AppendEncode(b, op.Value), '"')
	}
	b = append(b, `,"key_b64":"`...)
	return append(base64.StdEncoding.AppendEncode(b, op.Key), `"}`...)
}

// maxBatchSize is the most that a batch of so many operations has, bytes, with values of that length.
func maxBatchSize(ops, value int) int {
	op := len(`,{"op":"put","value_b64":"","key_b64":""}`) + base64.StdEncoding.EncodedLen(value) + base64.StdEncoding.EncodedLen(KeySize)
	return len(`{"ops":[]}`) + ops*op
}
