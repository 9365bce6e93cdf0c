package shard

import (
	"slices"
	"sync"
	"time"
)

// clockWindow is how long a measured clock counts after its node was last heard (R2).
const clockWindow = 5 * time.Second

// clocks knows what the wall clocks of other nodes showed, as measured by pings. Each is kept as it
// was and carried on by monotonic time, never relative to this node's wall clock: a step of that one
// would move them all.
type clocks struct {
	mu    sync.Mutex
	heard map[string]clockReading
}

type clockReading struct {
	millis int64     // Unix milliseconds
	at     time.Time // when it showed that (monotonic)
}

func newClocks() *clocks { return &clocks{heard: map[string]clockReading{}} }

func (c *clocks) observe(node string, millis int64, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard[node] = clockReading{millis, at}
}

// median returns the lower median of the wall clocks of self and of those voters that were heard
// lately, Unix milliseconds. One bad clock out of three moves nothing. known says whether these are
// a majority: of fewer, one bad clock could be the median, so they must not be used.
func (c *clocks) median(wall time.Time, self string, voters []string) (millis int64, known bool) {
	now := time.Now()
	walls := []int64{wall.UnixMilli()}
	c.mu.Lock()
	for _, v := range voters {
		if r, ok := c.heard[v]; ok && v != self && now.Sub(r.at) <= clockWindow {
			walls = append(walls, r.millis+now.Sub(r.at).Milliseconds())
		}
	}
	c.mu.Unlock()
	slices.Sort(walls)
	return walls[(len(walls)-1)/2], len(walls) > len(voters)/2
}

// stamper makes the stamps of a leader's log entries for one term (R2). Where the clocks are behind
// the log clock, or not known, time goes on at half speed: a TTL at most doubles, and time never
// stands still.
type stamper struct {
	wall func() (millis int64, known bool) // median, Unix milliseconds

	mu   sync.Mutex
	last uint64    // the log clock once all that was stamped is applied
	at   time.Time // when last was given (monotonic)
}

// newStamper begins at the log clock, which the machine has reached when a leader is ready.
func newStamper(wall func() (int64, bool), logClock uint64) *stamper {
	return &stamper{wall: wall, last: logClock, at: time.Now()}
}

func (s *stamper) nowLocked() uint64 {
	slow := s.last + uint64(max(time.Since(s.at), 0)/2/time.Millisecond)
	wall, known := s.wall()
	if !known || wall < 0 || uint64(wall) < slow { // also one that stands still
		return slow
	}
	return uint64(wall)
}

// peek is the stamp that an entry would get now: what is due is judged by it.
func (s *stamper) peek() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nowLocked()
}

// next gives out a stamp.
func (s *stamper) next() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.nowLocked(); t > s.last {
		// Keeps at where it is while the slow clock has not reached the next millisecond.
		s.last, s.at = t, time.Now()
	}
	return s.last
}
