package report

import (
	"fmt"
	"math"
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
	margin := (end - begin) / 20
	const height = 26
	p := newPlot("The operations as their clients saw them", float64(height*len(clients)+top+4)+22, end+margin, 0, 1, false)
	p.left = 76
	p.begin, p.end = max(0, begin-margin), end+margin
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
			p.box(class, b.o.Invoke, b.o.Return, y, height-6, said(b.o))
			if b.step > 0 {
				x := p.x(b.o.Invoke) + math.Max(0, (p.x(b.o.Return)-p.x(b.o.Invoke))/2)
				p.printf(`<text class="lane" text-anchor="middle" x="%.1f" y="%.1f">%s</text>`, x, y+15, number)
			}
		}
	}
	return figure(p, []Legend{{"told", "a step of the story, with its number"}, {"other", "another operation"}},
		"A bar reaches from the request to its answer. What ended before something else began must come before it in any order.")
}
