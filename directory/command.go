package directory

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// commandVersion is the version of the encoding of commands.
const commandVersion = 1

// MaxLevel is the highest feature level of the directory's commands that this build knows. Level 2 has
// settings that change, the level of the shards, and operations that rebuild a member; level 3 nodes that are drained,
// operations that replace a member, and the settings repair-after and balance; level 4 members that come for the sake of
// their number, another number of them, the settings memory-only and snapshot-bandwidth, the recovery of shards, and the
// directory's own rebuilding.
const MaxLevel = 4

const (
	// settingsLevel is the feature level from which on settings change.
	settingsLevel = 2
	// placementLevel is the one from which on the directory moves replicas from node to node.
	placementLevel = 3
	// memoryLevel is the one from which on shards may be kept in memory alone, and snapshots have a bandwidth.
	memoryLevel = 4
)

// Kind says what a Command does. The names are part of the log format: add, never rename.
type Kind string

// The kinds of commands.
const (
	KindInit         Kind = "init"
	KindRegisterNode Kind = "register-node"
	KindSetLimits    Kind = "set-limits"
	KindSetLevel     Kind = "set-level"
	KindRegrant      Kind = "regrant"
	KindAddNode      Kind = "add-node"
	KindRemoveNode   Kind = "remove-node"
	KindStart        Kind = "start-operation"
	KindAdvance      Kind = "advance-operation"
	KindCancel       Kind = "cancel-operation"
	// KindSetSettings needs level 2.
	KindSetSettings Kind = "set-settings"
	// KindDrainNode needs level 3.
	KindDrainNode Kind = "drain-node"
	// KindRecover needs level 4.
	KindRecover Kind = "recover-shard"
	// KindRebuildTable and KindSettle need level 4.
	KindRebuildTable Kind = "rebuild-table"
	KindSettle       Kind = "settle-members"
)

// Command is one change of the table. Each has a precondition (R17), decided in Apply and nowhere
// else, so that any number of proposers may repeat it. Its encoding is JSON with the format's
// version: {"v":1,"kind":"set-level","set_level":{"level":2}}; exactly the field of its kind is set.
type Command struct {
	V            int               `json:"v"`
	Kind         Kind              `json:"kind"`
	Init         *Init             `json:"init,omitempty"`
	RegisterNode *RegisterNode     `json:"register_node,omitempty"`
	SetLimits    *SetLimits        `json:"set_limits,omitempty"`
	SetLevel     *SetLevel         `json:"set_level,omitempty"`
	Regrant      *Regrant          `json:"regrant,omitempty"`
	AddNode      *AddNode          `json:"add_node,omitempty"`
	RemoveNode   *RemoveNode       `json:"remove_node,omitempty"`
	Start        *StartOperation   `json:"start_operation,omitempty"`
	Advance      *AdvanceOperation `json:"advance_operation,omitempty"`
	Cancel       *CancelOperation  `json:"cancel_operation,omitempty"`
	SetSettings  *SetSettings      `json:"set_settings,omitempty"`
	DrainNode    *DrainNode        `json:"drain_node,omitempty"`
	Recover      *RecoverShard     `json:"recover_shard,omitempty"`
	RebuildTable *RebuildTable     `json:"rebuild_table,omitempty"`
	Settle       *SettleMembers    `json:"settle_members,omitempty"`
}

// fields are the changes that a command can hold, by their kinds.
func (c Command) fields() map[Kind]change {
	set := make(map[Kind]change, 1)
	put := func(kind Kind, isSet bool, f change) {
		if isSet {
			set[kind] = f
		}
	}
	put(KindInit, c.Init != nil, c.Init)
	put(KindRegisterNode, c.RegisterNode != nil, c.RegisterNode)
	put(KindSetLimits, c.SetLimits != nil, c.SetLimits)
	put(KindSetLevel, c.SetLevel != nil, c.SetLevel)
	put(KindRegrant, c.Regrant != nil, c.Regrant)
	put(KindAddNode, c.AddNode != nil, c.AddNode)
	put(KindRemoveNode, c.RemoveNode != nil, c.RemoveNode)
	put(KindStart, c.Start != nil, c.Start)
	put(KindAdvance, c.Advance != nil, c.Advance)
	put(KindCancel, c.Cancel != nil, c.Cancel)
	put(KindSetSettings, c.SetSettings != nil, c.SetSettings)
	put(KindDrainNode, c.DrainNode != nil, c.DrainNode)
	put(KindRecover, c.Recover != nil, c.Recover)
	put(KindRebuildTable, c.RebuildTable != nil, c.RebuildTable)
	put(KindSettle, c.Settle != nil, c.Settle)
	return set
}

// change is what a command does to a table: the table after it, nil when it changes nothing, or why it
// is refused. It reads nothing but its arguments.
type change interface {
	apply(t *Table) (next *Table, refusal string)
}

// Init founds the cluster. Precondition: the table is empty. It carries the outcome of the plan
// whole, so that nodes whose planning differs still agree.
type Init struct {
	Cluster string `json:"cluster"`
	Level   uint8  `json:"level"`
	// ShardLevel is as in a Table.
	ShardLevel uint8    `json:"shard_level,omitempty"`
	Settings   Settings `json:"settings"`
	Nodes      []Node   `json:"nodes"`
	Shards     []Shard  `json:"shards"`
	// Directory are the members of the directory's own group.
	Directory []Member `json:"directory"`
}

// RegisterNode reports a node's present addresses, zone and capacity. Precondition: the table knows
// the node, with this incarnation.
type RegisterNode struct {
	Node Node `json:"node"`
}

// SetLimits sets byte limits of shards. Precondition: the table has version Expect, that is, nothing
// changed since the limits were computed from it.
type SetLimits struct {
	Expect uint64       `json:"expect"`
	Limits []ShardLimit `json:"limits"`
}

// ShardLimit is the byte limit of one shard.
type ShardLimit struct {
	Shard shard.ID `json:"shard"`
	Limit uint64   `json:"limit"`
}

// SetLevel raises the feature levels, of the directory's own commands and of the shards'.
// Precondition: neither is below the present one, and, from level 2 on, the table has version Expect:
// no node joined since all of them were asked for what their builds know. A replica whose build does
// not know the levels stops, loudly: it could not follow what comes after.
type SetLevel struct {
	Level uint8 `json:"level"`
	// ShardLevel is as in a Table; from level 2 on.
	ShardLevel uint8  `json:"shard_level,omitempty"`
	Expect     uint64 `json:"expect,omitempty"`
}

// Regrant allots new version bits to a shard whose counter is (nearly) exhausted. Precondition: the
// shard has the bits Expect.
type Regrant struct {
	Shard  shard.ID `json:"shard"`
	Expect uint32   `json:"expect"`
}

// Outcome says what became of a command.
type Outcome string

// The outcomes of a command.
const (
	// OutcomeApplied: the table changed and has the Result's version.
	OutcomeApplied Outcome = "applied"
	// OutcomeUnchanged: the table says already what the command asks for.
	OutcomeUnchanged Outcome = "unchanged"
	// OutcomeRefused: the precondition did not hold; nothing changed.
	OutcomeRefused Outcome = "refused"
)

// Result answers a command.
type Result struct {
	Outcome Outcome `json:"outcome"`
	Version uint64  `json:"version"`          // of the table afterwards
	Reason  string  `json:"reason,omitempty"` // when refused
	// Operation is the id of the operation that a StartOperation began, or that tells of a RecoverShard.
	Operation uint64 `json:"operation,omitempty"`
}

var errCommand = errors.New("not a command of the directory that this build knows")

// Encode returns the bytes of c for the log, its V and Kind filled in from the field that is set.
// It refuses what a replica of this build would stop at.
func (c Command) Encode() ([]byte, error) {
	c.V, c.Kind = commandVersion, c.kind()
	if err := c.check(); err != nil {
		return nil, err
	}
	return json.Marshal(c)
}

// kind returns the kind of the field that is set.
func (c Command) kind() Kind {
	for kind := range c.fields() {
		return kind
	}
	return c.Kind
}

// DecodeCommand reads the bytes of one command. It is strict: a field that this build does not know
// would change what the command means.
func DecodeCommand(data []byte) (Command, error) {
	var c Command
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return Command{}, fmt.Errorf("%w: %w", errCommand, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Command{}, fmt.Errorf("%w: something follows it", errCommand)
	}
	if err := c.check(); err != nil {
		return Command{}, err
	}
	return c, nil
}

// level is the lowest feature level at which a replica of any build that may take part knows c.
func (c Command) level() uint8 {
	switch {
	case c.Recover != nil:
		return recoveryLevel
	case c.RebuildTable != nil, c.Settle != nil:
		return lossLevel
	case c.Start != nil && c.Start.Kind == AddMember && c.Start.Reason != "":
		return countLevel
	case c.DrainNode != nil, c.Cancel != nil && c.Cancel.R != 0,
		c.Start != nil && (c.Start.Kind == ReplaceMember || c.Start.Kind == RemoveMember && (c.Start.R != 0 || c.Start.Reason != "")):
		return placementLevel
	case c.SetSettings != nil:
		return max(settingsLevel, c.SetSettings.Settings.level())
	case c.Start != nil && c.Start.Kind == RebuildMember, c.Cancel != nil && c.Cancel.Again:
		return rebuildLevel
	}
	return 1
}

func (c Command) check() error {
	if c.V != commandVersion {
		return fmt.Errorf("%w: version %d, this build knows %d", errCommand, c.V, commandVersion)
	}
	fields := c.fields()
	if _, own := fields[c.Kind]; !own || len(fields) != 1 {
		return fmt.Errorf("%w: %q has not exactly the field of its kind", errCommand, c.Kind)
	}
	var level, shards uint8
	switch {
	case c.Init != nil:
		level, shards = c.Init.Level, c.Init.ShardLevel
	case c.SetLevel != nil:
		level, shards = c.SetLevel.Level, c.SetLevel.ShardLevel
	case c.RebuildTable != nil && c.RebuildTable.Table != nil:
		level, shards = c.RebuildTable.Table.Level, c.RebuildTable.Table.ShardLevel
	}
	if level > MaxLevel || shards > fsm.MaxLevel {
		return fmt.Errorf("%w: feature levels %d and %d, this build knows %d and %d", errCommand, level, shards, MaxLevel, fsm.MaxLevel)
	}
	return nil
}
