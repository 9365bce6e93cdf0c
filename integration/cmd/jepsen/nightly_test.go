package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/larder-cache/larder/integration/check"
	"github.com/larder-cache/larder/integration/history"
	"github.com/larder-cache/larder/integration/nemesis"
	"github.com/larder-cache/larder/integration/report"
	"github.com/larder-cache/larder/integration/workload"
)

// TestNightlyOrder ensures that each kind of run comes before one comes again, in an order that follows from the seed, and
// that all workloads are among them and each kind is one that jepsen run takes.
func TestNightlyOrder(t *testing.T) {
	first, again, other := nightly{seed: 1}.order(), nightly{seed: 1}.order(), nightly{seed: 2}.order()
	var a, b, c []kind
	for range 2 * len(kinds()) {
		a, b, c = append(a, first()), append(b, again()), append(c, other())
	}
	if !slices.Equal(a, b) || slices.Equal(a, c) {
		t.Error("the order does not follow from the seed")
	}
	for _, half := range [][]kind{a[:len(kinds())], a[len(kinds()):]} {
		for _, k := range kinds() {
			if !slices.Contains(half, k) {
				t.Errorf("%v is not in %v", k, half)
			}
		}
	}
	for _, name := range workload.Names() {
		if !slices.ContainsFunc(a, func(k kind) bool { return k.workload == name }) {
			t.Errorf("no run of %s", name)
		}
	}
	for _, k := range kinds() {
		if err := defaults(t, "--workload="+k.workload, "--mode="+string(k.mode)).validate(); err != nil {
			t.Errorf("%v: %v", k, err)
		}
	}
}

// TestTally ensures that many runs prove no more than the least of them, and nothing where too little happened.
func TestTally(t *testing.T) {
	summary := func(v check.Verdict, mode history.Mode, without nemesis.Class) report.Summary {
		s := report.Summary{Verdict: v, Checked: 100, Keys: 10, Meta: history.Meta{Workload: "register", Mode: mode}}
		for _, class := range nemesis.Classes() {
			if class != without {
				s.Faults = append(s.Faults, report.FaultSum{Class: string(class), Effective: 2, Longest: 1.5})
			}
		}
		return s
	}
	var least nightly
	least.least.checked, least.least.effective = 200, 4*len(nemesis.Classes())
	for _, tt := range []struct {
		name string
		runs []report.Summary
		want check.Verdict
		says string
	}{
		{"enough", []report.Summary{summary(check.Valid, history.Strict, ""), summary(check.Valid, history.Tight, "")}, check.Valid, "2 of 2 runs are valid: 200 operations checked"},
		{"one undecided", []report.Summary{summary(check.Undecided, history.Strict, ""), summary(check.Valid, history.Tight, "")}, check.Undecided, "1 of 2"},
		{"one invalid", []report.Summary{summary(check.Undecided, history.Strict, ""), summary(check.Invalid, history.Tight, "")}, check.Invalid, "0 of 2"},
		{"one that saw too little", []report.Summary{summary(check.NotProved, history.Strict, ""), summary(check.Valid, history.Strict, ""), summary(check.Valid, history.Tight, "")}, check.Valid, "2 of 3 runs are valid: 200 operations checked"},
		{"nothing but too little", []report.Summary{summary(check.Valid, history.Strict, ""), summary(check.Valid, history.Strict, ""), summary(check.NotProved, history.Tight, "")}, check.NotProved, "too little happened in the runs of register in tight mode"},
		{"too few", []report.Summary{summary(check.Valid, history.Strict, "")}, check.NotProved, "100 operations checked"},
		{"no clock without room", []report.Summary{summary(check.Valid, history.Strict, ""), summary(check.Valid, history.Strict, ""), summary(check.Valid, history.Tight, nemesis.Clock)}, check.NotProved, "in tight mode no effect of faults of class clock"},
	} {
		tl := newTally()
		for _, s := range tt.runs {
			tl.add("dir", s)
		}
		if got := tl.verdict(least); got != tt.want || !strings.Contains(tl.String(), tt.says) {
			t.Errorf("%s: %s, want %s and %q:\n%s", tt.name, got, tt.want, tt.says, tl)
		}
	}
}
