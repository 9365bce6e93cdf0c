package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// state is the record of what a cluster holds that could outlive this process. It is a file, so that Clean can end what a
// process that was killed could not.
type state struct {
	path string

	mu     sync.Mutex // guards what follows
	record record
}

// record is the content of the file.
type record struct {
	Owner     identity // the process that the cluster is of
	Binary    string
	Dir       string
	Temporary bool // Dir goes with the cluster
	Disks     []diskRecord
	Processes map[string]identity // by node, the last one of each
}

type diskRecord struct{ Image, Mount string }

// statesDir is the folder of all records of this user.
func statesDir() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("larder-clusters-%d", os.Getuid()))
}

// newState writes the record of a cluster that holds nothing so far.
func newState(dir string, temporary bool, binary string) (*state, error) {
	states := statesDir()
	if err := ownStates(states); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(states, fmt.Sprintf("%d-*%s", os.Getpid(), stateSuffix))
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	s := &state{path: f.Name(), record: record{
		Owner: identify(os.Getpid()), Binary: binary, Dir: dir, Temporary: temporary, Processes: map[string]identity{},
	}}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s, s.saveLocked()
}

const stateSuffix = ".json"

// ownStates makes the folder of records, and refuses one that others can write to: what it says is killed and unmounted.
func ownStates(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm()&0o022 != 0 || ok && int(owner.Uid) != os.Getuid() {
		return fmt.Errorf("%s is not a folder of this user alone", dir)
	}
	return nil
}

// addDisk records a disk that is about to be made.
func (s *state) addDisk(image, mount string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record.Disks = append(s.record.Disks, diskRecord{image, mount})
	return s.saveLocked()
}

// addProcess records the process of a node.
func (s *state) addProcess(node string, pid int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record.Processes[node] = identify(pid)
	return s.saveLocked()
}

// saveLocked writes the file, s.mu being held.
func (s *state) saveLocked() error {
	data, err := json.MarshalIndent(s.record, "", "  ")
	if err != nil {
		return err
	}
	next := s.path + ".next"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return err
	}
	return os.Rename(next, s.path)
}

// remove removes the record of a cluster that holds nothing any more.
func (s *state) remove() error { return os.Remove(s.path) }

// Clean ends what clusters hold whose processes died before they could close them, and says what that was: it kills nodes by the
// pids that were recorded, if they still are what was recorded, unmounts disks and frees their devices. Networks die with their
// process. Clusters of processes that live are left alone.
func Clean() (removed []string, err error) {
	paths, err := filepath.Glob(filepath.Join(statesDir(), "*"+stateSuffix))
	if err != nil || len(paths) == 0 {
		return nil, err
	}
	if err := ownStates(statesDir()); err != nil {
		return nil, err
	}
	var errs []error
	for _, path := range paths {
		did, err := cleanOne(path)
		removed = append(removed, did...)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", path, err))
		}
	}
	return removed, errors.Join(errs...)
}

// cleanOne cleans after one cluster.
func cleanOne(path string) (removed []string, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // it was closed meanwhile
	}
	if err != nil {
		return nil, err
	}
	var r record
	if len(data) == 0 {
		return nil, nil // it is being made
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, err
	}
	if r.Owner.alive() {
		return nil, nil
	}
	for node, id := range r.Processes {
		if !id.alive() {
			continue
		}
		switch exe, err := executable(id.Pid); {
		case err != nil: // it is on its way out, as its parent is gone, and runs nothing any more
		case filepath.Base(exe) != filepath.Base(r.Binary):
			return removed, fmt.Errorf("pid %d of node %s is %q now: left alone", id.Pid, node, exe)
		default:
			if err := syscall.Kill(id.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return removed, fmt.Errorf("killing pid %d of node %s: %w", id.Pid, node, err)
			}
		}
		for deadline := time.Now().Add(killTime); id.alive(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				return removed, fmt.Errorf("pid %d of node %s does not end", id.Pid, node)
			}
		}
		removed = append(removed, fmt.Sprintf("process %d of node %s", id.Pid, node))
	}
	for _, d := range r.Disks {
		_, err := os.Stat(d.Image)
		if err := removeLoop(d.Image, d.Mount); err != nil {
			return removed, err
		}
		if err == nil {
			removed = append(removed, "disk "+d.Image)
		}
	}
	if r.Temporary && strings.HasPrefix(filepath.Base(r.Dir), temporaryPrefix) {
		if err := os.RemoveAll(r.Dir); err != nil {
			return removed, err
		}
	}
	return removed, os.Remove(path)
}

// killTime bounds how long the kernel may take to end a process.
const killTime = 10 * time.Second
