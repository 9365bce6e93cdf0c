//go:build linux || darwin

package shard

import "syscall"

// freeSpace is what this process may still write to the file system of a folder, bytes.
func freeSpace(dir string) (uint64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return s.Bavail * uint64(s.Bsize), nil
}
