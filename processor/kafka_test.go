package processor

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/pkg/poison"
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

// inPartition makes users in twos whose pairs all lie on one partition.
func (r *rig) inPartition(partition, pairs int) [][2]uuid.UUID {
	r.t.Helper()
	var out [][2]uuid.UUID
	var ids []uuid.UUID
	for len(out) < pairs {
		a, b := uuid.New(), uuid.New()
		if contract.PartitionOf([]byte(partner.PairOf(a, b).String()), testPartitions) == partition {
			out, ids = append(out, [2]uuid.UUID{a, b}), append(ids, a, b)
		}
	}
	r.addUsers(ids, 1)
	return out
}

// TestKafkaParkedPairHoldsUpNobody parks three pairs of one partition among a thousand
// commands of others: one that the database refuses, one with a command of a newer program
// that is left meanwhile, and one with such a command that is dropped at last.
func TestKafkaParkedPairHoldsUpNobody(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		r := newKafkaRig(t, b)
		cure := r.poisonous()
		const others = 500
		pairs := r.inPartition(1, others+3)
		ill, left, stuck := pairs[others], pairs[others+1], pairs[others+2]
		_, stop := r.start(quickly)

		// The second pair is a couple, then comes what this program does not know.
		s := send(left[0], left[1])
		r.post(s, accept(left[1], s))
		cmds := story(ill[0], ill[1])
		r.post(cmds[0])
		hugs := []partner.Command{send(left[0], left[1]), send(stuck[0], stuck[1])}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := r.bus.Write(ctx, []contract.Record{r.unknown(hugs[0]), r.unknown(hugs[1])}); err != nil {
			t.Fatal(err)
		}
		rest := []partner.Command{send(stuck[0], stuck[1])}
		rest = append(rest, accept(stuck[1], rest[0]))
		var thousand []partner.Command
		for _, pair := range pairs[:others] {
			s := send(pair[0], pair[1])
			thousand = append(thousand, s, accept(pair[1], s))
		}
		r.post(thousand[:others]...)
		r.post(append(cmds[1:], rest...)...)
		r.post(thousand[others:]...)
		r.settled()
		r.allApplied(thousand)
		if diff := cmp.Diff([]string{"none", "none", "none", "none"}, r.outcomes(cmds)); diff != "" {
			t.Errorf("the poisoned pair's commands (-want +got):\n%s", diff)
		}
		if got, want := one[string](r, `SELECT string_agg(reason, ',' ORDER BY log_offset) FROM parked_commands WHERE low = $1`, cmds[0].Pair.Low),
			"failed,behind,behind,behind"; got != want {
			t.Errorf("parked %q, want %q", got, want)
		}

		// A leave goes through at once.
		leave := remove(left[1], left[0])
		r.post(leave)
		r.settled()
		if diff := cmp.Diff([]string{"applied", string(codeSupersededByLeave)}, r.outcomes([]partner.Command{leave, hugs[0]})); diff != "" {
			t.Errorf("the leave and what it superseded (-want +got):\n%s", diff)
		}

		// Cured, a retry applies all four in order.
		if got := r.executed(r.ask(cmds[0].Pair, order{action: poison.Retry})); !strings.HasPrefix(got, "stopped 0") {
			t.Errorf("retry before the cure: %s", got)
		}
		cure()
		if got, want := r.executed(r.ask(cmds[0].Pair, order{action: poison.Retry})), "done 4"; got != want {
			t.Errorf("retry: %s, want %s", got, want)
		}
		if diff := cmp.Diff([]string{"applied", "applied", "applied", "applied"}, r.outcomes(cmds)); diff != "" {
			t.Errorf("outcomes (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(idsOf(cmds), r.applyOrder(cmds[0].Pair)); diff != "" {
			t.Errorf("order (-want +got):\n%s", diff)
		}

		// What this program does not know stays parked and says so; a drop lets the rest go.
		if got := r.executed(r.ask(rest[0].Pair, order{action: poison.Retry})); !strings.HasPrefix(got, "stopped 0") || !strings.Contains(got, "unknown type") {
			t.Errorf("retry of an unknown type: %s", got)
		}
		if got, want := r.executed(r.ask(rest[0].Pair, order{action: poison.Drop, command: hugs[1].ID})), "done 3"; got != want {
			t.Errorf("drop: %s, want %s", got, want)
		}
		if diff := cmp.Diff([]string{"dropped", "applied", "applied"}, r.outcomes(append([]partner.Command{hugs[1]}, rest...))); diff != "" {
			t.Errorf("outcomes (-want +got):\n%s", diff)
		}
		r.settled()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if got := r.parked(); got != "" {
			t.Errorf("parked %q, want nothing", got)
		}
		r.gapless()
		r.published()
	})
}

// A command that an operator has written again carries the time at which it was accepted.
// It was in the log in time if it was the first time.
func TestKafkaReplayedCommandIsAsLateAsItWas(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		r := newKafkaRig(t, b)
		pairs := r.inPartition(2, 3)
		r.cfg.Deadline, r.cfg.Skew = time.Second, time.Second
		write := func(rec contract.Record) int64 {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := r.bus.Write(ctx, []contract.Record{rec}); err != nil {
				t.Fatal(err)
			}
			_, end, err := r.bus.Offsets(ctx, r.topics.Commands)
			if err != nil {
				t.Fatal(err)
			}
			return end[rec.Partition] - 1
		}
		intime, late := send(pairs[0][0], pairs[0][1]), send(pairs[1][0], pairs[1][1])
		late.AcceptedAt = late.AcceptedAt.Add(-time.Hour)
		broken := func(cmd partner.Command) contract.Record {
			rec := r.record(cmd)
			rec.Value = rec.Value[1:]
			return rec
		}
		r.start(quickly)
		first, second := write(broken(intime)), write(broken(late))
		r.settled()
		// Replayed long after: its own place in the log says nothing.
		r.eventually("it is late by now", func() bool { return time.Since(intime.AcceptedAt) > 3*time.Second })
		for cmd, at := range map[*partner.Command]int64{&intime: first, &late: second} {
			rec := r.record(*cmd)
			rec.Headers = append(rec.Headers, contract.ReplayHeader(rec.Partition, at))
			write(rec)
		}
		r.settled()
		if diff := cmp.Diff([]string{"applied", "stale"}, r.outcomes([]partner.Command{intime, late})); diff != "" {
			t.Errorf("outcomes (-want +got):\n%s", diff)
		}
		if got := one[int64](r, `SELECT count(*) FROM dead_letters`); got != 2 {
			t.Errorf("%d dead letters, want 2", got)
		}
	})
}
