package disk

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Remove unmounts a Loop at dir that lies in image, frees its device and removes the file. What is not there
// needs no removal.
func Remove(image, dir string) error {
	mounts, err := mountsAt(dir)
	if err != nil {
		return err
	}
	for _, device := range mounts {
		if !backs(image, device) {
			return fmt.Errorf("%s is mounted at %s, and does not lie in %s: left alone", device, dir, image)
		}
		ask(dir, thaw, 0) // it fails on one that is not frozen
		if err := unmount(dir); err != nil {
			return err
		}
	}
	if err := detach(image); err != nil {
		return err
	}
	if err := os.Remove(image); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// mountsAt returns the devices that are mounted at dir.
func mountsAt(dir string) (devices []string, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 1 && unescape.Replace(fields[1]) == dir {
			devices = append(devices, fields[0])
		}
	}
	return devices, lines.Err()
}

// backs reports whether image is the file behind a loop device.
func backs(image, device string) bool {
	backing, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(device), "loop/backing_file"))
	if err != nil {
		return false
	}
	// A file that was removed shows as "... (deleted)".
	have, known := strings.TrimSuffix(strings.TrimSpace(string(backing)), " (deleted)"), image
	if real, err := filepath.EvalSymlinks(image); err == nil {
		known = real
	}
	return have == known || have == image
}

// detach frees the loop devices of image, which are not mounted: a process that was killed between the two steps left them.
func detach(image string) error {
	devices, err := filepath.Glob("/sys/block/loop*")
	if err != nil {
		return err
	}
	for _, device := range devices {
		if !backs(image, device) {
			continue
		}
		path := filepath.Join("/dev", filepath.Base(device))
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		_, err = unix.IoctlRetInt(int(f.Fd()), unix.LOOP_CLR_FD)
		f.Close()
		if err != nil && !errors.Is(err, unix.ENXIO) {
			return fmt.Errorf("freeing %s: %w", path, err)
		}
	}
	return nil
}
