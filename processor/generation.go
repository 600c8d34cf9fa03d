package processor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bondmate/backend/pkg/bus"
)

// errGenerationOver is why the context of the work in hand ends at last.
var errGenerationOver = errors.New("the generation's drain deadline has passed")

// generation serves one distribution of the partitions: it claims them, works until ctx
// ends or something fails, and then finishes what is in hand within the drain deadline.
func (p *Processor) generation(ctx context.Context, gen bus.Generation) error {
	if len(gen.Partitions) == 0 {
		<-ctx.Done()
		return nil
	}
	drain := p.cfg.DrainDeadline
	if gen.Drain > 0 {
		drain = min(drain, gen.Drain)
	}
	// fetching ends with the generation or the first failure; working goes on for the drain.
	fetching, stopFetching := context.WithCancel(ctx)
	defer stopFetching()
	working, stopWorking := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopWorking(nil)
	stopTimer := context.AfterFunc(fetching, func() {
		timer := time.AfterFunc(drain, func() { stopWorking(errGenerationOver) })
		context.AfterFunc(working, func() { timer.Stop() })
	})
	defer stopTimer()

	parts, epoch, err := p.claimAll(fetching, gen.Partitions)
	if err != nil {
		return err
	}
	if err := p.takeOver(fetching, parts); err != nil {
		return err
	}
	p.cfg.Log.Info("processor generation started", slog.Int("generation", int(gen.ID)), slog.Int("partitions", len(parts)))

	workers := make([]*worker, min(p.cfg.Workers, len(parts)))
	var group errgroup.Group
	run := func(f func() error) {
		group.Go(func() error {
			defer stopFetching()
			return f()
		})
	}
	for i := range workers {
		var mine []*partition
		for j := i; j < len(parts); j += len(workers) {
			mine = append(mine, parts[j])
		}
		w := newWorker(p, mine, epoch)
		workers[i] = w
		run(func() error { return w.run(fetching, working) })
	}
	run(func() error { return p.watch(fetching, gen, parts) })
	run(func() error { return p.observe(fetching, parts) })
	err = group.Wait()
	p.commitOffsets(gen, parts)
	p.metrics.forget(parts)
	p.cfg.Log.Info("processor generation ended", slog.Int("generation", int(gen.ID)))
	return err
}

// claimAll claims on a connection of its own, trying again while that can help.
func (p *Processor) claimAll(ctx context.Context, assigned []bus.Assigned) ([]*partition, string, error) {
	for attempt := 0; ; attempt++ {
		parts, epoch, err := func() ([]*partition, string, error) {
			cctx, cancel := context.WithTimeout(ctx, p.cfg.TxDeadline)
			defer cancel()
			conn, err := p.dial(cctx)
			if err != nil {
				return nil, "", err
			}
			defer closeConn(conn)
			return p.claim(ctx, conn, assigned)
		}()
		if err == nil || errors.As(err, new(*fatalError)) {
			return parts, epoch, err
		}
		p.metrics.retries.WithLabelValues("claim").Inc()
		if attempt == 0 {
			p.cfg.Log.Warn("processor claim failed, trying again", slog.Any("error", err))
		}
		if !backoff(ctx, attempt, 20*time.Millisecond, time.Second) {
			return nil, "", fmt.Errorf("%w (claiming: %w)", ctx.Err(), err)
		}
	}
}

// watch ends the generation when a partition makes no progress although its log goes on:
// heartbeats alone would keep a hanging owner in the group for ever. It also keeps the
// lag gauges and the group's offsets, which only operators' tools read.
func (p *Processor) watch(ctx context.Context, gen bus.Generation, parts []*partition) error {
	type mark struct {
		next int64
		at   time.Time
	}
	marks := make(map[int]mark, len(parts))
	for _, part := range parts {
		marks[part.id] = mark{part.applied.Load(), time.Now()}
	}
	ticker := time.NewTicker(min(p.cfg.StallAfter/6, 5*time.Second))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		_, end, err := p.offsets(ctx)
		if err != nil {
			if _, fatal := errors.AsType[*fatalError](err); fatal {
				return err
			}
			continue // Kafka is away, which is not a stall of ours
		}
		for _, part := range parts {
			next, now := part.applied.Load(), time.Now()
			p.metrics.lag.WithLabelValues(strconv.Itoa(part.id)).Set(float64(max(end[part.id]-next, 0)))
			last := marks[part.id]
			if next != last.next || end[part.id] <= next || part.lost.Load() {
				marks[part.id] = mark{next, now}
			} else if now.Sub(last.at) > p.cfg.StallAfter {
				return fmt.Errorf("partition %d has stood at offset %d for %s, its log ends at %d", part.id, next, p.cfg.StallAfter, end[part.id])
			}
		}
		p.commitOffsets(gen, parts)
	}
}

func (p *Processor) commitOffsets(gen bus.Generation, parts []*partition) {
	next := make(map[int]int64, len(parts))
	for _, part := range parts {
		if !part.lost.Load() {
			next[part.id] = part.applied.Load()
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := p.cfg.Bus.CommitOffsets(ctx, gen, next); err != nil {
		p.cfg.Log.Debug("group offsets not committed", slog.Any("error", err))
	}
}
