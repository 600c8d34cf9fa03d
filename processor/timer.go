package processor

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// timer is a row of timers that is due.
type timer struct {
	part *partition
	partner.Timer
}

// timerKey names a timer: a pair has one of each kind.
type timerKey struct {
	pair partner.Pair
	kind partner.TimerKind
}

// timerRow is what becomes of a timer: its row is written, or deleted when Due is zero.
type timerRow struct {
	partner.Timer
	partition int
}

// observe keeps each partition's horizon: a wall time W such that every command that is
// in the log by W is applied. The end of the log is read after W, so it covers all that
// was acknowledged before; what is accepted after W carries a later time, clocks aside.
// A timer that is due at T may be applied once the horizon has passed T by the deadline
// of ingest and the allowed skew: whatever was accepted before T had its answer by then,
// and so was in the log, and has been applied.
//
// While Kafka is away, or the queue is late, the horizon stands, and timers wait. The log is
// asked only for partitions whose timers wait for it: a question is a request for each
// partition of the topic.
func (p *Processor) observe(ctx context.Context, parts []*partition) error {
	type mark struct {
		at  time.Time
		end int64
	}
	adopted, warned := false, false
	marks := make(map[int]mark, len(parts))
	ticker := time.NewTicker(p.cfg.TimerPoll)
	defer ticker.Stop()
	for {
		if !adopted {
			err := p.adopt(ctx)
			adopted = err == nil
			if err != nil && !warned && ctx.Err() == nil {
				warned = true
				p.cfg.Log.Warn("timers without a partition wait, trying again", slog.Any("error", err))
			}
		}
		asked := false
		for _, part := range parts {
			if m, ok := marks[part.id]; ok && part.applied.Load() >= m.end {
				part.horizon.Store(m.at.UnixMicro())
				delete(marks, part.id)
			}
			_, waiting := marks[part.id]
			asked = asked || (!waiting && part.awaited.Load())
		}
		if asked {
			at := p.cfg.Clock()
			if _, ends, err := p.offsets(ctx); err == nil { // an error is Kafka's absence: watch reports what is fatal
				for _, part := range parts {
					if _, waiting := marks[part.id]; waiting {
						continue
					}
					part.awaited.Store(false)
					if part.applied.Load() >= ends[part.id] {
						part.horizon.Store(at.UnixMicro())
						continue
					}
					marks[part.id] = mark{at, ends[part.id]}
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

const unassignedTimersSQL = `SELECT low, high, kind FROM timers WHERE partition = -1 LIMIT 1000`

const assignTimersSQL = `
UPDATE timers t SET partition = n.partition
FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::smallint[]) AS n (low, high, kind, partition)
WHERE t.low = n.low AND t.high = n.high AND t.kind = n.kind AND t.partition = -1`

// adopt gives their partitions to the timers that a migration made. Several processors may
// do so at once.
func (p *Processor) adopt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.TxDeadline)
	defer cancel()
	conn, err := p.dial(ctx)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	for {
		rows, err := conn.Query(ctx, unassignedTimersSQL)
		if err != nil {
			return fmt.Errorf("read unassigned timers: %w", err)
		}
		var (
			lows, highs  []uuid.UUID
			kinds, parts []int16
			pair         partner.Pair
			kind         int16
		)
		_, err = pgx.ForEachRow(rows, []any{raw(&pair.Low), raw(&pair.High), &kind}, func() error {
			lows, highs, kinds = append(lows, pair.Low), append(highs, pair.High), append(kinds, kind)
			parts = append(parts, int16(contract.PartitionOf([]byte(pair.String()), p.cfg.Partitions)))
			return nil
		})
		if err != nil {
			return fmt.Errorf("read unassigned timers: %w", err)
		}
		if len(lows) == 0 {
			return nil
		}
		if _, err := conn.Exec(ctx, assignTimersSQL, lows, highs, kinds, parts); err != nil {
			return fmt.Errorf("assign timers: %w", err)
		}
	}
}

// until is the latest due time that may be applied now, or zero.
func (p *Processor) until(part *partition) time.Time {
	horizon := part.horizon.Load()
	if horizon == 0 {
		return time.Time{}
	}
	return time.UnixMicro(horizon).Add(-p.cfg.Deadline - p.cfg.Skew)
}

// Timers of a parked pair wait with its commands. Those that failed for good wait for
// their next try, so that they hold up nobody. Those that publish (partner.TimerUser and
// above) say what the tables hold: they are due by the clock alone, parked or not.
const dueTimersSQL = `
SELECT t.partition, t.low, t.high, t.kind, t.due_at, t.ref
FROM unnest($1::smallint[], $2::timestamptz[]) AS k (partition, until)
CROSS JOIN LATERAL (
    SELECT x.partition, x.low, x.high, x.kind, x.due_at, x.ref
    FROM timers x
    WHERE x.partition = k.partition AND x.due_at <= $3 AND (x.retry_at IS NULL OR x.retry_at <= $3)
      AND (x.kind >= 4 OR (x.due_at < k.until
           AND NOT EXISTS (SELECT FROM parked_commands p WHERE p.low = x.low AND p.high = x.high)))
    ORDER BY x.due_at LIMIT $4) AS t
ORDER BY t.due_at, t.low, t.high, t.kind`

// due reads the timers of the worker's partitions that may be applied now.
func (w *worker) due(ctx context.Context) ([]timer, error) {
	now := w.p.cfg.Clock()
	byID := map[int]*partition{}
	var ids []int16
	var untils []time.Time
	for _, part := range w.parts {
		if !part.fenced {
			byID[part.id] = part
			ids, untils = append(ids, int16(part.id)), append(untils, now.Add(-w.p.cfg.Deadline-w.p.cfg.Skew))
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	if w.conn.IsClosed() {
		conn, err := w.p.connect(ctx)
		if err != nil {
			return nil, err
		}
		w.conn = conn
	}
	ctx, cancel := context.WithTimeout(ctx, w.p.cfg.TxDeadline)
	defer cancel()
	rows, err := w.conn.Query(ctx, "due_timers", ids, untils, now, int64(w.p.cfg.MaxBatch))
	if err != nil {
		return nil, fmt.Errorf("read due timers: %w", err)
	}
	timers, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (t timer, err error) {
		var id int
		var kind int16
		err = r.Scan(&id, raw(&t.Pair.Low), raw(&t.Pair.High), &kind, &t.Due, raw(&t.Ref))
		t.part, t.Kind, t.Due = byID[id], partner.TimerKind(kind), t.Due.UTC()
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("read due timers: %w", err)
	}
	// Due by the clock alone is not enough: see observe.
	timers = slices.DeleteFunc(timers, func(t timer) bool {
		if t.Kind.Publishes() || t.Due.Before(w.p.until(t.part)) {
			return false
		}
		t.part.awaited.Store(true)
		return true
	})
	return timers[:min(len(timers), w.p.cfg.MaxBatch)], nil
}

// fireDue applies one batch of due timers, as a transaction like that of commands but
// without records. It reports whether there may be more.
func (w *worker) fireDue(fetching, working context.Context) (more bool, err error) {
	w.p.metrics.looks.Inc()
	timers, err := w.due(working)
	if err != nil {
		w.p.metrics.retries.WithLabelValues("due_timers").Inc()
		return false, nil //nolint:nilerr // the next look comes soon, and commands need the connection more
	}
	if len(timers) == 0 {
		return false, nil
	}
	var decide, publish []*item
	for i := range timers {
		if timers[i].Kind.Publishes() {
			publish = append(publish, timers[i].item())
		} else {
			decide = append(decide, timers[i].item())
		}
	}
	// What is published is loaded after what the others changed.
	for _, items := range [][]*item{decide, publish} {
		if err := w.apply(fetching, working, items); err != nil {
			return false, err
		}
	}
	return len(timers) == w.p.cfg.MaxBatch, nil
}

// postpone sets a timer aside that fails whenever it is applied, so that an operator sees
// it (bondmate timers) and everyone else's goes on.
func (w *worker) postpone(ctx context.Context, t *timer, cause error) error {
	w.p.metrics.retries.WithLabelValues("timer_failed").Inc()
	w.p.cfg.Log.Error("timer failed, set aside", slog.String("pair", t.Pair.String()), slog.Int("kind", int(t.Kind)), slog.Any("error", cause))
	ctx, cancel := context.WithTimeout(ctx, w.p.cfg.TxDeadline)
	defer cancel()
	_, err := w.conn.Exec(ctx, postponeTimerSQL, t.Pair.Low, t.Pair.High, int16(t.Kind), t.Due,
		w.p.cfg.Clock().Add(timerRetryAfter), storable(cause.Error()), t.part.id, t.part.epoch)
	if err != nil {
		return fmt.Errorf("set timer of %s aside: %w", t.Pair, err)
	}
	return nil
}

// timerRetryAfter is how long a timer that failed for good is left alone.
const timerRetryAfter = time.Hour

// The row lock is the fence of this write too (G7): who lost the partition finds no row.
const postponeTimerSQL = `
UPDATE timers SET retry_at = $5, error = $6
WHERE low = $1 AND high = $2 AND kind = $3 AND due_at = $4
  AND EXISTS (SELECT FROM processor_partitions p WHERE p.partition = $7 AND p.epoch = $8 FOR UPDATE)`

const writeTimersSQL = `
INSERT INTO timers (low, high, kind, partition, due_at, ref)
SELECT low, high, kind, partition, due_at, ref
FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::smallint[], $5::timestamptz[], $6::uuid[])
    AS n (low, high, kind, partition, due_at, ref)
ON CONFLICT (low, high, kind) DO UPDATE SET
    partition = excluded.partition, due_at = excluded.due_at, ref = excluded.ref, retry_at = NULL, error = NULL`

const deleteTimersSQL = `
DELETE FROM timers WHERE ctid = ANY (ARRAY(
    SELECT t.ctid FROM unnest($1::uuid[], $2::uuid[], $3::smallint[]) AS k (low, high, kind)
    CROSS JOIN LATERAL (
        SELECT x.ctid FROM timers x WHERE x.low = k.low AND x.high = k.high AND x.kind = k.kind LIMIT 1) AS t))`

// item takes the timer through a batch as a command without a record.
func (t timer) item() *item {
	return &item{
		part: t.part, timer: &t,
		cmd: partner.Command{ID: partner.TimerID(t.Timer), Pair: t.Pair, AcceptedAt: t.Due},
	}
}

// fire lets happen what is due on the timer's pair. Between reading the timer and taking
// the locks nobody else changed it: its partition has one owner, and the fence holds.
func (w *world) fire(b *batch, it *item) error {
	if it.timer.Kind.Publishes() {
		return w.publish(b, it)
	}
	if _, parked := w.parked[it.timer.Pair]; parked {
		return nil // parked between the reading and the locks: it waits with the commands
	}
	d, err := b.rules.decideDue(b.limits, w.state(it.cmd), it.timer.Timer)
	if err != nil {
		return err
	}
	key := timerKey{it.timer.Pair, it.timer.Kind}
	_, set := w.changes.timers[key] // by a timer before this one in the batch
	if _, err := w.emit(b, it, d); err != nil {
		return err
	}
	w.keep(it.timer.Pair, d)
	if _, again := w.changes.timers[key]; !set && !again {
		w.changes.timers[key] = timerRow{Timer: partner.Timer{Kind: it.timer.Kind, Pair: it.timer.Pair}}
	}
	outcome := "applied"
	if len(d.Events) == 0 {
		outcome = "nothing_due"
	}
	w.changes.tallies = append(w.changes.tallies, tally{kind: tallyTimer, outcome: outcome})
	return nil
}

// setTimers keeps what a decision says about the timers of its pair.
func (w *world) setTimers(it *item, timers []partner.Timer) error {
	for _, t := range timers {
		if t.Pair != it.cmd.Pair {
			return fmt.Errorf("decision on %s sets a timer of %s, which may be another partition's", it.cmd.Pair, t.Pair)
		}
		w.changes.timers[timerKey{t.Pair, t.Kind}] = timerRow{Timer: t, partition: it.part.id}
	}
	return nil
}

func (c *changes) queueTimers(q *pgx.Batch) {
	var gone, kept []timerRow
	for _, t := range c.timers {
		if t.Due.IsZero() {
			gone = append(gone, t)
		} else {
			kept = append(kept, t)
		}
	}
	if n := len(gone); n > 0 {
		lows, highs, kinds := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]int16, n)
		for i, t := range gone {
			lows[i], highs[i], kinds[i] = t.Pair.Low, t.Pair.High, int16(t.Kind)
		}
		q.Queue("delete_timers", lows, highs, kinds)
	}
	queueTimerRows(q, kept)
}

func queueTimerRows(q *pgx.Batch, rows []timerRow) {
	n := len(rows)
	if n == 0 {
		return
	}
	slices.SortFunc(rows, func(a, b timerRow) int { // one order of locks for all who write several
		return cmp.Or(bytes.Compare(a.Pair.Low[:], b.Pair.Low[:]), bytes.Compare(a.Pair.High[:], b.Pair.High[:]), cmp.Compare(a.Kind, b.Kind))
	})
	lows, highs, kinds, parts := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]int16, n), make([]int16, n)
	due, refs := make([]time.Time, n), make([]uuid.UUID, n)
	for i, t := range rows {
		lows[i], highs[i], kinds[i], parts[i], due[i], refs[i] = t.Pair.Low, t.Pair.High, int16(t.Kind), int16(t.partition), t.Due, t.Ref
	}
	q.Queue("write_timers", lows, highs, kinds, parts, due, refs)
}
