package httpapi

import (
	"cmp"
	"net/http"
	"strconv"
	"unicode/utf8"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// batchResult is what an operation of a batch came to: the status that its own request would have had, with what stands in
// that one's headers and body.
type batchResult struct {
	Status      int     `json:"status"`
	ETag        string  `json:"etag,omitzero"`
	Existed     *bool   `json:"existed,omitzero"`
	Value       *string `json:"value,omitzero"`     // where it is UTF-8
	ValueB64    []byte  `json:"value_b64,omitzero"` // else
	ContentType string  `json:"content_type,omitzero"`
	TTL         string  `json:"ttl,omitzero"`
	Miss        string  `json:"miss,omitzero"`

	Shard    uint64 `json:"shard,omitzero"` // this and what follows: of what was answered by a replica
	Epoch    uint64 `json:"epoch,omitzero"`
	Index    string `json:"index,omitzero"`
	ServedBy string `json:"served_by,omitzero"`
	Read     string `json:"read,omitzero"`
	Replayed bool   `json:"replayed,omitzero"`

	Problem *Problem `json:"problem,omitzero"` // with a status of 400 or above
}

// result is what op was answered. unless is the If-None-Match of a get, nil for none.
func result(op *shard.Request, unless *tagList, reply *shard.Reply) batchResult {
	if reply.Err != nil {
		return failed(problemOf(reply.Err, op.Op == shard.OpGet))
	}
	resp := &reply.Response
	r := batchResult{
		Shard: uint64(resp.Shard), Epoch: resp.Epoch, ServedBy: resp.ServedBy, Read: string(resp.Read), Replayed: resp.Replayed,
		Index: strconv.FormatUint(resp.Index, 10) + "." + strconv.FormatUint(uint64(resp.Position), 10),
	}
	if resp.Status == fsm.StatusCondition && op.Cond.Kind == fsm.CondFill {
		return r.refused(fillRefused(*resp))
	}
	if p := statusProblem(*resp); p != nil {
		return r.refused(p)
	}
	if resp.Version != 0 && op.Op != shard.OpDelete { // a delete's own version is that of no value
		r.ETag = formatETag(resp.Version)
	}
	r.Status = http.StatusNoContent
	switch op.Op {
	case shard.OpGet:
		if !resp.Found {
			r.Miss = string(cmp.Or(resp.MissReason, shard.MissAbsent))
			return r.refused(kindAbsent.problem("There is no live entry under this key."))
		}
		if resp.HasTTL {
			r.TTL = resp.TTL.String()
		}
		if unless != nil && unless.matchesWeakly(r.ETag) {
			r.Status = http.StatusNotModified
			return r
		}
		r.show(resp)
		return r
	case shard.OpPut:
		if r.Existed = &resp.Existed; !resp.Existed {
			r.Status = http.StatusCreated
		}
	case shard.OpDelete:
		r.Existed = &resp.Existed
	}
	if resp.HasValue {
		r.show(resp)
	}
	return r
}

// show adds the value.
func (r *batchResult) show(resp *shard.Response) {
	r.Status, r.ContentType = http.StatusOK, cmp.Or(resp.ContentType, defaultContentType)
	if utf8.Valid(resp.Value) {
		value := string(resp.Value)
		r.Value = &value
	} else {
		r.ValueB64 = resp.Value
	}
}

// refused makes r the result of an operation that was refused.
func (r batchResult) refused(p *Problem) batchResult {
	r.Status, r.ETag, r.Problem = p.Status, p.ETag, p
	return r
}

// failed is the result of an operation that no replica answered.
func failed(p *Problem) batchResult { return batchResult{}.refused(p) }
