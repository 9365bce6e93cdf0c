package report

import (
	"fmt"
	"html"
	"math"
	"strings"
	"time"
)

// plot is an SVG with time from left to right. Its colours are names of classes, which the page's style gives
// colours for light and dark.
type plot struct {
	b          strings.Builder
	title      string
	width      float64
	height     float64
	end        time.Duration // right edge
	low, high  float64       // of the values
	log        bool
	left, base float64 // margins
}

const plotWidth = 960

func newPlot(title string, height float64, end time.Duration, low, high float64, log bool) *plot {
	return &plot{title: title, width: plotWidth, height: height, end: max(end, time.Second), low: low, high: high, log: log, left: 58, base: 22}
}

func (p *plot) x(at time.Duration) float64 {
	return p.left + (p.width-p.left-8)*float64(at)/float64(p.end)
}

func (p *plot) y(v float64) float64 {
	low, high := p.low, p.high
	if p.log {
		low, high, v = math.Log10(low), math.Log10(high), math.Log10(max(v, p.low))
	}
	if high <= low {
		high = low + 1
	}
	share := min(max((v-low)/(high-low), 0), 1)
	return 8 + (p.height-8-p.base)*(1-share)
}

func (p *plot) printf(format string, args ...any) { fmt.Fprintf(&p.b, format, args...) }

// windows shades the times in which faults were on, with a label for each that has room.
func (p *plot) windows(marks []mark) {
	free := 0.0
	for _, m := range marks {
		x, w := p.x(m.start), max(1, p.x(m.end)-p.x(m.start))
		p.printf(`<rect class="fault" x="%.1f" y="8" width="%.1f" height="%.1f"><title>%s</title></rect>`, x, w, p.height-8-p.base, html.EscapeString(m.label))
		if x >= free {
			p.printf(`<text class="mark" x="%.1f" y="18">%s</text>`, x+2, html.EscapeString(m.label))
			free = x + 6*float64(len(m.label)) + 8
		}
	}
}

// mark is a labelled window.
type mark struct {
	window
	label string
}

// axes draws a grid, with what format says to each line.
func (p *plot) axes(format func(float64) string) {
	for _, v := range p.ticks() {
		y := p.y(v)
		p.printf(`<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/><text class="axis" x="%.1f" y="%.1f" text-anchor="end">%s</text>`,
			p.left, p.width-8, y, y, p.left-5, y+4, format(v))
	}
	step := niceStep(p.end.Seconds(), 10)
	for s := 0.0; s <= p.end.Seconds(); s += step {
		x := p.x(time.Duration(s * float64(time.Second)))
		p.printf(`<line class="grid" x1="%.1f" x2="%.1f" y1="8" y2="%.1f"/><text class="axis" x="%.1f" y="%.1f" text-anchor="middle">%g s</text>`,
			x, x, p.height-p.base, x, p.height-6, s)
	}
}

func (p *plot) ticks() (all []float64) {
	if p.log {
		for v := math.Pow(10, math.Ceil(math.Log10(p.low))); v <= p.high*1.0001; v *= 10 {
			all = append(all, v)
		}
		return all
	}
	step := niceStep(p.high-p.low, 5)
	for v := math.Ceil(p.low/step) * step; v <= p.high*1.0001; v += step {
		all = append(all, v)
	}
	return all
}

// niceStep is a round step that gives about so many of them.
func niceStep(span float64, about int) float64 {
	if span <= 0 {
		return 1
	}
	raw := span / float64(about)
	power := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, m := range []float64{1, 2, 5, 10} {
		if m*power >= raw {
			return m * power
		}
	}
	return 10 * power
}

// point is a value at a time.
type point struct {
	at time.Duration
	v  float64
}

// line draws points as one line.
func (p *plot) line(class string, points []point) {
	if len(points) == 0 {
		return
	}
	p.printf(`<polyline class="%s" points="`, class)
	for i, q := range points {
		if i > 0 {
			p.b.WriteByte(' ')
		}
		p.printf("%.1f,%.1f", p.x(q.at), p.y(q.v))
	}
	p.b.WriteString(`"/>`)
}

// dots draws points as one path of short strokes, which is a tenth of the bytes of as many circles.
func (p *plot) dots(class string, points []point) {
	if len(points) == 0 {
		return
	}
	p.printf(`<path class="%s" d="`, class)
	for _, q := range points {
		p.printf("M%.1f %.1fh0", p.x(q.at), p.y(q.v))
	}
	p.b.WriteString(`"/>`)
}

// bar draws a box in a lane, with a text where there is room.
func (p *plot) bar(class string, start, end time.Duration, top, height float64, text, hint string) {
	x, w := p.x(start), max(0.5, p.x(end)-p.x(start))
	p.printf(`<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%s</title></rect>`, class, x, top, w, height, html.EscapeString(hint))
	if w > 7*float64(len(text)) {
		p.printf(`<text class="lane" x="%.1f" y="%.1f">%s</text>`, x+3, top+height-5, html.EscapeString(text))
	}
}

// svg returns the whole element.
func (p *plot) svg() string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" role="img" aria-label="%s"><title>%s</title>%s</svg>`,
		p.width, p.height, html.EscapeString(p.title), html.EscapeString(p.title), p.b.String())
}
