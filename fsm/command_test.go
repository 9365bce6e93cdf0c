package fsm

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

// TestCommandFields ensures that validate knows every field of a command, and refuses it where the kind has none such:
// what is valid stays the same through its encoding.
func TestCommandFields(t *testing.T) {
	key := []byte("k")
	complete := map[Kind]Command{
		KindPut:          {Key: key},
		KindDelete:       {Key: key},
		KindGrant:        {Grant: Grant{Range: Range{0, 1}, TableVersion: 1}},
		KindLimit:        {TableVersion: 1},
		KindLevel:        {Level: 2},
		KindIncr:         {Key: key},
		KindAppend:       {Key: key},
		KindExpire:       {Key: key},
		KindTouch:        {Key: key},
		KindTouches:      {Touches: make([]byte, touchSize)},
		KindFlush:        {},
		KindDeletePrefix: {Slots: Range{0, 1}, PartBits: 1},
		KindGet:          {Key: key},
		KindAtomic:       {Ops: 1},
		KindBegin:        {Transfer: &Transfer{ID: 1, Range: Range{0, 1}, Generation: 1}},
		KindChunk:        {Transfer: &Transfer{ID: 1}},
		KindSeal:         {Transfer: &Transfer{ID: 1, Range: Range{0, 1}}},
		KindAccept:       {Transfer: &Transfer{ID: 1}},
		KindRefuse:       {Transfer: &Transfer{ID: 1}},
		KindSettle:       {Transfer: &Transfer{ID: 1, Outcome: OutcomeAccepted}},
		KindVoid:         {Transfer: &Transfer{ID: 1}},
		KindClose:        {Transfer: &Transfer{ID: 1, Outcome: OutcomeRefused}},
	}
	for kind, c := range complete {
		c.Kind = kind
		if err := c.validate(); err != nil {
			t.Errorf("kind %d: %v", kind, err)
		}
	}
	seen := fieldSet(0)
	try := func(name string, field func(c *Command) reflect.Value) {
		c := Command{IdempotencyKey: "k"} // for Caller, which is nothing without it
		without := c.fields()
		if name == "IdempotencyKey" {
			c, without = Command{}, 0
		}
		switch f := field(&c); f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Slice:
			f.SetBytes(make([]byte, touchSize))
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Int64:
			f.SetInt(1)
		case reflect.Pointer:
			f.Set(reflect.ValueOf(&Transfer{ID: 1}))
		default:
			f.SetUint(1)
		}
		set := c.fields() &^ without
		if set == 0 || set&(set-1) != 0 {
			t.Fatalf("%s: fields %b", name, set)
		}
		seen |= set
		for kind, whole := range complete {
			with := whole
			with.Kind = kind
			if kind.idempotent() {
				with.IdempotencyKey = "k"
			}
			f := field(&with)
			if !f.IsZero() {
				continue
			}
			f.Set(field(&c))
			// The encoding has no room for what a kind has not.
			data, err := AppendCommand(nil, &with)
			if err != nil {
				continue
			}
			if again, _, err := DecodeCommand(data); err != nil || !reflect.DeepEqual(again, with) {
				t.Errorf("kind %d with %s was encoded and decoded to %+v, %v", kind, name, again, err)
			}
		}
	}
	all := reflect.TypeFor[Command]()
	for i := range all.NumField() {
		switch f := all.Field(i); {
		case f.Name == "Kind":
		case f.Type.Kind() != reflect.Struct:
			try(f.Name, func(c *Command) reflect.Value { return reflect.ValueOf(c).Elem().Field(i) })
		default:
			for j := range f.Type.NumField() {
				if f.Type.Field(j).Type.Kind() != reflect.Struct {
					try(f.Name+"."+f.Type.Field(j).Name, func(c *Command) reflect.Value { return reflect.ValueOf(c).Elem().Field(i).Field(j) })
				}
			}
		}
	}
	if want := fieldTransfer<<1 - 1; seen != want {
		t.Errorf("fields %b are no command's, want %b", seen, want)
	}
	for _, c := range []Command{
		{Kind: KindExpire, Key: key, DefaultTTL: true},
		{Kind: KindLevel, Level: 1, Seed: 1},
	} {
		if err := c.validate(); err == nil || !strings.Contains(err.Error(), "does not have") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func (k Kind) idempotent() bool { return fieldsOf[k]&fieldIdempotencyKey != 0 }

// TestResultsAreOwn ensures that the result of an entry with one command stays as it is while further entries are
// applied, that to append to it writes into no other, and that one with a value shares its memory with none.
func TestResultsAreOwn(t *testing.T) {
	m := New()
	grant := Grant{Range: Range{0, Slots}, Epoch: 1, VersionBits: 1, Limit: 1 << 20, TableVersion: 1}
	if _, err := m.Apply(1, Batch{Level: 1, Commands: []Command{{Kind: KindGrant, Grant: grant}, {Kind: KindLevel, Level: 2, Seed: 1}}}); err != nil {
		t.Fatal(err)
	}
	var all [][]Result
	for i := range 4 * spareResults {
		c := Command{Kind: KindPut, Key: []byte{byte(i)}, Value: []byte("v"), ReturnOld: i%3 == 2}
		if c.ReturnOld {
			c.Key[0]--
		}
		spare := len(m.spare)
		r, err := m.Apply(uint64(i+2), Batch{Level: 2, Commands: []Command{c}})
		if err != nil || len(r) != 1 || cap(r) != 1 || r[0].HasValue != c.ReturnOld {
			t.Fatalf("entry %d: %+v, %v", i, r, err)
		}
		if c.ReturnOld && len(m.spare) != spare {
			t.Fatalf("entry %d: a result with a value shares its memory", i)
		}
		_ = append(r, Result{Status: 99})
		all = append(all, r)
	}
	for i, r := range all {
		if want := uint64(1)<<counterBits + uint64(i) + 1; r[0].Status != StatusOK || r[0].Version != want {
			t.Errorf("entry %d: %+v, want version %d", i, r[0], want)
		}
		if r[0].HasValue && string(r[0].Value) != "v" {
			t.Errorf("entry %d: value %q", i, r[0].Value)
		}
	}
	for _, r := range m.spare {
		if !reflect.DeepEqual(r, Result{}) {
			t.Errorf("spare result %+v", r)
		}
	}
	if _, err := m.Apply(1, Batch{}); !errors.Is(err, ErrDivergence) {
		t.Errorf("index 1 again: %v", err)
	}
}
