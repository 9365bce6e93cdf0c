package disk

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNothing is returned by functions that damage files where there is none of the kind.
var ErrNothing = errors.New("there is nothing to damage")

// DamageLog flips a bit in one of the last entries of a replica's log, and says what it did. dir is the data folder of a node
// that does not run.
func DamageLog(dir string, seed uint64) (string, error) {
	return damageLog(dir, seed, func(rng *rand.Rand) (entry, error) { return someEntry(dir, "*", nil, rng) })
}

// DamageLogOf is DamageLog for the replica of one shard, in a place that can be told to be that replica's.
func DamageLogOf(dir string, shard, seed uint64) (string, error) {
	own := func(e entry) bool { return filepath.Ext(e.path) != ".log" }
	return damageLog(dir, seed, func(rng *rand.Rand) (entry, error) { return someEntry(dir, fmt.Sprintf("%d-*", shard), own, rng) })
}

func damageLog(dir string, seed uint64, choose func(*rand.Rand) (entry, error)) (string, error) {
	rng := rand.New(rand.NewPCG(seed, 1))
	e, err := choose(rng)
	if err != nil {
		return "", err
	}
	return flip(dir, e.path, e.offset, e.size, rng, e.String())
}

// TruncateLog cuts off the file that a replica's log is in within one of its last entries.
func TruncateLog(dir string, seed uint64) (string, error) {
	rng := rand.New(rand.NewPCG(seed, 2))
	e, err := someEntry(dir, "*", nil, rng)
	if err != nil {
		return "", err
	}
	return truncate(dir, e.path, e.offset+rng.Int64N(e.size), e.String())
}

// DamageLogFile flips a bit anywhere in a file of some replica's log, or of the shared one.
func DamageLogFile(dir string, seed uint64) (string, error) {
	rng := rand.New(rand.NewPCG(seed, 6))
	path, size, err := someLogFile(dir, 1, rng)
	if err != nil {
		return "", err
	}
	return flip(dir, path, 0, size, rng, fmt.Sprintf("a file of %d bytes", size))
}

// LoseLog removes a file of some replica's log, or of the shared one.
func LoseLog(dir string, seed uint64) (string, error) {
	path, size, err := someLogFile(dir, 0, rand.New(rand.NewPCG(seed, 7)))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s: gone, with %d bytes", name(dir, path), size), os.Remove(path)
}

// TearLog does to a replica's own log what a write does that ended in the middle: from a sector within one of the last entries on, the rest
// of its page is zero.
func TearLog(dir string, seed uint64) (string, error) {
	rng := rand.New(rand.NewPCG(seed, 3))
	e, err := someEntryOf(dir, "*", nil, rng)
	if err != nil {
		return "", err
	}
	log := e.path
	const sector = 512
	end := (e.offset/e.page + 1) * e.page
	from := e.offset + rng.Int64N(min(e.size, end-e.offset))
	if next := (from + sector - 1) / sector * sector; next < end {
		from = next
	}
	f, err := os.OpenFile(log, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	old := make([]byte, end-from)
	if _, err := f.ReadAt(old, from); err != nil {
		return "", err
	}
	if _, err := f.WriteAt(make([]byte, len(old)), from); err != nil {
		return "", err
	}
	lost := 0
	for _, b := range old {
		if b != 0 {
			lost++
		}
	}
	return fmt.Sprintf("%s: torn in the page of %v, bytes %d to %d are zero, %d of them were not", name(dir, log), e, from, end-1, lost), f.Sync()
}

// DamageSnapshot flips a bit in the newest snapshot of a replica, or changes a digit of its description.
func DamageSnapshot(dir string, seed uint64) (string, error) {
	rng := rand.New(rand.NewPCG(seed, 4))
	path, size, err := someSnapshot(dir, rng)
	if err != nil {
		return "", err
	}
	if rng.IntN(2) == 0 {
		return changeDigit(dir, filepath.Join(filepath.Dir(path), "meta.json"), rng)
	}
	return flip(dir, path, 0, size, rng, "the newest snapshot")
}

// changeDigit replaces a digit of the description of a snapshot by another one: what it says can still be read.
func changeDigit(dir, path string, rng *rand.Rand) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var digits []int
	for i, b := range text {
		if '0' <= b && b <= '9' {
			digits = append(digits, i)
		}
	}
	if len(digits) == 0 {
		return "", fmt.Errorf("%w: %s has no digit", ErrNothing, path)
	}
	at := digits[rng.IntN(len(digits))]
	change := func(old byte) byte { return '0' + (old-'0'+byte(1+rng.IntN(9)))%10 }
	return rewrite(dir, path, int64(at), change, "the description of the newest snapshot")
}

// TruncateSnapshot cuts off the end of the newest snapshot of a replica.
func TruncateSnapshot(dir string, seed uint64) (string, error) {
	rng := rand.New(rand.NewPCG(seed, 5))
	path, size, err := someSnapshot(dir, rng)
	if err != nil {
		return "", err
	}
	return truncate(dir, path, rng.Int64N(size), "the newest snapshot")
}

// name is how a file of dir is called in what is told.
func name(dir, path string) string {
	if rel, err := filepath.Rel(dir, path); err == nil {
		return rel
	}
	return path
}

// flip flips a random bit in size bytes at offset.
func flip(dir, path string, offset, size int64, rng *rand.Rand, what string) (string, error) {
	at := offset + rng.Int64N(size)
	return rewrite(dir, path, at, func(old byte) byte { return old ^ 1<<rng.IntN(8) }, what)
}

// rewrite changes a byte of a file.
func rewrite(dir, path string, at int64, change func(old byte) byte, what string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		return "", err
	}
	old := b[0]
	b[0] = change(old)
	if _, err := f.WriteAt(b[:], at); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, offset %d, in %s: 0x%02x became 0x%02x", name(dir, path), at, what, old, b[0]), f.Sync()
}

// truncate cuts a file off at size.
func truncate(dir, path string, size int64, what string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	before, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", err
	}
	if err := f.Truncate(size); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s: cut off in %s, %d bytes of %d are left", name(dir, path), what, size, before), f.Sync()
}

// someEntry chooses one of the last entries of a replica whose folder's name fits a pattern. Where there is a shared log, as often one that is
// in it, if good says so or is nil, as one that is not.
func someEntry(dir, replicas string, good func(entry) bool, rng *rand.Rand) (entry, error) {
	shared, err := sharedReplicas(dir)
	if err != nil {
		return entry{}, err
	}
	for name, entries := range shared {
		if good != nil {
			entries = slices.DeleteFunc(entries, func(e entry) bool { return !good(e) })
			shared[name] = entries
		}
		if fits, err := filepath.Match(replicas, name); err != nil || !fits || len(entries) == 0 {
			delete(shared, name)
		}
	}
	if len(shared) > 0 && rng.IntN(2) == 0 {
		if e, err := someEntryOf(dir, replicas, nil, rng); err == nil {
			return e, nil
		}
	}
	return someEntryOf(dir, replicas, shared, rng)
}

// someEntryOf chooses among the replicas in the shared log, or, where there are none, among those that have a log of their own.
func someEntryOf(dir, replicas string, shared map[string][]entry, rng *rand.Rand) (entry, error) {
	if len(shared) > 0 {
		names := slices.Sorted(maps.Keys(shared))
		entries := shared[names[rng.IntN(len(names))]]
		return entries[rng.IntN(len(entries))], nil
	}
	logs, err := filepath.Glob(filepath.Join(dir, "replicas", replicas, "raft.db"))
	if err != nil {
		return entry{}, err
	}
	shuffle(rng, logs)
	for _, path := range logs {
		entries, err := lastEntries(path)
		if err != nil {
			return entry{}, fmt.Errorf("reading %s: %w", path, err)
		}
		if len(entries) > 0 {
			return entries[rng.IntN(len(entries))], nil
		}
	}
	return entry{}, fmt.Errorf("%w: no log in %s has entries", ErrNothing, dir)
}

// someLogFile chooses a file of so many bytes at least that belongs to a log, and tells its size. Where there is a shared log it is as often one of its files as one of a replica's own.
func someLogFile(dir string, least int64, rng *rand.Rand) (path string, size int64, err error) {
	own, err := filepath.Glob(filepath.Join(dir, "replicas", "*", "raft.db"))
	if err != nil {
		return "", 0, err
	}
	shared, err := sharedFiles(dir)
	if err != nil {
		return "", 0, err
	}
	shuffle(rng, own)
	shuffle(rng, shared)
	all := slices.Concat(own, shared)
	if rng.IntN(2) == 0 {
		all = slices.Concat(shared, own)
	}
	for _, path := range all {
		info, err := os.Stat(path)
		if err != nil {
			return "", 0, err
		}
		if info.Size() >= least {
			return path, info.Size(), nil
		}
	}
	return "", 0, fmt.Errorf("%w: %s has no log", ErrNothing, dir)
}

// someSnapshot chooses a file of the newest snapshot of a replica, and tells its size.
func someSnapshot(dir string, rng *rand.Rand) (path string, size int64, err error) {
	folders, err := filepath.Glob(filepath.Join(dir, "replicas", "*", "snapshots"))
	if err != nil {
		return "", 0, err
	}
	shuffle(rng, folders)
	for _, folder := range folders {
		newest, err := newestSnapshot(folder)
		if err != nil {
			return "", 0, err
		}
		if newest == "" {
			continue
		}
		path := filepath.Join(newest, "state.bin")
		info, err := os.Stat(path)
		if err != nil {
			return "", 0, err
		}
		if info.Size() > 0 {
			return path, info.Size(), nil
		}
	}
	return "", 0, fmt.Errorf("%w: there is no snapshot in %s", ErrNothing, dir)
}

// newestSnapshot returns the folder of the newest finished snapshot, "" where there is none. Names begin with term and index.
func newestSnapshot(folder string) (string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return "", err
	}
	newest, last := "", [2]uint64{}
	for _, e := range entries {
		var term, index uint64
		if strings.HasSuffix(e.Name(), ".tmp") {
			continue
		}
		if _, err := fmt.Sscanf(e.Name(), "%d-%d-", &term, &index); err != nil {
			continue
		}
		if now := [2]uint64{term, index}; newest == "" || slices.Compare(now[:], last[:]) > 0 {
			newest, last = filepath.Join(folder, e.Name()), now
		}
	}
	return newest, nil
}

func shuffle(rng *rand.Rand, paths []string) {
	rng.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
}
