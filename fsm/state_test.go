package fsm

import (
	"bytes"
	"reflect"
	"testing"
	"unsafe"
)

// derived names the fields that snapshots leave out, each with what it follows from. What is in a snapshot
// of the others is tried out by TestStateIsCovered.
var derived = map[string]string{
	"Machine.bound":    "max(limit, bytes) between batches; checkInvariants holds it to that",
	"Machine.held":     "false between batches",
	"Machine.observer": "stands beside the state",
	"Machine.copying":  "stands beside the state",
	"Machine.recent":   "says which touches are worth their bytes, to leaders alone",
	"Machine.scratch":  "holds nothing between commands",
	"Machine.spare":    "results that nobody has yet",
	"Machine.warming":  "holds nothing between batches",
	"Machine.header":   "walked: the fields of header",
	"Machine.store":    "walked: the fields of entry, and gone versions",
	"Machine.keys":     "walked: the fields of keyMemory",
	"header.owned":     "walked: the fields of Range",
	"header.moves":     "walked, part by part",
	"keyMemory.timed":  "walked: the fields of entry",
	"keyMemory.opaque": "walked: the fields of entry",

	"store.keySlot":   "a rule, the same in all machines",
	"store.owned":     "Machine.owned",
	"store.seed":      "Machine.seed",
	"store.index":     "finds records by key",
	"store.summed":    "sums of entries, and gone versions, which are walked",
	"store.records":   "the fields of entry, and their order",
	"store.arena":     "the bytes of entries",
	"store.due":       "finds records by (expireAt, stamp)",
	"store.foreseen":  "says what was fetched from memory",
	"store.marks":     "places in the order, by what the header says of stamps",
	"store.watch":     "stands beside the state",
	"store.oldestRef": "order of entries",
	"store.newestRef": "order of entries",
	"store.size":      "sum over entries",
}

// TestStateIsCovered ensures that the snapshot and the checksum change with every field of the state,
// except those that are known to follow from others (R8). A new field fails here until it is either.
func TestStateIsCovered(t *testing.T) {
	m := sample(t).Machine
	sum, image := m.Checksum(), snapshotBytes(t, m)
	covered := func(name string, m *Machine) {
		t.Helper()
		if m.Checksum() == sum {
			t.Errorf("%s is in no checksum", name)
		}
		if s := m.Snapshot(); s.Checksum() != m.Checksum() {
			t.Errorf("%s: the snapshot's checksum is another", name)
		}
		// The end of an image is the checksum.
		if end := len(image) - 36; bytes.Equal(snapshotBytes(t, m)[:min(end, len(snapshotBytes(t, m)))], image[:end]) {
			t.Errorf("%s is in no snapshot", name)
		}
	}
	used := map[string]bool{}
	fields := func(v reflect.Value, f func(name string, field reflect.Value)) {
		for i := range v.NumField() {
			name := v.Type().Name() + "." + v.Type().Field(i).Name
			if _, ok := derived[name]; ok {
				used[name] = true
				continue
			}
			// Unexported fields can be set through their address alone.
			f(name, reflect.NewAt(v.Field(i).Type(), unsafe.Pointer(v.Field(i).UnsafeAddr())).Elem())
		}
	}
	inHeader := func(name string, field reflect.Value) {
		old := reflect.New(field.Type()).Elem()
		old.Set(field)
		alter(t, name, field)
		covered(name, m)
		field.Set(old)
		if m.Checksum() != sum {
			t.Fatalf("%s was not changed back", name)
		}
	}
	unknown := func(name string, _ reflect.Value) {
		t.Errorf("%s is neither tried out nor listed as derived", name)
	}
	fields(reflect.ValueOf(m).Elem(), unknown)
	fields(reflect.ValueOf(&m.header).Elem(), inHeader)
	fields(reflect.ValueOf(&m.owned).Elem(), inHeader)
	var within func(name string, v reflect.Value)
	within = func(name string, v reflect.Value) {
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				within(name+"."+v.Type().Field(i).Name, v.Field(i))
			}
		case reflect.Array:
			for i := range v.Len() {
				within(name, v.Index(i))
			}
		default:
			inHeader(name, v)
		}
	}
	m.level = 4
	sum, image = m.Checksum(), snapshotBytes(t, m)
	within("moves", reflect.ValueOf(&m.moves).Elem())
	m.level = 2
	sum, image = m.Checksum(), snapshotBytes(t, m)
	fields(reflect.ValueOf(&m.keys).Elem(), unknown)
	fields(reflect.ValueOf(m.store).Elem(), unknown)

	stores := map[string]func(*Machine) *store{
		"entries":        func(m *Machine) *store { return m.store },
		"timed records":  func(m *Machine) *store { return m.keys.timed },
		"opaque records": func(m *Machine) *store { return m.keys.opaque },
	}
	for what, of := range stores {
		// Each field of the most recent entry, in a machine of its own.
		fields(reflect.ValueOf(&entry{}).Elem(), func(name string, field reflect.Value) {
			m := sample(t).Machine
			s := of(m)
			e := s.at(s.newestRef)
			s.remove(s.newestRef)
			f := reflect.ValueOf(&e).Elem().FieldByIndex([]int{fieldIndex(name)})
			f = reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem()
			alter(t, name, f)
			s.set(0, s.keySlot(e.key), s.hash(e.key), e.key, e.contentType, e.value, nil, e.version, e.expireAt, e.stamp)
			covered(what+": "+name, m)
		})
		// The order: two entries change stamps, and places.
		m := sample(t).Machine
		if s := of(m); s.len() > 1 {
			a := s.at(s.oldest())
			s.touch(s.oldest(), s.slotOf(s.oldest()), m.recency+1)
			covered(what+": order, "+string(a.key), m)
		}
		m = sample(t).Machine
		of(m).remove(of(m).oldest())
		covered(what+": one gone", m)
	}
	m = sample(t).Machine
	m.store.raiseGone(7, 1<<44+5)
	covered("gone", m)
	for name := range derived {
		if !used[name] {
			t.Errorf("%s is listed as derived and does not exist", name)
		}
	}
}

// fieldIndex is the index of a field of entry, by the name that TestStateIsCovered gives it.
func fieldIndex(name string) int {
	f, ok := reflect.TypeFor[entry]().FieldByName(name[len("entry."):])
	if !ok {
		panic("no field " + name)
	}
	return f.Index[0]
}

// alter gives a field another value.
func alter(t *testing.T, name string, field reflect.Value) {
	switch field.Kind() {
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		field.SetUint(field.Uint() ^ 1)
	case reflect.Slice:
		field.SetBytes(append(bytes.Clone(field.Bytes()), 1))
	default:
		t.Fatalf("%s: no way to alter a %v; teach this test or list the field as derived", name, field.Type())
	}
}
