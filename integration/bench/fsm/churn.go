package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"runtime/metrics"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/integration/bench/local"
	"github.com/larder-cache/larder/integration/bench/report"
)

// What is promised of memory under churn: RSS at most churnBar times the bound and a constant, which
// stands for the runtime, the program's code and what doesn't grow with the state.
const (
	churnBar      = 1.3
	churnConstant = 32 << 20
)

// cacheShare is the server's default for entries, as a part of its memory.
const cacheShare = 0.6

type churnConfig struct {
	Bound, Times uint64
	Share        float64 // of the process's memory, for its heap
}

// churn is what became of memory.
type churn struct {
	Phases  []churnPhase
	Peak    uint64 // highest RSS of all
	Written uint64
	Limit   int64 // of the heap
	GCShare float64
}

type churnPhase struct {
	Name    string
	Entries int
	Bytes   uint64 // as counted
	RSS     uint64 // at its end
}

// churnPhases are the sizes of values that follow each other, in turns.
var churnPhases = []struct {
	name string
	size func(rnd *rand.Rand, bound int) int
}{
	{"tiny values, 8 bytes", func(*rand.Rand, int) int { return 8 }},
	{"mixed sizes, Zipf, 16 B to 64 KiB", func(rnd *rand.Rand, _ int) int { return int(16 * math.Pow(4096, math.Pow(rnd.Float64(), 3))) }},
	{"large values, bound/2048 to bound/512", func(rnd *rand.Rand, bound int) int { return bound/2048 + rnd.IntN(bound/512-bound/2048) }},
	{"values of 100 bytes", func(*rand.Rand, int) int { return 100 }},
	{"mixed sizes, even, 1 B to 8 KiB", func(rnd *rand.Rand, _ int) int { return 1 + rnd.IntN(8<<10) }},
	{"values of 4 KiB", func(*rand.Rand, int) int { return 4 << 10 }},
}

// runChurn is the child's part. Its arguments are the bound, how many times it is written, and the limit
// of the heap.
func runChurn(words []string) (answer, error) {
	if len(words) != 3 {
		return answer{}, errors.New("want a bound, a number of times and a limit")
	}
	bound, _ := strconv.ParseUint(words[0], 10, 64)
	times, _ := strconv.ParseUint(words[1], 10, 64)
	limit, _ := strconv.ParseInt(words[2], 10, 64)
	c := &churn{Limit: limit}
	debug.SetMemoryLimit(c.Limit)
	s, err := newMachine(bound)
	if err != nil {
		return answer{}, err
	}
	collected, used := collecting(), cpuTime(unix.CLOCK_PROCESS_CPUTIME_ID)
	rnd := rand.New(rand.NewPCG(3, 4))
	var next uint64
	for turn := 0; c.Written < times*bound; turn++ {
		phase := churnPhases[turn%len(churnPhases)]
		for phaseEnd := c.Written + 2*bound; c.Written < phaseEnd; {
			commands, written := churnCommands(rnd, &next, func() int { return phase.size(rnd, int(bound)) })
			// An entry of the log is a buffer of its own, as it is where Raft hands it over.
			data, err := fsm.Batch{Level: 1, Commands: commands}.AppendBinary(nil)
			if err != nil {
				return answer{}, err
			}
			entry, err := fsm.DecodeBatch(data)
			if err != nil {
				return answer{}, err
			}
			if _, err := s.apply(entry); err != nil {
				return answer{}, err
			}
			c.Written += written
		}
		rss, err := local.Memory("self", "VmRSS")
		if err != nil {
			return answer{}, err
		}
		st := s.m.Stats()
		if st.Bytes > bound {
			return answer{}, fmt.Errorf("%d bytes are stored, the bound is %d", st.Bytes, bound)
		}
		c.Phases = append(c.Phases, churnPhase{Name: phase.name, Entries: st.Entries, Bytes: st.Bytes, RSS: rss})
	}
	c.GCShare = (collecting() - collected) / (cpuTime(unix.CLOCK_PROCESS_CPUTIME_ID) - used).Seconds()
	c.Peak, err = local.Memory("self", "VmHWM")
	return answer{Churn: c}, err
}

// churnBatch bounds the bytes of a log entry, and the puts in it.
const (
	churnBatch = 64 << 10
	churnPuts  = 32
)

// churnCommands makes a log entry's worth of commands, and tells what its puts cost. Most keys are new;
// some are written over, with another size, and a few are deleted.
func churnCommands(rnd *rand.Rand, next *uint64, size func() int) (commands []fsm.Command, written uint64) {
	key := func(id uint64) []byte {
		k := make([]byte, keySize)
		keyAt(k, id)
		return k
	}
	for bytes := 0; len(commands) < churnPuts && bytes < churnBatch; {
		id := *next
		if rnd.IntN(8) == 0 {
			id -= min(id, rnd.Uint64N(1000))
		} else {
			*next++
		}
		n := size()
		commands = append(commands, fsm.Command{Kind: fsm.KindPut, Key: key(id), Value: make([]byte, n)})
		bytes += n
		written += fsm.Cost(keySize, n, 0)
		if rnd.IntN(16) == 0 {
			commands = append(commands, fsm.Command{Kind: fsm.KindDelete, Key: key(*next - min(*next, rnd.Uint64N(5000)))})
		}
	}
	return commands, written
}

// churned is the parent's part.
func churned(ctx context.Context, cfg config, r *report.Report, status io.Writer) error {
	bound := cfg.churn.Bound
	fmt.Fprintf(status, "churn: %d times %d bytes\n", cfg.churn.Times, bound)
	p, err := startChild(ctx, "larder")
	if err != nil {
		return err
	}
	defer p.close()
	a, err := p.do("churn", bound, cfg.churn.Times, int64(float64(bound)/cacheShare*cfg.churn.Share))
	if err != nil {
		return err
	}
	mib := func(b uint64) string { return fmt.Sprintf("%.0f", float64(b)/(1<<20)) }
	var rows [][]string
	for _, ph := range a.Churn.Phases {
		rows = append(rows, []string{ph.Name, fmt.Sprint(ph.Entries), mib(ph.Bytes), mib(ph.RSS), fmt.Sprintf("%.2f", float64(ph.RSS)/float64(bound))})
	}
	r.Section("Memory under churn")
	r.Textf("A state bounded to %s MiB, in a process whose heap is limited to %s MiB, as by --memory-limit %g%% where cache-memory is %g %%."+
		" %s MiB are written in phases of twice the bound each, new keys mostly, with some overwritten and deleted; log entries "+
		"are encoded and decoded beside. RSS is the process's at the end of a phase. Garbage collection took %.1f %% of the CPU.",
		mib(bound), mib(uint64(a.Churn.Limit)), 100*cfg.churn.Share, 100*cacheShare, mib(a.Churn.Written), 100*a.Churn.GCShare)
	r.Table([]string{"phase", "entries", "counted, MiB", "RSS, MiB", "RSS / bound"}, rows)
	beyond := float64(a.Churn.Peak-min(a.Churn.Peak, churnConstant)) / float64(bound)
	r.Bar(beyond <= churnBar, fmt.Sprintf("highest RSS at most %g times the bound and %d MiB", churnBar, churnConstant>>20),
		fmt.Sprintf("%s MiB, %.2f times the bound, %.2f times beyond the constant", mib(a.Churn.Peak), float64(a.Churn.Peak)/float64(bound), beyond))
	return nil
}

// collecting is the CPU time that the collector has taken from the program so far, in seconds, by the runtime's own
// estimate; what it did while processors were idle is left out.
func collecting() (sum float64) {
	samples := []metrics.Sample{
		{Name: "/cpu/classes/gc/mark/assist:cpu-seconds"}, {Name: "/cpu/classes/gc/mark/dedicated:cpu-seconds"},
		{Name: "/cpu/classes/gc/pause:cpu-seconds"},
	}
	metrics.Read(samples)
	for _, s := range samples {
		sum += s.Value.Float64()
	}
	return sum
}
