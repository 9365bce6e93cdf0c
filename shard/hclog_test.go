package shard

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// logTo returns a Raft logger of shard 3 that writes lines without time into the buffer.
func logTo(level slog.Level) (hclog.Logger, *bytes.Buffer) {
	var out bytes.Buffer
	handler := slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	return newRaftLogger(slog.New(handler), 3), &out
}

func wantLines(t *testing.T, out *bytes.Buffer, want ...string) {
	t.Helper()
	got := strings.TrimSuffix(out.String(), "\n")
	if got != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	out.Reset()
}

// Ensures that each level finds its counterpart, Info being Debug unless it says who leads, and Error
// too where it says no more than that a peer does not answer.
func TestRaftLoggerLevels(t *testing.T) {
	l, out := logTo(levelTrace)
	l.Trace("t")
	l.Debug("d")
	l.Info("i")
	l.Warn("w")
	l.Error("e")
	l.Log(hclog.NoLevel, "n")
	l.Log(hclog.Off, "never")
	wantLines(t, out, "level=DEBUG-4 msg=t shard=3", "level=DEBUG msg=d shard=3", "level=DEBUG msg=i shard=3",
		"level=WARN msg=w shard=3", "level=ERROR msg=e shard=3", "level=DEBUG msg=n shard=3")

	l, out = logTo(slog.LevelInfo)
	l.Info("snapshot complete up to", "index", 7)
	l.Info("entering leader state", "leader", stringer("me"))
	l.Info("entering follower state")
	wantLines(t, out, `level=INFO msg="entering leader state" shard=3 leader=me`, `level=INFO msg="entering follower state" shard=3`)
}

// Ensures that a peer that does not answer is told at Debug, and a failure of this node stays an error.
func TestRaftLoggerPeerLoss(t *testing.T) {
	l, out := logTo(slog.LevelInfo)
	for _, line := range []string{"failed to heartbeat to", "failed to appendEntries to", "failed to make requestVote RPC"} {
		l.Error(line, "peer", "b", "error", ErrUnreachable)
	}
	l.Warn("failed to contact", "server-id", "1/b/1")
	wantLines(t, out, "")
	l.Warn("failed to contact quorum of nodes, stepping down")
	wantLines(t, out, `level=WARN msg="failed to contact quorum of nodes, stepping down" shard=3`)
	l.Error("failed to append to logs", "error", "disk full")
	wantLines(t, out, `level=ERROR msg="failed to append to logs" shard=3 err="disk full"`)
}

type stringer string

func (s stringer) String() string { return string(s) }

// Ensures that values are printed as hclog prints them, at the time of the call.
func TestRaftLoggerValues(t *testing.T) {
	l, out := logTo(slog.LevelDebug)
	list := []int{1, 2}
	var none *netip.Addr
	l.Warn("m", "error", errors.New("broken"), "fmt", hclog.Fmt("%d/%d", 1, 2), "empty", hclog.Format{}, "hex", hclog.Hex(17),
		"octal", hclog.Octal(17), "binary", hclog.Binary(5), "quote", hclog.Quote("x"), "list", list,
		"n", uint64(9), "none", nil, "nilptr", none, 5, "five", "odd")
	list[0] = 9
	wantLines(t, out, "level=WARN msg=m shard=3 err=broken fmt=1/2 empty=\"\" hex=0x11 octal=021 binary=0b101 quote=x list=\"[1 2]\""+
		" n=9 none=<nil> nilptr=<nil> 5=five extra=odd")
}

// Ensures that With and Named add to lines and leave their parents alone.
func TestRaftLoggerSublogger(t *testing.T) {
	l, out := logTo(slog.LevelDebug)
	sub := l.Named("raft").With("peer", "b").Named("x")
	sub.Warn("m", "k", 1)
	sub.ResetNamed("y").Warn("m")
	l.Warn("m")
	wantLines(t, out, `level=WARN msg="raft.x: m" shard=3 peer=b k=1`, `level=WARN msg="y: m" shard=3 peer=b`, "level=WARN msg=m shard=3")
	if got := fmt.Sprintf("%q %v %q %v", sub.Name(), sub.ImpliedArgs(), l.Name(), l.ImpliedArgs()); got != `"raft.x" [peer b] "" []` {
		t.Errorf("got %q", got)
	}
}

// Ensures that the level asked for is the handler's, and SetLevel can't change it.
func TestRaftLoggerEnabled(t *testing.T) {
	for level, want := range map[slog.Level]struct {
		level hclog.Level
		flags [5]bool
	}{
		levelTrace:          {hclog.Trace, [5]bool{true, true, true, true, true}},
		slog.LevelDebug:     {hclog.Debug, [5]bool{false, true, true, true, true}},
		slog.LevelInfo:      {hclog.Info, [5]bool{false, false, true, true, true}},
		slog.LevelWarn:      {hclog.Warn, [5]bool{false, false, false, true, true}},
		slog.LevelError:     {hclog.Error, [5]bool{false, false, false, false, true}},
		slog.LevelError + 1: {hclog.Off, [5]bool{}},
	} {
		l, _ := logTo(level)
		l.SetLevel(hclog.Trace)
		if got := [5]bool{l.IsTrace(), l.IsDebug(), l.IsInfo(), l.IsWarn(), l.IsError()}; got != want.flags || l.GetLevel() != want.level {
			t.Errorf("level %v: got %v, %v; want %v, %v", level, l.GetLevel(), got, want.level, want.flags)
		}
	}
}

// Ensures that lines written through the standard library's logger get the level they name.
func TestRaftLoggerStandard(t *testing.T) {
	l, out := logTo(slog.LevelDebug)
	l.StandardLogger(nil).Print("[WARN] as it is")
	infer := l.StandardLogger(&hclog.StandardLoggerOptions{InferLevels: true})
	infer.Print("[WARN] careful")
	infer.Print("[ERR] wrong")
	infer.Print("[what] is this")
	infer.Print("2026/01/02 [WARN] stamped")
	w := l.StandardWriter(&hclog.StandardLoggerOptions{InferLevels: true, InferLevelsWithTimestamp: true})
	fmt.Fprintln(w, "2026/01/02 [WARN] stamped")
	w = l.StandardWriter(&hclog.StandardLoggerOptions{ForceLevel: hclog.Error})
	if n, err := io.WriteString(w, "[DEBUG] forced\n"); n != 15 || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	wantLines(t, out, `level=DEBUG msg="[WARN] as it is" shard=3`, "level=WARN msg=careful shard=3", "level=ERROR msg=wrong shard=3",
		`level=DEBUG msg="[what] is this" shard=3`, `level=DEBUG msg="2026/01/02 [WARN] stamped" shard=3`,
		"level=WARN msg=stamped shard=3", "level=ERROR msg=forced shard=3")
}
