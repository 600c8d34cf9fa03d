package processor

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/bondmate/backend/pkg/partner"
)

// fence is what the partition row says at the moment its lock was granted.
type fence struct {
	partition int
	epoch     int64
	version   int64
	next      int64
}

// The fence (G7): whoever claims the partition has to wait for this lock, and who finds
// another epoch here writes nothing. Rows are locked in ascending order, as at claim.
const fenceSQL = `
SELECT partition, epoch, version, next_offset
FROM processor_partitions
WHERE partition = ANY($1::smallint[])
ORDER BY partition
FOR UPDATE`

// The lock that makes inbox sequences gapless (G5) and decisions about one user's slots
// serial (G3), and that serialises the look-up of a command's id (G1): its issuer is
// always among the users. Ascending, in one statement, so that two batches never wait for
// each other. What is decided on is loaded by later statements: in this one's snapshot
// the wait for the lock would not have happened yet.
const lockStreamsSQL = `
SELECT user_id, last_seq, read_seq
FROM user_streams
WHERE user_id = ANY($1::uuid[])
ORDER BY user_id
FOR NO KEY UPDATE`

// Streams that were missing when they should have been locked. They are made behind the
// fence, in its transaction, so that who lost the partition makes none (G7), and before
// any stream is locked, in ascending order.
const ensureStreamsSQL = `
INSERT INTO user_streams (user_id)
SELECT n.id FROM unnest($1::uuid[]) AS n (id) ORDER BY n.id
ON CONFLICT (user_id) DO NOTHING`

const loadUsersSQL = `
SELECT u.id, u.status,
       ARRAY(SELECT s.slot FROM user_slots s WHERE s.user_id = u.id ORDER BY s.slot),
       ARRAY(SELECT m.slot FROM partnership_members m WHERE m.user_id = u.id AND m.active ORDER BY m.slot),
       ARRAY(SELECT m.partnership_id FROM partnership_members m WHERE m.user_id = u.id AND m.active ORDER BY m.slot),
       ARRAY(SELECT o.partner FROM partnership_members m
             CROSS JOIN LATERAL (SELECT CASE WHEN x.low = u.id THEN x.high ELSE x.low END AS partner
                                 FROM partnerships x WHERE x.id = m.partnership_id LIMIT 1) AS o
             WHERE m.user_id = u.id AND m.active ORDER BY m.slot)
FROM unnest($1::uuid[]) AS k (id)
CROSS JOIN LATERAL (SELECT x.id, x.status FROM users x WHERE x.id = k.id LIMIT 1) AS u`

// The pending request of each pair, and the requests that commands name.
const loadRequestsSQL = `
SELECT r.id, r.sender, r.target, r.message, r.fresh, r.status, r.created_at, r.expires_at, r.resolved_at
FROM unnest($1::uuid[], $2::uuid[]) AS k (low, high)
CROSS JOIN LATERAL (
    SELECT x.id, x.sender, x.target, x.message, x.fresh, x.status, x.created_at, x.expires_at, x.resolved_at
    FROM requests x
    WHERE LEAST(x.sender, x.target) = k.low AND GREATEST(x.sender, x.target) = k.high AND x.status = 1
    LIMIT 1) AS r
UNION ALL
SELECT r.id, r.sender, r.target, r.message, r.fresh, r.status, r.created_at, r.expires_at, r.resolved_at
FROM unnest($3::uuid[]) AS k (id)
CROSS JOIN LATERAL (
    SELECT x.id, x.sender, x.target, x.message, x.fresh, x.status, x.created_at, x.expires_at, x.resolved_at
    FROM requests x WHERE x.id = k.id LIMIT 1) AS r`

// The active or ended partnership of each pair; partnerships_open makes it one at most.
const loadPartnershipsSQL = `
SELECT p.id, p.low, p.high, p.status, l.slot, h.slot, p.started_at, p.ended_at, p.restorable_until,
       p.ended_by, p.reason, p.quiet, p.restored_count, p.version
FROM unnest($1::uuid[], $2::uuid[]) AS k (low, high)
CROSS JOIN LATERAL (
    SELECT x.id, x.low, x.high, x.status, x.started_at, x.ended_at, x.restorable_until, x.ended_by, x.reason, x.quiet,
           x.restored_count, x.version
    FROM partnerships x WHERE x.low = k.low AND x.high = k.high AND x.status < 3 LIMIT 1) AS p
CROSS JOIN LATERAL (
    SELECT m.slot FROM partnership_members m WHERE m.partnership_id = p.id AND m.user_id = p.low LIMIT 1) AS l
CROSS JOIN LATERAL (
    SELECT m.slot FROM partnership_members m WHERE m.partnership_id = p.id AND m.user_id = p.high LIMIT 1) AS h`

const loadCommandsSQL = `
SELECT c.id, c.fingerprint
FROM unnest($1::uuid[]) AS k (id)
CROSS JOIN LATERAL (SELECT x.id, x.fingerprint FROM commands x WHERE x.id = k.id LIMIT 1) AS c`

const loadParkedSQL = `
SELECT k.low, k.high
FROM unnest($1::uuid[], $2::uuid[]) AS k (low, high)
CROSS JOIN LATERAL (
    SELECT 1 FROM parked_commands x WHERE x.low = k.low AND x.high = k.high LIMIT 1) AS p`

// The pending requests of users whose last slot may fill, a limited number of each.
const loadPendingSQL = `
SELECT k.id, r.id, r.sender, r.target, r.created_at
FROM unnest($1::uuid[]) AS k (id)
CROSS JOIN LATERAL (
    (SELECT x.id, x.sender, x.target, x.created_at FROM requests x
     WHERE LEAST(x.sender, x.target) = k.id AND x.status = 1 LIMIT $2)
    UNION ALL
    (SELECT x.id, x.sender, x.target, x.created_at FROM requests x
     WHERE GREATEST(x.sender, x.target) = k.id AND x.status = 1 LIMIT $2)) AS r`

func scanFence(row pgx.CollectableRow) (f fence, err error) {
	err = row.Scan(&f.partition, &f.epoch, &f.version, &f.next)
	return f, err
}

// load begins the transaction, takes fence and locks and reads what the batch concerns,
// in one round trip.
func (b *batch) load(ctx context.Context, conn *pgx.Conn) (*world, []fence, error) {
	w := newWorld()
	var fences []fence
	q := &pgx.Batch{}
	q.Queue("begin")
	q.Queue("fence", b.partitionIDs()).Query(func(rows pgx.Rows) (err error) {
		fences, err = pgx.CollectRows(rows, scanFence)
		return err
	})
	if len(b.missing) > 0 {
		q.Queue(ensureStreamsSQL, b.missing)
	}
	q.Queue("lock_streams", b.users).Query(w.scanStreams)
	q.Queue("load_users", b.users).Query(w.scanUsers)
	if len(b.leavers) > 0 {
		q.Queue("load_counterparts", b.leavers, int64(partner.PendingLimit)).Query(w.scanCounterparts)
	}
	q.Queue("load_requests", b.lows, b.highs, b.requestIDs).Query(w.scanRequests)
	q.Queue("load_partnerships", b.lows, b.highs).Query(w.scanPartnerships)
	if len(b.sideKeys) > 0 {
		owners, others := keyColumns(b.sideKeys)
		q.Queue("load_sides", owners, others).Query(w.scanSides)
		q.Queue("load_breakups", b.lows, b.highs, b.breakupIDs).Query(w.scanBreakups)
	}
	q.Queue("load_commands", b.commandIDs).Query(w.scanCommands)
	q.Queue("load_parked", b.lows, b.highs).Query(w.scanParked)
	if len(b.erasing) > 0 {
		q.Queue(loadCouplesOfSQL, b.erasing).Query(w.scanCouplesOf)
		q.Queue(loadRemainsSQL, b.erasing, b.eraseRows).Query(w.scanRemains)
	}
	if len(b.userStates) > 0 {
		q.Queue("load_user_states", b.userStates).Query(w.scanUserStates)
	}
	if len(b.coupleLows) > 0 {
		q.Queue("load_couple_states", b.coupleLows, b.coupleHighs).Query(w.scanCoupleStates)
	}
	if len(b.fillers) > 0 {
		// What the batch itself may resolve does not count towards the limit of a decision.
		q.Queue("load_pending", b.fillers, partner.PendingLimit+len(b.items)).Query(w.scanPending)
	}
	if err := conn.SendBatch(ctx, q).Close(); err != nil {
		return nil, nil, fmt.Errorf("lock and load: %w", err)
	}
	for _, pair := range b.pairs {
		w.pair(pair)
	}
	w.sortPending(b.fillers)
	for _, id := range b.commandIDs {
		w.lookedUp[id] = struct{}{}
	}
	return w, fences, nil
}

func (w *world) scanStreams(rows pgx.Rows) error {
	var (
		id        uuid.UUID
		seq, read int64
	)
	_, err := pgx.ForEachRow(rows, []any{raw(&id), &seq, &read}, func() error {
		w.streams[id], w.reads[id] = seq, read
		return nil
	})
	return err
}

func (w *world) scanUsers(rows pgx.Rows) error {
	var (
		id             uuid.UUID
		status         int16
		slots, used    []int16
		partnershipIDs []uuid.UUID
		partners       []uuid.UUID
	)
	for rows.Next() {
		// Fresh slices for each row: the aggregates keep them.
		slots, used, partnershipIDs, partners = nil, nil, nil, nil
		if err := rows.Scan(raw(&id), &status, &slots, &used, &partnershipIDs, &partners); err != nil {
			return err
		}
		u := partner.User{ID: id, Status: partner.UserStatus(status), Slots: slots}
		for i, slot := range used {
			u.Occupied = append(u.Occupied, partner.Occupied{Slot: slot, PartnershipID: partnershipIDs[i], Partner: partners[i]})
		}
		w.users[id] = u
	}
	return rows.Err()
}

func (w *world) scanRequests(rows pgx.Rows) error {
	var (
		r        partner.Request
		status   int16
		resolved pgtype.Timestamptz
	)
	dest := []any{raw(&r.ID), raw(&r.Sender), raw(&r.Target), &r.Message, &r.Fresh, &status, &r.CreatedAt, &r.ExpiresAt, &resolved}
	_, err := pgx.ForEachRow(rows, dest, func() error {
		r.Status = partner.RequestStatus(status)
		r.CreatedAt, r.ExpiresAt, r.ResolvedAt = r.CreatedAt.UTC(), r.ExpiresAt.UTC(), instant(resolved)
		w.pair(partner.PairOf(r.Sender, r.Target)).put(r)
		return nil
	})
	return err
}

func (w *world) scanPartnerships(rows pgx.Rows) error {
	var (
		p                 partner.Partnership
		status            int16
		ended, restorable pgtype.Timestamptz
		endedBy           uuid.NullUUID
	)
	dest := []any{
		raw(&p.ID), raw(&p.Pair.Low), raw(&p.Pair.High), &status, &p.LowSlot, &p.HighSlot, &p.StartedAt, &ended, &restorable,
		&endedBy, &p.Reason, &p.Quiet, &p.RestoredCount, &p.Version,
	}
	_, err := pgx.ForEachRow(rows, dest, func() error {
		p.Status = partner.PartnershipStatus(status)
		p.StartedAt, p.EndedAt, p.RestorableUntil = p.StartedAt.UTC(), instant(ended), instant(restorable)
		p.EndedBy = endedBy.UUID
		loaded := p
		w.pair(p.Pair).state.Partnership = &loaded
		if p.Status == partner.PartnershipActive {
			w.wasActive[p.ID] = [2]int16{p.LowSlot, p.HighSlot}
		}
		return nil
	})
	return err
}

func (w *world) scanCommands(rows pgx.Rows) error {
	var (
		id          uuid.UUID
		fingerprint []byte
	)
	_, err := pgx.ForEachRow(rows, []any{raw(&id), &fingerprint}, func() error {
		w.commands[id] = string(fingerprint)
		return nil
	})
	return err
}

func (w *world) scanParked(rows pgx.Rows) error {
	var pair partner.Pair
	_, err := pgx.ForEachRow(rows, []any{raw(&pair.Low), raw(&pair.High)}, func() error {
		w.parked[pair] = struct{}{}
		return nil
	})
	return err
}

func (w *world) scanPending(rows pgx.Rows) error {
	var (
		user, id, sender, target uuid.UUID
		created                  time.Time
	)
	_, err := pgx.ForEachRow(rows, []any{raw(&user), raw(&id), raw(&sender), raw(&target), &created}, func() error {
		ref := partner.PendingRef{RequestID: id, Pair: partner.PairOf(sender, target)}
		w.pending[user] = append(w.pending[user], pendingRef{ref, created.UTC()})
		return nil
	})
	return err
}

// instant is the zero time for NULL, as the core has it.
func instant(t pgtype.Timestamptz) time.Time {
	if !t.Valid {
		return time.Time{}
	}
	return t.Time.UTC()
}

// raw lets pgx scan into an id without the detour over text.
func raw(id *uuid.UUID) *[16]byte { return (*[16]byte)(id) }
