package client

import (
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Bounds of the interface.
const (
	maxKeyBytes     = 1024
	maxContentType  = 256
	maxLarderTime   = 60 * time.Second // the longest Larder-Timeout
	expectFromBytes = 64 << 10         // values from here on are sent once the server agrees
)

// PutOption is what Put takes: an Attribute of the entry, or a Condition.
type PutOption interface{ apply(*request) }

// Attribute describes an entry that is stored: TTL, ContentType.
type Attribute struct{ set func(*request) }

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

// ReadOption loosens what Get promises. Without one a read is linearizable: it sees every
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
	bad         error      // why it can't be sent
}

// read reports whether r changes nothing.
func (r *request) read() bool { return r.op == "get" }

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
	case r.key == "":
		r.refuse("the key is empty")
	case len(r.key) > maxKeyBytes:
		r.refuse("the key has %d bytes, %d are allowed", len(r.key), maxKeyBytes)
	}
	if r.bad != nil {
		return &Error{Op: r.op, Kind: ErrBadRequest, Applied: AppliedNo, Detail: r.bad.Error()}
	}
	if int64(len(r.value)) > maxValue {
		return &Error{Op: r.op, Kind: ErrTooLarge, Applied: AppliedNo,
			Detail: fmt.Sprintf("the value has %d bytes, Config.MaxValueBytes allows %d", len(r.value), maxValue)}
	}
	return nil
}
