// Package accounts is who has an account and which sessions it has: registration,
// login, refresh tokens, profiles, push devices and realtime tickets.
//
// It writes to Postgres directly, because nothing here concerns two people: the partner
// domain goes through the pipe instead. What it guarantees, and on what that rests:
//
//   - One account an e-mail address: the unique constraint on credentials.
//   - A refresh token is exchanged once. A repeated exchange whose first answer was lost
//     gets the same answer; any older token of the chain ends the session.
//   - A session ends at the latest Config.SessionMaxAge after it began, however it is used.
//   - A session that has ended has no device and no ticket, and gets none: ending locks
//     the session's row, then deletes; adding holds a share lock on that row.
//   - A push address belongs to one account, the last to register it.
//   - Whether an account exists shows neither in a login's answer nor in its time, nor in
//     those of a wish for a new password: that is queued as it is, and looked at later.
//   - A token from a mail is good once: it is deleted under the account's lock.
//   - A password is compared only when Config.Attempts has admitted it and counted it as
//     wrong; what becomes of it is known in the transaction of what it was for.
//
// Every list that a stranger or a client can make longer has a bound in Config. Deadlines
// come from ctx, but for the look-ups of Standing: callers share them, so at most
// two goroutines, which end by themselves, run them on a deadline of their own. Mails are
// sent by Run, which owns its goroutines.
package accounts

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/maypok86/otter/v2"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/limit"
	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/pkg/postgres"
)

// Config configures a Service. Pool, Issuer, Passwords, Clock and Log are required.
type Config struct {
	Pool      *pgxpool.Pool
	Issuer    *identity.Issuer
	Passwords *identity.Passwords
	Clock     func() time.Time
	Log       *slog.Logger
	// Attempts bounds how often passwords can be tried; nil: nothing does.
	Attempts *limit.Attempts

	SessionTTL time.Duration // a session ends when it was not refreshed for so long; default 60 days
	// SessionMaxAge is how long after it began a session ends, however often it is refreshed;
	// default 365 days.
	SessionMaxAge time.Duration
	TicketTTL     time.Duration // default 60 s
	Slots         int           // partnerships a new account has room for; default 1
	Partitions    int           // of the commands topic; default contract.DefaultPartitions
	MinAge        int           // years from which one may register; default 0: any age, and no birth date is demanded
	// ConsentVersion is the version of the terms that one has to agree to when registering;
	// default none.
	ConsentVersion string
	MaxSessions    int // an account; the least recently used one ends; default 50
	MaxDevices     int // an account; the least recently registered one goes; default 10
	MaxTickets     int // unused ones of a session; default 8
	// SessionCacheTTL is how long an answer of Standing is reused: a session that
	// another instance ended is served for at most so long, if Forget is not called. Default 1 s.
	SessionCacheTTL time.Duration

	// Firebase verifies the tokens of LoginFirebase; nil: nobody signs in by it.
	Firebase Firebase
	// Revocations is told of the sessions that end before their time; nil: nobody is.
	Revocations Revocations

	// Mailer sends links to new passwords and to verify addresses; nil: nobody gets any.
	Mailer Mailer
	// FrontendURL returns the address of the pages to which these links lead, without a
	// slash at its end. Required with Mailer.
	FrontendURL func() string
}

// Revocations takes over to tell others of sessions that have ended, once that is committed.
// It must not wait. The reasons are contract's.
type Revocations interface {
	Ended(user uuid.UUID, reason string, sessions []uuid.UUID)
}

// sessionCacheSize bounds the answers of Standing that are kept: about 4 MB.
const sessionCacheSize = 50_000

// Service is the accounts. It is safe for concurrent use.
type Service struct {
	cfg    Config
	pool   *pgxpool.Pool
	log    *slog.Logger
	active *otter.Cache[uuid.UUID, verdict]

	activity *activity
	post     *post // nil without a mailer
}

// New returns a service.
func New(cfg Config) (*Service, error) {
	if cfg.Pool == nil || cfg.Issuer == nil || cfg.Passwords == nil || cfg.Clock == nil || cfg.Log == nil {
		return nil, errors.New("accounts: pool, issuer, passwords, clock and log are required")
	}
	if cfg.Mailer != nil && cfg.FrontendURL == nil {
		return nil, errors.New("accounts: mails need the front end's URL")
	}
	setDefault(&cfg.SessionTTL, 60*24*time.Hour)
	setDefault(&cfg.SessionMaxAge, 365*24*time.Hour)
	setDefault(&cfg.TicketTTL, time.Minute)
	setDefault(&cfg.Slots, 1)
	setDefault(&cfg.Partitions, contract.DefaultPartitions)
	setDefault(&cfg.MaxSessions, 50)
	setDefault(&cfg.MaxDevices, 10)
	setDefault(&cfg.MaxTickets, 8)
	setDefault(&cfg.SessionCacheTTL, time.Second)
	// Bounded by size alone, as in identity: no goroutine that somebody would have to stop.
	active, err := otter.New(&otter.Options[uuid.UUID, verdict]{MaximumSize: sessionCacheSize})
	if err != nil {
		return nil, fmt.Errorf("cache of active sessions: %w", err)
	}
	s := &Service{cfg: cfg, pool: cfg.Pool, log: cfg.Log, active: active}
	s.activity = &activity{pool: cfg.Pool, clock: s.now, maxAge: cfg.SessionMaxAge, waiting: map[uuid.UUID]*question{}}
	if cfg.Mailer != nil {
		s.post = &post{
			mailer: cfg.Mailer, queue: make(chan letter, postQueue), pause: postPause,
			link: func(path, token string) string { return cfg.FrontendURL() + path + "#token=" + token },
		}
	}
	return s, nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Account is the head of a user's own data, as a login answers it.
type Account struct {
	ID          uuid.UUID
	DisplayName string
	PartnerCode string
}

// AuthResult is a session as its client holds it.
type AuthResult struct {
	User         Account
	SessionID    uuid.UUID
	AccessToken  string
	ExpiresAt    time.Time // of the access token
	RefreshToken string
}

// owner is what the database says of the user of a session.
type owner struct {
	Account
	role   identity.Role
	status partner.UserStatus
}

// result signs the access token for a session that is committed.
func (s *Service) result(o owner, sessionID uuid.UUID, refresh identity.RefreshToken) (AuthResult, error) {
	token, expiresAt, err := s.cfg.Issuer.Issue(identity.Claims{UserID: o.ID, SessionID: sessionID, Role: o.role})
	if err != nil {
		return AuthResult{}, fmt.Errorf("session %s: %w", sessionID, err)
	}
	return AuthResult{User: o.Account, SessionID: sessionID, AccessToken: token, ExpiresAt: expiresAt, RefreshToken: refresh.String()}, nil
}

// admit says whether an account in this state may have a session. A deactivated one
// may: signing in is how its owner comes back.
func admit(status partner.UserStatus) error {
	switch status {
	case partner.UserActive, partner.UserDeactivated:
		return nil
	case partner.UserSuspended:
		return fault.New(fault.Forbidden, "forbidden", "This account is suspended.")
	case partner.UserDeleting:
		return fault.New(fault.Forbidden, "account_deleting", "This account is being deleted.")
	default:
		return errSession
	}
}

// admitted are the states that admit lets in, for statements.
var admitted = []int16{int16(partner.UserActive), int16(partner.UserDeactivated)}

// errSession says that a session, or what should prove it, is not (or no longer) good.
var errSession = fault.New(fault.Unauthenticated, "unauthenticated", "Sign in again.")

// now is the service's time at the precision that Postgres keeps.
func (s *Service) now() time.Time { return s.cfg.Clock().UTC().Truncate(time.Microsecond) }

// transact runs fn in a transaction, again when Postgres broke it off; fn must be fit to
// run twice.
func (s *Service) transact(ctx context.Context, fn func(pgx.Tx) error) error {
	return postgres.Transact(ctx, s.pool, fn)
}

// violates reports whether err breaks the named unique constraint.
func violates(err error, constraint string) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == "23505" && pgErr.ConstraintName == constraint
}
