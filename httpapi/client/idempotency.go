package client

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
)

// idempotencyHeader is written in lower case, which means the same to a server. net/http, which knows it in its usual
// form alone, would else take each write without a body for one that it may send again by itself.
const idempotencyHeader = "idempotency-key"

// escapeKey makes a key a string of structured fields.
var escapeKey = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// maxRenewals is how often a call makes itself a new key after the cluster found the time in one wrong.
const maxRenewals = 2

// newKey is a key for the attempts of one call. It begins with the cluster's time, so that an attempt which comes too
// late to be recognised is refused rather than applied a second time.
func (c *Client) newKey() string {
	now := time.Now().Add(time.Duration(c.skew.Load()))
	return fmt.Sprintf("%d-%016x", now.UnixMilli(), rand.Uint64())
}

// learnTime learns how far the servers' clocks are ahead of ours at least, by an answer's Date. It was taken after the
// request began, and is told to the second.
func (c *Client) learnTime(h http.Header, began time.Time) {
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return
	}
	skew := time.Duration(0)
	if ahead := time.Until(date); ahead > 0 {
		skew = ahead
	} else if behind := date.Add(time.Second).Sub(began); behind < 0 {
		skew = behind
	}
	c.skew.Store(int64(skew))
}

// renew gives r a new key where the time in the one that it made itself was wrong, which its first use told. unknown is
// that an earlier attempt may have been applied under it.
func (c *Client) renew(r *request, e *Error, unknown bool, renewals *int) bool {
	if r.ownKey || unknown || *renewals >= maxRenewals || e.Type != tooOld && e.Type != tooNew {
		return false
	}
	*renewals++
	r.once = c.newKey()
	return true
}
