package fsm

import "github.com/zeebo/xxh3"

// Touch names a key shortly: its slot and 24 bits of hash. Two keys of a slot share one by chance
// of 1 in 16 million; the wrong one is then touched, alike on all replicas (R5).
type Touch uint64

const (
	// touchSize is the encoded length of a Touch, in bytes.
	touchSize = 5
	// hashBits is the length of hashes of keys.
	hashBits = 24
)

// TouchOf returns the touch of key, as the machine's level has it.
func (m *Machine) TouchOf(key []byte) Touch { return touchOf(Slot(key), m.store.hash(key)) }

func touchOf(slot uint16, hash uint32) Touch {
	return Touch(slot)<<hashBits | Touch(hash)
}

func (t Touch) slot() uint16 { return uint16(t >> hashBits) }

func (t Touch) hash() uint32 { return uint32(t) & (1<<hashBits - 1) }

// keyHash is what the index and touches know a key by, within its slot.
func keyHash(key []byte, seed uint64) uint32 {
	return uint32(xxh3.HashSeed(key, seed)) & (1<<hashBits - 1)
}

// AppendTouch appends the encoding of t, as Command.Touches holds them: 5 bytes, big-endian.
func AppendTouch(dst []byte, t Touch) []byte {
	return append(dst, byte(t>>32), byte(t>>24), byte(t>>16), byte(t>>8), byte(t))
}

// touchAt decodes the touch at the beginning of b.
func touchAt(b []byte) Touch {
	return Touch(b[0])<<32 | Touch(b[1])<<24 | Touch(b[2])<<16 | Touch(b[3])<<8 | Touch(b[4])
}
