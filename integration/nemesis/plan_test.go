package nemesis

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestPlanInMemory ensures that where shards are in memory alone no node ends while another is gone for good.
func TestPlanInMemory(t *testing.T) {
	crossed := false
	for _, memoryOnly := range []bool{false, true} {
		for seed := range uint64(200) {
			p, err := NewPlan(seed, Options{Have: everything, Rounds: 20, MemoryOnly: memoryOnly, Faults: []string{"kill-one", "rolling-restart", "replace", "drain"}})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range p.Rounds {
				guest, crash := false, false
				for _, s := range r.Steps {
					guest = guest || faultNamed(s.Fault).Needs&Guest != 0
					crash = crash || s.Class == Crash
				}
				crossed = crossed || guest && crash
				if memoryOnly && guest && crash {
					t.Fatalf("seed %d: %+v", seed, r)
				}
			}
		}
	}
	if !crossed {
		t.Error("no plan has both, with a disk: this proves nothing")
	}
}

const everything = Packets | Clients | Loop | Build | Settings

// TestPlanIsPure ensures that a plan follows from its seed and options alone, that it survives being written,
// and that other seeds give other plans.
func TestPlanIsPure(t *testing.T) {
	plans := map[string]bool{}
	for seed := range uint64(200) {
		o := Options{Have: everything, Rounds: 10}
		first, err := NewPlan(seed, o)
		if err != nil {
			t.Fatal(err)
		}
		second, err := NewPlan(seed, o)
		if err != nil || !reflect.DeepEqual(first, second) {
			t.Fatalf("seed %d gives two plans:\n%v\n%v", seed, first, second)
		}
		data, err := json.Marshal(first)
		if err != nil {
			t.Fatal(err)
		}
		var read Plan
		if err := json.Unmarshal(data, &read); err != nil || !reflect.DeepEqual(first, read) {
			t.Fatalf("seed %d, written and read: %v, %v, want %v", seed, read, err, first)
		}
		plans[first.String()] = true
	}
	if len(plans) < 200 {
		t.Errorf("200 seeds gave %d plans", len(plans))
	}
}

// TestPlanBudgets ensures, for 10,000 seeds, that a round breaks at most one disk and never beside a change of
// members or a crash, that two faults of a round are of different classes, that about a quarter of the rounds has two,
// that half of the faults are enabled, and that all numbers are within their bounds.
func TestPlanBudgets(t *testing.T) {
	rounds, doubles := 0, 0
	drawn := map[string]int{}
	for seed := range uint64(10_000) {
		p, err := NewPlan(seed, Options{Have: everything, Rounds: 8})
		if err != nil {
			t.Fatal(err)
		}
		k := p.Knobs
		if k.Nodes != 3 && k.Nodes != 5 || k.Replicas > k.Nodes || k.Tolerates() < 1 || k.Shards < 1 || k.Shards > 8 ||
			k.Delay < time.Millisecond || k.Delay > 5*time.Millisecond || k.Jitter > k.Delay/2+100*time.Microsecond ||
			k.SnapshotThreshold < 16 || k.SnapshotThreshold > 1000 || k.TrailingLogs < 8 || k.TrailingLogs > 500 {
			t.Fatalf("seed %d: %+v", seed, k)
		}
		if want := len(Faults()) / 2; len(p.Enabled) < want-2 || len(p.Enabled) > want+2 || len(p.Missing) > 0 {
			t.Fatalf("seed %d: %d faults enabled of %d, missing %v", seed, len(p.Enabled), len(Faults()), p.Missing)
		}
		for _, r := range p.Rounds {
			rounds++
			broken := 0
			var classes []Class
			for _, s := range r.Steps {
				f := faultNamed(s.Fault)
				drawn[f.Name]++
				if f.Breaks {
					broken++
				}
				if slices.Contains(classes, f.Class) {
					t.Fatalf("seed %d: two of class %s: %v", seed, f.Class, r)
				}
				classes = append(classes, f.Class)
				if !slices.Contains(p.Enabled, f.Name) || f.Needs&Five != 0 && k.Nodes < 5 || f.Needs&Spare != 0 && k.Nodes == k.Replicas {
					t.Fatalf("seed %d: %s can't be with %v", seed, f.Name, k)
				}
				if s.Hold < 0 || s.Hold > 10*time.Second || s.Shard > uint64(k.Shards) || len(s.Order) != k.Nodes || s.Size < 0 || s.Size >= 1 {
					t.Fatalf("seed %d: %+v", seed, s)
				}
			}
			if broken > k.Tolerates() || broken > 0 && (slices.Contains(classes, Members) || slices.Contains(classes, Crash)) {
				t.Fatalf("seed %d: %d disks broken: %v", seed, broken, r)
			}
			if len(r.Steps) == 2 {
				doubles++
			}
		}
	}
	if share := float64(doubles) / float64(rounds); share < 0.23 || share > 0.27 {
		t.Errorf("%.3f of the rounds have two faults, want a quarter", share)
	}
	for _, f := range Faults() {
		if drawn[f.Name] == 0 {
			t.Errorf("%s was never drawn", f.Name)
		}
	}
}

// TestPlanHeeds ensures that a plan has what was asked for and nothing that can't be.
func TestPlanHeeds(t *testing.T) {
	p, err := NewPlan(7, Options{Faults: []string{"pause", "kill-one", "lossy", "add-member"}, Rounds: 40, Shards: 2, Delay: 3 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"pause-leader", "pause-leader-with-queued-reads", "pause-follower", "starve-cpu", "pause-majority", "kill-one", "add-member"}
	if !slices.Equal(p.Enabled, want) {
		t.Errorf("enabled %v, want %v", p.Enabled, want)
	}
	if len(p.Missing) != 1 || !strings.Contains(p.Missing[0], "lossy (needs packets)") {
		t.Errorf("missing %v, want lossy", p.Missing)
	}
	if p.Knobs.Nodes != 5 || p.Knobs.Replicas != 3 || p.Knobs.Shards != 2 || p.Knobs.Delay != 3*time.Millisecond || len(p.Rounds) != 40 {
		t.Errorf("%v, %d rounds: want a node to spare, 2 shards, 3 ms, 40 rounds", p.Knobs, len(p.Rounds))
	}
	if p, err = NewPlan(7, Options{Faults: []string{"lossy"}, Rounds: 3}); err != nil || len(p.Rounds) != 0 {
		t.Errorf("with nothing that can be: %v, %v", p, err)
	}
	if _, err = NewPlan(7, Options{Faults: []string{"pause", "tsunami"}}); err == nil || !strings.Contains(err.Error(), "tsunami") {
		t.Errorf("an unknown fault: %v", err)
	}
	if _, err = NewPlan(7, Options{Nodes: 9}); err == nil {
		t.Error("9 nodes were accepted")
	}
}

// TestTable ensures that each row of the table is whole and has a name of its own, which no class has.
func TestTable(t *testing.T) {
	names := map[string]bool{}
	for _, f := range Faults() {
		if f.Name == "" || names[f.Name] || f.Class == "" || f.Name == string(f.Class) || f.Weight < 1 || f.About == "" || f.Do == nil || f.Undo == nil || f.Effect == nil {
			t.Errorf("row %+v", f)
		}
		names[f.Name] = true
	}
}
