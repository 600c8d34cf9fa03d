package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/contract"
)

// ProducerConfig sets a producer's bounds; zero values take the defaults.
type ProducerConfig struct {
	InFlight     int           // writes under way at once, never two for one partition; default 1
	MaxBuffered  int           // records not yet acknowledged; beyond it Produce refuses; default 4096
	MaxBatch     int           // records in one write; default 512
	WriteTimeout time.Duration // of one write; default 2 s
	Registerer   prometheus.Registerer
}

// Producer appends single records with group commit: what has gathered is sent as soon
// as the previous write returned, so a lone record leaves at once and a crowd shares
// requests. Run owns the sending; Produce may be called from any number of goroutines.
type Producer struct {
	client  *Client
	cfg     ProducerConfig
	metrics producerMetrics
	wake    chan struct{} // holds one token: the state below has changed

	mu       sync.Mutex
	queue    []*pending // waiting for a write, in the order of Produce within a partition
	live     int        // records whose Produce has not returned
	inFlight int
	busy     map[topicPartition]bool  // has a write under way
	failing  map[topicPartition]retry // its last write failed and is to be repeated
	closed   bool
}

// pending is one record on its way. The producer's mutex guards its fields but done.
type pending struct {
	rec      contract.Record
	deadline time.Time
	done     chan error // gets the outcome; holds one
	sending  bool       // part of a write under way
	gone     bool       // its caller left
	unsure   bool       // an attempt may have written it
}

type retry struct {
	at      time.Time
	attempt int
	err     error
}

// Bounds of the pause before a failed partition is written again.
const (
	retryMin = 20 * time.Millisecond
	retryMax = 500 * time.Millisecond
)

// NewProducer returns a producer; it sends while Run runs.
func (c *Client) NewProducer(cfg ProducerConfig) *Producer {
	if cfg.InFlight <= 0 {
		cfg.InFlight = 1
	}
	if cfg.MaxBuffered <= 0 {
		cfg.MaxBuffered = 4096
	}
	if cfg.MaxBatch <= 0 {
		cfg.MaxBatch = 512
	}
	if cfg.WriteTimeout <= 0 {
		cfg.WriteTimeout = 2 * time.Second
	}
	return &Producer{
		client:  c,
		cfg:     cfg,
		metrics: newProducerMetrics(cfg.Registerer),
		wake:    make(chan struct{}, 1),
		busy:    map[topicPartition]bool{},
		failing: map[topicPartition]retry{},
	}
}

// Produce appends the record to the partition that it names and returns when all in-sync
// replicas have it. Until ctx ends (at the latest after the client's timeout) it retries
// what can succeed later. On error the record may have been written unless
// errors.Is(err, ErrNotSent); a retry within the call may have written it twice.
func (p *Producer) Produce(ctx context.Context, rec contract.Record) error {
	ctx, cancel := p.client.bounded(ctx)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return notSent(err)
	}
	deadline, _ := ctx.Deadline()
	e := &pending{rec: rec, deadline: deadline, done: make(chan error, 1)}
	if err := p.enqueue(e); err != nil {
		return err
	}
	select {
	case err := <-e.done:
		return err
	case <-ctx.Done():
		return p.leave(e, ctx.Err())
	}
}

func (p *Producer) enqueue(e *pending) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	if p.live >= p.cfg.MaxBuffered {
		p.metrics.errors.WithLabelValues("buffer_full").Inc()
		return ErrBufferFull
	}
	if len(p.queue) >= 2*p.cfg.MaxBuffered {
		// Mostly records whose callers left while a write hung.
		p.dropGone()
	}
	p.live++
	p.queue = append(p.queue, e)
	p.signal()
	return nil
}

// leave takes back a record whose caller's time is up.
func (p *Producer) leave(e *pending, cause error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case err := <-e.done: // the outcome arrived at the same moment
		return err
	default:
	}
	e.gone = true
	p.live--
	if r, ok := p.failing[partitionOf(e.rec)]; ok && r.err != nil {
		cause = fmt.Errorf("%w; last attempt: %w", cause, unsure(r.err))
	}
	if e.sending || e.unsure {
		p.metrics.errors.WithLabelValues("unknown").Inc()
		return fmt.Errorf("no acknowledgement from %s/%d in time: %w", e.rec.Topic, e.rec.Partition, cause)
	}
	p.metrics.errors.WithLabelValues("not_sent").Inc()
	return notSent(fmt.Errorf("no write to %s/%d in time: %w", e.rec.Topic, e.rec.Partition, cause))
}

// Queued returns how many records wait for their acknowledgement.
func (p *Producer) Queued() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.live
}

// Run sends until ctx ends; then Produce refuses, and what is queued gets one more
// WriteTimeout to be written. It returns nil.
func (p *Producer) Run(ctx context.Context) error {
	// Writes outlive ctx: the ones under way are finished, not cut.
	writes := context.WithoutCancel(ctx)
	done := ctx.Done()
	var drained <-chan time.Time
	for {
		next := p.dispatch(writes)
		if done == nil && p.idle() {
			return nil
		}
		var due <-chan time.Time
		var timer *time.Timer
		if !next.IsZero() {
			timer = time.NewTimer(max(time.Until(next), 0))
			due = timer.C
		}
		select {
		case <-p.wake:
		case <-due:
		case <-done:
			done = nil
			p.close()
			drained = time.After(p.cfg.WriteTimeout)
		case <-drained:
			p.failRest()
			return nil
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

func (p *Producer) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *Producer) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
}

func (p *Producer) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropGone()
	return len(p.queue) == 0 && p.inFlight == 0
}

func (p *Producer) dropGone() {
	kept := p.queue[:0]
	for _, e := range p.queue {
		if !e.gone {
			kept = append(kept, e)
		}
	}
	clear(p.queue[len(kept):])
	p.queue = kept
}

// failRest answers everyone who still waits when the time to drain is up.
func (p *Producer) failRest() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.queue {
		if e.unsure {
			p.finish(e, errors.New("producer closed before an acknowledgement"))
		} else {
			p.finish(e, ErrClosed)
		}
	}
	p.queue = nil
}

// finish hands the outcome to the caller unless it left.
func (p *Producer) finish(e *pending, err error) {
	if e.gone {
		return
	}
	p.live--
	e.done <- err
}

// dispatch starts as many writes as allowed and returns when to come back by itself: the
// time of the next retry, or zero when only a change can make a difference.
func (p *Producer) dispatch(ctx context.Context) (next time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for p.inFlight < p.cfg.InFlight && len(p.queue) > 0 {
		batch := p.gather(now)
		if len(batch) == 0 {
			break
		}
		p.inFlight++
		go p.write(ctx, batch)
	}
	if p.inFlight >= p.cfg.InFlight {
		return time.Time{}
	}
	for tp, r := range p.failing {
		if !p.busy[tp] && r.at.After(now) && (next.IsZero() || r.at.Before(next)) {
			next = r.at
		}
	}
	return next
}

// gather takes the next batch from the queue: in order, skipping partitions that have a
// write under way or wait for a retry, so that nothing overtakes within a partition.
func (p *Producer) gather(now time.Time) []*pending {
	var batch []*pending
	bytes := 0
	kept := p.queue[:0]
	full := false
	for _, e := range p.queue {
		tp := partitionOf(e.rec)
		size := sizeOf(e.rec)
		switch {
		case e.gone:
		case full, p.busy[tp], p.failing[tp].at.After(now):
			kept = append(kept, e)
		case len(batch) >= p.cfg.MaxBatch, len(batch) > 0 && bytes+size > maxBatchBytes:
			full = true
			kept = append(kept, e)
		default:
			e.sending = true
			bytes += size
			batch = append(batch, e)
		}
	}
	clear(p.queue[len(kept):])
	p.queue = kept
	for _, e := range batch {
		p.busy[partitionOf(e.rec)] = true
	}
	return batch
}

// write sends a batch and settles each record: done, failed for good, or back in front
// of the queue.
func (p *Producer) write(ctx context.Context, batch []*pending) {
	recs := make([]contract.Record, len(batch))
	latest := batch[0].deadline
	for i, e := range batch {
		recs[i] = e.rec
		if e.deadline.After(latest) {
			latest = e.deadline
		}
	}
	begin := time.Now()
	if limit := begin.Add(p.cfg.WriteTimeout); limit.Before(latest) {
		latest = limit
	}
	ctx, cancel := context.WithDeadline(ctx, latest)
	defer cancel()
	err := p.client.Write(ctx, recs)
	p.metrics.seconds.Observe(time.Since(begin).Seconds())
	p.metrics.batch.Observe(float64(len(batch)))
	var failed map[int]error
	if w, ok := errors.AsType[*WriteError](err); ok {
		failed = w.Failed
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	p.inFlight--
	defer p.signal()
	var again []*pending
	settled := map[topicPartition]bool{}
	for i, e := range batch {
		tp := partitionOf(e.rec)
		err := failed[i]
		if !settled[tp] {
			settled[tp] = true
			delete(p.busy, tp)
			p.note(tp, err)
		}
		e.sending = false
		switch {
		case err == nil:
			p.finish(e, nil)
		case !Retriable(err):
			p.metrics.errors.WithLabelValues("rejected").Inc()
			if e.unsure {
				err = unsure(err)
			}
			p.finish(e, err)
		default:
			p.metrics.errors.WithLabelValues("retried").Inc()
			e.unsure = e.unsure || !errors.Is(err, ErrNotSent)
			if !e.gone {
				again = append(again, e)
			}
		}
	}
	if len(again) > 0 {
		p.queue = append(again, p.queue...)
	}
}

// note keeps the pause before the next write of a partition, by full jitter over a
// doubling bound.
func (p *Producer) note(tp topicPartition, err error) {
	if err == nil || !Retriable(err) {
		delete(p.failing, tp)
		return
	}
	r := p.failing[tp]
	bound := min(retryMin<<min(r.attempt, 10), retryMax)
	r.attempt++
	r.err = err
	r.at = time.Now().Add(retryMin/4 + rand.N(bound)) // #nosec G404 -- spreads load, no secret
	p.failing[tp] = r
}
