package main

import (
	"container/list"
	"encoding/hex"
	"errors"
	"fmt"
	"unsafe"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/larder-cache/larder/fsm"
)

// subject is a cache of a fixed number of entries under measurement. Keys come packed, keySize bytes
// each, and are not kept; a subject keeps bytes of its own. Not for concurrent use.
type subject interface {
	// put stores value parts under keys, batch of them at a time where the subject knows batches.
	put(keys []byte, batch int) error
	// get looks keys up as reads do, and returns how many are there.
	get(keys []byte) int
	// mixed looks reads up and then stores writes, as a node does that serves both.
	mixed(reads, writes []byte) error
	len() int
}

// subjectNames are the subjects, ours first.
var subjectNames = []string{"larder", "golang-lru", "map+list"}

func newSubject(name string, entries int) (subject, error) {
	switch name {
	case "larder":
		return newMachine(uint64(entries) * fsm.Cost(keySize, valueSize, 0))
	case "golang-lru":
		c, err := lru.New[string, []byte](entries)
		return &golangLRU{c: c}, err
	case "map+list":
		return &listLRU{entries: map[string]*list.Element{}, limit: entries}, nil
	}
	return nil, fmt.Errorf("no subject %q", name)
}

// keyAt writes the id-th key to dst: 16 hexadecimal digits without order.
func keyAt(dst []byte, id uint64) {
	x := id * 0x9e3779b97f4a7c15 // splitmix64's finalizer: no two ids share a key
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	var raw [8]byte
	for i := range raw {
		raw[i] = byte(x >> (8 * i))
	}
	hex.Encode(dst[:keySize], raw[:])
}

// values is where values come from: the n-th is 128 bytes somewhere in it.
var values = func() []byte {
	b := make([]byte, 64<<10)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}()

func valueAt(n int) []byte {
	at := n * valueSize % len(values)
	return values[at : at+valueSize : at+valueSize]
}

// view is key as a string, without a copy: the best that a caller of a cache with string keys can do.
func view(key []byte) string { return unsafe.String(&key[0], len(key)) }

// sink keeps the compiler from dropping reads.
var sink byte

// machine is ours: a whole state machine at its highest level, that owns all slots.
type machine struct {
	m        *fsm.Machine
	index    uint64
	puts     []fsm.Command // all of which are puts
	commands []fsm.Command
	touches  []byte
}

func newMachine(limit uint64) (*machine, error) {
	s := &machine{m: fsm.New()}
	grant := fsm.Grant{Range: fsm.Range{Start: 0, End: fsm.Slots}, Epoch: 1, Generation: 1, VersionBits: 1, Limit: limit, TableVersion: 1}
	_, err := s.apply(fsm.Batch{Level: 1, Commands: []fsm.Command{
		{Kind: fsm.KindGrant, Grant: grant}, {Kind: fsm.KindLevel, Level: fsm.MaxLevel, Seed: 0x9E3779B97F4A7C15}}})
	return s, err
}

var errRefused = errors.New("the machine refused a command")

func (s *machine) apply(b fsm.Batch) ([]fsm.Result, error) {
	s.index++
	b.Stamp = 1_700_000_000_000 + s.index/16
	results, err := s.m.Apply(s.index, b)
	if err != nil {
		return nil, err
	}
	for i := range results {
		if results[i].Status != fsm.StatusOK {
			return nil, fmt.Errorf("%w: status %d", errRefused, results[i].Status)
		}
	}
	return results, nil
}

// put writes each command in the place of the last, as what Apply gets is decoded already.
func (s *machine) put(keys []byte, batch int) error {
	if cap(s.puts) < batch {
		s.puts = make([]fsm.Command, batch)
		for i := range s.puts {
			s.puts[i].Kind = fsm.KindPut
		}
	}
	for n := 0; len(keys) > 0; n += batch {
		puts := s.puts[:min(batch, len(keys)/keySize)]
		for i := range puts {
			puts[i].Key, puts[i].Value = keys[:keySize:keySize], valueAt(n+i)
			keys = keys[keySize:]
		}
		if _, err := s.apply(fsm.Batch{Level: 1, Commands: puts}); err != nil {
			return err
		}
	}
	return nil
}

func (s *machine) get(keys []byte) (found int) {
	for ; len(keys) > 0; keys = keys[keySize:] {
		if l := s.m.Lookup(keys[:keySize]); l.Found {
			sink += l.Entry.Value[0]
			found++
		}
	}
	return found
}

func (s *machine) touchesOf(keys []byte) []fsm.Touch {
	touches := make([]fsm.Touch, len(keys)/keySize)
	for i := range touches {
		touches[i] = s.m.TouchOf(keys[i*keySize : (i+1)*keySize])
	}
	return touches
}

// touch moves keys to the recent end, batch of them in each log entry.
func (s *machine) touch(touches []fsm.Touch, batch int) error {
	for len(touches) > 0 {
		n := min(batch, len(touches))
		s.touches = s.touches[:0]
		for _, t := range touches[:n] {
			s.touches = fsm.AppendTouch(s.touches, t)
		}
		touches = touches[n:]
		if _, err := s.apply(fsm.Batch{Level: 2, Commands: []fsm.Command{{Kind: fsm.KindTouches, Touches: s.touches}}}); err != nil {
			return err
		}
	}
	return nil
}

// mixed sends the reads' touches ahead of the writes, in one log entry, as a leader does.
func (s *machine) mixed(reads, writes []byte) error {
	s.touches = s.touches[:0]
	for ; len(reads) > 0; reads = reads[keySize:] {
		l := s.m.Lookup(reads[:keySize])
		if !l.Found {
			continue
		}
		sink += l.Entry.Value[0]
		if !l.Recent {
			s.touches = fsm.AppendTouch(s.touches, l.Touch)
		}
	}
	s.commands = s.commands[:0]
	if len(s.touches) > 0 {
		s.commands = append(s.commands, fsm.Command{Kind: fsm.KindTouches, Touches: s.touches})
	}
	for n := 0; len(writes) > 0; writes = writes[keySize:] {
		s.commands = append(s.commands, fsm.Command{Kind: fsm.KindPut, Key: writes[:keySize:keySize], Value: valueAt(n)})
		n++
	}
	_, err := s.apply(fsm.Batch{Level: 2, Commands: s.commands})
	return err
}

func (s *machine) len() int { return s.m.Stats().Entries }

// golangLRU is hashicorp/golang-lru.
type golangLRU struct{ c *lru.Cache[string, []byte] }

func (s *golangLRU) put(keys []byte, _ int) error {
	for n := 0; len(keys) > 0; n++ {
		s.c.Add(string(keys[:keySize]), append([]byte(nil), valueAt(n)...))
		keys = keys[keySize:]
	}
	return nil
}

func (s *golangLRU) get(keys []byte) (found int) {
	for ; len(keys) > 0; keys = keys[keySize:] {
		if v, ok := s.c.Get(view(keys[:keySize])); ok {
			sink += v[0]
			found++
		}
	}
	return found
}

func (s *golangLRU) mixed(reads, writes []byte) error {
	s.get(reads)
	return s.put(writes, 1)
}

func (s *golangLRU) len() int { return s.c.Len() }

// listLRU is what one writes in ten minutes: a map and a list.
type listLRU struct {
	order   list.List // of *listEntry, the most recent first
	entries map[string]*list.Element
	limit   int
}

type listEntry struct {
	key   string
	value []byte
}

func (s *listLRU) put(keys []byte, _ int) error {
	for n := 0; len(keys) > 0; n++ {
		value := append([]byte(nil), valueAt(n)...)
		if e := s.entries[string(keys[:keySize])]; e != nil {
			e.Value.(*listEntry).value = value
			s.order.MoveToFront(e)
		} else {
			key := string(keys[:keySize])
			s.entries[key] = s.order.PushFront(&listEntry{key, value})
			if len(s.entries) > s.limit {
				oldest := s.order.Remove(s.order.Back()).(*listEntry)
				delete(s.entries, oldest.key)
			}
		}
		keys = keys[keySize:]
	}
	return nil
}

func (s *listLRU) get(keys []byte) (found int) {
	for ; len(keys) > 0; keys = keys[keySize:] {
		if e := s.entries[string(keys[:keySize])]; e != nil {
			s.order.MoveToFront(e)
			sink += e.Value.(*listEntry).value[0]
			found++
		}
	}
	return found
}

func (s *listLRU) mixed(reads, writes []byte) error {
	s.get(reads)
	return s.put(writes, 1)
}

func (s *listLRU) len() int { return len(s.entries) }
