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
	Value       []byte        // put
	ContentType string        // put
	TTL         time.Duration // put; 0 = none; whole milliseconds
	Cond        fsm.Cond      // put, delete

	Consistency  Consistency   // get
	MaxStaleness time.Duration // get, bounded; whole milliseconds
	// NoTouch makes a get leave no trace in the LRU order.
	NoTouch bool
	// R is the replica that is meant on the node that is asked; 0: whichever it hosts.
	R uint64
}

// ReadPath says how a read was confirmed (reply header Larder-Read).
type ReadPath string

const (
	// ReadProbe: a round to a quorum of voters confirmed the leader's term.
	ReadProbe ReadPath = "probe"
	// ReadLog: the read waited for a log entry of its own (a tick for a due entry).
	ReadLog ReadPath = "log"
	// ReadFollower: a follower asked the leader for a read index.
	ReadFollower ReadPath = "follower"
	// ReadLocal: nobody was asked (bounded, any).
	ReadLocal ReadPath = "local"
)

var readPaths = []ReadPath{ReadProbe, ReadLog, ReadFollower, ReadLocal}

// Response answers a Request that was applied or read.
type Response struct {
	Shard    ID
	Epoch    uint64
	Index    uint64 // log index of the change; of a read, of the last entry whose effects it saw
	Position uint32 // place within that entry
	ServedBy string // node
	// ForwardedTo is the node that the request was forwarded to, "" when served where it came in.
	ForwardedTo string

	Status  fsm.Status // StatusOK, StatusCondition, StatusTooLarge or StatusExhausted
	Version uint64     // of the entry read, or of the change; with StatusCondition the current one
	Existed bool       // put, delete: a live entry stood there before

	// Reads only.
	Found       bool
	MissReason  MissReason // unless Found
	Value       []byte
	ContentType string
	HasTTL      bool
	TTL         time.Duration // left, when HasTTL
	Read        ReadPath
	// Age is how old the state that was read may be; 0 for linearizable reads.
	Age time.Duration
}
