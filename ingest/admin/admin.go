// Package admin is what the people who run the service may do to it: look at accounts and
// reports, decide on these, suspend, change tiers and slots, make administrators. The same Service stands behind /api/ops and behind the operator's
// commands.
//
// What it guarantees, and on what that rests:
//
//   - Nobody gets further than their role: one table (permissions) names the least role of
//     every operation, a server with an operation that is not in it does not start, and the
//     role is read from the database for each call, beside the session: a demotion or the
//     end of the session holds at once, whatever the access token says.
//   - Nothing is done or looked at without a line in the activity log: a change writes it in
//     its own transaction, a look-up before anything is shown, and who is turned away leaves
//     one too. Without the line there is no answer.
//
// The package starts no goroutine. Deadlines are Config.Within, counted from each call.
package admin

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bondmate/backend/ingest/accounts"
)

// Config configures a Service. All fields up to Log are required.
type Config struct {
	Pool       *pgxpool.Pool
	Partitions int // of the commands topic
	Clock      func() time.Time
	Log        *slog.Logger
	// How many slots the tiers bring; default 1 and 3.
	SlotsFree, SlotsPremium int
	// Revocations is told of the sessions that end here; nil: nobody is.
	Revocations accounts.Revocations
	// Within bounds each call, the wait for a connection included; default 3 s.
	Within time.Duration
}

// Service is the administration. It is safe for concurrent use.
type Service struct {
	cfg  Config
	pool *pgxpool.Pool
}

// New returns a service.
func New(cfg Config) (*Service, error) {
	if cfg.Pool == nil || cfg.Partitions <= 0 || cfg.Clock == nil || cfg.Log == nil {
		return nil, errors.New("admin: pool, partitions, clock and log are required")
	}
	if cfg.Within == 0 {
		cfg.Within = 3 * time.Second
	}
	if cfg.SlotsFree == 0 {
		cfg.SlotsFree = 1
	}
	if cfg.SlotsPremium == 0 {
		cfg.SlotsPremium = 3
	}
	return &Service{cfg: cfg, pool: cfg.Pool}, nil
}

// now is the service's time at the precision that Postgres keeps.
func (s *Service) now() time.Time { return s.cfg.Clock().UTC().Truncate(time.Microsecond) }

// Actor is who does something here.
type Actor struct {
	UserID  uuid.UUID // uuid.Nil: an operator at a console, who has the database's password
	Address string
	Device  string // what the caller says of itself; of a console, which
}

type actorKey struct{}

// actorOf returns who calls an operation; Admit has put it there.
func actorOf(ctx context.Context) Actor {
	a, _ := ctx.Value(actorKey{}).(Actor)
	return a
}
