package cluster

import "syscall"

// tied makes the kernel kill a node when the test process dies, however it dies.
func tied() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
