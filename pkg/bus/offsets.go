package bus

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
)

// Offsets returns for each partition of a topic the first offset of the log and the one
// after its last, the latter as of some moment during the call.
func (c *Client) Offsets(ctx context.Context, topic string) (start, end []int64, err error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	n, err := c.Partitions(ctx, topic)
	if err != nil {
		return nil, nil, fmt.Errorf("list offsets of %s: %w", topic, err)
	}
	start, end = make([]int64, n), make([]int64, n)
	// kafka-go sends a request per partition and timestamp, and opens a connection for each
	// that is under way: two at a time are enough.
	var wg sync.WaitGroup
	var errs [2]error
	for i, list := range []struct {
		into []int64
		at   int64
	}{{start, kafka.FirstOffset}, {end, kafka.LastOffset}} {
		wg.Go(func() {
			for p := range list.into {
				if list.into[p], errs[i] = c.listOffset(ctx, topic, p, list.at); errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, nil, err
		}
	}
	return start, end, nil
}

// FirstOffsetAfter returns the offset of the first record of a partition whose time is
// later than t, to the millisecond, or -1 when there is none. On a topic with
// message.timestamp.type=LogAppendTime that is the broker's time of the append, which
// kafka-go does not give with a fetched record: the record at offset o was appended later
// than t exactly if FirstOffsetAfter(t) is not -1 and at most o.
func (c *Client) FirstOffsetAfter(ctx context.Context, topic string, partition int, t time.Time) (int64, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	// The broker looks for the first time that is equal or later.
	return c.listOffset(ctx, topic, partition, t.UnixMilli()+1)
}

func (c *Client) listOffset(ctx context.Context, topic string, partition int, at int64) (int64, error) {
	// The request below is routed by metadata that may miss the topic; then it would go to
	// any broker.
	leaders, err := c.leaders(ctx, topic)
	if err != nil {
		return 0, fmt.Errorf("list offsets of %s/%d: %w", topic, partition, err)
	}
	if of := leaders[topic]; partition < 0 || partition >= len(of) || of[partition] < 0 {
		return 0, fmt.Errorf("list offsets of %s/%d: %w", topic, partition, notSent(kafka.LeaderNotAvailable))
	}
	res, err := c.roundTrip(ctx, &listoffsets.Request{
		ReplicaID: -1,
		Topics: []listoffsets.RequestTopic{{Topic: topic, Partitions: []listoffsets.RequestPartition{{
			Partition: int32(partition), CurrentLeaderEpoch: -1, Timestamp: at,
		}}}},
	})
	if err != nil {
		return 0, fmt.Errorf("list offsets of %s/%d: %w", topic, partition, err)
	}
	for _, t := range res.(*listoffsets.Response).Topics {
		for _, p := range t.Partitions {
			if t.Topic != topic || int(p.Partition) != partition {
				continue
			}
			if p.ErrorCode != 0 {
				return 0, fmt.Errorf("list offsets of %s/%d: %w", topic, partition, kafka.Error(p.ErrorCode))
			}
			return p.Offset, nil
		}
	}
	return 0, fmt.Errorf("list offsets of %s/%d: the answer does not mention the partition", topic, partition)
}
