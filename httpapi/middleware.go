package httpapi

import (
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"time"
)

// recorder notes what is answered, for metrics and logs.
type recorder struct {
	http.ResponseWriter
	route  string
	status int // 0 until the header is written
}

// recorders are kept for further requests: none is referred to once its request is answered.
var recorders = sync.Pool{New: func() any { return new(recorder) }}

// Unwrap lets http.ResponseController reach the connection.
func (rec *recorder) Unwrap() http.ResponseWriter { return rec.ResponseWriter }

func (rec *recorder) WriteHeader(status int) {
	if rec.status == 0 {
		rec.status = status
	}
	rec.ResponseWriter.WriteHeader(status)
}

func (rec *recorder) Write(p []byte) (int, error) {
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	return rec.ResponseWriter.Write(p)
}

// setRoute notes the route's template. Every handler runs below observe.
func setRoute(w http.ResponseWriter, template string) { w.(*recorder).route = template }

// routeLabel is what setRoute noted.
func routeLabel(w http.ResponseWriter) string { return w.(*recorder).route }

// observe measures and logs each request, and turns a panic into a 500: the node and the other
// requests go on. What the panicking one did is unknown.
func (s *server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := recorders.Get().(*recorder)
		*rec = recorder{ResponseWriter: w, route: "unknown"}
		s.metrics.inFlight.Inc()
		defer func() {
			reason := recover()
			if reason != nil && reason != http.ErrAbortHandler {
				s.cfg.Log.Error("request handler panicked",
					"method", r.Method, "route", rec.route, "panic", reason, "stack", string(debug.Stack()))
				if rec.status == 0 {
					k := kindInternalWrite
					if isRead(r) {
						k = kindInternalRead
					}
					clear(w.Header())
					k.problem("The node failed while it served this request. Its log says more.").hangingUp().write(rec)
					reason = nil
				} else {
					// Half an answer is out. Only a cut connection tells the client so.
					reason = http.ErrAbortHandler
				}
			}
			s.metrics.inFlight.Dec()
			took := time.Since(start)
			s.metrics.observe(rec.route, r.Method, rec.status, took)
			if s.cfg.Log.Enabled(r.Context(), slog.LevelDebug) {
				s.cfg.Log.Debug("request", "method", r.Method, "route", rec.route, "status", rec.status, "took", took)
			}
			*rec = recorder{}
			recorders.Put(rec)
			if reason != nil {
				panic(reason)
			}
		}()
		next.ServeHTTP(rec, r)
	})
}
