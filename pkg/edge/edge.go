// Package edge is what every public HTTP server of the program puts in front of its
// handlers: who the client is behind the proxies, which web pages may call, the security
// headers, the way to HTTPS, and compression.
//
// What it guarantees, and on what that rests:
//
//   - Nobody chooses their own address or scheme: X-Forwarded-* count only when the
//     connection comes from a trusted proxy, and are read from the right, where trusted
//     proxies append.
//   - Only listed origins read answers, and only they get credentials; a list that admits
//     every origin gives credentials to none.
//   - A request has few header lines, or goes no further.
//   - Nothing of it buffers, wraps or delays a connection that becomes a WebSocket.
//
// It starts no goroutine. Everything is safe for concurrent use.
package edge

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/unrolled/secure"
)

// Config is what a public server is told about its surroundings.
type Config struct {
	Origins Origins
	Proxies Proxies
	// RedirectToHTTPS sends plain requests to the same address over HTTPS, save for the
	// probes, which come from inside.
	RedirectToHTTPS bool
	// HSTS tells browsers that came over HTTPS to come that way for a year.
	HSTS       bool
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Edge wraps handlers.
type Edge struct {
	cfg     Config
	headers *secure.Secure
	refused *prometheus.CounterVec
}

// New returns an edge.
func New(cfg Config) (*Edge, error) {
	if cfg.Log == nil || cfg.Registerer == nil {
		return nil, errors.New("edge: log and registerer are required")
	}
	e := &Edge{cfg: cfg, headers: securityHeaders(cfg.HSTS), refused: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bondmate_http_origins_refused_total", Help: "Requests of web pages that are not on the allow list, by kind.",
	}, []string{"kind"})}
	if err := cfg.Registerer.Register(e.refused); err != nil {
		return nil, err
	}
	return e, nil
}

// Wrap puts the edge in front of a handler: the client first, since all else depends on it.
func (e *Edge) Wrap(next http.Handler) http.Handler {
	return fewHeaders(e.cfg.Proxies.resolve(e.redirect(e.secured(e.crossOrigin(next)))))
}

// maxHeaders is how many header lines a request may have. Browsers send about 20, proxies add
// some; their size is bounded by the server.
const maxHeaders = 100

// fewHeaders answers 431 as the server does for large ones.
func fewHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lines := 0
		for _, values := range r.Header {
			lines += len(values)
		}
		if lines > maxHeaders {
			w.Header().Set("Connection", "close")
			http.Error(w, "431 Request Header Fields Too Large", http.StatusRequestHeaderFieldsTooLarge)
			return
		}
		next.ServeHTTP(w, r)
	})
}

type clientKey struct{}

// ClientOf returns who sent a request. Outside of an edge it is who connected.
func ClientOf(r *http.Request) Client {
	if c, ok := r.Context().Value(clientKey{}).(Client); ok {
		return c
	}
	return Client{Addr: peer(r), HTTPS: r.TLS != nil}
}

func withClient(r *http.Request, c Client) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), clientKey{}, c))
}
