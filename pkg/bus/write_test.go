package bus_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
)

func TestWriteIsReadBackWhole(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		c := b.Client(t)
		topic := newTopic(t, c, 2)
		at := time.UnixMilli(1_700_000_000_123).UTC()
		want := []contract.Record{
			{Topic: topic, Partition: 1, Offset: 0, Time: at, Key: []byte("k"), Value: []byte("v"), Headers: []contract.Header{{Key: "ce_id", Value: []byte("1")}, {Key: "empty", Value: []byte{}}}},
			{Topic: topic, Partition: 1, Offset: 1, Time: at, Key: []byte("tombstone")},
			{Topic: topic, Partition: 1, Offset: 2, Time: at, Value: []byte("keyless")},
		}
		write(t, c, want...)
		r := c.OpenPartition(topic, 1, 0)
		defer r.Close()
		var got []contract.Record
		for range want {
			rec, err := r.Read(within(t, 10*time.Second))
			if err != nil {
				t.Fatal(err)
			}
			rec.Time = rec.Time.UTC()
			got = append(got, rec)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("read back (-want +got):\n%s", diff)
		}
		if got := r.HighWatermark(); got != 3 {
			t.Errorf("high watermark = %d, want 3", got)
		}
	})
}

// One broker cannot tell acknowledgements by its leader from those by all replicas: so the
// requests are looked at.
func TestEveryWriteAsksForAllReplicas(t *testing.T) {
	t.Parallel()
	b := kafkatest.Embedded(t)
	c := b.Client(t)
	topic := newTopic(t, c, 1)
	var mu sync.Mutex
	acks := map[int16]int{}
	b.Fake().ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.Fake().KeepControl()
		mu.Lock()
		defer mu.Unlock()
		acks[req.(*kmsg.ProduceRequest).Acks]++
		return nil, nil, false
	})
	write(t, c, records(topic, 0, "written")...)
	p := c.NewProducer(bus.ProducerConfig{})
	running(t, p.Run)
	if err := p.Produce(within(t, 10*time.Second), record(topic, 0, "produced")); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff(map[int16]int{-1: 2}, acks); diff != "" {
		t.Errorf("requests by acks (-want +got):\n%s", diff)
	}
}

// A write of more than the broker takes in one batch is split and stays in order.
func TestWriteSplitsLargeBatches(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		c := b.Client(t)
		topic := newTopic(t, c, 1)
		want := numbers(strings.Repeat("x", 100_000), 30)
		write(t, c, records(topic, 0, want...)...)
		if diff := cmp.Diff(want, readAll(t, c, topic, 0)); diff != "" {
			t.Error("records differ from what was written, or their order does")
		}
	})
}

func TestWriteErrors(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		c := b.Client(t)
		topic := newTopic(t, c, 2)
		tests := map[string]struct {
			recs      []contract.Record
			failed    []int
			cause     kafka.Error
			notSent   bool
			retriable bool
		}{
			"no such topic":     {[]contract.Record{record(topic+"-none", 0, "v")}, []int{0}, kafka.UnknownTopicOrPartition, true, true},
			"no such partition": {[]contract.Record{record(topic, 0, "v"), record(topic, 7, "v")}, []int{1}, kafka.UnknownTopicOrPartition, false, true},
			"too large": {
				[]contract.Record{record(topic, 0, strings.Repeat("x", 2<<20)), record(topic, 0, "later"), record(topic, 1, "v")},
				[]int{0, 1},
				kafka.MessageSizeTooLarge, false, false,
			},
			"all too large": {[]contract.Record{record(topic, 0, strings.Repeat("x", 2<<20))}, []int{0}, kafka.MessageSizeTooLarge, true, false},
		}
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				err := c.Write(within(t, 10*time.Second), tt.recs)
				var we *bus.WriteError
				if !errors.As(err, &we) {
					t.Fatalf("error is %v, want a *WriteError", err)
				}
				var failed []int
				for i := range tt.recs {
					if e, ok := we.Failed[i]; ok {
						failed = append(failed, i)
						if !errors.Is(e, tt.cause) {
							t.Errorf("record %d: %v, want %v", i, e, tt.cause)
						}
						if got := bus.Retriable(e); got != tt.retriable {
							t.Errorf("record %d: retriable = %v", i, got)
						}
					}
				}
				if diff := cmp.Diff(tt.failed, failed); diff != "" {
					t.Errorf("failed records (-want +got):\n%s", diff)
				}
				if got := errors.Is(err, bus.ErrNotSent); got != tt.notSent {
					t.Errorf("is ErrNotSent = %v, want %v: %v", got, tt.notSent, err)
				}
			})
		}
	})
}

func TestWriteToDeadBrokerIsNotSent(t *testing.T) {
	t.Parallel()
	b := kafkatest.Embedded(t)
	c := b.Client(t)
	topic := newTopic(t, c, 1)
	b.Stop()
	// The first writes may find connections that die under them; then dialling fails.
	eventually(t, "a write is known not to be sent", func() bool {
		err := c.Write(within(t, 2*time.Second), records(topic, 0, "v"))
		if err == nil {
			t.Fatal("write to a stopped broker succeeded")
		}
		return errors.Is(err, bus.ErrNotSent)
	})
}

// What a broker answers decides whether the record may be there.
func TestWriteAnswers(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		answer  *kerr.Error
		notSent bool
		stored  bool // by what kfake does with that answer
	}{
		"not leader":                       {kerr.NotLeaderForPartition, false, false},
		"not enough replicas":              {kerr.NotEnoughReplicas, true, false},
		"not enough replicas after append": {kerr.NotEnoughReplicasAfterAppend, false, true},
		"timed out":                        {kerr.RequestTimedOut, false, true},
		"not authorized":                   {kerr.TopicAuthorizationFailed, true, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := kafkatest.Embedded(t)
			c := b.Client(t)
			topic := newTopic(t, c, 2)
			b.Fake().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Partitions: []int32{1}, Err: tt.answer})
			err := c.Write(within(t, 10*time.Second), []contract.Record{record(topic, 0, "other"), record(topic, 1, "v")})
			var we *bus.WriteError
			if !errors.As(err, &we) || len(we.Failed) != 1 || we.Failed[1] == nil {
				t.Fatalf("error is %v, want one of record 1", err)
			}
			if got := errors.Is(we.Failed[1], bus.ErrNotSent); got != tt.notSent {
				t.Errorf("record is ErrNotSent = %v, want %v", got, tt.notSent)
			}
			if errors.Is(err, bus.ErrNotSent) {
				t.Error("the write as a whole is ErrNotSent although record 0 was written")
			}
			if got := len(readAll(t, c, topic, 1)) == 1; got != tt.stored {
				t.Errorf("stored = %v, want %v", got, tt.stored)
			}
		})
	}
}

func TestPing(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		if err := b.Client(t).Ping(within(t, 5*time.Second)); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("stopped", func(t *testing.T) {
		t.Parallel()
		b := kafkatest.Embedded(t)
		b.Stop()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := b.Client(t).Ping(ctx); err == nil || ctx.Err() != nil {
			t.Errorf("ping of a stopped broker: %v after %v, want a quick error", err, ctx.Err())
		}
	})
}
