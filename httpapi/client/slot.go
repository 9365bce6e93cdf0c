package client

import "strings"

// slots is the number of hash slots.
const slots = 16384

// slotOf is the slot of key, by the rule of Redis Cluster: CRC-16/XMODEM of the key, or of what stands
// between its first '{' and the next '}' if that is not empty. The server's package fsm has the same function,
// which is not imported so that the client stands alone.
func slotOf(key string) uint32 {
	if _, tag, ok := strings.Cut(key, "{"); ok {
		if end := strings.IndexByte(tag, '}'); end > 0 {
			key = tag[:end]
		}
	}
	var crc uint16
	for i := range len(key) {
		crc = crc<<8 ^ crcTable[byte(crc>>8)^key[i]]
	}
	return uint32(crc) % slots
}

// crcTable[b] is the remainder of b·x^16 by the polynomial 0x1021.
var crcTable = func() (table [256]uint16) {
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

// keyPath is the path of key's resource, as it goes over the wire. All but letters, digits, '-' and '_' is
// percent-encoded: dots too, since a key "." or ".." would else be tidied away on the way.
func keyPath(key string) string {
	const prefix, hex = "/v1/kv/", "0123456789ABCDEF"
	b := make([]byte, 0, len(prefix)+len(key)+16)
	b = append(b, prefix...)
	for i := range len(key) {
		switch c := key[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			b = append(b, c)
		default:
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(b)
}
