package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// maxJSONBody bounds the JSON body of a change to the cluster, bytes.
const maxJSONBody = 4 << 10

// readBody reads the body within the deadline, and refuses one of more than limit bytes with tooLarge.
func readBody(w http.ResponseWriter, r *http.Request, limit int64, deadline time.Time, tooLarge *Problem) ([]byte, error) {
	if r.ContentLength > limit {
		// net/http takes in the rest of a short body after the answer, however long that takes.
		deadline = time.Now().Add(lingerTime)
	}
	// Not every ResponseWriter is a connection; one that isn't does not stall either. net/http sets
	// the connection's deadline anew before the next request.
	if err := http.NewResponseController(w).SetReadDeadline(deadline); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, kindMalformed.problem("The body could not be read: %v.", err).hangingUp()
	}
	if r.ContentLength > limit {
		return nil, tooLarge.hangingUp()
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	switch {
	case int64(len(body)) > limit:
		return nil, tooLarge.hangingUp()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, kindBodyTimeout.problem("Only %d bytes of the body came in time. Larder-Timeout allows more.", len(body)).hangingUp()
	case err != nil:
		return nil, kindMalformed.problem("The body could not be read: %v.", err).hangingUp()
	}
	return body, nil
}

// noBody refuses a request that has a body where none is asked for: it was meant for something.
func noBody(w http.ResponseWriter, r *http.Request, deadline time.Time) error {
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	_, err := readBody(w, r, 0, deadline, kindBadBody.problem("This request takes no body."))
	return err
}

// checkJSONType accepts a body without a Content-Type, one of JSON, and of the other types that are named.
// "Content-Type: text/plain" or a form's would be a client that is about to send something else.
func checkJSONType(h http.Header, others ...string) error {
	if len(h.Values("Content-Encoding")) > 0 {
		return kindContentEncoding.problem("Content-Encoding is not understood here. Send the JSON plain.")
	}
	lines := h.Values("Content-Type")
	switch len(lines) {
	case 0:
		return nil
	case 1:
	default:
		return kindBadHeader.problem("Content-Type is given %d times.", len(lines))
	}
	mediaType, parameters, err := mime.ParseMediaType(lines[0])
	if err == nil && (mediaType == "application/json" || slices.Contains(others, mediaType)) {
		charset, given := parameters["charset"]
		if len(parameters) == 0 || len(parameters) == 1 && given && strings.EqualFold(charset, "utf-8") {
			return nil
		}
	}
	types := strings.Join(append(others, "application/json"), " or ")
	return kindMediaType.problem("The body is JSON: send it with Content-Type: %s.", types)
}

// parseLeader takes the node's id out of {"node":"b"}.
func parseLeader(body []byte) (string, error) {
	token, ok := soleMember(body, "node")
	if node, isString := token.(string); ok && isString && node != "" {
		return node, nil
	}
	return "", kindBadBody.problem(`The body is a JSON object with the one member node, the id of a node: {"node":"b"}.`)
}

// soleMember returns the scalar value of the one member of a JSON object. encoding/json by itself would take
// other members, other spellings of this one, and the last of several.
func soleMember(body []byte, name string) (value json.Token, ok bool) {
	if !utf8.Valid(body) || !json.Valid(body) {
		return nil, false
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	for _, want := range []json.Token{json.Delim('{'), name} {
		if token, err := decoder.Token(); err != nil || token != want {
			return nil, false
		}
	}
	value, err := decoder.Token()
	if _, nested := value.(json.Delim); err != nil || nested {
		return nil, false
	}
	if token, err := decoder.Token(); err != nil || token != json.Delim('}') {
		return nil, false
	}
	_, err = decoder.Token()
	return value, err == io.EOF
}
