package shard

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// storeFile is the name of a replica's store within its folder.
const storeFile = "raft.db"

// diskStore is a replicaStore in one bbolt file. Each append, term and vote is one transaction, two
// syncs of the disk.
type diskStore struct {
	*store
	path string
}

// openDiskStore opens the store in dir, the replica's folder, and creates it when it is not there:
// whether it ought to be there is the manifest's business. It reads all of it; where something is damaged, the
// error wraps ErrDataLost. fatal is called once, when the first write fails, or when something can't be read any
// more that could be; it is to end the process.
func openDiskStore(dir string, fatal func(error)) (*diskStore, error) {
	path := filepath.Join(dir, storeFile)
	var s *store
	err := withBolt(path, false, func(e engine) (err error) {
		s, err = newStore(e, defaultTail, fatal)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening store %s: %w", path, err)
	}
	// bbolt syncs the file but not the folder that now names it.
	if err := syncDir(dir); err != nil {
		s.Close()
		return nil, fmt.Errorf("opening store %s: %w", path, err)
	}
	return &diskStore{s, path}, nil
}

// withBolt opens the bbolt file at path, checks it, and hands it to use. Unless all of that succeeds nothing keeps the
// file's lock.
func withBolt(path string, readOnly bool, use func(engine) error) error {
	if info, err := os.Stat(path); err == nil && info.Size() > 0 {
		if err := checkPages(path); err != nil {
			return err
		}
	}
	var file *os.File
	var bolt *raftboltdb.BoltStore
	err := guard(func() (err error) {
		bolt, err = raftboltdb.New(raftboltdb.Options{
			Path: path,
			BoltOptions: &bbolt.Options{
				// The data folder's lock keeps others out; waiting would hide a handle that we leaked.
				Timeout: time.Second,
				// A freelist in the file is rewritten at each commit and grows with each compaction; it
				// is found again at the next start by a walk over the file.
				NoFreelistSync: true,
				FreelistType:   bbolt.FreelistMapType,
				ReadOnly:       readOnly,
				OpenFile: func(name string, flag int, perm os.FileMode) (f *os.File, err error) {
					file, err = os.OpenFile(name, flag, perm)
					return file, err
				},
			},
			NoSync: bugNoSync.on(), // of the options in bbolt's own it is overwritten
		})
		if err != nil {
			return err
		}
		e := summed{bolt}
		if err := checkLog(e); err != nil {
			return err
		}
		return use(e)
	})
	switch {
	case err == nil:
		return nil
	case bolt != nil:
		bolt.Close()
	case file != nil:
		file.Close() // bbolt stumbled within Open
	}
	return err
}

// guard runs f and turns what bbolt does on a damaged file, panic or touch memory that is not
// there, into an error.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: damaged: %v", ErrDataLost, p)
		}
	}()
	return f()
}
