package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/fetch"

	"github.com/bondmate/backend/pkg/contract"
)

// Bounds of one fetch. The broker answers as soon as there is a record; the wait bounds
// how old a reader's view of the end offset gets while nothing comes.
const (
	fetchWait           = time.Second
	fetchSlack          = 2 * time.Second // beyond fetchWait the broker counts as hung
	fetchBytes          = 4 << 20
	fetchPartitionBytes = 1 << 20
)

// fetched is what a fetch brought for one partition.
type fetched struct {
	records []contract.Record
	next    int64 // where to go on
	end     int64 // the partition's high watermark
	err     error
}

// fetch asks one leader for the records of partitions of a topic from the given offsets
// on. The map has an entry for each partition unless err is set.
func (c *Client) fetch(ctx context.Context, topic string, from map[int]int64) (map[int]fetched, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchWait+fetchSlack)
	defer cancel()
	req := &fetch.Request{
		ReplicaID: -1, MaxWaitTime: int32(fetchWait / time.Millisecond), MinBytes: 1, MaxBytes: fetchBytes,
		SessionEpoch: -1, // no fetch session
		Topics:       []fetch.RequestTopic{{Topic: topic}},
	}
	for p, offset := range from {
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, fetch.RequestPartition{
			Partition: int32(p), CurrentLeaderEpoch: -1, FetchOffset: offset, LogStartOffset: -1, PartitionMaxBytes: fetchPartitionBytes,
		})
	}
	// The order in which a leader is asked is the order in which it fills the answer: a busy
	// partition must not be first each time.
	parts := req.Topics[0].Partitions
	rand.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] }) // #nosec G404 -- spreads load, no secret
	res, err := c.roundTrip(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", topic, err)
	}
	answer := res.(*fetch.Response)
	if answer.ErrorCode != 0 {
		return nil, fmt.Errorf("fetch %s: %w", topic, kafka.Error(answer.ErrorCode))
	}
	out := make(map[int]fetched, len(from))
	for _, t := range answer.Topics {
		for _, p := range t.Partitions {
			offset, asked := from[int(p.Partition)]
			if t.Topic != topic || !asked {
				continue
			}
			got := fetched{next: offset, end: p.HighWatermark}
			if p.ErrorCode != 0 {
				got.err = fmt.Errorf("fetch %s/%d: %w", topic, p.Partition, kafka.Error(p.ErrorCode))
			} else {
				got.records, got.next, got.err = readRecords(topic, int(p.Partition), offset, p.RecordSet.Records)
			}
			out[int(p.Partition)] = got
		}
	}
	full := false
	for _, got := range out {
		full = full || len(got.records) > 0
	}
	for p, offset := range from {
		switch _, ok := out[p]; {
		case ok:
		case full: // the embedded broker leaves out what there was no room for
			out[p] = fetched{next: offset, end: -1}
		default:
			out[p] = fetched{next: offset, end: -1, err: fmt.Errorf("fetch %s/%d: the answer does not mention the partition", topic, p)}
		}
	}
	return out, nil
}

// readRecords copies the records from offset on out of a decoded record set, which begins
// with the whole batch that holds offset. It returns where to go on.
func readRecords(topic string, partition int, offset int64, set protocol.RecordReader) ([]contract.Record, int64, error) {
	if set == nil {
		return nil, offset, nil
	}
	var out []contract.Record
	next := offset
	for {
		r, err := set.ReadRecord()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, offset, fmt.Errorf("read %s/%d after offset %d: %w", topic, partition, next, err)
		}
		key, kerr := readBytes(r.Key)
		value, verr := readBytes(r.Value)
		if err := errors.Join(kerr, verr); err != nil {
			return nil, offset, fmt.Errorf("read %s/%d at offset %d: %w", topic, partition, r.Offset, err)
		}
		if r.Offset < next {
			continue // before the wanted one in its batch
		}
		rec := contract.Record{Topic: topic, Partition: partition, Offset: r.Offset, Time: r.Time, Key: key, Value: value}
		if len(r.Headers) > 0 {
			rec.Headers = make([]contract.Header, len(r.Headers))
			for i, h := range r.Headers {
				rec.Headers[i] = contract.Header{Key: h.Key, Value: h.Value}
			}
		}
		out = append(out, rec)
		next = r.Offset + 1
	}
	if len(out) == 0 {
		// There is a batch, and nothing at or after offset in it: compaction removed the
		// batch's last records, or it is a transaction's marker. The next fetch from the same
		// offset would bring it again. kafka-go does not tell where the batch ends, but there
		// is no record at offset.
		next = offset + 1
	}
	return out, next, nil
}

// readBytes copies b and gives its memory back to kafka-go.
func readBytes(b protocol.Bytes) ([]byte, error) {
	if b == nil {
		return nil, nil
	}
	data, err := protocol.ReadAll(b)
	return data, errors.Join(err, b.Close())
}

// checkRange turns the broker's OffsetOutOfRange into an *OutOfRangeError, or nil when the
// log does hold the offset by now: a leader that has just taken over may not know yet.
func (c *Client) checkRange(ctx context.Context, topic string, partition int, offset int64) error {
	start, err := c.listOffset(ctx, topic, partition, kafka.FirstOffset)
	if err != nil {
		return err
	}
	end, err := c.listOffset(ctx, topic, partition, kafka.LastOffset)
	if err != nil {
		return err
	}
	if offset >= start && offset <= end {
		return nil
	}
	return &OutOfRangeError{Topic: topic, Partition: partition, Wanted: offset, Start: start, End: end}
}

// backoff is a pause before another try, by full jitter over a doubling bound.
type backoff struct {
	low, high time.Duration
	attempt   int
}

func readBackoff() backoff { return backoff{low: 10 * time.Millisecond, high: 500 * time.Millisecond} }

// wait pauses and returns true, or false when ctx ends first.
func (b *backoff) wait(ctx context.Context) bool {
	bound := min(b.low<<min(b.attempt, 16), b.high)
	b.attempt++
	return pause(ctx, b.low/2+rand.N(bound)) // #nosec G404 -- spreads load, no secret
}

func (b *backoff) reset() { b.attempt = 0 }
