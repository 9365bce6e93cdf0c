package disk

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// loop makes a disk, or skips the test where that can't be done.
func loop(t *testing.T) *Loop {
	t.Helper()
	if err := Supported(); err != nil {
		t.Skipf("no file systems can be made here: %v", err)
	}
	dir := t.TempDir()
	l, err := NewLoop(filepath.Join(dir, "image with a space"), filepath.Join(dir, "mount with a space"), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// write makes a file, and syncs it and its folder if asked to.
func write(t *testing.T, path, content string, sync bool) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	if sync {
		d, err := os.Open(filepath.Dir(path))
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if err := errors.Join(f.Sync(), d.Sync()); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// TestPowerLoss ensures that after a power loss all that was synced is there and nothing else, and that writes
// fail from then on.
func TestPowerLoss(t *testing.T) {
	l := loop(t)
	kept, never := filepath.Join(l.Dir, "kept"), filepath.Join(l.Dir, "never")
	write(t, kept, "synced", true).Close()
	tail := write(t, kept, " and a tail", false)
	write(t, never, "not synced", false).Close()
	if err := l.Shutdown(); err != nil {
		t.Fatal(err)
	}
	if err := tail.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("a sync without power: %v, want EIO", err)
	}
	tail.Close()
	if err := l.Remount(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(kept); string(got) != "synced" {
		t.Errorf("the synced file is %q, %v", got, err)
	}
	if got, err := os.ReadFile(never); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file that was never synced is %q, %v", got, err)
	}
	write(t, kept, " again", true)
}

// TestFull ensures that a full disk has room for nothing, and again for something once it is freed.
func TestFull(t *testing.T) {
	l := loop(t)
	f := write(t, filepath.Join(l.Dir, "file"), "x", true)
	if err := l.Fill(); err != nil {
		t.Fatal(err)
	}
	_, err := f.WriteString(strings.Repeat("x", 8192))
	if err == nil {
		err = f.Sync()
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("writing to a full disk: %v, want ENOSPC", err)
	}
	if err := errors.Join(l.Free(), l.Free()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(strings.Repeat("x", 8192)); err != nil {
		t.Error(err)
	}
}

// TestSlow ensures that syncs of a slow disk take about the time asked for, and that they are quick again
// afterwards.
func TestSlow(t *testing.T) {
	l := loop(t)
	f := write(t, filepath.Join(l.Dir, "file"), "x", true)
	const slowness, syncs = 50 * time.Millisecond, 10
	measure := func() time.Duration {
		start := time.Now()
		for range syncs {
			if _, err := f.WriteString("x"); err != nil {
				t.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		return time.Since(start)
	}
	if err := l.Slow(slowness); err != nil {
		t.Fatal(err)
	}
	if d := measure(); d < syncs*slowness/2 {
		t.Errorf("%d syncs of a slow disk took %v", syncs, d)
	}
	if err := l.Slow(0); err != nil {
		t.Fatal(err)
	}
	fastest := time.Hour
	for range 5 {
		fastest = min(fastest, measure())
	}
	if fastest > syncs*slowness/4 {
		t.Errorf("%d syncs took %v when it was no longer slow", syncs, fastest)
	}
	if err := l.Slow(slowness); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := l.Shutdown(); err != nil {
		t.Fatal(err)
	}
	if err := l.Remount(); err != nil {
		t.Errorf("a slow disk that lost power: %v", err)
	}
}

// TestRemove ensures that the paths alone are enough to remove a disk, frozen or not, that removing it twice is fine,
// and that a mount of another file is left alone.
func TestRemove(t *testing.T) {
	l := loop(t)
	if err := Remove(filepath.Join(t.TempDir(), "other"), l.Dir); err == nil {
		t.Error("removed the mount of another file")
	}
	if mounts, err := mountsAt(l.Dir); err != nil || len(mounts) != 1 {
		t.Fatalf("mounts at %s are %v, %v", l.Dir, mounts, err)
	}
	if err := ask(l.Dir, freeze, 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Remove(l.Image, l.Dir); err != nil {
			t.Fatal(err)
		}
	}
	if mounts, err := mountsAt(l.Dir); err != nil || len(mounts) != 0 {
		t.Errorf("mounts at %s are %v, %v", l.Dir, mounts, err)
	}
	if _, err := os.Stat(l.Image); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
	devices, err := filepath.Glob("/sys/block/loop*")
	if err != nil {
		t.Fatal(err)
	}
	for _, device := range devices {
		if backs(l.Image, device) {
			t.Errorf("%s is still taken", device)
		}
	}
}

// TestDetach ensures that a device which was attached and never mounted is freed too.
func TestDetach(t *testing.T) {
	l := loop(t)
	image := filepath.Join(t.TempDir(), "unmounted")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	device, err := attach(image)
	if err != nil {
		t.Fatal(err)
	}
	if !backs(image, device.Name()) || backs(l.Image, device.Name()) {
		t.Fatalf("%s is not known by its file", device.Name())
	}
	if err := Remove(image, filepath.Join(t.TempDir(), "nothing")); err != nil {
		t.Fatal(err)
	}
	device.Close()
	if backs(image, device.Name()) {
		t.Errorf("%s is still taken", device.Name())
	}
}
