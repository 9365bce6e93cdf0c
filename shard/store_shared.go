package shard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// sharedLog is one log for all replicas of a node, in one instance of Pebble: what different replicas write at the same time shares
// its syncs. An append is one batch; nothing waits on purpose for others to join.
//
// Keys, so that a replica's log is one range, and a compaction deletes one:
//
//	shard (8, big endian) | r (8, big endian) | 0 | name of a record       value, as summed writes it
//	shard (8, big endian) | r (8, big endian) | 1 | index (8, big endian)  term (8) | type (1) | length of Data (4) | Data | Extensions
//
// # What is damaged
//
// Pebble keeps a checksum of each block and of each record of its own logs. A block that is damaged is found when a replica opens, which
// reads all that is its own, and costs the replicas that have something in it. Damage of what says which files there are, or of the
// newest writes, costs all of the node, since it can't be told whose they were: the node refuses to start, and rejoins as new (ErrRejoin).
// Pebble itself would pass over some of that silently, see checkShared.
//
// A background job that meets a damaged block fails, and is tried again by Pebble later. That ends the process where a replica runs
// whose data can't be read any more; otherwise the damage is of one that does not open, and what it had is removed, without being read,
// when it is destroyed.
//
// # Concurrency
//
// All methods may be called concurrently. Pebble has goroutines of its own; besides, one tells of failures, and Close waits for all of them.
type sharedLog struct {
	db     *pebble.DB
	files  *syncedFiles
	log    *slog.Logger
	report func(error)
	// readOnly: nothing on the disk changes.
	readOnly bool

	use    sync.RWMutex // held for reading over each use of db, for writing to close
	closed bool         // guarded by use

	mu     sync.Mutex // guards following
	failed error      // the first failure; nothing is written after it
	open   map[sharedPrefix]sharedEngine
	sound  map[string]int // damaged files that no running replica minds, and how often they were met since

	failures chan error    // one at most waits
	told     chan struct{} // closed once it was reported
	damaged  chan pebble.DataCorruptionInfo
	quit     chan struct{}
	wg       sync.WaitGroup
}

// sharedDir is the folder of the shared log within a data folder.
const sharedDir = "log"

// Bounds of what the shared log takes, whatever the number of replicas.
const (
	// sharedMemtable is how much is written until it goes from memory into a file, bytes; sharedMemtables is how many such parts there
	// may be. Writes wait beyond that. What is compacted away sooner is never written twice. Two parts stay in memory, however idle
	// the node: the one that is being filled, and one that Pebble keeps to be filled next.
	sharedMemtable  = 4 << 20
	sharedMemtables = 6
	// sharedCache holds blocks of files. Followers a little behind, and Apply, read from each replica's tail instead.
	sharedCache = 4 << 20
	sharedFiles = 256 // open at the same time
)

// openSharedLog opens the log in dir, and makes it unless it must be there. report is called with the first failure that no write
// returns; it is to end the process, and must not wait for the log to close.
func openSharedLog(fs vfs.FS, dir string, must, readOnly bool, log *slog.Logger, report func(error)) (*sharedLog, error) {
	wrap := func(err error) error {
		if passing(err) {
			return fmt.Errorf("opening shared log %s: %w", dir, err)
		}
		return fmt.Errorf("%w: the shared log %s, which holds the logs of this node's shards, can't be read: %w", ErrRejoin, dir, err)
	}
	files := newSyncedFiles(fs, dir)
	there, note, err := checkShared(fs, dir)
	if err == nil && must && !there {
		err = errors.New("it is not there")
	}
	if err != nil {
		return nil, wrap(err)
	}
	l := &sharedLog{files: files, log: log, report: report, readOnly: readOnly, open: map[sharedPrefix]sharedEngine{}, sound: map[string]int{},
		failures: make(chan error, 1), told: make(chan struct{}), damaged: make(chan pebble.DataCorruptionInfo, 1), quit: make(chan struct{})}
	files.secret, files.log, files.manifest, files.failed = note.secret, note.log, note.manifest, l.failedFile
	l.wg.Go(l.watch)
	err = guard(func() (err error) {
		if !there {
			if err = files.begin(); err != nil {
				return err
			}
		}
		if !readOnly {
			if err = files.openMark(); err != nil {
				return files.tell(err)
			}
		}
		l.db, err = pebble.Open(dir, l.options())
		return err
	})
	failed := l.failure()
	if err == nil && failed == nil {
		return l, nil
	}
	close(l.quit)
	l.wg.Wait()
	err = errors.Join(err, files.closeMark())
	switch {
	case failed != nil: // which says nothing of what is there, whatever became of Pebble
		return nil, fmt.Errorf("opening shared log %s: %w", dir, failed)
	case there:
		return nil, wrap(err)
	}
	return nil, fmt.Errorf("making shared log %s: %w", dir, err)
}

// options are those of a log: written once, read seldom, deleted from the front.
func (l *sharedLog) options() *pebble.Options {
	o := &pebble.Options{
		FS:                          l.files,
		ReadOnly:                    l.readOnly,
		FormatMajorVersion:          pebble.FormatTableFormatV6,
		CacheSize:                   sharedCache,
		MaxOpenFiles:                sharedFiles,
		MemTableSize:                sharedMemtable,
		MemTableStopWritesThreshold: sharedMemtables,
		L0CompactionThreshold:       4,
		// Where a damaged block holds compactions up, writes go on.
		L0StopWritesThreshold:      1000,
		LBaseMaxBytes:              64 << 20,
		CompactionConcurrencyRange: func() (lower, upper int) { return 1, 1 },
		Logger:                     sharedLogger{l},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) {
				if !pebble.IsCorruptionError(err) { // DataCorruption tells of that
					l.fail(fmt.Errorf("shared log: %w", err))
				}
			},
			DataCorruption: l.meet,
			WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
				l.log.Warn("writes to the shared log wait", "reason", info.Reason)
			},
		},
	}
	for i := range o.Levels {
		o.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.NoCompression } // values are not ours to guess about, and CPU is dear
		o.TargetFileSizes[i] = 8 << 20
	}
	return o
}

// sharedLogger takes what Pebble has to say.
type sharedLogger struct{ log *sharedLog }

func (sharedLogger) Infof(string, ...any) {}

func (s sharedLogger) Errorf(format string, args ...any) {
	s.log.log.Warn("shared log", "err", fmt.Sprintf(format, args...))
}

// Fatalf is how Pebble says that a write or sync failed that it can't go on without. It goes on when this returns, as if nothing had
// happened: commit looks whether anything failed before it says that something is durable.
func (s sharedLogger) Fatalf(format string, args ...any) {
	s.log.fail(fmt.Errorf("shared log: "+format, args...))
}

// fail remembers the first failure, and has it reported.
func (l *sharedLog) fail(err error) {
	l.mu.Lock()
	first := l.failed == nil
	if first {
		l.failed = err
	}
	l.mu.Unlock()
	if first {
		l.failures <- err
	}
}

// failedFile hears of a change of the disk that failed before Pebble does, and returns once it was reported, which in production ends
// the process: Pebble itself panics where it can't write its next record, with locks that it does not hold.
func (l *sharedLog) failedFile(err error) {
	l.fail(fmt.Errorf("shared log: %w", err))
	select {
	case <-l.told:
	case <-l.quit:
	}
}

func (l *sharedLog) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// watch reports failures, with none of Pebble's locks held.
func (l *sharedLog) watch() {
	for {
		select {
		case err := <-l.failures:
			l.report(err)
			close(l.told)
		case info := <-l.damaged:
			l.judge(info)
		case <-l.quit:
			return
		}
	}
}

// A job that meets known damage waits for damagePause, as Pebble has it try again at once; the first damageTries are those of replicas that open.
const (
	damagePause = 500 * time.Millisecond
	damageTries = 100
)

// meet hears of a block that is damaged, from whoever reads it.
func (l *sharedLog) meet(info pebble.DataCorruptionInfo) {
	l.mu.Lock()
	met, known := l.sound[info.Path]
	if known {
		l.sound[info.Path]++
	}
	l.mu.Unlock()
	if met > damageTries {
		time.Sleep(damagePause)
	}
	if known {
		return
	}
	select {
	case l.damaged <- info:
	default: // it is met again
	}
}

// judge reads what the running replicas have, upon a block that is damaged. Where they do without it, it is left alone.
func (l *sharedLog) judge(info pebble.DataCorruptionInfo) {
	l.mu.Lock()
	_, known := l.sound[info.Path]
	var running []sharedEngine
	for _, e := range l.open {
		running = append(running, e)
	}
	l.mu.Unlock()
	if known {
		return
	}
	for _, e := range running {
		switch err := checkReplica(e); {
		case errors.Is(err, errHole): // it was compacted meanwhile; the damage is met again
			return
		case errors.Is(err, ErrDataLost):
			l.fail(fmt.Errorf("shared log: %w", err))
			return
		}
	}
	l.log.Error("the shared log is damaged; no replica that runs needs what can't be read", "file", info.Path, "err", info.Details)
	l.mu.Lock()
	l.sound[info.Path] = 0
	l.mu.Unlock()
}

// commit makes one atomic change durable.
func (l *sharedLog) commit(size int, fill func(b *pebble.Batch) error) error {
	wait, err := l.begin(size, fill)
	if err != nil {
		return err
	}
	return wait()
}

// begin makes one atomic change, which is durable, with all before it, once wait returns nil. The log does not close before that.
func (l *sharedLog) begin(size int, fill func(b *pebble.Batch) error) (wait func() error, err error) {
	l.use.RLock()
	defer func() {
		if err != nil {
			l.use.RUnlock()
		}
	}()
	if l.closed {
		return nil, errStoreClosed
	}
	if err := l.failure(); err != nil {
		return nil, err
	}
	b := l.db.NewBatchWithSize(size + promiseSize + 64)
	if err := b.LogData(l.files.promise(), nil); err != nil {
		return nil, err
	}
	if err := fill(b); err != nil {
		return nil, err
	}
	apply, options := l.db.ApplyNoSyncWait, pebble.Sync
	if bugNoSync.on() {
		apply, options = l.db.Apply, pebble.NoSync
	}
	if err := apply(b, options); err != nil {
		return nil, err
	}
	if err := l.failure(); err != nil { // then Pebble may never end the wait
		return nil, err
	}
	return func() error {
		defer l.use.RUnlock()
		if err := b.SyncWait(); err != nil {
			return err
		}
		if err := l.failure(); err != nil {
			return err
		}
		return b.Close()
	}, nil
}

// Close ends the log after all stores on it. It is idempotent.
func (l *sharedLog) Close() error {
	l.use.Lock()
	if l.closed {
		l.use.Unlock()
		return nil
	}
	l.closed = true
	err := l.db.Close()
	l.use.Unlock()
	if err == nil && l.failure() == nil && !l.readOnly {
		err = l.files.note() // so that damage of the end is found, too
	}
	err = errors.Join(err, l.files.closeMark())
	close(l.quit)
	l.wg.Wait()
	return err
}

// replicas names all that have something here.
func (l *sharedLog) replicas() (found []replicaNote, err error) {
	l.use.RLock()
	defer l.use.RUnlock()
	if l.closed {
		return nil, errStoreClosed
	}
	it, err := l.db.NewIter(nil)
	if err != nil {
		return nil, lost(err)
	}
	for ok := it.First(); ok; {
		key := it.Key()
		if len(key) <= len(sharedPrefix{}) {
			return nil, errors.Join(fmt.Errorf("%w: %x is no key of the shared log", ErrDataLost, key), it.Close())
		}
		p := sharedPrefix(key)
		found = append(found, replicaNote{Shard: ID(binary.BigEndian.Uint64(p[:8])), R: binary.BigEndian.Uint64(p[8:])})
		ok = it.SeekGE(p.key(sharedEnd))
	}
	return found, lost(it.Close())
}

// has reports whether anything of a replica is here.
func (l *sharedLog) has(shard ID, r uint64) (bool, error) {
	p := prefixOf(shard, r)
	first, err := sharedEngine{l, p}.edge(p.key(sharedRecord), (*pebble.Iterator).First)
	return first != nil, err
}

// remove takes all of a replica away, durably. Its store is closed.
func (l *sharedLog) remove(shard ID, r uint64) error {
	// What is damaged can't be asked for, and is removed all the same.
	if there, err := l.has(shard, r); err == nil && !there {
		return nil
	}
	p := prefixOf(shard, r)
	from, to := p.key(sharedRecord), p.key(sharedEnd)
	if err := l.commit(0, func(b *pebble.Batch) error { return b.DeleteRange(from, to, nil) }); err != nil {
		return err
	}
	l.use.RLock()
	defer l.use.RUnlock()
	if l.closed {
		return nil
	}
	// This gives the room back at once, and leaves behind nothing that compactions would have to read.
	if err := l.db.Excise(context.Background(), pebble.KeyRange{Start: from, End: to}); err != nil {
		l.log.Warn("the room of a replica in the shared log is given back later", "shard", shard, "r", r, "err", err)
	}
	return nil
}

// openStore opens the store of a replica. It reads all of it; where something is damaged, the error wraps ErrDataLost. fatal is as of
// openDiskStore.
func (l *sharedLog) openStore(id ReplicaID, fatal func(error)) (*store, error) {
	e := sharedEngine{l, prefixOf(id.Shard, id.R)}
	var s *store
	err := guard(func() (err error) {
		if err = checkReplica(e); err == nil {
			s, err = newStore(summed{e}, defaultTail, fatal)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening the store of replica %s in the shared log: %w", id, err)
	}
	l.mu.Lock()
	l.open[e.prefix] = e
	l.mu.Unlock()
	return s, nil
}

// checkReplica reads all that a replica has.
func checkReplica(e sharedEngine) error {
	if err := checkLog(summed{e}); err != nil {
		return err
	}
	names, err := e.records()
	if err != nil {
		return err
	}
	for _, name := range names {
		if !storedKey(name) {
			return fmt.Errorf("%w: %q is no record", ErrDataLost, name)
		}
		if _, err := (summed{e}).Get(name); err != nil {
			return err
		}
	}
	return nil
}

// logStats is what a shared log does and takes.
type logStats struct {
	Syncs  uint64 // of its own write-ahead log
	Writes uint64 // changes that were made durable
	Memory uint64 // bytes
	Disk   uint64 // bytes
}

func (l *sharedLog) stats() (s logStats) {
	l.use.RLock()
	defer l.use.RUnlock()
	if l.closed {
		return s
	}
	m := l.db.Metrics()
	return logStats{Syncs: l.files.syncs.Load(), Writes: l.files.promises.Load(), Memory: m.MemTable.Size + m.MemTable.ZombieSize + uint64(m.BlockCache.Size), Disk: m.DiskSpaceUsage()}
}
