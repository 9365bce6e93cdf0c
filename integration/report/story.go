package report

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/larder-cache/larder/integration/check"
	"github.com/larder-cache/larder/integration/history"
)

// story is a violation for people: what happened, in order, and why that must not be.
type story struct {
	Check explanation
	What  string // in the check's words
	Key   string
	Steps []step
	Why   []string
	Rows  []row
	Cut   int   // operations of the violation that the rows leave out
	Page  *link // of the key
	Plot  Figure
}

// step is something that happened: an operation, or a fault.
type step struct {
	At     string
	Text   string
	Number int // of an operation, as Why has it; 0: a fault
}

// row is an operation in a table.
type row struct {
	Step    string // the number of the step that tells it, "" if none does
	Client  int
	Request string
	Node    string
	At      string
	Took    string
	Answer  string
	By      string
	Version string
	Place   string
}

const (
	// toldViolations are looked through for the one that is told best.
	toldViolations = 60
	// toldSteps and toldRows bound a story.
	toldSteps = 8
	toldRows  = 14
)

// tell chooses a violation and tells it, one whose key has a page if there is a choice. It returns nil where there is none.
func tell(r *history.Run, v check.Report, faults []episode, pages []link) *story {
	if len(v.Violations) == 0 {
		return nil
	}
	keys := map[string]*keyed{}
	for _, x := range v.Violations[:min(toldViolations, len(v.Violations))] {
		for _, o := range x.Ops {
			keys[o.Key] = &keyed{}
		}
	}
	for i := range r.Ops {
		if k := keys[r.Ops[i].Key]; k != nil {
			k.ops = append(k.ops, &r.Ops[i])
		}
	}
	var best *check.Violation
	var proved proof
	for i := range v.Violations[:min(toldViolations, len(v.Violations))] {
		x := &v.Violations[i]
		p := prove(x, keys, r.Meta.Mode)
		p.rank = foreign(x)
		if len(x.Ops) > 0 && pageOf(pages, x.Ops[len(x.Ops)-1].Key) == nil {
			p.rank += 2
		}
		switch {
		case best == nil, p.ops != nil && (proved.ops == nil || p.better(proved)),
			p.ops == nil && proved.ops == nil && cmp.Or(cmp.Compare(foreign(x), foreign(best)), cmp.Compare(weight(*x), weight(*best))) < 0:
			best, proved = x, p
		}
	}
	s := narrate(best, proved, faults, lasted(r))
	s.Page = pageOf(pages, s.Key)
	return s
}

// foreign is 0 for what the search found, which rests on what clients saw alone, and 1 for the rest.
func foreign(v *check.Violation) int {
	if v.Check == searched {
		return 0
	}
	return 1
}

// weight prefers a violation with evidence, and little of it.
func weight(v check.Violation) int {
	if len(v.Ops) == 0 {
		return 1 << 20
	}
	return len(v.Ops)
}

// narrate writes the story of a violation, with its proof if there is one.
func narrate(v *check.Violation, p proof, faults []episode, end time.Duration) *story {
	s := &story{Check: explain(v.Check), What: v.What}
	ops, why := p.ops, p.why
	if ops == nil {
		ops = pointers(v.Ops)
		ops = ops[max(0, len(ops)-toldSteps):]
		if last := culprit(v); v.Check == searched && last != nil {
			why = func(n func(*history.Operation) int) []string {
				reasons := []string{fmt.Sprintf("Up to the moment before the answer of step %d there is an order that explains everything. With it there is none: the search went through all orders in which nothing comes before what had ended when it was asked for.", n(last))}
				if len(v.Ops) <= toldSteps {
					return append(reasons, "These are all operations on the key up to then.")
				}
				return append(reasons, fmt.Sprintf("The operations before these, on the same key, count as well; the table shows the last %d.", min(toldRows, len(v.Ops))))
			}
		} else {
			why = func(func(*history.Operation) int) []string { return []string{sentenceOf(v.What)} }
		}
	}
	ops = slices.Clone(ops)
	slices.SortStableFunc(ops, func(a, b *history.Operation) int { return cmp.Compare(a.Invoke, b.Invoke) })
	if len(ops) > 0 {
		s.Key = ops[0].Key
	}
	numbers := map[*history.Operation]int{}
	type dated struct {
		at time.Duration
		step
	}
	var steps []dated
	var from, to time.Duration
	for i, o := range ops {
		numbers[o] = i + 1
		steps = append(steps, dated{o.Invoke, step{instant(o.Invoke), said(o), i + 1}})
		if i == 0 {
			from = o.Invoke
		}
		to = max(to, min(o.Return, end))
	}
	for _, f := range faults {
		if len(ops) > 0 && f.Start <= to && f.Until >= from {
			text := fmt.Sprintf("Fault %d began: %s", f.N, f.Title())
			if about := f.About(); about != "" {
				text += " (" + about + ")"
			}
			if f.Healed == 0 {
				text += ". It was never undone."
			} else {
				text += fmt.Sprintf(". It was over by %s.", instant(f.Healed))
			}
			steps = append(steps, dated{f.Start, step{instant(f.Start), text, 0}})
		}
	}
	slices.SortStableFunc(steps, func(a, b dated) int { return cmp.Compare(a.at, b.at) })
	for _, d := range steps {
		s.Steps = append(s.Steps, d.step)
	}
	s.Why = why(func(o *history.Operation) int { return numbers[o] })
	s.rows(v, ops, numbers)
	return s
}

// rows are the violation's operations and those of the story, in order.
func (s *story) rows(v *check.Violation, told []*history.Operation, numbers map[*history.Operation]int) {
	all := slices.Clone(told)
	for _, o := range pointers(v.Ops) {
		if !slices.ContainsFunc(told, func(t *history.Operation) bool { return same(t, o) }) {
			all = append(all, o)
		}
	}
	slices.SortStableFunc(all, func(a, b *history.Operation) int { return cmp.Compare(a.Invoke, b.Invoke) })
	for len(all) > toldRows {
		at := slices.IndexFunc(all, func(o *history.Operation) bool { return numbers[o] == 0 })
		if at < 0 {
			break
		}
		all = slices.Delete(all, at, at+1)
		s.Cut++
	}
	var bars []bar
	for _, o := range all {
		r := row{Client: o.Process, Request: asked(o), Node: o.Node, At: instant(o.Invoke), Took: span(o.Return - o.Invoke), Answer: answered(o), By: o.ServedBy}
		if o.Version != 0 {
			r.Version = fmt.Sprint(o.Version)
		}
		if o.Outcome == history.OK && o.Place.Index != 0 {
			r.Place = o.Place.String()
		}
		if n := numbers[o]; n > 0 {
			r.Step = fmt.Sprint(n)
		}
		s.Rows = append(s.Rows, r)
		bars = append(bars, bar{o, numbers[o]})
	}
	s.Plot = lanes(bars)
}

func same(a, b *history.Operation) bool { return a.Process == b.Process && a.Invoke == b.Invoke }

func pointers(ops []history.Operation) (all []*history.Operation) {
	for i := range ops {
		all = append(all, &ops[i])
	}
	return all
}
