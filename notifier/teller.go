package notifier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/sony/gobreaker/v2"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/contract"
)

const (
	// tellAtOnceWithin bounds how long results wait for Kafka before they are settled, and so
	// what an outage costs: one such wait, for the breaker opens at it.
	tellAtOnceWithin = 250 * time.Millisecond
	// tellLaterWithin bounds a write that nothing waits for.
	tellLaterWithin = 2 * time.Second
	// tellPoll is how soon outcomes are told that no call came to.
	tellPoll = time.Second
	// tellBatch is how many outcomes are read, written and marked at once.
	tellBatch = 500
)

// teller tells the pushes topic how deliveries ended, each at least once, and never holds a
// push up.
//
// A result is told just before it is settled, and the statement that settles it writes
// that it was told (untold): one UPDATE a delivery, and no outcome is lost to a crash in
// between, for then the delivery is not settled either. What cannot be told then, or is
// settled without a call (suppressed, expired, cut), stays untold in the table, and Run
// tells it afterwards.
type teller struct {
	cfg     Config
	store   store
	metrics *metrics
	log     *slog.Logger
	clock   func() time.Time
	// breaker opens at the first write that fails. Only Run tries whether Kafka is back, so
	// that no push waits for it.
	breaker *gobreaker.CircuitBreaker[struct{}]
	failing atomic.Bool // it was said that outcomes wait
}

func newTeller(cfg Config, s store, m *metrics) *teller {
	t := &teller{cfg: cfg, store: s, metrics: m, log: cfg.Log, clock: cfg.Clock}
	t.breaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:          "pushes topic",
		MaxRequests:   1,
		Timeout:       cfg.BreakerTimeout,
		ReadyToTrip:   func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= 1 },
		OnStateChange: func(_ string, _, to gobreaker.State) { m.tellBreaker.Set(float64(to)) },
	})
	return t
}

// pass hands on results, as many at once as have gathered, and tells the outcomes among
// them on the way, until the first channel is closed and empty. The second has room for all
// that is claimed.
func (t *teller) pass(results <-chan settlement, told chan<- settlement) {
	for first := range results {
		var ended []settlement
		for r, ok := first, true; ok; {
			if r.outcome == "" {
				told <- r // it goes on: nothing to tell
			} else {
				ended = append(ended, r)
			}
			select {
			case r, ok = <-results:
			default:
				ok = false
			}
		}
		t.tellAtOnce(ended)
		for _, r := range ended {
			told <- r
		}
	}
}

// tellAtOnce tells results and marks those told. It tells nothing over a claim that may be
// another's by the time it is written: so whatever a record says ended before the end of
// its claim, and the successor's record is the later one.
func (t *teller) tellAtOnce(results []settlement) {
	if t.breaker.State() != gobreaker.StateClosed {
		return
	}
	now := t.clock()
	var (
		recs  []contract.Record
		which []int
	)
	for i, r := range results {
		if now.Add(tellAtOnceWithin).After(r.job.LeaseEnds) {
			continue
		}
		rec, err := t.record(telling{
			id: r.id, user: r.job.UserID, outcome: r.outcome, attempts: r.attempts, payload: r.job.Payload,
			replaced: r.job.Replaces && r.outcome == Withdrawn, dueAt: r.dueAt, settledAt: now,
		})
		if err != nil {
			continue // Run meets it again, and says so
		}
		recs, which = append(recs, rec), append(which, i)
	}
	if len(recs) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), tellAtOnceWithin)
	defer cancel()
	failed := t.write(ctx, recs)
	for i, at := range which {
		results[at].told = failed[i] == nil
	}
	t.metrics.told.WithLabelValues("at_once").Add(float64(len(recs) - len(failed)))
}

// write returns what failed, by the record's place.
func (t *teller) write(ctx context.Context, recs []contract.Record) map[int]error {
	_, err := t.breaker.Execute(func() (struct{}, error) { return struct{}{}, t.cfg.Bus.Write(ctx, recs) })
	if err == nil {
		if t.failing.Swap(false) {
			t.log.Info("outcomes of pushes are told again")
		}
		return nil
	}
	all := func() map[int]error {
		failed := make(map[int]error, len(recs))
		for i := range recs {
			failed[i] = err
		}
		return failed
	}
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return all()
	}
	reason, level := "failed", slog.LevelWarn
	if !bus.Retriable(err) || bus.Unseen(err) { // nobody but an operator mends that
		reason, level = "refused", slog.LevelError
	}
	t.metrics.tellFailures.WithLabelValues(reason).Inc()
	if !t.failing.Swap(true) {
		t.log.Log(ctx, level, "outcomes of pushes wait, and pushes go on", "why", reason, "topic", t.cfg.Outcomes, "error", err)
	}
	if partly, ok := errors.AsType[*bus.WriteError](err); ok {
		return partly.Failed
	}
	return all()
}

// telling is what there is to tell of a delivery.
type telling struct {
	id, user  uuid.UUID
	outcome   Outcome
	attempts  int16
	payload   payload
	replaced  bool
	dueAt     time.Time
	settledAt time.Time
}

func (t *teller) record(e telling) (contract.Record, error) {
	data := e.payload.Data
	event, err := uuid.Parse(data["eventId"])
	if err != nil {
		return contract.Record{}, fmt.Errorf("read push %s: %w", e.id, err)
	}
	seq, err := strconv.ParseInt(data["seq"], 10, 64)
	if err != nil {
		return contract.Record{}, fmt.Errorf("read push %s: %w", e.id, err)
	}
	return contract.EncodePushOutcome(t.cfg.Outcomes, t.cfg.Partitions, contract.PushOutcome{
		UserID: e.user, DeliveryID: e.id, SourceEventID: event, SourceType: data["type"], Seq: seq, Epoch: data["epoch"],
		Category: e.payload.Category, Outcome: string(e.outcome), Attempts: int(e.attempts), Replaced: e.replaced,
		AppliedAt: e.payload.AppliedAt, DueAt: e.dueAt, SettledAt: e.settledAt,
	})
}

// Run tells what was settled untold, the oldest first, until ctx ends. What is left then
// is in the table.
func (t *teller) Run(ctx context.Context) {
	for {
		timer := time.NewTimer(min(tellPoll, t.cfg.PollInterval))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if err := t.tellWaiting(ctx); err != nil && ctx.Err() == nil {
			t.log.Warn("looking for outcomes to tell fails, trying again", "error", err)
		}
	}
}

// tellWaiting tells what waits, if there is any and no other notifier does it already.
func (t *teller) tellWaiting(ctx context.Context) error {
	waiting, err := t.store.countUntold(ctx, t.cfg.StoreTimeout)
	if err != nil {
		return err
	}
	t.metrics.untold.Set(float64(waiting))
	if waiting == 0 || t.breaker.State() == gobreaker.StateOpen {
		return nil
	}
	return t.store.alone(ctx, t.cfg.StoreTimeout, func(conn *pgx.Conn) error {
		for ctx.Err() == nil {
			more, err := t.tellSome(ctx, conn)
			if err != nil || !more {
				return err
			}
		}
		return nil
	})
}

// tellSome tells the oldest that waits, and reports whether there may be more that can be told now.
func (t *teller) tellSome(ctx context.Context, conn *pgx.Conn) (more bool, err error) {
	waiting, err := selectTellings(ctx, conn, t.cfg.StoreTimeout)
	if err != nil || len(waiting) == 0 {
		return false, err
	}
	var (
		recs []contract.Record
		of   []telling
		done []telling
	)
	for _, e := range waiting {
		rec, err := t.record(e)
		if err != nil {
			// A row that nobody could ever tell, and that would be looked at for ever.
			t.metrics.tellFailures.WithLabelValues("malformed").Inc()
			t.log.Error("an outcome is never told", "error", err)
			done = append(done, e)
			continue
		}
		recs, of = append(recs, rec), append(of, e)
	}
	// What is under way when ctx ends is finished and marked: it would be told again.
	ctx = context.WithoutCancel(ctx)
	writing, cancel := context.WithTimeout(ctx, tellLaterWithin)
	defer cancel()
	failed := t.write(writing, recs)
	for i, e := range of {
		if failed[i] == nil {
			done = append(done, e)
		}
	}
	marked, err := markTold(ctx, conn, t.cfg.StoreTimeout, done)
	if err != nil {
		return false, err
	}
	t.metrics.told.WithLabelValues("later").Add(float64(len(recs) - len(failed)))
	return len(failed) == 0 && marked > 0 && len(waiting) == tellBatch, nil
}

const countUntold = `
SELECT count(*) FROM (SELECT FROM push_deliveries WHERE untold AND status = 3 LIMIT $1) u`

// countUntold returns how many outcomes wait to be told, counted up to maxCounted.
func (s store) countUntold(ctx context.Context, within time.Duration) (n int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := s.pool.QueryRow(ctx, countUntold, maxCounted).Scan(&n); err != nil {
		return 0, fmt.Errorf("count untold outcomes: %w", err)
	}
	return n, nil
}

// tellLock is the advisory lock of the notifier that tells what waits; arbitrary.
const tellLock int64 = 0x626f6e64_74656c6c

// alone runs do while no other notifier does, or not at all. It is a session's lock, so that
// no transaction is open while Kafka is written to; who dies loses it with the connection.
// Nothing but the number of repeats rests on it.
func (s store) alone(ctx context.Context, within time.Duration, do func(*pgx.Conn) error) error {
	locking, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	conn, err := s.pool.Acquire(locking)
	if err != nil {
		return fmt.Errorf("tell outcomes: %w", err)
	}
	defer conn.Release()
	var got bool
	if err := conn.QueryRow(locking, `SELECT pg_try_advisory_lock($1)`, tellLock).Scan(&got); err != nil {
		return fmt.Errorf("lock the telling of outcomes: %w", err)
	}
	if !got {
		return nil
	}
	err = do(conn.Conn())
	unlocking, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	defer cancel()
	if _, unlockErr := conn.Exec(unlocking, `SELECT pg_advisory_unlock($1)`, tellLock); unlockErr != nil {
		_ = conn.Conn().Close(unlocking) // the pool throws it away, and the lock goes with it
		err = errors.Join(err, fmt.Errorf("unlock the telling of outcomes: %w", unlockErr))
	}
	return err
}

const selectUntold = `
SELECT id, user_id, outcome, attempts, payload, outcome = 'withdrawn' AND cut_at IS NOT NULL, due_at, settled_at
FROM push_deliveries WHERE untold AND status = 3
ORDER BY settled_at LIMIT $1`

func selectTellings(ctx context.Context, conn *pgx.Conn, within time.Duration) ([]telling, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	rows, err := conn.Query(ctx, selectUntold, tellBatch)
	if err != nil {
		return nil, fmt.Errorf("load untold outcomes: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e telling, err error) {
		err = row.Scan(&e.id, &e.user, &e.outcome, &e.attempts, &e.payload, &e.replaced, &e.dueAt, &e.settledAt)
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("load untold outcomes: %w", err)
	}
	return found, nil
}

// Only over what was told: a delivery that has been taken back meanwhile, or settled
// again, has an outcome that nobody has told yet.
const updateTold = `
UPDATE push_deliveries p SET untold = false
FROM unnest($1::uuid[], $2::smallint[], $3::text[], $4::timestamptz[]) AS t (id, attempts, outcome, settled_at)
WHERE p.id = t.id AND p.untold AND p.status = 3 AND p.attempts = t.attempts AND p.outcome = t.outcome AND p.settled_at = t.settled_at`

func markTold(ctx context.Context, conn *pgx.Conn, within time.Duration, told []telling) (int64, error) {
	if len(told) == 0 {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	n := len(told)
	ids, attempts, outcomes, settled := make([]uuid.UUID, n), make([]int16, n), make([]string, n), make([]time.Time, n)
	for i, e := range told {
		ids[i], attempts[i], outcomes[i], settled[i] = e.id, e.attempts, string(e.outcome), e.settledAt
	}
	tag, err := conn.Exec(ctx, updateTold, ids, attempts, outcomes, settled)
	if err != nil {
		return 0, fmt.Errorf("mark %d outcomes told: %w", n, err)
	}
	return tag.RowsAffected(), nil
}
