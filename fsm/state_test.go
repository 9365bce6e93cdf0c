package fsm

import (
	"bytes"
	"reflect"
	"testing"
	"unsafe"
)

// derived names the fields that snapshots leave out, each with what it follows from.
var derived = map[string]string{
	"Machine.bound":  "max(limit, bytes) between batches; checkInvariants holds it to that",
	"lru.nodes":      "index of the ring by key",
	"lru.expiry":     "index of the ring by (expireAt, version)",
	"lru.ring":       "the order of items, which TestStateIsCovered changes",
	"node.prev":      "order of items",
	"node.next":      "order of items",
	"node.heapPos":   "index into lru.expiry",
	"node.item":      "walked: the fields of item",
	"Machine.lru":    "walked: the fields of lru",
	"Machine.header": "walked: the fields of header",
	"header.owned":   "walked: the fields of Range",
}

// TestStateIsCovered ensures that the snapshot and the checksum change with every field of the state,
// except those that are known to follow from others (R8). A new field fails here until it is either.
func TestStateIsCovered(t *testing.T) {
	m := sample(t).Machine
	sum, image := m.Checksum(), snapshotBytes(t, m)
	covered := func(name string, change, back func()) {
		change()
		if m.Checksum() == sum {
			t.Errorf("%s is in no checksum", name)
		}
		if bytes.Equal(snapshotBytes(t, m), image) {
			t.Errorf("%s is in no snapshot", name)
		}
		back()
		if m.Checksum() != sum {
			t.Fatalf("%s was not changed back", name)
		}
	}

	used := map[string]bool{}
	walk := func(v reflect.Value) {
		for i := range v.NumField() {
			name := v.Type().Name() + "." + v.Type().Field(i).Name
			if _, ok := derived[name]; ok {
				used[name] = true
				continue
			}
			// Unexported fields can be set through their address alone.
			field := reflect.NewAt(v.Field(i).Type(), unsafe.Pointer(v.Field(i).UnsafeAddr())).Elem()
			old := reflect.New(field.Type()).Elem()
			old.Set(field)
			covered(name, func() { alter(t, name, field) }, func() { field.Set(old) })
		}
	}
	walk(reflect.ValueOf(m).Elem())
	walk(reflect.ValueOf(&m.header).Elem())
	walk(reflect.ValueOf(&m.owned).Elem())
	walk(reflect.ValueOf(m.lru).Elem())
	walk(reflect.ValueOf(m.lru.ring.next).Elem())
	walk(reflect.ValueOf(m.lru.ring.next.item).Elem())

	a, b := m.lru.ring.next, m.lru.ring.next.next
	swap := func() { a.item, b.item = b.item, a.item }
	covered("the order", swap, swap)
	for name := range derived {
		if !used[name] {
			t.Errorf("%s is listed as derived and does not exist", name)
		}
	}
}

// alter gives a field another value.
func alter(t *testing.T, name string, field reflect.Value) {
	switch field.Kind() {
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		field.SetUint(field.Uint() ^ 1)
	case reflect.String:
		field.SetString(field.String() + "x")
	case reflect.Slice:
		field.Set(reflect.Append(field, reflect.Zero(field.Type().Elem())))
	default:
		t.Fatalf("%s: no way to alter a %v; teach this test or list the field as derived", name, field.Type())
	}
}
