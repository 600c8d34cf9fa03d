package processor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/bus"
)

// Raising the epoch takes the partition away from whoever had it: their next transaction
// finds another epoch under the lock and writes nothing (G7). A row made here begins at
// the log's start: what retention removed before anyone ever claimed the partition is
// nobody's loss, but later a gap is one.
const claimSQL = `
INSERT INTO processor_partitions AS p (partition, epoch, next_offset, owner, claimed_at)
SELECT n.partition, 1, n.start, $3, $4
FROM unnest($1::smallint[], $2::bigint[]) AS n (partition, start)
ORDER BY n.partition
ON CONFLICT (partition) DO UPDATE SET epoch = p.epoch + 1, owner = excluded.owner, claimed_at = excluded.claimed_at
RETURNING p.partition, p.epoch, p.version, p.next_offset, COALESCE(p.last_record_id, ''), p.event_seq, p.relayed_seq`

const streamEpochSQL = `SELECT epoch FROM stream_epoch`

// claim makes the partitions ours and checks that the topic is still the one that their
// rows speak of.
func (p *Processor) claim(ctx context.Context, conn *pgx.Conn, assigned []bus.Assigned) ([]*partition, string, error) {
	start, _, err := p.offsets(ctx)
	if err != nil {
		return nil, "", err
	}
	ids, starts := make([]int16, len(assigned)), make([]int64, len(assigned))
	for i, a := range assigned {
		if a.Partition < 0 || a.Partition >= len(start) {
			return nil, "", fmt.Errorf("assigned partition %d of %d", a.Partition, len(start))
		}
		ids[i], starts[i] = int16(a.Partition), start[a.Partition]
	}
	tctx, cancel := context.WithTimeout(ctx, p.cfg.TxDeadline)
	defer cancel()
	now := time.Now()
	rows, err := conn.Query(tctx, claimSQL, ids, starts, p.cfg.Owner, p.cfg.Clock())
	if err != nil {
		return nil, "", fmt.Errorf("claim partitions: %w", err)
	}
	parts, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (*partition, error) {
		part := &partition{}
		if scanErr := r.Scan(&part.id, &part.epoch, &part.version, &part.next, &part.lastID, &part.eventSeq, &part.relayed); scanErr != nil {
			return nil, scanErr
		}
		part.published.Store(part.relayed)
		part.applied.Store(part.next)
		part.seen.Store(now.UnixNano())
		return part, nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("claim partitions: %w", err)
	}
	var epoch string
	if err = conn.QueryRow(tctx, streamEpochSQL).Scan(&epoch); err != nil {
		return nil, "", fmt.Errorf("load stream epoch: %w", err)
	}
	// Read after the claim: whoever had the partitions before moves next_offset no more.
	start, end, err := p.offsets(ctx)
	if err != nil {
		return nil, "", err
	}
	for _, part := range parts {
		if err = p.checkLog(ctx, part, start[part.id], end[part.id]); err != nil {
			return nil, "", err
		}
	}
	return parts, epoch, nil
}

func (p *Processor) offsets(ctx context.Context) (start, end []int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.TxDeadline)
	defer cancel()
	start, end, err = p.cfg.Bus.Offsets(ctx, p.cfg.Topics.Commands)
	if err != nil {
		return nil, nil, fmt.Errorf("read offsets of %s: %w", p.cfg.Topics.Commands, err)
	}
	if len(start) != p.cfg.Partitions {
		return nil, nil, fatalf("topic %s has %d partitions, configured are %d: a pair's commands would lie on two",
			p.cfg.Topics.Commands, len(start), p.cfg.Partitions)
	}
	return start, end, nil
}

// checkLog compares a partition's progress with the log. Going on from a place that is not
// where we stopped would skip accepted commands or take others for them, so it stops the
// processor until an operator has looked.
func (p *Processor) checkLog(ctx context.Context, part *partition, start, end int64) error {
	topic := p.cfg.Topics.Commands
	switch {
	case part.next < start:
		return fatalf("%s/%d: offsets %d to %d are gone from the log and were never applied: retention is shorter than the lag, or the topic was recreated",
			topic, part.id, part.next, start-1)
	case part.next > end:
		return fatalf("%s/%d ends at offset %d, but %d commands were applied from it: the topic was recreated or lost records",
			topic, part.id, end, part.next)
	case part.lastID == "" || part.next == start:
		return nil // nothing applied yet, or retention removed the record
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.TxDeadline)
	defer cancel()
	r := p.cfg.Bus.Open(topic, part.id, part.next-1)
	defer r.Close()
	rec, err := r.Read(ctx)
	if errors.As(err, new(*bus.OutOfRangeError)) {
		return nil // removed by retention since the offsets were read; the pump finds a gap if there is one
	}
	if err != nil {
		return fmt.Errorf("re-read %s/%d at offset %d: %w", topic, part.id, part.next-1, err)
	}
	if got := recordID(rec); rec.Offset == part.next-1 && got != part.lastID {
		return fatalf("%s/%d holds record %s at offset %d, where %s was applied: the topic was recreated",
			topic, part.id, got, rec.Offset, part.lastID)
	}
	return nil
}

// backoff waits with full jitter before the n-th retry. It returns false when ctx ended.
func backoff(ctx context.Context, n int, base, most time.Duration) bool {
	d := most
	if n < 16 {
		d = min(base<<n, most)
	}
	timer := time.NewTimer(rand.N(d) + time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
