package directory

import (
	"testing"

	"github.com/larder-cache/larder/fsm"
)

// TestNewerGrant ensures that a grant is proposed exactly where fsm.Machine would take it: otherwise it
// would be proposed for ever.
func TestNewerGrant(t *testing.T) {
	grant := func(generation, epoch uint64, bits uint32) fsm.Grant {
		return fsm.Grant{Range: fsm.Range{End: fsm.Slots}, Generation: generation, Epoch: epoch, VersionBits: bits, Limit: 1 << 20, TableVersion: 1}
	}
	first := grant(2, 5, 7)
	for _, g := range []fsm.Grant{
		first, grant(1, 9, 9), grant(2, 4, 9), grant(2, 5, 6), grant(2, 5, 8), grant(2, 6, 7), grant(2, 6, 8),
		grant(3, 1, 7), grant(3, 1, 8), grant(3, 9, 1),
	} {
		m := fsm.New()
		apply := func(index uint64, g fsm.Grant) fsm.Status {
			results, err := m.Apply(index, fsm.Batch{Stamp: 1, Level: 1, Commands: []fsm.Command{{Kind: fsm.KindGrant, Grant: g}}})
			if err != nil {
				t.Fatal(err)
			}
			return results[0].Status
		}
		if !newerGrant(first, m.Stats()) {
			t.Error("the first grant is not proposed")
		}
		apply(1, first)
		proposed := newerGrant(g, m.Stats())
		if taken := apply(2, g) == fsm.StatusOK; proposed != taken {
			t.Errorf("%+v: proposed %v, taken %v", g, proposed, taken)
		}
	}
}
