package report

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// faultLanes shows when which fault was on, a lane for each class, and until when the clients suffered from it.
func faultLanes(faults []episode, end time.Duration) Figure {
	if len(faults) == 0 {
		return Figure{}
	}
	type lane struct {
		class string
		end   time.Duration
	}
	var lanes []lane
	at := make([]int, len(faults))
	for i, f := range faults {
		done := max(f.Until, f.Recovered)
		n := slices.IndexFunc(lanes, func(l lane) bool { return l.class == f.Class && l.end <= f.Start })
		if n < 0 {
			n = len(lanes)
			lanes = append(lanes, lane{class: f.Class})
		}
		at[i], lanes[n].end = n, done
	}
	const height = 26
	p := newPlot("Faults over time", float64(height*len(lanes)+top+4)+22, end, 0, 1, false)
	p.time()
	for i, l := range lanes {
		p.lane(float64(top+4+i*height)+15, l.class)
	}
	for i, f := range faults {
		y := float64(top + 4 + at[i]*height)
		class := "hurt"
		if f.Effect == "" {
			class = "idle"
		}
		if f.Recovered > f.Until {
			p.box("recovering", f.Until, f.Recovered, y+6, height-18, "until the clients' successes were back: "+f.Recovery())
		}
		p.box(class, f.Start, f.Until, y, height-6, f.Hint(), fmt.Sprintf("%d %s", f.N, f.Title()), fmt.Sprintf("%d %s", f.N, f.Name), fmt.Sprint(f.N))
		if p.narrow(f.Start, f.Until, fmt.Sprint(f.N)) {
			p.beside(f.Start, y, height-6, fmt.Sprint(f.N))
		}
	}
	return figure(p, []Legend{{"hurt", "took effect"}, {"idle", "no effect seen"}, {"recovering", "until the clients' successes were back"}},
		"The numbers are those of the table and of all plots below.")
}

// bar is an operation in a drawing, with the number of the step that tells it, 0 if none does.
type bar struct {
	o    *history.Operation
	step int
}

// lanes draws operations as bars from request to answer, a lane for each client.
func lanes(bars []bar) Figure {
	if len(bars) < 2 {
		return Figure{}
	}
	var clients []int
	begin, end := bars[0].o.Invoke, time.Duration(0)
	for _, b := range bars {
		if !slices.Contains(clients, b.o.Process) {
			clients = append(clients, b.o.Process)
		}
		begin, end = min(begin, b.o.Invoke), max(end, b.o.Return)
	}
	idle, squeezed := pauses(bars)
	busy := end - begin
	for _, w := range idle {
		busy -= w.end - w.start - squeezed
	}
	margin := busy / 20
	const height = 26
	p := newPlot("The operations as their clients saw them", float64(height*len(clients)+top+4)+22, end+margin, 0, 1, false)
	p.left = 76
	p.begin, p.end, p.idle, p.squeezed = max(0, begin-margin), end+margin, idle, squeezed
	p.time()
	for i, c := range clients {
		y := float64(top + 4 + i*height)
		p.lane(y+15, fmt.Sprintf("client %d", c))
		for _, b := range bars {
			if b.o.Process != c {
				continue
			}
			class, number := "other", ""
			if b.step > 0 {
				class, number = "told", fmt.Sprint(b.step)
			}
			p.box(class, b.o.Invoke, b.o.Return, y, height-6, said(b.o), number)
			if b.step > 0 && p.narrow(b.o.Invoke, b.o.Return, number) {
				p.beside(b.o.Invoke, y, height-6, number)
			}
		}
	}
	caption := ""
	if len(idle) > 0 {
		caption = " Where none of these was under way for long the time is cut short, by what stands above."
	}
	return figure(p, []Legend{{"told", "a step of the story, with its number"}, {"other", "another operation"}},
		"A bar reaches from the request to its answer. What ended before something else began must come before it in any order."+caption)
}

// pauses are the times between operations which are so long that the rest could not be seen beside them, and how long they
// are to be drawn.
func pauses(bars []bar) (all []window, drawn time.Duration) {
	sorted := slices.Clone(bars)
	slices.SortFunc(sorted, func(a, b bar) int { return cmp.Compare(a.o.Invoke, b.o.Invoke) })
	var busy time.Duration // that some operation takes, and short pauses
	end := sorted[0].o.Invoke
	var gaps []window
	for _, b := range sorted {
		if b.o.Invoke > end {
			gaps = append(gaps, window{end, b.o.Invoke})
			end = b.o.Invoke
		}
		busy += max(0, b.o.Return-end)
		end = max(end, b.o.Return)
	}
	for _, g := range gaps {
		if length := g.end - g.start; length > 3*busy {
			// The operations keep away from the cut.
			all = append(all, window{g.start + busy/10, g.end - busy/10})
		}
	}
	return all, busy / 4
}
