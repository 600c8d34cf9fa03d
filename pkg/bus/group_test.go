package bus_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
)

// member runs one member of a group. It passes on each generation with its context and
// holds it until that ends; with hold set the first one beyond that, until it is released.
type member struct {
	generations chan generation
	stop        func()
}

type generation struct {
	bus.Generation
	ctx     context.Context //nolint:containedctx // the handler's, looked at by the test
	release chan error
}

func join(t *testing.T, b *kafkatest.Broker, group, topic string, hold bool) *member {
	t.Helper()
	m := &member{generations: make(chan generation, 100)}
	c := b.Client(t)
	held := false
	m.stop = running(t, func(ctx context.Context) error {
		return c.RunGroup(ctx, bus.GroupConfig{
			ID: group, Topic: topic, SessionTimeout: 3 * time.Second, RebalanceTimeout: 3 * time.Second, Heartbeat: 50 * time.Millisecond,
		}, func(ctx context.Context, gen bus.Generation) error {
			g := generation{gen, ctx, make(chan error, 1)}
			m.generations <- g
			select {
			case err := <-g.release:
				return err
			case <-ctx.Done():
			}
			if hold && !held {
				held = true
				return <-g.release
			}
			return ctx.Err()
		})
	})
	return m
}

// until returns the first generation with so many partitions.
func (m *member) until(t *testing.T, partitions int) generation {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case g := <-m.generations:
			if len(g.Partitions) == partitions {
				return g
			}
		case <-deadline:
			t.Fatalf("no generation with %d partitions within 30 s", partitions)
		}
	}
}

func assigned(g generation) []int {
	out := []int{}
	for _, p := range g.Partitions {
		out = append(out, p.Partition)
	}
	return out
}

func TestGroupSharesPartitions(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		c := b.Client(t)
		topic := newTopic(t, c, 4)
		group := topic + "-group"
		ctx := within(t, 60*time.Second)

		got, err := c.Committed(ctx, group, topic)
		if diff := cmp.Diff([]int64{-1, -1, -1, -1}, got); diff != "" || err != nil {
			t.Errorf("committed offsets of an unknown group: %v (-want +got):\n%s", err, diff)
		}

		first := join(t, b, group, topic, false)
		alone := first.until(t, 4)
		if diff := cmp.Diff([]bus.Assigned{{Partition: 0, Committed: -1}, {Partition: 1, Committed: -1}, {Partition: 2, Committed: -1}, {Partition: 3, Committed: -1}}, alone.Partitions); diff != "" {
			t.Errorf("first assignment (-want +got):\n%s", diff)
		}
		if err = alone.Commit(ctx, map[int]int64{0: 7, 3: 9}); err != nil {
			t.Fatal(err)
		}

		second := join(t, b, group, topic, false)
		mine, others := first.until(t, 2), second.until(t, 2)
		if cause := context.Cause(alone.ctx); !errors.Is(cause, bus.ErrGenerationEnded) {
			t.Errorf("the old generation's context ended by %v, want ErrGenerationEnded", cause)
		}
		if mine.ID != others.ID {
			t.Errorf("generations %d and %d, want the same", mine.ID, others.ID)
		}
		all := append(assigned(mine), assigned(others)...)
		slices.Sort(all)
		if diff := cmp.Diff([]int{0, 1, 2, 3}, all); diff != "" {
			t.Errorf("partitions of both (-want +got):\n%s", diff)
		}
		for _, p := range slices.Concat(mine.Partitions, others.Partitions) {
			if want := map[int]int64{0: 7, 1: -1, 2: -1, 3: 9}[p.Partition]; p.Committed != want {
				t.Errorf("partition %d: committed %d, want %d", p.Partition, p.Committed, want)
			}
		}

		// The old generation no longer counts.
		if err = alone.Commit(ctx, map[int]int64{0: 1}); err == nil {
			t.Error("commit by an ended generation succeeded")
		}
		// A member that leaves hands its partitions over without waiting for its session.
		second.stop()
		first.until(t, 4)
		got, err = c.Committed(ctx, group, topic)
		if diff := cmp.Diff([]int64{7, -1, -1, 9}, got); diff != "" || err != nil {
			t.Errorf("committed offsets: %v (-want +got):\n%s", err, diff)
		}
	})
}

// A member that does not drain in time is thrown out, and its commit is refused while
// another has its partitions.
func TestGroupFencesASlowMember(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		c := b.Client(t)
		topic := newTopic(t, c, 2)
		slow := join(t, b, topic, topic, true)
		held := slow.until(t, 2)
		fast := join(t, b, topic, topic, false)
		took := fast.until(t, 2) // both: the slow one did not join
		err := held.Commit(within(t, 10*time.Second), map[int]int64{0: 1})
		if !errors.Is(err, bus.ErrFenced) {
			t.Errorf("commit of the slow member: %v, want ErrFenced", err)
		}
		if err := took.Commit(within(t, 10*time.Second), map[int]int64{0: 5}); err != nil {
			t.Errorf("commit of its successor: %v", err)
		}
		held.release <- nil
		slow.until(t, 1) // it joins again
	})
}

func TestGroupHandlerReturns(t *testing.T) {
	t.Parallel()
	b := kafkatest.Embedded(t)
	c := b.Client(t)
	topic := newTopic(t, c, 1)
	broken := errors.New("broken")
	calls := 0
	err := c.RunGroup(within(t, 30*time.Second), bus.GroupConfig{ID: topic, Topic: topic, Heartbeat: 50 * time.Millisecond},
		func(context.Context, bus.Generation) error {
			if calls++; calls < 3 {
				return nil // means: again
			}
			return broken
		})
	if !errors.Is(err, broken) || calls != 3 {
		t.Errorf("after %d calls: %v, want the handler's error after 3", calls, err)
	}
}

// A group waits for its topic, and joins again after its broker was away.
func TestGroupOutlastsItsBroker(t *testing.T) {
	t.Parallel()
	b := kafkatest.Embedded(t)
	c := b.Client(t)
	topic := kafkatest.Prefix(t) + ".topic"
	m := join(t, b, topic, topic, false)
	if err := c.EnsureTopics(within(t, 10*time.Second), specOf(topic, 2)); err != nil {
		t.Fatal(err)
	}
	first := m.until(t, 2)
	if err := first.Commit(within(t, 5*time.Second), map[int]int64{1: 3}); err != nil {
		t.Fatal(err)
	}
	b.Stop()
	<-first.ctx.Done()
	b.Start()
	second := m.until(t, 2)
	if second.Partitions[1].Committed != 3 {
		t.Errorf("committed = %d, want 3", second.Partitions[1].Committed)
	}
}
