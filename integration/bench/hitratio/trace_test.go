package main

import (
	"compress/gzip"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/larder-cache/larder/fsm"
)

// TestReadTrace ensures that traces are read with and without compression, up to a limit, and that a damaged or
// empty one is an error.
func TestReadTrace(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var packed strings.Builder
	zw := gzip.NewWriter(&packed)
	io.WriteString(zw, "a\nb\n\na\n")
	zw.Close()
	for _, path := range []string{write("one.txt", []byte("a\nb\n\na\n")), write("one.txt.gz", []byte(packed.String()))} {
		tr, err := readTrace(path, 0)
		if err != nil || tr.name != "one" || !slices.Equal(tr.keys, []string{"a", "b", "a"}) {
			t.Errorf("%s: %+v, %v", path, tr, err)
		}
		if want := cost("a") + cost("b"); tr.total() != want {
			t.Errorf("%s: all keys cost %d, want %d", path, tr.total(), want)
		}
		if tr, err := readTrace(path, 2); err != nil || len(tr.keys) != 2 {
			t.Errorf("%s: %+v, %v", path, tr, err)
		}
	}
	for _, path := range []string{write("empty.txt", nil), write("bad.txt.gz", []byte(packed.String()[:20])), filepath.Join(dir, "missing")} {
		if tr, err := readTrace(path, 0); err == nil {
			t.Errorf("%s: %+v", path, tr)
		}
	}
}

// TestTracesOf ensures that a folder that is not there has no traces, and that a file must be there.
func TestTracesOf(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.txt", "a.txt.gz", "README.md"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{filepath.Join(dir, "a.txt.gz"), filepath.Join(dir, "b.txt")}
	if got, err := tracesOf(config{traces: dir}); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if got, err := tracesOf(config{traces: filepath.Join(dir, "missing")}); err != nil || len(got) != 0 {
		t.Errorf("a missing folder has %q, %v", got, err)
	}
	if got, err := tracesOf(config{trace: filepath.Join(dir, "missing")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file is %q, %v", got, err)
	}
}

// TestValueSizes ensures that sizes are within their bounds, differ, and are the same every time.
func TestValueSizes(t *testing.T) {
	seen, sum := map[int]bool{}, 0
	for i := range 10_000 {
		key := fmt.Sprint(i)
		n := valueSize(key)
		if n < leastValue || n > largestValue || n != valueSize(key) {
			t.Fatalf("key %s has %d bytes", key, n)
		}
		seen[n] = true
		sum += n
	}
	if mean := sum / 10_000; len(seen) < (largestValue-leastValue)*9/10 || mean < 500 || mean > 524 {
		t.Errorf("10,000 keys have %d sizes, on average %d", len(seen), mean)
	}
	if got := valueSize("1"); got != 737 {
		t.Errorf("key 1 has %d bytes, it had 737 when this was written", got)
	}
}

// TestShardOf ensures that each key goes to the one shard that owns its slot.
func TestShardOf(t *testing.T) {
	for _, shards := range []int{1, 3, 8} {
		c := &cluster{shards: shards}
		covered := uint32(0)
		for id := range c.ids() {
			if r := c.rangeOf(id); r.Start != covered {
				t.Errorf("shard %d of %d begins at %d, want %d", id, shards, r.Start, covered)
			} else {
				covered = r.End
			}
		}
		if covered != fsm.Slots {
			t.Errorf("%d shards end at %d", shards, covered)
		}
		for i := range 20_000 {
			key := []byte(fmt.Sprint(i))
			if id := c.shardOf(key); !c.rangeOf(id).Contains(fsm.Slot(key)) {
				t.Fatalf("slot %d goes to shard %d of %d", fsm.Slot(key), id, shards)
			}
		}
	}
}

// TestPlot ensures that the plot is XML that shows each trace, size and series.
func TestPlot(t *testing.T) {
	var results []result
	for _, name := range []string{"one", "two & more", "three", "four"} {
		for i, share := range shares {
			results = append(results, result{trace: name, share: share, exact: float64(10 * i), ours: float64(10*i) + 1})
		}
	}
	data := plot(results)
	polylines := 0
	for d := xml.NewDecoder(strings.NewReader(string(data))); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "polyline" {
			polylines++
		}
	}
	if want := len(lines) * (4 + 1); polylines != want {
		t.Errorf("%d lines, want %d", polylines, want)
	}
	for _, want := range []string{"one: ", "two &amp; more: ", "30 %", lines[5].name} {
		if !strings.Contains(string(data), want) {
			t.Errorf("the plot lacks %q", want)
		}
	}
	if len(results[0].series()) != len(lines) {
		t.Errorf("%d series and %d lines", len(results[0].series()), len(lines))
	}
}
