package shard

import (
	"testing"
	"time"
)

// TestTTLAfterOutage ensures that a leader does not serve after an outage before it knows the clocks of others, and that what is
// stored then lives for its time.
func TestTTLAfterOutage(t *testing.T) {
	inBubble(t, 3, neverCheck, func(c *cluster) {
		c.mustPut(c.leader(), "other", "v")
		for _, n := range c.names {
			c.crash(n)
		}
		time.Sleep(time.Minute)
		c.net.DropWhen(func(from, to string, frame []byte) bool { return frame[0] == framePing })
		for _, n := range c.names {
			c.start(n)
		}
		time.Sleep(5 * time.Second)
		led := false
		for _, h := range c.hosts {
			s := h.Group(testShard).Status()
			led = led || s.Role == RoleLeader
			if s.Ready {
				t.Error("a leader is ready and knows no time of day")
			}
		}
		if !led {
			t.Error("nobody leads: this proves nothing")
		}
		c.net.DropWhen(nil)
		l := c.leader()
		c.putTTL(l, "k", 10*time.Second)
		began, clock := time.Now(), c.stats(l).Clock
		c.until("it ends", func() bool {
			l = c.leader()
			r, err := get(l, "k")
			return err == nil && !r.Found
		})
		if lived := time.Since(began); lived < 9*time.Second {
			t.Errorf("a time to live of 10 s ended after %v; the log clock was %v behind", lived, time.Duration(began.UnixMilli()-int64(clock))*time.Millisecond)
		}
	})
}
