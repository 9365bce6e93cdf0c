package httpapi

import (
	"net/http"
	"strings"

	"github.com/larder-cache/larder/fsm"
)

// idempotencyKeyOf is the key under which a write is made once however often it is sent, "" for none. It comes
// as a string of structured fields (RFC 9651 3.3.3): in quotes, of printable ASCII, with \" and \\ for " and \.
func idempotencyKeyOf(h http.Header) (string, error) {
	lines := h["Idempotency-Key"]
	if len(lines) == 0 {
		return "", nil
	}
	text, ok := strings.CutPrefix(strings.Trim(lines[0], " "), `"`)
	var key strings.Builder
	for ok && text != `"` {
		if text == "" {
			ok = false
			break
		}
		c := text[0]
		if text = text[1:]; c == '\\' && (strings.HasPrefix(text, `"`) || strings.HasPrefix(text, `\`)) {
			c, text = text[0], text[1:]
		} else if c < ' ' || c > '~' || c == '"' || c == '\\' {
			ok = false
		}
		key.WriteByte(c)
	}
	if !ok || len(lines) > 1 || key.Len() == 0 || key.Len() > fsm.MaxIdempotencyKey {
		return "", kindBadHeader.problem(`Idempotency-Key is one string of 1 to %d printable characters in quotes, such as "8e03978e-40d5-43dd-bc93-6894a57f9324".`,
			fsm.MaxIdempotencyKey)
	}
	return key.String(), nil
}
