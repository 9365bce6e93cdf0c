package report

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/larder-cache/larder/integration/check"
)

// Text is a summary for a terminal.
func Text(s Summary, v check.Report) string {
	var b strings.Builder
	j := judge(s, v)
	fmt.Fprintf(&b, "%s\n", strings.ToUpper(string(s.Verdict)))
	for _, line := range []string{j.Sentence, j.Bug, j.Rests, j.Otherwise} {
		if line != "" {
			fmt.Fprintln(&b, line)
		}
	}
	for _, reason := range s.Reasons {
		fmt.Fprintf(&b, "  %s\n", reason)
	}
	fmt.Fprintf(&b, "\nworkload %s, %s, seed %d, %d nodes, %d shards, net %s, %.1f s, %.0f successes a second, %s\n\n",
		s.Meta.Workload, s.Meta.Mode, s.Meta.Seed, len(s.Meta.Nodes), s.Meta.Shards, s.Meta.Net, s.Lasted, s.Rate, s.Meta.Version)
	table(&b, "check\tverdict\tchecked\t", len(s.Checks), func(i int) string {
		c := s.Checks[i]
		return fmt.Sprintf("%s\t%s\t%d\t%s", c.Name, c.Verdict, c.Checked, c.Detail)
	})
	table(&b, "operation\tok\trefused\tunknown\thits\tconflicts\tp50 ms\tp99 ms\tmax ms", len(s.Kinds), func(i int) string {
		k := s.Kinds[i]
		return fmt.Sprintf("%s\t%d\t%d\t%d\t%d\t%d\t%.1f\t%.1f\t%.1f", k.Kind, k.OK, k.Refused, k.Unknown, k.Hits, k.Conflicts, k.P50, k.P99, k.Longest)
	})
	table(&b, "phase\tseconds\tok/s\tp50 ms\tp99 ms\tmax ms", len(s.Phases), func(i int) string {
		p := s.Phases[i]
		return fmt.Sprintf("%s\t%.1f\t%.0f\t%.1f\t%.1f\t%.1f", p.Name, p.Seconds, p.Rate, p.P50, p.P99, p.Longest)
	})
	table(&b, "fault\tclass\tdone\ttook effect\trecovered\tmedian s\tlongest s", len(s.Faults), func(i int) string {
		f := s.Faults[i]
		return fmt.Sprintf("%s\t%s\t%d\t%d\t%d\t%.2f\t%.2f", f.Name, f.Class, f.Done, f.Effective, f.Recovered, f.Median, f.Longest)
	})
	table(&b, "reads while on\thits\tmisses", len(s.Classes), func(i int) string {
		c := s.Classes[i]
		return fmt.Sprintf("%s\t%d\t%d", c.Class, c.Hits, c.Misses)
	})
	fmt.Fprintf(&b, "hits per key: %d at least, %d median, %d at most\nrepeat: %s\n", s.HitsPerKey.Least, s.HitsPerKey.Median, s.HitsPerKey.Most, repeat(s.Meta))
	return plain(b.String())
}

func table(b *strings.Builder, head string, rows int, row func(int) string) {
	if rows == 0 {
		return
	}
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, head)
	for i := range rows {
		fmt.Fprintln(w, row(i))
	}
	w.Flush()
	b.WriteByte('\n')
}
