package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/segmentio/kafka-go"

	"github.com/bondmate/backend/pkg/contract"
)

// PartitionReader reads one partition in order from an offset. It has no goroutine: a
// fetch is under way only while Read waits. One goroutine may call Read at a time; the
// other methods may be called by any.
//
// It never skips: the record returned is the first at or after the position. Offsets may
// be missing in between only where the topic is compacted.
type PartitionReader struct {
	client    *Client
	topic     string
	partition int
	buffer    []contract.Record
	fetchFrom int64
	failing   bool
	position  atomic.Int64
	end       atomic.Int64
	ctx       context.Context //nolint:containedctx // ended by Close, to cut a Read from another goroutine
	close     context.CancelFunc
}

// OpenPartition returns a reader that starts at offset; it connects on the first Read.
func (c *Client) OpenPartition(topic string, partition int, offset int64) *PartitionReader {
	r := &PartitionReader{client: c, topic: topic, partition: partition, fetchFrom: offset}
	r.position.Store(offset)
	r.end.Store(-1)
	r.ctx, r.close = context.WithCancel(context.Background())
	return r
}

// ErrReaderClosed is returned by Read after Close.
var ErrReaderClosed = errors.New("partition reader is closed")

// Read returns the next record. It waits for one until ctx ends, through lost connections
// and changes of the leader. It fails with an *OutOfRangeError when the log does not hold
// the position, and with what the broker answers when trying again cannot help.
func (r *PartitionReader) Read(ctx context.Context) (contract.Record, error) {
	if len(r.buffer) == 0 {
		waiting, cancel := context.WithCancel(ctx)
		defer cancel()
		stop := context.AfterFunc(r.ctx, cancel)
		defer stop()
		if err := r.fill(waiting); err != nil {
			if r.ctx.Err() != nil {
				return contract.Record{}, ErrReaderClosed
			}
			return contract.Record{}, err
		}
	}
	rec := r.buffer[0]
	r.buffer[0] = contract.Record{} // the caller's alone from here on
	r.buffer = r.buffer[1:]
	r.position.Store(rec.Offset + 1)
	return rec, nil
}

// Buffered returns how many records Read returns without waiting. Like Read, it is for
// the reading goroutine.
func (r *PartitionReader) Buffered() int { return len(r.buffer) }

// Position returns the offset after the record that Read returned last.
func (r *PartitionReader) Position() int64 { return r.position.Load() }

// HighWatermark returns the partition's end as of the last fetch, or -1 before the first.
// While Read waits it is renewed about once a second; a watchdog compares it with the
// position.
func (r *PartitionReader) HighWatermark() int64 { return r.end.Load() }

// Lag returns how many offsets lie between the position and the high watermark.
func (r *PartitionReader) Lag() int64 { return max(r.end.Load()-r.position.Load(), 0) }

// Close ends a Read that waits, and all later ones.
func (r *PartitionReader) Close() { r.close() }

func (r *PartitionReader) fill(ctx context.Context) error {
	b := readBackoff()
	for {
		got, err := r.fetch(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			r.recovered()
			b.reset()
			r.fetchFrom = got.next
			r.end.Store(got.end)
			if len(got.records) > 0 {
				r.buffer = got.records
				return nil
			}
			continue
		case errors.Is(err, kafka.OffsetOutOfRange):
			if gap := r.client.checkRange(ctx, r.topic, r.partition, r.fetchFrom); errors.As(gap, new(*OutOfRangeError)) {
				return gap
			}
		case !Retriable(err):
			return err
		}
		r.failed(err)
		if !b.wait(ctx) {
			return ctx.Err()
		}
	}
}

func (r *PartitionReader) fetch(ctx context.Context) (fetched, error) {
	all, err := r.client.fetch(ctx, r.topic, map[int]int64{r.partition: r.fetchFrom})
	if err != nil {
		return fetched{}, fmt.Errorf("partition %d: %w", r.partition, err)
	}
	got := all[r.partition]
	return got, got.err
}

// failed and recovered say once that reading is interrupted and once that it goes on: the
// caller sees neither.
func (r *PartitionReader) failed(err error) {
	if r.failing {
		return
	}
	r.failing = true
	r.client.log.Warn("kafka partition read interrupted", slog.String("topic", r.topic),
		slog.Int("partition", r.partition), slog.Int64("offset", r.fetchFrom), slog.Any("error", err))
}

func (r *PartitionReader) recovered() {
	if !r.failing {
		return
	}
	r.failing = false
	r.client.log.Info("kafka partition read resumed", slog.String("topic", r.topic),
		slog.Int("partition", r.partition), slog.Int64("offset", r.fetchFrom))
}
