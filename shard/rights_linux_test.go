package shard

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// unprivileged returns a node's data folder, and takes root's rights over files from the test's thread until the test is over.
func unprivileged(t *testing.T) string {
	t.Helper()
	base := t.TempDir()
	if os.Geteuid() == 0 {
		const nobody = 65534
		for _, dir := range []string{filepath.Dir(base), base} {
			must(t, os.Chown(dir, nobody, nobody))
		}
		runtime.LockOSThread()
		must(t, syscall.Setfsuid(nobody))
		t.Cleanup(func() {
			if err := syscall.Setfsuid(0); err != nil {
				t.Error(err)
			}
			runtime.UnlockOSThread()
		})
	}
	dir := filepath.Join(base, "data")
	must(t, openIdentity(t, dir, "a").Close())
	return dir
}

// TestRemainsStopNobody ensures that a node starts though the folder of a destroyed replica can't be removed, and removes it at
// a later start.
func TestRemainsStopNobody(t *testing.T) {
	dir := unprivileged(t)
	m := restart(t, dir)
	folder := createReplica(t, m, 3, 17)
	replicas := filepath.Dir(folder)
	must(t, os.Chmod(replicas, 0o500))
	if err := m.destroyed(3, 17); err == nil {
		t.Fatal("the folder was removed")
	}
	if m = restart(t, dir); m.remains == nil {
		t.Error("nothing is said of what remains")
	}
	must(t, os.Chmod(replicas, 0o700))
	if m = restart(t, dir); m.remains != nil || exists(folder) {
		t.Errorf("%v, folder there: %v", m.remains, exists(folder))
	}
}

// TestShortageIsNoLoss ensures that files which can't be read for want of rights are not taken for lost.
func TestShortageIsNoLoss(t *testing.T) {
	for _, name := range []string{manifestName, identityFile} {
		t.Run(name, func(t *testing.T) {
			dir := unprivileged(t)
			must(t, os.Chmod(filepath.Join(dir, name), 0))
			if _, err := openDisk(dir, "a", LogBolt, slog.New(slog.DiscardHandler), func(err error) { t.Error(err) }); !errors.Is(err, fs.ErrPermission) || errors.Is(err, ErrDataLost) {
				t.Error(err)
			}
		})
	}
}
