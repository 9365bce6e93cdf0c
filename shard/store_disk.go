package shard

import (
	"fmt"
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
// whether it ought to be there is the manifest's business. fatal is called once, when the first
// write fails; it is to end the process.
func openDiskStore(dir string, fatal func(error)) (*diskStore, error) {
	path := filepath.Join(dir, storeFile)
	var s *store
	err := guard(func() error {
		bolt, err := openBolt(path, false)
		if err != nil {
			return err
		}
		if s, err = newStore(bolt, defaultTail, fatal); err != nil {
			bolt.Close()
		}
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

// openBolt opens the bbolt file at path.
func openBolt(path string, readOnly bool) (*raftboltdb.BoltStore, error) {
	return raftboltdb.New(raftboltdb.Options{
		Path: path,
		BoltOptions: &bbolt.Options{
			// The data folder's lock keeps others out; waiting would hide a handle that we leaked.
			Timeout: time.Second,
			// A freelist in the file is rewritten at each commit and grows with each compaction; it
			// is found again at the next start by a walk over the file.
			NoFreelistSync: true,
			FreelistType:   bbolt.FreelistMapType,
			ReadOnly:       readOnly,
		},
		NoSync: bugNoSync.on(), // of the options in bbolt's own it is overwritten
	})
}

// guard runs f and turns what bbolt does on a damaged file, panic or touch memory that is not
// there, into an error.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("damaged: %v", p)
		}
	}()
	return f()
}
