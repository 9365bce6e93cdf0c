package history

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// Recorder gathers the operations of a run.
type Recorder struct {
	start     time.Time
	processes atomic.Int64

	mu      sync.Mutex // guards what follows
	ops     []Operation
	count   map[Outcome]int // of ops
	defects []error
}

// maxDefects bounds what is kept of a server that answers everything wrongly.
const maxDefects = 100

// NewRecorder starts the clock of a recording.
func NewRecorder() *Recorder { return &Recorder{start: time.Now(), count: map[Outcome]int{}} }

// Now is the time since the start of the recording.
func (r *Recorder) Now() time.Duration { return time.Since(r.start) }

// NewProcess returns a process number that was never used. A process whose operation ended Unknown
// is retired: that operation may still be under way, and a process does one thing at a time.
func (r *Recorder) NewProcess() int { return int(r.processes.Add(1)) }

// Add records an operation that is over.
func (r *Recorder) Add(o Operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, o)
	r.count[o.Outcome]++
}

// Defect records that the server broke its interface, which fails a run whatever the checks say.
func (r *Recorder) Defect(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.defects) < maxDefects {
		r.defects = append(r.defects, err)
	}
}

// Defects returns what Defect recorded.
func (r *Recorder) Defects() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]error(nil), r.defects...)
}

// Operations returns a copy of what was recorded so far, in the order of the answers.
func (r *Recorder) Operations() []Operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Operation(nil), r.ops...)
}

// Count returns how many operations ended with each outcome.
func (r *Recorder) Count() map[Outcome]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.count)
}

// WriteFile writes the operations to path, one JSON object a line, for a person or another checker.
func WriteFile(path string, ops []Operation) error {
	return writeLines(path, ops)
}
