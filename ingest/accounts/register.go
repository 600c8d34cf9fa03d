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
	f.birthDate("/birthDate", in.BirthDate, s.now())
	f.oldEnough("/birthDate", in.BirthDate, s.cfg.MinAge, s.now())
	f.consent("/consent", in.Consent, s.cfg.ConsentVersion)
	device := f.device("/device", in.Device)
	if err := f.err(); err != nil {
		return AuthResult{}, err
	}
	hash, err := s.cfg.Passwords.Hash(ctx, in.Password) // before the transaction: no lock is held so long
	if err != nil {
		return AuthResult{}, err
	}

	o := owner{Account: Account{ID: uuid.New(), DisplayName: name}, role: identity.RoleUser, status: partner.UserActive}
	var started session
	for attempt := 1; ; attempt++ {
		o.PartnerCode = identity.NewPartnerCode()
		err = s.transact(ctx, func(tx pgx.Tx) error {
			now := s.now()
			var batch pgx.Batch
			batch.Queue(insertUserSQL, o.ID, o.DisplayName, o.PartnerCode, o.role, o.status, in.BirthDate, now, s.cfg.ConsentVersion)
			batch.Queue(insertCredentialSQL, o.ID, email, hash)
			batch.Queue(insertSlotsSQL, o.ID, s.cfg.Slots)
			batch.Queue(insertStreamSQL, o.ID)
			Announce(&batch, o.ID, s.cfg.Partitions, now)
			if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
				return err
			}
			var err error
			started, err = s.startSession(ctx, tx, o.ID, device)
			return err
		})
		if attempt == codeAttempts || !violates(err, "users_partner_code_key") {
			break
		}
	}
	switch {
	// Two registrations of one address: the constraint lets one commit, however they race.
	case violates(err, "credentials_email_key"):
		return AuthResult{}, fault.New(fault.Conflict, "email_taken", "This e-mail address has an account.")
	case err != nil:
		return AuthResult{}, fmt.Errorf("register account: %w", err)
	}
	s.welcome(ctx, email)
	return s.result(o, started.id, started.refresh)
}
