package processor

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/partner"
)

// cutRow takes back what recipient has from origin up to lastSeq, save what was acknowledged.
type cutRow struct {
	recipient uuid.UUID
	origin    uuid.UUID
	lastSeq   int64
}

// What any session of the recipient has acknowledged by now stays theirs; the statement
// runs in the ending transaction, under the lock of both streams, so nothing is appended
// to the inbox meanwhile (G9).
const writeCutsSQL = `
INSERT INTO cuts (recipient, origin, after_seq, last_seq, made_at)
SELECT n.recipient, n.origin, a.seq, n.last_seq, $4::timestamptz
FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS n (recipient, origin, last_seq)
CROSS JOIN LATERAL (SELECT COALESCE(max(x.seq), 0) AS seq FROM acks x WHERE x.user_id = n.recipient) AS a
WHERE a.seq < n.last_seq
ON CONFLICT (recipient, origin, last_seq) DO NOTHING`

// Deliveries that wait are settled here, under the lock that a claim takes first: who
// claimed before has handed over, who comes after finds nothing to claim. What is inserted
// later, by a notifier that is behind, meets the cut when it is claimed.
const withdrawPushesSQL = `
UPDATE push_deliveries p
SET status = 3, outcome = 'withdrawn', settled_at = $4::timestamptz
WHERE p.status = 1 AND p.id = ANY (ARRAY(
    SELECT d.id
    FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS n (recipient, origin, last_seq)
    CROSS JOIN LATERAL (
        SELECT x.id, x.seq FROM push_deliveries x
        WHERE x.user_id = n.recipient AND x.seq <= n.last_seq AND x.status < 3) AS d
    CROSS JOIN LATERAL (
        SELECT FROM inbox_entries i WHERE i.user_id = n.recipient AND i.seq = d.seq AND i.withdrawn LIMIT 1) AS w))`

// cut keeps the cuts of a decision at the inbox heads before its own events.
func (w *world) cut(cuts []partner.Cut) {
	for _, c := range cuts {
		if head := w.streams[c.Recipient]; head > 0 {
			w.changes.cuts[cutRow{c.Recipient, c.Origin, head}] = struct{}{}
		}
	}
}

func (b *batch) queueCuts(q *pgx.Batch, c *changes) {
	rows := make([]cutRow, 0, len(c.cuts))
	for r := range c.cuts {
		rows = append(rows, r)
	}
	if len(rows) == 0 {
		return
	}
	slices.SortFunc(rows, func(x, y cutRow) int {
		return cmp.Or(bytes.Compare(x.recipient[:], y.recipient[:]), bytes.Compare(x.origin[:], y.origin[:]), cmp.Compare(x.lastSeq, y.lastSeq))
	})
	n := len(rows)
	recipients, origins, lasts := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]int64, n)
	for i, r := range rows {
		recipients[i], origins[i], lasts[i] = r.recipient, r.origin, r.lastSeq
	}
	q.Queue("write_cuts", recipients, origins, lasts, b.now)
	q.Queue("withdraw_pushes", recipients, origins, lasts, b.now)
}
