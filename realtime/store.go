package realtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/sony/gobreaker/v2"

	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/partner"
)

// errTicket is a ticket that is unknown, used or too old.
var errTicket = errors.New("ticket is not valid")

// store is the gateway's view of the primary. Reads of inboxes share a limit and a
// breaker, so that neither a mass reconnect nor a dead database becomes a stampede.
type store struct {
	pool    *pgxpool.Pool
	clock   func() time.Time
	slots   chan struct{}
	breaker *gobreaker.CircuitBreaker[page]
	within  time.Duration
	m       *metrics
}

func newStore(cfg Config, m *metrics) *store {
	return &store{
		pool: cfg.Pool, clock: cfg.Clock, slots: make(chan struct{}, cfg.MaxReads), within: cfg.ReadWithin, m: m,
		breaker: gobreaker.NewCircuitBreaker[page](gobreaker.Settings{
			Name:        "inbox",
			Timeout:     time.Second,
			MaxRequests: 2,
			ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= 5 },
			// A socket that went away says nothing about the database.
			IsExcluded:    func(err error) bool { return errors.Is(err, context.Canceled) },
			OnStateChange: m.breakerChanged,
		}),
	}
}

// page is one read of a user's inbox.
type page struct {
	epoch  string
	head   int64 // of the inbox, read before the rows: whatever is up to it is among them or gone
	live   bool  // the session exists, and is neither revoked nor expired
	rows   []row
	readAt time.Time // before the read: what is true at it is in the page
	full   bool      // there may be more rows
}

type row struct {
	Seq       int64
	ID        uuid.UUID
	Type      partner.EventType
	AppliedAt time.Time
	Data      json.RawMessage
	Withdrawn bool // a cut took it back: only its place is left (G9)
}

// kind is the type that the row is sent as.
func (r row) kind() string {
	if r.Withdrawn {
		return kindWithdrawn
	}
	return r.Type.String()
}

// kindWithdrawn is the type of a placeholder. It is no event type: nothing of it is stored.
const kindWithdrawn = "withdrawn"

// The head is read in a statement before the rows, so with READ COMMITTED the rows can
// be newer than it but never older.
const headSQL = `
SELECT e.epoch,
       COALESCE((SELECT last_seq FROM user_streams WHERE user_id = $1), 0),
       EXISTS (SELECT FROM sessions WHERE id = $2 AND user_id = $1 AND revoked_at IS NULL AND expires_at > $3)
FROM stream_epoch e`

// One index range on the inbox and one look-up per row and table, whatever the statistics
// say. The view says what cuts took back; the data of such a row does not leave the table.
const pageSQL = `
SELECT i.seq, e.id, e.type, e.applied_at, CASE WHEN i.withdrawn THEN '{}'::json ELSE e.data END, i.withdrawn
FROM (SELECT seq, partition, event_seq, withdrawn FROM inbox_entries
      WHERE user_id = $1 AND seq > $2 ORDER BY seq LIMIT $3) i
CROSS JOIN LATERAL (SELECT id, type, applied_at, data FROM events
      WHERE partition = i.partition AND seq = i.event_seq LIMIT 1) e
ORDER BY i.seq`

// read returns the head of the user's inbox and, unless after is negative, up to limit
// of the events after it. It waits for one of the slots until ctx ends.
func (st *store) read(ctx context.Context, user, session uuid.UUID, after int64, limit int) (page, error) {
	select {
	case st.slots <- struct{}{}:
		defer func() { <-st.slots }()
	case <-ctx.Done():
		return page{}, fmt.Errorf("wait to read inbox: %w", ctx.Err())
	}
	start := time.Now()
	p, err := st.breaker.Execute(func() (page, error) {
		st.m.pages.Inc()
		ctx, cancel := context.WithTimeout(ctx, st.within)
		defer cancel()
		return st.query(ctx, user, session, after, limit)
	})
	outcome := "ok"
	switch {
	case errors.Is(err, gobreaker.ErrOpenState), errors.Is(err, gobreaker.ErrTooManyRequests):
		outcome = "refused"
	case err != nil:
		outcome = "error"
	}
	st.m.readTime.WithLabelValues(outcome).Observe(seconds(time.Since(start)))
	if err != nil {
		return page{}, fmt.Errorf("read inbox of %s after %d: %w", user, after, err)
	}
	return p, nil
}

func (st *store) query(ctx context.Context, user, session uuid.UUID, after int64, limit int) (page, error) {
	p := page{readAt: st.clock()}
	batch := &pgx.Batch{}
	batch.Queue(headSQL, user, session, p.readAt).QueryRow(func(r pgx.Row) error {
		return r.Scan(&p.epoch, &p.head, &p.live)
	})
	if after >= 0 {
		batch.Queue(pageSQL, user, after, limit).Query(func(rows pgx.Rows) error {
			var err error
			p.rows, err = pgx.CollectRows(rows, pgx.RowToStructByPos[row])
			return err
		})
	}
	if err := st.pool.SendBatch(ctx, batch).Close(); err != nil {
		return page{}, err
	}
	p.full = len(p.rows) == limit
	return p, nil
}

// The row is gone with the first look: that makes a ticket single-use, whoever races.
const ticketSQL = `
DELETE FROM realtime_tickets WHERE hash = $1
RETURNING user_id, session_id, expires_at`

// redeem uses a ticket up and returns whose it was, or errTicket.
func (st *store) redeem(ctx context.Context, ticket string) (user, session uuid.UUID, err error) {
	ctx, cancel := context.WithTimeout(ctx, st.within)
	defer cancel()
	var expires time.Time
	err = st.pool.QueryRow(ctx, ticketSQL, identity.HashSecret(ticket)).Scan(&user, &session, &expires)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return uuid.Nil, uuid.Nil, errTicket
	case err != nil:
		return uuid.Nil, uuid.Nil, fmt.Errorf("redeem ticket: %w", err)
	case !st.clock().Before(expires):
		return uuid.Nil, uuid.Nil, errTicket
	}
	return user, session, nil
}

const revokedSQL = `
SELECT k.id FROM unnest($1::uuid[]) k(id)
WHERE NOT EXISTS (SELECT FROM sessions s WHERE s.id = k.id AND s.revoked_at IS NULL AND s.expires_at > $2)`

// revoked returns which of the sessions are revoked, expired or gone.
func (st *store) revoked(ctx context.Context, sessions []uuid.UUID) ([]uuid.UUID, error) {
	ctx, cancel := context.WithTimeout(ctx, st.within)
	defer cancel()
	rows, err := st.pool.Query(ctx, revokedSQL, sessions, st.clock())
	if err != nil {
		return nil, fmt.Errorf("look up sessions: %w", err)
	}
	dead, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("look up sessions: %w", err)
	}
	return dead, nil
}

type head struct {
	User  uuid.UUID
	Seq   int64
	Epoch string
}

const headsSQL = `
SELECT k.id, COALESCE((SELECT last_seq FROM user_streams WHERE user_id = k.id), 0), e.epoch
FROM unnest($1::uuid[]) k(id) CROSS JOIN stream_epoch e`

// heads returns the heads of the users' inboxes.
func (st *store) heads(ctx context.Context, users []uuid.UUID) ([]head, error) {
	ctx, cancel := context.WithTimeout(ctx, st.within)
	defer cancel()
	rows, err := st.pool.Query(ctx, headsSQL, users)
	if err != nil {
		return nil, fmt.Errorf("look up heads: %w", err)
	}
	heads, err := pgx.CollectRows(rows, pgx.RowToStructByPos[head])
	if err != nil {
		return nil, fmt.Errorf("look up heads: %w", err)
	}
	return heads, nil
}

// Rows of sessions that have gone meanwhile are left out, since their reference would
// fail the others; those of another history too, since their sequences mean nothing now.
// Ordered, so that two gateways never lock the same two rows the other way round.
const acksSQL = `
INSERT INTO acks (user_id, session_id, seq, visible_seq, updated_at)
SELECT k.user_id, k.session_id, k.seq, k.visible_seq, $6
FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[], $5::text[])
       AS k(user_id, session_id, seq, visible_seq, epoch)
WHERE k.epoch = (SELECT epoch FROM stream_epoch)
  AND EXISTS (SELECT FROM sessions s WHERE s.id = k.session_id)
ORDER BY k.user_id, k.session_id
ON CONFLICT (user_id, session_id) DO UPDATE
SET seq = GREATEST(acks.seq, EXCLUDED.seq),
    visible_seq = GREATEST(acks.visible_seq, EXCLUDED.visible_seq),
    updated_at = EXCLUDED.updated_at
WHERE EXCLUDED.seq > acks.seq OR EXCLUDED.visible_seq > acks.visible_seq`

// acknowledge writes what sessions have acknowledged. Values never fall.
func (st *store) acknowledge(ctx context.Context, acks []ack) error {
	ctx, cancel := context.WithTimeout(ctx, st.within)
	defer cancel()
	n := len(acks)
	users, sessions := make([]uuid.UUID, n), make([]uuid.UUID, n)
	seqs, visible, epochs := make([]int64, n), make([]int64, n), make([]string, n)
	for i, a := range acks {
		users[i], sessions[i], seqs[i], visible[i], epochs[i] = a.user, a.session, a.seq, a.visible, a.epoch
	}
	if _, err := st.pool.Exec(ctx, acksSQL, users, sessions, seqs, visible, epochs, st.clock()); err != nil {
		return fmt.Errorf("write %d acknowledgements: %w", n, err)
	}
	return nil
}
