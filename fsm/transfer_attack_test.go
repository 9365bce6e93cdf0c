package fsm

import (
	"bytes"
	"testing"
)

// party is a machine that applies one command per entry.
type party struct {
	*Machine
	t     *testing.T
	index uint64
}

func newParty(t *testing.T, commands ...Command) *party {
	p := &party{Machine: New(), t: t}
	p.do(Command{Kind: KindLevel, Level: 4, Seed: 3})
	for _, c := range commands {
		p.do(c)
	}
	return p
}

func (p *party) do(c Command) Result {
	p.t.Helper()
	p.index += 2
	return p.at(p.index, c)
}

func (p *party) at(index uint64, c Command) Result {
	p.t.Helper()
	r, err := p.Apply(index, Batch{Stamp: epoch, Commands: []Command{c}})
	if err != nil {
		p.t.Fatal(err)
	}
	return r[0]
}

func transferOf(k Kind, t Transfer) Command { return Command{Kind: k, Transfer: &t} }

func grantOf(r Range, g Grant) Command {
	g.Range, g.Limit, g.TableVersion = r, 1<<20, max(g.TableVersion, 1)
	return Command{Kind: KindGrant, Grant: g}
}

// TestTransferIntoMachineWithoutLimit ensures that a machine which was told no limit takes no range: a snapshot of it would be refused.
func TestTransferIntoMachineWithoutLimit(t *testing.T) {
	p := newParty(t)
	all := Range{0, Slots}
	p.do(transferOf(KindBegin, Transfer{ID: 5, Range: all, Generation: 1, VersionBits: 9}))
	p.do(transferOf(KindAccept, Transfer{ID: 5, Sealed: Sealed{Range: all, Clock: epoch, Version: 1 << counterBits}}))
	if _, err := Restore(bytes.NewReader(snapshotBytes(t, p.Machine))); err != nil {
		t.Fatal(err)
	}
}

// TestGrantWhileStaging ensures that neither generation nor epoch goes back where a grant came while a range was staged or sealed.
func TestGrantWhileStaging(t *testing.T) {
	low, high := Range{0, Slots / 2}, Range{Slots / 2, Slots}
	for _, g := range []Grant{{Generation: 2, Epoch: 1, VersionBits: 2}, {Generation: 1, Epoch: 8, VersionBits: 2}} {
		p := newParty(t, grantOf(low, Grant{Generation: 1, Epoch: 1, VersionBits: 1}))
		p.do(transferOf(KindBegin, Transfer{ID: 5, Range: high, Generation: 1, VersionBits: 9}))
		p.do(grantOf(low, g))
		p.do(transferOf(KindAccept, Transfer{ID: 5, Sealed: Sealed{Range: high, Clock: epoch, Version: 1 << counterBits}}))
		if p.generation < g.Generation || p.epoch < g.Epoch {
			t.Errorf("target: generation %d, epoch %d after %+v", p.generation, p.epoch, g)
		}
		p = newParty(t, grantOf(low, Grant{Generation: 1, Epoch: 1, VersionBits: 1}))
		p.do(transferOf(KindSeal, Transfer{ID: 5, Range: low, Target: 7}))
		p.do(grantOf(low, g))
		p.do(transferOf(KindSettle, Transfer{ID: 5, Outcome: OutcomeAccepted}))
		if p.epoch < g.Epoch {
			t.Errorf("source: epoch %d after %+v", p.epoch, g)
		}
	}
}

// TestCloseOfUnknownTransfer ensures that a target does not answer for a transfer that it never heard of with how another one ended.
func TestCloseOfUnknownTransfer(t *testing.T) {
	p := newParty(t, Command{Kind: KindLimit, Limit: 1 << 20, TableVersion: 1})
	all := Range{0, Slots}
	p.do(transferOf(KindBegin, Transfer{ID: 5, Range: all, Generation: 1, VersionBits: 9}))
	if r := p.do(transferOf(KindAccept, Transfer{ID: 5, Sealed: Sealed{Range: all, Clock: epoch, Version: 1 << counterBits}})); r.Status != StatusAccepted {
		t.Fatalf("accept: %+v", r)
	}
	if r := p.do(transferOf(KindClose, Transfer{ID: 6, Outcome: OutcomeAccepted})); r.Status != StatusStale {
		t.Errorf("close: %+v", r)
	}
}

// TestImpossibleMoves ensures that a state of transfers that no log leads to is refused.
func TestImpossibleMoves(t *testing.T) {
	p := newParty(t, grantOf(Range{0, 100}, Grant{Generation: 1, Epoch: 1, VersionBits: 1}))
	sealed := outgoing{ID: 5, Sealed: Sealed{Range: Range{0, 10}}}
	for name, mv := range map[string]moves{
		"sealed and staging":  {Out: sealed, In: incoming{ID: 4, State: OutcomeStaging, Range: Range{100, 200}, Generation: 1, VersionBits: 9}},
		"sealed and dropping": {Out: sealed, Dropping: Range{100, 200}},
		"sealed for nothing":  {Out: outgoing{ID: 5}},
		"sealed in between":   {Out: outgoing{ID: 5, Sealed: Sealed{Range: Range{10, 20}}}},
		"ended without an id": {In: incoming{State: OutcomeAccepted}},
	} {
		h := p.header
		h.moves = mv
		if h.validate() == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
