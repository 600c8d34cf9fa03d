package accounts

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/identity"
)

// purpose is what a link in a mail is for; its numbers are in mail_tokens.
type purpose int16

const (
	resetPassword purpose = 1
	verifyEmail   purpose = 2
)

const (
	resetTTL  = time.Hour
	verifyTTL = 48 * time.Hour
	// maxMailTokens of an account and purpose are live: so many mails a stranger can have
	// sent to somebody within a token's life.
	maxMailTokens = 3
)

func (p purpose) ttl() time.Duration {
	if p == resetPassword {
		return resetTTL
	}
	return verifyTTL
}

const (
	liveLinksSQL = `
SELECT count(*)
FROM mail_tokens
WHERE user_id = $1 AND purpose = $2 AND expires_at > $3`

	insertLinkSQL = `
INSERT INTO mail_tokens (hash, user_id, purpose, email, expires_at)
VALUES ($1, $2, $3, $4, $5)`

	verifiedSQL = `
SELECT verified_at IS NOT NULL
FROM credentials
WHERE user_id = $1 AND email = $2`
)

// issueMailToken makes a token for the account with this address. It returns none where
// there is no such account, it is suspended or being deleted, the address is verified
// already (for that purpose), or as many tokens are live as may be.
func (s *Service) issueMailToken(ctx context.Context, why purpose, email string) (token string, err error) {
	email, ok := normaliseEmail(email)
	if !ok {
		return "", nil
	}
	userID, _, err := s.credential(ctx, email)
	if err != nil || userID == uuid.Nil {
		return "", err
	}
	token, hash := identity.NewSecret()
	issued := false
	err = s.transact(ctx, func(tx pgx.Tx) error {
		issued = false
		// Erasure writes this row before it removes tokens: one that is made under the lock
		// is either seen by it, or not made at all.
		o, err := lockAccount(ctx, tx, userID)
		if err != nil {
			return err
		}
		if admit(o.status) != nil {
			return nil
		}
		var verified bool
		if err := tx.QueryRow(ctx, verifiedSQL, userID, email).Scan(&verified); err != nil {
			if errors.Is(err, pgx.ErrNoRows) {
				return nil
			}
			return err
		}
		if verified && why == verifyEmail {
			return nil
		}
		var live int
		if err := tx.QueryRow(ctx, liveLinksSQL, userID, why, s.now()).Scan(&live); err != nil {
			return err
		}
		if live >= maxMailTokens {
			return nil
		}
		issued = true
		_, err = tx.Exec(ctx, insertLinkSQL, hash, userID, why, email, s.now().Add(why.ttl()))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("issue mail token for %s: %w", userID, err)
	}
	if !issued {
		return "", nil
	}
	return token, nil
}

const deleteLinkSQL = `
DELETE FROM mail_tokens
WHERE hash = $1`

// withdrawMailToken removes a token that reached nobody.
func (s *Service) withdrawMailToken(ctx context.Context, token string) error {
	if _, err := s.pool.Exec(ctx, deleteLinkSQL, identity.HashSecret(token)); err != nil {
		return fmt.Errorf("withdraw mail token: %w", err)
	}
	return nil
}

// Note is called in the transaction that does something, to take it down there.
type Note func(ctx context.Context, tx pgx.Tx, userID uuid.UUID) error

const linkOwnerSQL = `
SELECT user_id
FROM mail_tokens
WHERE hash = $1 AND purpose = $2 AND expires_at > $3`

// mailTokenOwner says whose token this is. Of an unknown, used or expired one it returns
// the fault invalid_request at /token. Nobody guesses 256 bits, so its time tells nothing.
func (s *Service) mailTokenOwner(ctx context.Context, why purpose, token string) (userID uuid.UUID, err error) {
	err = s.pool.QueryRow(ctx, linkOwnerSQL, identity.HashSecret(token), why, s.now()).Scan(&userID)
	if errors.Is(err, pgx.ErrNoRows) {
		return uuid.Nil, errMailToken()
	}
	if err != nil {
		return uuid.Nil, fmt.Errorf("look up mail token: %w", err)
	}
	return userID, nil
}

func errMailToken() error {
	var f faults
	f.add("/token", "invalid", "is unknown, was used or has expired: ask for a new mail")
	return f.err()
}

// The deletion is what makes a token good once: of two who use it one finds no row.
const takeLinkSQL = `
DELETE FROM mail_tokens
WHERE hash = $1 AND user_id = $2 AND purpose = $3 AND expires_at > $4
RETURNING email`

// takeMailToken locks the account and uses the token up.
func (s *Service) takeMailToken(ctx context.Context, tx pgx.Tx, why purpose, taken mailToken) (email string, err error) {
	o, err := lockAccount(ctx, tx, taken.userID)
	if err != nil {
		return "", err
	}
	if err := admit(o.status); err != nil {
		return "", err
	}
	err = tx.QueryRow(ctx, takeLinkSQL, identity.HashSecret(taken.token), taken.userID, why, s.now()).Scan(&email)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", errMailToken()
	}
	return email, err
}

type mailToken struct {
	userID uuid.UUID
	token  string
}

// ResetInput is a new password by a token from a mail.
type ResetInput struct {
	Token string
	Next  string
	Note  Note // nil: nothing is taken down
}

const (
	resetHashSQL = `
UPDATE credentials
SET password_hash = $3, verified_at = COALESCE(verified_at, $4)
WHERE user_id = $1 AND email = $2`

	deleteLinksSQL = `
DELETE FROM mail_tokens
WHERE user_id = $1`
)

// ResetPassword replaces the password of the account to which the token was sent, ends all
// its sessions and withdraws its other tokens. Who reads the mails of an address has shown
// that it is theirs: it is verified from then on. Its faults are invalid_request (at /token
// too), and forbidden and account_deleting, with which the token stays good.
func (s *Service) ResetPassword(ctx context.Context, in ResetInput) error {
	var f faults
	f.password("/next", in.Next)
	if err := f.err(); err != nil {
		return err
	}
	userID, err := s.mailTokenOwner(ctx, resetPassword, in.Token)
	if err != nil {
		return err
	}
	hash, err := s.cfg.Passwords.Hash(ctx, in.Next) // before the transaction: no lock is held so long
	if err != nil {
		return err
	}
	var ended []uuid.UUID
	err = s.transact(ctx, func(tx pgx.Tx) error {
		email, err := s.takeMailToken(ctx, tx, resetPassword, mailToken{userID, in.Token})
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, resetHashSQL, userID, email, hash, s.now())
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 { // another address is the account's by now
			return errMailToken()
		}
		if _, err := tx.Exec(ctx, deleteLinksSQL, userID); err != nil {
			return err
		}
		live, err := liveSessions(ctx, tx, userID)
		if err != nil {
			return err
		}
		ended = ended[:0]
		for _, l := range live {
			ended = append(ended, l.id)
		}
		if err := s.endSessions(ctx, tx, ended); err != nil {
			return err
		}
		return in.Note.take(ctx, tx, userID)
	})
	if err != nil {
		return fmt.Errorf("reset password of %s: %w", userID, err)
	}
	s.ended(userID, contract.RevokedByReset, ended)
	return nil
}

func (n Note) take(ctx context.Context, tx pgx.Tx, userID uuid.UUID) error {
	if n == nil {
		return nil
	}
	return n(ctx, tx, userID)
}

const (
	verifySQL = `
UPDATE credentials
SET verified_at = COALESCE(verified_at, $3)
WHERE user_id = $1 AND email = $2`

	deleteLinksForSQL = `
DELETE FROM mail_tokens
WHERE user_id = $1 AND purpose = $2`
)

// VerifyEmail takes down that the address to which the token was sent is its owner's. Its
// faults are those of ResetPassword.
func (s *Service) VerifyEmail(ctx context.Context, token string, note Note) error {
	userID, err := s.mailTokenOwner(ctx, verifyEmail, token)
	if err != nil {
		return err
	}
	err = s.transact(ctx, func(tx pgx.Tx) error {
		email, err := s.takeMailToken(ctx, tx, verifyEmail, mailToken{userID, token})
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, verifySQL, userID, email, s.now())
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return errMailToken()
		}
		if _, err := tx.Exec(ctx, deleteLinksForSQL, userID, verifyEmail); err != nil {
			return err
		}
		return note.take(ctx, tx, userID)
	})
	if err != nil {
		return fmt.Errorf("verify e-mail of %s: %w", userID, err)
	}
	return nil
}
