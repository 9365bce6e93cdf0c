package fsm

import "bytes"

// Slots is the number of hash slots, as in Redis Cluster.
const Slots = 16384

// Slot returns the slot of key: CRC16(key) mod 16384 by the Redis Cluster specification, so that
// clients which route for Redis Cluster can route for Larder. If key holds a '{' and, after the first
// one, a '}' with at least a byte between the two, only those bytes are hashed: keys that share such
// a tag share a slot.
func Slot(key []byte) uint16 {
	if open := bytes.IndexByte(key, '{'); open >= 0 {
		tag := key[open+1:]
		if end := bytes.IndexByte(tag, '}'); end > 0 {
			key = tag[:end]
		}
	}
	return crc16(key) % Slots
}

// crc16 is CRC-16/XMODEM: polynomial x^16+x^12+x^5+1 (0x1021), initial value 0, nothing reflected.
func crc16(data []byte) uint16 {
	var crc uint16
	for _, b := range data {
		crc = crc<<8 ^ crc16Table[byte(crc>>8)^b]
	}
	return crc
}

// crc16Table[b] is the remainder of b·x^16.
var crc16Table = func() (table [256]uint16) {
	for b := range table {
		crc := uint16(b) << 8
		for range 8 {
			carry := crc&0x8000 != 0
			crc <<= 1
			if carry {
				crc ^= 0x1021
			}
		}
		table[b] = crc
	}
	return table
}()
