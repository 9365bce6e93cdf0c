package main

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// accesses returns the keys to ask for, in order, and what to call them.
func accesses(cfg config) (keys []string, name string, err error) {
	if cfg.synthetic {
		return synthetic(), "made-up pages", nil
	}
	if cfg.trace == "" {
		return nil, "", errors.New("no trace to replay: give one with --trace FILE (one key per line, plain or .gz), or use --synthetic")
	}
	keys, err = readTrace(cfg.trace)
	return keys, filepath.Base(cfg.trace), err
}

// readTrace reads one key per line; lines that are empty are none.
func readTrace(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		zr, err := gzip.NewReader(f)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		defer zr.Close()
		r = zr
	}
	var keys []string
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if key := strings.TrimSpace(lines.Text()); key != "" {
			keys = append(keys, key)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	const least = 10 // below that there is nothing to show
	if len(keys) < least {
		return nil, fmt.Errorf("%s has %d keys, that is too few to show anything", path, len(keys))
	}
	return keys, nil
}

// synthetic makes up accesses. The exponent is about what Breslau et al. found for web pages
// (INFOCOM 1999), moved above 1 as math/rand's generator wants it.
func synthetic() []string {
	const (
		count    = 50_000
		pages    = 20_000
		exponent = 1.05
	)
	zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), exponent, 1, pages-1)
	keys := make([]string, count)
	for i := range keys {
		keys[i] = fmt.Sprintf("page/%d", zipf.Uint64())
	}
	return keys
}
