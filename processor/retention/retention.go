// Package retention removes what has been kept for as long as it is said to be.
//
// Every processor runs it, and none leads: a step is one short transaction that tries a
// lock of its task's own, and who does not get it leaves the task to the one who has it.
// Nothing rests on who that is, or on its owning a partition: a step removes only what
// nobody will write again, and what it reads it re-checks under the rows' locks.
//
//   - An event goes only once it is on its topic (relayed_seq, which never falls) and the
//     outcome of its command is gone, oldest first in each partition.
//   - With an event go its recipients' inbox rows, and all below them, in the same
//     transaction. So an inbox is always the end of its sequence without a hole, each row
//     has its event, and who asks for what is gone is told resync (G5).
//   - How far a task is, it keeps in retention_progress: it never looks through what it
//     has removed, however many dead rows are there.
//
// Times come from the clock that is passed in, but for the activity log, where the database's
// own clock has the last word: this process may only add to that log.
package retention

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// Keep says how long things are kept. Fields that are zero take the default named.
type Keep struct {
	Events   time.Duration // with the inboxes; default 90 days
	Commands time.Duration // outcomes; longer than the commands topic keeps records, at most Events; default 30 days
	Pushes   time.Duration // settled deliveries; default 45 days
	Reports  time.Duration // what a report said, after it was closed; default 90 days
}

// What is no configuration: the privacy notice promises it.
const (
	day           = 24 * time.Hour
	keepBytes     = 7 * day   // of dead letters
	keepLetters   = 30 * day  // as long as their topic; and what operators did about parked commands
	keepAddresses = 30 * day  // in the activity log
	keepActivity  = 365 * day // and what is left of its month
	keepSessions  = 30 * day  // after they expired
	monthsAhead   = 180 * day // of the activity log are ready
	// keepKeys is as long as the activity log may have lines of what was done with a key.
	keepKeys = keepActivity + 31*day
	// keepSends is longer than the window in which sends to one target count, by more than
	// the commands topic keeps: a late command is judged by the time it was accepted.
	keepSends = 10 * day
)

// Config configures a Sweeper. Pool and Clock are required.
type Config struct {
	Pool *pgxpool.Pool
	Keep Keep
	// Interval is the time between two rounds; default 1 h. The first one comes within a
	// minute, and a round that failed is repeated after one.
	Interval time.Duration
	Batch    int           // rows in one transaction; default 500
	Steps    int           // transactions of one task in one round; default 5000
	Pause    time.Duration // between two transactions, so that they never are the load; default 20 ms
	Within   time.Duration // for one transaction; default 10 s: longer than the server's own time-outs

	Clock      func() time.Time
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.Keep.Events, 90*day)
	def(&c.Keep.Commands, 30*day)
	def(&c.Keep.Pushes, 45*day)
	def(&c.Keep.Reports, 90*day)
	def(&c.Interval, time.Hour)
	def(&c.Pause, 20*time.Millisecond)
	def(&c.Within, 10*time.Second)
	if c.Batch == 0 {
		c.Batch = 500
	}
	if c.Steps == 0 {
		c.Steps = 5000
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Sweeper removes what is due.
type Sweeper struct {
	cfg     Config
	metrics *metrics
}

// New returns a Sweeper. It touches nothing until Run.
func New(cfg Config) (*Sweeper, error) {
	cfg = cfg.withDefaults()
	switch {
	case cfg.Pool == nil || cfg.Clock == nil:
		return nil, errors.New("retention: Pool and Clock must be set")
	case cfg.Keep.Commands > cfg.Keep.Events:
		return nil, fmt.Errorf("retention: outcomes are found by their events, so %s of commands is more than %s of events can give",
			cfg.Keep.Commands, cfg.Keep.Events)
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("retention: register metrics: %w", err)
	}
	return &Sweeper{cfg: cfg, metrics: m}, nil
}

// Run does a round after another until ctx ends, and returns nil then. A task that fails
// does not keep the others from being done.
func (s *Sweeper) Run(ctx context.Context) error {
	wait := rand.N(min(s.cfg.Interval, time.Minute)) // not all processors of a deployment at once
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		wait = s.cfg.Interval - s.cfg.Interval/10 + rand.N(s.cfg.Interval/5+1)
		if err := s.Round(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("clean-up failed in part, trying again soon", slog.Any("error", err))
			wait = min(wait, time.Minute/2+rand.N(time.Minute))
		}
	}
}

// Round does every task once, as far as it has something to do within the bounds of one
// round. What is left is the next round's.
func (s *Sweeper) Round(ctx context.Context) error {
	var failed error
	for _, t := range s.tasks() {
		removed, err := s.do(ctx, t)
		switch {
		case err != nil && ctx.Err() != nil:
			return errors.Join(failed, ctx.Err())
		case err != nil:
			s.metrics.failures.WithLabelValues(t.name).Inc()
			failed = errors.Join(failed, fmt.Errorf("clean up %s: %w", t.name, err))
		default:
			s.metrics.success.WithLabelValues(t.name).Set(float64(s.cfg.Clock().Unix()))
		}
		if removed > 0 {
			s.cfg.Log.Info("cleaned up", slog.String("task", t.name), slog.Int64("rows", removed))
		}
	}
	return failed
}

// task is one kind of thing to remove.
type task struct {
	name string
	lock int32 // its advisory lock; never another task's
	// parts lists what the task is done for one after the other; nil: it is done as a whole.
	parts func(context.Context, pgx.Tx) ([]int16, error)
	step  func(context.Context, pgx.Tx, *place) (done, error)
}

// place is where a task is in one round.
type place struct {
	part int16     // of parts
	from time.Time // for tasks that go by time
}

// done is what one step did.
type done struct {
	removed map[string]int64 // by table
	more    bool             // there may be more to do
}

// do takes a task as far as it goes in this round.
func (s *Sweeper) do(ctx context.Context, t task) (removed int64, err error) {
	places := []int16{-1}
	if t.parts != nil {
		if _, err := s.transact(ctx, t, func(ctx context.Context, tx pgx.Tx) error {
			places, err = t.parts(ctx, tx)
			return err
		}); err != nil {
			return 0, err
		}
	}
	steps := 0
	for _, part := range places {
		at := &place{part: part}
		for more := true; more && steps < s.cfg.Steps; steps++ {
			if steps > 0 && !pause(ctx, s.cfg.Pause) {
				return removed, ctx.Err()
			}
			var made done
			mine, err := s.transact(ctx, t, func(ctx context.Context, tx pgx.Tx) (err error) {
				made, err = t.step(ctx, tx, at)
				return err
			})
			if err != nil || !mine {
				return removed, err
			}
			for table, n := range made.removed {
				s.metrics.removed.WithLabelValues(table).Add(float64(n))
				removed += n
			}
			more = made.more
		}
	}
	return removed, nil
}

// lockSpace is the first half of the advisory locks; arbitrary.
const lockSpace = 0x626f6e64

const tryLockSQL = `SELECT pg_try_advisory_xact_lock($1, $2)`

// transact runs one step. mine says whether nobody else was at the task.
func (s *Sweeper) transact(ctx context.Context, t task, do func(context.Context, pgx.Tx) error) (mine bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Within)
	defer cancel()
	err = pgx.BeginFunc(ctx, s.cfg.Pool, func(tx pgx.Tx) error {
		if lockErr := tx.QueryRow(ctx, tryLockSQL, int32(lockSpace), t.lock).Scan(&mine); lockErr != nil || !mine {
			return lockErr
		}
		return do(ctx, tx)
	})
	return mine, err
}

// pause waits. It returns false when ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
