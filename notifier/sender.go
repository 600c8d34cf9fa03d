package notifier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/time/rate"
)

const (
	// While something due is locked by another notifier, look again after it.
	busyPoll = 50 * time.Millisecond
	// The breaker looks at the calls of this window in slices of breakerBucket.
	breakerWindow   = 10 * time.Second
	breakerBucket   = time.Second
	breakerMinCalls = 5
	// So long after its claim a delivery is sent without another look at the cuts.
	claimStaysFresh = 200 * time.Millisecond
	storeRetryBase  = 100 * time.Millisecond
	storeRetryCap   = 2 * time.Second
)

// sender claims due deliveries, calls the provider, and settles what came of it.
type sender struct {
	cfg     Config
	store   store
	metrics *metrics
	log     *slog.Logger
	clock   func() time.Time
	breaker *gobreaker.CircuitBreaker[struct{}]
	quota   *rate.Limiter
	texts   texts
	teller  *teller

	wake    chan struct{} // capacity 1: something changed for the claimer
	stalled atomic.Bool   // results wait for Postgres: no calls are made whose results would, too

	mu sync.Mutex
	// held is what is claimed and not settled. None of it is claimed again, even when its
	// lease has ended: its call may be under way, or its result wait for Postgres.
	held map[uuid.UUID]time.Time // until when it is claimed
}

func newSender(cfg Config, s store, m *metrics) (*sender, error) {
	said, err := loadTexts()
	if err != nil {
		return nil, err
	}
	snd := &sender{
		cfg: cfg, store: s, metrics: m, log: cfg.Log, clock: cfg.Clock, wake: make(chan struct{}, 1),
		held: map[uuid.UUID]time.Time{}, texts: said,
		teller: newTeller(cfg, s, m),
	}
	snd.quota = rate.NewLimiter(rate.Inf, 0)
	if cfg.PerMinute > 0 {
		// A second's worth may go at once, so that a pause costs nothing.
		snd.quota = rate.NewLimiter(rate.Limit(float64(cfg.PerMinute)/60), max(1, cfg.PerMinute/60))
	}
	snd.breaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         "push",
		MaxRequests:  uint32(cfg.Probes),
		Interval:     breakerWindow,
		BucketPeriod: breakerBucket,
		Timeout:      cfg.BreakerTimeout,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return c.TotalSuccesses+c.TotalFailures >= breakerMinCalls && c.TotalFailures > c.TotalSuccesses
		},
		// Dead addresses and quotas are answers of a working provider: without this, a
		// handful of uninstalled apps would stop everybody's pushes.
		IsSuccessful: func(err error) bool { return !providerFault(err) },
		IsExcluded:   func(err error) bool { return err != nil && verdictOf(err) == Cancelled },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			m.breakerState(to)
			snd.log.Warn("push breaker changed", "from", from.String(), "to", to.String())
			snd.nudge()
		},
	})
	return snd, nil
}

// nudge wakes the claimer: rows were inserted, room came free, the breaker changed.
func (s *sender) nudge() {
	select {
	case s.wake <- struct{}{}:
	default: // one is waiting already
	}
}

// Run claims and sends until ctx ends; then it takes nothing more, finishes the calls in
// hand or cuts them at the drain timeout, and writes every result.
func (s *sender) Run(ctx context.Context) error {
	limit := s.cfg.InFlight * heldPerWorker
	// No channel ever blocks a sender: no more than limit deliveries are claimed.
	jobs := make(chan claimed, limit)
	results := make(chan settlement, limit)
	told := make(chan settlement, limit)

	calls, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(s.cfg.DrainTimeout, cut)
		context.AfterFunc(calls, func() { timer.Stop() })
	})
	defer stop()

	var workers, settler sync.WaitGroup
	for range s.cfg.InFlight {
		workers.Go(func() {
			for job := range jobs {
				result := s.deliver(ctx, calls, job)
				result.job = job
				results <- result
			}
		})
	}
	settler.Go(func() {
		s.teller.pass(results, told)
		close(told)
	})
	settler.Go(func() { s.settleAll(ctx, told) })
	settler.Go(func() { s.teller.Run(ctx) })

	s.claimAll(ctx, jobs, limit)
	close(jobs)
	workers.Wait()
	close(results)
	settler.Wait()
	return nil
}

// claimAll hands due deliveries to the workers until ctx ends. While the breaker is open
// it claims nothing, and a few when it is half open, so that waiting burns no attempts.
func (s *sender) claimAll(ctx context.Context, jobs chan<- claimed, limit int) {
	failures := 0
	for ctx.Err() == nil {
		held, overdue := s.holding()
		room := limit - held
		switch s.breaker.State() {
		case gobreaker.StateOpen:
			room = 0
		case gobreaker.StateHalfOpen:
			room = min(room, s.cfg.Probes-held)
		case gobreaker.StateClosed:
		}
		// While there is work enough for all workers waiting, what comes free is left to gather:
		// a claim costs the same few statements for one delivery as for hundreds.
		if len(jobs) >= s.cfg.InFlight || room <= 0 || s.stalled.Load() {
			s.wait(ctx, min(s.cfg.PollInterval, s.cfg.BreakerTimeout/4))
			continue
		}
		taken, err := s.claim(ctx, jobs, room, overdue)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			failures++
			s.log.Warn("claiming pushes fails, trying again", "error", err, "failures", failures)
			s.wait(ctx, jitter(storeRetryBase, storeRetryCap, failures))
			continue
		}
		failures = 0
		if taken < room {
			s.wait(ctx, s.untilDue(ctx))
		}
	}
}

// claim takes up to room deliveries, none of them overdue ones that are held, and returns how
// many rows it dealt with.
func (s *sender) claim(ctx context.Context, jobs chan<- claimed, room int, overdue []uuid.UUID) (int, error) {
	// On its own deadline: a claim that is under way when ctx ends is finished, for its rows
	// would wait for their lease otherwise.
	dbctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.StoreTimeout)
	defer cancel()
	now := s.clock()
	claims, closed, err := s.store.claim(dbctx, now, claimTerms{leaseEnds: now.Add(s.cfg.Lease), limit: room, except: overdue})
	if err != nil {
		return 0, err
	}
	for _, c := range closed {
		if c.Outcome == "" {
			s.metrics.putOff.Inc()
			continue
		}
		s.metrics.settled(c.Outcome, c.Kind)
	}
	s.hold(claims)
	for _, job := range claims {
		jobs <- job
	}
	return len(claims) + len(closed), nil
}

// holding returns how many deliveries are held, and those whose lease is about to end: the
// others cannot be due.
func (s *sender) holding() (n int, overdue []uuid.UUID) {
	soon := s.clock().Add(s.cfg.StoreTimeout)
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, until := range s.held {
		if until.Before(soon) {
			overdue = append(overdue, id)
		}
	}
	return len(s.held), overdue
}

func (s *sender) hold(claims []claimed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range claims {
		s.held[c.ID] = c.LeaseEnds
	}
	s.metrics.held.Set(float64(len(s.held)))
}

func (s *sender) release(results []settlement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range results {
		delete(s.held, r.id)
	}
	s.metrics.held.Set(float64(len(s.held)))
}

// untilDue returns how long to wait for the next delivery: rows of other notifiers' making
// are found by looking at least every PollInterval.
func (s *sender) untilDue(ctx context.Context) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	now := s.clock()
	next, backlog, err := s.store.schedule(ctx, now)
	if err != nil {
		return jitter(storeRetryBase, storeRetryCap, 1) // the next claim meets the same fault and reports it
	}
	s.metrics.backlog.Set(float64(backlog))
	if next.IsZero() {
		return s.cfg.PollInterval
	}
	return min(max(next.Sub(now), busyPoll), s.cfg.PollInterval)
}

func (s *sender) wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-s.wake:
	case <-timer.C:
	}
}

// deliver makes one call, or none when there is no time for it or the breaker is open.
func (s *sender) deliver(ctx, calls context.Context, job claimed) settlement {
	if wait, ok := s.waitForQuota(ctx, job); !ok {
		return s.resolve(job, s.clock(), &SendError{Verdict: Cancelled, RetryAfter: wait, Cause: errors.New("no quota left for the call")})
	}
	now := s.clock()
	// Past that, another notifier could claim the row while our call is under way.
	if ctx.Err() != nil || now.Add(s.cfg.CallTimeout).After(job.LeaseEnds) {
		return s.resolve(job, now, &SendError{Verdict: Cancelled, Cause: errors.New("no time left for the call")})
	}
	// A claim that had to wait for its turn may have been overtaken by an ending (G9). What
	// replaces a push has nothing in it that could be.
	if !job.Replaces && now.Sub(job.LeaseEnds.Add(-s.cfg.Lease)) > claimStaysFresh {
		withdrawn, err := s.withdrawn(calls, job)
		if err != nil {
			return s.resolve(job, now, &SendError{Verdict: Cancelled, Cause: err})
		}
		if withdrawn {
			s.metrics.settled(Withdrawn, job.Kind)
			return settlement{id: job.ID, claim: job.Attempts, attempts: job.Attempts - 1, dueAt: job.DueAt, outcome: Withdrawn}
		}
	}
	called := false
	_, err := s.breaker.Execute(func() (struct{}, error) {
		called = true
		callctx, cancel := context.WithTimeout(calls, s.cfg.CallTimeout)
		defer cancel()
		start := time.Now()
		err := s.cfg.Provider.Send(callctx, s.texts.messageOf(job, now))
		s.metrics.call.Observe(time.Since(start).Seconds())
		return struct{}{}, err
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		err = &SendError{Verdict: Held, RetryAfter: s.cfg.BreakerTimeout, Cause: err}
	}
	result := s.resolve(job, s.clock(), err)
	result.handed = called && mayBeOnPhone(err)
	return result
}

// waitForQuota waits until the call may be made. When that would be too late for its lease, or
// ctx ends, it says how long the call should wait instead; that is no attempt.
func (s *sender) waitForQuota(ctx context.Context, job claimed) (wait time.Duration, ok bool) {
	turn := s.quota.Reserve()
	if wait = turn.Delay(); wait <= 0 {
		return 0, true
	}
	s.metrics.quotaWaits.Inc()
	if s.clock().Add(wait + s.cfg.CallTimeout).After(job.LeaseEnds) {
		turn.Cancel()
		return wait, false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return 0, true
	case <-ctx.Done():
		turn.Cancel()
		return 0, false
	}
}

// withdrawn looks again whether a cut took the event back.
func (s *sender) withdrawn(ctx context.Context, job claimed) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	return s.store.withdrawn(ctx, job.ID)
}

// resolve says what a call's result means for its delivery.
func (s *sender) resolve(job claimed, now time.Time, err error) settlement {
	out := settlement{id: job.ID, claim: job.Attempts, attempts: job.Attempts, dueAt: job.DueAt, replaces: job.Replaces}
	if err == nil {
		s.metrics.attempts.WithLabelValues("sent").Inc()
		out.outcome = Delivered
		if job.Replaces {
			s.metrics.replaced.Inc()
			out.outcome = Withdrawn
		} else {
			s.metrics.delivered(job, now)
		}
		s.metrics.settled(out.outcome, job.Kind)
		return out
	}
	verdict := verdictOf(err)
	s.metrics.attempts.WithLabelValues(string(verdict)).Inc()
	out.err = err.Error()
	var after time.Duration
	if e, ok := errors.AsType[*SendError](err); ok {
		after = e.RetryAfter
	}
	switch verdict {
	case Gone:
		out.outcome, out.gone, out.seenAt = Unregistered, job.Token, job.SeenAt
	case Refused:
		out.outcome = Rejected
	case Cancelled, Held:
		out.attempts--
		out.dueAt = now.Add(after)
	case Throttled:
		if after == 0 {
			after = s.cfg.QuotaWait
		}
		fallthrough
	case Denied, Unavailable, Unknown:
		// Jitter on top of what the provider asked for, so that not everything comes back at once.
		out.dueAt = now.Add(after + jitter(s.cfg.RetryBase, s.cfg.RetryCap, int(job.Attempts)))
		if !out.dueAt.Before(job.ExpiresAt) || job.Attempts >= maxAttempts {
			out.outcome = Expired
		}
	}
	if out.outcome != "" {
		out.dueAt = job.DueAt
		s.metrics.settled(out.outcome, job.Kind)
	}
	return out
}

// settleAll writes results as they come, as many at once as have gathered, until the
// channel is closed and empty. While the program runs it does not give up; after ctx has
// ended it tries until the drain timeout, and what is left becomes due by its lease.
func (s *sender) settleAll(ctx context.Context, results <-chan settlement) {
	for first := range results {
		batch := []settlement{first}
	gather:
		for {
			select {
			case r, ok := <-results:
				if !ok {
					break gather
				}
				batch = append(batch, r)
			default:
				break gather
			}
		}
		if err := s.settle(ctx, batch); err != nil {
			s.log.Error("push results are lost, their leases will end", "error", err, "results", len(batch))
		}
		s.release(batch)
		s.nudge()
	}
}

func (s *sender) settle(ctx context.Context, batch []settlement) error {
	defer s.stalled.Store(false)
	var giveUp time.Time // set at the first failure after ctx has ended
	for failures := 1; ; failures++ {
		settled, err := s.settleOnce(ctx, batch)
		if err == nil {
			s.metrics.lostClaims.Add(float64(int64(len(batch)) - settled))
			return nil
		}
		s.stalled.Store(true)
		delay := jitter(storeRetryBase, storeRetryCap, failures)
		if ctx.Err() == nil {
			s.log.Warn("settling pushes fails, trying again", "error", err, "failures", failures)
			s.pause(ctx, delay)
			continue
		}
		if giveUp.IsZero() {
			giveUp = time.Now().Add(s.cfg.DrainTimeout)
		}
		if !time.Now().Add(delay).Before(giveUp) {
			return fmt.Errorf("give up after %d attempts: %w", failures, err)
		}
		s.pause(context.WithoutCancel(ctx), delay)
	}
}

func (s *sender) settleOnce(ctx context.Context, batch []settlement) (int64, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.StoreTimeout)
	defer cancel()
	return s.store.settle(ctx, s.clock(), batch)
}

// pause is wait without the wake: that one is the claimer's.
func (s *sender) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
