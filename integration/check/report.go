package check

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// Violation is one thing that must not be.
type Violation struct {
	Check string // that found it, as in Result
	What  string
	Ops   []history.Operation // the evidence, in the order that What speaks of
}

func (v Violation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", v.Check, v.What)
	for _, o := range v.Ops {
		fmt.Fprintf(&b, "\n    %s", o)
	}
	return b.String()
}

// Report is what the checks found.
type Report struct {
	Operations int // that were checked
	Keys       int
	Checks     []Result // of Run
	Violations []Violation
	// Undecided keys: the search ran out of time.
	Undecided []string
	Took      time.Duration
}

// MaxUndecided is the share of keys that may stay undecided in a run that passes.
const MaxUndecided = 0.01

// tooUndecided reports whether more keys are undecided than may be.
func (r Report) tooUndecided() bool { return float64(len(r.Undecided)) > MaxUndecided*float64(r.Keys) }

// Err is nil when the operations prove what they were to prove: no violation, and few keys undecided.
func (r Report) Err() error {
	var errs []error
	const shown = 10
	for i, v := range r.Violations {
		if i == shown {
			errs = append(errs, fmt.Errorf("and %d violations more", len(r.Violations)-shown))
			break
		}
		errs = append(errs, errors.New(v.String()))
	}
	if r.tooUndecided() {
		errs = append(errs, fmt.Errorf("not proved: %d of %d keys undecided", len(r.Undecided), r.Keys))
	}
	return errors.Join(errs...)
}

func (r Report) String() string {
	return fmt.Sprintf("%d operations on %d keys checked in %.1f s: %d violations, %d keys undecided",
		r.Operations, r.Keys, r.Took.Seconds(), len(r.Violations), len(r.Undecided))
}

// Verify runs all checks of operations on ops, where there is room for all. final are reads of keys at the very end, when
// nothing else ran; they may be among ops too.
func Verify(ops, final []history.Operation, keyLimit time.Duration) Report {
	r := Run(&history.Run{Meta: history.Meta{Mode: history.Strict}, Ops: ops, Final: final}, Options{KeyLimit: keyLimit})
	return r
}

// byKey groups what can be checked for linearizability, each group in the order of invocation: refused operations
// did nothing, reads without an answer say nothing, and reads that may be old promise less.
func byKey(ops []history.Operation) map[string][]*history.Operation {
	keys := map[string][]*history.Operation{}
	for i := range ops {
		if o := &ops[i]; checkable(o) {
			keys[o.Key] = append(keys[o.Key], o)
		}
	}
	for _, group := range keys {
		sortByInvoke(group)
	}
	return keys
}

func checkable(o *history.Operation) bool {
	if o.Kind.Old() {
		return false
	}
	return o.Outcome == history.OK || o.Outcome == history.Unknown && o.Kind.Write()
}
