package tap

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// deviceName is that of the Ethernet device in each namespace.
const deviceName = "eth0"

// namespace is a network namespace, and the goroutine in it that runs calls.
type namespace struct {
	tap   *os.File // frames that it sends and gets
	calls chan func()
	quit  chan struct{}
	ended chan struct{} // when the thread has left

	mu   sync.Mutex // guards self against a use after its end
	self *os.File   // the namespace, to enter it
}

// newNamespace makes a namespace with a loopback, and a device that has the address.
func newNamespace(addr netip.Prefix, mac [6]byte) (*namespace, error) {
	ns := &namespace{calls: make(chan func()), quit: make(chan struct{}), ended: make(chan struct{})}
	made := make(chan error)
	go func() {
		defer close(ns.ended)
		// Never unlocked: the thread ends with the goroutine, since it is of no use elsewhere.
		runtime.LockOSThread()
		err := ns.make(addr, mac)
		made <- err
		if err != nil {
			return
		}
		for {
			select {
			case call := <-ns.calls:
				call()
			case <-ns.quit:
				return
			}
		}
	}()
	if err := <-made; err != nil {
		<-ns.ended
		return nil, err
	}
	return ns, nil
}

// make moves the thread to a new namespace and sets that up.
func (ns *namespace) make(addr netip.Prefix, mac [6]byte) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("making a network namespace: %w", err)
	}
	self, err := openOwn()
	if err != nil {
		return err
	}
	tap, err := openTAP()
	if err != nil {
		self.Close()
		return err
	}
	if err := configure(addr, mac); err != nil {
		self.Close()
		tap.Close()
		return err
	}
	ns.self, ns.tap = self, tap
	return nil
}

// openOwn opens the network namespace of this thread.
func openOwn() (*os.File, error) {
	return os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
}

// openTAP makes a TAP in the namespace of this thread.
func openTAP() (*os.File, error) {
	const path = "/dev/net/tun"
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	req, err := unix.NewIfreq(deviceName)
	if err == nil {
		// NAPI: the kernel takes in frames in the order of writes, on whatever processors those were made.
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_NAPI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("making a TAP: %w", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// hardware is struct ifreq with a hardware address.
type hardware struct {
	name   [unix.IFNAMSIZ]byte
	family uint16
	addr   [14]byte
	_      [8]byte
}

// configure gives the device its addresses and sets it and the loopback up.
func configure(addr netip.Prefix, mac [6]byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	h := hardware{family: unix.ARPHRD_ETHER}
	copy(h.name[:], deviceName)
	copy(h.addr[:], mac[:])
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFHWADDR, uintptr(unsafe.Pointer(&h))); errno != 0 {
		return fmt.Errorf("setting the hardware address: %w", errno)
	}
	ip := addr.Addr().As4()
	if err := request(fd, deviceName, unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(ip[:]) }); err != nil {
		return fmt.Errorf("setting the address: %w", err)
	}
	mask := netmask(addr.Bits())
	if err := request(fd, deviceName, unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr(mask[:]) }); err != nil {
		return fmt.Errorf("setting the netmask: %w", err)
	}
	for _, device := range []string{"lo", deviceName} {
		if err := request(fd, device, unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error {
			r.SetUint16(unix.IFF_UP)
			return nil
		}); err != nil {
			return fmt.Errorf("setting %s up: %w", device, err)
		}
	}
	return nil
}

func netmask(bits int) (mask [4]byte) {
	for i := range bits {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return mask
}

// request fills in a request for a device and makes it.
func request(fd int, device string, what uint, fill func(*unix.Ifreq) error) error {
	r, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	if err := fill(r); err != nil {
		return err
	}
	return unix.IoctlIfreq(fd, what, r)
}

// run runs f in the namespace, on the thread that holds it.
func (ns *namespace) run(f func() error) error {
	done := make(chan error, 1)
	select {
	case ns.calls <- func() { done <- f() }:
		return <-done
	case <-ns.ended:
		return os.ErrClosed
	}
}

// enter runs f in the namespace on a thread of its own: f may wait.
func (ns *namespace) enter(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		before, err := openOwn()
		if err == nil {
			defer before.Close()
			ns.mu.Lock()
			err = unix.Setns(int(ns.self.Fd()), unix.CLONE_NEWNET) // refused once it is closed
			ns.mu.Unlock()
		}
		if err == nil {
			err = f()
			// A thread that can't go back is never unlocked, and so ends with this goroutine.
			if unix.Setns(int(before.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
		}
		done <- err
	}()
	return <-done
}

// close ends the namespace's thread and its device.
func (ns *namespace) close() {
	close(ns.quit)
	<-ns.ended
	ns.tap.Close()
	ns.mu.Lock()
	defer ns.mu.Unlock()
	ns.self.Close()
}
