package realtime

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bondmate/backend/pkg/identity"
)

// errTicket is a ticket that is unknown, used or too old.
var errTicket = errors.New("ticket is not valid")

// store is the gateway's view of the primary, save for the inboxes: see reads.
type store struct {
	pool   *pgxpool.Pool
	clock  func() time.Time
	within time.Duration
}

func newStore(cfg Config) *store {
	return &store{pool: cfg.Pool, clock: cfg.Clock, within: cfg.ReadWithin}
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
