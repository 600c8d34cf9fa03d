package processor

import (
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/bondmate/backend/pkg/partner"
)

// The pending breakup of each pair, and the breakups that commands name.
const loadBreakupsSQL = `
SELECT b.id, b.partnership_id, b.low, b.high, b.asker, b.reason, b.status, b.created_at, b.expires_at, b.resolved_at
FROM unnest($1::uuid[], $2::uuid[]) AS k (low, high)
CROSS JOIN LATERAL (
    SELECT x.id, x.partnership_id, x.low, x.high, x.asker, x.reason, x.status, x.created_at, x.expires_at, x.resolved_at
    FROM breakups x WHERE x.low = k.low AND x.high = k.high AND x.status = 1 LIMIT 1) AS b
UNION ALL
SELECT b.id, b.partnership_id, b.low, b.high, b.asker, b.reason, b.status, b.created_at, b.expires_at, b.resolved_at
FROM unnest($3::uuid[]) AS k (id)
CROSS JOIN LATERAL (
    SELECT x.id, x.partnership_id, x.low, x.high, x.asker, x.reason, x.status, x.created_at, x.expires_at, x.resolved_at
    FROM breakups x WHERE x.id = k.id LIMIT 1) AS b`

const writeBreakupsSQL = `
INSERT INTO breakups (id, partnership_id, low, high, asker, reason, status, created_at, expires_at, resolved_at)
SELECT id, partnership_id, low, high, asker, reason, status, created_at, expires_at, resolved_at
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::text[], $7::smallint[],
            $8::timestamptz[], $9::timestamptz[], $10::timestamptz[])
    AS n (id, partnership_id, low, high, asker, reason, status, created_at, expires_at, resolved_at)
ON CONFLICT (id) DO UPDATE SET
    reason = excluded.reason, status = excluded.status, resolved_at = excluded.resolved_at`

func (w *world) scanBreakups(rows pgx.Rows) error {
	var (
		b        partner.Breakup
		status   int16
		resolved pgtype.Timestamptz
	)
	dest := []any{
		raw(&b.ID), raw(&b.PartnershipID), raw(&b.Pair.Low), raw(&b.Pair.High), raw(&b.Asker), &b.Reason, &status,
		&b.CreatedAt, &b.ExpiresAt, &resolved,
	}
	_, err := pgx.ForEachRow(rows, dest, func() error {
		b.Status = partner.BreakupStatus(status)
		b.CreatedAt, b.ExpiresAt, b.ResolvedAt = b.CreatedAt.UTC(), b.ExpiresAt.UTC(), instant(resolved)
		w.pair(b.Pair).putBreakup(b)
		return nil
	})
	return err
}

func (p *pair) putBreakup(b partner.Breakup) {
	for i := range p.state.Breakups {
		if p.state.Breakups[i].ID == b.ID {
			p.state.Breakups[i] = b
			return
		}
	}
	p.state.Breakups = append(p.state.Breakups, b)
}

// queueBreakups writes what is resolved before what is asked anew: a pair has one pending.
func (c *changes) queueBreakups(q *pgx.Batch) {
	var closed, open []partner.Breakup
	for _, b := range byID(c.breakups) {
		if b.Status == partner.BreakupPending {
			open = append(open, b)
		} else {
			closed = append(closed, b)
		}
	}
	for _, bs := range [...][]partner.Breakup{closed, open} {
		n := len(bs)
		if n == 0 {
			continue
		}
		ids, partnerships, askers := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n)
		lows, highs, reasons, status := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]string, n), make([]int16, n)
		created, expires, resolved := make([]time.Time, n), make([]time.Time, n), make([]*time.Time, n)
		for i, b := range bs {
			ids[i], partnerships[i], askers[i], reasons[i], status[i] = b.ID, b.PartnershipID, b.Asker, b.Reason, int16(b.Status)
			lows[i], highs[i] = b.Pair.Low, b.Pair.High
			created[i], expires[i], resolved[i] = b.CreatedAt, b.ExpiresAt, nullable(b.ResolvedAt)
		}
		q.Queue("write_breakups", ids, partnerships, lows, highs, askers, reasons, status, created, expires, resolved)
	}
}
