package processor

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/bondmate/backend/pkg/contract"
)

// staleCache remembers one answer of the broker about a partition: no record below
// offset was appended later than limit.
type staleCache struct {
	limit  time.Time
	offset int64
}

// markStale finds the user commands that the broker appended after the time at which
// ingest had to give up on them. Ingest answered those 503 or not at all, so applying
// them would surprise; everything answered 202 was appended in time.
//
// kafka-go does not say when the broker appended a record. A record that is read in time
// was appended in time; for the others the broker is asked for the first offset after the
// limit. Append times rise with offsets, so one answer serves the records behind it.
func (p *Processor) markStale(ctx context.Context, items []*item) error {
	now := p.cfg.Clock()
	allowance := p.cfg.Deadline + p.cfg.Skew
	// The earliest limit of each partition is asked for first: its answer serves the most.
	earliest := map[*partition]time.Time{}
	var late []*item
	for _, it := range items {
		if it.err != nil || it.cmd.FollowUp() {
			continue
		}
		limit := it.cmd.AcceptedAt.Add(allowance)
		if !now.After(limit) {
			continue
		}
		if partition, offset, ok := contract.ReplayedFrom(it.rec); ok && partition < p.cfg.Partitions {
			// An operator had it written again. What counts is whether it was in time at first.
			first, err := p.firstAfter(ctx, partition, limit)
			if err != nil {
				return err
			}
			it.stale = first <= offset
			continue
		}
		late = append(late, it)
		if at, ok := earliest[it.part]; !ok || limit.Before(at) {
			earliest[it.part] = limit
		}
	}
	for _, it := range late {
		cache, limit := &it.part.stale, it.cmd.AcceptedAt.Add(allowance)
		if at, ok := earliest[it.part]; ok {
			delete(earliest, it.part)
			if cache.offset <= it.rec.Offset || cache.limit.After(at) {
				if err := p.ask(ctx, it, at, items); err != nil {
					return err
				}
			}
		}
		if it.rec.Offset < cache.offset && !limit.Before(cache.limit) {
			continue
		}
		first, err := p.firstAfter(ctx, it.part.id, limit)
		if err != nil {
			return err
		}
		it.stale = first <= it.rec.Offset
		if !it.stale {
			*cache = staleCache{limit, p.known(first, it.part, items)}
		}
	}
	return nil
}

func (p *Processor) ask(ctx context.Context, it *item, limit time.Time, items []*item) error {
	first, err := p.firstAfter(ctx, it.part.id, limit)
	if err != nil {
		return err
	}
	it.part.stale = staleCache{limit, p.known(first, it.part, items)}
	return nil
}

// known cuts an answer to what it can tell: that nothing was appended after the limit
// holds for the records there were, so for those of the batch, not for later ones.
func (p *Processor) known(first int64, part *partition, items []*item) int64 {
	if first != math.MaxInt64 {
		return first
	}
	known := int64(0)
	for _, it := range items {
		if it.part == part {
			known = max(known, it.rec.Offset+1)
		}
	}
	return known
}

// firstAfter returns the first offset appended after the limit, or the highest number.
func (p *Processor) firstAfter(ctx context.Context, partition int, limit time.Time) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.TxDeadline)
	defer cancel()
	p.metrics.stale.Inc()
	first, err := p.cfg.Bus.FirstOffsetAfter(ctx, p.cfg.Topics.Commands, partition, limit)
	if err != nil {
		return 0, fmt.Errorf("ask for the first offset of partition %d after %s: %w", partition, limit.Format(time.RFC3339Nano), err)
	}
	if first < 0 {
		return math.MaxInt64, nil
	}
	return first, nil
}
