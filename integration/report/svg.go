package report

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strconv"
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
	begin, end time.Duration // left and right edge
	low, high  float64       // of the values
	log        bool
	left, base float64  // margins
	idle       []window // in which nothing happens, in order: each is drawn as if it took squeezed
	squeezed   time.Duration
}

const plotWidth = 960

func newPlot(title string, height float64, end time.Duration, low, high float64, log bool) *plot {
	return &plot{title: title, width: plotWidth, height: height, end: max(end, time.Second), low: low, high: high, log: log, left: 58, base: 22}
}

func (p *plot) x(at time.Duration) float64 {
	return p.left + (p.width-p.left-8)*float64(p.drawn(at)-p.drawn(p.begin))/float64(p.drawn(p.end)-p.drawn(p.begin))
}

// drawn is when a time is drawn.
func (p *plot) drawn(at time.Duration) time.Duration {
	var saved time.Duration
	for _, w := range p.idle {
		if at <= w.start {
			break
		}
		inside := min(at, w.end) - w.start
		saved += inside - time.Duration(float64(inside)*float64(p.squeezed)/float64(w.end-w.start))
	}
	return at - saved
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
	return top + (p.height-top-p.base)*(1-share)
}

func (p *plot) printf(format string, args ...any) { fmt.Fprintf(&p.b, format, args...) }

// windows shades the times in which faults were on, with their numbers at the top, side by side where they would cover
// each other.
func (p *plot) windows(faults []episode) {
	free := 0.0
	for _, f := range faults {
		x, w := p.x(f.Start), max(1, p.x(f.Until)-p.x(f.Start))
		p.printf(`<rect class="fault" x="%.1f" y="%d" width="%.1f" height="%.1f"><title>%s</title></rect>`, x, top, w, p.height-top-p.base, html.EscapeString(f.Hint()))
		at := max(x, free)
		p.printf(`<text class="mark" x="%.1f" y="11">%d</text>`, at, f.N)
		free = at + 6.5*float64(len(fmt.Sprint(f.N))) + 6
	}
}

// top is the room above what is plotted, for the numbers of faults.
const top = 15

// axes draws a grid, with what format says to each line.
func (p *plot) axes(format func(float64) string) {
	for _, v := range p.ticks() {
		y := p.y(v)
		p.printf(`<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/><text class="axis" x="%.1f" y="%.1f" text-anchor="end">%s</text>`,
			p.left, p.width-8, y, y, p.left-5, y+4, format(v))
	}
	p.time()
}

// time draws the axis of time.
func (p *plot) time() {
	step := niceStep((p.drawn(p.end) - p.drawn(p.begin)).Seconds(), 10)
	for i := math.Ceil(p.begin.Seconds() / step); i*step <= p.end.Seconds(); i++ {
		at := time.Duration(i * step * float64(time.Second))
		if slices.ContainsFunc(p.idle, func(w window) bool { return w.start < at && at < w.end }) {
			continue
		}
		x := p.x(at)
		anchor := "middle"
		if x > p.width-24 {
			anchor = "end"
		}
		p.printf(`<line class="grid" x1="%.1f" x2="%.1f" y1="%d" y2="%.1f"/><text class="axis" x="%.1f" y="%.1f" text-anchor="%s">%s s</text>`,
			x, x, top, p.height-p.base, min(x, p.width-2), p.height-6, anchor, strconv.FormatFloat(i*step, 'f', decimals(step), 64))
	}
	for _, w := range p.idle {
		a, b := p.x(w.start), p.x(w.end)
		p.printf(`<rect class="cut" x="%.1f" y="%d" width="%.1f" height="%.1f"/><text class="mark" x="%.1f" y="11" text-anchor="middle">%s</text>`,
			a, top, b-a, p.height-top-p.base, (a+b)/2, span(w.end-w.start))
	}
}

// decimals is how many digits after the point a multiple of step needs.
func decimals(step float64) int {
	return max(0, int(math.Ceil(-math.Log10(step)-1e-9)))
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

// line draws points as a line, which has gaps where no point is for longer than gap.
func (p *plot) line(class string, points []point, gap time.Duration) {
	if len(points) == 0 {
		return
	}
	p.printf(`<path class="%s" d="`, class)
	for i, q := range points {
		q.at = min(q.at, p.end)
		x, y := p.x(q.at), p.y(q.v)
		switch {
		case i > 0 && q.at-points[i-1].at <= gap:
			p.printf("L%.1f %.1f", x, y)
		case i+1 < len(points) && points[i+1].at-q.at <= gap:
			p.printf("M%.1f %.1f", x, y)
		default: // alone
			p.printf("M%.1f %.1fh3", x-1.5, y)
		}
	}
	p.b.WriteString(`"/>`)
}

// dots draws points as one path of short strokes, which is a tenth of the bytes of as many circles. Those that would cover
// each other are drawn once, and of more than most only some, evenly; it returns how many of all are shown.
func (p *plot) dots(class string, points []point, most int) (shown int) {
	if len(points) == 0 {
		return 0
	}
	type pixel struct{ x, y int16 }
	pixels := map[pixel]int{}
	var order []pixel
	for _, q := range points {
		at := pixel{int16(math.Round(p.x(q.at))), int16(math.Round(p.y(q.v)))}
		if pixels[at]++; pixels[at] == 1 {
			order = append(order, at)
		}
	}
	every := (len(order) + most - 1) / most
	p.printf(`<path class="%s" d="`, class)
	for i := 0; i < len(order); i += every {
		p.printf("M%d %dh0", order[i].x, order[i].y)
		shown += pixels[order[i]]
	}
	p.b.WriteString(`"/>`)
	return shown
}

// box draws a box in a lane, with a text where there is room: the first that fits.
func (p *plot) box(class string, start, end time.Duration, y, height float64, hint string, texts ...string) {
	x, w := p.x(start), max(1, p.x(end)-p.x(start))
	p.printf(`<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="2"><title>%s</title></rect>`, class, x, y, w, height, html.EscapeString(hint))
	for _, text := range texts {
		if !p.narrow(start, end, text) {
			p.printf(`<text class="lane" x="%.1f" y="%.1f">%s</text>`, x+3, y+height-5, html.EscapeString(text))
			return
		}
	}
}

// beside writes a short text at the left of a box that has no room for it.
func (p *plot) beside(start time.Duration, y, height float64, text string) {
	p.printf(`<text class="mark" x="%.1f" y="%.1f" text-anchor="end">%s</text>`, p.x(start)-3, y+height-5, html.EscapeString(text))
}

// narrow reports whether a box has no room for a text.
func (p *plot) narrow(start, end time.Duration, text string) bool {
	return p.x(end)-p.x(start) <= 6.5*float64(len(text))+4
}

// lane names a lane at the left.
func (p *plot) lane(y float64, name string) {
	p.printf(`<text class="axis" x="%.1f" y="%.1f" text-anchor="end">%s</text>`, p.left-5, y, html.EscapeString(name))
}

// svg returns the whole element.
func (p *plot) svg() string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" role="img" aria-label="%s">%s</svg>`,
		p.width, p.height, html.EscapeString(p.title), p.b.String())
}
