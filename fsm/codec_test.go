package fsm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// goldenCommands holds one command or more of each kind with its bytes in hexadecimal, which must
// never change: logs on disk hold them.
var goldenCommands = []struct {
	name string
	c    Command
	hex  string
}{
	{"put", Command{Kind: KindPut, Key: []byte("k"), Value: []byte("vv")}, "01 00 01 6b 00 00 02 7676"},
	{"put, all fields", Command{Kind: KindPut, Key: []byte("key"), Value: []byte{0}, ContentType: "a/b", TTL: 60_000,
		Cond: Cond{Kind: CondVersion, Version: 1<<44 | 5}},
		"01 03 85808080808004 03 6b6579 e0d403 03 612f62 01 00"},
	{"put if absent", Command{Kind: KindPut, Key: []byte("k"), Cond: Cond{Kind: CondAbsent}}, "01 01 01 6b 00 00 00"},
	{"delete", Command{Kind: KindDelete, Key: []byte{0xff}}, "02 00 01 ff"},
	{"delete if present", Command{Kind: KindDelete, Key: []byte("k"), Cond: Cond{Kind: CondPresent}}, "02 02 01 6b"},
	{"delete if version", Command{Kind: KindDelete, Key: []byte("k"), Cond: Cond{Kind: CondVersion, Version: 1}}, "02 03 01 01 6b"},
	{"grant", Command{Kind: KindGrant, Grant: Grant{Range: Range{0, 16384}, Epoch: 7, Generation: 1,
		VersionBits: 1<<20 - 1, Limit: 1 << 30, TableVersion: 9}},
		"03 00 808001 07 01 ffff3f 8080808004 09"},
	{"limit", Command{Kind: KindLimit, Limit: 300, TableVersion: 2}, "04 ac02 02"},
	{"level", Command{Kind: KindLevel, Level: 1}, "05 01"},
	{"level with seed", Command{Kind: KindLevel, Level: 2, Seed: 300}, "05 02 ac02"},
	{"incr", Command{Kind: KindIncr, Key: []byte("k"), Delta: -3, TTL: 9}, "06 00 01 6b 09 05"},
	{"append", Command{Kind: KindAppend, Key: []byte("k"), Value: []byte("v"), ContentType: "t", Cond: Cond{Kind: CondPresent}}, "07 02 01 6b 00 01 74 01 76"},
	{"expire", Command{Kind: KindExpire, Key: []byte("k"), TTL: 300}, "08 00 01 6b ac02"},
	{"touch", Command{Kind: KindTouch, Key: []byte("k")}, "09 01 6b"},
	{"touches", Command{Kind: KindTouches, Touches: []byte("12345abcde")}, "0a 0a 3132333435 6162636465"},
	{"flush", Command{Kind: KindFlush}, "0b"},
	{"delete prefix", Command{Kind: KindDeletePrefix, Key: []byte("p"), Slots: Range{1, 300}, PartBits: 2, Part: 3, Version: 7}, "0c 01 70 01 ac02 02 03 07"},
	{"delete prefix, all", Command{Kind: KindDeletePrefix, Slots: Range{0, 1}}, "0c 00 00 01 00 00 00"},
	{"fill", Command{Kind: KindPut, Key: []byte("k"), Cond: Cond{Kind: CondFill, Version: 5}}, "01 04 05 01 6b 00 00 00"},
	{"put, old value", Command{Kind: KindPut, Key: []byte("k"), ReturnOld: true}, "81 02 00 01 6b 00 00 00"},
	{"put, idempotent", Command{Kind: KindPut, Key: []byte("k"), ReturnOld: true, Caller: "bob", IdempotencyKey: "i"},
		"81 03 03 626f62 01 69 00 01 6b 00 00 00"},
	{"incr, idempotent, default ttl", Command{Kind: KindIncr, Key: []byte("k"), Delta: 1, TTL: 5, DefaultTTL: true, IdempotencyKey: "i"},
		"86 05 00 01 69 00 01 6b 05 02"},
	{"get", Command{Kind: KindGet, Key: []byte("k")}, "0d 01 6b"},
	{"append, default ttl", Command{Kind: KindAppend, Key: []byte("k"), TTL: 5, DefaultTTL: true}, "87 04 00 01 6b 05 00 00"},
	{"atomic", Command{Kind: KindAtomic, Ops: 300}, "0e ac02"},
	{"atomic, idempotent", Command{Kind: KindAtomic, Ops: 1, Caller: "bob", IdempotencyKey: "i"}, "8e 01 03 626f62 01 69 01"},
	{"delete, idempotent", Command{Kind: KindDelete, Key: []byte("k"), IdempotencyKey: "i"}, "82 01 00 01 69 00 01 6b"},
	{"begin", Command{Kind: KindBegin, Transfer: &Transfer{ID: 300, Attempt: 2, Range: Range{1, 16384}, Generation: 1, VersionBits: 1<<20 - 1}},
		"0f ac02 02 01 808001 01 ffff3f"},
	{"chunk", Command{Kind: KindChunk, Transfer: &Transfer{ID: 300, Attempt: 2, Seq: 3}, Value: goldenItems()}, "10 ac02 02 03 ba01" +
		"22 0004 00000005 0000000000000001 0000000000000002 0000000000000003 0000000000000004 0000000000000006 00010069" +
		"30 0001 00000005 0000000000000001 0000000000000002 0000000000000003 0000000000000004 0000000000000006" +
		"0000100000000002 0000000000000008 000000000000000a 000000000000000b 000000000000000c 75" +
		"10 0001 0001 00000001 0000100000000001 0000000000000007 0000000000000009 6b 74 76" +
		"40 012c 0000100000000003"},
	{"seal", Command{Kind: KindSeal, Transfer: &Transfer{ID: 300, Range: Range{1, 16384}, Target: 5}}, "11 ac02 01 808001 05"},
	{"accept", Command{Kind: KindAccept, Transfer: &Transfer{ID: 300, Sealed: Sealed{
		Range: Range{1, 2}, Entries: Sum{1, 2, [2]uint64{3, 4}, [2]uint64{5, 6}}, Timed: Sum{Count: 7}, Opaque: Sum{Count: 8},
		Gone: [2]uint64{9, 10}, Clock: 11, Version: 12, Recency: 13, Horizon: 14, Tokens: 10}}},
		"12 ac02 00000001 00000002" +
			"0000000000000001 0000000000000002 0000000000000003 0000000000000004 0000000000000005 0000000000000006" +
			"0000000000000007 0000000000000000 0000000000000000 0000000000000000 0000000000000000 0000000000000000" +
			"0000000000000008 0000000000000000 0000000000000000 0000000000000000 0000000000000000 0000000000000000" +
			"0000000000000009 000000000000000a 000000000000000b 000000000000000c 000000000000000d 000000000000000e 000000000000000a"},
	{"refuse", Command{Kind: KindRefuse, Transfer: &Transfer{ID: 300}}, "13 ac02"},
	{"settle", Command{Kind: KindSettle, Transfer: &Transfer{ID: 300, Outcome: OutcomeAccepted}}, "14 ac02 01"},
	{"void", Command{Kind: KindVoid, Transfer: &Transfer{ID: 300}}, "15 ac02"},
	{"close", Command{Kind: KindClose, Transfer: &Transfer{ID: 300, Outcome: OutcomeRefused}}, "16 ac02 02"},
}

// goldenItems has one of each.
func goldenItems() []byte {
	sum := Sum{1, 5, [2]uint64{1, 2}, [2]uint64{3, 4}}
	b := appendLeft(nil, kindOpaque, []byte("\x00\x01\x00i"), sum, 6, nil, [2]uint64{})
	b = appendLeft(b, kindEntry, []byte("u"), sum, 6, &entry{version: 1<<44 | 2, expireAt: 8, stamp: 10}, [2]uint64{11, 12})
	b = appendStored(b, kindEntry, &entry{key: []byte("k"), value: []byte("v"), contentType: []byte("t"), version: 1<<44 | 1, expireAt: 7, stamp: 9})
	return appendGone(b, 300, 1<<44|3)
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestGoldenCommands ensures that each kind of command keeps its bytes in format version 1.
func TestGoldenCommands(t *testing.T) {
	for _, g := range goldenCommands {
		t.Run(g.name, func(t *testing.T) {
			want := unhex(t, g.hex)
			got, err := AppendCommand(nil, &g.c)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("encoded to %x, want %x", got, want)
			}
			c, rest, err := DecodeCommand(append(want, "rest"...))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(c, g.c) || string(rest) != "rest" {
				t.Errorf("decoded to %+v and rest %q, want %+v", c, rest, g.c)
			}
		})
	}
}

// TestGoldenBatch ensures that the frame around the commands keeps its bytes in format version 1.
func TestGoldenBatch(t *testing.T) {
	for _, g := range []struct {
		b   Batch
		hex string
	}{
		{Batch{}, "01 00 00 00"},
		{Batch{Stamp: 1_700_000_000_000, Level: 1}, "01 01 80d095ffbc31 00"},
		{Batch{Stamp: 1, Level: 1, Commands: []Command{goldenCommands[3].c, goldenCommands[8].c}}, "01 01 01 02 020001ff 0501"},
	} {
		got, err := g.b.AppendBinary([]byte("before"))
		if want := append([]byte("before"), unhex(t, g.hex)...); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%+v encoded to %x, %v; want %x", g.b, got, err, want)
		}
		if b, err := DecodeBatch(unhex(t, g.hex)); err != nil || !reflect.DeepEqual(b, g.b) {
			t.Errorf("%s decoded to %+v, %v; want %+v", g.hex, b, err, g.b)
		}
	}
}

// TestDecodeRefuses ensures that bytes which AppendBinary never writes are refused with the error that
// tells damage from a newer format.
func TestDecodeRefuses(t *testing.T) {
	long := strings.Repeat("61", MaxKey+1)
	for _, c := range []struct {
		name, hex string
		want      error
		says      string
	}{
		{"nothing", "", ErrCorrupt, "cut short at format version"},
		{"format 0", "00 01 00 00", ErrUnknownVersion, "format 0"},
		{"format 2", "02", ErrUnknownVersion, "format 2"},
		{"level above this build's", "01 05 00 00", ErrUnknownVersion, "level 5"},
		{"no level", "01", ErrCorrupt, "cut short at level"},
		{"no stamp", "01 01", ErrCorrupt, "cut short at stamp"},
		{"stamp cut", "01 01 80", ErrCorrupt, "cut short at stamp"},
		{"stamp too wide", "01 01 ffffffffffffffffff02 00", ErrCorrupt, "64 bits"},
		{"stamp padded", "01 01 8000 00", ErrCorrupt, "shortest form"},
		{"count without commands", "01 01 00 01", ErrCorrupt, "count 1"},
		{"huge count", "01 01 00 ffffffffffffffffff01 0501", ErrCorrupt, "count"},
		{"trailing byte", "01 01 00 00 00", ErrCorrupt, "after the last"},
		{"trailing command", "01 01 00 01 0501 0501", ErrCorrupt, "after the last"},
		{"kind 0", "01 01 00 01 0000", ErrCorrupt, "unknown kind 0"},
		{"kind 23", "01 01 00 01 1700", ErrCorrupt, "unknown kind 23"},
		{"begin of no transfer", "01 04 00 01 0f 00 01 00 01 01 01", ErrCorrupt, "without the id of a transfer"},
		{"begin of an empty range", "01 04 00 01 0f 01 01 05 05 01 01", ErrCorrupt, "transfer of range [5, 5)"},
		{"begin of no generation", "01 04 00 01 0f 01 01 00 05 00 01", ErrCorrupt, "generation 0"},
		{"item of no kind", "01 04 00 01 10 01 01 01 01 50", ErrCorrupt, "item 0: malformed item"},
		{"item of no store", "01 04 00 01 10 01 01 01 01 43", ErrCorrupt, "item 0: malformed item"},
		{"item cut", "01 04 00 01 10 01 01 01 03 400001", ErrCorrupt, "item 0: malformed item"},
		{"accept cut", "01 04 00 01 12 01 00", ErrCorrupt, "bytes of what was sealed"},
		{"settle as staging", "01 04 00 01 14 01 03", ErrCorrupt, "outcome 3"},
		{"atomic of nothing", "01 01 00 02 0e00 0d0161", ErrCorrupt, "0 commands held together"},
		{"atomic of too many", "01 01 00 02 0e8104 0d0161", ErrCorrupt, "513 commands held together"},
		{"atomic of more than follow", "01 01 00 02 0e02 0d0161", ErrCorrupt, "an atomic of 2 commands, 1 follow"},
		{"atomic at the end", "01 01 00 01 0e01", ErrCorrupt, "an atomic of 1 commands, 0 follow"},
		{"atomic in an atomic", "01 01 00 03 0e02 0e01 0d0161", ErrCorrupt, "an atomic within another"},
		{"atomic flush", "01 01 00 02 0e01 0b", ErrCorrupt, "a command of kind 11 that can't be held together"},
		{"atomic fill", "01 01 00 02 0e01 01 04 05 01 61 00 00 00", ErrCorrupt, "a command of kind 1 that can't be held together"},
		{"idempotent command in an atomic", "01 01 00 02 0e01 82 01 00 01 69 00 01 61", ErrCorrupt, "a command of kind 2 that can't be held together"},
		{"get in an idempotent atomic", "01 01 00 02 8e01000169 01 0d0161", ErrCorrupt, "a command of kind 13 that can't be held together"},
		{"default in an atomic", "01 01 00 02 0e01 87 04 00 01 61 05 00 00", ErrCorrupt, "a command of kind 7 that can't be held together"},
		{"default alone", "01 01 00 01 87 04 00 01 61 05 00 00", ErrCorrupt, "a default that nothing depends on"},
		{"condition 5", "01 01 00 01 02 05 01 01 61", ErrCorrupt, "unknown condition 5"},
		{"fill token of a delete", "01 01 00 01 02 04 01 01 61", ErrCorrupt, "fill token with kind 2"},
		{"flags 0", "01 01 00 01 82 00 00 01 61", ErrCorrupt, "flags 0"},
		{"flags 8", "01 01 00 01 82 08 00 01 61", ErrCorrupt, "flags 8"},
		{"no idempotency key", "01 01 00 01 82 01 00 00 00 01 61", ErrCorrupt, "no idempotency key"},
		{"delete that returns the old value", "01 01 00 01 82 02 00 01 61", ErrCorrupt, "a field that kind 2 does not have"},
		{"idempotent touch", "01 01 00 01 89 01 00 01 78 01 61", ErrCorrupt, "a field that kind 9 does not have"},
		{"flush with flags", "01 01 00 01 8b 02", ErrCorrupt, "a field that kind 11 does not have"},
		{"no touches", "01 01 00 01 0a 00", ErrCorrupt, "touches of 0 bytes"},
		{"half a touch", "01 01 00 01 0a 07 01020304050607", ErrCorrupt, "touches of 7 bytes"},
		{"no slots", "01 01 00 01 0c 01 6b 05 05 00 00 01", ErrCorrupt, "slots [5, 5)"},
		{"part out of bounds", "01 01 00 01 0c 01 6b 00 05 01 02 01", ErrCorrupt, "part 2 of 1 bits"},
		{"too many parts", "01 01 00 01 0c 01 6b 00 05 19 02 01", ErrCorrupt, "part 2 of 25 bits"},
		{"condition's version padded", "01 01 00 01 02 03 8100 01 61", ErrCorrupt, "shortest form"},
		{"empty key", "01 01 00 01 02 00 00", ErrCorrupt, "key of 0 bytes"},
		{"long key", "01 01 00 01 02 00 8108" + long, ErrCorrupt, "key of 1025 bytes"},
		{"key cut", "01 01 00 01 02 00 02 61", ErrCorrupt, "key of 2 bytes with 1 left"},
		{"long content type", "01 01 00 01 01 00 01 61 00 8108" + long + "00", ErrCorrupt, "content type of 1025"},
		{"value cut", "01 01 00 01 01 00 01 61 00 00 02 61", ErrCorrupt, "value of 2 bytes with 1 left"},
		{"value of 2^64-1", "01 01 00 01 01 00 01 61 00 00 ffffffffffffffffff01", ErrCorrupt, "value of"},
		{"empty range", "01 01 00 01 03 05 05 01 01 01 01 01", ErrCorrupt, "range [5, 5)"},
		{"range reversed", "01 01 00 01 03 05 04 01 01 01 01 01", ErrCorrupt, "range [5, 4)"},
		{"range beyond the slots", "01 01 00 01 03 00 818001 01 01 01 01 01", ErrCorrupt, "range [0, 16385)"},
		{"range wraps around 32 bits", "01 01 00 01 03 00 8180808010 01 01 01 01 01", ErrCorrupt, "out of bounds"},
		{"21 version bits", "01 01 00 01 03 00 01 01 01 808040 01 01", ErrCorrupt, "version bits 1048576"},
		{"grant of table version 0", "01 01 00 01 03 00 01 01 01 01 01 00", ErrCorrupt, "table version"},
		{"limit of table version 0", "01 01 00 01 04 01 00", ErrCorrupt, "table version"},
		{"second command cut", "01 01 00 02 0501 05", ErrCorrupt, "cut short at level"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := DecodeBatch(unhex(t, c.hex))
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %+v, %v; want an error that is %v and says %q", b, err, c.want, c.says)
			}
			if c.want == ErrCorrupt && errors.Is(err, ErrUnknownVersion) || c.want == ErrUnknownVersion && errors.Is(err, ErrCorrupt) {
				t.Errorf("%v is both", err)
			}
		})
	}
}

// malformed commands have no encoding, and Apply refuses them as well.
var malformed = map[string]Command{
	"no kind":               {},
	"unknown kind":          {Kind: 15},
	"no key":                {Kind: KindPut},
	"long key":              {Kind: KindDelete, Key: make([]byte, MaxKey+1)},
	"long content type":     {Kind: KindPut, Key: []byte("k"), ContentType: strings.Repeat("x", MaxContentType+1)},
	"unknown condition":     {Kind: KindPut, Key: []byte("k"), Cond: Cond{Kind: 5}},
	"version of no use":     {Kind: KindPut, Key: []byte("k"), Cond: Cond{Kind: CondPresent, Version: 1}},
	"default without a key": {Kind: KindPut, Key: []byte("k"), DefaultTTL: true, ReturnOld: true},
	"default of an expire":  {Kind: KindExpire, Key: []byte("k"), DefaultTTL: true, IdempotencyKey: "k"},
	"long caller":           {Kind: KindPut, Key: []byte("k"), IdempotencyKey: "k", Caller: strings.Repeat("x", MaxCaller+1)},
	"long idempotency key":  {Kind: KindPut, Key: []byte("k"), IdempotencyKey: strings.Repeat("x", MaxIdempotencyKey+1)},
	"caller alone":          {Kind: KindPut, Key: []byte("k"), Caller: "bob"},
	"fill by append":        {Kind: KindAppend, Key: []byte("k"), Cond: Cond{Kind: CondFill}},
	"touch on condition":    {Kind: KindTouch, Key: []byte("k"), Cond: Cond{Kind: CondPresent}},
	"expire with value":     {Kind: KindExpire, Key: []byte("k"), Value: []byte("v")},
	"put with delta":        {Kind: KindPut, Key: []byte("k"), Delta: 1},
	"put with touches":      {Kind: KindPut, Key: []byte("k"), Touches: make([]byte, touchSize)},
	"flush with slots":      {Kind: KindFlush, Slots: Range{0, 1}},
	"long prefix":           {Kind: KindDeletePrefix, Key: make([]byte, MaxKey+1), Slots: Range{0, 1}},
	"delete with value":     {Kind: KindDelete, Key: []byte("k"), Value: []byte("v")},
	"delete with type":      {Kind: KindDelete, Key: []byte("k"), ContentType: "t"},
	"delete with ttl":       {Kind: KindDelete, Key: []byte("k"), TTL: 1},
	"put with grant":        {Kind: KindPut, Key: []byte("k"), Grant: Grant{Epoch: 1}},
	"put with limit":        {Kind: KindPut, Key: []byte("k"), Limit: 1},
	"put with level":        {Kind: KindPut, Key: []byte("k"), Level: 1},
	"limit with key":        {Kind: KindLimit, TableVersion: 1, Key: []byte("k")},
	"limit with condition":  {Kind: KindLimit, TableVersion: 1, Cond: Cond{Kind: CondAbsent}},
	"limit without version": {Kind: KindLimit, Limit: 1},
	"level 1 with seed":     {Kind: KindLevel, Level: 1, Seed: 1},
	"level with version":    {Kind: KindLevel, Level: 1, TableVersion: 1},
	"empty grant":           {Kind: KindGrant, Grant: Grant{Epoch: 1, TableVersion: 1}},
	"grant beyond slots":    {Kind: KindGrant, Grant: Grant{Range: Range{1, Slots + 1}, TableVersion: 1}},
	"grant of 21 bits":      {Kind: KindGrant, Grant: Grant{Range: Range{0, 1}, VersionBits: 1 << 20, TableVersion: 1}},
	"grant without version": {Kind: KindGrant, Grant: Grant{Range: Range{0, 1}}},
}

// TestEncodeRefuses ensures that a malformed command is refused before it reaches a log, and that the
// caller's buffer keeps what it held.
func TestEncodeRefuses(t *testing.T) {
	for name, c := range malformed {
		b := Batch{Commands: []Command{{Kind: KindLevel}, c}}
		got, err := b.AppendBinary([]byte("before"))
		if !errors.Is(err, ErrMalformed) || string(got) != "before" {
			t.Errorf("%s: got %q, %v; want ErrMalformed", name, got, err)
		}
	}
}

// TestDecodedBytesAreFenced ensures that appending to a decoded key or value can't write into the log
// entry that it aliases.
func TestDecodedBytesAreFenced(t *testing.T) {
	data, err := Batch{Commands: []Command{{Kind: KindPut, Key: []byte("k"), Value: []byte("v")}}}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	before := slices.Clone(data)
	b, err := DecodeBatch(data)
	if err != nil {
		t.Fatal(err)
	}
	_ = append(b.Commands[0].Key, 'x')
	_ = append(b.Commands[0].Value, 'x')
	if !bytes.Equal(data, before) {
		t.Errorf("entry became %x, was %x", data, before)
	}
}

// FuzzDecodeBatch ensures that decoding never panics, and that what it accepts has exactly the bytes
// it came from, and decodes to itself again.
func FuzzDecodeBatch(f *testing.F) {
	var all Batch
	for _, g := range goldenCommands {
		if g.c.Kind == KindAtomic || g.c.DefaultTTL && g.c.IdempotencyKey == "" {
			continue // no batch by themselves
		}
		all.Commands = append(all.Commands, g.c)
		one, err := Batch{Stamp: math.MaxUint64, Level: 1, Commands: []Command{g.c}}.AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(one)
	}
	put := Command{Kind: KindPut, Key: []byte("k"), DefaultTTL: true}
	all.Commands = append(all.Commands, Command{Kind: KindAtomic, Ops: 1}, Command{Kind: KindGet, Key: []byte("k")},
		Command{Kind: KindAtomic, Ops: 2, IdempotencyKey: "i"}, put, put)
	whole, err := all.AppendBinary(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte{1, 1, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := DecodeBatch(data)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnknownVersion) {
				t.Fatalf("error %v is neither", err)
			}
			return
		}
		again, err := b.AppendBinary(nil)
		if err != nil {
			t.Fatalf("%+v has no encoding: %v", b, err)
		}
		if !bytes.Equal(again, data) {
			t.Fatalf("%x was decoded and encoded to %x", data, again)
		}
		if b2, err := DecodeBatch(again); err != nil || !reflect.DeepEqual(b, b2) {
			t.Fatalf("decoded again: %+v, %v; want %+v", b2, err, b)
		}
	})
}

func ExampleBatch_AppendBinary() {
	b := Batch{Stamp: 1000, Level: 1, Commands: []Command{
		{Kind: KindPut, Key: []byte("greeting"), Value: []byte("hello"), TTL: 60_000},
	}}
	data, err := b.AppendBinary(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	decoded, err := DecodeBatch(data)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%d bytes: %s = %s\n", len(data), decoded.Commands[0].Key, decoded.Commands[0].Value)
	// Output: 26 bytes: greeting = hello
}

// TestDecodeBatchOfAClaim ensures that a batch which claims many commands, and has bytes for as many but no commands, takes no
// memory for them.
func TestDecodeBatchOfAClaim(t *testing.T) {
	const claimed = 4 << 20
	data := binary.AppendUvarint([]byte{batchVersion, baseLevel, 1}, claimed)
	data = append(data, make([]byte, claimed)...)
	before := allocated()
	if _, err := DecodeBatch(data); !errors.Is(err, ErrCorrupt) {
		t.Errorf("%v, want ErrCorrupt", err)
	}
	if n := allocated() - before; n > 2*claimed {
		t.Errorf("%d bytes allocated for %d", n, len(data))
	}
}

// allocated is how many bytes were ever allocated.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
