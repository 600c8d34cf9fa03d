package realtime

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/partner"
)

const sharersSQL = `
SELECT k.id
FROM unnest($1::uuid[]) AS k (id)
CROSS JOIN LATERAL (SELECT FROM users u WHERE u.id = k.id AND u.show_presence AND u.status = $2 LIMIT 1) u`

// sharers returns which of the users share their presence.
func (st *store) sharers(ctx context.Context, users []uuid.UUID) (map[uuid.UUID]bool, error) {
	if len(users) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, st.within)
	defer cancel()
	rows, err := st.pool.Query(ctx, sharersSQL, users, partner.UserActive)
	if err != nil {
		return nil, fmt.Errorf("look up who shares presence: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("look up who shares presence: %w", err)
	}
	out := make(map[uuid.UUID]bool, len(ids))
	for _, id := range ids {
		out[id] = true
	}
	return out, nil
}

// Rows of users who do not share (any more) go; of those who do the latest time stays.
// Ordered, so that two gateways never lock the same two rows the other way round.
const (
	saveSeenSQL = `
INSERT INTO presence (user_id, seen_at)
SELECT k.id, k.at
FROM unnest($1::uuid[], $2::timestamptz[]) AS k (id, at)
CROSS JOIN LATERAL (SELECT FROM users u WHERE u.id = k.id AND u.show_presence AND u.status = $3 LIMIT 1) u
ORDER BY k.id
ON CONFLICT (user_id) DO UPDATE SET seen_at = EXCLUDED.seen_at
WHERE EXCLUDED.seen_at > presence.seen_at`

	forgetSeenSQL = `
DELETE FROM presence
WHERE user_id = ANY (ARRAY(
	SELECT p.user_id FROM presence p JOIN users u ON u.id = p.user_id
	WHERE p.user_id = ANY ($1) AND NOT u.show_presence ORDER BY p.user_id FOR UPDATE OF p))`
)

// saveSeen notes when users were last seen.
func (st *store) saveSeen(ctx context.Context, users []uuid.UUID, at []time.Time) error {
	for len(users) > 0 {
		n := min(len(users), flushChunk)
		if err := st.exec(ctx, saveSeenSQL, users[:n], at[:n], partner.UserActive); err != nil {
			return fmt.Errorf("write when %d users were last seen: %w", n, err)
		}
		users, at = users[n:], at[n:]
	}
	return nil
}

// forgetSeen takes away when users were last seen, of those who no longer share it.
func (st *store) forgetSeen(ctx context.Context, users []uuid.UUID) error {
	if len(users) == 0 {
		return nil
	}
	if err := st.exec(ctx, forgetSeenSQL, users); err != nil {
		return fmt.Errorf("forget when %d users were last seen: %w", len(users), err)
	}
	return nil
}

func (st *store) exec(ctx context.Context, sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, st.within)
	defer cancel()
	_, err := st.pool.Exec(ctx, sql, args...)
	return err
}

// watching says that a viewer and a subject are partners now, whether both share, and when
// the subject was last seen.
type watching struct {
	Viewer, Subject uuid.UUID
	Shared          bool
	SeenAt          *time.Time
}

// One index range and a look-up per row and table, whatever the statistics say.
const watchingSQL = `
SELECT CASE WHEN k.views THEN k.id ELSE o.id END, CASE WHEN k.views THEN o.id ELSE k.id END, s.shared, e.seen_at
FROM (SELECT id, false AS views FROM unnest($1::uuid[]) AS a (id)
      UNION ALL SELECT id, true FROM unnest($2::uuid[]) AS b (id)) k
CROSS JOIN LATERAL (SELECT partnership_id FROM partnership_members WHERE user_id = k.id AND active) m
CROSS JOIN LATERAL (SELECT CASE WHEN p.low = k.id THEN p.high ELSE p.low END AS id
                    FROM partnerships p WHERE p.id = m.partnership_id AND p.status = $4 LIMIT 1) o
CROSS JOIN LATERAL (SELECT count(*) = 2 AS shared FROM users u
                    WHERE u.id IN (k.id, o.id) AND u.show_presence AND u.status = $3) s
LEFT JOIN LATERAL (SELECT e.seen_at FROM presence e
                   WHERE e.user_id = CASE WHEN k.views THEN o.id ELSE k.id END LIMIT 1) e ON true`

// watching returns the partners of the subjects, who view them, and of the viewers.
func (st *store) watching(ctx context.Context, subjects, viewers []uuid.UUID) ([]watching, error) {
	ctx, cancel := context.WithTimeout(ctx, st.within)
	defer cancel()
	rows, err := st.pool.Query(ctx, watchingSQL, subjects, viewers, partner.UserActive, partner.PartnershipActive)
	if err != nil {
		return nil, fmt.Errorf("look up who may see whom: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[watching])
	if err != nil {
		return nil, fmt.Errorf("look up who may see whom: %w", err)
	}
	return found, nil
}
