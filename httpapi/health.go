package httpapi

import (
	"net/http"
	"strconv"
	"strings"
)

// live serves /livez: that it answers is the answer. It asks nothing of anybody, since a process
// that waits for a quorum is not cured by a restart.
func (s *server) live(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	writeText(w, http.StatusOK, "ok\n")
	return nil
}

// ready serves /readyz: one line per check, and 503 when one fails. It is text for a person and a
// status for a load balancer, so here alone a 503 has no problem body.
func (s *server) ready(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	status := http.StatusOK
	var text strings.Builder
	for _, check := range s.cfg.Directory.Ready() {
		mark, word := "[+]", "ok"
		if !check.OK {
			mark, word = "[-]", check.Detail
			status = http.StatusServiceUnavailable
		}
		text.WriteString(mark + check.Name + " " + word + "\n")
	}
	writeText(w, status, text.String())
	return nil
}

func writeText(w http.ResponseWriter, status int, text string) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	if status == http.StatusServiceUnavailable {
		h.Set("Retry-After", strconv.Itoa(retryAfter))
	}
	w.WriteHeader(status)
	w.Write([]byte(text)) // the client that doesn't hear it has gone
}
