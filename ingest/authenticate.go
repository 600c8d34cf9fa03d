package ingest

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/bondmate/backend/ingest/admin"
	"github.com/bondmate/backend/pkg/edge"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
)

// apiKeyHeader is how servers say who they are.
const apiKeyHeader = "X-Api-Key" // as net/http spells it

// admitted lets a request through to an operation, with who calls in its exchange and, for
// operators, in its context; or not.
func (s *Server) admitted(r *http.Request, p *admin.Permission) (*http.Request, error) {
	if p.Least == 0 {
		return r, nil
	}
	x := exchangeOf(r.Context())
	actor := admin.Actor{Address: edge.ClientOf(r).String(), Device: userAgent(r)}
	if keys := r.Header.Values(apiKeyHeader); len(keys) > 0 {
		// Whoever is meant by two of them, a server on the way may have taken them for the other.
		if len(keys) > 1 || len(r.Header.Values("Authorization")) > 0 {
			return r, fault.New(fault.Invalid, "invalid_request", "Send one X-API-Key or one Authorization, not both.")
		}
		ctx, by, err := s.admin.AdmitKey(r.Context(), p, keys[0], actor)
		x.key = by.KeyID
		return r.WithContext(ctx), err
	}
	caller, err := s.authenticate(r)
	if err != nil {
		return r, err
	}
	x.caller = caller
	if !p.ForOperators() {
		return r, nil
	}
	actor.UserID = caller.UserID
	ctx, err := s.admin.Admit(r.Context(), p, caller.SessionID, actor)
	return r.WithContext(ctx), err
}

// authenticate returns who calls with an access token. The session is asked for apart from the token: it can
// end before the token does.
func (s *Server) authenticate(r *http.Request) (identity.Identity, error) {
	const scheme = "Bearer "
	header := r.Header.Get("Authorization")
	if len(header) <= len(scheme) || !strings.EqualFold(header[:len(scheme)], scheme) {
		return identity.Identity{}, fault.New(fault.Unauthenticated, "unauthenticated", "An access token is needed.")
	}
	caller, err := s.verifier.Verify(r.Context(), header[len(scheme):])
	if err != nil {
		return identity.Identity{}, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), acquireTimeout)
	defer cancel()
	active, err := s.accounts.IsSessionActive(ctx, caller.SessionID)
	if err != nil {
		return identity.Identity{}, fmt.Errorf("check session: %w", err)
	}
	if !active {
		return identity.Identity{}, fault.New(fault.Unauthenticated, "unauthenticated", "The session has ended.")
	}
	return caller, nil
}
