package ingest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/mux"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/ingest/admin"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
)

// exchange is one request with its answer, as the middlewares and handlers come to know
// it. It belongs to the request's goroutine.
type exchange struct {
	id      string // X-Request-Id
	route   string // template; "unmatched" until the router has found one
	arrived time.Time
	request *http.Request
	writer  http.ResponseWriter // the outermost: it reaches the connection
	caller  identity.Identity   // zero on public routes, and when a server calls
	cookie  bool                // the caller is known by the console's cookie
	server  *admin.KeyHolder    // who calls with an API key; nil: nobody does
	// standing is what the caller's session is worth: as of this call on routes whose answers
	// are cached, elsewhere a little old; zero where nobody is signed in.
	standing accounts.Standing
	body     any    // the decoded and validated body, nil when none came
	code     string // of the problem that was answered
	cause    error  // the error behind it
}

type exchangeKey struct{}

// exchangeOf returns the request's exchange. Every handler runs inside one.
func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

const maxRequestID = 128

// observed is the outermost middleware: it gives the request its id and deadline-free
// context, recovers, counts and logs.
func (s *Server) observed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{id: requestID(r), route: "unmatched", arrived: time.Now()}
		r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
		x.request = r
		w.Header().Set("X-Request-Id", x.id)
		rec := &statusRecorder{ResponseWriter: w}
		x.writer = rec
		s.metrics.inFlight.Inc()
		defer func() {
			if p := recover(); p != nil {
				s.recovered(rec, r, p)
			}
			s.metrics.inFlight.Dec()
			took := time.Since(x.arrived)
			s.metrics.observe(r, x, rec.code(), took)
			s.logAccess(r, x, rec.code(), took)
		}()
		next.ServeHTTP(rec, r)
	})
}

func (s *Server) recovered(rec *statusRecorder, r *http.Request, p any) {
	s.metrics.panics.Inc()
	err := fmt.Errorf("panic: %v", p)
	s.log.ErrorContext(r.Context(), "handler panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	if rec.status == 0 {
		s.writeProblem(rec, r, err)
	}
}

// logAccess writes the access log: no query, no body, no token, no address.
func (s *Server) logAccess(r *http.Request, x *exchange, status int, took time.Duration) {
	if !s.rates.shown(x) {
		return
	}
	level := slog.LevelInfo
	attrs := []slog.Attr{
		slog.String("request_id", x.id),
		slog.String("method", r.Method),
		slog.String("route", x.route),
		slog.Int("status", status),
		slog.Duration("took", took),
	}
	if x.caller.UserID != uuid.Nil {
		attrs = append(attrs, slog.String("user_id", x.caller.UserID.String()))
	}
	if x.server != nil {
		attrs = append(attrs, slog.String("api_key_id", x.server.Actor.KeyID.String()))
	}
	if x.code != "" {
		attrs = append(attrs, slog.String("code", x.code))
	}
	if status >= http.StatusInternalServerError && x.cause != nil {
		level = slog.LevelError
		if fault.KindOf(x.cause) == fault.Unavailable {
			level = slog.LevelWarn
		}
		attrs = append(attrs, slog.Any("error", x.cause))
	}
	s.log.LogAttrs(r.Context(), level, "request", attrs...)
}

// requestID takes the caller's id when it is harmless to repeat and to log.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if id == "" || len(id) > maxRequestID {
		return uuid.NewString()
	}
	for i := range len(id) {
		if c := id[i]; c <= ' ' || c > '~' {
			return uuid.NewString()
		}
	}
	return id
}

// statusRecorder remembers the status.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (w *statusRecorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusRecorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Hijack gives the connection away for a WebSocket: what is observed ends with the
// handshake, and the socket is no request in flight.
func (w *statusRecorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil && w.status == 0 {
		w.status = http.StatusSwitchingProtocols
	}
	return conn, buffered, err
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusRecorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *statusRecorder) code() int {
	if w.status == 0 {
		return http.StatusOK
	}
	return w.status
}

// matched runs on every route of the document: it names the route, bounds the time, sheds,
// authenticates, limits and validates.
//
// The context that handlers get does not end when the client leaves: a query that is cut
// costs its connection, and a command half written leaves its caller in the dark. Calls
// that wait look at the request's own context.
func (s *Server) matched(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := exchangeOf(r.Context())
		op := s.document.operationOf(r)
		if op == nil {
			s.writeProblem(w, r, errors.New("route is not in the document"))
			return
		}
		x.route = op.template
		op.apply(x.writer)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), op.timeout)
		defer cancel()
		r = r.WithContext(ctx)
		// Before anything is spent on it.
		if err := s.shedding.admit(op.conduct.rank, op.command); err != nil {
			s.writeProblem(w, r, err)
			return
		}
		// Before anything of the request is looked at: to who may not call it does not matter
		// what a call of theirs would have done.
		if op.permission.Least != 0 {
			err := s.identify(r, op)
			if fault.KindOf(err) == fault.Unauthenticated {
				// Whoever has shown nothing that is good is nobody, and counts by address as
				// such. One who has is served all the same, however many others try from there.
				if limited := s.limited(w, r, anonymous); limited != nil {
					err = limited
				}
			}
			if err != nil {
				s.writeProblem(w, r, err)
				return
			}
		}
		if err := s.limited(w, r, op.conduct.class); err != nil {
			s.writeProblem(w, r, err)
			return
		}
		r, err := s.permit(r, op.permission)
		if err == nil {
			err = s.renewCookie(w, r)
		}
		if err == nil {
			r, err = op.validate(w, r)
		}
		// The body came at the client's pace, within the server's time for that: the work has
		// its own.
		ctx, cancel = context.WithTimeout(context.WithoutCancel(r.Context()), op.timeout)
		defer cancel()
		r = r.WithContext(ctx)
		if err == nil && op.permission.ForOperators() {
			err = s.admin.TakeDown(r.Context(), op.permission, mux.Vars(r))
		}
		if err != nil {
			s.writeProblem(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}
