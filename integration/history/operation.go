package history

import (
	"fmt"
	"time"
)

// Kind is what an operation asks for.
type Kind string

// The kinds. Conditional ones are decided by the server and may be answered Conflict.
const (
	Get      Kind = "get" // linearizable, wherever it is served
	Put      Kind = "put"
	Create   Kind = "create"    // put if absent
	Replace  Kind = "replace"   // put if the version is IfMatch
	Delete   Kind = "delete"    //
	DeleteIf Kind = "delete-if" // delete if the version is IfMatch
	Incr     Kind = "incr"      // add Delta to a number; Number is what it became
	Append   Kind = "append"    // put Value behind the value; Read is what became of it, where Found
	Swap     Kind = "swap"      // put that answers with the value that stood there: Read, where Found
	Expire   Kind = "expire"    // give what stands there the time to live TTL
	Touch    Kind = "touch"     // make what stands there the most recent

	// Reads that may be old. No search for an order includes them.
	GetBounded Kind = "get-bounded" // shows what was current at some time in the last MaxStaleness
	GetAny     Kind = "get-any"     // shows what was current at some time
)

// Read reports whether the kind changes nothing.
func (k Kind) Read() bool { return k == Get || k.Old() }

// Old reports whether the kind is a read whose answer may be old.
func (k Kind) Old() bool { return k == GetBounded || k == GetAny }

// Write reports whether the kind can change anything.
func (k Kind) Write() bool { return !k.Read() }

// Changes reports whether the kind gives what it stores, or its removal, a version of its own.
func (k Kind) Changes() bool { return k.Write() && k != Expire && k != Touch }

// Stores reports whether the kind leaves a value behind.
func (k Kind) Stores() bool {
	return k == Put || k == Create || k == Replace || k == Append || k == Swap
}

// Outcome is what is known of an operation once it is over.
type Outcome string

const (
	// OK: it happened; the answer's fields say how.
	OK Outcome = "ok"
	// Refused: it certainly did not happen and never will.
	Refused Outcome = "refused"
	// Unknown: it may have happened, or may still happen at any later time.
	Unknown Outcome = "unknown"
)

// Place is where in the shard's log an answer comes from: of a write its own place, of a read the
// last place whose effects it saw.
type Place struct {
	Shard    uint64
	Epoch    uint64
	Index    uint64
	Position uint64
}

// Compare orders places of one shard by their place in its log.
func (p Place) Compare(q Place) int {
	switch {
	case p.Index != q.Index:
		return compare(p.Index, q.Index)
	default:
		return compare(p.Position, q.Position)
	}
}

// CompareSlot orders places that answered for one key, over all shards that ever owned it: the
// epoch of a slot only grows.
func (p Place) CompareSlot(q Place) int {
	if p.Epoch != q.Epoch {
		return compare(p.Epoch, q.Epoch)
	}
	return p.Compare(q)
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}

func (p Place) String() string {
	return fmt.Sprintf("shard %d epoch %d place %d.%d", p.Shard, p.Epoch, p.Index, p.Position)
}

// Operation is one request and its answer.
type Operation struct {
	// The request.
	Process int // runs one operation at a time, and none after an Unknown
	Kind    Kind
	Key     string
	Value   string // of a kind that stores: never stored twice in a run
	Delta   int64  // Incr
	// TTL of what is stored, in milliseconds as the interface counts; 0 for none.
	TTL     time.Duration
	IfMatch uint64 // Replace, DeleteIf: a version that this process was shown
	Node    string // which node was asked
	// Local: of a read, that the node asked may not pass it on.
	Local bool
	// MaxStaleness of a GetBounded.
	MaxStaleness time.Duration
	// Route is how a node is to treat what another one serves: "" passes it on, "redirect" answers with the other's
	// address and "local" with its name, where the client then goes. Hops is how often it went; Node is the first asked.
	Route string `json:",omitempty"`
	Hops  int    `json:",omitempty"`
	// NoTouch: of a read, that it leaves the recency of the key alone.
	NoTouch bool `json:",omitempty"`
	// Fill: of a Get, for how long it is willing to wait while another loads what is missing, 0 for not.
	Fill time.Duration `json:",omitempty"`
	// FillToken: of a Get with Fill that found nothing, the right to load it, 0 if another has that. Of a Create, the right by
	// which it stores: it is refused if the key was written or removed since that Get, or at times without cause.
	FillToken uint64 `json:",omitempty"`
	// IdempotencyKey of a write that may be sent again. All its attempts are one operation: from the invocation of the
	// first to the return of the last.
	IdempotencyKey string
	Attempts       int // how often it was sent; 0 is once
	// Replayed: that the answer says it is that of an earlier attempt.
	Replayed bool

	// When: monotonic, since the start of the recording. Return is when the answer was complete,
	// or when the process stopped waiting.
	Invoke, Return time.Duration

	// The answer. The rest has a meaning only where Outcome is OK.
	Outcome Outcome
	Status  int    // HTTP status, 0 when there was no answer
	Problem string // type of the problem body, "" when there was none
	Err     string // transport error, "" when there was an answer

	Place    Place
	ServedBy string
	Conflict bool   // the condition did not hold; Version is what stands there
	Found    bool   // reads; Append, Swap: that Read is told, which a repeated answer may leave out
	Read     string // reads: the value
	// Miss: of reads that found nothing, why, as the server believes: absent, expired, deleted or evicted.
	Miss string `json:",omitempty"`
	// Timed: of reads, that the value has a time to live, of which Left is left, in whole seconds rounded down.
	Timed   bool          `json:",omitempty"`
	Left    time.Duration `json:",omitempty"`
	Path    string        // reads: how the server came to it, as Larder-Read has it
	Age     int           // reads that may be old: how old it says to be, in whole seconds, rounded up
	Existed bool          // Put, Swap, Delete, Expire, Touch: a value stood there before
	Number  int64         // Incr: what the number became
	// Version: of the value read, of the change, or, with Conflict, of the value that stands there.
	// 0 is absent or, after a delete, not told.
	Version uint64
}

func (o Operation) String() string {
	s := fmt.Sprintf("process %d at %s: %s %q", o.Process, o.Node, o.Kind, o.Key)
	if o.Kind.Stores() {
		s += fmt.Sprintf(" = %q", clip(o.Value))
	}
	if o.Kind == Incr {
		s += fmt.Sprintf(" by %d", o.Delta)
	}
	if o.TTL != 0 {
		s += fmt.Sprintf(" for %v", o.TTL)
	}
	if o.IfMatch != 0 {
		s += fmt.Sprintf(" if %d", o.IfMatch)
	}
	if o.FillToken != 0 && o.Kind.Write() {
		s += fmt.Sprintf(" by token %d", o.FillToken)
	}
	if o.Local {
		s += " there"
	}
	if o.Attempts > 1 {
		s += fmt.Sprintf(" sent %d times", o.Attempts)
	}
	s += fmt.Sprintf(" [%.4fs, %.4fs] ", o.Invoke.Seconds(), o.Return.Seconds())
	switch {
	case o.Outcome == Unknown || o.Outcome == Refused:
		return s + fmt.Sprintf("%s (status %d %s%s)", o.Outcome, o.Status, o.Problem, o.Err)
	case o.Conflict:
		s += fmt.Sprintf("conflict with version %d", o.Version)
	case o.Kind.Read() && !o.Found:
		s += "absent"
	case o.Kind.Read():
		s += fmt.Sprintf("%q version %d", clip(o.Read), o.Version)
	case o.Kind == Incr:
		s += fmt.Sprintf("is %d version %d", o.Number, o.Version)
	case o.Found:
		s += fmt.Sprintf("ok version %d, existed %t, told %q", o.Version, o.Existed, clip(o.Read))
	default:
		s += fmt.Sprintf("ok version %d, existed %t", o.Version, o.Existed)
	}
	if o.Path != "" {
		s += " by " + o.Path
	}
	return s + fmt.Sprintf(" (%s by %s)", o.Place, o.ServedBy)
}

// clip shortens a value for people; the values of a run differ at their start.
func clip(s string) string {
	if len(s) > 24 {
		return s[:24] + "..."
	}
	return s
}
