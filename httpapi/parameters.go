package httpapi

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/larder-cache/larder/directory"
	"github.com/larder-cache/larder/shard"
)

// maxTTL bounds a time to live. Longer ones are more likely a mistake in the unit than a wish.
const maxTTL = directory.MaxTTL

// Mode says what a node does with a key that another node serves.
type Mode string

const (
	// Forward serves it by asking the other node, one hop.
	Forward Mode = "forward"
	// Redirect answers 307 with the other node's address.
	Redirect Mode = "redirect"
	// Refuse answers 421 with the other node's name (?route=local).
	Refuse Mode = "local"
)

// query returns the request's parameters: each at most once, and only those that are allowed. An
// unknown one is refused, since the caller counts on an effect.
func query(r *http.Request, allowed ...string) (url.Values, error) {
	if r.URL.RawQuery == "" {
		return nil, nil
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, kindBadParameter.problem("The query is malformed: percent-encode what is not a letter or digit, separate by &.")
	}
	for name, given := range values {
		if !slices.Contains(allowed, name) {
			return nil, kindBadParameter.problem("%q is not a parameter of %s here%s.", name, r.Method, knownParameters(allowed))
		}
		if len(given) > 1 {
			return nil, kindBadParameter.problem("%q is given %d times.", name, len(given))
		}
	}
	return values, nil
}

func knownParameters(allowed []string) string {
	if len(allowed) == 0 {
		return ", there are none"
	}
	return ", these are: " + strings.Join(allowed, ", ")
}

// routeOf is the parameter route, byDefault when it is absent.
func routeOf(values url.Values, byDefault Mode) (Mode, error) {
	if !values.Has("route") {
		return byDefault, nil
	}
	switch mode := Mode(values.Get("route")); mode {
	case Forward, Redirect, Refuse:
		return mode, nil
	}
	return "", kindBadParameter.problem("route is %s, %s or %s.", Forward, Redirect, Refuse)
}

// defaultStaleness is how old a bounded read may be where the request does not say.
const defaultStaleness = 2 * time.Second

// readOf is the read that the parameters ask for.
func readOf(values url.Values) (shard.Request, error) {
	read := shard.Request{Op: shard.OpGet}
	refuse := func(format string, args ...any) (shard.Request, error) {
		return shard.Request{}, kindBadParameter.problem(format, args...)
	}
	if values.Has("touch") {
		v := values.Get("touch")
		if v != "true" && v != "false" {
			return refuse("touch is true or false.")
		}
		read.NoTouch = v == "false"
	}
	consistency := "linearizable"
	if values.Has("consistency") {
		consistency = values.Get("consistency")
	}
	switch consistency {
	case "linearizable":
	case "bounded":
		read.Consistency, read.MaxStaleness = shard.Bounded, defaultStaleness
	case "any":
		read.Consistency = shard.Any
	default:
		return refuse("consistency is linearizable, bounded or any.")
	}
	if values.Has("lease") && (values.Get("lease") != "never" || read.Consistency != shard.Linearizable) {
		return refuse("lease is never, or absent, and goes with linearizable reads.")
	}
	read.NoLease = values.Has("lease")
	if values.Has("max-staleness") {
		if read.Consistency != shard.Bounded {
			return refuse("max-staleness goes with consistency=bounded.")
		}
		d, err := time.ParseDuration(values.Get("max-staleness"))
		if err != nil || d <= 0 || d%time.Millisecond != 0 || d > maxStaleness {
			return refuse("max-staleness is a duration such as 2s, in whole milliseconds, at most %s.", maxStaleness)
		}
		read.MaxStaleness = d
	}
	if values.Has("fill") {
		if read.Consistency != shard.Linearizable {
			return refuse("fill goes with linearizable reads.")
		}
		d, err := time.ParseDuration(values.Get("fill"))
		if err != nil || d <= 0 || d%time.Millisecond != 0 || d > shard.MaxFill {
			return refuse("fill is a duration such as 5s, in whole milliseconds, at most %s.", shard.MaxFill)
		}
		read.Fill = d
	}
	return read, nil
}

// maxStaleness bounds max-staleness: whoever takes more takes any age.
const maxStaleness = 24 * time.Hour

// ttlOf is the time to live that a write asks for with ttl or with Cache-Control: max-age, 0 for none: ttl=none
// asks for none whatever the default is. byDefault tells that it asks for nothing and gets the default. Other directives of Cache-Control speak to caches on the way and change
// nothing here.
func (s *server) ttlOf(values url.Values, h http.Header) (ttl time.Duration, byDefault bool, err error) {
	maxAge, given, err := maxAgeOf(h)
	switch {
	case err != nil:
		return 0, false, err
	case !values.Has("ttl") && given:
		return maxAge, false, nil
	case !values.Has("ttl"):
		return s.defaultTTL(), true, nil
	}
	if text := values.Get("ttl"); text != "none" {
		var why string
		if ttl, why = parseTTL(text); why != "" {
			return 0, false, kindBadParameter.problem("%s Leave it out, or take none, for an entry without end.", why)
		}
	}
	if given && ttl != maxAge {
		return 0, false, kindBadParameter.problem("ttl and Cache-Control: max-age differ. Give one.")
	}
	return ttl, false, nil
}

// parseTTL reads a time to live, or says in a sentence why it is none.
func parseTTL(text string) (ttl time.Duration, why string) {
	ttl, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return 0, "ttl is a duration with its unit, such as 60s, 1500ms or 1h30m."
	case ttl <= 0:
		return 0, "ttl is more than 0."
	case ttl > maxTTL:
		return 0, "ttl is at most " + maxTTL.String() + "."
	case ttl%time.Millisecond != 0:
		return 0, "ttl is whole milliseconds."
	}
	return ttl, ""
}

// maxAgeDirective matches what begins with the token max-age (RFC 9110 5.6.2), also where the rest is
// not as the grammar wants it: a time to live must not get lost over a space.
var maxAgeDirective = regexp.MustCompile("(?i)^max-age([^-!#$%&'*+.^_`|~0-9a-z]|$)")

// maxAgeOf is the max-age of a request's Cache-Control, and whether there is one.
func maxAgeOf(h http.Header) (age time.Duration, given bool, err error) {
	lines := h["Cache-Control"]
	if len(lines) == 0 {
		return 0, false, nil
	}
	for directive := range strings.SplitSeq(strings.Join(lines, ","), ",") {
		directive = strings.Trim(directive, " \t")
		if !maxAgeDirective.MatchString(directive) {
			continue
		}
		_, value, _ := strings.Cut(directive, "=")
		seconds, parseErr := strconv.ParseUint(value, 10, 63)
		switch {
		case parseErr != nil || len(directive) != len("max-age=")+len(value):
			return 0, false, kindBadHeader.problem("Cache-Control: max-age takes whole seconds, written as in max-age=60.")
		case seconds == 0:
			return 0, false, kindBadHeader.problem("Cache-Control: max-age is more than 0. DELETE the key instead.")
		case seconds > uint64(maxTTL/time.Second):
			return 0, false, kindBadHeader.problem("Cache-Control: max-age is at most %d.", maxTTL/time.Second)
		}
		d := time.Duration(seconds) * time.Second
		if given && d != age {
			return 0, false, kindBadHeader.problem("Cache-Control has two values for max-age.")
		}
		age, given = d, true
	}
	return age, given, nil
}

// Bounds of Larder-Timeout.
const (
	defaultTimeout = 5 * time.Second
	maxTimeout     = 60 * time.Second
)

// timeoutOf is how long the request may take, from its header Larder-Timeout.
func timeoutOf(h http.Header) (time.Duration, error) {
	lines := h["Larder-Timeout"]
	if len(lines) == 0 {
		return defaultTimeout, nil
	}
	d, err := time.ParseDuration(lines[0])
	if len(lines) > 1 || err != nil || d <= 0 || d > maxTimeout {
		return 0, kindBadHeader.problem("Larder-Timeout is one duration, more than 0 and at most %s, such as 5s.", maxTimeout)
	}
	return d, nil
}
