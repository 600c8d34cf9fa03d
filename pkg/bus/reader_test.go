package bus_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
)

func TestPartitionReaderReadsFromItsOffset(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		c := b.Client(t)
		topic := newTopic(t, c, 2)
		// One batch: the broker answers with the whole of it, whatever offset in it is asked for.
		write(t, c, records(topic, 1, "a", "b", "c", "d")...)
		r := c.OpenPartition(topic, 1, 2)
		defer r.Close()
		ctx := within(t, 20*time.Second)
		for i, want := range []string{"c", "d"} {
			rec, err := r.Read(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if string(rec.Value) != want || rec.Offset != int64(2+i) {
				t.Errorf("record %q at %d, want %q at %d", rec.Value, rec.Offset, want, 2+i)
			}
		}
		if r.Position() != 4 || r.HighWatermark() != 4 || r.Lag() != 0 {
			t.Errorf("position %d, high watermark %d, lag %d; want 4, 4, 0", r.Position(), r.HighWatermark(), r.Lag())
		}
		// A waiting Read gets what is appended meanwhile.
		go func() { write(t, c, record(topic, 1, "e")) }()
		if rec, err := r.Read(ctx); err != nil || string(rec.Value) != "e" {
			t.Errorf("read %q, %v, want e", rec.Value, err)
		}
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		begin := time.Now()
		if _, err := r.Read(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("read at the end: %v, want DeadlineExceeded", err)
		}
		if took := time.Since(begin); took > 500*time.Millisecond {
			t.Errorf("read at the end returned after %v, want 50ms", took)
		}
		time.AfterFunc(50*time.Millisecond, r.Close)
		if _, err := r.Read(ctx); !errors.Is(err, bus.ErrReaderClosed) {
			t.Errorf("read while closed: %v, want ErrReaderClosed", err)
		}
	})
}

func TestPartitionReaderNeverSkips(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		c := b.Client(t)
		tests := map[string]struct {
			offset     int64
			prepare    func(t *testing.T, topic string)
			start, end int64
		}{
			"beyond the end":     {9, nil, 0, 4},
			"before the start":   {0, func(t *testing.T, topic string) { t.Helper(); deleteRecords(t, b, topic, 3) }, 3, 4},
			"topic is a new one": {3, func(t *testing.T, topic string) { t.Helper(); recreate(t, b, c, topic) }, 0, 1},
		}
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				topic := newTopic(t, c, 1)
				write(t, c, records(topic, 0, "a", "b", "c", "d")...)
				if tt.prepare != nil {
					tt.prepare(t, topic)
				}
				r := c.OpenPartition(topic, 0, tt.offset)
				defer r.Close()
				rec, err := r.Read(within(t, 20*time.Second))
				var got *bus.OutOfRangeError
				if !errors.As(err, &got) {
					t.Fatalf("read record %d, error %v, want an *OutOfRangeError", rec.Offset, err)
				}
				want := &bus.OutOfRangeError{Topic: topic, Wanted: tt.offset, Start: tt.start, End: tt.end}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("error (-want +got):\n%s", diff)
				}
			})
		}
	})
}

// recreate deletes a topic with one partition and creates it again with one record.
func recreate(t *testing.T, b *kafkatest.Broker, c *bus.Client, topic string) {
	t.Helper()
	deleteTopic(t, b, topic)
	ctx := within(t, 30*time.Second)
	eventually(t, "the topic is gone", func() bool {
		_, err := c.Partitions(ctx, topic)
		return err != nil
	})
	eventually(t, "the topic is there again", func() bool { return c.EnsureTopics(ctx, specOf(topic, 1)) == nil })
	write(t, c, record(topic, 0, "new"))
}

// A reader at work when its topic is created again stops with an error as well.
func TestPartitionReaderNoticesRecreation(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		c := b.Client(t)
		topic := newTopic(t, c, 1)
		write(t, c, records(topic, 0, "a", "b", "c")...)
		r := c.OpenPartition(topic, 0, 0)
		defer r.Close()
		ctx := within(t, 40*time.Second)
		for range 3 {
			if _, err := r.Read(ctx); err != nil {
				t.Fatal(err)
			}
		}
		outcome := make(chan error, 1)
		go func() {
			rec, err := r.Read(ctx)
			outcome <- fmt.Errorf("record %d %q: %w", rec.Offset, rec.Value, err)
		}()
		recreate(t, b, c, topic)
		if err := <-outcome; !errors.As(err, new(*bus.OutOfRangeError)) {
			t.Errorf("read: %v, want an *OutOfRangeError", err)
		}
	})
}

func TestPartitionReaderFollowsTheLeader(t *testing.T) {
	t.Parallel()
	b := kafkatest.EmbeddedNodes(t, 3)
	c := b.Client(t)
	topic := newTopic(t, c, 1)
	r := c.OpenPartition(topic, 0, 0)
	defer r.Close()
	p := c.NewProducer(bus.ProducerConfig{})
	running(t, p.Run)
	ctx := within(t, 30*time.Second)
	for i := range 6 {
		if err := b.Fake().MoveTopicPartition(topic, 0, int32(i%3)); err != nil {
			t.Fatal(err)
		}
		if err := p.Produce(ctx, record(topic, 0, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		for {
			rec, err := r.Read(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if string(rec.Value) == fmt.Sprint(i) {
				break
			}
			if string(rec.Value) != fmt.Sprint(i-1) { // a repeat of a retried write
				t.Fatalf("read %q, want %d", rec.Value, i)
			}
		}
	}
}

func TestTailHandsOutWhatComesAfterItsStart(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		c := b.Client(t)
		topic := newTopic(t, c, 3)
		for p := range 3 {
			write(t, c, records(topic, p, "old", "old")...)
		}
		got := startTail(t, c, topic)
		want := map[int][]string{}
		for p := range 3 {
			want[p] = numbers(fmt.Sprintf("p%d-", p), 20)
			for _, v := range want[p] {
				write(t, c, record(topic, p, v))
			}
		}
		got.expect(t, want)
	})
}

func TestTailRefusesAnotherPartitionCount(t *testing.T) {
	t.Parallel()
	b := kafkatest.Embedded(t)
	c := b.Client(t)
	err := c.Tail(within(t, 10*time.Second), bus.TailConfig{Topic: newTopic(t, c, 3), Partitions: 4}, nil)
	if !errors.Is(err, bus.ErrPartitionCount) {
		t.Errorf("tail: %v, want ErrPartitionCount", err)
	}
}

// A tail goes on where it was when its broker comes back, and so does a producer.
func TestTailSurvivesARestart(t *testing.T) {
	t.Parallel()
	tests := map[string]func(t *testing.T) *kafkatest.Broker{
		"embedded": func(t *testing.T) *kafkatest.Broker { t.Helper(); return kafkatest.Embedded(t) },
		"apache":   func(t *testing.T) *kafkatest.Broker { t.Helper(); return kafkatest.StartApache(t) },
	}
	for name, start := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t)
			c := b.Client(t)
			topic := newTopic(t, c, 2)
			p := c.NewProducer(bus.ProducerConfig{})
			running(t, p.Run)
			got := startTail(t, c, topic)
			want := map[int][]string{0: numbers("n", 60)}
			for i, v := range want[0] {
				if i == 20 {
					b.Stop()
					short, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
					if err := p.Produce(short, record(topic, 1, "lost")); err == nil {
						t.Error("produce to a stopped broker succeeded")
					}
					cancel()
					b.Start()
				}
				if i == 40 && name == "apache" {
					b.Kill()
					b.Start()
				}
				if err := p.Produce(within(t, 30*time.Second), record(topic, 0, v)); err != nil {
					t.Fatalf("produce %s: %v", v, err)
				}
			}
			got.expect(t, want)
		})
	}
}

func TestTailFollowsLeaders(t *testing.T) {
	t.Parallel()
	b := kafkatest.EmbeddedNodes(t, 3)
	c := b.Client(t)
	topic := newTopic(t, c, 3)
	got := startTail(t, c, topic)
	p := c.NewProducer(bus.ProducerConfig{})
	running(t, p.Run)
	want := map[int][]string{}
	for i := range 12 {
		if err := b.Fake().MoveTopicPartition(topic, int32(i%3), int32((i/3+i)%3)); err != nil {
			t.Fatal(err)
		}
		for part := range 3 {
			v := fmt.Sprint(i)
			if err := p.Produce(within(t, 10*time.Second), record(topic, part, v)); err != nil {
				t.Fatal(err)
			}
			want[part] = append(want[part], v)
		}
	}
	got.expect(t, want)
}

// A broker that hangs with its connections open costs a producer its deadline, and a
// reader nothing but time.
func TestHungBroker(t *testing.T) {
	t.Parallel()
	b := kafkatest.StartApache(t)
	c := b.Client(t)
	topic := newTopic(t, c, 1)
	p := c.NewProducer(bus.ProducerConfig{WriteTimeout: time.Second})
	running(t, p.Run)
	got := startTail(t, c, topic)
	if err := p.Produce(within(t, 10*time.Second), record(topic, 0, "before")); err != nil {
		t.Fatal(err)
	}
	b.Pause()
	begin := time.Now()
	err := p.Produce(within(t, 2500*time.Millisecond), record(topic, 0, "meanwhile"))
	if took := time.Since(begin); !errors.Is(err, context.DeadlineExceeded) || took > 3*time.Second {
		t.Errorf("produce to a hung broker: %v after %v, want DeadlineExceeded within 3s", err, took)
	}
	if errors.Is(err, bus.ErrNotSent) {
		t.Errorf("a record that a hung broker may have: %v, want no ErrNotSent", err)
	}
	b.Resume()
	if err := p.Produce(within(t, 30*time.Second), record(topic, 0, "after")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the tail goes on", func() bool {
		got.mu.Lock()
		defer got.mu.Unlock()
		return len(got.values[0]) > 1 && got.values[0][len(got.values[0])-1] == "after"
	})
}
