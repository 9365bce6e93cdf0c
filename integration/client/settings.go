package client

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// SettingPrefix precedes the name of a cluster-wide setting in the key of an operation on it.
const SettingPrefix = "settings/"

// DoSetting is Do for a key that stands for a setting. A Put or Replace changes it; a Create does too, and is the
// first change of a run, before which the key counts as absent. GetAny and Get show what the node asked knows: a Get must
// be sent only where that can't be old. The version is the ETag of all settings, and the place too, in a log that is
// counted by the versions of the table: a run must change no other setting. Whatever has a version below since counts as absent.
//
// A change whose answer shows a later one is of unknown outcome, since it is told no version of its own.
func (c *Client) DoSetting(ctx context.Context, target Target, since uint64, o history.Operation) history.Operation {
	o.Node = target.Node
	o.Invoke = c.cfg.Recorder.Now()
	if err := c.sendSetting(ctx, target, &o); err != nil {
		c.cfg.Recorder.Defect(fmt.Errorf("%w: %s", err, o))
		doubtful(&o)
	}
	switch {
	case o.Kind.Read() && o.Version < since:
		o.Found, o.Read, o.Version = false, "", 0
	case o.Kind == history.Create && o.Outcome != history.OK:
		o.Kind = history.Put // should it happen yet, it will after the first change that is known
	}
	c.cfg.Recorder.Add(o)
	return o
}

func (c *Client) sendSetting(ctx context.Context, target Target, o *history.Operation) error {
	name := strings.TrimPrefix(o.Key, SettingPrefix)
	q := &request{method: "GET", uri: "/v1/settings"}
	if o.Kind.Write() {
		q.method, q.sized = "PATCH", true
		q.body = "{" + strconv.Quote(name) + ":" + strconv.Quote(o.Value) + "}"
		q.header("Content-Type", "application/merge-patch+json")
		q.header("Larder-Timeout", (c.cfg.Timeout - c.cfg.Timeout/margin).Round(time.Millisecond).String())
	}
	if o.Kind == history.Replace {
		q.header("If-Match", quoted(o.IfMatch))
	}
	a, sent, err := c.conns.exchange(ctx, target.addr(), q, time.Now().Add(c.cfg.Timeout))
	o.Return = c.cfg.Recorder.Now()
	if err != nil {
		o.Err, o.Outcome = err.Error(), history.Unknown
		if !sent || !o.Kind.Write() {
			o.Outcome = history.Refused
		}
		return nil
	}
	o.Status = a.status
	reply, tag, err := parse(a)
	if err != nil {
		return err
	}
	o.Problem = reply.Problem
	if o.Outcome, err = history.ClassifySetting(o.Kind, reply); err != nil || o.Outcome != history.OK {
		return err
	}
	var values map[string]any
	if err := json.Unmarshal(a.body, &values); err != nil {
		return fmt.Errorf("settings that are no JSON: %w", err)
	}
	value, ok := values[name].(string)
	if o.Version, err = versionOf(tag); err != nil || !ok || o.Version == 0 {
		return fmt.Errorf("settings with ETag %q and %s %v", tag, name, values[name])
	}
	o.ServedBy = target.Node
	o.Place = history.Place{Epoch: 1, Index: o.Version}
	switch {
	case o.Kind.Read():
		o.Found, o.Read = true, value
	case value != o.Value:
		doubtful(o)
	default:
		o.Existed = o.Kind != history.Create
	}
	return nil
}

// Table is the part of a node's table that is the same wherever the version is.
type Table struct {
	Version uint64
	Shards  []TableShard
}

// TableShard is a shard of a Table.
type TableShard struct {
	ID, Start, End, Epoch uint64
	Members               []struct{ Node, Role string }
}

// Table asks a node for the table. It is no operation on a key and not recorded; ok is false where there was no table, and
// an answer that the interface does not allow is a defect.
func (c *Client) Table(ctx context.Context, target Target) (table Table, ok bool) {
	q := &request{method: "GET", uri: "/v1/directory"}
	a, _, err := c.conns.exchange(ctx, target.addr(), q, time.Now().Add(c.cfg.Timeout))
	if err != nil {
		return Table{}, false
	}
	table, ok, err = readTable(a)
	if err != nil {
		c.cfg.Recorder.Defect(fmt.Errorf("the table of %s: %w", target.Node, err))
	}
	return table, ok
}

func readTable(a *answer) (table Table, ok bool, err error) {
	reply, tag, err := parse(a)
	if err != nil {
		return Table{}, false, err
	}
	if outcome, err := history.ClassifySetting(history.GetAny, reply); err != nil || outcome != history.OK {
		return Table{}, false, err
	}
	if err := json.Unmarshal(a.body, &table); err != nil {
		return Table{}, false, err
	}
	if version, err := versionOf(tag); err != nil || version != table.Version || version == 0 {
		return Table{}, false, fmt.Errorf("version %d with ETag %s", table.Version, tag)
	}
	return table, true, nil
}
