package shard

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func pipeSnapshot(t *testing.T, m *cacheMachine) io.Reader {
	t.Helper()
	var b bytes.Buffer
	if _, err := m.Snapshot().WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return &b
}

// comparisonOf makes a comparison from a word per member: a checksum, "?" for one that told none, "M" or
// "S" for one that has stopped as a minority's or in a split; "l:" before it makes a learner.
func comparisonOf(words string) *Comparison {
	c := &Comparison{Shard: testShard, Index: 7, Term: 2, Generation: 1, Level: judgeLevel, Format: sumFormat}
	for n, word := range strings.Fields(words) {
		r := ReplicaSum{Replica: fmt.Sprintf("1/%c/1", 'a'+n)}
		sum, learner := strings.CutPrefix(word, "l:")
		r.Voter = !learner
		switch sum {
		case "?":
		case "M":
			r.Stopped = OutcomeMinority
		case "S":
			r.Stopped = OutcomeSplit
		default:
			r.Checksum = sum
		}
		c.Replicas = append(c.Replicas, r)
	}
	return c
}

// TestOutcome ensures that a minority needs a majority of all voters against it, that silence is neither
// agreement nor difference, and that all stop only where no majority can be found any more.
func TestOutcome(t *testing.T) {
	for _, tc := range []struct {
		words  string
		want   Outcome
		common string
		differ int
	}{
		{"x", OutcomeEqual, "x", 0},
		{"x x x", OutcomeEqual, "x", 0},
		{"x x y", OutcomeMinority, "x", 1},
		{"y x x", OutcomeMinority, "x", 1},
		{"x y z", OutcomeSplit, "x", 2},
		{"x y", OutcomeSplit, "x", 1},
		{"x ?", OutcomeEqual, "x", 0},
		{"x y ?", OutcomeDoubt, "x", 1},
		{"x ? ?", OutcomeEqual, "x", 0},
		{"x x ?", OutcomeEqual, "x", 0},
		{"x x M", OutcomeEqual, "x", 1},
		{"x y M", OutcomeSplit, "x", 2},
		{"x ? M", OutcomeEqual, "x", 1},
		{"x M", OutcomeEqual, "x", 1}, // all but the one that stopped left
		{"x S", OutcomeSplit, "x", 1},
		{"x S S", OutcomeSplit, "x", 2},
		{"x x S", OutcomeEqual, "x", 1},
		{"x ? S", OutcomeDoubt, "x", 1},
		{"x x y y ?", OutcomeDoubt, "x", 2},
		{"x x y y z", OutcomeSplit, "x", 3},
		{"x x x y z", OutcomeMinority, "x", 2},
		{"x y z w ?", OutcomeSplit, "x", 3},
		{"x y y M M", OutcomeSplit, "y", 3},
		{"x x x y ?", OutcomeMinority, "x", 1},
		{"x l:y", OutcomeMinority, "x", 1},
		{"x x l:x", OutcomeEqual, "x", 0},
		{"x ? l:y", OutcomeDoubt, "x", 1},
		{"x ? ? l:x l:x l:x", OutcomeEqual, "x", 0}, // learners don't count
		{"x y ? l:x l:x", OutcomeDoubt, "x", 1},
	} {
		c := comparisonOf(tc.words)
		o, common := c.Outcome()
		if o != tc.want || common != tc.common || c.Differ() != tc.differ {
			t.Errorf("%s: %s, %s, %d differ; want %s, %s, %d", tc.words, o, common, c.Differ(), tc.want, tc.common, tc.differ)
		}
		c.Level = judgeLevel - 1
		if o, _ := c.Outcome(); o != OutcomeUnjudged {
			t.Errorf("%s below the level: %s", tc.words, o)
		}
	}
}

// TestOutcomeIsSafe ensures, of any comparison, that nobody is made a minority unless more than half of
// all voters told one other checksum, that equal checksums stop nobody, and that who was silent could
// have told anything without turning a stop into its opposite.
func TestOutcomeIsSafe(t *testing.T) {
	word := rapid.SampledFrom([]string{"x", "x", "y", "z", "?", "M", "S", "l:x", "l:y", "l:?"})
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(word, 1, 7).Draw(t, "members")
		c := comparisonOf(strings.Join(words, " "))
		o, common := c.Outcome()
		voters, agree, sums := 0, 0, map[string]bool{}
		for _, r := range c.Replicas {
			if r.Voter {
				voters++
				if r.Checksum == common && common != "" {
					agree++
				}
			}
			if r.Checksum != "" {
				sums[r.Checksum] = true
			}
		}
		if o == OutcomeMinority && 2*agree <= voters {
			t.Fatalf("%v: a minority by %d of %d", words, agree, voters)
		}
		if (o == OutcomeMinority || o == OutcomeDoubt) && len(sums) < 2 && !strings.Contains(strings.Join(words, " "), "S") {
			t.Fatalf("%v: %s without a difference", words, o)
		}
		if o != OutcomeMinority && o != OutcomeSplit {
			return
		}
		for n, w := range words { // the silent speak
			if strings.HasSuffix(w, "?") {
				words[n] = strings.Replace(w, "?", rapid.SampledFrom([]string{"x", "y", "z", "w"}).Draw(t, "said"), 1)
			}
		}
		full := comparisonOf(strings.Join(words, " "))
		if again, now := full.Outcome(); o == OutcomeMinority && (again != OutcomeMinority || now != common) || o == OutcomeSplit && again != OutcomeSplit {
			t.Fatalf("%v: %s of %s, and %s of %s once all had spoken", words, o, common, again, now)
		}
	})
}
