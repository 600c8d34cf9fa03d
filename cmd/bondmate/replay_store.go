package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/partner"
)

const (
	// replayStride is how many events of the partition one statement looks at: events have
	// no index by pair, which every command would pay for.
	replayStride = 20_000
	// replayMost bounds what is held of one pair.
	replayMost = 200_000
)

const userByIDSQL = `SELECT id FROM users WHERE id = $1`

const userByCodeSQL = `SELECT id FROM users WHERE partner_code = $1`

// resolveUser finds a user by id or partner code.
func resolveUser(ctx context.Context, conn *pgx.Conn, text string) (id uuid.UUID, err error) {
	if parsed, perr := uuid.Parse(text); perr == nil {
		err = conn.QueryRow(ctx, userByIDSQL, parsed).Scan(&id)
	} else if code, ok := identity.NormalizePartnerCode(text); ok {
		err = conn.QueryRow(ctx, userByCodeSQL, code).Scan(&id)
	} else {
		return id, fault.New(fault.Invalid, "invalid_user", fmt.Sprintf("%q is neither a user's id nor a partner code", text))
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return id, fault.New(fault.NotFound, "user_not_found", fmt.Sprintf("nobody has the id or partner code %q", text))
	}
	if err != nil {
		return id, fmt.Errorf("find user %s: %w", text, err)
	}
	return id, nil
}

const countPartitionsSQL = `SELECT COALESCE(max(partition) + 1, 0) FROM processor_partitions`

// rowQuerier is a connection or a pool.
type rowQuerier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// checkPartitions refuses a partition count that is not the database's: a pair's events
// would be looked for in another partition, and not be found; what an operator does to a
// user would become due on another.
func checkPartitions(ctx context.Context, conn rowQuerier, configured int) error {
	var n int
	if err := conn.QueryRow(ctx, countPartitionsSQL).Scan(&n); err != nil {
		return fmt.Errorf("count partitions: %w", err)
	}
	if n > 0 && n != configured {
		return fault.New(fault.Invalid, "wrong_partitions", fmt.Sprintf("KAFKA_PARTITIONS is %d, but the database has %d partitions", configured, n))
	}
	return nil
}

// pastEvent is an event of the pair as its row is.
type pastEvent struct {
	partner.Event
	seq       int64
	appliedAt time.Time
}

// pairPast is all that there is of a pair: events and tables.
type pairPast struct {
	pair      partner.Pair
	partition int
	events    []pastEvent
	lastSeq   int64 // of the partition
	oldestSeq int64 // of the events of the partition that are left
	oldestAt  time.Time
	stored    partner.Stored
}

const partitionHeadSQL = `SELECT COALESCE((SELECT event_seq FROM processor_partitions WHERE partition = $1), 0)`

const oldestEventSQL = `SELECT seq, applied_at FROM events WHERE partition = $1 ORDER BY seq LIMIT 1`

// read takes the events in bounded steps. The last of them are read in one snapshot with
// the tables, so that nothing applied in between looks like a difference; that transaction
// is short however long the past is.
func (p *pairPast) read(ctx context.Context, conn *pgx.Conn) error {
	head, oldest, _, err := p.bounds(ctx, conn)
	if err != nil {
		return err
	}
	seq := oldest - 1
	for ; seq+replayStride <= head; seq += replayStride {
		if err := p.readEvents(ctx, conn, seq, seq+replayStride); err != nil {
			return err
		}
	}
	return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// Events that went meanwhile make for weaker claims, never for a false one.
		if p.lastSeq, p.oldestSeq, p.oldestAt, err = p.bounds(ctx, tx); err != nil {
			return err
		}
		if err := p.readEvents(ctx, tx, seq, p.lastSeq); err != nil {
			return err
		}
		return p.readTables(ctx, tx)
	})
}

// querier is a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// bounds returns the partition's last sequence and the first one that is left.
func (p *pairPast) bounds(ctx context.Context, on querier) (head, oldest int64, at time.Time, err error) {
	if err := on.QueryRow(ctx, partitionHeadSQL, p.partition).Scan(&head); err != nil {
		return 0, 0, at, fmt.Errorf("read partition %d: %w", p.partition, err)
	}
	err = on.QueryRow(ctx, oldestEventSQL, p.partition).Scan(&oldest, &at)
	if errors.Is(err, pgx.ErrNoRows) {
		return head, head + 1, time.Now(), nil
	}
	if err != nil {
		return 0, 0, at, fmt.Errorf("read the oldest event of partition %d: %w", p.partition, err)
	}
	return head, oldest, at.UTC(), nil
}

const pairEventsSQL = `
SELECT seq, id, type, command_id, low_seq IS NOT NULL, high_seq IS NOT NULL, accepted_at, applied_at, data
FROM events
WHERE partition = $1 AND seq > $2 AND seq <= $3 AND low = $4 AND high = $5 AND topic = 1
ORDER BY seq`

func (p *pairPast) readEvents(ctx context.Context, on querier, after, upTo int64) error {
	rows, err := on.Query(ctx, pairEventsSQL, p.partition, after, upTo, p.pair.Low, p.pair.High)
	if err != nil {
		return fmt.Errorf("read events of %s: %w", p.pair, err)
	}
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e pastEvent, err error) {
		var kind int16
		var toLow, toHigh bool
		var data []byte
		if err := row.Scan(&e.seq, &e.ID, &kind, &e.CommandID, &toLow, &toHigh, &e.At, &e.appliedAt, &data); err != nil {
			return e, err
		}
		e.Type, e.Pair = partner.EventType(kind), p.pair
		e.At, e.appliedAt = e.At.UTC(), e.appliedAt.UTC()
		if toLow {
			e.Recipients = append(e.Recipients, p.pair.Low)
		}
		if toHigh {
			e.Recipients = append(e.Recipients, p.pair.High)
		}
		return e, json.Unmarshal(data, &e.Data)
	})
	if err != nil {
		return fmt.Errorf("read events of %s: %w", p.pair, err)
	}
	if p.events = append(p.events, events...); len(p.events) > replayMost {
		return fault.New(fault.Invalid, "too_many_events", fmt.Sprintf("the pair has more than %d events", replayMost))
	}
	return nil
}

const pairRequestsSQL = `
SELECT id, sender, target, status, created_at, expires_at, resolved_at
FROM requests
WHERE sender = $1 AND target = $2 OR sender = $2 AND target = $1
ORDER BY created_at, id`

const pairPartnershipsSQL = `
SELECT p.id, p.status, l.slot, h.slot, p.started_at, p.ended_at, p.restorable_until, p.ended_by, p.quiet, p.restored_count, p.version
FROM partnership_members l
JOIN partnership_members h ON h.partnership_id = l.partnership_id AND h.user_id = $2
JOIN partnerships p ON p.id = l.partnership_id
WHERE l.user_id = $1
ORDER BY p.started_at, p.id`

const pairBreakupsSQL = `
SELECT id, partnership_id, asker, status, created_at, expires_at, resolved_at
FROM breakups
WHERE low = $1 AND high = $2
ORDER BY created_at, id`

const pairSidesSQL = `
SELECT user_id, blocked_at, door_closed_at, forfeited, declines, last_declined_at
FROM pair_sides
WHERE user_id = $1 AND other_id = $2 OR user_id = $2 AND other_id = $1`

// partner.UserDeleting is 4.
const pairDeletingSQL = `SELECT EXISTS (SELECT FROM users WHERE id IN ($1, $2) AND status = 4)`

func (p *pairPast) readTables(ctx context.Context, tx pgx.Tx) error {
	low, high := p.pair.Low, p.pair.High
	var err error
	if p.stored.Requests, err = collect(ctx, tx, pairRequestsSQL, []any{low, high}, func(row pgx.CollectableRow) (r partner.Request, err error) {
		var resolved *time.Time
		err = row.Scan(&r.ID, &r.Sender, &r.Target, &r.Status, &r.CreatedAt, &r.ExpiresAt, &resolved)
		r.ResolvedAt = orZero(resolved)
		return r, err
	}); err != nil {
		return fmt.Errorf("read requests of %s: %w", p.pair, err)
	}
	if p.stored.Partnerships, err = collect(ctx, tx, pairPartnershipsSQL, []any{low, high}, func(row pgx.CollectableRow) (s partner.Partnership, err error) {
		var ended, until *time.Time
		var by *uuid.UUID
		err = row.Scan(&s.ID, &s.Status, &s.LowSlot, &s.HighSlot, &s.StartedAt, &ended, &until, &by, &s.Quiet, &s.RestoredCount, &s.Version)
		s.Pair, s.EndedAt, s.RestorableUntil = p.pair, orZero(ended), orZero(until)
		if by != nil {
			s.EndedBy = *by
		}
		return s, err
	}); err != nil {
		return fmt.Errorf("read partnerships of %s: %w", p.pair, err)
	}
	if p.stored.Breakups, err = collect(ctx, tx, pairBreakupsSQL, []any{low, high}, func(row pgx.CollectableRow) (b partner.Breakup, err error) {
		var resolved *time.Time
		err = row.Scan(&b.ID, &b.PartnershipID, &b.Asker, &b.Status, &b.CreatedAt, &b.ExpiresAt, &resolved)
		b.Pair, b.ResolvedAt = p.pair, orZero(resolved)
		return b, err
	}); err != nil {
		return fmt.Errorf("read breakups of %s: %w", p.pair, err)
	}
	if _, err = collect(ctx, tx, pairSidesSQL, []any{low, high}, func(row pgx.CollectableRow) (s partner.Side, err error) {
		var owner uuid.UUID
		var blocked, door, declined *time.Time
		var forfeited *uuid.UUID
		if err := row.Scan(&owner, &blocked, &door, &forfeited, &s.Declines, &declined); err != nil {
			return s, err
		}
		s.BlockedAt, s.DoorClosedAt, s.LastDeclined = orZero(blocked), orZero(door), orZero(declined)
		if forfeited != nil {
			s.Forfeited = *forfeited
		}
		if owner == low {
			p.stored.Low = s
		} else {
			p.stored.High = s
		}
		return s, nil
	}); err != nil {
		return fmt.Errorf("read sides of %s: %w", p.pair, err)
	}
	if err := tx.QueryRow(ctx, pairDeletingSQL, low, high).Scan(&p.stored.Deleting); err != nil {
		return fmt.Errorf("read users of %s: %w", p.pair, err)
	}
	return nil
}

func collect[T any](ctx context.Context, tx pgx.Tx, sql string, args []any, scan pgx.RowToFunc[T]) ([]T, error) {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}
