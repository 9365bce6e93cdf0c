package report

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/larder-cache/larder/integration/check"
	"github.com/larder-cache/larder/integration/history"
)

// Summary is a run in numbers: summary.json.
type Summary struct {
	Verdict    check.Verdict  `json:"verdict"`
	Reasons    []string       `json:"reasons"` // why it is not valid
	Meta       history.Meta   `json:"run"`
	Lasted     float64        `json:"lasted_s"`
	Operations int            `json:"operations"` // all that were asked
	Checked    int            `json:"checked"`
	Keys       int            `json:"keys"`
	Undecided  int            `json:"undecided_keys"`
	Violations int            `json:"violations"`
	Rate       float64        `json:"ok_per_s"`
	Checks     []check.Result `json:"checks"`
	Kinds      []Kind         `json:"kinds"`
	Phases     []Phase        `json:"phases"`
	Faults     []FaultSum     `json:"faults"`
	Classes    []ClassHits    `json:"hits_by_class"`
	HitsPerKey Spread         `json:"hits_per_key"`
}

// Kind counts operations of a kind. Latencies are of those that were answered OK, in milliseconds.
type Kind struct {
	Kind      string  `json:"kind"`
	OK        int     `json:"ok"`
	Refused   int     `json:"refused"`
	Unknown   int     `json:"unknown"`
	Hits      int     `json:"hits"`      // reads that found something
	Conflicts int     `json:"conflicts"` // conditions that did not hold
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	Longest   float64 `json:"longest_ms"`
}

// Reads reports whether the kind is a read.
func (k Kind) Reads() bool { return history.Kind(k.Kind).Read() }

// Phase is the part of the run under faults, or the part without. Times in milliseconds.
type Phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	Rate    float64 `json:"ok_per_s"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	Longest float64 `json:"longest_ms"`
}

// FaultSum is what came of a fault that was done some times. Recoveries are from the moment it was undone, in seconds.
type FaultSum struct {
	Name      string  `json:"name"`
	Class     string  `json:"class"`
	Done      int     `json:"done"`
	Effective int     `json:"effective"`
	Recovered int     `json:"recovered"`
	Median    float64 `json:"median_recovery_s"`
	Longest   float64 `json:"longest_recovery_s"`
}

// ClassHits are the linearizable reads that were answered while faults of a class were on, and what came of these faults.
// Recoveries are as in FaultSum.
type ClassHits struct {
	Class     string  `json:"class"` // none: while no fault was on
	Hits      int     `json:"hits"`
	Misses    int     `json:"misses"`
	Done      int     `json:"done"`
	Effective int     `json:"effective"`
	Recovered int     `json:"recovered"`
	Shared    int     `json:"recovered_with_another"` // faults that another one outlasted, after which it was looked at
	Median    float64 `json:"median_recovery_s"`
	Longest   float64 `json:"longest_recovery_s"`
}

// Spread is how a number varies over keys.
type Spread struct {
	Least  int `json:"least"`
	Median int `json:"median"`
	Most   int `json:"most"`
}

// summarize makes the numbers of a run.
func summarize(r *history.Run, v check.Report) Summary {
	s := Summary{
		Verdict: v.Verdict(), Meta: r.Meta, Operations: len(r.Ops), Checked: v.Operations, Keys: v.Keys,
		Undecided: len(v.Undecided), Violations: len(v.Violations), Checks: v.Checks, Reasons: []string{},
	}
	for _, c := range v.Checks {
		if c.Verdict != check.Valid {
			s.Reasons = append(s.Reasons, c.Name+": "+c.Detail)
		}
	}
	windows := faultWindows(r)
	s.Lasted = lasted(r).Seconds()
	s.Kinds = kinds(r)
	s.Phases = phases(r, windows)
	for _, p := range s.Phases {
		s.Rate += p.Rate * p.Seconds / max(s.Lasted, 1e-9)
	}
	s.Faults = faultSums(r)
	s.Classes = classHits(r)
	s.HitsPerKey = hitsPerKey(r)
	return s
}

// Effects is how many faults took effect, of how many that were done.
func (s Summary) Effects() (effective, done int) {
	for _, f := range s.Faults {
		effective, done = effective+f.Effective, done+f.Done
	}
	return effective, done
}

// Slowest is the longest recovery, in seconds.
func (s Summary) Slowest() (longest float64) {
	for _, f := range s.Faults {
		longest = max(longest, f.Longest)
	}
	return longest
}

// Outcomes sums the operations by outcome.
func (s Summary) Outcomes() (ok, refused, unknown int) {
	for _, k := range s.Kinds {
		ok, refused, unknown = ok+k.OK, refused+k.Refused, unknown+k.Unknown
	}
	return ok, refused, unknown
}

// Reads counts the linearizable reads that were answered, by whether they found something.
func (s Summary) Reads() (hits, misses int) {
	for _, k := range s.Kinds {
		if k.Kind == string(history.Get) {
			hits, misses = hits+k.Hits, misses+k.OK-k.Hits
		}
	}
	return hits, misses
}

// lasted is the time of the last thing that was recorded.
func lasted(r *history.Run) (end time.Duration) {
	for i := range r.Ops {
		end = max(end, r.Ops[i].Return)
	}
	for _, f := range r.Faults {
		end = max(end, f.Start, f.Healed, f.Recovered)
	}
	return end
}

// window is a time in which faults were on.
type window struct{ start, end time.Duration }

// until is when a fault's mark ends: when it was undone, or with the run.
func until(f history.Fault, end time.Duration) time.Duration {
	if f.Healed == 0 {
		return end
	}
	return f.Healed
}

// faultWindows are the times in which any fault was on, in order and apart.
func faultWindows(r *history.Run) []window {
	end := lasted(r)
	var all []window
	for _, f := range r.Faults {
		all = append(all, window{f.Start, until(f, end)})
	}
	slices.SortFunc(all, func(a, b window) int { return cmp.Compare(a.start, b.start) })
	var apart []window
	for _, w := range all {
		if n := len(apart); n > 0 && w.start <= apart[n-1].end {
			apart[n-1].end = max(apart[n-1].end, w.end)
		} else {
			apart = append(apart, w)
		}
	}
	return apart
}

func inside(windows []window, at time.Duration) bool {
	i, found := slices.BinarySearchFunc(windows, at, func(w window, at time.Duration) int { return cmp.Compare(w.start, at) })
	return found || i > 0 && at <= windows[i-1].end
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// quantiles of durations, which it sorts, in milliseconds.
func quantiles(d []time.Duration) (p50, p99, longest float64) {
	if len(d) == 0 {
		return 0, 0, 0
	}
	slices.Sort(d)
	return millis(d[len(d)/2]), millis(d[len(d)*99/100]), millis(d[len(d)-1])
}

func kinds(r *history.Run) []Kind {
	byKind := map[string]*Kind{}
	took := map[string][]time.Duration{}
	for i := range r.Ops {
		o := &r.Ops[i]
		name := string(o.Kind)
		k := byKind[name]
		if k == nil {
			k = &Kind{Kind: name}
			byKind[name] = k
		}
		switch o.Outcome {
		case history.OK:
			k.OK++
			took[name] = append(took[name], o.Return-o.Invoke)
			if o.Kind.Read() && o.Found {
				k.Hits++
			}
			if o.Conflict {
				k.Conflicts++
			}
		case history.Refused:
			k.Refused++
		case history.Unknown:
			k.Unknown++
		}
	}
	var all []Kind
	for _, name := range slices.Sorted(maps.Keys(byKind)) {
		k := byKind[name]
		k.P50, k.P99, k.Longest = quantiles(took[name])
		all = append(all, *k)
	}
	return all
}

func phases(r *history.Run, windows []window) []Phase {
	end := lasted(r)
	var faulty time.Duration
	for _, w := range windows {
		faulty += w.end - w.start
	}
	var took [2][]time.Duration
	for i := range r.Ops {
		if o := &r.Ops[i]; o.Outcome == history.OK {
			part := 0
			if inside(windows, o.Invoke) {
				part = 1
			}
			took[part] = append(took[part], o.Return-o.Invoke)
		}
	}
	all := []Phase{{Name: "no fault on", Seconds: (end - faulty).Seconds()}, {Name: "under faults", Seconds: faulty.Seconds()}}
	for i := range all {
		p := &all[i]
		p.P50, p.P99, p.Longest = quantiles(took[i])
		if p.Seconds > 0 {
			p.Rate = float64(len(took[i])) / p.Seconds
		}
	}
	return all
}

func faultSums(r *history.Run) []FaultSum {
	byName := map[string]*FaultSum{}
	took := map[string][]time.Duration{}
	for _, f := range r.Faults {
		s := byName[f.Name]
		if s == nil {
			s = &FaultSum{Name: f.Name, Class: f.Class}
			byName[f.Name] = s
		}
		s.Done++
		if f.Effect != "" {
			s.Effective++
		}
		if f.Recovered != 0 {
			s.Recovered++
			took[f.Name] = append(took[f.Name], max(0, f.Recovered-f.Healed))
		}
	}
	var all []FaultSum
	for name, s := range byName {
		p50, _, longest := quantiles(took[name])
		s.Median, s.Longest = p50/1000, longest/1000
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b FaultSum) int {
		return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// noClass stands for the time in which no fault was on.
const noClass = "none"

func classHits(r *history.Run) []ClassHits {
	end := lasted(r)
	all := []ClassHits{{Class: noClass}}
	took := [][]time.Duration{nil}
	places := make([]int, len(r.Faults)) // of each fault's class in all
	for i, f := range r.Faults {
		at := slices.IndexFunc(all, func(c ClassHits) bool { return c.Class == f.Class })
		if at < 0 {
			at = len(all)
			all, took = append(all, ClassHits{Class: f.Class}), append(took, nil)
		}
		places[i] = at
		c := &all[at]
		c.Done++
		if f.Effect != "" {
			c.Effective++
		}
		if f.Recovered != 0 {
			c.Recovered++
			took[at] = append(took[at], max(0, f.Recovered-f.Healed))
		}
	}
	for _, e := range episodes(r) {
		if e.With != 0 {
			all[slices.IndexFunc(all, func(c ClassHits) bool { return c.Class == e.Class })].Shared++
		}
	}
	on := make([]bool, len(all))
	for i := range r.Ops {
		o := &r.Ops[i]
		if o.Kind != history.Get || o.Outcome != history.OK {
			continue
		}
		clear(on)
		on[0] = true
		for j := range r.Faults {
			if f := &r.Faults[j]; f.Start <= o.Return && o.Invoke <= until(*f, end) {
				on[0], on[places[j]] = false, true
			}
		}
		for at := range all {
			switch {
			case !on[at]:
			case o.Found:
				all[at].Hits++
			default:
				all[at].Misses++
			}
		}
	}
	for at := range all {
		p50, _, longest := quantiles(took[at])
		all[at].Median, all[at].Longest = p50/1000, longest/1000
	}
	slices.SortFunc(all[1:], func(a, b ClassHits) int { return cmp.Compare(a.Class, b.Class) })
	return all
}

func hitsPerKey(r *history.Run) Spread {
	hits := map[string]int{}
	for i := range r.Ops {
		if o := &r.Ops[i]; o.Kind.Read() && o.Outcome == history.OK {
			n := hits[o.Key]
			if o.Found {
				n++
			}
			hits[o.Key] = n
		}
	}
	all := slices.Sorted(maps.Values(hits))
	if len(all) == 0 {
		return Spread{}
	}
	return Spread{all[0], all[len(all)/2], all[len(all)-1]}
}
