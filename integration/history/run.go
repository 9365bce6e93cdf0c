package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Mode says whether the cluster has room for all that a run writes.
type Mode string

const (
	// Strict: there is room, so that a value that vanishes is lost.
	Strict Mode = "strict"
	// Tight: there is not, so that a value may vanish at any moment. It must not come back.
	Tight Mode = "tight"
)

// Meta is what a run was asked to do.
type Meta struct {
	Workload string
	Nemeses  []string // names of the faults that could be chosen
	Mode     Mode
	Seed     uint64
	Nodes    []string // those that form the cluster
	Shards   int
	Net      string // tap or proxy
	Disk     string // folder or loop
	Bug      string // seeded bug, "" for none
	Time     time.Duration
	// Given are the flags of jepsen run that were given, as --name=value, but for those that the fields above tell of
	// every run; nil in a record that does not say.
	Given   []string
	Flags   map[string]string // those of the nodes, and what else was drawn from the seed
	Version string            // of the binary: what larder version says
	Started time.Time         // wall clock
}

// Fault is something that was done to the cluster. Times are since the start of the recording.
type Fault struct {
	Name    string   // as in the plan, for example pause-leader
	Class   string   // network, pause, crash, disk, clock, member, leader or snapshot
	Targets []string // nodes, or links as a>b
	Start   time.Duration
	Healed  time.Duration // when it was undone; 0 if never
	// Recovered is when the clients' successes were back; 0 if that was not seen or not looked at.
	Recovered time.Duration
	// Effect says how it is known to have had an effect, "" if it is not known to.
	Effect string
	Err    string // why it could not be done or undone, "" if it was
}

// Sample is what a node said of its replica of a shard at a time.
type Sample struct {
	At    time.Duration
	Node  string
	Shard uint64
	Role  string
	// Generation counts the lives of the group: terms of one say nothing of another. 0 in runs of before.
	Generation uint64 `json:",omitempty"`
	Term       uint64
	Leader     string
	Applied    uint64
	Commit     uint64
	Checksum   string `json:",omitempty"` // of the state at Applied, "" if not asked for
	Entries    uint64
	Bytes      uint64
	Evicted    uint64 // since the process started
}

// Run is what a run recorded: all that its verdict rests on.
type Run struct {
	Meta    Meta
	Ops     []Operation // in the order of the answers
	Final   []Operation // reads of keys at the very end, when nothing else ran and all was healed
	Faults  []Fault
	Samples []Sample
	// Ends are samples at the very end, after all was healed and the replicas had equal logs.
	Ends    []Sample
	Defects []string // answers that the interface does not allow
	// Failures are why the run could not be carried through: no progress after healing, a node that ended itself.
	Failures []string
}

// The files of a run's folder.
const (
	metaFile     = "run.json"
	opsFile      = "history.jsonl"
	finalFile    = "final.jsonl"
	faultsFile   = "faults.jsonl"
	samplesFile  = "samples.jsonl"
	endsFile     = "ends.jsonl"
	defectsFile  = "defects.jsonl"
	failuresFile = "failures.jsonl"
)

// Write writes r to a folder, which it makes where there is none.
func (r *Run) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	meta, err := json.MarshalIndent(r.Meta, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, metaFile), append(meta, '\n'), 0o644),
		writeLines(filepath.Join(dir, opsFile), r.Ops),
		writeLines(filepath.Join(dir, finalFile), r.Final),
		writeLines(filepath.Join(dir, faultsFile), r.Faults),
		writeLines(filepath.Join(dir, samplesFile), r.Samples),
		writeLines(filepath.Join(dir, endsFile), r.Ends),
		writeLines(filepath.Join(dir, defectsFile), r.Defects),
		writeLines(filepath.Join(dir, failuresFile), r.Failures),
	)
}

// ReadRun reads what Write wrote.
func ReadRun(dir string) (*Run, error) {
	var r Run
	meta, err := os.ReadFile(filepath.Join(dir, metaFile))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(meta, &r.Meta); err != nil {
		return nil, fmt.Errorf("%s: %w", metaFile, err)
	}
	if err := errors.Join(
		readLines(filepath.Join(dir, opsFile), &r.Ops),
		readLines(filepath.Join(dir, finalFile), &r.Final),
		readLines(filepath.Join(dir, faultsFile), &r.Faults),
		readLines(filepath.Join(dir, samplesFile), &r.Samples),
		readLines(filepath.Join(dir, endsFile), &r.Ends),
		readLines(filepath.Join(dir, defectsFile), &r.Defects),
		readLines(filepath.Join(dir, failuresFile), &r.Failures),
	); err != nil {
		return nil, err
	}
	return &r, nil
}

// writeLines writes one JSON value a line.
func writeLines[T any](path string, values []T) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	for i := range values {
		if err := enc.Encode(&values[i]); err != nil {
			f.Close()
			return err
		}
	}
	if err := w.Flush(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func readLines[T any](path string, values *[]T) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for d := json.NewDecoder(bufio.NewReader(f)); ; {
		var v T
		err := d.Decode(&v)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s, value %d: %w", path, len(*values)+1, err)
		}
		*values = append(*values, v)
	}
}
