package processor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/contract"
)

// relayChunk is the most rows in one write to Kafka and in one read of the table.
const relayChunk = 512

// relay publishes the committed rows of one worker's partitions, in sequence for each
// partition, with one write in flight. Rows come from memory right after their commit.
// What is not in memory (after a claim, or when memory was full) comes from the table,
// from the row after the last published one. A row that could not be written is tried
// again, with those after it, until it is: skipping it would be the hole that G4 excludes.
type relay struct {
	p     *Processor
	epoch string
	parts map[int]*partition
	wake  chan struct{}
	conn  *pgx.Conn // of run, while it has something to ask the table

	mu     sync.Mutex
	queue  []row
	head   int           // of queue: what lies before it is taken
	behind map[int]int64 // partitions to read from the table, up to this sequence
	closed bool          // nothing more will be committed: end when all is published
}

func newRelay(p *Processor, epoch string, parts []*partition) *relay {
	r := &relay{p: p, epoch: epoch, parts: map[int]*partition{}, behind: map[int]int64{}, wake: make(chan struct{}, 1)}
	for _, part := range parts {
		r.parts[part.id] = part
		if part.eventSeq > part.relayed {
			r.behind[part.id] = part.eventSeq
		}
	}
	return r
}

// push takes the rows of a committed transaction. It never waits: beyond the bound the
// table is the buffer.
func (r *relay) push(rows []row) {
	if len(rows) == 0 {
		return
	}
	r.mu.Lock()
	full := len(r.queue)-r.head+len(rows) > r.p.cfg.RelayBuffer
	for _, row := range rows {
		if _, late := r.behind[row.partition]; late || full {
			r.behind[row.partition] = row.seq
			continue
		}
		r.queue = append(r.queue, row)
	}
	r.mu.Unlock()
	r.signal()
}

// close says that no more rows come; run returns when all are published.
func (r *relay) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.signal()
}

func (r *relay) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// take returns up to n rows from memory, else the partition that the table has rows for.
func (r *relay) take(n int) (rows []row, late int, upTo int64, done bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	late = -1
	if n = min(n, len(r.queue)-r.head); n > 0 {
		rows = append(rows, r.queue[r.head:r.head+n]...)
		clear(r.queue[r.head : r.head+n])
		if r.head += n; r.head == len(r.queue) {
			r.queue, r.head = r.queue[:0], 0
		}
		return rows, late, 0, false
	}
	for id, seq := range r.behind {
		if late < 0 || id < late {
			late, upTo = id, seq
		}
	}
	return nil, late, upTo, r.closed && late < 0
}

// caughtUp lets a partition be fed from memory again, unless more was committed since.
func (r *relay) caughtUp(id int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.parts[id].published.Load() >= r.behind[id] {
		delete(r.behind, id)
	}
}

// run publishes until it is closed and has published all, or ctx ends.
func (r *relay) run(ctx context.Context) error {
	defer func() { closeConn(r.conn) }()
	for {
		rows, late, upTo, done := r.take(relayChunk)
		switch {
		case done:
			return nil
		case len(rows) > 0:
			if err := r.publish(ctx, rows); err != nil {
				return err
			}
			continue
		case late >= 0:
			if err := r.catchUp(ctx, r.parts[late], upTo); err != nil {
				return err
			}
			continue
		}
		closeConn(r.conn)
		r.conn = nil
		select {
		case <-r.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// catchUp publishes the next rows of a partition from the table.
func (r *relay) catchUp(ctx context.Context, part *partition, upTo int64) error {
	var rows []row
	if err := r.withConn(ctx, func(conn *pgx.Conn) (err error) {
		rows, err = r.read(ctx, conn, part, upTo)
		return err
	}); err != nil {
		return err
	}
	if len(rows) == 0 {
		return fmt.Errorf("events of partition %d after %d are not in the table, up to %d were committed",
			part.id, part.published.Load(), upTo)
	}
	if err := r.publish(ctx, rows); err != nil {
		return err
	}
	r.caughtUp(part.id)
	return nil
}

// The outbox from a cursor on. Sequences come from a locked row, so there is no row that
// commits late below one that is seen here.
const outboxSQL = `
SELECT partition, seq, topic, id, type, command_id, low, high, COALESCE(low_seq, 0), COALESCE(high_seq, 0),
       COALESCE(other, '00000000-0000-0000-0000-000000000000'), COALESCE(other_seq, 0),
       accepted_at, applied_at, data::text, COALESCE(traceparent, '')
FROM events
WHERE partition = $1 AND seq > $2 AND seq <= $3
ORDER BY seq
LIMIT $4`

func (r *relay) read(ctx context.Context, conn *pgx.Conn, part *partition, upTo int64) ([]row, error) {
	ctx, cancel := context.WithTimeout(ctx, r.p.cfg.TxDeadline)
	defer cancel()
	found, err := conn.Query(ctx, outboxSQL, part.id, part.published.Load(), upTo, relayChunk)
	if err != nil {
		return nil, fmt.Errorf("read outbox of partition %d: %w", part.id, err)
	}
	rows, err := pgx.CollectRows(found, func(c pgx.CollectableRow) (e row, err error) {
		err = c.Scan(&e.partition, &e.seq, &e.topic, raw(&e.id), &e.kind, raw(&e.commandID), raw(&e.pair.Low), raw(&e.pair.High), &e.lowSeq,
			&e.highSeq, raw(&e.other), &e.otherSeq, &e.acceptedAt, &e.appliedAt, &e.data, &e.traceparent)
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("read outbox of partition %d: %w", part.id, err)
	}
	return rows, nil
}

// publish writes rows until all are on their topics. While some of them have to be tried
// again, newer rows from memory go along, so that a partition without a leader does not
// hold up the others.
func (r *relay) publish(ctx context.Context, rows []row) error {
	for attempt := 0; len(rows) > 0; attempt++ {
		if err := r.p.cfg.Hook(ctx, BeforeRelay); err != nil {
			return &hookError{err}
		}
		recs, ends := make([]contract.Record, 0, len(rows)+len(rows)/8), make([]int, len(rows))
		for i := range rows {
			var err error
			if recs, err = rows[i].records(recs, r.p.cfg.Topics, r.p.cfg.Partitions, r.epoch); err != nil {
				return fatalf("relay partition %d: event %d: %w", rows[i].partition, rows[i].seq, err)
			}
			ends[i] = len(recs)
		}
		written := sent{recs, ends}
		if err := r.owns(ctx, rows, written); err != nil {
			return err
		}
		err := r.write(ctx, recs)
		if err := r.unsure(ctx, rows, written, err); err != nil {
			return err
		}
		left := r.confirm(rows, written, err)
		if len(left) == 0 {
			break
		}
		r.p.metrics.retries.WithLabelValues("relay_write").Inc()
		if attempt == 0 || attempt%20 == 0 {
			r.p.cfg.Log.Warn("relay write failed, trying again", slog.Int("rows", len(left)), slog.Int("attempt", attempt), slog.Any("error", err))
		}
		if !backoff(ctx, attempt, 5*time.Millisecond, 500*time.Millisecond) {
			return ctx.Err()
		}
		if len(left) < len(rows) {
			attempt = 0
		}
		more, _, _, _ := r.take(relayChunk - len(left)) //nolint:dogsled // only memory is of interest here
		rows = append(left, more...)
	}
	if err := r.p.cfg.Hook(ctx, AfterRelay); err != nil {
		return &hookError{err}
	}
	return nil
}

func (r *relay) write(ctx context.Context, recs []contract.Record) error {
	ctx, cancel := context.WithTimeout(ctx, r.p.cfg.TxDeadline)
	defer cancel()
	return r.p.cfg.Bus.Write(ctx, recs)
}

// sent is what was written of some rows: the records, and where those of each row end.
type sent struct {
	recs []contract.Record
	ends []int
}

func (s sent) of(i int) (from, to int) {
	if i > 0 {
		from = s.ends[i-1]
	}
	return from, s.ends[i]
}

// confirm moves each partition's mark over the rows before its first failed one, and
// returns the rest in order. A row has failed when any of its records has.
func (r *relay) confirm(rows []row, s sent, err error) (left []row) {
	now := r.p.cfg.Clock()
	failed := func(int) bool { return err != nil }
	if some, ok := errors.AsType[*bus.WriteError](err); ok {
		failed = func(i int) bool {
			from, to := s.of(i)
			for ; from < to; from++ {
				if some.Failed[from] != nil {
					return true
				}
			}
			return false
		}
	}
	stuck := map[int]struct{}{}
	for i := range rows {
		row := &rows[i]
		if _, ok := stuck[row.partition]; ok || failed(i) {
			stuck[row.partition] = struct{}{}
			left = append(left, *row)
			continue
		}
		r.parts[row.partition].published.Store(row.seq)
		for from, to := s.of(i); from < to; from++ {
			r.p.metrics.published.WithLabelValues(s.recs[from].Topic).Inc()
		}
		if row.topic == toEvents {
			r.p.metrics.publish.Observe(now.Sub(row.appliedAt).Seconds())
		}
	}
	return left
}

// backlog sets the gauge of what is committed and not yet published.
func (r *relay) backlog(part *partition) {
	r.p.metrics.backlog.WithLabelValues(strconv.Itoa(part.id)).Set(float64(part.eventSeq - part.published.Load()))
}
