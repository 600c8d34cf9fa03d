package bus_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
)

func specOf(topic string, partitions int) []contract.Spec {
	return []contract.Spec{{Name: topic, Partitions: partitions}}
}

// tailed is what a tail handed out, by partition.
type tailed struct {
	mu     sync.Mutex
	values map[int][]string
}

// startTail starts a tail and returns when it is ready.
func startTail(t *testing.T, c *bus.Client, topic string) *tailed {
	t.Helper()
	got := &tailed{values: map[int][]string{}}
	ready := make(chan struct{})
	next := map[int]int64{}
	running(t, func(ctx context.Context) error {
		err := c.Tail(ctx, bus.TailConfig{Name: "test", Topic: topic, OnReady: func() { close(ready) }}, func(rec contract.Record) {
			if n, ok := next[rec.Partition]; ok && rec.Offset != n {
				t.Errorf("partition %d: offset %d after %d", rec.Partition, rec.Offset, n-1)
			}
			next[rec.Partition] = rec.Offset + 1
			got.mu.Lock()
			defer got.mu.Unlock()
			got.values[rec.Partition] = append(got.values[rec.Partition], string(rec.Value))
		})
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	})
	select {
	case <-ready:
	case <-time.After(20 * time.Second):
		t.Fatal("the tail is not ready within 20 s")
	}
	return got
}

// expect waits until each partition's last value has come and compares what came, less
// the repeats of retried writes.
func (g *tailed) expect(t *testing.T, want map[int][]string) {
	t.Helper()
	for p, values := range want {
		eventually(t, fmt.Sprintf("the last record of partition %d", p), func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			n := len(g.values[p])
			return n > 0 && g.values[p][n-1] == values[len(values)-1]
		})
		g.mu.Lock()
		if diff := cmp.Diff(values, firsts(g.values[p])); diff != "" {
			t.Errorf("partition %d (-want +got):\n%s", p, diff)
		}
		g.mu.Unlock()
	}
}

func eventRecord(t *testing.T, topic string, partition int, epoch string, seq int64) contract.Record {
	t.Helper()
	low, high := uuid.MustParse("11111111-1111-4111-8111-111111111111"), uuid.MustParse("22222222-2222-4222-8222-222222222222")
	now := time.Now().UTC().Truncate(time.Microsecond)
	rec, err := contract.EncodeEvent(topic, partition, contract.Event{
		EventID: uuid.New(), Type: "request.received", Version: contract.Version, CommandID: uuid.New(),
		Pair: low.String() + ":" + high.String(), Epoch: epoch, Seq: seq, AcceptedAt: now, AppliedAt: now,
		Recipients: []contract.Recipient{{UserID: high, InboxSeq: 1}}, Data: json.RawMessage(`{}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// TestTailTakesAnAnswerThatIsFull has more waiting than one answer holds: the embedded broker
// then leaves out the partitions for which there is no room, and that is no failure.
func TestTailTakesAnAnswerThatIsFull(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		const partitions, each = 8, 4
		topic := kafkatest.Prefix(t) + "full"
		writer := b.Client(t)
		if err := writer.EnsureTopics(t.Context(), specOf(topic, partitions)); err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer // written to by the tail alone, read when it has ended
		client := bus.New(bus.Config{Brokers: b.Brokers()}, slog.New(slog.NewTextHandler(&said, nil)))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		ready, all := make(chan struct{}), make(chan struct{})
		read := 0
		ended := make(chan error, 1)
		go func() {
			ended <- client.Tail(ctx, bus.TailConfig{Name: "test", Topic: topic, OnReady: func() { close(ready) }}, func(contract.Record) {
				if read == 0 {
					<-all // nothing is fetched meanwhile
				}
				if read++; read == partitions*each+1 {
					cancel()
				}
			})
		}()
		<-ready
		write := func(partition, size int) {
			rec := contract.Record{Topic: topic, Partition: partition, Key: []byte("k"), Value: bytes.Repeat([]byte("v"), size)}
			if err := writer.Write(ctx, []contract.Record{rec}); err != nil {
				t.Fatal(err)
			}
		}
		write(0, 1)
		for range each {
			for p := range partitions {
				write(p, 400<<10)
			}
		}
		close(all)
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the tail ended with %v", err)
		}
		client.Close()
		if read != partitions*each+1 || said.Len() > 0 {
			t.Errorf("%d records of %d, and the log says %q", read, partitions*each+1, said.String())
		}
	})
}

func TestEventTailDropsRepeats(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		c := b.Client(t)
		topic := newTopic(t, c, 2)
		tail := bus.NewEventTail(c, topic, 2, nil)
		first, second := make(chan string, 100), make(chan string, 100)
		tail.Subscribe(func(ev contract.Event) { first <- fmt.Sprintf("%s/%d", ev.Epoch, ev.Seq) })
		cancel := tail.Subscribe(func(ev contract.Event) { second <- fmt.Sprintf("%s/%d", ev.Epoch, ev.Seq) })
		running(t, tail.Run)
		select {
		case <-tail.Ready():
		case <-time.After(20 * time.Second):
			t.Fatal("not ready")
		}
		ev := func(epoch string, seq int64) contract.Record { return eventRecord(t, topic, 0, epoch, seq) }
		write(t, c, ev("e1", 1), ev("e1", 2), ev("e1", 1), ev("e1", 2), record(topic, 0, "not an event"), ev("e1", 3), ev("e2", 1), ev("e1", 3), ev("e2", 1), ev("e2", 2))
		collect := func(from chan string, n int) []string {
			var got []string
			for range n {
				select {
				case v := <-from:
					got = append(got, v)
				case <-time.After(20 * time.Second):
					t.Fatalf("after %v nothing more", got)
				}
			}
			return got
		}
		want := []string{"e1/1", "e1/2", "e1/3", "e2/1", "e2/2"}
		if diff := cmp.Diff(want, collect(first, 5)); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want, collect(second, 5)); diff != "" {
			t.Errorf("events of the second subscriber (-want +got):\n%s", diff)
		}
		cancel()
		// Another partition has sequences of its own.
		write(t, c, eventRecord(t, topic, 1, "e1", 1))
		if diff := cmp.Diff([]string{"e1/1"}, collect(first, 1)); diff != "" {
			t.Errorf("events of the other partition (-want +got):\n%s", diff)
		}
		if len(second) != 0 {
			t.Error("an event was handed to a subscriber that cancelled")
		}
	})
}
