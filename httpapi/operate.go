package httpapi

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/larder-cache/larder/shard"
)

// mergePatch is the media type of a PATCH (RFC 7396).
const mergePatch = "application/merge-patch+json"

// patch changes an entry's time to live and nothing else of it: value and ETag stay.
func (s *server) patch(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "route")
	if err != nil {
		return err
	}
	if err := checkJSONType(r.Header, mergePatch); err != nil {
		w.Header().Set("Accept-Patch", mergePatch)
		return err
	}
	key, err := idempotencyKeyOf(r.Header)
	if err != nil {
		return err
	}
	cond, err := writeCondition(r)
	if err != nil {
		return err
	}
	call, err := s.newCall(r, values)
	if err != nil {
		return err
	}
	body, err := readBody(w, r, maxJSONBody, call.deadline, kindBodyTooLarge.problem("The body may have %d bytes.", maxJSONBody))
	if err != nil {
		return err
	}
	ttl, err := ttlPatch(body)
	if err != nil {
		return err
	}
	resp, err := call.perform(shard.Request{Op: shard.OpExpire, Key: call.key, TTL: ttl, Cond: cond, IdempotencyKey: key})
	if err != nil {
		return err
	}
	if _, err := settled(w.Header(), resp); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// ttlPatch reads {"ttl":"60s"} or {"ttl":null}, which is 0: no end.
func ttlPatch(body []byte) (time.Duration, error) {
	value, ok := soleMember(body, "ttl")
	text, isString := value.(string)
	if !ok || value != nil && !isString {
		return 0, kindBadBody.problem(`The body is a JSON object with the one member ttl, a duration or null: {"ttl":"60s"}.`)
	}
	if value == nil {
		return 0, nil
	}
	ttl, why := parseTTL(text)
	if why != "" {
		return 0, kindBadBody.problem("%s null stands for an entry without end.", why)
	}
	return ttl, nil
}

// operate serves POST, by its parameter op.
func (s *server) operate(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "op", "by", "ttl", "route")
	if err != nil {
		return err
	}
	req := shard.Request{}
	switch op := values.Get("op"); op {
	case "incr":
		req.Op = shard.OpIncr
		if req.Delta, err = deltaOf(values); err != nil {
			return err
		}
	case "append":
		req.Op = shard.OpAppend
		if req.ContentType, err = describe(r.Header); err != nil {
			return err
		}
	case "touch":
		req.Op = shard.OpTouch
	default:
		return kindBadParameter.problem("op is incr, append or touch.")
	}
	if values.Has("by") && req.Op != shard.OpIncr {
		return kindBadParameter.problem("by goes with op=incr.")
	}
	if req.IdempotencyKey, err = idempotencyKeyOf(r.Header); err != nil {
		return err
	}
	if req.Cond, err = writeCondition(r); err != nil {
		return err
	}
	if req.Op != shard.OpTouch {
		req.TTL, req.DefaultTTL, err = s.ttlOf(values, r.Header)
		req.DefaultTTL = req.DefaultTTL && req.IdempotencyKey != ""
	} else {
		err = plainTouch(values, r.Header)
	}
	if err != nil {
		return err
	}
	call, err := s.newCall(r, values)
	if err != nil {
		return err
	}
	req.Key = call.key
	if req.Op == shard.OpAppend {
		req.Value, err = s.readValue(w, r, call.deadline)
	} else {
		err = noBody(w, r, call.deadline)
	}
	if err != nil {
		return err
	}
	resp, err := call.perform(req)
	if err != nil {
		return err
	}
	f, err := settled(w.Header(), resp)
	if err != nil {
		return err
	}
	if resp.HasValue {
		f.writeValue(w, r, resp)
		return nil
	}
	// A touch, or a replay whose value was too long to be remembered.
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// deltaOf is what op=incr adds.
func deltaOf(values url.Values) (int64, error) {
	if !values.Has("by") {
		return 1, nil
	}
	delta, err := strconv.ParseInt(values.Get("by"), 10, 64)
	if err != nil {
		return 0, kindBadParameter.problem("by is a decimal integer of 64 bits, such as 5 or -1.")
	}
	return delta, nil
}

// plainTouch refuses what a touch has no use for. It may be repeated without harm, so it takes no key.
func plainTouch(values url.Values, h http.Header) error {
	if values.Has("ttl") {
		return kindBadParameter.problem("ttl is not for op=touch. PATCH changes a time to live.")
	}
	for _, name := range []string{"If-Match", "Idempotency-Key"} {
		if len(h.Values(name)) > 0 {
			return kindBadHeader.problem("%s is not for op=touch.", name)
		}
	}
	return nil
}
