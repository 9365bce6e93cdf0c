package tap

import (
	"encoding/binary"
	"net/netip"
)

// An Ethernet frame, and ARP for IPv4 in it:
//
//	0  destination (6), source (6), type (2)
//	14 hardware 1 (2), protocol 0x0800 (2), sizes 6 and 4, operation (2)
//	22 sender's MAC (6) and IP (4), target's MAC (6) and IP (4)
const (
	maxFrame   = 2048
	headerSize = 14
	arpSize    = 28
	typeIPv4   = 0x0800
	typeARP    = 0x0806
	arpRequest = 1
	arpReply   = 2
)

// macOf is the hardware address of a member: locally administered, its number last.
func macOf(number int) [6]byte { return [6]byte{0x02, 'L', 'R', 'D', 'R', byte(number)} }

// forward sends a frame of a member on its way.
func (n *Network) forward(from *member, frame []byte) {
	if len(frame) < headerSize {
		return
	}
	members := *n.byNumber.Load()
	switch binary.BigEndian.Uint16(frame[12:]) {
	case typeARP:
		if answer := answerARP(members, frame); answer != nil {
			from.ns.tap.Write(answer)
		}
	case typeIPv4:
		number := int(frame[5])
		if number >= len(members) || [6]byte(frame) != macOf(number) {
			return // for nobody, or for all
		}
		if l := from.out[number].Load(); l != nil {
			l.send(frame)
		}
	}
}

// answerARP returns the answer to a question for a member's hardware address, nil where it is none.
func answerARP(members []*member, frame []byte) []byte {
	if len(frame) < headerSize+arpSize {
		return nil
	}
	arp := frame[headerSize:]
	if binary.BigEndian.Uint16(arp[6:]) != arpRequest {
		return nil
	}
	number := int(arp[27]) - first
	if number < 0 || number >= len(members) || members[number].ip != netip.AddrFrom4([4]byte(arp[24:])) {
		return nil
	}
	mac := macOf(number)
	answer := make([]byte, headerSize+arpSize)
	copy(answer, frame[6:12])
	copy(answer[6:], mac[:])
	binary.BigEndian.PutUint16(answer[12:], typeARP)
	out := answer[headerSize:]
	copy(out, arp[:6])
	binary.BigEndian.PutUint16(out[6:], arpReply)
	copy(out[8:], mac[:])
	copy(out[14:], arp[24:28])
	copy(out[18:], arp[8:18])
	return answer
}
