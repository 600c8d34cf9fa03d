package service

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// The limits of every server: a client that dawdles holds a connection, no longer than
// this. A hijacked connection (WebSocket) is free of them.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second
	writeTimeout      = 30 * time.Second // above the longest wait that a client may ask for
	idleTimeout       = 90 * time.Second
	maxHeaderBytes    = 32 << 10
	// maxStreams is what one HTTP/2 connection may ask at once. A client that resets what it
	// asked gets no more of it: four times as much waiting closes the connection.
	maxStreams = 100
	// An HTTP/2 connection that says nothing is asked whether it lives, and one that takes
	// nothing of what is written to it ends.
	pingAfter   = 30 * time.Second
	pingWithin  = 10 * time.Second
	writeByByte = 15 * time.Second
	// answerWithin is how long requests in hand may take after the server stopped listening.
	answerWithin = 12 * time.Second
)

// Server serves HTTP on a listener that it owns.
type Server struct {
	listener net.Listener
	server   *http.Server
}

// Listen opens the listener, so that the port is known and taken before anything runs.
func Listen(ctx context.Context, addr string, handler http.Handler, log *slog.Logger) (*Server, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return &Server{listener, &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, SendPingTimeout: pingAfter, PingTimeout: pingWithin, WriteByteTimeout: writeByByte,
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}, nil
}

// UseTLS makes it an HTTPS server, with HTTP/2 where clients speak it. It is called before Run.
func (s *Server) UseTLS(settings *tls.Config) { s.server.TLSConfig = settings }

// CountConnections keeps the number of open connections in the gauge; those that became
// WebSockets count no longer. It is called before Run.
func (s *Server) CountConnections(open prometheus.Gauge) {
	s.server.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Inc()
		case http.StateClosed, http.StateHijacked:
			open.Dec()
		case http.StateActive, http.StateIdle:
		}
	}
}

// Addr returns the address that it listens on.
func (s *Server) Addr() *net.TCPAddr { return s.listener.Addr().(*net.TCPAddr) }

// Close closes the listener of a server that never ran.
func (s *Server) Close() error { return s.listener.Close() }

// Run serves until ctx ends, then answers the requests in hand and returns.
func (s *Server) Run(ctx context.Context) error {
	failed := make(chan error, 1)
	go func() {
		if s.server.TLSConfig != nil {
			failed <- s.server.ServeTLS(s.listener, "", "")
			return
		}
		failed <- s.server.Serve(s.listener)
	}()
	select {
	case err := <-failed:
		return fmt.Errorf("serve %s: %w", s.listener.Addr(), err)
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerWithin)
	defer cancel()
	if err := s.server.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("answer requests in hand: %w", err), s.server.Close())
	}
	return nil
}

// AdminHandler serves operators: /metrics, /live, /ready and /debug/pprof/. It has no
// authentication, so its port must not be reachable from outside.
func AdminHandler(metrics prometheus.Gatherer, ready *Readiness) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]any{"alive": true})
	})
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) {
		status, parts := http.StatusOK, map[string]string{}
		for name, err := range ready.Status(r.Context()) {
			parts[name] = "ready"
			if err != nil {
				parts[name] = err.Error()
				status = http.StatusServiceUnavailable
			}
		}
		answer(w, status, map[string]any{"ready": status == http.StatusOK, "parts": parts})
	})
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone: nobody to tell
}
