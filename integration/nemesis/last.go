package nemesis

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
)

// Last is how the faults of a run end: all is broken, then a majority is mended, then the rest.
type Last struct {
	// Away are mended last: every shard has a majority without them.
	Away []string `json:"away"`
	// How they are away: "cut", "killed" or "paused".
	How string `json:"how"`
}

func (l Last) String() string {
	return fmt.Sprintf("no two nodes hear each other, %s also %s; then all do but %s; then all",
		strings.Join(l.Away, " and "), l.How, strings.Join(l.Away, " and "))
}

func drawLast(rng *rand.Rand, k Knobs) Last {
	l := Last{How: []string{"cut", "killed", "paused"}[rng.IntN(3)]}
	for _, i := range rng.Perm(k.Nodes)[:k.Tolerates()] {
		l.Away = append(l.Away, NodeNames[i])
	}
	return l
}

// Break does what l says first. The faults before must have been undone.
func (n *Nemesis) Break(l Last) error {
	a := &Act{n: n}
	err := a.cut(a.all())
	for _, node := range l.Away {
		switch l.How {
		case "killed":
			n.keep(node)
			err = errors.Join(err, n.sys.Kill(node))
		case "paused":
			err = errors.Join(err, n.sys.Pause(node))
		}
	}
	n.last = a
	return err
}

// MendMost mends all but the nodes that are away.
func (n *Nemesis) MendMost(l Last) error {
	return n.last.cut(apart(l.Away, n.last.others(l.Away...)))
}

// MendRest mends them too.
func (n *Nemesis) MendRest(l Last) error {
	err := n.last.uncut()
	for _, node := range l.Away {
		switch l.How {
		case "killed":
			err = errors.Join(err, n.sys.Start(node))
			n.release(node)
		case "paused":
			err = errors.Join(err, n.sys.Resume(node))
		}
	}
	return err
}
