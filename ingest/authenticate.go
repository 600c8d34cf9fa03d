package ingest

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
)

// authenticate returns who calls. The session is asked for apart from the token: it can
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
