package httpapi

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxWait bounds how long a request may be held by the preference wait.
const maxWait = 60 * time.Second

// waitOf is how long the client prefers to wait (RFC 7240 4.3), at most maxWait, and 0 without that
// preference. Other preferences are ignored, as the RFC asks; a wait that can't be read is refused: a
// client that counts on it would ask again and again without a pause.
func waitOf(h http.Header) (time.Duration, error) {
	lines := h.Values("Prefer")
	if len(lines) == 0 {
		return 0, nil
	}
	preferences, ok := parsePreferences(strings.Join(lines, ","))
	if !ok {
		return 0, kindBadHeader.problem("Prefer is a list of preferences, as in wait=30, respond-async.")
	}
	for _, p := range preferences {
		if !strings.EqualFold(p.name, "wait") {
			continue
		}
		if p.value == "" || strings.Trim(p.value, "0123456789") != "" {
			return 0, kindBadHeader.problem("Prefer: wait takes whole seconds, as in wait=30.")
		}
		seconds, err := strconv.ParseUint(p.value, 10, 64)
		if err != nil || seconds > uint64(maxWait/time.Second) { // digits alone fail only by being too many
			return maxWait, nil
		}
		return time.Duration(seconds) * time.Second, nil // of several the first counts
	}
	return 0, nil
}

// preference is one preference of a Prefer header, without its parameters. Value is "" also where
// there is none: RFC 7240 2 makes no difference.
type preference struct{ name, value string }

// parsePreferences parses the value of Prefer (RFC 7240 2):
//
//	Prefer     = preference *( "," preference )        with empty elements, as in any list
//	preference = parameter *( ";" [ parameter ] )
//	parameter  = token [ "=" ( token / quoted-string ) ]
//
// with spaces allowed around "=", ";" and ",". ok is false where s is something else.
func parsePreferences(s string) (list []preference, ok bool) {
	for {
		s = strings.TrimLeft(s, " \t,")
		if s == "" {
			return list, true
		}
		var p preference
		if p.name, p.value, s, ok = cutParameter(s); !ok {
			return nil, false
		}
		list = append(list, p)
		for strings.HasPrefix(s, ";") {
			s = strings.TrimLeft(s[1:], " \t")
			if s == "" || s[0] == ';' || s[0] == ',' {
				continue
			}
			if _, _, s, ok = cutParameter(s); !ok {
				return nil, false
			}
		}
		if s != "" && s[0] != ',' {
			return nil, false
		}
	}
}

// cutParameter cuts a parameter and the spaces behind it off the front of s.
func cutParameter(s string) (name, value, rest string, ok bool) {
	name, rest = cutToken(s)
	if name == "" {
		return "", "", "", false
	}
	rest = strings.TrimLeft(rest, " \t")
	after, found := strings.CutPrefix(rest, "=")
	if !found {
		return name, "", rest, true
	}
	after = strings.TrimLeft(after, " \t")
	if strings.HasPrefix(after, `"`) {
		value, rest, ok = cutQuoted(after)
	} else {
		value, rest = cutToken(after)
		ok = value != ""
	}
	return name, value, strings.TrimLeft(rest, " \t"), ok
}

// cutToken cuts the token (RFC 9110 5.6.2) off the front of s, "" where there is none.
func cutToken(s string) (token, rest string) {
	end := strings.IndexFunc(s, func(c rune) bool {
		return (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && !strings.ContainsRune("!#$%&'*+-.^_`|~", c)
	})
	if end < 0 {
		end = len(s)
	}
	return s[:end], s[end:]
}

// cutQuoted cuts the quoted string (RFC 9110 5.6.4) off the front of s, which begins with its quote.
func cutQuoted(s string) (text, rest string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:], true
		case c == '\\':
			i++
			if i == len(s) {
				return "", "", false
			}
			b.WriteByte(s[i])
		case c < ' ' && c != '\t' || c == 0x7f:
			return "", "", false
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}
