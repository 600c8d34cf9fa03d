package accounts

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/partner"
)

// RegisterInput is a new account.
type RegisterInput struct {
	Email       string
	Password    string
	DisplayName string
	BirthDate   *time.Time // only its date counts
	Consent     string     // the version of the terms that is agreed to; empty: to none
	Device      *Device
}

// codeAttempts bounds how often a taken partner code is drawn again; one in 2^50 is.
const codeAttempts = 3

const (
	insertUserSQL = `
INSERT INTO users (id, display_name, partner_code, role, status, birth_date, created_at, consent_version, consented_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, NULLIF($8, ''), CASE WHEN $8 <> '' THEN $7::timestamptz END)`

	//nolint:gosec // a statement, not a credential
	insertCredentialSQL = `
INSERT INTO credentials (user_id, email, password_hash)
VALUES ($1, $2, $3)`

	insertSlotsSQL = `
INSERT INTO user_slots (user_id, slot)
SELECT $1, n FROM generate_series(1, $2::int) AS n`

	insertStreamSQL = `
INSERT INTO user_streams (user_id)
VALUES ($1)`
)

// Register makes an account with its slots, its inbox and a first session, all or
// nothing. Its faults are invalid_request and email_taken.
func (s *Service) Register(ctx context.Context, in RegisterInput) (AuthResult, error) {
	var f faults
	email := f.email("/email", in.Email)
	f.password("/password", in.Password)
	name := f.text("/displayName", in.DisplayName, true, maxNameChars)
	a := newAccount{name: name, born: in.BirthDate, consent: in.Consent}
	s.entitled(&f, a)
	device := f.device("/device", in.Device)
	if err := f.err(); err != nil {
		return AuthResult{}, err
	}
	hash, err := s.cfg.Passwords.Hash(ctx, in.Password) // before the transaction: no lock is held so long
	if err != nil {
		return AuthResult{}, err
	}

	o := a.owner()
	var started session
	for attempt := 1; ; attempt++ {
		o.PartnerCode = identity.NewPartnerCode()
		err = s.transact(ctx, func(tx pgx.Tx) error {
			var batch pgx.Batch
			s.queueAccount(&batch, o, a)
			batch.Queue(insertCredentialSQL, o.ID, email, hash)
			if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
				return err
			}
			var err error
			started, err = s.startSession(ctx, tx, newSession{userID: o.ID, device: device})
			return err
		})
		if attempt == codeAttempts || !violates(err, "users_partner_code_key") {
			break
		}
	}
	switch {
	// Two registrations of one address: the constraint lets one commit, however they race.
	case violates(err, "credentials_email_key"):
		return AuthResult{}, errEmailTaken
	case err != nil:
		return AuthResult{}, fmt.Errorf("register account: %w", err)
	}
	s.welcome(ctx, email)
	return s.result(o, started.id, started.refresh)
}

var errEmailTaken = fault.New(fault.Conflict, "email_taken", "This e-mail address has an account.")

// newAccount is what its owner says of an account that is to be made.
type newAccount struct {
	name    string
	born    *time.Time
	consent string
}

// owner returns the account's owner, with a partner code that may be drawn again.
func (a newAccount) owner() owner {
	return owner{
		Account: Account{ID: uuid.New(), DisplayName: a.name, PartnerCode: identity.NewPartnerCode()},
		role:    identity.RoleUser, status: partner.UserActive,
	}
}

// entitled demands what the service does of everybody who gets an account.
func (s *Service) entitled(f *faults, a newAccount) {
	f.birthDate("/birthDate", a.born, s.now())
	f.oldEnough("/birthDate", a.born, s.cfg.MinAge, s.now())
	f.consent("/consent", a.consent, s.cfg.ConsentVersion)
}

// queueAccount adds to a batch what every account has, however its owner signs in.
func (s *Service) queueAccount(to *pgx.Batch, o owner, a newAccount) {
	now := s.now()
	to.Queue(insertUserSQL, o.ID, o.DisplayName, o.PartnerCode, o.role, o.status, a.born, now, s.cfg.ConsentVersion)
	to.Queue(insertSlotsSQL, o.ID, s.cfg.Slots)
	to.Queue(insertStreamSQL, o.ID)
	Announce(to, o.ID, s.cfg.Partitions, now)
}
