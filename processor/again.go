package processor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/contract"
)

// On a compacted topic the last record of a key is what counts, so a late one does harm:
// a write that was given up, by us or by an owner before us, can still arrive behind a
// newer record of its key. Nothing in the log tells it apart, so the key is written once
// more, from the tables, when the late write must have arrived (Config.LateWrite).
//
// Whose keys those are is known: what a former owner had in flight lies above the
// relayed_seq that we found and not above the event_seq, for it has committed nothing
// since the claim; and of our own it is the rows of a write whose outcome is unknown. The
// keys are kept as timers, so that the next owner finds them when this one goes too, and
// before relayed_seq passes their rows.
//
// A write by somebody who was stopped begins no later than half of that time after the
// ownership was last seen in the table: see relay.owns.

// againChunk is the most rows of the outbox that one statement looks through.
const againChunk = 10_000

// Once a key, however often it was touched; set again it moves back, never forward. Who
// lost the partition writes nothing (G7): its new owner does this for itself.
const againSQL = `
INSERT INTO timers (low, high, kind, partition, due_at, ref)
SELECT x.low, x.high, x.kind, $1, $4, gen_random_uuid()
FROM (SELECT DISTINCT e.low, e.high, CASE e.topic WHEN 4 THEN 6 ELSE 7 END AS kind
      FROM events e
      WHERE e.partition = $1 AND e.seq > $2 AND e.seq <= $3
        AND (e.topic IN (4, 5) OR (e.topic = 1 AND e.type IN (8, 9, 10)))) AS x
WHERE EXISTS (SELECT FROM processor_partitions p WHERE p.partition = $1 AND p.epoch = $5 FOR UPDATE)
ORDER BY x.low, x.high, x.kind
ON CONFLICT (low, high, kind) DO UPDATE SET
    due_at = GREATEST(timers.due_at, excluded.due_at), ref = excluded.ref, retry_at = NULL, error = NULL`

// again sets the timers of the keys that the rows of a partition after one sequence and up
// to another touch. It returns how far it came.
func (p *Processor) again(ctx context.Context, conn *pgx.Conn, part *partition, after, upTo int64) (int64, error) {
	for after < upTo {
		to := min(after+againChunk, upTo)
		n, err := func() (int64, error) {
			ctx, cancel := context.WithTimeout(ctx, p.cfg.TxDeadline)
			defer cancel()
			tag, err := conn.Exec(ctx, againSQL, part.id, after, to, p.cfg.Clock().Add(p.cfg.LateWrite), part.epoch)
			return tag.RowsAffected(), err
		}()
		if err != nil {
			return after, fmt.Errorf("note what to publish again of partition %d: %w", part.id, err)
		}
		p.metrics.again.Add(float64(n))
		after = to
	}
	return after, nil
}

// takeOver does so for what the owners before may have in flight. Nothing is published
// before it is done.
func (p *Processor) takeOver(ctx context.Context, parts []*partition) error {
	var conn *pgx.Conn
	defer func() { closeConn(conn) }()
	for _, part := range parts {
		for attempt, after := 0, part.relayed; after < part.eventSeq; attempt++ {
			var err error
			if conn == nil {
				conn, err = p.dial(ctx)
			}
			if err == nil {
				if after, err = p.again(ctx, conn, part, after, part.eventSeq); err == nil {
					continue
				}
			}
			closeConn(conn)
			conn = nil
			p.metrics.retries.WithLabelValues("take_over").Inc()
			if attempt == 0 {
				p.cfg.Log.Warn("taking over a partition failed, trying again", slog.Int("partition", part.id), slog.Any("error", err))
			}
			if !backoff(ctx, attempt, 10*time.Millisecond, time.Second) {
				return fmt.Errorf("%w (taking over: %w)", ctx.Err(), err)
			}
		}
	}
	return nil
}

// compacted reports whether a record is on a topic of which the last record counts.
func compacted(t contract.Topics, topic string) bool { return topic == t.Couples || topic == t.Users }

// unsure does so for the rows of a write some of whose records may arrive yet. Nothing
// more is published before it is done: the row's newer ones must not come first.
func (r *relay) unsure(ctx context.Context, rows []row, s sent, err error) error {
	if err == nil || errors.Is(err, bus.ErrNotSent) {
		return nil
	}
	some, byRecord := errors.AsType[*bus.WriteError](err)
	first, last := map[int]int64{}, map[int]int64{}
	for i := range rows {
		for from, to := s.of(i); from < to; from++ {
			if !compacted(r.p.cfg.Topics, s.recs[from].Topic) {
				continue
			}
			if byRecord && (some.Failed[from] == nil || errors.Is(some.Failed[from], bus.ErrNotSent)) {
				continue
			}
			if id := rows[i].partition; last[id] == 0 {
				first[id], last[id] = rows[i].seq, rows[i].seq
			} else {
				last[id] = rows[i].seq
			}
		}
	}
	for id := range last {
		after := first[id] - 1
		if err := r.withConn(ctx, func(conn *pgx.Conn) (err error) {
			after, err = r.p.again(ctx, conn, r.parts[id], after, last[id])
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

const epochsSQL = `
SELECT partition, epoch, version, next_offset
FROM processor_partitions
WHERE partition = ANY($1::smallint[])`

// owns looks whether the partitions of what is to be written to compacted topics are still
// ours, when that was last seen too long ago: a process that was stopped meanwhile would
// write what its successor has written long since, and nobody would expect it any more.
func (r *relay) owns(ctx context.Context, rows []row, s sent) error {
	var ids []int16
	for i := range rows {
		part := r.parts[rows[i].partition]
		if time.Since(time.Unix(0, part.seen.Load())) <= r.p.cfg.LateWrite/2 {
			continue
		}
		for from, to := s.of(i); from < to; from++ {
			if compacted(r.p.cfg.Topics, s.recs[from].Topic) {
				ids = append(ids, int16(part.id))
				break
			}
		}
	}
	if len(ids) == 0 {
		return nil
	}
	var found []fence
	now := time.Now()
	if err := r.withConn(ctx, func(conn *pgx.Conn) error {
		ctx, cancel := context.WithTimeout(ctx, r.p.cfg.TxDeadline)
		defer cancel()
		now = time.Now()
		rows, err := conn.Query(ctx, epochsSQL, ids)
		if err != nil {
			return fmt.Errorf("read epochs: %w", err)
		}
		found, err = pgx.CollectRows(rows, scanFence)
		return err
	}); err != nil {
		return err
	}
	for _, f := range found {
		part := r.parts[f.partition]
		if f.epoch != part.epoch {
			return fmt.Errorf("partition %d has another owner since epoch %d", part.id, f.epoch)
		}
		part.seen.Store(now.UnixNano())
	}
	return nil
}

// withConn does something on the relay's connection, again and again until it is done or
// ctx ends.
func (r *relay) withConn(ctx context.Context, do func(*pgx.Conn) error) error {
	for attempt := 0; ; attempt++ {
		var err error
		if r.conn == nil {
			r.conn, err = r.dial(ctx)
		}
		if err == nil {
			if err = do(r.conn); err == nil {
				return nil
			}
		}
		closeConn(r.conn)
		r.conn = nil
		r.p.metrics.retries.WithLabelValues("relay_read").Inc()
		if attempt == 0 {
			r.p.cfg.Log.Warn("relay's look at the table failed, trying again", slog.Any("error", err))
		}
		if !backoff(ctx, attempt, 10*time.Millisecond, time.Second) {
			return fmt.Errorf("%w (%w)", ctx.Err(), err)
		}
	}
}

func (r *relay) dial(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, r.p.cfg.TxDeadline)
	defer cancel()
	return r.p.dial(ctx)
}
