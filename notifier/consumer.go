package notifier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// consumer turns the events topic into due deliveries.
type consumer struct {
	cfg      Config
	store    store
	metrics  *metrics
	log      *slog.Logger
	clock    func() time.Time
	rules    map[partner.EventType]rule
	enqueued func() // called after deliveries became due
}

// Run consumes as a member of the group until ctx ends.
func (c *consumer) Run(ctx context.Context) error {
	err := c.cfg.Bus.RunGroup(ctx, c.cfg.Group, c.consume)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// errRejoin ends a generation that cannot commit: what was written is read again and
// inserts nothing.
var errRejoin = errors.New("join the group again")

// consume is one generation. It ends when its context does, when its offsets cannot be
// committed (nil: the group is joined again), or with an error that trying again does not
// change.
func (c *consumer) consume(ctx context.Context, gen bus.Generation) error {
	group, ctx := errgroup.WithContext(ctx)
	records := make(chan contract.Record, c.cfg.MaxBatch)
	for _, p := range gen.Partitions {
		group.Go(func() error { return c.pump(ctx, p, records) })
	}
	group.Go(func() error { return c.apply(ctx, gen, records) })
	err := group.Wait()
	if errors.Is(err, errRejoin) || errors.Is(err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("consume %s: %w", c.cfg.Group.Topic, err)
}

// pump reads one partition into the channel.
func (c *consumer) pump(ctx context.Context, p bus.Assigned, records chan<- contract.Record) error {
	// A new group starts at the earliest record: the first offset may be beyond 0, which the
	// reader reports.
	next, committed := max(p.Committed, 0), p.Committed >= 0
	for ctx.Err() == nil {
		err := c.pumpFrom(ctx, p.Partition, next, records)
		missing, ok := errors.AsType[*bus.OutOfRangeError](err)
		if !ok {
			return err
		}
		// Retention removed what was not read, or the topic was made again. Reading what is
		// there repeats no push; what is gone is older than any push lives.
		if committed {
			c.log.Warn("the topic does not hold the offset to go on from", "error", err)
			c.metrics.skipped.Inc()
		}
		next, committed = missing.Start, true
	}
	return ctx.Err()
}

func (c *consumer) pumpFrom(ctx context.Context, partition int, offset int64, records chan<- contract.Record) error {
	reader := c.cfg.Bus.OpenPartition(c.cfg.Group.Topic, partition, offset)
	defer reader.Close()
	label := strconv.Itoa(partition)
	defer c.metrics.lag.DeleteLabelValues(label) // another member's from here on
	for {
		rec, err := reader.Read(ctx)
		if err != nil {
			return fmt.Errorf("read partition %d: %w", partition, err)
		}
		c.metrics.lag.WithLabelValues(label).Set(float64(reader.Lag()))
		select {
		case records <- rec:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// apply writes what has arrived, as one transaction of at most MaxBatch records, and
// commits their offsets. What is in hand when ctx ends is finished.
func (c *consumer) apply(ctx context.Context, gen bus.Generation, records <-chan contract.Record) error {
	for {
		var batch []contract.Record
		select {
		case rec := <-records:
			batch = append(batch, rec)
		case <-ctx.Done():
			return ctx.Err()
		}
		for arrived := true; arrived && len(batch) < c.cfg.MaxBatch; {
			select {
			case rec := <-records:
				batch = append(batch, rec)
			default:
				arrived = false
			}
		}
		if err := c.persist(ctx, batch); err != nil {
			return err
		}
		next := make(map[int]int64, len(gen.Partitions))
		for _, rec := range batch {
			next[rec.Partition] = rec.Offset + 1
		}
		commit, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.StoreTimeout)
		err := gen.Commit(commit, next)
		cancel()
		if errors.Is(err, bus.ErrFenced) || err != nil && bus.Retriable(err) {
			c.log.Warn("offsets are not committed, joining the group again", "error", err)
			return errRejoin
		}
		if err != nil {
			return fmt.Errorf("commit offsets: %w", err)
		}
	}
}

// persist retries a batch in place until it is written or ctx ends: passing over it would
// lose pushes. A fault of the data themselves sets the one record aside that causes it.
func (c *consumer) persist(ctx context.Context, batch []contract.Record) error {
	for failures := 1; ; failures++ {
		err := c.write(ctx, batch, nil)
		if err == nil {
			return nil
		}
		if dataFault(err) {
			if len(batch) == 1 {
				err = c.write(ctx, batch, err)
			} else {
				err = c.persistEach(ctx, batch)
			}
			if err == nil || ctx.Err() != nil {
				return err
			}
		}
		c.log.Warn("writing push deliveries fails, trying again", "error", err, "failures", failures, "records", len(batch))
		timer := time.NewTimer(jitter(storeRetryBase, storeRetryCap, failures))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

func (c *consumer) persistEach(ctx context.Context, batch []contract.Record) error {
	for _, rec := range batch {
		if err := c.persist(ctx, []contract.Record{rec}); err != nil {
			return err
		}
	}
	return nil
}

// dataFault reports whether the same statement with the same data fails the same way: a
// value out of its type's range (class 22) or against a constraint (class 23).
func dataFault(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && len(pg.Code) == 5 && (pg.Code[:2] == "22" || pg.Code[:2] == "23")
}

// write makes one batch's pushes due in one transaction. With poison set, the records are
// dead letters for that reason.
func (c *consumer) write(ctx context.Context, batch []contract.Record, poison error) error {
	now := c.clock()
	var (
		in    intake
		fates = make(map[fate]int)
	)
	for _, rec := range batch {
		found, f, err := c.read(rec, now)
		if poison != nil {
			found, f, err = nil, fateMalformed, poison
		}
		if f == fateMalformed {
			in.letters = append(in.letters, deadLetter{record: rec, err: err})
		} else if pair, ok := endingOf(c.rules, rec); ok {
			in.endings = append(in.endings, pair)
		}
		in.pushes = append(in.pushes, found...)
		fates[f]++
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.StoreTimeout)
	defer cancel()
	inserted, marked, err := c.store.enqueue(ctx, now, now.Add(c.cfg.Grace), in)
	if err != nil {
		return err
	}
	if err := c.tell(ctx, in.letters, now); err != nil {
		return err
	}
	for f, n := range fates {
		c.metrics.events.WithLabelValues(string(f)).Add(float64(n))
	}
	for _, l := range in.letters {
		c.log.Error("a record cannot be read and is set aside", "topic", l.record.Topic,
			"partition", l.record.Partition, "offset", l.record.Offset, "error", l.err)
	}
	for _, p := range in.pushes {
		c.metrics.age.Observe(now.Sub(p.payload.AppliedAt).Seconds())
	}
	c.metrics.enqueued.Add(float64(inserted))
	if inserted+marked > 0 {
		c.enqueued()
	}
	return nil
}

// tell writes a record of each dead letter to their topic, after the rows and before the
// offsets are committed: it may be there twice, with one id. A topic that refuses it for
// good holds up no push; the row is there.
func (c *consumer) tell(ctx context.Context, letters []deadLetter, now time.Time) error {
	if len(letters) == 0 {
		return nil
	}
	recs := make([]contract.Record, len(letters))
	for i, l := range letters {
		var err error
		recs[i], err = contract.EncodeDeadLetter(c.cfg.DeadLetter, l.record.Partition, contract.DeadLetter{
			Topic: l.record.Topic, Partition: l.record.Partition, Offset: l.record.Offset, Error: l.err.Error(),
			Time: now, Key: l.record.Key, By: contract.ByNotifier,
		})
		if err != nil {
			return err
		}
	}
	err := c.cfg.Bus.Write(ctx, recs)
	if err != nil && !bus.Retriable(err) {
		c.log.Error("dead letters are not on their topic", "topic", c.cfg.DeadLetter, "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("write dead letters: %w", err)
	}
	return nil
}

func (c *consumer) read(rec contract.Record, now time.Time) ([]push, fate, error) {
	// Most events are nobody's push, and their header says so: decoding them would be most
	// of the consumer's work.
	if kind, ok := partner.ParseEventType(rec.Header("ce_type")); ok && !c.rules[kind].pushed {
		return nil, fateNotPushed, nil
	}
	ev, err := contract.DecodeEvent(rec)
	if errors.Is(err, contract.ErrUnknown) {
		return nil, fateUnknown, nil
	}
	if err != nil {
		return nil, fateMalformed, err
	}
	return pushesOf(c.rules, ev, now)
}
