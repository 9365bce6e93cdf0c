package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/larder-cache/larder/integration/history"
	"github.com/larder-cache/larder/integration/nemesis"
)

// episode is a fault with the number that it has on the whole page.
type episode struct {
	history.Fault
	N     int
	Until time.Duration // as until
	// With is the episode that came after it before the clients' successes were looked at, 0 if none.
	With int
}

// episodes numbers the faults in the order of their beginning.
func episodes(r *history.Run) (all []episode) {
	end := lasted(r)
	for _, f := range r.Faults {
		all = append(all, episode{Fault: f, Until: until(f, end)})
	}
	slices.SortStableFunc(all, func(a, b episode) int { return cmp.Compare(a.Start, b.Start) })
	for i := range all {
		all[i].N = i + 1
	}
	for i := range all {
		if e := &all[i]; e.Recovered == 0 && e.Healed != 0 {
			for _, f := range all {
				if f.Recovered >= e.Healed && (e.With == 0 || f.Recovered < all[e.With-1].Recovered) {
					e.With = f.N
				}
			}
		}
	}
	return all
}

// endName is the fault that ends each run; it is in no plan.
const endName = "heal-majority"

// About says what the fault does.
func (e episode) About() string {
	if e.Name == endName {
		return "at the end no two nodes hear each other; then a majority is mended, and must serve; then the rest"
	}
	for _, f := range nemesis.Faults() {
		if f.Name == e.Name {
			return f.About
		}
	}
	return ""
}

// Title is the fault with its targets.
func (e episode) Title() string {
	if len(e.Targets) == 0 {
		return e.Name
	}
	return e.Name + " of " + strings.Join(e.Targets, ", ")
}

// Hint is all of it in one line.
func (e episode) Hint() string {
	end := "never undone"
	if e.Healed != 0 {
		end = "to " + moment(e.Healed)
	}
	return fmt.Sprintf("fault %d: %s, %s %s", e.N, e.Title(), moment(e.Start), end)
}

// Began, Lasted and Recovery are columns of the table.
func (e episode) Began() string { return moment(e.Start) }

// Lasted is how long the fault was on.
func (e episode) Lasted() string {
	if e.Healed == 0 {
		return "never undone"
	}
	return span(e.Healed - e.Start)
}

// Recovery is the time from the end of the fault until clients' successes were back.
func (e episode) Recovery() string {
	switch {
	case e.With != 0:
		return fmt.Sprintf("with %d", e.With)
	case e.Recovered == 0:
		return "not seen"
	case e.Recovered <= e.Healed:
		return "before its end"
	}
	return back((e.Recovered - e.Healed).Seconds())
}

// Shown is how the fault is known to have had an effect.
func (e episode) Shown() string {
	text := e.Effect
	if text == "" {
		text = "none seen"
	}
	if e.Err != "" {
		text += " (" + e.Err + ")"
	}
	return text
}
