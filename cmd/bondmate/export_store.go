package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/partner"
)

const (
	// exportStride is how many events one statement looks at.
	exportStride = 5_000
	// clocksWithin is more than the clocks of a partition's owners, one after the other, ever
	// differ: so far the times of its events may go back as its sequence goes on.
	clocksWithin = 10 * time.Minute
	// replicaWithin is how long a replica has to catch up with the primary.
	replicaWithin = time.Minute
)

// eventSource reads events in bounded statements, each by a range of the primary key, and
// holds no transaction in between.
type eventSource struct {
	conn   *pgx.Conn
	topics contract.Topics
	epoch  string
	heads  []partitionHead // what is exported at most
	gaps   []string        // what has been removed of the span
}

type partitionHead struct {
	partition int
	seq       int64
}

const streamEpochSQL = `SELECT epoch FROM stream_epoch`

const partitionHeadsSQL = `SELECT partition, event_seq FROM processor_partitions WHERE event_seq > 0 ORDER BY partition`

// openEventSource connects to the replica, if there is one, and waits until it holds what
// the primary does now.
func openEventSource(ctx context.Context, cfg config.Config, patience time.Duration) (*eventSource, error) {
	s := &eventSource{topics: contract.NewTopics(cfg.KafkaTopicPrefix)}
	primary, err := connect(cfg.DatabaseURL, "export")(ctx)
	if err != nil {
		return nil, err
	}
	s.conn = primary
	heads, err := readHeads(ctx, primary)
	if err == nil {
		err = primary.QueryRow(ctx, streamEpochSQL).Scan(&s.epoch)
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("read where the partitions are: %w", err)
	}
	s.heads = heads
	if cfg.DatabaseReadURL == "" {
		return s, nil
	}
	s.close()
	if s.conn, err = connect(cfg.DatabaseReadURL, "export")(ctx); err != nil {
		return nil, err
	}
	if err := s.awaitReplica(ctx, patience); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *eventSource) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
}

func readHeads(ctx context.Context, conn *pgx.Conn) ([]partitionHead, error) {
	rows, err := conn.Query(ctx, partitionHeadsSQL)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (h partitionHead, err error) {
		err = row.Scan(&h.partition, &h.seq)
		return h, err
	})
}

func (s *eventSource) awaitReplica(ctx context.Context, patience time.Duration) error {
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		heads, err := readHeads(within, s.conn)
		if err == nil && reached(heads, s.heads) {
			return nil
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-within.Done():
			return errors.Join(fault.New(fault.Unavailable, "replica_behind",
				"the database at DATABASE_READ_URL does not hold what the primary does"), err, ctx.Err())
		}
	}
}

func reached(replica, primary []partitionHead) bool {
	has := map[int]int64{}
	for _, h := range replica {
		has[h.partition] = h.seq
	}
	for _, h := range primary {
		if has[h.partition] < h.seq {
			return false
		}
	}
	return true
}

// export writes the events of a span and returns how many.
func (s *eventSource) export(ctx context.Context, of span, to *bufio.Writer) (n int, err error) {
	for _, head := range s.heads {
		written, err := s.partition(ctx, head, of, to)
		if n += written; err != nil {
			return n, err
		}
	}
	return n, nil
}

func (s *eventSource) partition(ctx context.Context, head partitionHead, of span, to *bufio.Writer) (n int, err error) {
	oldest, at, err := s.atOrAfter(ctx, head.partition, 0)
	if err != nil {
		return 0, err
	}
	switch {
	case oldest > head.seq:
		s.gaps = append(s.gaps, fmt.Sprintf("history_dropped: partition %d has no events left", head.partition))
		return 0, nil
	case oldest > 1 && at.After(of.from):
		s.gaps = append(s.gaps, fmt.Sprintf("history_dropped: partition %d begins with seq %d, applied at %s", head.partition, oldest, at.Format(time.RFC3339)))
	}
	start, err := s.find(ctx, head, oldest, of.from.Add(-clocksWithin))
	if err != nil {
		return 0, err
	}
	for after := start - 1; after < head.seq; after += exportStride {
		rows, last, err := s.page(ctx, head.partition, after, min(after+exportStride, head.seq))
		if err != nil {
			return n, err
		}
		for _, r := range rows {
			if !r.within(of) {
				continue
			}
			line, err := r.line(s.topics, s.epoch)
			if err != nil {
				return n, err
			}
			if _, err := to.Write(append(line, '\n')); err != nil {
				return n, fmt.Errorf("write the export: %w", err)
			}
			n++
		}
		if last.After(of.to.Add(clocksWithin)) {
			break
		}
	}
	return n, nil
}

// find returns a sequence of the partition before which everything was applied before the
// time: a binary search, as times rise with the sequence but for the clocks' differences.
func (s *eventSource) find(ctx context.Context, head partitionHead, oldest int64, from time.Time) (int64, error) {
	low, high := oldest, head.seq+1
	for low < high {
		middle := low + (high-low)/2
		seq, at, err := s.atOrAfter(ctx, head.partition, middle)
		if err != nil {
			return 0, err
		}
		if seq <= head.seq && at.Before(from) {
			low = seq + 1
		} else {
			high = middle
		}
	}
	return low, nil
}

const firstEventSQL = `SELECT seq, applied_at FROM events WHERE partition = $1 AND seq >= $2 ORDER BY seq LIMIT 1`

// atOrAfter returns the first event that is left from a sequence on; none is one beyond
// every head.
func (s *eventSource) atOrAfter(ctx context.Context, partition int, from int64) (seq int64, at time.Time, err error) {
	err = s.conn.QueryRow(ctx, firstEventSQL, partition, from).Scan(&seq, &at)
	if errors.Is(err, pgx.ErrNoRows) {
		return 1 << 62, time.Now().UTC(), nil
	}
	if err != nil {
		return 0, at, fmt.Errorf("look for an event of partition %d: %w", partition, err)
	}
	return seq, at.UTC(), nil
}

const exportPageSQL = `
SELECT seq, topic, id, type, command_id, low, high, COALESCE(low_seq, 0), COALESCE(high_seq, 0), other, COALESCE(other_seq, 0),
       accepted_at, applied_at, data, COALESCE(traceparent, '')
FROM events
WHERE partition = $1 AND seq > $2 AND seq <= $3
ORDER BY seq`

// exportRow is a row of events.
type exportRow struct {
	partition                 int
	seq                       int64
	topic, kind               int16
	id, commandID             uuid.UUID
	pair                      partner.Pair
	other                     *uuid.UUID
	lowSeq, highSeq, otherSeq int64
	acceptedAt, appliedAt     time.Time
	data                      []byte
	traceparent               string
}

// page returns the rows of a range of the sequence and the time of the last.
func (s *eventSource) page(ctx context.Context, partition int, after, upTo int64) (page []exportRow, last time.Time, err error) {
	rows, err := s.conn.Query(ctx, exportPageSQL, partition, after, upTo)
	if err != nil {
		return nil, last, fmt.Errorf("read events of partition %d: %w", partition, err)
	}
	page, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r exportRow, err error) {
		r.partition = partition
		err = row.Scan(&r.seq, &r.topic, &r.id, &r.kind, &r.commandID, &r.pair.Low, &r.pair.High, &r.lowSeq, &r.highSeq, &r.other, &r.otherSeq,
			&r.acceptedAt, &r.appliedAt, &r.data, &r.traceparent)
		return r, err
	})
	if err != nil {
		return nil, last, fmt.Errorf("read events of partition %d: %w", partition, err)
	}
	if n := len(page); n > 0 {
		last = page[n-1].appliedAt
	}
	return page, last, nil
}

// within reports whether the row is an event of the span: the others are for other topics.
func (r exportRow) within(of span) bool {
	if r.topic != 1 || r.appliedAt.Before(of.from) || !r.appliedAt.Before(of.to) {
		return false
	}
	for _, kind := range of.types {
		if kind == r.kind {
			return true
		}
	}
	return len(of.types) == 0
}

// line is the record on the events topic as a line.
func (r exportRow) line(topics contract.Topics, epoch string) ([]byte, error) {
	ev := contract.Event{
		EventID: r.id, Type: partner.EventType(r.kind).String(), CommandID: r.commandID, Pair: r.pair.String(), Epoch: epoch, Seq: r.seq,
		AcceptedAt: r.acceptedAt, AppliedAt: r.appliedAt, Data: json.RawMessage(r.data), Traceparent: r.traceparent,
	}
	add := func(user uuid.UUID, seq int64) {
		if seq > 0 {
			ev.Recipients = append(ev.Recipients, contract.Recipient{UserID: user, InboxSeq: seq})
		}
	}
	add(r.pair.Low, r.lowSeq)
	add(r.pair.High, r.highSeq)
	if r.other != nil {
		add(*r.other, r.otherSeq)
	}
	rec, err := contract.EncodeEvent(topics.Events, r.partition, ev)
	if err != nil {
		return nil, err
	}
	return contract.Structured(rec)
}
