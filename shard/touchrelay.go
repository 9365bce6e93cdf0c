package shard

import (
	"encoding/binary"
	"fmt"

	"github.com/larder-cache/larder/fsm"
)

// Touches of a follower's reads go to the leader, which adds them to its own as if they had been used when
// they arrive. The frame names the replica that read and the one that it takes for the leader; as with a read
// index, only that one takes it, only while it leads, and only from a replica of its configuration. Nobody
// answers: what is lost on the way is not missed. The frames of all shards of a node pair leave together, in
// one write, with the heartbeats.

// relayTouches sends to the leader what was gathered here.
func (b *batcher) relayTouches(i *instance) {
	b.touches.discardRest() // taken when this replica led
	_, id := i.raft.LeaderWithID()
	leader, err := ParseReplicaID(string(id))
	if err != nil || leader == i.group.id {
		b.touches.discard()
		return
	}
	p := i.group.host.peer(leader.Node)
	if p == nil {
		b.touches.discard()
		return
	}
	list := b.touches.take()
	if p.tell(frameTouch, appendTouches(nil, i.group.id, leader, list)) != nil {
		b.touches.drop(list.len())
	}
	b.touches.reuse(list)
}

func appendTouches(b []byte, source, target ReplicaID, list touchList) []byte {
	b = binary.AppendUvarint(b, uint64(source.Shard))
	b = appendString(b, source.String())
	b = appendString(b, target.String())
	b = binary.AppendUvarint(b, uint64(list.len()))
	for k := range list.all() {
		b = binary.AppendUvarint(b, uint64(k))
	}
	return b
}

// decodeTouches takes apart what a follower sent.
func decodeTouches(body []byte) (shard ID, source, target string, keys []fsm.Touch, err error) {
	r := reader{b: body}
	shard, source, target = ID(r.uint()), r.string(), r.string()
	n := r.uint()
	if n > min(maxTouches, uint64(len(r.b))) { // each takes a byte at least
		return 0, "", "", nil, errShortFrame
	}
	for range n {
		k := r.uint()
		if k >= 1<<(8*touchBytes) {
			return 0, "", "", nil, errShortFrame
		}
		keys = append(keys, fsm.Touch(k))
	}
	return shard, source, target, keys, r.err
}

// serveTouches adds what a follower sent to what was gathered here.
func (h *Host) serveTouches(from string, body []byte) {
	shard, source, target, keys, err := decodeTouches(body)
	if err != nil {
		h.log.Warn("touches refused", "peer", from, "err", err)
		return
	}
	asks, err := ParseReplicaID(source)
	c := h.Cache(shard)
	if err != nil || asks.Node != from || asks.Shard != shard || c == nil || c.group.id.String() != target {
		h.log.Debug("touches refused", "peer", from, "err", fmt.Errorf("from %q to %q", source, target))
		return
	}
	i := c.group.instance()
	if i == nil || i.ready.Load() == 0 || !c.touches.wanted() || i.fsm.machine.(*cacheMachine).featureLevel() < touchLevel || !i.member(source) {
		c.touches.drop(len(keys))
		return
	}
	for _, k := range keys {
		c.touches.add(k)
	}
}
