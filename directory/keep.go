package directory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// A node keeps a copy of the newest table on its disk, so that it finds the others again after a
// restart, and serves by it while the directory has no quorum (R19). Any committed table, however old,
// is as good as being late; so the copy needs no sync, and a damaged one is ignored.

// recall publishes the copy of an earlier life, where there is a good one.
func (s *Service) recall() {
	if s.cfg.TableFile == "" {
		return
	}
	data, err := os.ReadFile(s.cfg.TableFile)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var t *Table
	if err == nil {
		t, err = decodeSnapshot(data)
	}
	if cluster, _, formed := s.cfg.Identity.Formed(); err == nil && (!formed || t.Cluster != cluster) {
		err = fmt.Errorf("it is of cluster %s", t.Cluster)
	}
	if err != nil {
		s.log.Warn("the kept table is of no use", "file", s.cfg.TableFile, "err", err)
		return
	}
	s.kept.Store(t.Version)
	s.latest.Publish(t)
}

// keep writes the copy, where the table is newer.
func (s *Service) keep(t *Table) {
	if s.cfg.TableFile == "" || t.Version <= s.kept.Load() {
		return
	}
	s.duties.try("keep the table", func(context.Context) error { return s.keepNow(t, false) })
}

// keepNow writes the copy, unless a newer one is there. synced: it outlives a loss of power from then on.
func (s *Service) keepNow(t *Table, synced bool) error {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	if s.cfg.TableFile == "" || t.Version < s.kept.Load() || t.Version == s.kept.Load() && !synced {
		return nil
	}
	var data bytes.Buffer
	if _, err := (tableSnapshot{t}).WriteTo(&data); err != nil {
		return err
	}
	temporary := s.cfg.TableFile + ".new"
	if err := os.WriteFile(temporary, data.Bytes(), 0o600); err != nil {
		return err
	}
	if synced {
		if err := syncPath(temporary); err != nil {
			return err
		}
	}
	if err := os.Rename(temporary, s.cfg.TableFile); err != nil {
		return err
	}
	if synced {
		if err := syncPath(filepath.Dir(s.cfg.TableFile)); err != nil {
			return err
		}
	}
	s.kept.Store(t.Version)
	return nil
}

// syncPath syncs a file or a folder.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
