package accounts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/identity"
)

// One statement, so that of concurrent refreshes with one token one alone finds it
// still current: the others wait for the row and then no longer match.
const rotateSQL = `
UPDATE sessions s
SET refresh_hash = $2, previous_hash = s.refresh_hash, sealed_child = $3,
    rotated_at = $4, last_used_at = $4, expires_at = LEAST($5, s.created_at + $7::interval)
FROM users u
WHERE s.refresh_hash = $1 AND s.revoked_at IS NULL AND s.expires_at > $4
    AND s.created_at + $7::interval > $4 AND u.id = s.user_id AND u.status = ANY ($6)
RETURNING s.id, u.id, u.display_name, u.partner_code, u.role, u.status`

// Refresh exchanges a refresh token for its child and a new access token.
//
// The parent, presented again while its child is unused, gets the same child: so a lost
// answer locks nobody out, however late the client asks again, and concurrent refreshes
// agree. Once the child has been exchanged, any older token of the chain is in two
// hands: its replay ends the session, takes the note, and is a *ReplayError. There is no time
// within which such a token is still good: a thief in a hurry would be let in.
// Refreshing moves the session's end, to Config.SessionMaxAge after its beginning at the latest.
// Everything else is the fault unauthenticated.
func (s *Service) Refresh(ctx context.Context, refreshToken string, replayed SessionNote) (AuthResult, error) {
	presented, ok := identity.ParseRefreshToken(refreshToken)
	if !ok {
		return AuthResult{}, errSession
	}
	child := presented.Next()
	sealed, err := presented.Seal(child)
	if err != nil {
		return AuthResult{}, err
	}
	now := s.now()
	var (
		sessionID uuid.UUID
		o         owner
	)
	err = s.pool.QueryRow(ctx, rotateSQL, presented.Hash(), child.Hash(), sealed, now, now.Add(s.cfg.SessionTTL), admitted, s.cfg.SessionMaxAge).
		Scan(&sessionID, &o.ID, &o.DisplayName, &o.PartnerCode, &o.role, &o.status)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return s.replay(ctx, presented, replayed)
	case err != nil:
		return AuthResult{}, fmt.Errorf("rotate refresh token: %w", err)
	}
	return s.result(o, sessionID, child)
}

// SessionNote is a Note about a session.
type SessionNote func(ctx context.Context, tx pgx.Tx, userID, sessionID uuid.UUID) error

func (n SessionNote) of(sessionID uuid.UUID) Note {
	if n == nil {
		return nil
	}
	return func(ctx context.Context, tx pgx.Tx, userID uuid.UUID) error { return n(ctx, tx, userID, sessionID) }
}

// ReplayError is the fault of a refresh token that two have held: its session was ended for
// it just now.
type ReplayError struct{ SessionID uuid.UUID }

func (e *ReplayError) Error() string {
	return fmt.Sprintf("session %s ended for a replayed refresh token: %v", e.SessionID, errSession)
}

// Unwrap returns what its caller is told, which is nothing of this.
func (e *ReplayError) Unwrap() error { return errSession }

// chain is the session that a token's family belongs to.
type chain struct {
	sessionID uuid.UUID
	current   []byte
	previous  []byte
	sealed    []byte
	ended     bool
	expiresAt time.Time // or the session's greatest age, whichever comes first
	owner     owner
}

const chainSQL = `
SELECT s.id, s.refresh_hash, s.previous_hash, s.sealed_child, s.revoked_at IS NOT NULL, LEAST(s.expires_at, s.created_at + $2::interval),
    u.id, u.display_name, u.partner_code, u.role, u.status
FROM sessions s
JOIN users u ON u.id = s.user_id
WHERE s.family_hash = $1`

// replay answers a refresh token that could not be exchanged.
func (s *Service) replay(ctx context.Context, presented identity.RefreshToken, replayed SessionNote) (AuthResult, error) {
	var c chain
	o := &c.owner
	err := s.pool.QueryRow(ctx, chainSQL, presented.FamilyHash(), s.cfg.SessionMaxAge).Scan(
		&c.sessionID, &c.current, &c.previous, &c.sealed, &c.ended, &c.expiresAt,
		&o.ID, &o.DisplayName, &o.PartnerCode, &o.role, &o.status)
	if errors.Is(err, pgx.ErrNoRows) {
		return AuthResult{}, errSession
	}
	if err != nil {
		return AuthResult{}, fmt.Errorf("load session of a refresh token: %w", err)
	}
	if c.ended || !c.expiresAt.After(s.now()) {
		return AuthResult{}, errSession
	}
	if err := admit(o.status); err != nil {
		return AuthResult{}, err
	}
	switch hash := presented.Hash(); {
	case bytes.Equal(hash, c.previous):
		child, err := presented.Open(c.sealed)
		if err != nil {
			return AuthResult{}, fmt.Errorf("session %s: %w", c.sessionID, err)
		}
		s.log.InfoContext(ctx, "refresh repeated", "user", o.ID, "session", c.sessionID)
		return s.result(*o, c.sessionID, child)
	case bytes.Equal(hash, c.current):
		// Current now, but not when it was to be exchanged: the account was let in between.
		return AuthResult{}, errSession
	}
	n, err := s.end(ctx, o.ID, ending{reason: contract.RevokedByReplay, pick: only(c.sessionID), note: replayed.of(c.sessionID)})
	switch {
	case err != nil:
		return AuthResult{}, fmt.Errorf("end session of a replayed refresh token: %w", err)
	case n == 0: // somebody else was faster
		return AuthResult{}, errSession
	}
	s.log.WarnContext(ctx, "old refresh token replayed, session ended", "user", o.ID, "session", c.sessionID)
	return AuthResult{}, &ReplayError{SessionID: c.sessionID}
}
