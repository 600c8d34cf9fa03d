package realtime

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"

	"github.com/bondmate/backend/pkg/edge"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
)

// path is the only one that the handler knows.
const path = "/api/realtime"

// Handler serves GET /api/realtime. It needs a ResponseWriter that can be hijacked, so it
// must not be wrapped in anything that buffers, compresses or times out responses.
func (g *Gateway) Handler() http.Handler { return http.HandlerFunc(g.serve) }

func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) {
	if err := g.check(r); err != nil {
		g.refuse(w, r, err)
		return
	}
	select {
	case g.pending <- struct{}{}:
	default:
		g.refuse(w, r, overloaded())
		return
	}
	release := sync.OnceFunc(func() { <-g.pending })
	id, bearer, err := g.authenticate(r)
	if err != nil {
		release()
		g.refuse(w, r, err)
		return
	}
	conn, err := g.upgrader.Upgrade(w, r, http.Header{requestIDHeader: {requestID(w, r)}})
	if err != nil {
		release() // the upgrader has answered, or there is nobody to answer
		g.m.refused.WithLabelValues("handshake").Inc()
		return
	}
	s := &socket{
		g: g, conn: conn, done: make(chan struct{}),
		bearer: bearer, user: id.UserID, session: id.SessionID, expires: id.ExpiresAt,
	}
	if !g.start(s, release) {
		release()
		_ = conn.Close()
	}
}

// check refuses what can never become a socket here and now, before anything is spent on it.
func (g *Gateway) check(r *http.Request) error {
	offered := websocket.Subprotocols(r)
	switch {
	case r.URL.Path != path:
		return fault.New(fault.NotFound, "not_found", "There is nothing at this path.")
	case r.Method != http.MethodGet:
		return fault.New(fault.Invalid, "method_not_allowed", "Only GET opens a WebSocket.")
	case !websocket.IsWebSocketUpgrade(r):
		return fault.New(fault.Invalid, "upgrade_required", "This address speaks WebSocket.")
	case !g.originAllowed(r):
		return fault.New(fault.Forbidden, "forbidden", "This origin may not connect.")
	case len(offered) > 0 && !slices.Contains(offered, Subprotocol):
		return fault.New(fault.Invalid, "invalid_request", "The subprotocol is "+Subprotocol+".")
	case !g.admits():
		return overloaded()
	case g.cfg.Admit != nil:
		return g.cfg.Admit(r)
	}
	return nil
}

// overloaded asks to come again after a jittered second or more, since whoever is
// refused here is rarely alone.
func overloaded() error {
	return &fault.Error{
		Kind: fault.Unavailable, Code: "overloaded", Detail: "No socket can be opened now.",
		RetryAfter: time.Second + rand.N(4*time.Second),
	}
}

// authenticate reads the bearer token, if there is one. Without, the hello must hold a ticket.
func (g *Gateway) authenticate(r *http.Request) (id identity.Identity, bearer bool, err error) {
	if len(r.Header.Values("Authorization")) == 0 {
		return identity.Identity{}, false, nil
	}
	token, ok := edge.BearerToken(r)
	if !ok {
		return identity.Identity{}, false, fault.New(fault.Unauthenticated, "unauthenticated", "Send a bearer token.")
	}
	ctx, cancel := context.WithTimeout(r.Context(), g.cfg.ReadWithin)
	defer cancel()
	id, err = g.cfg.Verifier.Verify(ctx, token)
	return id, err == nil, err
}

// refuse answers without an upgrade, as the other routes do: with a problem document.
func (g *Gateway) refuse(w http.ResponseWriter, r *http.Request, err error) {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		g.cfg.Log.WarnContext(r.Context(), "socket refused", "error", err)
		f = fault.New(fault.Internal, "internal", "Something went wrong.")
	}
	g.m.refused.WithLabelValues(f.Code).Inc()
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((f.RetryAfter+time.Second-1)/time.Second)))
	}
	status := http.StatusInternalServerError
	switch f.Kind {
	case fault.Internal:
	case fault.Invalid:
		status = http.StatusBadRequest
		switch f.Code {
		case "method_not_allowed":
			status = http.StatusMethodNotAllowed
			w.Header().Set("Allow", http.MethodGet)
		case "upgrade_required":
			status = http.StatusUpgradeRequired
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "websocket")
		}
	case fault.Unauthenticated:
		status = http.StatusUnauthorized
		w.Header().Set("WWW-Authenticate", `Bearer realm="bondmate"`)
	case fault.Forbidden:
		status = http.StatusForbidden
	case fault.NotFound:
		status = http.StatusNotFound
	case fault.Conflict:
		status = http.StatusConflict
	case fault.Limited:
		status = http.StatusTooManyRequests
	case fault.Unavailable:
		status = http.StatusServiceUnavailable
	}
	writeProblem(w, r, status, f.Code, f.Detail)
}

type problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail,omitempty"`
	Code      string `json:"code"`
	RequestID string `json:"requestId"`
}

func writeProblem(w http.ResponseWriter, r *http.Request, status int, code, detail string) {
	id := requestID(w, r)
	w.Header().Set(requestIDHeader, id)
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(problem{
		Type: "urn:bondmate:problem:" + code, Title: strings.ToUpper(code[:1]) + strings.ReplaceAll(code[1:], "_", " "),
		Status: status, Detail: detail, Code: code, RequestID: id,
	})
}

const requestIDHeader = "X-Request-Id"

// requestID is the id that whoever serves this handler has given the request, or the
// caller's when it is harmless to repeat, or a new one.
func requestID(w http.ResponseWriter, r *http.Request) string {
	if id := w.Header().Get(requestIDHeader); id != "" {
		return id
	}
	id := r.Header.Get(requestIDHeader)
	if id == "" || len(id) > 128 || strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return uuid.NewString()
	}
	return id
}

// upgradeFailed answers what the upgrader refuses itself: a malformed handshake.
func upgradeFailed(w http.ResponseWriter, r *http.Request, status int, _ error) {
	w.Header().Set("Sec-WebSocket-Version", "13")
	code := "invalid_request"
	if status >= http.StatusInternalServerError {
		code = "internal"
	}
	writeProblem(w, r, status, code, "The WebSocket handshake is malformed.")
}

// originAllowed refuses pages of other sites: browsers let any page open a WebSocket to
// any host, and only this check keeps it from speaking for its visitor.
func (g *Gateway) originAllowed(r *http.Request) bool {
	values := r.Header.Values("Origin")
	switch {
	case len(values) == 0:
		return true
	case len(values) > 1:
		return false
	}
	return g.cfg.Origins.Admit(values[0]) || g.cfg.SameOrigin && edge.SameOrigin(r, values[0])
}
