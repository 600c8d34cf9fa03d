package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go"

	"github.com/bondmate/backend/pkg/contract"
)

// TailConfig says what to follow.
type TailConfig struct {
	Name       string // of the reader in logs and metrics
	Topic      string
	Partitions int // how many the topic must have; 0 takes what there is
	// Since is how far back it begins, by the records' times; 0 begins at the ends.
	Since time.Duration
	// OnReady is called once, when the ends are known and all before them that is asked for has
	// been handled: every record that is appended after it will be.
	OnReady    func()
	Registerer prometheus.Registerer
}

// Tail hands every record that is appended to a topic after the call to handle, in order
// within each partition, one call at a time. After errors it goes on where it was, so it
// misses nothing; it hands nothing out twice. It returns when ctx ends, with ctx's error,
// or with an *OutOfRangeError when records were lost to it.
//
// There is one fetch under way per leader, for all of its partitions, also while handle is
// given what the one before it brought; then it waits. So handle should be quick, and what
// waits for it in memory is two answers a leader.
func (c *Client) Tail(ctx context.Context, cfg TailConfig, handle func(contract.Record)) error {
	t := &tail{client: c, cfg: cfg, handle: handle, metrics: newReaderMetrics(cfg.Registerer)}
	ends, err := t.ends(ctx)
	if err != nil {
		return err
	}
	if cfg.Partitions > 0 && len(ends) != cfg.Partitions {
		return fmt.Errorf("%s has %d partitions, configured are %d: %w", cfg.Topic, len(ends), cfg.Partitions, ErrPartitionCount)
	}
	t.positions, t.goals = ends, slices.Clone(ends)
	if err := t.goBack(ctx); err != nil {
		return err
	}
	t.arrived()
	b := readBackoff()
	for {
		progress, err := t.follow(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.As(err, new(*OutOfRangeError)) || (err != nil && !Retriable(err)) {
			return fmt.Errorf("tail %s: %w", cfg.Topic, err)
		}
		if progress {
			b.reset()
		}
		t.failed(err)
		if !b.wait(ctx) {
			return ctx.Err()
		}
	}
}

type tail struct {
	client    *Client
	cfg       TailConfig
	metrics   readerMetrics
	handle    func(contract.Record)
	handling  sync.Mutex // one call of handle at a time; guards failing as well
	failing   bool
	positions []int64 // by partition; each is used by its leader's goroutine alone

	goals []int64 // the ends at the start, until all are reached; guarded by handling
}

// goBack moves the positions to the first records of the last Since.
func (t *tail) goBack(ctx context.Context) error {
	if t.cfg.Since <= 0 {
		return nil
	}
	from := time.Now().Add(-t.cfg.Since)
	b := readBackoff()
	for p := range t.positions {
		for {
			offset, err := t.client.FirstOffsetAfter(ctx, t.cfg.Topic, p, from)
			if err == nil {
				if offset >= 0 {
					t.positions[p] = min(offset, t.positions[p])
				}
				break
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if !Retriable(err) {
				return fmt.Errorf("tail %s: %w", t.cfg.Topic, err)
			}
			t.failed(err)
			if !b.wait(ctx) {
				return ctx.Err()
			}
		}
	}
	return nil
}

// arrived says once that what was there at the start has been handled.
func (t *tail) arrived() {
	for p, goal := range t.goals {
		if t.positions[p] < goal {
			return
		}
	}
	if t.goals != nil && t.cfg.OnReady != nil {
		t.cfg.OnReady()
	}
	t.goals = nil
}

// ends asks for the end offsets until there is an answer.
func (t *tail) ends(ctx context.Context) ([]int64, error) {
	b := readBackoff()
	for {
		_, ends, err := t.client.Offsets(ctx, t.cfg.Topic)
		if err == nil {
			return ends, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !Retriable(err) {
			return nil, fmt.Errorf("tail %s: %w", t.cfg.Topic, err)
		}
		t.failed(err)
		if !b.wait(ctx) {
			return nil, ctx.Err()
		}
	}
}

// follow reads all partitions from their leaders until something fails, and says whether
// it brought anything.
func (t *tail) follow(ctx context.Context) (progress bool, err error) {
	leaders, err := t.client.leaders(ctx, t.cfg.Topic)
	if err != nil {
		return false, err
	}
	byLeader := map[int32][]int{}
	for p, leader := range leaders[t.cfg.Topic] {
		if p < len(t.positions) {
			byLeader[leader] = append(byLeader[leader], p)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	moved := make([]bool, len(t.positions))
	for leader, partitions := range byLeader {
		if leader < 0 {
			// Partitions without a leader wait; when any fetch fails or one of them gets a leader
			// all are grouped again.
			wg.Go(func() { cancel(t.awaitLeader(ctx, partitions)) })
			continue
		}
		wg.Go(func() { cancel(t.followLeader(ctx, partitions, moved)) })
	}
	wg.Wait()
	for _, m := range moved {
		progress = progress || m
	}
	return progress, context.Cause(ctx)
}

func (t *tail) awaitLeader(ctx context.Context, partitions []int) error {
	for pause(ctx, t.client.cfg.MetadataTTL/4) {
		leaders, err := t.client.leaders(ctx, t.cfg.Topic)
		if err != nil {
			continue
		}
		of := leaders[t.cfg.Topic]
		for _, p := range partitions {
			if p < len(of) && of[p] >= 0 {
				return fmt.Errorf("tail %s/%d: %w", t.cfg.Topic, p, kafka.LeaderNotAvailable)
			}
		}
	}
	return ctx.Err()
}

func (t *tail) followLeader(ctx context.Context, partitions []int, moved []bool) error {
	from := make(map[int]int64, len(partitions))
	for _, p := range partitions {
		from[p] = t.positions[p]
	}
	ctx, cancel := context.WithCancel(ctx)
	under := t.startFetch(ctx, from)
	defer func() { // it ends soon then, and is waited for
		cancel()
		<-under
	}()
	for {
		var all map[int]fetched
		if answer := <-under; answer.err != nil {
			under <- answer // for the wait at the end
			return answer.err
		} else if all = answer.all; whole(all) {
			from = make(map[int]int64, len(all))
			for p, got := range all {
				from[p] = got.next
			}
			under = t.startFetch(ctx, from)
		} else {
			under <- answer // the last: what it brought is handed out, and then it fails
		}
		var failure error
		for p, got := range all {
			if errors.Is(got.err, kafka.OffsetOutOfRange) {
				if err := t.client.checkRange(ctx, t.cfg.Topic, p, t.positions[p]); err != nil {
					got.err = err
				}
			}
			if got.err != nil {
				// What the other partitions brought is handed out before the failure counts.
				if failure == nil || errors.As(got.err, new(*OutOfRangeError)) {
					failure = got.err
				}
				continue
			}
			t.deliver(p, got)
			moved[p] = moved[p] || len(got.records) > 0
		}
		if failure != nil {
			return failure
		}
		t.recovered()
	}
}

// answered is what a fetch came to.
type answered struct {
	all map[int]fetched
	err error
}

// startFetch fetches in a goroutine, whose one answer is to be waited for.
func (t *tail) startFetch(ctx context.Context, from map[int]int64) chan answered {
	out := make(chan answered, 1)
	go func() {
		all, err := t.client.fetch(ctx, t.cfg.Topic, from)
		out <- answered{all, err}
	}()
	return out
}

// whole reports whether no partition of an answer failed.
func whole(all map[int]fetched) bool {
	for _, got := range all {
		if got.err != nil {
			return false
		}
	}
	return true
}

func (t *tail) deliver(partition int, got fetched) {
	t.handling.Lock()
	defer t.handling.Unlock()
	for _, rec := range got.records {
		t.handle(rec)
	}
	t.positions[partition] = got.next
	t.arrived()
	if got.end < 0 {
		return // the answer had no room for the partition
	}
	t.metrics.lag.WithLabelValues(t.cfg.Name, t.cfg.Topic, strconv.Itoa(partition)).Set(float64(max(got.end-got.next, 0)))
}

// failed and recovered say once that the tail is interrupted and once that it goes on.
func (t *tail) failed(err error) {
	t.handling.Lock()
	defer t.handling.Unlock()
	if t.failing || err == nil {
		return
	}
	t.failing = true
	t.client.log.Warn("kafka tail interrupted", slog.String("reader", t.cfg.Name), slog.String("topic", t.cfg.Topic), slog.Any("error", err))
}

func (t *tail) recovered() {
	t.handling.Lock()
	defer t.handling.Unlock()
	if !t.failing {
		return
	}
	t.failing = false
	t.client.log.Info("kafka tail resumed", slog.String("reader", t.cfg.Name), slog.String("topic", t.cfg.Topic))
}
