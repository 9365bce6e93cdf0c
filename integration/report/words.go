package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// count writes a number with a comma before each three digits.
func count(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// some is a count with its noun: one fault, 1,200 faults.
func some(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return count(n) + " " + plural(noun)
}

// plural is that of a noun, which a few words may follow: reads at the end.
func plural(noun string) string {
	noun, rest, follows := strings.Cut(noun, " ")
	if follows {
		rest = " " + rest
	}
	switch n := len(noun); {
	case strings.HasSuffix(noun, "s"):
		return noun + "es" + rest
	case strings.HasSuffix(noun, "y") && !strings.ContainsAny(noun[n-2:n-1], "aeiou"):
		return noun[:n-1] + "ies" + rest
	}
	return noun + "s" + rest
}

// span writes a duration with its unit, to about three digits. As everywhere, no line ends between a number and its unit.
func span(d time.Duration) string {
	switch ms := math.Abs(millis(d)); {
	case d%time.Second == 0 && ms < 120_000:
		return fmt.Sprintf("%d\u00a0s", d/time.Second)
	case ms < 1:
		return fmt.Sprintf("%.2f\u00a0ms", millis(d))
	case ms < 9.95:
		return fmt.Sprintf("%.1f\u00a0ms", millis(d))
	case ms < 999.5:
		return fmt.Sprintf("%.0f\u00a0ms", millis(d))
	case ms < 9995:
		return fmt.Sprintf("%.2f\u00a0s", d.Seconds())
	case ms < 119_950:
		return fmt.Sprintf("%.1f\u00a0s", d.Seconds())
	}
	s := int(math.Round(d.Seconds()))
	if s%60 == 0 {
		return fmt.Sprintf("%d\u00a0min", s/60)
	}
	return fmt.Sprintf("%d\u00a0min %d\u00a0s", s/60, s%60)
}

// secs and ms are span of numbers that a Summary has.
func secs(v float64) string { return span(time.Duration(v * float64(time.Second))) }
func ms(v float64) string   { return span(time.Duration(v * float64(time.Millisecond))) }

// back is secs of a recovery. What is looked at some times a second can't tell short ones from none.
func back(v float64) string {
	if v < 0.01 {
		return "at once"
	}
	return secs(v)
}

// moment is a time since the start of the recording.
func moment(d time.Duration) string { return fmt.Sprintf("%.1f\u00a0s", d.Seconds()) }

// instant is a moment to the millisecond.
func instant(d time.Duration) string { return fmt.Sprintf("%.3f\u00a0s", d.Seconds()) }

// share is a part in percent.
func share(part, whole int) string {
	switch p := 100 * float64(part) / float64(max(whole, 1)); {
	case part == 0:
		return "0\u00a0%"
	case p < 1:
		return fmt.Sprintf("%.2f\u00a0%%", p)
	case p > 99 && part < whole:
		return fmt.Sprintf("%.2f\u00a0%%", min(p, 99.99))
	default:
		return fmt.Sprintf("%.0f\u00a0%%", p)
	}
}

// percent writes a share that a check demands.
func percent(v float64) string { return strconv.FormatFloat(100*v, 'g', 3, 64) + "\u00a0%" }

// plain is a text for terminals and files, with the spaces of a keyboard.
func plain(s string) string { return strings.ReplaceAll(s, "\u00a0", " ") }

// list joins names as people do.
func list(names []string) string {
	switch n := len(names); n {
	case 0:
		return ""
	case 1:
		return names[0]
	default:
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
}

// label is the start of a value, which is what differs between those of a run; what fills it up is left out.
func label(value string) string {
	const most = 20
	text := []rune(value)
	text = text[:min(most, len(text))]
	end := len(text)
	for end > 1 && text[end-1] == text[end-2] {
		end--
	}
	if len(text)-end >= 2 { // a filling
		end--
	} else {
		end = len(text)
	}
	short := strings.TrimSpace(string(text[:end]))
	if end < len([]rune(value)) {
		short += "…"
	}
	return "“" + short + "”"
}
