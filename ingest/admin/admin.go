// Package admin is what the people who run the service may do to it: look at accounts and
// reports, decide on these, suspend, change tiers and slots, make administrators, and give
// their servers keys. The same Service stands behind /api/ops, which the page at /ops calls,
// and behind the operator's commands.
//
// What it guarantees, and on what that rests:
//
//   - Nobody gets further than their role: one table (permissions) names the least role of
//     every operation of the API, a server with an operation that is not in it, or that the
//     OpenAPI document has otherwise, does not start, and the role is read from the database
//     for each call, beside the session: a demotion or the end of the session holds at once,
//     whatever the access token says.
//   - An API key gets no further than its scopes, and never to what a user does, what people
//     wrote to each other, or keys: the table has no scope for these. One that has ended is
//     good for at most a second more (keyring), and on the instance that ended it no longer
//     at all. Keys are stored as hashes and shown once.
//   - Nothing is done or looked at without a line in the activity log: a change writes it in
//     its own transaction, a look-up before anything is shown, and who is turned away leaves
//     one too. Without the line there is no answer.
//
// The package starts no goroutine. Deadlines are Config.Within, counted from each call.
// What it keeps in memory is bounded by the number of keys there can be.
package admin

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

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
	// KeysFor is how long what is known of API keys is reused: one that another instance
	// ended is let in for at most so long. Default 1 s.
	KeysFor time.Duration
	// Registerer gets the count of refused keys; nil: nobody does.
	Registerer prometheus.Registerer
}

// Service is the administration. It is safe for concurrent use.
type Service struct {
	cfg  Config
	pool *pgxpool.Pool
	keys *keyring
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
	if cfg.KeysFor == 0 {
		cfg.KeysFor = time.Second
	}
	s := &Service{cfg: cfg, pool: cfg.Pool}
	var err error
	if s.keys, err = newKeyring(cfg, s.now); err != nil {
		return nil, err
	}
	return s, nil
}

// now is the service's time at the precision that Postgres keeps.
func (s *Service) now() time.Time { return s.cfg.Clock().UTC().Truncate(time.Microsecond) }

// Actor is who does something here.
type Actor struct {
	UserID  uuid.UUID // uuid.Nil: a server, or an operator at a console, who has the database's password
	KeyID   uuid.UUID // of the API key of a server; uuid.Nil: no server
	Address string
	Device  string // what the caller says of itself; of a console, which; of a server, its key's name
}

// id is the actor in the activity log: a user's id, or a key's.
func (a Actor) id() uuid.UUID {
	if a.KeyID != uuid.Nil {
		return a.KeyID
	}
	return a.UserID
}

// name says who it is, in a table that outlives sessions.
func (a Actor) name() string {
	switch {
	case a.KeyID != uuid.Nil:
		return "key:" + a.KeyID.String()
	case a.UserID != uuid.Nil:
		return "user:" + a.UserID.String()
	default:
		return "operator:" + a.Device
	}
}

type actorKey struct{}

// actorOf returns who calls an operation; Admit has put it there.
func actorOf(ctx context.Context) Actor {
	a, _ := ctx.Value(actorKey{}).(Actor)
	return a
}
