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

// crc16 is CRC-16/XMODEM: polynomial x^16+x^12+x^5+1 (0x1021), initial value 0, nothing reflected. Eight
// bytes at a time, which are independent of each other (slicing by 8, Kounavis and Berry 2005).
func crc16(data []byte) uint16 {
	var crc uint16
	for ; len(data) >= 8; data = data[8:] {
		crc = crc16Tables[7][byte(crc>>8)^data[0]] ^ crc16Tables[6][byte(crc)^data[1]] ^
			crc16Tables[5][data[2]] ^ crc16Tables[4][data[3]] ^ crc16Tables[3][data[4]] ^
			crc16Tables[2][data[5]] ^ crc16Tables[1][data[6]] ^ crc16Tables[0][data[7]]
	}
	for _, b := range data {
		crc = crc<<8 ^ crc16Tables[0][byte(crc>>8)^b]
	}
	return crc
}

// crc16Tables[n][b] is the remainder of b·x^(16+8n).
var crc16Tables = func() (tables [8][256]uint16) {
	for b := range 256 {
		crc := uint16(b) << 8
		for n := range tables {
			for range 8 {
				carry := crc&0x8000 != 0
				crc <<= 1
				if carry {
					crc ^= 0x1021
				}
			}
			tables[n][b] = crc
		}
	}
	return tables
}()
