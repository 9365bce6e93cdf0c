//go:build !linux

package cluster

import (
	"errors"
	"fmt"
	"syscall"
)

var errLinux = fmt.Errorf("only Linux has it: %w", errors.ErrUnsupported)

// Tied ties nothing: the system has no means for it.
func Tied() *syscall.SysProcAttr { return nil }

// CanTap says that there can be no network of the kind Tap.
func CanTap() error { return errLinux }

// CanLoop says that there can be no disk of the kind Loop.
func CanLoop() error { return errLinux }

func newTap(Config) (network, error) { return nil, errLinux }

func newLoop(string, string) (volume, error) { return nil, errLinux }

func removeLoop(string, string) error { return errLinux }
