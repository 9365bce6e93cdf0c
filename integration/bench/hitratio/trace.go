package main

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/larder-cache/larder/fsm"
)

// Values have leastValue to largestValue bytes. So narrow a range leaves the largest entry below an eighth
// of the limit in caches of a dozen entries, where anything above is refused.
const (
	leastValue   = 256
	largestValue = 768
)

// trace is a sequence of accesses.
type trace struct {
	name string
	keys []string
}

// readTrace reads one key per line; lines that are empty are none. limit bounds the accesses, 0 does not.
func readTrace(path string, limit int) (trace, error) {
	f, err := os.Open(path)
	if err != nil {
		return trace{}, err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		zr, err := gzip.NewReader(f)
		if err != nil {
			return trace{}, fmt.Errorf("reading %s: %w", path, err)
		}
		defer zr.Close()
		r = zr
	}
	name, _, _ := strings.Cut(filepath.Base(path), ".")
	tr := trace{name: name}
	for lines := bufio.NewScanner(r); ; {
		if !lines.Scan() {
			if err := lines.Err(); err != nil {
				return trace{}, fmt.Errorf("reading %s: %w", path, err)
			}
			break
		}
		if key := strings.TrimSpace(lines.Text()); key != "" {
			tr.keys = append(tr.keys, key)
		}
		if limit > 0 && len(tr.keys) == limit {
			break
		}
	}
	if len(tr.keys) == 0 {
		return trace{}, fmt.Errorf("%s has no keys", path)
	}
	return tr, nil
}

// total is what all keys of the trace cost, each once.
func (t trace) total() uint64 {
	seen := make(map[string]bool)
	var sum uint64
	for _, key := range t.keys {
		if !seen[key] {
			seen[key] = true
			sum += cost(key)
		}
	}
	return sum
}

// valueSize is the length of key's value: the same in every run and on every machine.
func valueSize(key string) int {
	h := fnv.New64a()
	io.WriteString(h, key)
	x := h.Sum64()
	x ^= x >> 32 // FNV's low bits alone are poor on short keys
	x *= 0x9e3779b97f4a7c15
	return leastValue + int(x>>32%(largestValue-leastValue+1))
}

// cost is what the state machine counts for key and its value.
func cost(key string) uint64 { return fsm.Cost(len(key), valueSize(key), 0) }
