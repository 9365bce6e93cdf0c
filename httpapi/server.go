package httpapi

import (
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"
)

// Config is what New needs.
type Config struct {
	// Node is this node's id.
	Node string
	// Data performs operations on keys.
	Data Data
	// Directory knows the cluster.
	Directory Directory
	// Admin changes the cluster.
	Admin Admin
	// Metrics is where the handler registers its own metrics, and what /metrics shows.
	Metrics *prometheus.Registry
	// Log gets one line per failure of ours, and per request at level debug. Never keys or values.
	Log *slog.Logger
	// MaxValueBytes bounds a value; 0 means 1 MiB.
	MaxValueBytes int64
	// MaxRequests bounds the requests on keys that are served at the same time; 0 means 8,192.
	MaxRequests int64
	// MaxBodyBytes bounds the bytes of values that are taken in at the same time; 0 means 256 MiB.
	MaxBodyBytes int64
	// Route is what the node does with keys of other nodes where the request doesn't say;
	// "" means Forward.
	Route Mode
}

func (c *Config) validate() error {
	switch {
	case c.Data == nil || c.Directory == nil || c.Admin == nil || c.Metrics == nil || c.Log == nil:
		return errors.New("httpapi: Data, Directory, Admin, Metrics and Log are required")
	case c.Node == "":
		return errors.New("httpapi: Node is empty")
	case c.MaxValueBytes < 0:
		return errors.New("httpapi: MaxValueBytes is negative")
	case c.Route != "" && c.Route != Forward && c.Route != Redirect:
		return errors.New("httpapi: Route is forward or redirect")
	}
	if c.MaxValueBytes == 0 {
		c.MaxValueBytes = 1 << 20
	}
	if c.MaxRequests == 0 {
		c.MaxRequests = defaultMaxRequests
	}
	if c.MaxBodyBytes == 0 {
		c.MaxBodyBytes = defaultMaxBody
	}
	if c.Route == "" {
		c.Route = Forward
	}
	return nil
}

// server answers requests. It has no state but its metrics and what it has in hand; all methods may
// run at once.
type server struct {
	cfg       Config
	metrics   *metrics
	admission admission
}

// New returns the handler of a node's REST interface. It registers metrics: once per registry.
func New(cfg Config) (http.Handler, error) {
	s, err := newServer(cfg)
	if err != nil {
		return nil, err
	}
	return s.observe(s.front(s.router())), nil
}

// front serves the keys itself, and leaves all other paths to next, the router. That one would find the keys, too: it
// looks for them first and by the same comparison, but at several times the price of what a read costs here.
func (s *server) front(next http.Handler) http.Handler {
	data := s.dispatch(s.dataRoute())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isData(r) {
			data.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isData reports whether the path of r is that of a key.
func isData(r *http.Request) bool { return strings.HasPrefix(r.URL.EscapedPath(), kvPrefix) }

func newServer(cfg Config) (*server, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	return &server{cfg: cfg, metrics: m, admission: admission{maxRequests: cfg.MaxRequests, maxBytes: cfg.MaxBodyBytes}}, nil
}

// handler answers a request, or returns why not: a *Problem, a redirection, or an error of the
// packages below. It has written nothing but headers when it returns one.
type handler func(w http.ResponseWriter, r *http.Request) error

// route is one resource: a path and its methods. The methods are told apart here and not by mux, so
// that a 405 always has its Allow.
type route struct {
	path    string // template, as mux has it; the label of metrics
	under   bool   // everything under path, which ends in "/"
	methods map[string]handler
}

// router finds the route. UseEncodedPath and SkipClean leave the path alone: mux would answer "//",
// ".." and "%2F" with a redirect to another key.
func (s *server) router() *mux.Router {
	router := mux.NewRouter().UseEncodedPath().SkipClean(true)
	for _, rt := range s.routes() {
		h := s.dispatch(rt)
		if rt.under {
			router.PathPrefix(rt.path).Handler(h)
		} else {
			router.Path(rt.path).Handler(h)
		}
	}
	router.NotFoundHandler = s.dispatch(route{path: "unknown"})
	return router
}

// dispatch serves rt: HEAD by GET, other methods that it lacks by 405, an unknown path by 404.
func (s *server) dispatch(rt route) http.Handler {
	if get, ok := rt.methods[http.MethodGet]; ok {
		rt.methods[http.MethodHead] = get
	}
	allow := strings.Join(slices.Sorted(maps.Keys(rt.methods)), ", ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setRoute(w, rt.path)
		h, ok := rt.methods[r.Method]
		switch {
		case rt.methods == nil:
			kindUnknownPath.problem("There is nothing under this path. Keys are under %s.", kvPrefix).write(w)
		case !ok:
			kindMethod.problem("This resource has the methods %s.", allow).with("Allow", allow).write(w)
		default:
			if err := h(w, r); err != nil {
				s.fail(w, r, err)
			}
		}
	})
}

// fail writes the answer for a handler's error.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var to redirection
	if errors.As(err, &to) {
		w.Header().Set("Location", string(to))
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusTemporaryRedirect)
		return
	}
	p := problemOf(err, isRead(r))
	if p.Status == http.StatusInternalServerError {
		s.cfg.Log.Error("request failed", "method", r.Method, "route", routeLabel(w), "err", err)
	}
	p.write(w)
}

// isRead reports whether the request can't change anything.
func isRead(r *http.Request) bool {
	return r.Method == http.MethodGet || r.Method == http.MethodHead
}
