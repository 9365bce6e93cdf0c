package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/larder-cache/larder/integration/cluster"
)

// binaryOf returns the binary to run, and a function that removes it. A seeded bug and clocks that can be set
// need a build with the tag faults.
func binaryOf(o options, faults bool) (path string, remove func() error, err error) {
	if o.binary != "" {
		path, err := filepath.Abs(o.binary)
		return path, func() error { return nil }, err
	}
	b, err := cluster.NewBuilder()
	if err != nil {
		return "", nil, err
	}
	var tags []string
	if faults {
		tags = append(tags, "faults")
	}
	if path, err = b.Build(tags...); err != nil {
		return "", nil, errors.Join(err, b.Close())
	}
	return path, b.Close, nil
}

// versionOf returns what the binary says of its version.
func versionOf(binary string) string {
	out, err := exec.Command(binary, "version").Output()
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(out))
}

// panics begin lines that a node's log must not have.
var panics = []string{"panic:", "fatal error:", "WARNING: DATA RACE", "unexpected fault address"}

// lookForPanics fails a run in whose logs a node fell apart, but for those whose disks were damaged.
func (r *runner) lookForPanics() {
	damaged := r.nemesis.Damaged()
	for _, n := range r.cluster.Nodes {
		if slices.Contains(damaged, n.ID) {
			continue
		}
		f, err := os.Open(n.LogFile)
		if errors.Is(err, os.ErrNotExist) {
			continue // a guest that never came
		}
		if err != nil {
			r.fail("the log of %s: %v", n.ID, err)
			continue
		}
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			for _, p := range panics {
				if strings.HasPrefix(lines.Text(), p) {
					r.fail("%s: %s (see its log)", n.ID, lines.Text())
				}
			}
		}
		if err := errors.Join(lines.Err(), f.Close()); err != nil {
			r.fail("the log of %s: %v", n.ID, err)
		}
	}
}

// removeData removes the nodes' data, but not their logs.
func (r *runner) removeData() error {
	var err error
	for _, n := range r.cluster.Nodes {
		if !strings.HasPrefix(n.DataDir, r.dir) {
			return fmt.Errorf("%s is not in the run's folder", n.DataDir)
		}
		err = errors.Join(err, os.RemoveAll(n.DataDir))
	}
	return err
}
