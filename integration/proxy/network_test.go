package proxy

import (
	"bufio"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

// quiet is how long a test listens to be sure enough that nothing comes. Too short a time could
// only hide a defect, never make one up.
const quiet = 150 * time.Millisecond

// patience bounds what must come.
const patience = 10 * time.Second

// echo serves lines back to whoever connects, and returns its address.
func echo(t *testing.T, ip string) string {
	t.Helper()
	l, err := net.Listen("tcp", ip+":0")
	if err != nil {
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
				r := bufio.NewReader(c)
				for {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					if _, err := c.Write([]byte(line)); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// pairOf makes a network of nodes a and b, with an echo server as b.
func pairOf(t *testing.T, delay time.Duration) (n *Network, b string) {
	t.Helper()
	return pairWith(t, New(delay, 0))
}

func pairWith(t *testing.T, n *Network) (_ *Network, b string) {
	t.Helper()
	t.Cleanup(n.Close)
	if _, err := n.Listen("a", "127.0.0.21", echo(t, "127.0.0.21")); err != nil {
		t.Fatal(err)
	}
	b, err := n.Listen("b", "127.0.0.22", echo(t, "127.0.0.22"))
	if err != nil {
		t.Fatal(err)
	}
	return n, b
}

// peer is a connection from a to b.
type peer struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, ip, addr string) *peer {
	t.Helper()
	p, err := tryDial(t, ip, addr)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func tryDial(t *testing.T, ip, addr string) (*peer, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}, Timeout: patience}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	return &peer{t, c, bufio.NewReader(c)}, nil
}

// wantRefused dials and wants to be hung up on, at once or a moment later.
func wantRefused(t *testing.T, ip, addr string) {
	t.Helper()
	if p, err := tryDial(t, ip, addr); err == nil {
		p.wantReset()
	}
}

func (p *peer) send(line string) {
	p.t.Helper()
	if _, err := p.c.Write([]byte(line + "\n")); err != nil {
		p.t.Fatal(err)
	}
}

// receive returns the next line, or the error that ended the wait.
func (p *peer) receive(wait time.Duration) (string, error) {
	p.c.SetReadDeadline(time.Now().Add(wait))
	line, err := p.r.ReadString('\n')
	return strings.TrimSuffix(line, "\n"), err
}

func (p *peer) want(line string) {
	p.t.Helper()
	if got, err := p.receive(patience); got != line || err != nil {
		p.t.Fatalf("received %q, %v, want %q", got, err, line)
	}
}

func (p *peer) wantSilence() {
	p.t.Helper()
	got, err := p.receive(quiet)
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		p.t.Fatalf("received %q, %v, want nothing and an open connection", got, err)
	}
}

func (p *peer) wantReset() {
	p.t.Helper()
	got, err := p.receive(patience)
	var timeout net.Error
	if err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		p.t.Fatalf("received %q, %v, want a connection that has ended", got, err)
	}
}

// TestDelay ensures that bytes take the delay of each way, and that it can be changed for one.
func TestDelay(t *testing.T) {
	const delay = 20 * time.Millisecond
	n, b := pairOf(t, delay)
	p := dial(t, "127.0.0.21", b)
	trip := func() time.Duration {
		start := time.Now()
		p.send("x")
		p.want("x")
		return time.Since(start)
	}
	if d := trip(); d < 2*delay {
		t.Errorf("round trip of %v over links of %v", d, delay)
	}
	n.SetDelay("b", "a", 5*delay)
	if d := trip(); d < 6*delay {
		t.Errorf("round trip of %v over links of %v and %v", d, delay, 5*delay)
	}
	n.SetDelay("b", "a", 0)
	fastest := trip()
	for range 5 {
		fastest = min(fastest, trip())
	}
	if fastest < 2*delay || fastest >= 6*delay {
		t.Errorf("round trip of %v over links that are of %v again", fastest, delay)
	}
}

// TestJitter ensures that jitter changes how long bytes take, on both sides of the delay.
func TestJitter(t *testing.T) {
	const delay, jitter = 5 * time.Millisecond, 4 * time.Millisecond
	_, b := pairWith(t, New(delay, jitter))
	p := dial(t, "127.0.0.21", b)
	shortest, longest := time.Hour, time.Duration(0)
	for range 40 {
		start := time.Now()
		p.send("x")
		p.want("x")
		d := time.Since(start)
		shortest, longest = min(shortest, d), max(longest, d)
	}
	if shortest < 2*(delay-jitter) || shortest >= 2*delay || longest-shortest < 2*time.Millisecond {
		t.Errorf("round trips take %v to %v over links of %v ± %v", shortest, longest, delay, jitter)
	}
}

// TestRate ensures that a thin link takes the time that its rate asks for, and none when the bound ends.
func TestRate(t *testing.T) {
	n, b := pairOf(t, 0)
	p := dial(t, "127.0.0.21", b)
	line := strings.Repeat("x", 8<<10)
	n.SetRate("a", "b", 32<<10)
	start := time.Now()
	p.send(line)
	p.want(line)
	if d := time.Since(start); d < 200*time.Millisecond {
		t.Errorf("8 KiB took %v over a link of 32 KiB a second", d)
	}
	n.SetRate("a", "b", 0)
	p.send(line)
	p.want(line)
}

// TestMend ensures that one link can be mended alone, and that what it lost ends connections as Heal does.
func TestMend(t *testing.T) {
	n, b := pairOf(t, 0)
	p := dial(t, "127.0.0.21", b)
	p.send("before")
	p.want("before")
	n.Cut("a", "b")
	n.Cut("b", "a")
	p.send("lost")
	p.wantSilence()
	if _, cut := n.Counts(); cut == 0 {
		t.Error("nothing counts as cut")
	}
	n.Mend("a", "b")
	p.wantReset()
	half := dial(t, "127.0.0.21", b)
	half.send("no answer")
	half.wantSilence()
	n.Mend("b", "a")
	half.wantReset()
	whole := dial(t, "127.0.0.21", b)
	whole.send("again")
	whole.want("again")
}

// TestCut ensures that a cut link swallows on old and new connections, and that after healing the
// connections which lost bytes are reset, and new ones work.
func TestCut(t *testing.T) {
	for _, way := range []struct{ from, to string }{{"a", "b"}, {"b", "a"}} {
		t.Run(way.from+" to "+way.to, func(t *testing.T) {
			n, b := pairOf(t, time.Millisecond)
			idle := dial(t, "127.0.0.21", b)
			idle.send("before")
			idle.want("before")
			busy := dial(t, "127.0.0.21", b)
			busy.send("before")
			busy.want("before")

			n.Cut(way.from, way.to)
			busy.send("lost")
			fresh := dial(t, "127.0.0.21", b)
			fresh.send("lost")
			busy.wantSilence()
			fresh.wantSilence()

			n.Heal()
			busy.wantReset()
			fresh.wantReset()
			idle.send("after")
			idle.want("after")
			again := dial(t, "127.0.0.21", b)
			again.send("after")
			again.want("after")
		})
	}
}

// TestOneWayCut ensures that the other direction of a connection goes on, also after bytes were lost.
func TestOneWayCut(t *testing.T) {
	n, _ := pairOf(t, time.Millisecond)
	l, err := net.Listen("tcp", "127.0.0.23:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	next := make(chan string)
	t.Cleanup(func() { close(next) })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		for line := range next {
			c.Write([]byte(line + "\n"))
		}
	}()
	speaker, err := n.Listen("c", "127.0.0.23", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	p := dial(t, "127.0.0.21", speaker)
	next <- "one"
	p.want("one")
	n.Cut("a", "c")
	p.send("lost")
	for _, line := range []string{"two", "three"} {
		next <- line
		p.want(line)
	}
	n.Heal()
	p.wantReset()
}

// TestIsolate ensures that a node that is cut off reaches nobody, and is reached by nobody.
func TestIsolate(t *testing.T) {
	n, b := pairOf(t, time.Millisecond)
	third, err := n.Listen("c", "127.0.0.23", echo(t, "127.0.0.23"))
	if err != nil {
		t.Fatal(err)
	}
	n.Isolate("b")
	in, out, others := dial(t, "127.0.0.21", b), dial(t, "127.0.0.22", third), dial(t, "127.0.0.21", third)
	in.send("x")
	out.send("x")
	others.send("x")
	others.want("x")
	in.wantSilence()
	out.wantSilence()
}

// TestHold ensures that a held link keeps bytes in order and loses none.
func TestHold(t *testing.T) {
	n, b := pairOf(t, time.Millisecond)
	p := dial(t, "127.0.0.21", b)
	n.Hold("b", "a")
	p.send("one")
	p.send("two")
	p.wantSilence()
	n.Heal()
	p.want("one")
	p.want("two")
}

// TestDeadTarget ensures that a node which does not run looks like one: connections to it end.
func TestDeadTarget(t *testing.T) {
	n := New(0, 0)
	t.Cleanup(n.Close)
	if _, err := n.Listen("a", "127.0.0.21", "127.0.0.21:1"); err != nil {
		t.Fatal(err)
	}
	b, err := n.Listen("b", "127.0.0.22", "127.0.0.22:1")
	if err != nil {
		t.Fatal(err)
	}
	wantRefused(t, "127.0.0.21", b)
}

// TestStranger ensures that a connection from an address that is no node's is refused and told.
func TestStranger(t *testing.T) {
	n, b := pairOf(t, 0)
	wantRefused(t, "127.0.0.99", b)
	if s := n.Strangers(); len(s) != 1 || s[0] != "127.0.0.99 to b" {
		t.Errorf("strangers are %v", s)
	}
}

// TestCloseEndsEverything ensures that Close returns with connections open, cut, held and idle.
func TestCloseEndsEverything(t *testing.T) {
	n, b := pairOf(t, time.Hour)
	dial(t, "127.0.0.21", b).send("late")
	n.Cut("a", "b")
	dial(t, "127.0.0.21", b).send("lost")
	n.Hold("b", "a")
	done := make(chan struct{})
	go func() {
		n.Close()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("Close hangs")
	}
}
