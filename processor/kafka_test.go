package processor

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

func newKafkaRig(t *testing.T, b *kafkatest.Broker) *rig {
	t.Helper()
	client := b.Client(t)
	topics := contract.NewTopics(kafkatest.Prefix(t))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := client.EnsureTopics(ctx, topics.Specs(testPartitions)); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, Kafka(client), topics)
	r.cfg.SessionTimeout, r.cfg.RebalanceTimeout = 6*time.Second, 6*time.Second
	return r
}

// everyBroker runs a test on the broker in memory and on both of Kafka's. The test's clock
// may be two months ahead.
func everyBroker(t *testing.T, test func(*testing.T, *rig)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		r, _ := newMemoryRig(t)
		test(t, r)
	})
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		r := newKafkaRig(t, b)
		b.AllowAhead(t, r.topics.Specs(testPartitions), 60*day)
		test(t, r)
	})
}

// accepted puts commands on the topic at the time at which they were accepted, where the
// broker can be told it; else now, so that time must not be later than theirs.
func (r *rig) accepted(cmds ...partner.Command) {
	r.t.Helper()
	if m, ok := r.bus.(*memory); ok {
		r.append(m, cmds...)
		return
	}
	r.post(cmds...)
}

// couples posts the story of several pairs, command by command over all of them.
func couples(r *rig, n int) []partner.Command {
	users := r.users(2*n, 1)
	pairs := make([][2]int, n)
	for i := range pairs {
		pairs[i] = [2]int{2 * i, 2*i + 1}
	}
	return history(pairs, users, 6*n)
}

func (r *rig) allApplied(cmds []partner.Command) {
	r.t.Helper()
	if got := one[int64](r, `SELECT count(*) FROM commands WHERE status = 1 AND id = ANY($1)`, idsOf(cmds)); got != int64(len(cmds)) {
		r.t.Errorf("%d of %d commands applied", got, len(cmds))
	}
}

func TestKafkaCommandsBecomeEvents(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		r := newKafkaRig(t, b)
		cmds := couples(r, 20)
		_, stop := r.start()
		r.post(cmds...)
		r.post(cmds[:30]...)
		r.settled()
		if err := stop(); err != nil {
			t.Error(err)
		}
		r.allApplied(cmds)
		r.gapless()
		for id, ev := range r.published() {
			if ev.Epoch == "" || ev.Seq == 0 {
				t.Errorf("event %s has epoch %q and seq %d", id, ev.Epoch, ev.Seq)
			}
		}
		// Again from where it was: nothing is applied twice.
		before := one[int64](r, `SELECT count(*) FROM events`)
		r.reg = prometheus.NewRegistry()
		r.start()
		more := couples(r, 5)
		r.post(more...)
		r.settled()
		r.allApplied(more)
		if got := value(t, r.reg, "bondmate_processor_commands_total"); got != float64(len(more)) {
			t.Errorf("%v commands after the restart, want %d", got, len(more))
		}
		if one[int64](r, `SELECT count(*) FROM events`) <= before {
			t.Error("no events after the restart")
		}
		r.gapless()
	})
}

// TestKafkaOwnersTakeTurns lets processors come and go under load: some leave in order, so
// that partitions change hands while both are alive.
func TestKafkaOwnersTakeTurns(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		r := newKafkaRig(t, b)
		cmds := couples(r, 60)
		var stops []func() error
		begin := func() {
			_, stop := r.start(func(c *Config) { c.Registerer = prometheus.NewRegistry() })
			stops = append(stops, stop)
		}
		begin()
		step := len(cmds) / 6
		for i := range 6 {
			r.post(cmds[i*step : (i+1)*step]...)
			r.eventually("some of it applied", func() bool {
				return one[int64](r, `SELECT count(*) FROM commands`) > int64(i*step+step/2)
			})
			switch i {
			case 0, 2:
				begin()
			case 1, 3:
				if err := stops[i/2](); err != nil {
					t.Error(err)
				}
			}
		}
		r.settled()
		var all error
		for _, stop := range stops {
			all = errors.Join(all, stop())
		}
		if all != nil {
			t.Error(all)
		}
		r.allApplied(cmds)
		r.gapless()
		r.published()
	})
}
