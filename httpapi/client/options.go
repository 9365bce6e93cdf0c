package client

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Bounds of the interface.
const (
	maxKeyBytes       = 1024
	maxContentType    = 256
	maxLarderTime     = 60 * time.Second // the longest Larder-Timeout
	maxFill           = 30 * time.Second // the longest fill time
	maxIdempotencyKey = 64
	expectFromBytes   = 64 << 10 // values from here on are sent once the server agrees
)

// PutOption is what writes of a value take: an Attribute of the entry, a Condition, or an IdempotencyKey.
type PutOption interface {
	apply(*request)
	ofPut()
}

// CreateOption is what Create takes: an Attribute of the entry, or an IdempotencyKey.
type CreateOption interface {
	apply(*request)
	ofCreate()
}

// ChangeOption is what Delete and Expire take: a Condition, or an IdempotencyKey.
type ChangeOption interface {
	apply(*request)
	ofChange()
}

// Attribute describes an entry that is stored: TTL or NoTTL, ContentType.
type Attribute struct{ set func(*request) }

func (Attribute) ofPut()    {}
func (Attribute) ofCreate() {}

func (a Attribute) apply(r *request) {
	if a.set != nil {
		a.set(r)
	}
}

// TTL ends the entry after d: whole milliseconds, more than 0.
func TTL(d time.Duration) Attribute {
	return Attribute{func(r *request) {
		if d <= 0 || d%time.Millisecond != 0 {
			r.refuse("the TTL %s is not a positive number of milliseconds", d)
		}
		r.set("ttl", d.String())
	}}
}

// NoTTL keeps the entry until it is removed, whatever the cluster's default is.
func NoTTL() Attribute { return Attribute{func(r *request) { r.set("ttl", "none") }} }

// ContentType is the media type that the entry keeps, at most 256 bytes.
func ContentType(mediaType string) Attribute {
	return Attribute{func(r *request) {
		// What a header would lose or refuse on its way.
		if mediaType == "" || len(mediaType) > maxContentType || strings.TrimSpace(mediaType) != mediaType ||
			strings.ContainsFunc(mediaType, func(c rune) bool { return c < ' ' || c > '~' }) {
			r.refuse("the content type %q is not 1 to %d printable characters", mediaType, maxContentType)
		}
		r.contentType = mediaType
	}}
}

// Condition is what must hold of a key's present entry for a write to happen. It is decided where and when
// the write is applied. A call takes one at most.
type Condition struct{ condition condition }

func (Condition) ofPut()    {}
func (Condition) ofChange() {}

// condition is a conditional header; the zero value is none.
type condition struct{ name, value string }

func (o Condition) apply(r *request) {
	switch {
	case o.condition.name == "":
		r.refuse("a Condition that is empty")
	case r.condition.name != "":
		r.refuse("more than one Condition")
	}
	r.condition = o.condition
}

// IfVersion holds while the key's entry has this version. An empty version, such as that of an absent
// entry, is refused: see Create.
func IfVersion(v Version) Condition {
	if !v.valid() {
		return Condition{}
	}
	return Condition{condition{"If-Match", `"` + string(v) + `"`}}
}

// IfPresent holds while the key has an entry.
func IfPresent() Condition { return Condition{condition{"If-Match", "*"}} }

// Filling holds while the key was neither written nor removed since the read that gave the token
// (Entry.FillToken). For Put and Swap.
func Filling(token string) Condition {
	if strings.Trim(token, "0123456789") != "" || token == "" {
		return Condition{}
	}
	return Condition{condition{fillHeader, token}}
}

const fillHeader = "Larder-Fill"

// IdempotencyKey names a write that is to happen once, however often it is sent.
type IdempotencyKey struct{ key string }

func (IdempotencyKey) ofPut()    {}
func (IdempotencyKey) ofCreate() {}
func (IdempotencyKey) ofChange() {}

func (o IdempotencyKey) apply(r *request) {
	switch {
	case o.key == "" || len(o.key) > maxIdempotencyKey || strings.ContainsFunc(o.key, func(c rune) bool { return c < ' ' || c > '~' }):
		r.refuse("the idempotency key %q is not 1 to %d printable characters", o.key, maxIdempotencyKey)
	case r.once != "":
		r.refuse("more than one IdempotencyKey")
	}
	r.once, r.ownKey = o.key, true
}

// WithIdempotencyKey has the write made once however many calls make it under this key: 1 to 64 printable
// characters. The cluster remembers a key for 30 seconds; one that begins with Unix milliseconds and a dash until 30
// seconds after that time, and refuses it from then on with ErrOutcomeUnknown. Without this option each call has a key
// of its own, of the second kind, for its own attempts. Under a key of the first kind a call repeats an attempt that may
// have been applied for 20 seconds at most; then its outcome is unknown.
func WithIdempotencyKey(key string) IdempotencyKey { return IdempotencyKey{key} }

// ReadOption changes what Get does. Without one a read is linearizable: it sees every
// write that was acknowledged before it began.
type ReadOption struct{ set func(*request) }

func (o ReadOption) apply(r *request) {
	if o.set != nil {
		o.set(r)
	}
}

// Bounded reads from any replica that is at most staleness behind, more than 0.
func Bounded(staleness time.Duration) ReadOption {
	return ReadOption{func(r *request) {
		if staleness <= 0 {
			r.refuse("the staleness %s is not positive", staleness)
		}
		r.loosen("bounded")
		r.set("max-staleness", staleness.String())
	}}
}

// Any reads from any replica, however far behind.
func Any() ReadOption {
	return ReadOption{func(r *request) { r.loosen("any") }}
}

// Fill has a linearizable read wait up to d for another client that is loading the missing value, at most 30 s in
// whole milliseconds. Of those that miss one gets ErrNotFound at once, with Entry.FillToken: it is to load
// the value and Put it with Filling. The wait comes on top of Config.Timeout.
func Fill(d time.Duration) ReadOption {
	return ReadOption{func(r *request) {
		if d <= 0 || d > maxFill || d%time.Millisecond != 0 {
			r.refuse("the fill time %s is not a number of milliseconds up to %s", d, maxFill)
		}
		if r.fill != 0 {
			r.refuse("more than one Fill")
		}
		r.fill = d
	}}
}

// request is one call, as all its attempts have it.
type request struct {
	op          string // for errors
	method      string
	key         string
	value       []byte
	contentType string
	condition   condition
	query       url.Values // without route
	anyReplica  bool       // each replica may answer, none is better
	once        string     // idempotency key; "" for none
	ownKey      bool       // the caller chose it
	until       time.Time  // no attempt is made from then on once one may have been applied; zero for no end
	repeated    bool       // an earlier attempt may have been applied
	fill        time.Duration
	fillEnd     time.Time // of all attempts
	batch       *batch    // nil: r is of one key, or a scan
	scan        bool      // of the keys that begin with a prefix
	bad         error     // why it can't be sent
}

// takesKey reports whether r is a write that an idempotency key is for.
func (r *request) takesKey() bool {
	if b := r.batch; b != nil {
		return b.atomic && !slices.ContainsFunc(b.ops, func(o Op) bool { return o.r.op == "get" })
	}
	return !r.read() && r.op != "touch" && !r.scan
}

// repeatable reports whether a write does no harm when it is sent again although it may have been applied.
func (r *request) repeatable() bool { return r.once != "" || r.op == "touch" }

// read reports whether r changes nothing.
func (r *request) read() bool {
	return r.op == "get" || r.batch != nil && r.batch.reads || r.scan && r.method == http.MethodGet
}

// single reports whether r is a read of one key that any voter answers as well as the leader.
func (r *request) single() bool { return r.op == "get" && r.batch == nil && r.fill == 0 }

// refuse notes the first thing that is wrong with r.
func (r *request) refuse(format string, args ...any) {
	if r.bad == nil {
		r.bad = fmt.Errorf(format, args...)
	}
}

func (r *request) set(name, value string) {
	if r.query == nil {
		r.query = url.Values{}
	}
	if r.query.Has(name) {
		r.refuse("%s is given more than once", name)
	}
	r.query.Set(name, value)
}

func (r *request) loosen(consistency string) {
	r.set("consistency", consistency)
	r.anyReplica = true
}

// check is why r must not be sent, nil if it may.
func (r *request) check(maxValue int64) *Error {
	switch {
	case r.scan && r.fill != 0:
		r.refuse("Fill is for Get")
	case r.batch != nil, r.scan:
	case r.key == "":
		r.refuse("the key is empty")
	case len(r.key) > maxKeyBytes:
		r.refuse("the key has %d bytes, %d are allowed", len(r.key), maxKeyBytes)
	case r.fill != 0 && r.anyReplica:
		r.refuse("Fill goes with linearizable reads")
	case r.condition.name == fillHeader && r.method != http.MethodPut:
		r.refuse("Filling is for Put and Swap")
	case r.contentType != "" && r.op == "incr":
		r.refuse("ContentType is not for Incr")
	}
	if r.bad != nil {
		return &Error{Op: r.op, Kind: ErrBadRequest, Applied: AppliedNo, Detail: r.bad.Error()}
	}
	if int64(len(r.value)) > maxValue && r.batch == nil {
		return &Error{Op: r.op, Kind: ErrTooLarge, Applied: AppliedNo,
			Detail: fmt.Sprintf("the value has %d bytes, Config.MaxValueBytes allows %d", len(r.value), maxValue)}
	}
	return nil
}
