package bus

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/produce"

	"github.com/bondmate/backend/pkg/contract"
)

// maxBatchBytes bounds what one request holds for one partition. The broker's limit for
// a batch, message.max.bytes, is 1,048,588 by default.
const maxBatchBytes = 768 << 10

// acksAll makes a leader answer when all in-sync replicas have the records.
const acksAll = -1

// topicPartition names a partition.
type topicPartition struct {
	topic     string
	partition int
}

func partitionOf(r contract.Record) topicPartition { return topicPartition{r.Topic, r.Partition} }

// sizeOf is an upper estimate of a record's bytes in a batch.
func sizeOf(r contract.Record) int {
	n := len(r.Key) + len(r.Value) + 32
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value) + 8
	}
	return n
}

// Write appends the records to the partitions that they name, in order within each
// partition, and returns when all in-sync replicas have them. It tries once; failures are
// a *WriteError. When a record of a partition fails, the later ones of that partition
// fail too: a partition holds a prefix of what was given.
func (c *Client) Write(ctx context.Context, recs []contract.Record) error {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	errs := make([]error, len(recs))
	broken := map[topicPartition]error{}
	for next := 0; next < len(recs); {
		var round []int
		bytes := map[topicPartition]int{}
		for ; next < len(recs); next++ {
			tp, size := partitionOf(recs[next]), sizeOf(recs[next])
			if err := broken[tp]; err != nil {
				errs[next] = notSent(fmt.Errorf("an earlier record of %s/%d failed: %w", tp.topic, tp.partition, err))
				continue
			}
			if bytes[tp] > 0 && bytes[tp]+size > maxBatchBytes {
				break
			}
			bytes[tp] += size
			round = append(round, next)
		}
		c.writeOnce(ctx, recs, round, errs)
		for _, i := range round {
			if errs[i] != nil {
				broken[partitionOf(recs[i])] = errs[i]
			}
		}
	}
	failed := map[int]error{}
	for i, err := range errs {
		if err != nil {
			failed[i] = err
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return &WriteError{Failed: failed, total: len(recs)}
}

// writeOnce sends recs[i] for each i of round with one request per leader and stores the
// outcomes in errs.
func (c *Client) writeOnce(ctx context.Context, recs []contract.Record, round []int, errs []error) {
	if len(round) == 0 {
		return
	}
	fail := func(idx []int, err error) {
		for _, i := range idx {
			errs[i] = err
		}
	}
	var topics []string
	seen := map[string]bool{}
	for _, i := range round {
		if t := recs[i].Topic; !seen[t] {
			seen[t] = true
			topics = append(topics, t)
		}
	}
	leaders, err := c.leaders(ctx, topics...)
	if err != nil {
		fail(round, err)
		return
	}
	byLeader := map[int32][]int{}
	for _, i := range round {
		r := recs[i]
		of := leaders[r.Topic]
		if r.Partition < 0 || r.Partition >= len(of) {
			errs[i] = notSent(fmt.Errorf("write to %s/%d of %d partitions: %w", r.Topic, r.Partition, len(of), kafka.UnknownTopicOrPartition))
			continue
		}
		if of[r.Partition] < 0 {
			errs[i] = notSent(fmt.Errorf("write to %s/%d: %w", r.Topic, r.Partition, kafka.LeaderNotAvailable))
			continue
		}
		byLeader[of[r.Partition]] = append(byLeader[of[r.Partition]], i)
	}
	if len(byLeader) == 1 {
		for _, idx := range byLeader {
			c.writeLeader(ctx, recs, idx, errs)
		}
		return
	}
	var wg sync.WaitGroup
	for _, idx := range byLeader {
		wg.Go(func() { c.writeLeader(ctx, recs, idx, errs) })
	}
	wg.Wait()
}

// writeLeader sends the records at idx, all led by one broker, in one request. It writes
// only to errs[i] of its own indices.
func (c *Client) writeLeader(ctx context.Context, recs []contract.Record, idx []int, errs []error) {
	records := map[topicPartition][]protocol.Record{}
	byPartition := map[topicPartition][]int{}
	req := &produce.Request{Acks: acksAll, Timeout: c.cfg.timeoutMillis(ctx)}
	topicAt := map[string]int{}
	for _, i := range idx {
		tp := partitionOf(recs[i])
		if _, ok := byPartition[tp]; !ok {
			at, ok := topicAt[tp.topic]
			if !ok {
				at = len(req.Topics)
				topicAt[tp.topic] = at
				req.Topics = append(req.Topics, produce.RequestTopic{Topic: tp.topic})
			}
			req.Topics[at].Partitions = append(req.Topics[at].Partitions, produce.RequestPartition{Partition: int32(tp.partition)})
		}
		byPartition[tp] = append(byPartition[tp], i)
		records[tp] = append(records[tp], protocolRecord(recs[i]))
	}
	for t := range req.Topics {
		for p := range req.Topics[t].Partitions {
			part := &req.Topics[t].Partitions[p]
			tp := topicPartition{req.Topics[t].Topic, int(part.Partition)}
			part.RecordSet = protocol.RecordSet{Records: protocol.NewRecordReader(records[tp]...)}
		}
	}
	res, err := c.roundTrip(ctx, req)
	if err != nil {
		for _, i := range idx {
			errs[i] = fmt.Errorf("write to %s/%d: %w", recs[i].Topic, recs[i].Partition, err)
		}
		return
	}
	answered := map[topicPartition]bool{}
	for _, t := range res.(*produce.Response).Topics {
		for _, p := range t.Partitions {
			tp := topicPartition{t.Topic, int(p.Partition)}
			answered[tp] = true
			if p.ErrorCode == 0 {
				continue
			}
			for _, i := range byPartition[tp] {
				errs[i] = fmt.Errorf("write to %s/%d: %w", tp.topic, tp.partition, answerError(kafka.Error(p.ErrorCode)))
			}
		}
	}
	for tp, of := range byPartition {
		if !answered[tp] {
			for _, i := range of {
				errs[i] = fmt.Errorf("write to %s/%d: the answer does not mention the partition", tp.topic, tp.partition)
			}
		}
	}
}

// timeoutMillis is what is left of ctx: the broker need not wait longer for its followers.
func (cfg Config) timeoutMillis(ctx context.Context) int32 {
	left := cfg.Timeout
	if deadline, ok := ctx.Deadline(); ok {
		left = min(time.Until(deadline), time.Minute)
	}
	return int32(max(left/time.Millisecond, 1))
}

func protocolRecord(r contract.Record) protocol.Record {
	out := protocol.Record{Time: r.Time, Key: protocol.NewBytes(r.Key), Value: protocol.NewBytes(r.Value)}
	if len(r.Headers) > 0 {
		out.Headers = make([]protocol.Header, len(r.Headers))
		for i, h := range r.Headers {
			out.Headers[i] = protocol.Header{Key: h.Key, Value: h.Value}
		}
	}
	return out
}
