//go:build !faults

package directory

func (bug) on() bool { return false }
