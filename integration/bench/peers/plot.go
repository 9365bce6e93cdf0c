package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"

	"github.com/larder-cache/larder/integration/bench/report"
)

// plot draws requests per second by connections, an SVG per mix, into a folder.
func (f *findings) plot(dir string) error {
	for _, m := range allMixes {
		p := plot.New()
		p.Title.Text = fmt.Sprintf("%s, values of %d bytes", m.name, valueSize)
		p.X.Label.Text, p.Y.Label.Text = "connections", "requests per second"
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
		p.Y.Min = 0
		p.Legend.Top, p.Legend.Left = true, true
		drawn := 0
		for i, system := range allSystems {
			line := f.line(system, m.name)
			if len(line) == 0 {
				continue
			}
			lines, points, err := plotter.NewLinePoints(line)
			if err != nil {
				return err
			}
			lines.Color, points.Color, points.Shape = plotutil.Color(i), plotutil.Color(i), plotutil.Shape(i)
			p.Add(lines, points)
			p.Legend.Add(system, lines, points)
			drawn += len(line)
		}
		if drawn == 0 {
			continue
		}
		if p.X.Min == p.X.Max {
			p.X.Max++ // a logarithmic axis has no width else
		}
		writer, err := p.WriterTo(16*vg.Centimeter, 11*vg.Centimeter, "svg")
		if err != nil {
			return err
		}
		var svg strings.Builder
		if _, err := writer.WriteTo(&svg); err != nil {
			return err
		}
		if err := resultFile(filepath.Join(dir, strings.ReplaceAll(m.name, ":", "-")+".svg"), []byte(svg.String())); err != nil {
			return err
		}
	}
	return nil
}

// line is a system's median rate for each number of connections.
func (f *findings) line(system, mix string) plotter.XYs {
	var conns []int
	for _, x := range f.Samples {
		if x.System == system && x.Mix == mix && !slices.Contains(conns, x.Conns) {
			conns = append(conns, x.Conns)
		}
	}
	slices.Sort(conns)
	var line plotter.XYs
	for _, n := range conns {
		line = append(line, plotter.XY{X: float64(n), Y: report.Median(f.of(system, n, mix, rateOf))})
	}
	return line
}
