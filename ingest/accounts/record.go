package accounts

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/limit"
)

// Record is what an account holds of its owner beside the profile.
type Record struct {
	Email     string // empty for an account that gave none
	Verified  bool   // the e-mail address is known to be its owner's
	BirthDate *time.Time
	CreatedAt time.Time
	// Consent is the version of the terms that was agreed to, and when; empty and nil for
	// none.
	Consent     string
	ConsentedAt *time.Time
	Firebase    []FirebaseLink // by which its owner signs in, the oldest first
}

// FirebaseLink is a subject of a Firebase project that is an account's owner.
type FirebaseLink struct {
	Subject  string
	LinkedAt time.Time
}

const recordSQL = `
SELECT COALESCE(c.email, ''), c.verified_at IS NOT NULL, u.birth_date, u.created_at, COALESCE(u.consent_version, ''), u.consented_at
FROM users u LEFT JOIN credentials c ON c.user_id = u.id
WHERE u.id = $1`

// RecordIn returns the record of an account as q sees it.
func (s *Service) RecordIn(ctx context.Context, q Querier, userID uuid.UUID) (Record, error) {
	rows, err := q.Query(ctx, recordSQL, userID)
	if err != nil {
		return Record{}, fmt.Errorf("load record of %s: %w", userID, err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (Record, error) {
		var r Record
		err := row.Scan(&r.Email, &r.Verified, &r.BirthDate, &r.CreatedAt, &r.Consent, &r.ConsentedAt)
		return r, err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return Record{}, fault.New(fault.NotFound, "user_not_found", "There is no such user.")
	}
	if err != nil {
		return Record{}, fmt.Errorf("load record of %s: %w", userID, err)
	}
	if r.Firebase, err = firebaseLinks(ctx, q, userID); err != nil {
		return Record{}, err
	}
	return r, nil
}

const linksOfSQL = `
SELECT subject, linked_at
FROM firebase_links
WHERE user_id = $1
ORDER BY linked_at, subject`

func firebaseLinks(ctx context.Context, q Querier, userID uuid.UUID) ([]FirebaseLink, error) {
	rows, err := q.Query(ctx, linksOfSQL, userID)
	if err != nil {
		return nil, fmt.Errorf("list links of %s: %w", userID, err)
	}
	links, err := pgx.CollectRows(rows, pgx.RowToStructByPos[FirebaseLink])
	if err != nil {
		return nil, fmt.Errorf("list links of %s: %w", userID, err)
	}
	return links, nil
}

// freshLogin is how long after its login a session needs no password for what cannot be
// taken back.
const freshLogin = 5 * time.Minute

const sessionStartSQL = `
SELECT COALESCE(authenticated_at, created_at)
FROM sessions
WHERE id = $1 AND user_id = $2`

// Confirmation is what shows that the owner of an account is asking.
type Confirmation struct {
	UserID, SessionID uuid.UUID // who asks
	Password          *string
	Address           netip.Addr // from where; for Config.Attempts
}

// ConfirmOwner makes sure that the owner of the account is asking: by the password, or,
// without one, by having logged in within the last 5 minutes: with Firebase, by having signed
// in there, since an ID token can be had without its owner for long after. A wrong password is the
// fault invalid_request at /password, after too many rate_limited; neither of the two is
// forbidden.
func (s *Service) ConfirmOwner(ctx context.Context, in Confirmation) error {
	userID, sessionID := in.UserID, in.SessionID
	if in.Password == nil {
		var started time.Time
		err := s.pool.QueryRow(ctx, sessionStartSQL, sessionID, userID).Scan(&started)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("load session %s: %w", sessionID, err)
		}
		if err != nil || s.now().Sub(started) >= freshLogin {
			return fault.New(fault.Forbidden, "forbidden", "Give the password, or log in again.")
		}
		return nil
	}
	var stored string
	err := s.pool.QueryRow(ctx, passwordHashSQL, userID).Scan(&stored)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("load password hash of %s: %w", userID, err)
	}
	var wrong faults
	wrong.add("/password", "wrong_password", "is not the password")
	attempt, err := s.attempt(ctx, limit.Try{UserID: userID, Address: in.Address}, func() (bool, error) {
		match, _, err := s.cfg.Passwords.Compare(ctx, *in.Password, stored)
		return match, err
	}, wrong.err())
	if err != nil {
		return err
	}
	return s.transact(ctx, func(tx pgx.Tx) error { return attempt.Passed(ctx, tx, userID) })
}
