package shard

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// levelTrace is below slog.LevelDebug, as hclog.Trace is below hclog.Debug.
const levelTrace = slog.LevelDebug - 4

// leadershipLines are the lines of hashicorp/raft (raft.go) that say who leads. They alone stay at
// Info; the rest of what it logs there is of use only to who debugs it.
var leadershipLines = []string{"entering leader state", "entering follower state"}

// peerLossLines begin the lines of hashicorp/raft (raft.go, replication.go) about a peer that does not
// answer. It logs them as errors, for each group and each try; to a node that hosts many groups a lost
// peer is ordinary life, which the link tells once.
var peerLossLines = []string{"failed to heartbeat to", "failed to appendEntries to", "failed to make requestVote RPC"}

// raftLogger hands what hashicorp/raft logs to slog. The level belongs to the slog handler:
// SetLevel does nothing.
type raftLogger struct {
	log     *slog.Logger // carries implied
	name    string
	implied []any
}

var _ hclog.Logger = (*raftLogger)(nil)

// newRaftLogger returns a logger for the Raft instance, stores and snapshots of a shard.
func newRaftLogger(log *slog.Logger, shard ID) hclog.Logger {
	log = log.With("shard", uint64(shard))
	return &raftLogger{log: log}
}

// Log implements hclog.Logger.
func (l *raftLogger) Log(level hclog.Level, msg string, args ...any) {
	to, ok := slogLevel(level, msg)
	if !ok || !l.log.Enabled(context.Background(), to) {
		return
	}
	if l.name != "" {
		msg = l.name + ": " + msg
	}
	l.log.Log(context.Background(), to, msg, attributes(args)...)
}

// slogLevel maps a level; false means that nothing is to be logged.
func slogLevel(level hclog.Level, msg string) (slog.Level, bool) {
	switch level {
	case hclog.Trace:
		return levelTrace, true
	case hclog.Debug:
		return slog.LevelDebug, true
	case hclog.Warn:
		if msg == "failed to contact" { // one peer, again and again; that a quorum is lost is another line
			return slog.LevelDebug, true
		}
		return slog.LevelWarn, true
	case hclog.Error:
		if slices.ContainsFunc(peerLossLines, func(line string) bool { return strings.HasPrefix(msg, line) }) {
			return slog.LevelDebug, true
		}
		return slog.LevelError, true
	case hclog.Off:
		return 0, false
	default: // Info, NoLevel
		if slices.Contains(leadershipLines, msg) {
			return slog.LevelInfo, true
		}
		return slog.LevelDebug, true
	}
}

// attributes turns key-value pairs into attributes. Values become text now, as hclog would print
// them: raft hands in itself and other things that change, and that JSON would spell out.
func attributes(args []any) []any {
	if len(args)%2 != 0 {
		args = append(slices.Clone(args[:len(args)-1]), "extra", args[len(args)-1])
	}
	attrs := make([]any, 0, len(args)/2)
	for i := 0; i < len(args); i += 2 {
		key, ok := args[i].(string)
		if !ok {
			key = fmt.Sprint(args[i])
		}
		if key == "error" {
			key = "err"
		}
		attrs = append(attrs, slog.Any(key, printable(args[i+1])))
	}
	return attrs
}

func printable(value any) any {
	switch v := value.(type) {
	case hclog.Format:
		if len(v) == 0 {
			return ""
		}
		return fmt.Sprintf(fmt.Sprint(v[0]), v[1:]...)
	case hclog.Hex:
		return fmt.Sprintf("0x%x", int(v))
	case hclog.Octal:
		return fmt.Sprintf("0%o", int(v))
	case hclog.Binary:
		return fmt.Sprintf("0b%b", int(v))
	case hclog.Quote:
		return string(v) // the slog handler quotes where its format asks for it
	case error, fmt.Stringer:
		return fmt.Sprint(v) // survives a nil pointer, unlike a call
	case nil, bool, string, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, float32, float64:
		return v
	default:
		return fmt.Sprintf("%v", v)
	}
}

func (l *raftLogger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }
func (l *raftLogger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l *raftLogger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l *raftLogger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *raftLogger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *raftLogger) enabled(level slog.Level) bool {
	return l.log.Enabled(context.Background(), level)
}

func (l *raftLogger) IsTrace() bool { return l.enabled(levelTrace) }
func (l *raftLogger) IsDebug() bool { return l.enabled(slog.LevelDebug) }
func (l *raftLogger) IsInfo() bool  { return l.enabled(slog.LevelInfo) }
func (l *raftLogger) IsWarn() bool  { return l.enabled(slog.LevelWarn) }
func (l *raftLogger) IsError() bool { return l.enabled(slog.LevelError) }

// GetLevel returns the lowest level that the handler takes.
func (l *raftLogger) GetLevel() hclog.Level {
	switch {
	case l.IsTrace():
		return hclog.Trace
	case l.IsDebug():
		return hclog.Debug
	case l.IsInfo():
		return hclog.Info
	case l.IsWarn():
		return hclog.Warn
	case l.IsError():
		return hclog.Error
	}
	return hclog.Off
}

// SetLevel does nothing: the slog handler decides.
func (l *raftLogger) SetLevel(hclog.Level) {}

// ImpliedArgs returns the pairs given to With.
func (l *raftLogger) ImpliedArgs() []any { return slices.Clone(l.implied) }

// With returns a logger that adds args to each line.
func (l *raftLogger) With(args ...any) hclog.Logger {
	return &raftLogger{
		log:     l.log.With(attributes(args)...),
		name:    l.name,
		implied: append(slices.Clone(l.implied), args...),
	}
}

func (l *raftLogger) Name() string { return l.name }

// Named returns a logger whose lines begin with this logger's name and name.
func (l *raftLogger) Named(name string) hclog.Logger {
	if l.name != "" {
		name = l.name + "." + name
	}
	return l.ResetNamed(name)
}

// ResetNamed returns a logger whose lines begin with name.
func (l *raftLogger) ResetNamed(name string) hclog.Logger {
	named := *l
	named.name = name
	return &named
}

// StandardLogger returns a logger whose lines come here.
func (l *raftLogger) StandardLogger(opts *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(opts), "", 0)
}

// StandardWriter returns a writer each of whose writes is one line.
func (l *raftLogger) StandardWriter(opts *hclog.StandardLoggerOptions) io.Writer {
	if opts == nil {
		opts = &hclog.StandardLoggerOptions{}
	}
	return &lineWriter{l, *opts}
}

// lineWriter logs at the level that the options force or, when they say so, at the one that a line
// begins with in brackets, else at Info.
type lineWriter struct {
	log  *raftLogger
	opts hclog.StandardLoggerOptions
}

func (w *lineWriter) Write(p []byte) (int, error) {
	line := strings.TrimRight(string(p), " \t\r\n")
	level := hclog.Info
	if w.opts.InferLevels || w.opts.ForceLevel != hclog.NoLevel {
		level, line = splitLevel(line, w.opts.InferLevelsWithTimestamp)
	}
	if w.opts.ForceLevel != hclog.NoLevel {
		level = w.opts.ForceLevel
	}
	w.log.Log(level, line)
	return len(p), nil
}

// splitLevel takes "[WARN] text" apart; what stands before the bracket is dropped as a timestamp
// when it is to be expected.
func splitLevel(line string, timestamp bool) (hclog.Level, string) {
	open := strings.IndexByte(line, '[')
	end := strings.IndexByte(line, ']')
	if open < 0 || end < open || (open > 0 && !timestamp) {
		return hclog.Info, line
	}
	word := strings.ToLower(line[open+1 : end])
	if word == "err" {
		word = "error"
	}
	level := hclog.LevelFromString(word)
	if level == hclog.NoLevel {
		return hclog.Info, line
	}
	return level, strings.TrimSpace(line[end+1:])
}
