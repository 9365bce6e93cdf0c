package shard

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// contents is all that a store holds.
type contents struct {
	logs []raft.Log
	term uint64
	vote string
}

func contentsOf(t *testing.T, s replicaStore) contents {
	t.Helper()
	var c contents
	first, err := s.FirstIndex()
	must(t, err)
	last, err := s.LastIndex()
	must(t, err)
	for i := first; i != 0 && i <= last; i++ {
		var log raft.Log
		must(t, s.GetLog(i, &log))
		log.AppendedAt = time.Time{} // not kept on disk
		c.logs = append(c.logs, log)
	}
	c.term = s.Term()
	vote, err := s.Get([]byte(keyVoteCandidate))
	must(t, err)
	c.vote = string(vote)
	return c
}

// fillStore stores entries of all kinds, and a vote.
func fillStore(t *testing.T, s replicaStore) {
	t.Helper()
	rng := rand.New(rand.NewPCG(3, 1))
	for i := uint64(1); i <= 60; i++ {
		log := &raft.Log{Index: i, Term: 1 + i/20, Type: raft.LogType(i % 4), AppendedAt: time.Now()}
		for range rng.IntN(120) {
			log.Data = append(log.Data, byte(rng.Uint32()))
		}
		if i%3 == 0 {
			log.Extensions = []byte("extension")
		}
		must(t, s.StoreLog(log))
	}
	must(t, s.SetUint64([]byte(keyCurrentTerm), 7))
	must(t, s.SetUint64([]byte(keyVoteTerm), 7))
	must(t, s.Set([]byte(keyVoteCandidate), []byte("1/b/2")))
}

// Ensures that what a store was given comes back after a restart, Extensions of all lengths included.
func TestSumsRoundTrip(t *testing.T) {
	dir := t.TempDir()
	s := openTestDisk(t, dir)
	fillStore(t, s)
	want := contentsOf(t, s)
	must(t, s.Close())
	if got := contentsOf(t, openTestDisk(t, dir)); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// Ensures that a bit that flipped anywhere in a store's file changes nothing, or is found when the store opens: an error that wraps
// ErrDataLost and keeps no lock. What summed says that it can't find, entries gone from the end, may happen to few.
func TestFlippedBits(t *testing.T) {
	dir := t.TempDir()
	s := openTestDisk(t, dir)
	fillStore(t, s)
	want := contentsOf(t, s)
	must(t, s.Close())
	intact, err := os.ReadFile(filepath.Join(dir, storeFile))
	must(t, err)
	flips := 2500
	if testing.Short() {
		flips = 400
	}
	rng := rand.New(rand.NewPCG(5, 1))
	found, harmless, cut := 0, 0, 0
	for range flips {
		bit := rng.IntN(8 * len(intact))
		damaged := slices.Clone(intact)
		damaged[bit/8] ^= 1 << (bit % 8)
		must(t, os.WriteFile(filepath.Join(dir, storeFile), damaged, 0o600))
		s, err := openDiskStore(dir, func(err error) { t.Errorf("fatal: %v", err) })
		if err != nil {
			if found++; !errors.Is(err, ErrDataLost) {
				t.Errorf("byte %d, bit %d: %v", bit/8, bit%8, err)
			}
			continue
		}
		got := contentsOf(t, s)
		must(t, s.Close())
		switch {
		case reflect.DeepEqual(got, want):
			harmless++
		case len(got.logs) < len(want.logs) && reflect.DeepEqual(got.logs, want.logs[:len(got.logs)]) && got.term == want.term && got.vote == want.vote:
			cut++
		default:
			t.Errorf("byte %d, bit %d: the store became %+v", bit/8, bit%8, got)
		}
	}
	t.Logf("of %d flips %d were found, %d changed nothing, %d cut off entries", flips, found, harmless, cut)
	if found < flips/20 || cut > flips/200 {
		t.Errorf("of %d flips %d were found, %d changed nothing, %d cut off entries", flips, found, harmless, cut)
	}
}

// Ensures that a meta page that is damaged is found, though bbolt would go on with the other one.
func TestDamagedMeta(t *testing.T) {
	for page := range 2 {
		dir := t.TempDir()
		s := openTestDisk(t, dir)
		fillStore(t, s)
		must(t, s.Close())
		path := filepath.Join(dir, storeFile)
		data, err := os.ReadFile(path)
		must(t, err)
		data[page*os.Getpagesize()+16+48] ^= 1 // the transaction's number
		must(t, os.WriteFile(path, data, 0o600))
		if _, err := openDiskStore(dir, nil); !errors.Is(err, ErrDataLost) {
			t.Errorf("meta page %d: got %v, want %v", page, err, ErrDataLost)
		}
	}
}

// unreadableEngine fails to read what was stored before.
type unreadableEngine struct{ engine }

func (unreadableEngine) GetLog(index uint64, _ *raft.Log) error {
	return fmt.Errorf("%w: entry %d", ErrDataLost, index)
}

// Ensures that an entry that can't be read any more ends the process, once, and that nothing is written after it.
func TestUnreadableEntry(t *testing.T) {
	e := newMemoryStore().memory
	fatal := 0
	s, err := newStore(unreadableEngine{e}, tailLimits{entries: 1}, func(err error) {
		if fatal++; !errors.Is(err, ErrDataLost) {
			t.Errorf("fatal: %v", err)
		}
	})
	must(t, err)
	must(t, s.StoreLogs(logs(1, 5, 1)))
	var log raft.Log
	for range 2 {
		if err := s.GetLog(2, &log); !errors.Is(err, ErrDataLost) {
			t.Errorf("got %v, want %v", err, ErrDataLost)
		}
	}
	if err := s.StoreLogs(logs(6, 6, 1)); !errors.Is(err, ErrDataLost) {
		t.Errorf("a write afterwards: got %v, want %v", err, ErrDataLost)
	}
	if fatal != 1 {
		t.Errorf("fatal was called %d times", fatal)
	}
	if err := s.GetLog(9, &log); !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("an entry that never was: %v", err)
	}
}

// Ensures that a page whose count of entries became 0 by one bit is found: the log would be empty, with marker, term and vote in place.
func TestZeroCount(t *testing.T) {
	dir := t.TempDir()
	s := openTestDisk(t, dir)
	must(t, s.StoreLogs(logs(1, 16, 1)))
	must(t, s.Close())
	path := filepath.Join(dir, storeFile)
	data, err := os.ReadFile(path)
	must(t, err)
	found := 0
	for at := 2 * os.Getpagesize(); at < len(data); at += os.Getpagesize() {
		page := data[at:]
		if native.Uint16(page[8:]) != leafPage || native.Uint16(page[10:]) != 16 {
			continue
		}
		page[10] = 0
		must(t, os.WriteFile(path, data, 0o600))
		page[10] = 16
		if _, err := openDiskStore(dir, nil); !errors.Is(err, ErrDataLost) {
			t.Errorf("page at %d: got %v, want %v", at, err, ErrDataLost)
		}
		found++
	}
	if found == 0 {
		t.Error("no page has the log")
	}
}

// Ensures that a store whose last transaction was written in part, up to its meta page, opens as it was before: a crash does that, and
// must not pass for damage.
func TestTornTransactions(t *testing.T) {
	rounds := 5
	if testing.Short() {
		rounds = 1
	}
	torn := t.TempDir()
	for seed := range uint64(rounds) {
		rng := rand.New(rand.NewPCG(seed, 7))
		dir := t.TempDir()
		s := openTestDisk(t, dir)
		must(t, mark(s, ReplicaID{1, "a", 1}))
		must(t, s.SetUint64([]byte(keyVoteTerm), 1))
		must(t, s.Set([]byte(keyVoteCandidate), []byte("1/b/1")))
		before, old := contentsOf(t, s), fileOf(t, dir)
		for range 25 {
			change(t, s, rng)
			after, now := contentsOf(t, s), fileOf(t, dir)
			metas := 2 * os.Getpagesize()
			for _, unit := range []int{512, os.Getpagesize()} {
				image := make([]byte, max(len(old), len(now)))
				copy(image, old)
				for at := metas; at+unit <= len(now); at += unit {
					if rng.IntN(2) == 0 {
						copy(image[at:at+unit], now[at:])
					}
				}
				reopened(t, torn, image, before)
			}
			reopened(t, torn, now, after)
			before, old = after, now
		}
		must(t, s.Close())
	}
}

func fileOf(t *testing.T, dir string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, storeFile))
	must(t, err)
	return data
}

// reopened ensures what a store whose file has these bytes holds.
func reopened(t *testing.T, dir string, file []byte, want contents) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(dir, storeFile), file, 0o600))
	s, err := openDiskStore(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := contentsOf(t, s); !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	must(t, s.Close())
}

// change makes one random transaction.
func change(t *testing.T, s *diskStore, rng *rand.Rand) {
	t.Helper()
	first, last := s.bounds()
	switch n := rng.IntN(10); {
	case n < 6 || last == 0:
		var batch []*raft.Log
		for i := range uint64(1 + rng.IntN(20)) {
			batch = append(batch, &raft.Log{Index: last + 1 + i, Term: s.Term() + 1, Data: make([]byte, rng.IntN(1<<rng.IntN(14)))})
		}
		must(t, s.StoreLogs(batch))
	case n == 6:
		must(t, s.SetUint64([]byte(keyCurrentTerm), s.Term()+1))
	case n == 7: // all of it, now and then
		must(t, s.DeleteRange(first, last))
	case n == 8:
		must(t, s.DeleteRange(first+rng.Uint64N(last-first+1), last))
	default:
		must(t, s.DeleteRange(first, first+rng.Uint64N(last-first+1)))
	}
}
