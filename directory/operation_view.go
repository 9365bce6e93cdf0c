package directory

import (
	"fmt"

	"github.com/larder-cache/larder/shard"
)

// MemberChange asks for one member more or less of a shard.
type MemberChange struct {
	Shard shard.ID
	Node  string
	Add   bool // else remove
	// Conf is the conf version that the change is made for, as Members shows it; "" takes whatever it is.
	Conf string
}

// ConflictError refuses a change that the present state of the cluster does not allow; Reason says why.
type ConflictError struct{ Reason string }

func (e *ConflictError) Error() string { return e.Reason }

// ConfError refuses a change that was made for another conf version of its shard.
type ConfError struct{ Conf string } // the present one

func (e *ConfError) Error() string { return fmt.Sprintf("the shard's conf version is %s", e.Conf) }

// UnknownError refuses a request about something that there is not.
type UnknownError struct {
	What string // "shard", "node" or "operation"
	Name string // which one; may be empty
}

func (e *UnknownError) Error() string {
	if e.Name == "" {
		return "no such " + e.What
	}
	return fmt.Sprintf("there is no %s %s", e.What, e.Name)
}

// MembersView is a shard's configuration as its leader has it.
type MembersView struct {
	Shard   shard.ID       `json:"shard"`
	Conf    string         `json:"conf"` // "<generation>-<index of the committed configuration>"
	Leader  string         `json:"leader"`
	Members []MemberDetail `json:"members"`
}

// MemberDetail is one member in a MembersView.
type MemberDetail struct {
	Node    string `json:"node"`
	Replica string `json:"replica"` // server id
	Role    Role   `json:"role"`
	State   string `json:"state"` // NodeUp or NodeDown
	Match   uint64 `json:"match"` // highest log index known to be on this replica
	Last    uint64 `json:"last"`  // the leader's last log index
	// Diverged: it serves nothing, since its state is not that of the others.
	Diverged bool `json:"diverged"`
}

// OperationView is an operation with its progress. Entries are those of the log, items those of the
// cache, bytes those of the state or of a snapshot on its way; all are 0 where they say nothing.
type OperationView struct {
	ID           uint64   `json:"id"`
	Kind         string   `json:"kind"`
	Shard        shard.ID `json:"shard"`
	Node         string   `json:"node"`
	Replica      string   `json:"replica"`
	From         string   `json:"from,omitempty"` // node whose replica a replacement removes
	State        string   `json:"state"`
	Phase        string   `json:"phase"`  // equal to State when it is over
	Detail       string   `json:"detail"` // what it waits for
	Error        string   `json:"error"`  // why it failed
	Reason       string   `json:"reason"` // why it was begun, where the directory began it
	EntriesDone  uint64   `json:"entries_done"`
	EntriesTotal uint64   `json:"entries_total"`
	ItemsDone    uint64   `json:"items_done"`
	ItemsTotal   uint64   `json:"items_total"`
	BytesDone    uint64   `json:"bytes_done"`
	BytesTotal   uint64   `json:"bytes_total"`
	// Snapshot tells that the bytes are those of a snapshot which comes in; BytesRate is how fast, bytes per second.
	Snapshot  bool   `json:"snapshot,omitempty"`
	BytesRate uint64 `json:"bytes_per_second,omitempty"`
}
