package accounts

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
)

// Session is one sign-in of an account, as its owner sees it.
type Session struct {
	ID         uuid.UUID
	Device     *Device
	CreatedAt  time.Time
	LastUsedAt time.Time
	Current    bool // the one that asks
}

// session is a new one with its first refresh token.
type session struct {
	id      uuid.UUID
	refresh identity.RefreshToken
	over    []uuid.UUID // which ended for it
}

const insertSessionSQL = `
INSERT INTO sessions (id, user_id, refresh_hash, family_hash, device, created_at, last_used_at, expires_at, authenticated_at)
VALUES ($1, $2, $3, $4, $5, $6, $6, $7, $8)`

// newSession is a sign-in.
type newSession struct {
	userID uuid.UUID
	device *Device
	// authenticatedAt is when its owner showed who they are, if not here and now; zero: here.
	authenticatedAt time.Time
	// lasts is how long it goes on without being refreshed; zero: Config.SessionTTL.
	lasts time.Duration
}

// startSession adds a session and ends the expired and the least recently used ones
// over the bound, of which the caller tells once it is committed. The caller holds the account's lock, or has just made the account.
func (s *Service) startSession(ctx context.Context, tx pgx.Tx, of newSession) (session, error) {
	now := s.now()
	setDefault(&of.lasts, s.cfg.SessionTTL)
	live, err := liveSessions(ctx, tx, of.userID)
	if err != nil {
		return session{}, err
	}
	started := session{id: uuid.New(), refresh: identity.NewRefreshToken()}
	for i, l := range live {
		if i >= s.cfg.MaxSessions-1 || !l.expiresAt.After(now) {
			started.over = append(started.over, l.id)
		}
	}
	if err := s.endSessions(ctx, tx, started.over); err != nil {
		return session{}, err
	}
	var before *time.Time
	if !of.authenticatedAt.IsZero() && of.authenticatedAt.Before(now) {
		before = &of.authenticatedAt
	}
	_, err = tx.Exec(ctx, insertSessionSQL, started.id, of.userID,
		started.refresh.Hash(), started.refresh.FamilyHash(), of.device, now, now.Add(min(of.lasts, s.cfg.SessionMaxAge)), before)
	if err != nil {
		return session{}, fmt.Errorf("insert session: %w", err)
	}
	return started, nil
}

type liveSession struct {
	id        uuid.UUID
	expiresAt time.Time
}

const liveSessionsSQL = `
SELECT id, expires_at
FROM sessions
WHERE user_id = $1 AND revoked_at IS NULL
ORDER BY last_used_at DESC, id`

// liveSessions returns the sessions that nobody has ended, expired ones too, the last
// used first.
func liveSessions(ctx context.Context, tx pgx.Tx, userID uuid.UUID) ([]liveSession, error) {
	rows, err := tx.Query(ctx, liveSessionsSQL, userID)
	if err != nil {
		return nil, fmt.Errorf("list live sessions of %s: %w", userID, err)
	}
	live, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (liveSession, error) {
		var l liveSession
		err := row.Scan(&l.id, &l.expiresAt)
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("list live sessions of %s: %w", userID, err)
	}
	return live, nil
}

const (
	revokeSQL = `
UPDATE sessions
SET revoked_at = $2, sealed_child = NULL
WHERE id = ANY ($1) AND revoked_at IS NULL`

	deleteDevicesOfSessionsSQL = `
DELETE FROM devices
WHERE session_id = ANY ($1)`

	deleteTicketsOfSessionsSQL = `
DELETE FROM realtime_tickets
WHERE session_id = ANY ($1)`
)

// endSessions ends sessions with their devices and tickets. The deletions are
// statements of their own, after the update: they then see what a registration that the
// update waited for has committed.
func (s *Service) endSessions(ctx context.Context, tx pgx.Tx, ids []uuid.UUID) error {
	return endSessions(ctx, tx, ids, s.now())
}

func endSessions(ctx context.Context, tx pgx.Tx, ids []uuid.UUID, now time.Time) error {
	if len(ids) == 0 {
		return nil
	}
	var batch pgx.Batch
	batch.Queue(revokeSQL, ids, now)
	batch.Queue(deleteDevicesOfSessionsSQL, ids)
	batch.Queue(deleteTicketsOfSessionsSQL, ids)
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("end sessions: %w", err)
	}
	return nil
}

// EndAll ends every session of an account, with its devices and tickets, in the transaction
// of a caller who holds the account's lock and tells Revocations of them after the commit.
// Instances that remember a session as active do so for Config.SessionCacheTTL at most; its
// sockets close as those of any ended session.
func EndAll(ctx context.Context, tx pgx.Tx, userID uuid.UUID, now time.Time) ([]uuid.UUID, error) {
	live, err := liveSessions(ctx, tx, userID)
	if err != nil {
		return nil, err
	}
	ids := make([]uuid.UUID, len(live))
	for i, l := range live {
		ids[i] = l.id
	}
	return ids, endSessions(ctx, tx, ids, now)
}

// ending is which sessions of an account end, and why.
type ending struct {
	reason string
	pick   func(uuid.UUID) bool
	note   Note // taken when any did
}

func only(session uuid.UUID) func(uuid.UUID) bool {
	return func(id uuid.UUID) bool { return id == session }
}

// end ends those live sessions of an account that are picked, and returns how many.
func (s *Service) end(ctx context.Context, userID uuid.UUID, what ending) (int, error) {
	var ended []uuid.UUID
	err := s.transact(ctx, func(tx pgx.Tx) error {
		if _, err := lockAccount(ctx, tx, userID); err != nil {
			return err
		}
		live, err := liveSessions(ctx, tx, userID)
		if err != nil {
			return err
		}
		ended = ended[:0]
		for _, l := range live {
			if what.pick(l.id) {
				ended = append(ended, l.id)
			}
		}
		if err := s.endSessions(ctx, tx, ended); err != nil || len(ended) == 0 {
			return err
		}
		return what.note.take(ctx, tx, userID)
	})
	if err != nil {
		return 0, fmt.Errorf("end sessions of %s: %w", userID, err)
	}
	s.ended(userID, what.reason, ended)
	return len(ended), nil
}

// Logout ends one session. Ending one that has ended is no fault.
func (s *Service) Logout(ctx context.Context, userID, sessionID uuid.UUID) error {
	_, err := s.end(ctx, userID, ending{reason: contract.RevokedByLogout, pick: only(sessionID)})
	return err
}

// LogoutAll ends every session of an account, the asking one too.
func (s *Service) LogoutAll(ctx context.Context, userID uuid.UUID) error {
	_, err := s.end(ctx, userID, ending{reason: contract.RevokedByLogout, pick: func(uuid.UUID) bool { return true }})
	return err
}

// RevokeSession ends one session from the list. One that is not there, or is another
// account's, is the fault not_found.
func (s *Service) RevokeSession(ctx context.Context, userID, sessionID uuid.UUID) error {
	n, err := s.end(ctx, userID, ending{reason: contract.RevokedByOwner, pick: only(sessionID)})
	if err != nil {
		return err
	}
	if n == 0 {
		return fault.New(fault.NotFound, "not_found", "There is no such session.")
	}
	return nil
}

const sessionsSQL = `
SELECT id, device, created_at, last_used_at
FROM sessions
WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > $2 AND created_at > $3
ORDER BY last_used_at DESC, id`

// Sessions lists the sessions of an account, the last used first; there are never more
// than Config.MaxSessions.
func (s *Service) Sessions(ctx context.Context, userID, current uuid.UUID) ([]Session, error) {
	return s.SessionsIn(ctx, s.pool, userID, current)
}

// SessionsIn lists the sessions of an account as q sees them.
func (s *Service) SessionsIn(ctx context.Context, q Querier, userID, current uuid.UUID) ([]Session, error) {
	now := s.now()
	rows, err := q.Query(ctx, sessionsSQL, userID, now, now.Add(-s.cfg.SessionMaxAge))
	if err != nil {
		return nil, fmt.Errorf("list sessions of %s: %w", userID, err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Session, error) {
		var v Session
		err := row.Scan(&v.ID, &v.Device, &v.CreatedAt, &v.LastUsedAt)
		v.Current = v.ID == current
		return v, err
	})
	if err != nil {
		return nil, fmt.Errorf("list sessions of %s: %w", userID, err)
	}
	return slices.Clip(list), nil
}
