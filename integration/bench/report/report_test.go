package report

import (
	"strings"
	"testing"
)

// TestTable ensures that a table is Markdown whose columns line up, also with letters of two bytes.
func TestTable(t *testing.T) {
	var out strings.Builder
	New(&out).Table([]string{"name", "µs"}, [][]string{{"a", "10"}, {"longer", "µ"}})
	want := "| name   | µs |\n|--------|---:|\n| a      | 10 |\n| longer |  µ |\n\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

// TestBars ensures that a missed bar is told and fails the run, and that one that was met does not.
func TestBars(t *testing.T) {
	var out strings.Builder
	r := New(&out)
	r.Bar(true, "fast", "1.2x")
	if err := r.Close(); err != nil || !strings.Contains(out.String(), "bar: fast: 1.2x, met\n") {
		t.Errorf("error %v after\n%s", err, &out)
	}
	r.Bar(false, "small", "90 bytes")
	if err := r.Close(); err == nil || !strings.Contains(out.String(), "bar: small: 90 bytes, MISSED\n") {
		t.Errorf("error %v after\n%s", err, &out)
	}
}

// TestMedian ensures that the median is the middle, whatever the order, and that the values stay as they were.
func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5}} {
		before := append([]float64(nil), tt.values...)
		if got := Median(tt.values); got != tt.want {
			t.Errorf("Median(%v) = %v, want %v", tt.values, got, tt.want)
		}
		for i := range before {
			if tt.values[i] != before[i] {
				t.Errorf("Median changed %v to %v", before, tt.values)
			}
		}
	}
	if got := Ratios([]float64{4, 9}, []float64{2, 3}); got[0] != 2 || got[1] != 3 {
		t.Errorf("Ratios = %v", got)
	}
}
