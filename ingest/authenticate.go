package ingest

import (
	"context"
	"fmt"
	"net/http"

	"github.com/bondmate/backend/ingest/admin"
	"github.com/bondmate/backend/pkg/edge"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
)

// identify finds out who calls, by one of the ways to say so, and notes it in the exchange.
func (s *Server) identify(r *http.Request, op *operation) (err error) {
	x := exchangeOf(r.Context())
	keys := r.Header.Values("X-API-Key")
	if len(keys) == 0 {
		x.caller, err = s.authenticate(r, op.cached)
		return err
	}
	// Whoever is meant by two of them, a server on the way may have taken them for the other.
	if len(keys) > 1 || len(r.Header.Values("Authorization")) > 0 {
		return fault.New(fault.Invalid, "invalid_request", "Send one X-API-Key or one Authorization, not both.")
	}
	x.server, err = s.admin.IdentifyKey(r.Context(), keys[0], actorIn(r, identity.Identity{}))
	return err
}

// permit lets who calls into an operation, or not. Operators go in by name: their actor is
// in the context of the request that is returned.
func (s *Server) permit(r *http.Request, p *admin.Permission) (*http.Request, error) {
	x := exchangeOf(r.Context())
	var ctx context.Context
	var err error
	switch {
	case x.server != nil:
		ctx, err = s.admin.AdmitKey(r.Context(), p, x.server)
	case p.ForOperators():
		ctx, err = s.admin.Admit(r.Context(), p, x.caller.SessionID, actorIn(r, x.caller))
	default:
		return r, nil
	}
	return r.WithContext(ctx), err
}

// actorIn is who calls, as the activity log names them.
func actorIn(r *http.Request, caller identity.Identity) admin.Actor {
	return admin.Actor{UserID: caller.UserID, Address: edge.ClientOf(r).String(), Device: userAgent(r)}
}

// authenticate returns who calls with an access token or, from the operators' page, its
// cookie, and notes in the exchange what their session is worth. That is asked for apart from
// the token: a session can end before the token does, and a role or tier change. A read that
// may be answered from the cache is told as of now, others take an answer that is a little old.
func (s *Server) authenticate(r *http.Request, cached bool) (identity.Identity, error) {
	caller, err := s.proven(r)
	if err != nil {
		return identity.Identity{}, err
	}
	look := s.accounts.Standing
	if cached && s.cache != nil {
		look = s.accounts.StandingNow
	}
	ctx, cancel := context.WithTimeout(r.Context(), acquireTimeout)
	defer cancel()
	leave := s.db.line.join()
	standing, err := look(ctx, caller.SessionID)
	leave()
	if err != nil {
		return identity.Identity{}, fmt.Errorf("check session: %w", err)
	}
	if !standing.Active || standing.UserID != caller.UserID {
		return identity.Identity{}, fault.New(fault.Unauthenticated, "unauthenticated", "The session has ended.")
	}
	exchangeOf(r.Context()).standing = standing
	return caller, nil
}

// proven returns whom a request's access token speaks for or, for operators and without one,
// their page's cookie.
func (s *Server) proven(r *http.Request) (identity.Identity, error) {
	if s.cookieCounts(r) {
		return s.provenByCookie(r)
	}
	token, ok := edge.BearerToken(r)
	if !ok {
		return identity.Identity{}, fault.New(fault.Unauthenticated, "unauthenticated", "An access token is needed.")
	}
	return s.verifier.Verify(r.Context(), token)
}
