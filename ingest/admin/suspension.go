package admin

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/partner"
)

// The lock that every decision about the user holds: what was decided before is committed,
// and what comes after sees what is done here. It comes before the account's own lock, as
// in the processor, who takes that one when a decision changes the account.
const lockStreamSQL = `
SELECT 1
FROM user_streams
WHERE user_id = $1
FOR NO KEY UPDATE`

// The account's lock, as login and the end of sessions take it.
const lockUserSQL = `
SELECT role, tier, status, COALESCE(slots_total, 0)
FROM users
WHERE id = $1
FOR NO KEY UPDATE`

// locked is what of an account is under lock.
type locked struct {
	role   identity.Role
	tier   Tier
	status partner.UserStatus
	total  int // of slots, as an operator has set it; zero: as the tier has it
}

// lockUser holds an account, and all decisions about its user, until the transaction ends.
// One that is being deleted is no longer anybody's to change.
func lockUser(ctx context.Context, tx pgx.Tx, id uuid.UUID) (locked, error) {
	if _, err := tx.Exec(ctx, lockStreamSQL, id); err != nil {
		return locked{}, fmt.Errorf("lock stream of %s: %w", id, err)
	}
	var u locked
	err := tx.QueryRow(ctx, lockUserSQL, id).Scan(&u.role, &u.tier, &u.status, &u.total)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return locked{}, errNoUser
	case err != nil:
		return locked{}, fmt.Errorf("lock user %s: %w", id, err)
	case u.status == partner.UserDeleting:
		return locked{}, errDeleting
	}
	return u, nil
}

var errDeleting = fault.New(fault.Conflict, "account_deleting", "The account is being deleted.")

const setStatusSQL = `UPDATE users SET status = $2 WHERE id = $1`

// Suspend keeps a user out: sessions end, their devices get no more pushes, nobody can log
// in, and what the user has queued is rejected, save a leave, a block and a deletion. The
// partnerships stay: whoever wants to leave the suspended one can, as ever. Suspending who
// is suspended changes nothing.
func (s *Service) Suspend(ctx context.Context, actor Actor, id uuid.UUID) (u User, err error) {
	line := entry{actor: actor, action: permissions["suspendUser"].Action, severity: partner.SeverityWarning, target: id}
	err = s.act(ctx, line, func(tx pgx.Tx, line *entry) (err error) {
		if line.ended, err = s.suspendIn(ctx, tx, actor, id); err != nil {
			return err
		}
		u, err = s.userIn(ctx, tx, id)
		return err
	})
	return u, err
}

// suspendIn returns the sessions that ended.
func (s *Service) suspendIn(ctx context.Context, tx pgx.Tx, actor Actor, id uuid.UUID) (ended []uuid.UUID, err error) {
	if id == actor.UserID {
		return nil, fault.New(fault.Conflict, "self_request", "Nobody suspends themselves.")
	}
	u, err := lockUser(ctx, tx, id)
	if err != nil || u.status == partner.UserSuspended {
		return nil, err
	}
	if err := s.setStatus(ctx, tx, id, partner.UserSuspended); err != nil {
		return nil, err
	}
	return accounts.EndAll(ctx, tx, id, s.now())
}

// setStatus writes the status, and has it published.
func (s *Service) setStatus(ctx context.Context, tx pgx.Tx, id uuid.UUID, status partner.UserStatus) error {
	var batch pgx.Batch
	batch.Queue(setStatusSQL, id, status)
	accounts.Announce(&batch, id, s.cfg.Partitions, s.now())
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("make %s %s: %w", id, status, err)
	}
	return nil
}

// Unsuspend lets a suspended user log in again. The sessions from before stay ended.
func (s *Service) Unsuspend(ctx context.Context, actor Actor, id uuid.UUID) (u User, err error) {
	line := entry{actor: actor, action: permissions["unsuspendUser"].Action, severity: partner.SeverityNotice, target: id}
	err = s.act(ctx, line, func(tx pgx.Tx, _ *entry) error {
		before, err := lockUser(ctx, tx, id)
		if err != nil {
			return err
		}
		if before.status == partner.UserSuspended {
			if err := s.setStatus(ctx, tx, id, partner.UserActive); err != nil {
				return err
			}
		}
		u, err = s.userIn(ctx, tx, id)
		return err
	})
	return u, err
}
