package ingest

import (
	"net/http"
	"strings"

	"github.com/bondmate/backend/pkg/edge"
	"github.com/bondmate/backend/pkg/fault"
)

// realtimePath is where sockets open. Its operation is documented with the others and
// served by another role.
const realtimePath = "/api/realtime"

// mounted leads to the router, and to what other packages serve in this process. Those are
// counted, logged and recovered like the rest; they authenticate and validate themselves.
func (s *Server) mounted(cfg Config, router http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		exchangeOf(r.Context()).request = r // with the client that the edge has found
		path := r.URL.Path
		switch {
		case outdated(r, cfg.MinAppVersion):
			s.writeProblem(w, r, fault.New(fault.Invalid, "upgrade_required", "This version of the app is no longer served: please update it."))
		case cfg.Realtime != nil && path == realtimePath:
			exchangeOf(r.Context()).route = realtimePath
			cfg.Realtime.ServeHTTP(w, r)
		case cfg.Demo != nil && (path == "/demo" || strings.HasPrefix(path, "/demo/")):
			exchangeOf(r.Context()).route = "/demo" // one label for all of its files
			cfg.Demo.ServeHTTP(&plainRefusals{ResponseWriter: w, refuse: func(status int) {
				s.refusePlainly(w, r, status)
			}}, r)
		case cfg.Console != nil && consolePath(path):
			s.serveConsole(w, r)
		case r.Method == http.MethodHead:
			get := *r // the server leaves out the body of the answer
			get.Method = http.MethodGet
			router.ServeHTTP(w, &get)
		default:
			router.ServeHTTP(w, r)
		}
	})
}

// outdated reports whether an app says that it is older than what is served. One that says
// nothing, or nothing that can be read, is served: it could be any client. Health is for all.
func outdated(r *http.Request, least edge.Version) bool {
	said := r.Header.Get("X-App-Version")
	if said == "" || least.IsZero() || !strings.HasPrefix(r.URL.Path, "/api/") || r.URL.Path == "/api/health" {
		return false
	}
	version, err := edge.ParseVersion(said)
	return err == nil && version.Compare(least) < 0
}

func (s *Server) refusePlainly(w http.ResponseWriter, r *http.Request, status int) {
	if status == http.StatusMethodNotAllowed {
		s.writeProblem(w, r, methodNotAllowed()) // Allow is set already
		return
	}
	s.writeProblem(w, r, noSuchPath())
}

// plainRefusals turns the text that http.ServeMux and http.FileServer refuse with into a
// problem document.
type plainRefusals struct {
	http.ResponseWriter
	refuse  func(status int)
	refused bool
}

// WriteHeader implements http.ResponseWriter.
func (w *plainRefusals) WriteHeader(status int) {
	if status == http.StatusNotFound || status == http.StatusMethodNotAllowed {
		w.refused = true
		w.refuse(status)
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *plainRefusals) Write(b []byte) (int, error) {
	if w.refused {
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}
