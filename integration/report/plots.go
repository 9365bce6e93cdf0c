package report

import (
	"cmp"
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// Figure is a plot with what a reader has to know of it.
type Figure struct {
	Title   string
	SVG     template.HTML
	Legend  []Legend
	Caption string
}

// Legend explains a class of marks.
type Legend struct{ Class, Text string }

// Dot reports whether its marks are dots.
func (l Legend) Dot() bool { return slices.Contains([]string{"ok", "refused", "unknown"}, l.Class) }

// Box reports whether its marks are boxes, not lines or dots.
func (l Legend) Box() bool {
	return !strings.HasPrefix(l.Class, "line ") && !l.Dot()
}

func figures(r *history.Run, faults []episode) []Figure {
	end := lasted(r)
	all := []Figure{latency(r, end, faults), overTime(r, end, faults), rates(r, end, faults), leaders(r, end, faults), lag(r, end, faults)}
	if r.Meta.Mode == history.Tight {
		all = append(all, evictions(r, end, faults))
	}
	return slices.DeleteFunc(all, func(f Figure) bool { return f.SVG == "" })
}

func figure(p *plot, legend []Legend, caption string) Figure {
	return Figure{Title: p.title, SVG: template.HTML(p.svg()), Legend: legend, Caption: caption}
}

// lineGap is how long after a point a line goes on to the next one.
const lineGap = 1500 * time.Millisecond

func number(v float64) string {
	if v == math.Trunc(v) {
		return count(int(v))
	}
	return fmt.Sprintf("%g", v)
}

func inMillis(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%g s", v/1000)
	}
	return fmt.Sprintf("%g ms", v)
}

// dense is how many dots of a kind a scatter has at most.
const dense = 5000

// latency is a scatter of all operations.
func latency(r *history.Run, end time.Duration, faults []episode) Figure {
	const least = 0.1 // ms; a logarithm needs one
	most := 1000.0
	var ok, slow, refused, unknown []point
	var took []time.Duration
	for i := range r.Ops {
		if o := &r.Ops[i]; o.Outcome == history.OK {
			took = append(took, o.Return-o.Invoke)
		}
	}
	_, p99, _ := quantiles(took)
	for i := range r.Ops {
		o := &r.Ops[i]
		q := point{o.Invoke, max(least, millis(o.Return-o.Invoke))}
		most = max(most, q.v)
		switch {
		case o.Outcome == history.Refused:
			refused = append(refused, q)
		case o.Outcome == history.Unknown:
			unknown = append(unknown, q)
		case q.v > p99:
			slow = append(slow, q)
		default:
			ok = append(ok, q)
		}
	}
	p := newPlot("Latency of each operation", 300, end, least, most, true)
	p.windows(faults)
	p.axes(inMillis)
	shown := p.dots("ok", ok, dense)
	caption := "Each operation is a dot at the moment when it was asked for; dots that would cover each other are drawn once."
	if shown < len(ok) {
		caption = fmt.Sprintf("A dot is an operation, at the moment when it was asked for: all that were refused, of unknown outcome or slower than 99 of 100, and of the %s others %s, evenly.", count(len(ok)), count(shown))
	}
	for _, kind := range []struct {
		class  string
		points []point
	}{{"ok", slow}, {"refused", refused}, {"unknown", unknown}} {
		if n := p.dots(kind.class, kind.points, dense); n < len(kind.points) {
			caption += fmt.Sprintf(" Of %s (%s) %s are shown.", count(len(kind.points)), kind.class, count(n))
		}
	}
	return figure(p, []Legend{{"ok", "answered"}, {"refused", "refused, certainly nothing done"}, {"unknown", "outcome unknown"}, faultLegend},
		caption+" The scale is logarithmic: each line is ten times the one below it.")
}

// faultLegend explains the shaded windows.
var faultLegend = Legend{"fault", "a fault is on, with its number"}

// buckets sorts the operations by second of return.
func buckets(r *history.Run, end time.Duration) [][]*history.Operation {
	all := make([][]*history.Operation, int(end/time.Second)+1)
	for i := range r.Ops {
		o := &r.Ops[i]
		at := int(o.Return / time.Second)
		all[at] = append(all[at], o)
	}
	return all
}

func overTime(r *history.Run, end time.Duration, faults []episode) Figure {
	var p50, p99, longest []point
	most := 1000.0
	for second, ops := range buckets(r, end) {
		var took []time.Duration
		for _, o := range ops {
			if o.Outcome == history.OK {
				took = append(took, o.Return-o.Invoke)
			}
		}
		if len(took) == 0 {
			continue
		}
		at := time.Duration(second)*time.Second + time.Second/2
		a, b, c := quantiles(took)
		p50, p99, longest = append(p50, point{at, a}), append(p99, point{at, b}), append(longest, point{at, c})
		most = max(most, c)
	}
	p := newPlot("Latency of answered operations, by second", 220, end, 0.1, most, true)
	p.windows(faults)
	p.axes(inMillis)
	p.line("line a", p50, lineGap)
	p.line("line b", p99, lineGap)
	p.line("line c", longest, lineGap)
	return figure(p, []Legend{{"line a", "median"}, {"line b", "99th of 100"}, {"line c", "longest"}, faultLegend}, "Of the answers of each second; where a second had none the line has a gap. The scale is logarithmic.")
}

func rates(r *history.Run, end time.Duration, faults []episode) Figure {
	var lines [3][]point
	most := 1.0
	for second, ops := range buckets(r, end) {
		var n [3]float64
		for _, o := range ops {
			switch o.Outcome {
			case history.OK:
				n[0]++
			case history.Refused:
				n[1]++
			case history.Unknown:
				n[2]++
			}
		}
		for i := range lines {
			lines[i] = append(lines[i], point{time.Duration(second)*time.Second + time.Second/2, n[i]})
			most = max(most, n[i])
		}
	}
	p := newPlot("Operations per second, by outcome", 220, end, 0, most, false)
	p.windows(faults)
	p.axes(number)
	p.line("line a", lines[0], lineGap)
	p.line("line b", lines[1], lineGap)
	p.line("line c", lines[2], lineGap)
	return figure(p, []Legend{{"line a", "answered"}, {"line b", "refused"}, {"line c", "outcome unknown"}, faultLegend}, "Counted in the second in which they ended.")
}

// reign is a time in which samples say that a node leads a shard.
type reign struct {
	window
	node string
	term uint64
}

// reigns are the leaders of each shard by what they said of themselves, the highest term counting.
func reigns(r *history.Run) (shards []uint64, all map[uint64][]reign) {
	all = map[uint64][]reign{}
	samples := slices.Clone(r.Samples)
	slices.SortStableFunc(samples, func(a, b history.Sample) int { return cmp.Compare(a.At, b.At) })
	for _, s := range samples {
		if s.Role != "leader" {
			continue
		}
		list := all[s.Shard]
		if n := len(list); n > 0 && list[n-1].node == s.Node && list[n-1].term == s.Term {
			list[n-1].end = s.At
			continue
		} else if n > 0 && s.Term < list[n-1].term {
			continue // deposed, and does not know it yet
		}
		if len(list) == 0 {
			shards = append(shards, s.Shard)
		}
		all[s.Shard] = append(list, reign{window{s.At, s.At}, s.Node, s.Term})
	}
	slices.Sort(shards)
	return shards, all
}

func leaders(r *history.Run, end time.Duration, faults []episode) Figure {
	shards, all := reigns(r)
	if len(shards) == 0 {
		return Figure{}
	}
	const lane = 24
	colours := map[string]int{}
	var legend []Legend
	colour := func(node string) int {
		c, known := colours[node]
		if !known {
			c = len(colours)
			colours[node] = c
			legend = append(legend, Legend{fmt.Sprintf("node%d", c%7), node})
		}
		return c
	}
	for _, n := range r.Meta.Nodes {
		colour(n)
	}
	p := newPlot("Who leads each shard", float64(lane*len(shards)+top+4)+22, end, 0, 1, false)
	p.windows(faults)
	p.time()
	for i, shard := range shards {
		y := float64(top + 4 + i*lane)
		name := fmt.Sprintf("shard %d", shard)
		if shard == 0 {
			name = "directory"
		}
		p.lane(y+14, name)
		for _, l := range all[shard] {
			p.box(fmt.Sprintf("node%d", colour(l.node)%7), l.start, l.end, y, lane-6,
				fmt.Sprintf("%s leads %s in term %d, seen from %s to %s", l.node, name, l.term, moment(l.start), moment(l.end)),
				fmt.Sprintf("%s, term %d", l.node, l.term), l.node)
		}
	}
	return figure(p, append(legend, faultLegend), "By samples of what the nodes say of themselves; in a gap none said that it leads. A term is the span between two elections.")
}

// bySecond gathers a value of samples by node and second.
func bySecond(r *history.Run, value func(history.Sample) (float64, bool)) (nodes []string, lines map[string][]point, most float64) {
	lines = map[string][]point{}
	sums := map[string]map[int]float64{}
	for _, s := range r.Samples {
		v, ok := value(s)
		if !ok {
			continue
		}
		if sums[s.Node] == nil {
			sums[s.Node] = map[int]float64{}
			nodes = append(nodes, s.Node)
		}
		second := int(s.At / time.Second)
		sums[s.Node][second] = max(sums[s.Node][second], v)
	}
	slices.Sort(nodes)
	for node, seconds := range sums {
		for second, v := range seconds {
			lines[node] = append(lines[node], point{time.Duration(second) * time.Second, v})
			most = max(most, v)
		}
		slices.SortFunc(lines[node], func(a, b point) int { return cmp.Compare(a.at, b.at) })
	}
	return nodes, lines, most
}

func byNode(title string, r *history.Run, end time.Duration, faults []episode, caption string, value func(history.Sample) (float64, bool)) Figure {
	nodes, lines, most := bySecond(r, value)
	if len(nodes) == 0 {
		return Figure{}
	}
	p := newPlot(title, 180, end, 0, max(most, 1), false)
	p.windows(faults)
	p.axes(number)
	var legend []Legend
	for i, n := range nodes {
		p.line(fmt.Sprintf("line n%d", i%7), lines[n], lineGap)
		legend = append(legend, Legend{fmt.Sprintf("line n%d", i%7), n})
	}
	return figure(p, append(legend, faultLegend), caption)
}

// lag is how far the replicas are behind.
func lag(r *history.Run, end time.Duration, faults []episode) Figure {
	newest := map[uint64]map[int]uint64{} // shard, second: highest index that any replica has applied
	for _, s := range r.Samples {
		if newest[s.Shard] == nil {
			newest[s.Shard] = map[int]uint64{}
		}
		second := int(s.At / time.Second)
		newest[s.Shard][second] = max(newest[s.Shard][second], s.Applied)
	}
	return byNode("Entries that a node's replicas are behind", r, end, faults,
		"An entry is one change in a log. Of each node the replica that is furthest behind, each second, against what any replica of its shard has applied by then.",
		func(s history.Sample) (float64, bool) {
			return float64(newest[s.Shard][int(s.At/time.Second)] - s.Applied), true
		})
}

func evictions(r *history.Run, end time.Duration, faults []episode) Figure {
	return byNode("Entries evicted", r, end, faults, "Of each node the shard that evicted most, since its process started.",
		func(s history.Sample) (float64, bool) { return float64(s.Evicted), true })
}
