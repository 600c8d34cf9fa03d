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
)

// worker applies the commands of its partitions, one transaction at a time.
type worker struct {
	p      *Processor
	known  known     // what of a newer program's commands this one knows
	counts time.Time // of the last census
	parts  []*partition
	relay  *relay
	conn   *pgx.Conn
	items  chan *item // from the pumps of its partitions; bounded
	failed chan error // from pumps and relay
}

func newWorker(p *Processor, parts []*partition, epoch string) *worker {
	return &worker{
		p: p, parts: parts, relay: newRelay(p, epoch, parts),
		items:  make(chan *item, 2*p.cfg.MaxBatch),
		failed: make(chan error, len(parts)+1),
	}
}

// run works until fetching ends or something fails. Then pumps stop, the relay publishes
// what is committed, and relayed_seq is written: all while working lasts.
func (w *worker) run(fetching, working context.Context) error {
	fetching, stop := context.WithCancel(fetching)
	defer stop()
	var err error
	if w.conn, err = w.p.connectRetrying(fetching); err != nil {
		return nil //nolint:nilerr // only the generation's end ends the tries
	}
	defer func() { closeConn(w.conn) }()

	var pumps, relaying sync.WaitGroup
	publishing, abandon := context.WithCancel(working)
	defer abandon()
	relaying.Go(func() {
		if relayErr := w.relay.run(publishing); relayErr != nil {
			w.failed <- fmt.Errorf("relay: %w", relayErr)
		}
	})
	for _, part := range w.parts {
		ctx, cancel := context.WithCancel(fetching)
		part.stopPump = cancel
		next := part.next // read here: timers may be applied before the pump is under way
		pumps.Go(func() {
			defer cancel()
			if pumpErr := w.pump(ctx, part, next); pumpErr != nil && ctx.Err() == nil {
				w.failed <- pumpErr
			}
		})
	}
	err = w.work(fetching, working)
	stop()
	pumps.Wait()
	if errors.As(err, new(*hookError)) {
		abandon() // a crash publishes nothing more
	}
	w.relay.close()
	relaying.Wait()
	if err == nil {
		err = w.saveRelayed(working)
	}
	w.countLost(working)
	return err
}

const ownersSQL = `
SELECT partition, epoch, version, next_offset
FROM processor_partitions
WHERE partition = ANY($1::smallint[])`

// countLost looks whether another owner has claimed a partition while this generation
// believed it was its own. Who hands over in time never sees that; who was stopped for
// longer than its session does, even if it had nothing in hand to be fenced with.
func (w *worker) countLost(ctx context.Context) {
	if w.conn.IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, w.p.cfg.TxDeadline)
	defer cancel()
	ids, byID := make([]int16, 0, len(w.parts)), map[int]*partition{}
	for _, part := range w.parts {
		ids, byID[part.id] = append(ids, int16(part.id)), part
	}
	found, err := w.conn.Query(ctx, ownersSQL, ids)
	if err != nil {
		return // the connection says so at the next claim
	}
	rows, err := pgx.CollectRows(found, scanFence)
	if err != nil {
		return
	}
	for _, f := range rows {
		if part := byID[f.partition]; f.epoch != part.epoch {
			w.fence([]*partition{part})
		}
	}
}

// pump reads one partition from an offset on into the worker's channel.
func (w *worker) pump(ctx context.Context, part *partition, want int64) error {
	r := w.p.cfg.Bus.Open(w.p.cfg.Topics.Commands, part.id, want)
	defer r.Close()
	for {
		rec, err := r.Read(ctx)
		if err != nil {
			return fmt.Errorf("read %s/%d: %w", w.p.cfg.Topics.Commands, part.id, err)
		}
		if rec.Offset < want {
			continue
		}
		want = rec.Offset + 1
		select {
		case w.items <- decode(part, rec, w.p.cfg.Partitions):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// work takes what has arrived, without lingering, and applies it. When nothing arrives it
// writes down how far the relay is.
func (w *worker) work(fetching, working context.Context) error {
	idle := time.NewTimer(w.p.cfg.RelayIdle)
	defer idle.Stop()
	due := time.NewTimer(w.p.cfg.TimerPoll)
	defer due.Stop()
	batch := make([]*item, 0, w.p.cfg.MaxBatch)
	for {
		select {
		case <-fetching.Done():
			return nil
		case err := <-w.failed:
			return err
		case <-idle.C:
			if err := w.saveRelayed(working); err != nil {
				return err
			}
			for _, part := range w.parts {
				w.p.metrics.oldest.WithLabelValues(strconv.Itoa(part.id)).Set(0)
			}
			idle.Reset(w.p.cfg.RelayIdle)
			continue
		case <-due.C:
			w.census(working)
			more, err := w.byThemselves(fetching, working)
			if err != nil {
				if errors.Is(err, errGivenUp) {
					return nil
				}
				return err
			}
			// A backlog of timers takes turns with commands, a batch each.
			if more {
				due.Reset(time.Nanosecond)
			} else {
				due.Reset(w.p.cfg.TimerPoll)
			}
			continue
		case it := <-w.items:
			batch = append(batch[:0], it)
			idle.Reset(w.p.cfg.RelayIdle)
		}
	gather:
		for len(batch) < w.p.cfg.MaxBatch {
			select {
			case it := <-w.items:
				batch = append(batch, it)
			default:
				break gather
			}
		}
		w.observeAge(batch)
		if err := w.stale(fetching, batch); err != nil {
			return nil //nolint:nilerr // the generation ended while the broker could not be asked
		}
		for rest := batch; len(rest) > 0; {
			n := run(rest)
			if err := w.apply(fetching, working, rest[:n]); err != nil {
				if errors.Is(err, errGivenUp) {
					return nil
				}
				return err
			}
			rest = rest[n:]
		}
	}
}

func (w *worker) observeAge(items []*item) {
	now := w.p.cfg.Clock()
	seen := map[int]struct{}{}
	for _, it := range items {
		if _, ok := seen[it.part.id]; ok || it.err != nil {
			continue
		}
		seen[it.part.id] = struct{}{}
		w.p.metrics.oldest.WithLabelValues(strconv.Itoa(it.part.id)).Set(max(now.Sub(it.cmd.AcceptedAt).Seconds(), 0))
	}
}

func (w *worker) stale(ctx context.Context, items []*item) error {
	for attempt := 0; ; attempt++ {
		err := w.p.markStale(ctx, items)
		if err == nil {
			return nil
		}
		w.p.metrics.retries.WithLabelValues("stale_check").Inc()
		if attempt == 0 {
			w.p.cfg.Log.Warn("stale check failed, trying again", slog.Any("error", err))
		}
		if !backoff(ctx, attempt, 20*time.Millisecond, time.Second) {
			return ctx.Err()
		}
	}
}

// apply brings the records through, in one transaction if it can be. The transaction in
// hand outlives fetching; a new attempt after a failure does not begin any more then.
func (w *worker) apply(fetching, working context.Context, items []*item) error {
	var more restart
	restarts := 0 // apart from the attempts: those that a busy server failed say nothing of the batch
	for attempt := 0; ; attempt++ {
		items = unfenced(items)
		if len(items) == 0 {
			return nil
		}
		b := newBatch(items, w.p.cfg.Limits, more)
		begin := time.Now()
		done, err := w.p.attempt(working, w.conn, b)
		if err == nil {
			w.p.metrics.tx.Observe(time.Since(begin).Seconds())
			return w.committed(working, b, done)
		}
		if errors.As(err, new(*hookError)) || errors.As(err, new(*fatalError)) {
			w.rollback(working)
			return err
		}
		if again, ok := errors.AsType[*restart](err); ok {
			w.rollback(working)
			w.p.metrics.restarts.Inc()
			more.streams = append(more.streams, again.streams...)
			more.commandIDs = append(more.commandIDs, again.commandIDs...)
			if restarts++; restarts > 2*len(items)+10 {
				return fatalf("a batch of %d commands concerns more with every attempt: %w", len(items), again)
			}
			continue
		}
		if lost, ok := errors.AsType[*fencedError](err); ok {
			w.rollback(working)
			w.fence(lost.parts)
			continue
		}
		switch judge(w.conn, err) {
		case unknownOutcome:
			landed, rerr := w.resolve(working, b, err)
			if rerr != nil {
				return rerr
			}
			if landed {
				return w.committed(working, b, b.changes)
			}
		case deterministic:
			w.rollback(working)
			w.p.cfg.Log.Warn("batch failed, trying its commands alone", slog.Int("commands", len(items)), slog.Any("error", err))
			if len(items) > 1 {
				return w.alone(fetching, working, items)
			}
			if panicked, ok := errors.AsType[*panicError](err); ok {
				w.p.metrics.panics.Inc()
				w.p.cfg.Log.Error("the rules panicked", slog.String("pair", items[0].cmd.Pair.String()),
					slog.String("command", items[0].cmd.ID.String()), slog.Any("error", err), slog.String("stack", string(panicked.stack)))
			}
			if items[0].timer != nil {
				return w.postpone(working, items[0].timer, err)
			}
			if items[0].park != "" || (items[0].turn != nil && items[0].turn.parked == nil) {
				return fmt.Errorf("park command %s: %w", items[0].env.ID, err)
			}
			items[0].park = storable(err.Error())
			continue
		case tryAgain:
			w.rollback(working)
		}
		w.p.metrics.retries.WithLabelValues(reason(err)).Inc()
		if attempt%10 == 0 {
			w.p.cfg.Log.Warn("transaction failed, trying again", slog.Int("attempt", attempt), slog.Any("error", err))
		}
		if !backoff(fetching, attempt, 5*time.Millisecond, time.Second) {
			return errGivenUp
		}
	}
}

// errGivenUp says that a batch was not applied because the generation ended. Nothing
// behind it may be applied either; whoever claims next begins with it.
var errGivenUp = errors.New("not applied before the generation ended")

// alone applies each record in a transaction of its own. The one that fails again is the
// one that parks its pair; the others go on.
func (w *worker) alone(fetching, working context.Context, items []*item) error {
	for _, it := range items {
		if err := w.apply(fetching, working, []*item{it}); err != nil {
			return err
		}
	}
	return nil
}

func unfenced(items []*item) []*item {
	kept := items[:0:0]
	for _, it := range items {
		if !it.part.fenced {
			kept = append(kept, it)
		}
	}
	return kept
}

// committed takes the partitions forward and hands the rows to the relay.
func (w *worker) committed(ctx context.Context, b *batch, done *changes) error {
	for _, s := range b.steps {
		s.part.version++
		s.part.next, s.part.lastID, s.part.eventSeq, s.part.relayed = s.next, s.lastID, s.eventSeq, s.relayed
		s.part.applied.Store(s.next)
		s.part.seen.Store(b.begun.UnixNano())
	}
	w.p.count(b, done)
	w.p.logActivity(done.activity)
	if err := w.p.cfg.Hook(ctx, AfterCommit); err != nil {
		return &hookError{err}
	}
	w.relay.push(done.rows)
	for _, s := range b.steps {
		w.relay.backlog(s.part)
	}
	return nil
}

func (w *worker) rollback(ctx context.Context) {
	if w.conn.IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, w.p.cfg.TxDeadline)
	defer cancel()
	if _, err := w.conn.Exec(ctx, "rollback"); err != nil {
		closeConn(w.conn) // resolve opens another
	}
}

// fence takes lost partitions out of the generation: no record of theirs is applied here
// any more. What was committed before may still be published.
func (w *worker) fence(parts []*partition) {
	for _, part := range parts {
		if part.fenced {
			continue
		}
		part.fenced = true
		part.lost.Store(true)
		part.stopPump()
		w.p.metrics.fenced.Inc()
		w.p.cfg.Log.Warn("partition has another owner", slog.Int("partition", part.id), slog.Int64("epoch", part.epoch))
	}
}

// How far a partition is, waiting for a transaction that may still hold the row.
const resolveSQL = `
SELECT partition, epoch, version, next_offset
FROM processor_partitions
WHERE partition = ANY($1::smallint[])
ORDER BY partition
FOR UPDATE`

// resolve finds out on a new connection whether a transaction of unknown outcome was
// committed. It goes on until it knows or working ends: nothing may be retried, and
// nothing published, before.
func (w *worker) resolve(ctx context.Context, b *batch, cause error) (landed bool, err error) {
	w.p.cfg.Log.Warn("connection lost, reading what was committed", slog.Any("error", cause))
	for attempt := 0; ; attempt++ {
		rows, err := w.reread(ctx, b)
		if err == nil {
			return w.compare(b, rows)
		}
		w.p.metrics.retries.WithLabelValues("resolve").Inc()
		if !backoff(ctx, attempt, 10*time.Millisecond, time.Second) {
			return false, fmt.Errorf("outcome of a transaction: %w (after %w)", err, cause)
		}
	}
}

func (w *worker) reread(ctx context.Context, b *batch) ([]fence, error) {
	if w.conn.IsClosed() {
		conn, err := w.p.connect(ctx)
		if err != nil {
			return nil, err
		}
		w.conn = conn
	}
	ctx, cancel := context.WithTimeout(ctx, w.p.cfg.TxDeadline)
	defer cancel()
	found, err := w.conn.Query(ctx, resolveSQL, b.partitionIDs())
	if err == nil {
		var rows []fence
		rows, err = pgx.CollectRows(found, scanFence)
		if err == nil {
			return rows, nil
		}
	}
	if judge(w.conn, err) == unknownOutcome {
		closeConn(w.conn)
	}
	return nil, fmt.Errorf("read partition rows: %w", err)
}

// compare reads the outcome from the versions: the batch was one transaction, so any
// partition that is still ours speaks for all. Of a partition with a new epoch its new
// owner knows more than we.
func (w *worker) compare(b *batch, rows []fence) (landed bool, err error) {
	found := make(map[int]fence, len(rows))
	for _, f := range rows {
		found[f.partition] = f
	}
	var lost []*partition
	for _, s := range b.steps {
		f, ok := found[s.part.id]
		switch {
		case !ok || f.epoch != s.part.epoch:
			lost = append(lost, s.part)
		case f.version == s.part.version+1:
			landed = true
		case f.version != s.part.version:
			return false, fatalf("partition %d went from version %d to %d in one transaction", s.part.id, s.part.version, f.version)
		}
	}
	w.fence(lost)
	return landed, nil
}

// saveRelayed writes down how far the relay is, under the epoch. Within a batch it costs
// nothing; alone it is only worth it when there is nothing else to do.
func (w *worker) saveRelayed(ctx context.Context) error {
	for _, part := range w.parts {
		published := part.published.Load()
		if part.fenced || published <= part.relayed {
			continue
		}
		if w.conn.IsClosed() {
			conn, err := w.p.connect(ctx)
			if err != nil {
				return nil //nolint:nilerr // the next batch needs the connection more, and reports it
			}
			w.conn = conn
		}
		if !w.saveOne(ctx, part, published) {
			return nil
		}
	}
	return nil
}

const saveRelayedSQL = `
UPDATE processor_partitions SET relayed_seq = $3
WHERE partition = $1 AND epoch = $2`

func (w *worker) saveOne(ctx context.Context, part *partition, published int64) bool {
	ctx, cancel := context.WithTimeout(ctx, w.p.cfg.TxDeadline)
	defer cancel()
	now := time.Now()
	tag, err := w.conn.Exec(ctx, saveRelayedSQL, part.id, part.epoch, published)
	switch {
	case err != nil:
		// Only repeats hang on it: the next batch or the next idle time writes it again.
		w.p.metrics.retries.WithLabelValues("save_relayed").Inc()
		return false
	case tag.RowsAffected() == 0:
		w.fence([]*partition{part})
	default:
		part.relayed = published
		part.seen.Store(now.UnixNano())
		w.relay.backlog(part)
	}
	return true
}
