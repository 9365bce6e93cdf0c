package fsm

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// TestSlotVectors ensures that slots are those of Redis Cluster: the check value of CRC-16/XMODEM, and
// answers that CLUSTER KEYSLOT gives.
func TestSlotVectors(t *testing.T) {
	if got := crc16([]byte("123456789")); got != 0x31C3 {
		t.Errorf("crc16(123456789) = %#x, want 0x31c3", got)
	}
	for key, want := range map[string]uint16{
		"123456789":    0x31C3,
		"foo":          12182,
		"bar":          5061,
		"hello":        866,
		"somekey":      11058,
		"foo{hash_tag": crc16([]byte("foo{hash_tag")) % Slots,
		"{foo}":        12182,
		"x{foo}y{bar}": 12182,
		"":             0,
	} {
		if got := Slot([]byte(key)); got != want {
			t.Errorf("Slot(%q) = %d, want %d", key, got, want)
		}
	}
}

// TestSlotTags ensures that exactly the bytes which the tag rule names are hashed.
func TestSlotTags(t *testing.T) {
	for _, c := range []struct{ key, hashed string }{
		{"{user1000}.following", "user1000"},
		{"{user1000}.followers", "user1000"},
		{"foo{}{bar}", "foo{}{bar}"}, // an empty first tag: the whole key
		{"foo{{bar}}zap", "{bar"},    // from the first { to the first } after it
		{"foo{bar}{zap}", "bar"},
		{"foo}bar{zap}", "zap"}, // a } before the { counts for nothing
		{"foo{bar", "foo{bar"},
		{"foo}", "foo}"},
		{"{}", "{}"},
		{"{\x00}", "\x00"},
	} {
		if got, want := Slot([]byte(c.key)), crc16([]byte(c.hashed))%Slots; got != want {
			t.Errorf("Slot(%q) = %d, want that of %q, %d", c.key, got, c.hashed, want)
		}
	}
}

// TestCRC16AgainstBits ensures that the table gives what the polynomial division does bit by bit.
func TestCRC16AgainstBits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOf(rapid.Byte()).Draw(t, "data")
		var want uint32
		for _, b := range append(data, 0, 0) {
			for bit := 7; bit >= 0; bit-- {
				want = want<<1 | uint32(b)>>bit&1
				if want&0x10000 != 0 {
					want ^= 0x11021
				}
			}
		}
		if got := crc16(data); uint32(got) != want {
			t.Fatalf("crc16(%x) = %#x, want %#x", data, got, want)
		}
	})
}

func ExampleSlot() {
	fmt.Println(Slot([]byte("foo")))
	fmt.Println(Slot([]byte("{user1000}.following")) == Slot([]byte("{user1000}.followers")))
	// Output:
	// 12182
	// true
}
