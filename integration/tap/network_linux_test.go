package tap

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// quiet is how long a test listens to be sure enough that nothing comes. Too short a time could
// only hide a defect, never make one up.
const quiet = 150 * time.Millisecond

// patience bounds what must come.
const patience = 20 * time.Second

// network makes one of nodes a and b and of clients, or skips the test where that can't be done.
func network(t *testing.T, cfg Config) *Network {
	t.Helper()
	if err := Supported(); err != nil {
		t.Skipf("no networks can be made here: %v", err)
	}
	n := New(cfg)
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"a", "b"} {
		if _, err := n.Add(name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.AddClients("clients"); err != nil {
		t.Fatal(err)
	}
	return n
}

// echo serves bytes back to who connects to a member, and returns its address.
func echo(t testing.TB, n *Network, name string) string {
	t.Helper()
	var l net.Listener
	m, err := n.member(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Run(name, func() (err error) {
		l, err = net.Listen("tcp", m.ip.String()+":7000")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

// peer is a connection.
type peer struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, n *Network, from, addr string) *peer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := n.Dial(ctx, from, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &peer{t, c, bufio.NewReader(c)}
}

func (p *peer) send(line string) {
	p.t.Helper()
	if _, err := p.c.Write([]byte(line + "\n")); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) want(line string) {
	p.t.Helper()
	p.c.SetReadDeadline(time.Now().Add(patience))
	if got, err := p.r.ReadString('\n'); got != line+"\n" || err != nil {
		p.t.Fatalf("received %q, %v, want %q", got, err, line)
	}
}

func (p *peer) wantSilence() {
	p.t.Helper()
	p.c.SetReadDeadline(time.Now().Add(quiet))
	if got, err := p.r.ReadString('\n'); !errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Fatalf("received %q, %v, want nothing and an open connection", got, err)
	}
}

// trip returns how long a line takes there and back.
func (p *peer) trip() time.Duration {
	p.t.Helper()
	start := time.Now()
	p.send("x")
	p.want("x")
	return time.Since(start)
}

// must is for calls that can't fail in a test.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestDelay ensures that bytes take the delay of each way between nodes, none from clients, and that it can be changed
// for one way and given back.
func TestDelay(t *testing.T) {
	const delay = 20 * time.Millisecond
	n := network(t, Config{Delay: delay})
	b := echo(t, n, "b")
	p := dial(t, n, "a", b)
	if d := p.trip(); d < 2*delay {
		t.Errorf("round trip of %v over links of %v", d, delay)
	}
	must(t, n.SetDelay("b", "a", 5*delay))
	if d := p.trip(); d < 6*delay {
		t.Errorf("round trip of %v over links of %v and %v", d, delay, 5*delay)
	}
	must(t, n.SetDelay("b", "a", 0))
	fastest := func(p *peer) time.Duration {
		d := p.trip()
		for range 5 {
			d = min(d, p.trip())
		}
		return d
	}
	if d := fastest(p); d < 2*delay || d >= 6*delay {
		t.Errorf("round trip of %v over links that are of %v again", d, delay)
	}
	if d := fastest(dial(t, n, "clients", b)); d >= delay {
		t.Errorf("round trip of %v from clients, whose links have no delay", d)
	}
}

// TestCut ensures that a cut of one way loses what is sent that way and nothing else, and that what the senders
// repeat arrives after healing.
func TestCut(t *testing.T) {
	for _, way := range []struct{ from, to string }{{"a", "b"}, {"b", "a"}} {
		t.Run(way.from+" to "+way.to, func(t *testing.T) {
			n := network(t, Config{Delay: time.Millisecond})
			b := echo(t, n, "b")
			p := dial(t, n, "a", b)
			client := dial(t, n, "clients", b)
			p.trip()
			must(t, n.Cut(way.from, way.to))
			p.send("late")
			p.wantSilence()
			client.trip()
			if c, err := n.CountsOf(way.from, way.to); err != nil || c.Cut == 0 {
				t.Errorf("the cut link counts %+v, %v", c, err)
			}
			if c, err := n.CountsOf(way.to, way.from); err != nil || c.Cut != 0 {
				t.Errorf("the other way counts %+v, %v", c, err)
			}
			must(t, n.Heal())
			p.want("late")
		})
	}
}

// TestIsolateAndClients ensures that isolating a node and cutting it off from clients each leave the other's links alone.
func TestIsolateAndClients(t *testing.T) {
	n := network(t, Config{})
	b := echo(t, n, "b")
	peer, client := dial(t, n, "a", b), dial(t, n, "clients", b)
	must(t, n.Isolate("b"))
	client.trip()
	peer.send("late")
	peer.wantSilence()
	must(t, n.Heal())
	peer.want("late")
	must(t, n.CutClient("b"))
	peer.trip()
	client.send("later")
	client.wantSilence()
	must(t, n.Mend("clients", "b"))
	client.wantSilence()
	must(t, n.Mend("b", "clients"))
	client.want("later")
	if err := n.Isolate("nobody"); err == nil {
		t.Error("isolated nobody")
	}
}

// TestPower ensures that a member which is off gets and sends nothing.
func TestPower(t *testing.T) {
	n := network(t, Config{})
	p := dial(t, n, "a", echo(t, n, "b"))
	must(t, n.SetPower("b", false))
	p.send("late")
	p.wantSilence()
	must(t, n.SetPower("b", true))
	p.want("late")
}

// datagrams makes a socket of each of a and b.
func datagrams(t *testing.T, n *Network) (a, b *net.UDPConn) {
	t.Helper()
	open := func(name string) (c *net.UDPConn) {
		must(t, n.Run(name, func() (err error) {
			m, err := n.member(name)
			if err == nil {
				c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: m.ip.AsSlice(), Port: 7000})
			}
			return err
		}))
		t.Cleanup(func() { c.Close() })
		raw, err := c.SyscallConn()
		must(t, err)
		// Room for a burst: what a full socket drops would be taken for a loss.
		must(t, raw.Control(func(fd uintptr) {
			must(t, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20))
		}))
		return c
	}
	a, b = open("a"), open("b")
	// The first packet makes a's kernel learn the address of b; those sent meanwhile would be mixed up by it.
	if _, err := a.WriteToUDP([]byte(end), b.LocalAddr().(*net.UDPAddr)); err != nil {
		t.Fatal(err)
	}
	receive(t, b)
	return a, b
}

// exchange sends count numbered packets from one to the other, and returns what arrived until a last one that nothing
// happens to, in order.
func exchange(t *testing.T, n *Network, from, to *net.UDPConn, count int, plain func()) []int {
	t.Helper()
	addr := to.LocalAddr().(*net.UDPAddr)
	before, err := n.CountsOf("a", "b")
	must(t, err)
	received := make(chan []int)
	go func() { received <- receive(t, to) }()
	for i := range count {
		if _, err := from.WriteToUDP(fmt.Append(nil, i), addr); err != nil {
			t.Fatal(err)
		}
	}
	// All have passed the link, or were lost, before the last one is sent.
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		now, err := n.CountsOf("a", "b")
		must(t, err)
		if now.Passed+now.Lost+before.Repeated >= before.Passed+before.Lost+now.Repeated+uint64(count) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("of %d packets the link counts %+v, from %+v", count, now, before)
		}
	}
	plain()
	if _, err := from.WriteToUDP([]byte(end), addr); err != nil {
		t.Fatal(err)
	}
	return <-received
}

// end is the last packet of an exchange.
const end = "end"

// receive returns the numbers that arrive until the end.
func receive(t *testing.T, c *net.UDPConn) (arrived []int) {
	buf := make([]byte, 100)
	for {
		c.SetReadDeadline(time.Now().Add(patience))
		size, err := c.Read(buf)
		if err != nil {
			t.Error(err)
			return nil
		}
		if string(buf[:size]) == end {
			return arrived
		}
		i, err := strconv.Atoi(string(buf[:size]))
		if err != nil {
			t.Error(err)
			return nil
		}
		arrived = append(arrived, i)
	}
}

// TestChances ensures that shares of packets are lost, repeated and overtaken, that the counts are those, and
// that a seed makes the same choice again.
func TestChances(t *testing.T) {
	const count = 400
	run := func(seed uint64, set func(*Network, float64) error) (arrived []int, c Counts) {
		n := network(t, Config{Seed: seed})
		a, b := datagrams(t, n)
		must(t, set(n, 0.2))
		arrived = exchange(t, n, a, b, count, func() { must(t, set(n, 0)) })
		c, err := n.CountsOf("a", "b")
		must(t, err)
		return arrived, c
	}
	distinct := func(arrived []int) int {
		seen := map[int]bool{}
		for _, i := range arrived {
			seen[i] = true
		}
		return len(seen)
	}
	about := func(what string, got int) {
		t.Helper()
		if got < count/10 || got > count*3/10 {
			t.Errorf("%d of %d packets were %s, want about 1 in 5", got, count, what)
		}
	}
	loss := func(n *Network, share float64) error { return n.SetLoss("a", "b", share) }
	arrived, c := run(1, loss)
	about("lost", count-len(arrived))
	if int(c.Lost) != count-len(arrived) || c.Repeated+c.Reordered+c.Cut != 0 {
		t.Errorf("%d of %d arrived, but the counts are %+v", len(arrived), count, c)
	}
	if again, _ := run(1, loss); fmt.Sprint(again) != fmt.Sprint(arrived) {
		t.Error("the same seed lost others")
	}
	if other, _ := run(2, loss); fmt.Sprint(other) == fmt.Sprint(arrived) {
		t.Error("another seed lost the same")
	}

	arrived, c = run(1, func(n *Network, share float64) error { return n.SetDuplicate("a", "b", share) })
	about("repeated", len(arrived)-count)
	if int(c.Repeated) != len(arrived)-count || distinct(arrived) != count {
		t.Errorf("%d arrived, %d distinct ones, but the counts are %+v", len(arrived), distinct(arrived), c)
	}

	arrived, c = run(1, func(n *Network, share float64) error { return n.SetReorder("a", "b", share) })
	about("held back", int(c.Reordered))
	late, newest := 0, -1
	for _, i := range arrived {
		if i < newest {
			late++
		}
		newest = max(newest, i)
	}
	if late == 0 || len(arrived) != count || distinct(arrived) != count {
		t.Errorf("%d of %d arrived, %d of them late: %+v", len(arrived), count, late, c)
	}
}

// TestJitter ensures that jitter changes when packets arrive, and not their order.
func TestJitter(t *testing.T) {
	n := network(t, Config{Delay: 5 * time.Millisecond, Jitter: 4 * time.Millisecond})
	a, b := datagrams(t, n)
	arrived := exchange(t, n, a, b, 200, func() {})
	for i, got := range arrived {
		if got != i {
			t.Fatalf("packet %d arrived in place %d", got, i)
		}
	}
	p := dial(t, n, "a", echo(t, n, "b"))
	shortest, longest := time.Hour, time.Duration(0)
	for range 40 {
		d := p.trip()
		shortest, longest = min(shortest, d), max(longest, d)
	}
	if shortest >= 10*time.Millisecond || longest-shortest < 2*time.Millisecond {
		t.Errorf("round trips take %v to %v over links of 5 ± 4 ms", shortest, longest)
	}
}

// TestHold ensures that what is sent over a link that holds arrives when it is mended, in order and once.
func TestHold(t *testing.T) {
	n := network(t, Config{})
	a, b := datagrams(t, n)
	must(t, n.Hold("a", "b"))
	addr := b.LocalAddr().(*net.UDPAddr)
	for _, s := range []string{"1", "2", "3"} {
		if _, err := a.WriteToUDP([]byte(s), addr); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 10)
	b.SetReadDeadline(time.Now().Add(quiet))
	if _, err := b.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a link that holds let a packet pass: %v", err)
	}
	must(t, n.Heal())
	for _, want := range []string{"1", "2", "3"} {
		b.SetReadDeadline(time.Now().Add(patience))
		if size, err := b.Read(buf); err != nil || string(buf[:size]) != want {
			t.Fatalf("received %q, %v, want %q", buf[:size], err, want)
		}
	}
}

// TestBadWeather ensures that TCP carries a stream unharmed over links that lose, repeat and reorder packets.
func TestBadWeather(t *testing.T) {
	n := network(t, Config{Delay: time.Millisecond, Seed: 3})
	p := dial(t, n, "a", echo(t, n, "b"))
	for _, way := range [][2]string{{"a", "b"}, {"b", "a"}} {
		must(t, n.SetLoss(way[0], way[1], 0.02))
		must(t, n.SetDuplicate(way[0], way[1], 0.05))
		must(t, n.SetReorder(way[0], way[1], 0.05))
	}
	sent := make([]byte, 300<<10)
	rng := rand.NewChaCha8([32]byte{})
	rng.Read(sent)
	go p.c.Write(sent)
	got := make([]byte, len(sent))
	p.c.SetReadDeadline(time.Now().Add(2 * patience))
	if _, err := io.ReadFull(p.r, got); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("the stream came back otherwise: %v", err)
	}
	if c := n.Counts(); c.Lost == 0 || c.Repeated == 0 || c.Reordered == 0 {
		t.Errorf("the weather was fine: %+v", c)
	}
}

// TestRate ensures that a thin link takes the time that its rate asks for.
func TestRate(t *testing.T) {
	n := network(t, Config{})
	p := dial(t, n, "a", echo(t, n, "b"))
	p.trip()
	const rate, size = 64 << 10, 32 << 10
	must(t, n.SetRate("a", "b", rate))
	start := time.Now()
	go p.c.Write(make([]byte, size))
	p.c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.CopyN(io.Discard, p.r, size); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d < 400*time.Millisecond {
		t.Errorf("%d bytes over a link of %d bytes a second took %v", size, rate, d)
	}
	must(t, n.SetRate("a", "b", 0))
	p.trip()
}

// TestNoWayOut ensures that nothing outside of the network can be reached from within, and the network not from
// outside, but the members' own loopbacks can.
func TestNoWayOut(t *testing.T) {
	n := network(t, Config{})
	b := echo(t, n, "b")
	if _, err := n.Dial(t.Context(), "a", "tcp", "192.0.2.1:80"); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("dialling an address elsewhere: %v, want that it can't be reached", err)
	}
	if _, err := n.Dial(t.Context(), "a", "tcp", "larder.example:80"); err == nil {
		t.Error("dialled a name")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // of the machine
	must(t, err)
	defer l.Close()
	if _, err := n.Dial(t.Context(), "a", "tcp", l.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dialling the machine's loopback from within: %v, want refused by the own one", err)
	}
	// Bound to the loopback, so that nothing leaves the machine whatever comes of it.
	d := net.Dialer{Timeout: quiet, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}
	if c, err := d.Dial("tcp", b); err == nil {
		c.Close()
		t.Error("the network can be reached from outside")
	}
}

// TestClose ensures that no thread stays in a namespace, that what is asked of a closed network fails, and that
// closing twice is fine.
func TestClose(t *testing.T) {
	n := network(t, Config{Delay: time.Millisecond})
	var inside string
	must(t, n.Run("a", func() (err error) {
		inside, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	}))
	threads := func() (count int) {
		tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
		must(t, err)
		for _, task := range tasks {
			if ns, err := os.Readlink(task); err == nil && ns == inside {
				count++
			}
		}
		return count
	}
	if !strings.HasPrefix(inside, "net:") || threads() == 0 {
		t.Fatalf("no thread is in namespace %q", inside)
	}
	must(t, n.Close())
	must(t, n.Close())
	for deadline := time.Now().Add(patience); threads() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d threads are still in %s", threads(), inside)
		}
	}
	for name, err := range map[string]error{
		"Run": n.Run("a", func() error { return nil }),
		"Cut": n.Cut("a", "b"),
		"Dial": func() error {
			_, err := n.Dial(t.Context(), "a", "tcp", "10.77.0.12:1")
			return err
		}(),
		"Add": func() error { _, err := n.Add("c"); return err }(),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s on a closed network: %v", name, err)
		}
	}
}
