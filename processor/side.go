package processor

import (
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/bondmate/backend/pkg/partner"
)

// sideKey names one user's side of a pair, or one user's nickname for another.
type sideKey struct{ owner, other uuid.UUID }

// What each of a pair has decided about the other. LATERAL also for the nickname: an
// EXISTS could become a hash of the whole table while that is empty.
const loadSidesSQL = `
SELECT k.owner, k.other, s.blocked_at, s.door_closed_at, s.forfeited, COALESCE(s.declines, 0), s.last_declined_at,
       s.sends, n.named IS NOT NULL
FROM unnest($1::uuid[], $2::uuid[]) AS k (owner, other)
LEFT JOIN LATERAL (
    SELECT x.user_id, x.blocked_at, x.door_closed_at, x.forfeited, x.declines, x.last_declined_at, x.sends
    FROM pair_sides x WHERE x.user_id = k.owner AND x.other_id = k.other LIMIT 1) AS s ON true
LEFT JOIN LATERAL (
    SELECT true AS named FROM nicknames x WHERE x.owner = k.owner AND x.target = k.other LIMIT 1) AS n ON true
WHERE s.user_id IS NOT NULL OR n.named`

const writeSidesSQL = `
INSERT INTO pair_sides (user_id, other_id, blocked_at, door_closed_at, forfeited, declines, last_declined_at, sends)
SELECT user_id, other_id, blocked_at, door_closed_at, NULLIF(forfeited, '00000000-0000-0000-0000-000000000000'),
       declines, last_declined_at,
       ARRAY(SELECT t::timestamptz FROM unnest(string_to_array(NULLIF(sends, ''), ',')) AS t)
FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::uuid[], $6::smallint[],
            $7::timestamptz[], $8::text[])
    AS n (user_id, other_id, blocked_at, door_closed_at, forfeited, declines, last_declined_at, sends)
ON CONFLICT (user_id, other_id) DO UPDATE SET
    blocked_at = excluded.blocked_at, door_closed_at = excluded.door_closed_at, forfeited = excluded.forfeited,
    declines = excluded.declines, last_declined_at = excluded.last_declined_at, sends = excluded.sends`

// By row address: a join of a DELETE is the planner's to order.
const deleteSidesSQL = `
DELETE FROM pair_sides WHERE ctid = ANY (ARRAY(
    SELECT s.ctid FROM unnest($1::uuid[], $2::uuid[]) AS k (owner, other)
    CROSS JOIN LATERAL (SELECT x.ctid FROM pair_sides x WHERE x.user_id = k.owner AND x.other_id = k.other LIMIT 1) AS s))`

const writeNicknamesSQL = `
INSERT INTO nicknames (owner, target, nickname, updated_at)
SELECT owner, target, nickname, updated_at
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[]) AS n (owner, target, nickname, updated_at)
ON CONFLICT (owner, target) DO UPDATE SET nickname = excluded.nickname, updated_at = excluded.updated_at`

const deleteNicknamesSQL = `
DELETE FROM nicknames WHERE ctid = ANY (ARRAY(
    SELECT s.ctid FROM unnest($1::uuid[], $2::uuid[]) AS k (owner, target)
    CROSS JOIN LATERAL (SELECT x.ctid FROM nicknames x WHERE x.owner = k.owner AND x.target = k.target LIMIT 1) AS s))`

func (w *world) scanSides(rows pgx.Rows) error {
	var (
		key                     sideKey
		blocked, door, declined pgtype.Timestamptz
		forfeited               uuid.NullUUID
		declines                int16
		named                   bool
	)
	for rows.Next() {
		var sends []time.Time // fresh for each row: the side keeps it
		err := rows.Scan(raw(&key.owner), raw(&key.other), &blocked, &door, &forfeited, &declines, &declined, &sends, &named)
		if err != nil {
			return err
		}
		for i := range sends {
			sends[i] = sends[i].UTC()
		}
		*w.pair(partner.PairOf(key.owner, key.other)).side(key.owner) = partner.Side{
			BlockedAt: instant(blocked), DoorClosedAt: instant(door), Forfeited: forfeited.UUID,
			Declines: int(declines), LastDeclined: instant(declined), Sends: sends, Named: named,
		}
	}
	return rows.Err()
}

// side is the place of one user's Side.
func (p *pair) side(owner uuid.UUID) *partner.Side {
	if p.state.Pair.Low == owner {
		return &p.state.Low
	}
	return &p.state.High
}

func (c *changes) queueSides(q *pgx.Batch) {
	var gone, kept []sideKey
	for key, s := range c.sides {
		if s.Empty() {
			gone = append(gone, key)
		} else {
			kept = append(kept, key)
		}
	}
	if len(gone) > 0 {
		owners, others := keyColumns(gone)
		q.Queue("delete_sides", owners, others)
	}
	if n := len(kept); n > 0 {
		owners, others := keyColumns(kept)
		blocked, doors, declined := make([]*time.Time, n), make([]*time.Time, n), make([]*time.Time, n)
		forfeited, declines, sends := make([]uuid.UUID, n), make([]int16, n), make([]string, n)
		for i, key := range kept {
			s := c.sides[key]
			blocked[i], doors[i], declined[i] = nullable(s.BlockedAt), nullable(s.DoorClosedAt), nullable(s.LastDeclined)
			forfeited[i], declines[i], sends[i] = s.Forfeited, int16(min(s.Declines, maxDeclines)), joinTimes(s.Sends)
		}
		q.Queue("write_sides", owners, others, blocked, doors, forfeited, declines, declined, sends)
	}
}

// maxDeclines is what the column holds: beyond the last cooldown the number says nothing.
const maxDeclines = 1<<15 - 1

func (c *changes) queueNicknames(q *pgx.Batch) {
	var gone, kept []sideKey
	for key, n := range c.nicknames {
		if n.Text == "" {
			gone = append(gone, key)
		} else {
			kept = append(kept, key)
		}
	}
	if len(gone) > 0 {
		owners, targets := keyColumns(gone)
		q.Queue("delete_nicknames", owners, targets)
	}
	if n := len(kept); n > 0 {
		owners, targets := keyColumns(kept)
		texts, updated := make([]string, n), make([]time.Time, n)
		for i, key := range kept {
			texts[i], updated[i] = c.nicknames[key].Text, c.nicknames[key].UpdatedAt
		}
		q.Queue("write_nicknames", owners, targets, texts, updated)
	}
}

func keyColumns(keys []sideKey) (owners, others []uuid.UUID) {
	owners, others = make([]uuid.UUID, len(keys)), make([]uuid.UUID, len(keys))
	for i, k := range keys {
		owners[i], others[i] = k.owner, k.other
	}
	return owners, others
}

// joinTimes packs the times of one row into one text: unnest flattens arrays of arrays.
func joinTimes(times []time.Time) string {
	var out []byte
	for i, t := range times {
		if i > 0 {
			out = append(out, ',')
		}
		out = t.UTC().AppendFormat(out, time.RFC3339Nano)
	}
	return string(out)
}
