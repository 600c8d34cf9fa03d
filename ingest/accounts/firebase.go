package accounts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/limit"
	"github.com/bondmate/backend/pkg/partner"
)

// Firebase verifies ID tokens of one Firebase project.
type Firebase interface {
	Project() string
	Verify(ctx context.Context, idToken string) (identity.FirebaseUser, error)
}

// FirebaseInput is an attempt to sign in with a Firebase ID token. What is between IDToken
// and Device counts only where it makes an account.
type FirebaseInput struct {
	IDToken     string
	DisplayName string // empty: the token's
	BirthDate   *time.Time
	Consent     string
	Device      *Device
	Address     netip.Addr // from where; for Config.Attempts
}

// FirebaseLogin is a session that began with a Firebase ID token.
type FirebaseLogin struct {
	AuthResult
	Provider string // by which the person signed in to Firebase
	Created  bool   // the account is new
	Linked   bool   // the account was there, and is its subject's from now on
}

const (
	// maxLinks of an account: somebody who deletes their Firebase user and comes back has
	// another subject each time. The oldest goes.
	maxLinks = 10
	// enterAttempts bounds how often a login starts over because another one has just made the
	// account or the link.
	enterAttempts = 3
	// nameless is who gives no name and has none at the provider.
	nameless = "Bond Mate"
)

const (
	linkedUserSQL = `
SELECT user_id
FROM firebase_links
WHERE project = $1 AND subject = $2`

	// One account a subject: the primary key, however many first logins come at once.
	insertLinkRowSQL = `
INSERT INTO firebase_links (project, subject, user_id, linked_at)
VALUES ($1, $2, $3, $4)`

	trimLinkRowsSQL = `
DELETE FROM firebase_links
WHERE user_id = $1 AND (project, subject) IN (
    SELECT project, subject
    FROM firebase_links
    WHERE user_id = $1
    ORDER BY linked_at DESC, subject
    OFFSET $2)`

	emailOwnerSQL = `
SELECT user_id, verified_at IS NOT NULL
FROM credentials
WHERE email = $1`

	// An account without a password: no password is hashed to nothing, so none matches. The
	// address is its own all the same, and a link by mail gives it a password.
	insertVerifiedEmailSQL = `
INSERT INTO credentials (user_id, email, password_hash, verified_at)
VALUES ($1, $2, '', $3)`
)

// LoginFirebase starts a session for the subject of a Firebase ID token, and makes an account
// where the subject has none. An account that is there becomes the subject's only when the
// token says that its e-mail address is verified and it is verified here, too: both then are
// the same person's. An address that somebody has registered and not shown to be theirs is
// the fault email_taken: linking would share the account with whoever that was.
//
// A token that is not good is unauthenticated, after too many from an address rate_limited. A
// new account has the faults of Register, save that there is no password; the others are
// Login's. Without a Firebase project everything is not_found.
func (s *Service) LoginFirebase(ctx context.Context, in FirebaseInput) (FirebaseLogin, error) {
	if s.cfg.Firebase == nil {
		return FirebaseLogin{}, fault.New(fault.NotFound, "not_found", "Nobody signs in with Firebase here.")
	}
	var f faults
	in.Device = f.device("/device", in.Device)
	in.DisplayName = f.text("/displayName", in.DisplayName, in.DisplayName != "", maxNameChars)
	if err := f.err(); err != nil {
		return FirebaseLogin{}, err
	}
	var who identity.FirebaseUser
	attempt, err := s.attempt(ctx, limit.Try{Unnamed: true, Address: in.Address}, func() (ok bool, err error) {
		who, err = s.cfg.Firebase.Verify(ctx, in.IDToken)
		if fault.KindOf(err) == fault.Unauthenticated {
			return false, nil
		}
		return err == nil, err
	}, errIDToken)
	if err != nil {
		return FirebaseLogin{}, err
	}
	login, err := s.enter(ctx, entry{who: who, in: in, attempt: attempt})
	if err != nil {
		// The token was good: nobody is guessing.
		return FirebaseLogin{}, errors.Join(err, attempt.TakeBack(ctx))
	}
	return login, nil
}

var errIDToken = fault.New(fault.Unauthenticated, "unauthenticated", "Sign in with Firebase again.")

// entry is a login whose token is good.
type entry struct {
	who     identity.FirebaseUser
	in      FirebaseInput
	attempt *limit.Attempt
}

// enter starts a session of the account that is, or becomes, the subject's.
func (s *Service) enter(ctx context.Context, e entry) (login FirebaseLogin, err error) {
	for range enterAttempts {
		if login, err = s.enterOnce(ctx, e); !startOver(err) {
			break
		}
	}
	switch {
	case violates(err, "credentials_email_key"):
		return FirebaseLogin{}, errEmailTaken
	case err != nil:
		return FirebaseLogin{}, fmt.Errorf("log in by Firebase: %w", err)
	}
	login.Provider = e.who.Provider
	return login, nil
}

// startOver says that somebody else was faster, or a partner code was drawn that is taken.
func startOver(err error) bool {
	return violates(err, "firebase_links_pkey") || violates(err, "credentials_email_key") || violates(err, "users_partner_code_key")
}

func (s *Service) enterOnce(ctx context.Context, e entry) (FirebaseLogin, error) {
	var userID uuid.UUID
	err := s.pool.QueryRow(ctx, linkedUserSQL, s.cfg.Firebase.Project(), e.who.Subject).Scan(&userID)
	switch {
	case err == nil:
		result, err := s.enterAs(ctx, e, userID, nil)
		return FirebaseLogin{AuthResult: result}, err
	case !errors.Is(err, pgx.ErrNoRows):
		return FirebaseLogin{}, fmt.Errorf("look for a link: %w", err)
	}
	email, ok := normaliseEmail(e.who.Email)
	if !ok {
		return s.enterAnew(ctx, e, "")
	}
	var verified bool
	err = s.pool.QueryRow(ctx, emailOwnerSQL, email).Scan(&userID, &verified)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return s.enterAnew(ctx, e, email)
	case err != nil:
		return FirebaseLogin{}, fmt.Errorf("look for an account: %w", err)
	case !verified:
		return FirebaseLogin{}, errEmailUnverified
	}
	result, err := s.enterAs(ctx, e, userID, func(ctx context.Context, tx pgx.Tx, userID uuid.UUID) error {
		// Once more, under the account's lock: it may have been erased meanwhile.
		var verified bool
		err := tx.QueryRow(ctx, verifiedSQL, userID, email).Scan(&verified)
		if errors.Is(err, pgx.ErrNoRows) || err == nil && !verified {
			return errEmailUnverified
		}
		if err != nil {
			return err
		}
		return s.link(ctx, tx, userID, e.who.Subject)
	})
	return FirebaseLogin{AuthResult: result, Linked: err == nil}, err
}

var errEmailUnverified = fault.New(fault.Conflict, "email_taken",
	"This e-mail address has an account that has not shown it to be its own: log in there and verify it, or ask for a new password.")

// enterAs starts a session of an account that is there. also is done under its lock.
func (s *Service) enterAs(ctx context.Context, e entry, userID uuid.UUID, also Note) (AuthResult, error) {
	var o owner
	var started session
	err := s.transact(ctx, func(tx pgx.Tx) (err error) {
		if o, err = lockAccount(ctx, tx, userID); err != nil {
			return err
		}
		if err := admit(o.status); err != nil {
			return err
		}
		if err := also.take(ctx, tx, userID); err != nil {
			return err
		}
		if started, err = s.startSession(ctx, tx, newSession{userID: userID, device: e.in.Device, authenticatedAt: e.who.AuthenticatedAt}); err != nil {
			return err
		}
		return e.attempt.Passed(ctx, tx, userID)
	})
	if err != nil {
		return AuthResult{}, err
	}
	s.ended(userID, contract.RevokedByLimit, started.over)
	return s.result(o, started.id, started.refresh)
}

// enterAnew makes an account, whose e-mail address is known to be its own where there is one.
func (s *Service) enterAnew(ctx context.Context, e entry, email string) (FirebaseLogin, error) {
	a := newAccount{name: cmp.Or(e.in.DisplayName, providedName(e.who.Name)), born: e.in.BirthDate, consent: e.in.Consent}
	var f faults
	s.entitled(&f, a)
	if err := f.err(); err != nil {
		return FirebaseLogin{}, err
	}
	o := a.owner()
	var started session
	err := s.transact(ctx, func(tx pgx.Tx) (err error) {
		var batch pgx.Batch
		s.queueAccount(&batch, o, a)
		if email != "" {
			batch.Queue(insertVerifiedEmailSQL, o.ID, email, s.now())
		}
		if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
			return err
		}
		if err := s.link(ctx, tx, o.ID, e.who.Subject); err != nil {
			return err
		}
		if started, err = s.startSession(ctx, tx, newSession{userID: o.ID, device: e.in.Device, authenticatedAt: e.who.AuthenticatedAt}); err != nil {
			return err
		}
		return e.attempt.Passed(ctx, tx, o.ID)
	})
	if err != nil {
		return FirebaseLogin{}, err
	}
	result, err := s.result(o, started.id, started.refresh)
	return FirebaseLogin{AuthResult: result, Created: true}, err
}

// link makes the account the subject's. The caller holds the account's lock, or has just made
// the account.
func (s *Service) link(ctx context.Context, tx pgx.Tx, userID uuid.UUID, subject string) error {
	var batch pgx.Batch
	batch.Queue(insertLinkRowSQL, s.cfg.Firebase.Project(), subject, userID, s.now())
	batch.Queue(trimLinkRowsSQL, userID, maxLinks)
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("link %s: %w", userID, err)
	}
	return nil
}

// providedName makes a display name of what a provider calls somebody: nobody is kept out for
// a name that they did not type here.
func providedName(name string) string {
	clean, err := partner.SanitizeText(strings.ToValidUTF8(name, ""), max(len(name), 1))
	if err != nil || !strings.ContainsFunc(clean, unicode.IsPrint) {
		return nameless
	}
	if chars := []rune(clean); len(chars) > maxNameChars {
		clean = strings.TrimSpace(string(chars[:maxNameChars]))
	}
	return clean
}
