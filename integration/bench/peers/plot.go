package main

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"

	"github.com/larder-cache/larder/integration/bench/report"
)

// drawing is a figure that is drawn by connections.
type drawing struct {
	name, label string
	latency     bool
	figure      func(sample) *float64
}

var drawings = []drawing{
	{"rate", "requests per second", false, rateOf},
	{"p50", "p50, milliseconds", true, func(x sample) *float64 { return pointer(x.P50 / 1000) }},
	{"p99", "p99, milliseconds", true, func(x sample) *float64 { return pointer(x.P99 / 1000) }},
}

// plot draws rates and latencies by connections, an SVG for each of them and each mix, into a folder.
func (f *findings) plot(dir string) error {
	for _, m := range allMixes {
		for _, d := range drawings {
			p, err := f.draw(m, d)
			if err != nil {
				return err
			}
			if p == nil {
				continue
			}
			writer, err := p.WriterTo(22*vg.Centimeter, 12*vg.Centimeter, "svg")
			if err != nil {
				return err
			}
			var svg strings.Builder
			if _, err := writer.WriteTo(&svg); err != nil {
				return err
			}
			name := strings.ReplaceAll(m.name, ":", "-") + "-" + d.name + ".svg"
			if err := report.WriteFile(filepath.Join(dir, name), []byte(svg.String())); err != nil {
				return err
			}
		}
	}
	return nil
}

// draw returns the drawing of a mix, nil where nothing of it was measured.
func (f *findings) draw(m mix, d drawing) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = fmt.Sprintf("%s, values of %d bytes", m.name, valueSize)
	p.X.Label.Text, p.Y.Label.Text = "connections", d.label
	var conns []float64
	for i, system := range f.systems() {
		line := f.line(system, m.name, d.figure)
		if d.latency { // none where all failed, which a logarithm can't show
			line = slices.DeleteFunc(line, func(at plotter.XY) bool { return at.Y <= 0 })
		}
		if len(line) == 0 {
			continue
		}
		lines, points, err := plotter.NewLinePoints(line)
		if err != nil {
			return nil, err
		}
		lines.Color, points.Color, points.Shape = plotutil.Color(i), plotutil.Color(i), plotutil.Shape(i)
		p.Add(lines, points)
		p.Legend.Add(system, lines, points)
		for _, at := range line {
			conns = append(conns, at.X)
		}
	}
	if len(conns) == 0 {
		return nil, nil
	}
	slices.Sort(conns)
	conns = slices.Compact(conns)
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, ticksAt(conns)
	// To the right of all points there is room for the legend.
	low, high := conns[0], conns[len(conns)-1]
	p.X.Min, p.X.Max = low, high*math.Pow(2*high/low, legendShare)
	p.Legend.Top = true
	if d.latency {
		p.Y.Scale = plot.LogScale{}
		p.Y.Min, p.Y.Max = step(p.Y.Min, false), step(1.1*p.Y.Max, true) // never the same
		p.Y.Tick.Marker = ticksAt(steps(p.Y.Min, p.Y.Max))
	} else {
		p.Y.Min = 0
		p.Y.Tick.Marker = thousands{}
	}
	p.Add(plotter.NewGrid())
	return p, nil
}

// legendShare is how wide the legend is, as a part of the width that the lines have.
const legendShare = 0.3

// systems are those that were measured, in the order of the first round.
func (f *findings) systems() []string {
	var all []string
	for _, x := range f.Samples {
		if !slices.Contains(all, x.System) {
			all = append(all, x.System)
		}
	}
	return all
}

// ticksAt are ticks with labels at values.
func ticksAt(values []float64) plot.ConstantTicks {
	var ticks []plot.Tick
	for _, v := range values {
		ticks = append(ticks, plot.Tick{Value: v, Label: strconv.FormatFloat(v, 'g', 6, 64)})
	}
	return ticks
}

// thousands are gonum's ticks, whose labels have a space between thousands.
type thousands struct{}

// Ticks implements plot.Ticker.
func (thousands) Ticks(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i, t := range ticks {
		if t.IsMinor() {
			continue
		}
		digits := strconv.FormatFloat(t.Value, 'f', 0, 64)
		for at := len(digits) - 3; at > 0; at -= 3 {
			digits = digits[:at] + " " + digits[at:]
		}
		ticks[i].Label = digits
	}
	return ticks
}

// step is the next of 1, 2, 5, 10, 20 and so on that is not above a value, or not below it where up says so.
func step(value float64, up bool) float64 {
	power := math.Pow(10, math.Floor(math.Log10(value)))
	below := power
	for _, digit := range []float64{1, 2, 5} {
		at := digit * power
		switch {
		case up && at >= value:
			return at
		case !up && at > value:
			return below
		}
		below = at
	}
	if up {
		return 10 * power
	}
	return below
}

// steps are all such steps from one to another.
func steps(low, high float64) []float64 {
	all := []float64{low}
	for all[len(all)-1] < high {
		all = append(all, step(all[len(all)-1]*1.1, true))
	}
	return all
}

// line is the median of a system's figure for each number of connections.
func (f *findings) line(system, mix string, figure func(sample) *float64) plotter.XYs {
	var conns []int
	for _, x := range f.Samples {
		if x.System == system && x.Mix == mix && !slices.Contains(conns, x.Conns) {
			conns = append(conns, x.Conns)
		}
	}
	slices.Sort(conns)
	var line plotter.XYs
	for _, n := range conns {
		line = append(line, plotter.XY{X: float64(n), Y: report.Median(f.of(system, n, mix, figure))})
	}
	return line
}
