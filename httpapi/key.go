package httpapi

import (
	"net/http"
	"net/url"
	"strings"
)

// maxKeyBytes bounds a key, percent-decoded.
const maxKeyBytes = 1024

// keyAfter returns the key that follows prefix in the request's path. A key is any bytes: what
// follows is taken as the client encoded it and decoded once, so "//", "..", "%2F", "+" and "%00"
// reach the cache as what they are, and nothing on the way may clean the path.
func keyAfter(r *http.Request, prefix string) ([]byte, error) {
	escaped, ok := strings.CutPrefix(r.URL.EscapedPath(), prefix)
	if !ok {
		return nil, kindUnknownPath.problem("Keys are under %s.", prefix)
	}
	key, err := url.PathUnescape(escaped)
	if err != nil {
		return nil, kindBadKey.problem("The key's percent-encoding is malformed.")
	}
	switch {
	case key == "":
		return nil, kindBadKey.problem("The key is empty: put 1 to %d bytes after %s.", maxKeyBytes, prefix)
	case len(key) > maxKeyBytes:
		return nil, kindKeyTooLong.problem("The key has %d bytes, %d are allowed.", len(key), maxKeyBytes)
	}
	return []byte(key), nil
}
