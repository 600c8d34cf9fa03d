package bus_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
)

// Many callers, each waiting for its acknowledgement before the next record: each caller's
// records are in its order, and all are there once.
func TestProducerKeepsEveryRecordInOrder(t *testing.T) {
	t.Parallel()
	for _, inFlight := range []int{1, 3} {
		t.Run(fmt.Sprintf("in flight %d", inFlight), func(t *testing.T) {
			t.Parallel()
			kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
				c := b.Client(t)
				topic := newTopic(t, c, 3)
				reg := prometheus.NewRegistry()
				p := c.NewProducer(bus.ProducerConfig{InFlight: inFlight, Registerer: reg})
				running(t, p.Run)
				const callers, each = 12, 50
				var wg sync.WaitGroup
				for caller := range callers {
					wg.Go(func() {
						for i := range each {
							if err := p.Produce(within(t, 20*time.Second), record(topic, caller%3, fmt.Sprintf("%d %d", caller, i))); err != nil {
								t.Errorf("produce: %v", err)
							}
						}
					})
				}
				wg.Wait()
				checkCallers(t, c, topic, callers, each, false)
				if n, _ := reg.Gather(); len(n) == 0 {
					t.Error("no metrics")
				}
			})
		})
	}
}

// checkCallers reads the topic's three partitions and compares them with what the callers
// wrote, in the order of each.
func checkCallers(t *testing.T, c *bus.Client, topic string, callers, each int, repeats bool) {
	t.Helper()
	got := make([][]int, callers)
	for p := range 3 {
		values := readAll(t, c, topic, p)
		if repeats {
			values = firsts(values)
		}
		for _, v := range values {
			var caller, i int
			if _, err := fmt.Sscan(v, &caller, &i); err != nil {
				t.Fatal(err)
			}
			got[caller] = append(got[caller], i)
		}
	}
	want := make([]int, each)
	for i := range want {
		want[i] = i
	}
	for caller := range callers {
		if diff := cmp.Diff(want, got[caller]); diff != "" {
			t.Errorf("records of caller %d (-want +got):\n%s", caller, diff)
		}
	}
}

// Answers that may pass away are retried inside the call, and order survives them.
func TestProducerRetriesInOrder(t *testing.T) {
	t.Parallel()
	b := kafkatest.Embedded(t)
	c := b.Client(t)
	topic := newTopic(t, c, 3)
	p := c.NewProducer(bus.ProducerConfig{InFlight: 3})
	running(t, p.Run)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, kind := range []*kerr.Error{kerr.NotLeaderForPartition, kerr.NotEnoughReplicas, kerr.RequestTimedOut, kerr.NotEnoughReplicasAfterAppend} {
		// When runs on the cluster's goroutine alone.
		b.Fake().Fault(kfake.Fault{
			Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: kind, Count: -1,
			When: func(kmsg.Request) bool { return rng.IntN(12) == 0 },
		})
	}
	const callers, each = 9, 20
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := range each {
				if err := p.Produce(within(t, 30*time.Second), record(topic, caller%3, fmt.Sprintf("%d %d", caller, i))); err != nil {
					t.Errorf("produce: %v", err)
				}
			}
		})
	}
	wg.Wait()
	checkCallers(t, c, topic, callers, each, true)
}

// Records of one partition are appended in the order of the calls, also of calls that did
// not wait for each other, while the first attempts fail.
func TestProducerOrderOfConcurrentCalls(t *testing.T) {
	t.Parallel()
	b := kafkatest.Embedded(t)
	c := b.Client(t)
	topic := newTopic(t, c, 1)
	p := c.NewProducer(bus.ProducerConfig{InFlight: 3, MaxBatch: 4})
	b.Fake().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: kerr.NotLeaderForPartition, Count: 3})
	want := numbers("n", 40)
	var wg sync.WaitGroup
	for i, v := range want {
		wg.Go(func() {
			if err := p.Produce(within(t, 20*time.Second), record(topic, 0, v)); err != nil {
				t.Errorf("produce: %v", err)
			}
		})
		eventually(t, "the call has queued its record", func() bool { return p.Queued() == i+1 })
	}
	running(t, p.Run)
	wg.Wait()
	if diff := cmp.Diff(want, readAll(t, c, topic, 0)); diff != "" {
		t.Errorf("partition (-want +got):\n%s", diff)
	}
}

func TestProducerRejectsAtOnce(t *testing.T) {
	t.Parallel()
	b := kafkatest.Embedded(t)
	c := b.Client(t)
	topic := newTopic(t, c, 1)
	p := c.NewProducer(bus.ProducerConfig{})
	running(t, p.Run)
	err := p.Produce(within(t, 20*time.Second), record(topic, 0, string(make([]byte, 2<<20))))
	if !errors.Is(err, bus.ErrNotSent) || bus.Retriable(err) {
		t.Errorf("produce of a record that is too large: %v, want one that is not sent and not retriable", err)
	}
}

// The caller's deadline ends the call, and the error says whether the record may be there.
func TestProducerGivesUpAtTheDeadline(t *testing.T) {
	t.Parallel()
	const deadline = 500 * time.Millisecond
	tests := map[string]struct {
		prepare func(t *testing.T, b *kafkatest.Broker, topic string)
		notSent bool
	}{
		"stopped broker": {func(_ *testing.T, b *kafkatest.Broker, _ string) { b.Stop() }, false},
		"not enough replicas": {func(_ *testing.T, b *kafkatest.Broker, topic string) {
			b.Fake().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: kerr.NotEnoughReplicas, Count: -1})
		}, true},
		"appended without an answer": {func(_ *testing.T, b *kafkatest.Broker, topic string) {
			b.Fake().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: kerr.RequestTimedOut, Count: -1})
		}, false},
		"no answer": {func(t *testing.T, b *kafkatest.Broker, _ string) {
			t.Helper()
			hold := make(chan struct{})
			t.Cleanup(func() { close(hold) })
			fake := b.Fake()
			fake.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
				fake.SleepControl(func() { <-hold })
				return nil, errors.New("drop the connection"), true
			})
		}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := kafkatest.Embedded(t)
			c := b.Client(t)
			topic := newTopic(t, c, 1)
			p := c.NewProducer(bus.ProducerConfig{WriteTimeout: deadline})
			running(t, p.Run)
			if err := p.Produce(within(t, 5*time.Second), record(topic, 0, "before")); err != nil {
				t.Fatal(err)
			}
			tt.prepare(t, b, topic)
			// At the deadline an attempt may just be under way, whatever the answers before.
			for try := 1; ; try++ {
				begin := time.Now()
				err := p.Produce(within(t, deadline), record(topic, 0, "v"))
				if took := time.Since(begin); took > 2*deadline {
					t.Errorf("returned after %v, want about %v", took, deadline)
				}
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("error is %v, want DeadlineExceeded", err)
				}
				// A connection that the stopped broker had is lost with the first write.
				if errors.Is(err, bus.ErrNotSent) == tt.notSent || name == "stopped broker" {
					return
				}
				if !tt.notSent || try == 5 {
					t.Fatalf("is ErrNotSent = %v, want %v: %v", !tt.notSent, tt.notSent, err)
				}
			}
		})
	}
}

func TestProducerBounds(t *testing.T) {
	t.Parallel()
	b := kafkatest.Embedded(t)
	c := b.Client(t)
	topic := newTopic(t, c, 1)
	p := c.NewProducer(bus.ProducerConfig{MaxBuffered: 2})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			err := p.Produce(within(t, 200*time.Millisecond), record(topic, 0, "v"))
			if !errors.Is(err, bus.ErrNotSent) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("without Run: %v, want ErrNotSent and DeadlineExceeded", err)
			}
		})
	}
	eventually(t, "both are queued", func() bool { return p.Queued() == 2 })
	if err := p.Produce(within(t, time.Second), record(topic, 0, "v")); !errors.Is(err, bus.ErrBufferFull) || !errors.Is(err, bus.ErrNotSent) {
		t.Errorf("third record: %v, want ErrBufferFull, which is ErrNotSent", err)
	}
	wg.Wait()
	// Those whose callers left make room and are not written.
	stop := running(t, p.Run)
	if err := p.Produce(within(t, 5*time.Second), record(topic, 0, "last")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"last"}, readAll(t, c, topic, 0)); diff != "" {
		t.Errorf("partition (-want +got):\n%s", diff)
	}
	stop()
	if err := p.Produce(within(t, time.Second), record(topic, 0, "v")); !errors.Is(err, bus.ErrClosed) {
		t.Errorf("after Run: %v, want ErrClosed", err)
	}
}

// What is queued when Run is told to stop is still written.
func TestProducerDrains(t *testing.T) {
	t.Parallel()
	b := kafkatest.Embedded(t)
	c := b.Client(t)
	topic := newTopic(t, c, 1)
	p := c.NewProducer(bus.ProducerConfig{MaxBatch: 1})
	want := numbers("n", 20)
	var wg sync.WaitGroup
	for i, v := range want {
		wg.Go(func() {
			if err := p.Produce(within(t, 10*time.Second), record(topic, 0, v)); err != nil {
				t.Errorf("produce: %v", err)
			}
		})
		eventually(t, "the record is queued", func() bool { return p.Queued() == i+1 })
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.Run(ctx); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if diff := cmp.Diff(want, readAll(t, c, topic, 0)); diff != "" {
		t.Errorf("partition (-want +got):\n%s", diff)
	}
}

// A moved leader is found within the call's deadline.
func TestProducerFollowsTheLeader(t *testing.T) {
	t.Parallel()
	b := kafkatest.EmbeddedNodes(t, 3)
	c := b.Client(t)
	topic := newTopic(t, c, 3)
	p := c.NewProducer(bus.ProducerConfig{InFlight: 2})
	running(t, p.Run)
	want := numbers("n", 30)
	for i, v := range want {
		if i%5 == 0 {
			next := (b.Fake().LeaderFor(topic, 0) + 1) % 3
			if err := b.Fake().MoveTopicPartition(topic, 0, next); err != nil {
				t.Fatal(err)
			}
		}
		// The others, so that requests go to several leaders.
		var wg sync.WaitGroup
		for p1 := range 2 {
			wg.Go(func() {
				if err := p.Produce(within(t, 5*time.Second), contract.Record{Topic: topic, Partition: 1 + p1, Value: []byte(v)}); err != nil {
					t.Errorf("produce: %v", err)
				}
			})
		}
		if err := p.Produce(within(t, 5*time.Second), record(topic, 0, v)); err != nil {
			t.Fatalf("produce %s: %v", v, err)
		}
		wg.Wait()
	}
	for i := range 3 {
		if diff := cmp.Diff(want, firsts(readAll(t, c, topic, i))); diff != "" {
			t.Errorf("partition %d (-want +got):\n%s", i, diff)
		}
	}
}
