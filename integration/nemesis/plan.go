package nemesis

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Options are what a plan must heed. The zero value of a number leaves it to the seed.
type Options struct {
	// Faults names faults or classes. None: a random half of all that can be.
	Faults []string
	// Have is what there is. Spare and Five follow from the nodes, a guest there is always.
	Have Need
	// MemoryOnly: a node that ends loses its replicas. So none ends while another is gone for good: what is left would wait for an operator.
	MemoryOnly bool
	// Rounds is how many to plan; a run does as many of them as its time allows.
	Rounds                  int
	Nodes, Replicas, Shards int
	Delay                   time.Duration
}

// Plan is what a run does to its cluster, and to which one.
type Plan struct {
	Seed    uint64   `json:"seed"`
	Knobs   Knobs    `json:"knobs"`
	Enabled []string `json:"enabled"` // faults that could be drawn
	// Missing are faults that were asked for and can't be: what they need is not there.
	Missing []string `json:"missing,omitempty"`
	Rounds  []Round  `json:"rounds"`
	Last    Last     `json:"last"`
}

// Round is what happens between two times of calm.
type Round struct {
	Steps []Step `json:"steps"` // one, or two at a time
}

// Step is one fault. Who is hurt follows from it and from who leads by then.
type Step struct {
	Fault string        `json:"fault"`
	Class Class         `json:"class"`
	After time.Duration `json:"after"` // since the round began
	Hold  time.Duration `json:"hold"`  // until it is undone
	Shard uint64        `json:"shard"` // the one whose leader or members are meant; 0 is the directory
	Order []string      `json:"order"` // nodes: where it is free to choose, the first is hurt first
	Size  float64       `json:"size"`  // how hard, from 0 to 1
	Seed  uint64        `json:"seed"`  // of what it does at random
}

func (s Step) String() string {
	after := ""
	if s.After > 0 {
		after = fmt.Sprintf("%.1f s later ", s.After.Seconds())
	}
	return fmt.Sprintf("%s%s for %.1f s (shard %d, order %s, size %.2f)",
		after, s.Fault, s.Hold.Seconds(), s.Shard, strings.Join(s.Order, ""), s.Size)
}

func (p Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %v\n", p.Seed, p.Knobs)
	fmt.Fprintf(&b, "faults: %s\n", strings.Join(p.Enabled, " "))
	if len(p.Missing) > 0 {
		fmt.Fprintf(&b, "not here: %s\n", strings.Join(p.Missing, ", "))
	}
	for i, r := range p.Rounds {
		var steps []string
		for _, s := range r.Steps {
			steps = append(steps, s.String())
		}
		fmt.Fprintf(&b, "%4d  %s\n", i+1, strings.Join(steps, ", and "))
	}
	fmt.Fprintf(&b, "last  %v\n", p.Last)
	return b.String()
}

// NodeNames are the ids of the nodes that form a cluster, as many as there can be.
var NodeNames = []string{"a", "b", "c", "d", "e"}

// combined is one in how many rounds that has two faults.
const combined = 4

// NewPlan makes the plan of a seed. It is a pure function.
func NewPlan(seed uint64, o Options) (Plan, error) {
	asked, err := Find(o.Faults)
	if err != nil {
		return Plan{}, err
	}
	// Streams of their own, so that what is drawn for one part changes no other.
	knobs, swarm, rounds := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 2)), rand.New(rand.NewPCG(seed, 3))
	wants := func(n Need) bool {
		return o.Nodes == 0 && slices.ContainsFunc(asked, func(f Fault) bool { return f.Needs&n != 0 && f.Needs&^(o.Have|Spare|Five|Guest) == 0 })
	}
	p := Plan{Seed: seed, Knobs: drawKnobs(knobs, o, wants(Spare), wants(Five))}
	if p.Knobs.Nodes > len(NodeNames) || p.Knobs.Nodes < 3 {
		return Plan{}, fmt.Errorf("%d nodes, want 3 to %d", p.Knobs.Nodes, len(NodeNames))
	}
	p.Last = drawLast(rand.New(rand.NewPCG(seed, 4)), p.Knobs)
	have := o.Have&^(Spare|Five) | Guest
	if p.Knobs.Nodes > p.Knobs.Replicas {
		have |= Spare
	}
	if p.Knobs.Nodes >= 5 {
		have |= Five
	}

	possible := Faults()
	if len(o.Faults) > 0 {
		possible = asked
	}
	var enabled []Fault
	for _, f := range possible {
		if o.MemoryOnly && f.Needs&Guest != 0 {
			f.Alone = append(slices.Clone(f.Alone), Crash)
		}
		switch lacks := f.Needs &^ have; {
		case lacks == 0:
			enabled = append(enabled, f)
		case len(o.Faults) > 0:
			p.Missing = append(p.Missing, fmt.Sprintf("%s (needs %s)", f.Name, lacks))
		}
	}
	if len(o.Faults) == 0 {
		enabled = half(swarm, enabled)
	}
	if slices.ContainsFunc(enabled, func(f Fault) bool { return f.Class == Snapshot }) {
		p.Knobs.SnapshotThreshold, p.Knobs.TrailingLogs = min(p.Knobs.SnapshotThreshold, 64), min(p.Knobs.TrailingLogs, 16)
	}
	for _, f := range enabled {
		p.Enabled = append(p.Enabled, f.Name)
	}
	if len(enabled) == 0 {
		return p, nil
	}
	for range o.Rounds {
		p.Rounds = append(p.Rounds, p.round(rounds, enabled))
	}
	return p, nil
}

// Invites reports whether a guest may come.
func (p Plan) Invites() bool {
	return slices.ContainsFunc(p.Enabled, func(name string) bool { return faultNamed(name).Needs&Guest != 0 })
}

// half keeps a random half, rounded up, in the order of the table.
func half(rng *rand.Rand, all []Fault) []Fault {
	keep := rng.Perm(len(all))[:(len(all)+1)/2]
	slices.Sort(keep)
	var kept []Fault
	for _, i := range keep {
		kept = append(kept, all[i])
	}
	return kept
}

// round draws a round. It breaks one disk at most, which every shard of three replicas survives.
func (p *Plan) round(rng *rand.Rand, enabled []Fault) Round {
	first := draw(rng, enabled)
	r := Round{Steps: []Step{p.step(rng, first)}}
	// Drawn in any case, so that rounds don't depend on each other's luck.
	two, after := rng.IntN(combined) == 0, rng.Float64()
	var others []Fault
	for _, f := range enabled {
		if combine(first, f) {
			others = append(others, f)
		}
	}
	if two && len(others) > 0 {
		s := p.step(rng, draw(rng, others))
		s.After = time.Duration(after * float64(min(r.Steps[0].Hold, 2*time.Second))).Round(10 * time.Millisecond)
		r.Steps = append(r.Steps, s)
	}
	return r
}

// draw chooses a fault by weight.
func draw(rng *rand.Rand, from []Fault) Fault {
	sum := 0
	for _, f := range from {
		sum += f.Weight
	}
	n := rng.IntN(sum)
	for _, f := range from {
		if n -= f.Weight; n < 0 {
			return f
		}
	}
	panic("unreachable: n is below the sum of the weights")
}

// step draws all that a step of the fault f leaves open.
func (p *Plan) step(rng *rand.Rand, f Fault) Step {
	hold := f.Hold
	if hold == nil {
		hold = seconds(1, 8)
	}
	s := Step{
		Fault: f.Name, Class: f.Class, Hold: hold(rng), Shard: uint64(rng.IntN(1 + p.Knobs.Shards)),
		Size: float64(rng.IntN(100)) / 100, Seed: rng.Uint64(),
	}
	for _, i := range rng.Perm(p.Knobs.Nodes) {
		s.Order = append(s.Order, NodeNames[i])
	}
	return s
}

// seconds draws from [low, high] seconds, to a tenth.
func seconds(low, high float64) func(*rand.Rand) time.Duration {
	return func(rng *rand.Rand) time.Duration {
		return time.Duration((low + rng.Float64()*(high-low)) * float64(time.Second)).Round(100 * time.Millisecond)
	}
}
