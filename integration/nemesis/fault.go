package nemesis

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Classes are those of all faults, in their order.
func Classes() (all []Class) {
	for _, f := range Faults() {
		if !slices.Contains(all, f.Class) {
			all = append(all, f.Class)
		}
	}
	return all
}

// Class groups faults of one kind. Two of one class are never combined.
type Class string

// The classes.
const (
	Network  Class = "network"
	Pause    Class = "pause"
	Crash    Class = "crash"
	Disk     Class = "disk"
	Clock    Class = "clock"
	Members  Class = "member"
	Leaders  Class = "leader"
	Snapshot Class = "snapshot"
)

// Need is what a fault needs, or what a machine, a build and a cluster have.
type Need uint

// The needs, which are bits.
const (
	Packets  Need = 1 << iota // links that lose, repeat and reorder packets: a switch of our own
	Clients                   // ways of clients that can be cut
	Loop                      // disks that can lose power, run full and be slow: loop devices
	Build                     // a binary built with the tag faults
	Spare                     // more nodes than a shard has members
	Five                      // five nodes
	Guest                     // one node more, which joins and leaves
	Settings                  // settings that no client changes: all of them have one version
)

var needNames = []string{"packets", "clients", "loop", "build", "spare", "five", "guest", "settings"}

func (n Need) String() string {
	var names []string
	for i, name := range needNames {
		if n&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "+")
}

// Fault is a row of the table of faults.
type Fault struct {
	Name   string
	Class  Class
	Weight int  // how often it is drawn, beside the others
	Needs  Need // all of them
	// Breaks: a disk loses what it had acknowledged.
	Breaks bool
	// Alone: its class is not all that it hurts, so it is not combined with those.
	Alone []Class
	About string
	// Hold draws how long it lasts; nil is 1 to 8 s.
	Hold func(*rand.Rand) time.Duration

	// Do begins it and fills in the targets. Undo ends it, also where Do failed half way. Effect, asked again and
	// again between them and once more after Undo, says how it shows that there was an effect, "" as long as it does not.
	Do     func(context.Context, *Act) error
	Undo   func(context.Context, *Act) error
	Effect func(context.Context, *Act) string
}

// Faults returns the table.
func Faults() []Fault {
	return slices.Concat(networkFaults, pauseFaults, crashFaults, directoryFaults, diskFaults, clockFaults, memberFaults, replaceFaults, operatorFaults,
		leaderFaults, snapshotFaults)
}

// faultNamed returns the row of that name; there must be one.
func faultNamed(name string) Fault {
	all := Faults()
	i := slices.IndexFunc(all, func(f Fault) bool { return f.Name == name })
	if i < 0 {
		panic("nemesis: no fault is called " + name)
	}
	return all[i]
}

// Find returns the rows that names stand for: names of faults or of classes, or "all".
func Find(names []string) ([]Fault, error) {
	all := Faults()
	var found []Fault
	for _, name := range names {
		before := len(found)
		for _, f := range all {
			if (name == f.Name || name == string(f.Class) || name == "all") &&
				!slices.ContainsFunc(found, func(g Fault) bool { return g.Name == f.Name }) {
				found = append(found, f)
			}
		}
		if len(found) == before && !slices.ContainsFunc(found, func(f Fault) bool { return name == f.Name || name == string(f.Class) }) {
			return nil, fmt.Errorf("no fault or class of faults is called %q", name)
		}
	}
	return found, nil
}

// combine reports whether two faults may hurt a cluster at the same time.
func combine(a, b Fault) bool {
	return a.Class != b.Class && !slices.Contains(a.Alone, b.Class) && !slices.Contains(b.Alone, a.Class)
}
