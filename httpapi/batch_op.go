package httpapi

import (
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// rawOp is an operation of a batch as it comes. Which members it may have follows from its op.
type rawOp struct {
	Op          *string        `json:"op"`
	Key         *string        `json:"key"`
	KeyB64      *[]byte        `json:"key_b64"`
	Value       *string        `json:"value"`
	ValueB64    *[]byte        `json:"value_b64"`
	ContentType *string        `json:"content_type"`
	TTL         jsontext.Value `json:"ttl"`
	IfMatch     *string        `json:"if_match"`
	IfNoneMatch *string        `json:"if_none_match"`
	FillToken   *string        `json:"fill_token"`
	Return      *string        `json:"return"`
	By          *int64         `json:"by"`
	Touch       *bool          `json:"touch"`
}

var rawOpType = reflect.TypeFor[rawOp]()

// rawMembers says what each member takes.
var rawMembers = map[string]string{
	"op": "a string", "key": "a string", "key_b64": "a string of base64", "value": "a string", "value_b64": "a string of base64",
	"content_type": "a string", "ttl": "a string or null", "if_match": "a string", "if_none_match": "a string", "fill_token": "a string",
	"return": "a string", "by": "an integer of 64 bits", "touch": "true or false",
}

// member is a member that an operation has.
type member struct {
	name  string
	given bool
}

// options are the members that not every operation has.
func (raw *rawOp) options() []member {
	return []member{{"value", raw.Value != nil || raw.ValueB64 != nil}, {"content_type", raw.ContentType != nil}, {"ttl", raw.TTL != nil},
		{"if_match", raw.IfMatch != nil}, {"if_none_match", raw.IfNoneMatch != nil}, {"fill_token", raw.FillToken != nil},
		{"return", raw.Return != nil}, {"by", raw.By != nil}, {"touch", raw.Touch != nil}}
}

// opKinds are the operations, with the members of each. They are those of single requests: expire is the PATCH of a time to
// live.
var opKinds = map[string]struct {
	op      shard.Op
	members []string
}{
	"get":    {shard.OpGet, []string{"if_none_match", "touch"}},
	"put":    {shard.OpPut, []string{"value", "content_type", "ttl", "if_match", "if_none_match", "fill_token", "return"}},
	"delete": {shard.OpDelete, []string{"if_match"}},
	"incr":   {shard.OpIncr, []string{"by", "ttl", "if_match"}},
	"append": {shard.OpAppend, []string{"value", "content_type", "ttl", "if_match"}},
	"expire": {shard.OpExpire, []string{"ttl", "if_match"}},
	"touch":  {shard.OpTouch, nil},
}

// readOp makes a request of an operation. Values, tags and times are written as in single requests. unless is the
// If-None-Match of a get, nil for none.
func (s *server) readOp(raw *rawOp) (req shard.Request, unless *tagList, _ *Problem) {
	refuse := func(format string, args ...any) (shard.Request, *tagList, *Problem) {
		return shard.Request{}, nil, kindBadBatch.problem(format, args...)
	}
	if raw.Op == nil {
		return refuse("op is missing.")
	}
	kind, ok := opKinds[*raw.Op]
	if !ok {
		return refuse("op is get, put, delete, incr, append, expire or touch.")
	}
	for _, m := range raw.options() {
		if m.given && !slices.Contains(kind.members, m.name) {
			return refuse("%s is not for op %s.", m.name, *raw.Op)
		}
	}
	req.Op = kind.op
	switch {
	case (raw.Key == nil) == (raw.KeyB64 == nil):
		return refuse("one of key and key_b64 is needed.")
	case raw.Key != nil:
		req.Key = []byte(*raw.Key)
	default:
		req.Key = *raw.KeyB64
	}
	if len(req.Key) == 0 || len(req.Key) > maxKeyBytes {
		return refuse("the key has %d bytes, 1 to %d are allowed.", len(req.Key), maxKeyBytes)
	}
	if slices.Contains(kind.members, "value") {
		switch {
		case (raw.Value == nil) == (raw.ValueB64 == nil):
			return refuse("one of value and value_b64 is needed.")
		case raw.Value != nil:
			req.Value = []byte(*raw.Value)
		default:
			req.Value = *raw.ValueB64
		}
		if int64(len(req.Value)) > s.cfg.MaxValueBytes {
			return req, nil, kindValueTooLarge.problem("the value has %d bytes, %d are allowed.", len(req.Value), s.cfg.MaxValueBytes)
		}
	}
	if raw.ContentType != nil {
		if req.ContentType = *raw.ContentType; len(req.ContentType) == 0 || len(req.ContentType) > maxContentType ||
			strings.ContainsFunc(req.ContentType, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
			return refuse("content_type has 1 to %d characters that a header can have.", maxContentType)
		}
	}
	var p *Problem
	if req.TTL, req.DefaultTTL, p = s.opTTL(kind.op, raw.TTL); p != nil {
		return req, nil, p
	}
	if req.Delta = 1; raw.By != nil {
		req.Delta = *raw.By
	}
	if kind.op != shard.OpIncr {
		req.Delta = 0
	}
	if raw.Return != nil {
		if req.ReturnOld = true; *raw.Return != "old" {
			return refuse("return is old, or absent.")
		}
	}
	req.NoTouch = raw.Touch != nil && !*raw.Touch
	if raw.IfNoneMatch != nil && kind.op == shard.OpGet {
		list, ok := parseTags([]string{*raw.IfNoneMatch})
		if !ok {
			return refuse(`if_none_match takes "*" or a list of quoted entity tags such as "\"17\"".`)
		}
		unless, raw.IfNoneMatch = &list, nil
	}
	var why string
	if req.Cond, why = conditionOf(raw.IfMatch, raw.IfNoneMatch, raw.FillToken); why != "" {
		return refuse("%s", why)
	}
	return req, unless, nil
}

// opTTL reads the time to live of an operation. byDefault tells that it has none and gets the default.
func (s *server) opTTL(op shard.Op, given jsontext.Value) (ttl time.Duration, byDefault bool, _ *Problem) {
	none := "none"
	if op == shard.OpExpire {
		none = "null"
	}
	switch {
	case given == nil && op == shard.OpExpire:
		return 0, false, kindBadBatch.problem("ttl is missing: a duration such as 60s, or null for an entry without end.")
	case given == nil && (op == shard.OpPut || op == shard.OpIncr || op == shard.OpAppend):
		return s.defaultTTL(), true, nil
	case given == nil || op == shard.OpExpire && given.Kind() == 'n':
		return 0, false, nil
	case given.Kind() != '"':
		return 0, false, kindBadBatch.problem("ttl is a duration such as 60s, or %s for an entry without end.", none)
	}
	text, err := jsontext.AppendUnquote(nil, given)
	if err == nil && string(text) == none && none == "none" {
		return 0, false, nil
	}
	ttl, why := parseTTL(string(text))
	if why != "" {
		return 0, false, kindBadBatch.problem("%s %s stands for an entry without end.", why, none)
	}
	return ttl, false, nil
}

// conditionOf is writeCondition for the members of an operation: why says in a sentence what is wrong with them.
func conditionOf(match, noneMatch, fill *string) (cond fsm.Cond, why string) {
	given := 0
	for _, m := range []*string{match, noneMatch, fill} {
		if m != nil {
			given++
		}
	}
	switch {
	case given > 1:
		return fsm.Cond{}, "if_match, if_none_match and fill_token exclude each other."
	case fill != nil:
		token, ok := parseVersion(`"` + *fill + `"`)
		if !ok {
			return fsm.Cond{}, "fill_token takes the token that a read with fill was answered, a decimal number."
		}
		return fsm.Cond{Kind: fsm.CondFill, Version: token}, ""
	case noneMatch != nil:
		if *noneMatch != "*" {
			return fsm.Cond{}, `if_none_match of a put takes "*" alone.`
		}
		return fsm.Cond{Kind: fsm.CondAbsent}, ""
	case match != nil:
		if *match == "*" {
			return fsm.Cond{Kind: fsm.CondPresent}, ""
		}
		version, ok := parseVersion(*match)
		if !ok {
			return fsm.Cond{}, `if_match takes "*" or one quoted entity tag of this cache, such as "\"17\"".`
		}
		return fsm.Cond{Kind: fsm.CondVersion, Version: version}, ""
	}
	return fsm.Cond{}, ""
}
