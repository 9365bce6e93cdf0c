package report

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/larder-cache/larder/integration/check"
	"github.com/larder-cache/larder/integration/history"
)

// judgement is the verdict in words.
type judgement struct {
	Sentence  string
	Rests     string // what it rests on
	Otherwise string // what would have made it another one
	Bug       string // what to know of a run with a seeded bug, "" for others
}

func judge(s Summary, v check.Report) judgement {
	j := judgement{Sentence: sentence(s, v), Rests: rests(s), Otherwise: otherwise(s, v)}
	if s.Meta.Bug != "" {
		j.Bug = fmt.Sprintf("The nodes of this run had the bug “%s” built in, to see whether the checks find it. ", s.Meta.Bug)
		if s.Verdict == check.Invalid {
			j.Bug += "They do: invalid is what this run should be."
		} else {
			j.Bug += "This run did not show it."
		}
	}
	return j
}

// failed are the checks with a verdict.
func failed(s Summary, v check.Verdict) (all []check.Result) {
	for _, c := range s.Checks {
		if c.Verdict == v {
			all = append(all, c)
		}
	}
	return all
}

// broken says of each check with a verdict what went wrong.
func broken(s Summary, v check.Verdict) string {
	var all []string
	for _, c := range failed(s, v) {
		all = append(all, explain(c.Name).Broke)
	}
	return strings.Join(all, "; ")
}

// sentence says what the verdict means.
func sentence(s Summary, v check.Report) string {
	switch s.Verdict {
	case check.Valid:
		kept := "nothing that was acknowledged is lost"
		if s.Meta.Mode == history.Tight {
			kept = "what vanished for lack of room never came back"
		}
		return "Larder kept its promises: one order of events explains every answer that clients were given, and " + kept + "."
	case check.Invalid:
		return "Larder broke a promise: " + broken(s, check.Invalid) + "."
	case check.Undecided:
		return fmt.Sprintf("Not decided: for %d of %s the search for an order ran out of time, so neither an order nor its absence is shown.", len(v.Undecided), some(s.Keys, "key"))
	}
	if len(s.Checks) == 0 {
		return "Not proved: nothing was checked."
	}
	return "Not proved: nothing wrong was seen, but " + broken(s, check.NotProved) + "."
}

// rests says what the verdict rests on.
func rests(s Summary) string {
	effective, done := s.Effects()
	hits, misses := s.Reads()
	text := fmt.Sprintf("It rests on %s of %s, on %s", count(s.Checked), some(s.Operations, "operation"), some(s.Keys, "key"))
	switch {
	case done == 0:
		text += ", without any fault"
	case effective == 1 && done == 1:
		text += ", under 1 fault, which took effect"
	case effective == done:
		text += fmt.Sprintf(", under %s, of which each took effect", some(done, "fault"))
	default:
		text += fmt.Sprintf(", under %s that took effect, of %s that were done", some(effective, "fault"), count(done))
	}
	return text + fmt.Sprintf(". Of the reads that must see the newest value %s found one and %s found nothing.", count(hits), count(misses))
}

// otherwise says what would have changed the verdict.
func otherwise(s Summary, v check.Report) string {
	switch s.Verdict {
	case check.Valid:
		effective, _ := s.Effects()
		hits, misses := s.Reads()
		var least []string
		if n, err := strconv.ParseFloat(s.Meta.Flags["least-rate"], 64); err == nil {
			least = append(least, fmt.Sprintf("fewer than %.0f successes a second (there were %.0f)", n, s.Rate))
		}
		if n, err := strconv.Atoi(s.Meta.Flags["least-faults"]); err == nil {
			least = append(least, fmt.Sprintf("fewer than %s that took effect (there were %d)", some(n, "fault"), effective))
		}
		least = append(least, fmt.Sprintf("less than %s of those reads finding something (%s did)", percent(check.LeastHits), share(hits, hits+misses)))
		return "One violation of any check below would have made it invalid. With " + strings.Join(least, ", or ") +
			fmt.Sprintf(", it would be not proved; with a search that ran out of time for more than %s of the keys (there were %d of %s), undecided.",
				percent(check.MaxUndecided), len(v.Undecided), count(s.Keys))
	case check.Invalid:
		rest := check.Report{Undecided: v.Undecided, Keys: v.Keys}
		for _, c := range v.Checks {
			if c.Verdict != check.Invalid {
				rest.Checks = append(rest.Checks, c)
			}
		}
		if len(v.Violations) == 0 {
			return ""
		}
		text := fmt.Sprintf("Without the %s below it would have been %s", some(len(v.Violations), "violation"), rest.Verdict())
		if why := broken(s, rest.Verdict()); rest.Verdict() != check.Valid && why != "" {
			text += ", since " + why
		}
		return text + "."
	case check.Undecided:
		return fmt.Sprintf("It would have been valid or invalid with an answer for all but %s of the keys.", percent(check.MaxUndecided))
	}
	var reasons []string
	for _, c := range failed(s, check.NotProved) {
		if c.Detail != "" && !slices.Contains(reasons, c.Detail) {
			reasons = append(reasons, c.Detail)
		}
	}
	if len(reasons) == 0 {
		return ""
	}
	return "What is missing: " + list(reasons) + "."
}
