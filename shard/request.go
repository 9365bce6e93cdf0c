package shard

import (
	"time"

	"github.com/larder-cache/larder/fsm"
)

// ID names a shard; 0 is the directory's group. Ids are never reused.
type ID uint64

// Directory is the id of the directory's own group.
const Directory ID = 0

// Op is what a Request asks for.
type Op uint8

const (
	// OpGet is a read.
	OpGet Op = 1
	// OpPut stores a value.
	OpPut Op = 2
	// OpDelete removes a key.
	OpDelete Op = 3

	// The operations from here on need feature level 2 (see fsm.Kind for what each does).

	// OpIncr adds Delta to a decimal integer.
	OpIncr Op = 4
	// OpAppend appends Value to a value.
	OpAppend Op = 5
	// OpExpire sets the time to live of an entry to TTL, 0 for none.
	OpExpire Op = 6
	// OpTouch counts as a use of an entry and changes nothing else.
	OpTouch Op = 7
)

// Consistency is what a read may show.
type Consistency uint8

const (
	// Linearizable reads see every change that was acknowledged before they began.
	Linearizable Consistency = 0
	// Bounded reads see every change that was acknowledged MaxStaleness before they began.
	Bounded Consistency = 1
	// Any reads see some earlier state, whatever its age.
	Any Consistency = 2
)

// Request is one operation of a client on one key. Its deadline is the context's.
type Request struct {
	Shard       ID // filled in by the router
	Op          Op
	Key         []byte
	Value       []byte        // put, append
	ContentType string        // put, append
	TTL         time.Duration // put, incr, append, expire; 0 = none; whole milliseconds
	Cond        fsm.Cond      // all writes but touch; CondFill for put alone

	Delta     int64 // incr
	ReturnOld bool  // put: Response.Value is what was replaced
	// Caller and IdempotencyKey are the scope in which a write is applied once (R7); the key is "" for a
	// write that isn't idempotent. Not for touch.
	Caller         string
	IdempotencyKey string
	// DefaultTTL: TTL is what the node that took the request filled in by its settings, and no part of what
	// the key stands for. With a key only: put, incr, append.
	DefaultTTL bool

	// Fill is how long a linearizable read is willing to wait for another reader to fill a miss, and to
	// fill it itself; 0: it is not (fill.go). Whole milliseconds, at most MaxFill.
	Fill time.Duration

	Consistency  Consistency   // get
	MaxStaleness time.Duration // get, bounded; whole milliseconds
	// NoTouch makes a get leave no trace in the LRU order.
	NoTouch bool
	// NoLease makes a get ask a quorum, also where the leader holds a lease.
	NoLease bool
	// R is the replica that is meant on the node that is asked; 0: whichever it hosts.
	R uint64
}

// ReadPath says how a read was confirmed (reply header Larder-Read).
type ReadPath string

const (
	// ReadProbe: a round to a quorum of voters confirmed the leader's term.
	ReadProbe ReadPath = "probe"
	// ReadLease: a lease told that nobody else leads (readlease.go).
	ReadLease ReadPath = "lease"
	// ReadLog: the read waited for a log entry of its own (a tick for a due entry).
	ReadLog ReadPath = "log"
	// ReadFollower: a follower asked the leader for a read index.
	ReadFollower ReadPath = "follower"
	// ReadLocal: nobody was asked (bounded, any).
	ReadLocal ReadPath = "local"
)

var readPaths = []ReadPath{ReadProbe, ReadLease, ReadLog, ReadFollower, ReadLocal}

// Response answers a Request that was applied or read.
type Response struct {
	Shard    ID
	Epoch    uint64
	Index    uint64 // log index of the change; of a read, of the last entry whose effects it saw
	Position uint32 // place within that entry
	ServedBy string // node
	// ForwardedTo is the node that the request was forwarded to, "" when served where it came in.
	ForwardedTo string

	Status  fsm.Status // of a read StatusOK; of a write any but StatusNotOwner and StatusStale
	Version uint64     // of the entry read, or of the change; with StatusCondition the current one
	Existed bool       // writes: a live entry stood there before

	// Replayed: the write was made by an earlier request with its idempotency key, and is answered from memory.
	Replayed bool
	// HasValue: a write's answer has Value and ContentType (see fsm.Result).
	HasValue    bool
	Value       []byte // reads too
	ContentType string // reads too

	// Reads only.
	Found      bool
	MissReason MissReason // unless Found
	// FillToken of a miss: the reader may fill it, by a put with fsm.CondFill and this version. 0: no token.
	FillToken uint64
	HasTTL    bool
	TTL       time.Duration // left, when HasTTL
	Read      ReadPath
	// Hot: the leader answered, and other voters had better answer some of the shard's reads. It is what the node adds where the request
	// came in, and does not travel.
	Hot bool
	// Age is how old the state that was read may be when it is answered, so it may exceed MaxStaleness
	// by the time that the request took; 0 for linearizable reads.
	Age time.Duration
}
