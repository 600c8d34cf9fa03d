package accounts

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/limit"
)

// LoginInput is an attempt to sign in.
type LoginInput struct {
	Email    string
	Password string
	Device   *Device
	Address  netip.Addr // from where; for Config.Attempts

	least identity.Role // zero: any
	lasts time.Duration // the session's whole life; zero: Config.SessionTTL
}

// LastFreeError is the fault of a wrong password after which there is a wait, and was none
// before: something to take down, once and not for each attempt.
type LastFreeError struct{ err error }

func (e *LastFreeError) Error() string { return e.err.Error() }

// Unwrap returns the fault.
func (e *LastFreeError) Unwrap() error { return e.err }

// attempt looks at a password, if that is admitted. An attempt that is returned counts as
// wrong until it has Passed. A password that is wrong is the fault wrong.
func (s *Service) attempt(ctx context.Context, try limit.Try, look func() (bool, error), wrong error) (*limit.Attempt, error) {
	attempt, err := s.cfg.Attempts.Begin(ctx, try)
	if err != nil {
		return nil, err
	}
	match, err := look()
	switch {
	case err != nil:
		return nil, errors.Join(err, attempt.TakeBack(ctx))
	case match:
		return attempt, nil
	case attempt.Started():
		return nil, &LastFreeError{wrong}
	default:
		return nil, wrong
	}
}

// errLogin is one answer for an unknown address and a wrong password.
var errLogin = fault.New(fault.Unauthenticated, "unauthenticated", "The e-mail address or the password is wrong.")

const (
	//nolint:gosec // a statement, not a credential
	credentialByEmailSQL = `
SELECT user_id, password_hash
FROM credentials
WHERE email = $1`

	// The account's lock: held by whoever adds a session or ends some, so that the set of
	// sessions does not change under him. Processors never take it.
	lockAccountSQL = `
SELECT id, display_name, partner_code, role, status
FROM users
WHERE id = $1
FOR NO KEY UPDATE`

	passwordHashSQL = `
SELECT password_hash
FROM credentials
WHERE user_id = $1`

	replaceHashSQL = `
UPDATE credentials
SET password_hash = $2
WHERE user_id = $1`
)

// Login starts a session. A wrong password and an unknown address are the same fault
// unauthenticated, after the same time; forbidden and account_deleting are told only to
// who knows the password. After too many it is rate_limited, for both alike.
func (s *Service) Login(ctx context.Context, in LoginInput) (AuthResult, error) {
	o, started, err := s.login(ctx, in)
	if err != nil {
		return AuthResult{}, err
	}
	return s.result(o, started.id, started.refresh)
}

func (s *Service) login(ctx context.Context, in LoginInput) (owner, session, error) {
	var f faults
	device := f.device("/device", in.Device)
	if err := f.err(); err != nil {
		return owner{}, session{}, err
	}
	var (
		userID     uuid.UUID
		stored     string
		outdated   bool
		turnedAway uuid.UUID // who knows the password, and is no operator
	)
	email, valid := normaliseEmail(in.Email)
	attempt, err := s.attempt(ctx, limit.Try{Email: email, Address: in.Address}, func() (match bool, err error) {
		if valid {
			if userID, stored, err = s.credential(ctx, email); err != nil {
				return false, err
			}
		}
		match, outdated, err = s.cfg.Passwords.Compare(ctx, in.Password, stored)
		if match && in.least != 0 {
			if match, err = s.isOperator(ctx, userID, in.least); !match && err == nil {
				turnedAway = userID
			}
		}
		return match, err
	}, errLogin)
	if err != nil {
		if turnedAway != uuid.Nil {
			err = &TurnedAwayError{UserID: turnedAway, err: err}
		}
		return owner{}, session{}, err
	}
	var renewed string
	if outdated {
		if renewed, err = s.cfg.Passwords.Hash(ctx, in.Password); err != nil {
			return owner{}, session{}, err
		}
	}

	var o owner
	var started session
	err = s.transact(ctx, func(tx pgx.Tx) error {
		var err error
		if o, err = lockAccount(ctx, tx, userID); err != nil {
			return err
		}
		if err := admit(o.status); err != nil {
			return err
		}
		// Read again under the lock: a password change that committed since the comparison
		// has ended all other sessions, and this one must not slip in behind it.
		current, err := passwordHash(ctx, tx, userID)
		if err != nil {
			return err
		}
		if current != stored {
			return errLogin
		}
		if renewed != "" {
			if _, err := tx.Exec(ctx, replaceHashSQL, userID, renewed); err != nil {
				return err
			}
		}
		if started, err = s.startSession(ctx, tx, newSession{userID: userID, device: device, lasts: in.lasts}); err != nil {
			return err
		}
		return attempt.Passed(ctx, tx, userID)
	})
	if err != nil {
		return owner{}, session{}, fmt.Errorf("log in user %s: %w", userID, err)
	}
	s.ended(userID, contract.RevokedByLimit, started.over)
	return o, started, nil
}

// credential returns the hash to compare with, empty for an unknown address.
func (s *Service) credential(ctx context.Context, email string) (userID uuid.UUID, hash string, err error) {
	err = s.pool.QueryRow(ctx, credentialByEmailSQL, email).Scan(&userID, &hash)
	if errors.Is(err, pgx.ErrNoRows) {
		return uuid.Nil, "", nil
	}
	if err != nil {
		return uuid.Nil, "", fmt.Errorf("load credential: %w", err)
	}
	return userID, hash, nil
}

func lockAccount(ctx context.Context, tx pgx.Tx, userID uuid.UUID) (owner, error) {
	var o owner
	err := tx.QueryRow(ctx, lockAccountSQL, userID).Scan(&o.ID, &o.DisplayName, &o.PartnerCode, &o.role, &o.status)
	if errors.Is(err, pgx.ErrNoRows) {
		return owner{}, errSession
	}
	if err != nil {
		return owner{}, fmt.Errorf("lock account %s: %w", userID, err)
	}
	return o, nil
}

func passwordHash(ctx context.Context, tx pgx.Tx, userID uuid.UUID) (string, error) {
	var hash string
	err := tx.QueryRow(ctx, passwordHashSQL, userID).Scan(&hash)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil // an account without a password: nothing equals it
	}
	if err != nil {
		return "", fmt.Errorf("load password hash of %s: %w", userID, err)
	}
	return hash, nil
}

// PasswordChange is an attempt to change one's password.
type PasswordChange struct {
	UserID, SessionID uuid.UUID // who asks
	Current, Next     string
	Address           netip.Addr // from where; for Config.Attempts
}

// ChangePassword replaces the password of an account and ends all its sessions but the
// one that asks. A wrong current password is the fault invalid_request at /current, not
// unauthenticated: the session is good. After too many it is rate_limited.
func (s *Service) ChangePassword(ctx context.Context, in PasswordChange) error {
	userID, sessionID := in.UserID, in.SessionID
	var f faults
	f.password("/next", in.Next)
	if err := f.err(); err != nil {
		return err
	}
	var stored string
	err := s.pool.QueryRow(ctx, passwordHashSQL, userID).Scan(&stored)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("load password hash of %s: %w", userID, err)
	}
	attempt, err := s.attempt(ctx, limit.Try{UserID: userID, Address: in.Address}, func() (bool, error) {
		match, _, err := s.cfg.Passwords.Compare(ctx, in.Current, stored)
		return match, err
	}, wrongCurrent())
	if err != nil {
		return err
	}
	hash, err := s.cfg.Passwords.Hash(ctx, in.Next)
	if err != nil {
		return err
	}

	var ended []uuid.UUID
	err = s.transact(ctx, func(tx pgx.Tx) error {
		if _, err := lockAccount(ctx, tx, userID); err != nil {
			return err
		}
		latest, err := passwordHash(ctx, tx, userID)
		if err != nil {
			return err
		}
		if latest != stored { // another change was faster
			return wrongCurrent()
		}
		if _, err := tx.Exec(ctx, replaceHashSQL, userID, hash); err != nil {
			return err
		}
		// Who chose a password wants no link about that is good for another one.
		if _, err := tx.Exec(ctx, deleteLinksForSQL, userID, resetPassword); err != nil {
			return err
		}
		live, err := liveSessions(ctx, tx, userID)
		if err != nil {
			return err
		}
		keep := false
		ended = ended[:0]
		for _, l := range live {
			if l.id == sessionID {
				keep = true
				continue
			}
			ended = append(ended, l.id)
		}
		if !keep { // the asking session ended meanwhile: its token is worth nothing now
			return errSession
		}
		if err := s.endSessions(ctx, tx, ended); err != nil {
			return err
		}
		return attempt.Passed(ctx, tx, userID)
	})
	if err != nil {
		return fmt.Errorf("change password of %s: %w", userID, err)
	}
	s.ended(userID, contract.RevokedByPassword, ended)
	return nil
}

func wrongCurrent() error {
	var f faults
	f.add("/current", "wrong_password", "is not the current password")
	return f.err()
}
