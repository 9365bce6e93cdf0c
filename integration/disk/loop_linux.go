package disk

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Loop is a file system of its own, mounted at Dir.
type Loop struct {
	Image string // the file that it lies in
	Dir   string

	mu   sync.Mutex // guards what follows
	slow *slow
}

// Supported returns nil when this process can make a Loop, else why it can't.
func Supported() error {
	dir, err := os.MkdirTemp("", "larder-disk-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l, err := NewLoop(filepath.Join(dir, "image"), filepath.Join(dir, "mount"), leastSize)
	if err != nil {
		return err
	}
	return l.Close()
}

// leastSize is about what ext4 with a journal needs at least.
const leastSize = 16 << 20

// NewLoop makes a file system of that many bytes in a new file, which takes only what is used of it, and mounts it.
func NewLoop(image, dir string, size int64) (*Loop, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(image, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(image))
	}
	// No reserve for root: a full disk is full for a node too.
	out, err := exec.Command("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", image).CombinedOutput()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making a file system: %w: %s", err, out), os.Remove(image))
	}
	l := &Loop{Image: image, Dir: dir}
	if err := l.mount(); err != nil {
		return nil, errors.Join(err, os.Remove(image))
	}
	return l, nil
}

// mount attaches the image to a loop device, which is freed when it is unmounted, and mounts that.
func (l *Loop) mount() error {
	device, err := attach(l.Image)
	if err != nil {
		return fmt.Errorf("attaching %s: %w", l.Image, err)
	}
	defer device.Close()
	if err := unix.Mount(device.Name(), l.Dir, "ext4", unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mounting %s at %s: %w", device.Name(), l.Dir, err)
	}
	return nil
}

// attach gives a file a free loop device that frees itself when nobody has it open.
func attach(image string) (*os.File, error) {
	backing, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	const attempts = 100 // others look for a free device too
	for range attempts {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("looking for a free loop device: %w", err)
		}
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", number), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(device.Fd()), &unix.LoopConfig{
			Fd: uint32(backing.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR},
		})
		if err == nil {
			return device, nil
		}
		device.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("configuring %s: %w", device.Name(), err)
		}
	}
	return nil, errors.New("others took each free loop device")
}

// Requests to ext4.
const (
	shutdown        = 0x8004587d // EXT4_IOC_SHUTDOWN
	shutdownNoFlush = 2          // not even the journal
	freeze          = 0xc0045877 // FIFREEZE
	thaw            = 0xc0045878 // FITHAW
)

// ask makes a request to the file system at dir.
func ask(dir string, request uint, value int) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.IoctlSetPointerInt(fd, request, value)
}

// Shutdown cuts the power: nothing is written from now on, and each attempt fails. Who has files open keeps them until it
// is killed; Remount must follow.
func (l *Loop) Shutdown() error {
	if err := ask(l.Dir, shutdown, shutdownNoFlush); err != nil {
		return fmt.Errorf("shutting down the file system at %s: %w", l.Dir, err)
	}
	return nil
}

// Remount unmounts the file system and mounts what is in the file, as a machine does when it starts again. Nobody
// may have files open there.
func (l *Loop) Remount() error {
	if err := l.Slow(0); err != nil {
		return err
	}
	if err := unmount(l.Dir); err != nil {
		return err
	}
	return l.mount()
}

// unmountTime bounds how long an end of all use may take to be known.
const unmountTime = 10 * time.Second

// unmount unmounts what is mounted at dir. Whatever was killed a moment ago may hold it for a while.
func unmount(dir string) error {
	deadline := time.Now().Add(unmountTime)
	for {
		err := unix.Unmount(dir, 0)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			if err != nil {
				err = fmt.Errorf("unmounting %s: %w", dir, err)
			}
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Close unmounts the file system and removes it.
func (l *Loop) Close() error {
	return errors.Join(l.Slow(0), Remove(l.Image, l.Dir))
}

// filler is the file that takes all room.
const filler = "filler"

// Fill takes all room that is left.
func (l *Loop) Fill() error {
	f, err := os.OpenFile(filepath.Join(l.Dir, filler), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		return err
	}
	// Whoever writes meanwhile may free or take some: it is full when not even a block is left.
	for step := int64(64 << 20); step >= 4096; {
		switch err := unix.Fallocate(int(f.Fd()), 0, size, step); {
		case err == nil:
			size += step
		case errors.Is(err, unix.ENOSPC):
			step /= 2
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("filling %s: %w", l.Dir, err)
		}
	}
	return nil
}

// Free ends what Fill did.
func (l *Loop) Free() error {
	err := os.Remove(filepath.Join(l.Dir, filler))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
