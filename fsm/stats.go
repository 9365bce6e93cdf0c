package fsm

// Stats is a machine's account of itself. All of it is replicated state or follows from it, so that
// replicas at one index report the same.
type Stats struct {
	Entries      int    `json:"entries"` // stored, expired ones that are not yet removed included
	Bytes        uint64 `json:"bytes"`   // the cost of entries and idempotency keys, see Cost
	Limit        uint64 `json:"limit"`   // bytes, as last set
	Bound        uint64 `json:"bound"`   // bytes, in force; above Limit while a lowered limit is approached in steps
	TableVersion uint64 `json:"tableVersion"`
	Evictions    uint64 `json:"evictions"`   // live entries removed to make room
	Expirations  uint64 `json:"expirations"` // entries removed after they had expired
	Clock        uint64 `json:"clock"`       // log clock, Unix milliseconds
	Version      uint64 `json:"version,string"`
	Epoch        uint64 `json:"epoch"`
	Generation   uint64 `json:"generation"`
	Range        Range  `json:"range"`
	Level        uint8  `json:"level"`
	Applied      uint64 `json:"applied"` // log index
	// Keys is how many idempotency keys are remembered, KeyBytes what they cost. Bytes counts it too.
	Keys     int    `json:"keys"`
	KeyBytes uint64 `json:"keyBytes"`
}

// VersionBits returns the granted high part of Version.
func (s Stats) VersionBits() uint32 { return uint32(s.Version >> counterBits) }

// Stats returns the machine's account of itself, in constant time.
func (m *Machine) Stats() Stats {
	return Stats{
		Entries:      m.store.len(),
		Bytes:        m.bytes(),
		Limit:        m.limit,
		Bound:        m.bound,
		TableVersion: m.tableVersion,
		Evictions:    m.evictions,
		Expirations:  m.expirations,
		Clock:        m.clock,
		Version:      m.version,
		Epoch:        m.epoch,
		Generation:   m.generation,
		Range:        m.owned,
		Level:        m.level,
		Applied:      m.applied,
		Keys:         m.keys.len(),
		KeyBytes:     m.keys.bytes(),
	}
}
