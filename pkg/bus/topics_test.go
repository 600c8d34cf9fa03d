package bus_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
)

func TestTopicsArePlannedAndSetUp(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		c := b.Client(t)
		ctx := within(t, 40*time.Second)
		topics := contract.NewTopics(kafkatest.Prefix(t))
		specs := topics.Specs(3)
		diffs, err := c.PlanTopics(ctx, specs)
		if err != nil {
			t.Fatal(err)
		}
		if len(diffs) != len(specs) {
			t.Errorf("differences of a cluster without topics: %v, want one per topic", diffs)
		}
		// Several processes start at once.
		var wg sync.WaitGroup
		for range 3 {
			other := b.Client(t)
			wg.Go(func() {
				if e := other.EnsureTopics(ctx, specs); e != nil {
					t.Errorf("ensure topics: %v", e)
				}
			})
		}
		wg.Wait()
		eventually(t, "the topics are known", func() bool { _, e := c.Partitions(ctx, topics.DeadLetter); return e == nil })
		if diffs, err = c.PlanTopics(ctx, specs); err != nil || len(diffs) != 0 {
			t.Errorf("differences after set-up: %v, %v, want none", diffs, err)
		}
		if n, e := c.Partitions(ctx, topics.Commands); n != 3 || e != nil {
			t.Errorf("partitions = %d, %v, want 3", n, e)
		}

		specs[0].Configs["retention.ms"] = "86400000"
		diffs, err = c.PlanTopics(ctx, specs)
		want := []bus.Difference{{Topic: topics.Commands, Setting: "retention.ms", Have: "604800000", Want: "86400000", Fixable: true}}
		if diff := cmp.Diff(want, diffs); diff != "" || err != nil {
			t.Errorf("changed configuration: %v (-want +got):\n%s", err, diff)
		}
		if err := c.EnsureTopics(ctx, specs); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the configuration is changed", func() bool { diffs, err := c.PlanTopics(ctx, specs); return err == nil && len(diffs) == 0 })

		if err := c.EnsureTopics(ctx, topics.Specs(4)); !errors.Is(err, bus.ErrPartitionCount) {
			t.Errorf("with another partition count: %v, want ErrPartitionCount", err)
		}
	})
}

func TestOffsets(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		c := b.Client(t)
		topic := newTopic(t, c, 2)
		write(t, c, records(topic, 0, "a", "b", "c")...)
		deleteRecords(t, b, topic, 1)
		start, end, err := c.Offsets(within(t, 10*time.Second), topic)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([][]int64{{1, 0}, {3, 0}}, [][]int64{start, end}); diff != "" {
			t.Errorf("start and end (-want +got):\n%s", diff)
		}
		if _, _, err := c.Offsets(within(t, 2*time.Second), topic+"-none"); err == nil {
			t.Error("offsets of a topic that does not exist: no error")
		}
	})
}

// The broker's time of the append counts on the commands topic, not the producer's claim.
func TestFirstOffsetAfter(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		c := b.Client(t)
		topic := newTopic(t, c, 1, "message.timestamp.type", "LogAppendTime")
		ctx := within(t, 20*time.Second)
		first := func(at time.Time) int64 {
			t.Helper()
			offset, err := c.FirstOffsetAfter(ctx, topic, 0, at)
			if err != nil {
				t.Fatal(err)
			}
			return offset
		}
		if got := first(time.Now().Add(-time.Hour)); got != -1 {
			t.Errorf("in an empty partition: %d, want -1", got)
		}
		before := time.Now()
		claims := []time.Time{before.Add(-24 * time.Hour), before.Add(-48 * time.Hour), before.Add(time.Hour)}
		var appended []time.Time // a moment after each append
		for i, claim := range claims {
			rec := record(topic, 0, "v")
			rec.Time = claim
			write(t, c, rec)
			appended = append(appended, time.Now())
			if i < len(claims)-1 {
				time.Sleep(20 * time.Millisecond) // the next append is later by more than the clock's grain
			}
		}
		tests := map[string]struct {
			at   time.Time
			want int64
		}{
			"before all":       {before.Add(-time.Second), 0},
			"after the first":  {appended[0].Add(5 * time.Millisecond), 1},
			"after the second": {appended[1].Add(5 * time.Millisecond), 2},
			"after all":        {appended[2].Add(5 * time.Millisecond), -1},
		}
		for name, tt := range tests {
			if got := first(tt.at); got != tt.want {
				t.Errorf("%s: %d, want %d", name, got, tt.want)
			}
		}
	})
}
