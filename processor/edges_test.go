package processor

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// lateBus is a Kafka whose readers get nothing from some offset of each partition on, until
// the release.
type lateBus struct {
	Bus
	from     []int64
	released chan struct{}
}

func (b lateBus) Open(topic string, partition int, offset int64) Reader {
	return lateReader{b.Bus.Open(topic, partition, offset), b.from[partition], b.released}
}

type lateReader struct {
	Reader
	from     int64
	released <-chan struct{}
}

func (r lateReader) Read(ctx context.Context) (contract.Record, error) {
	rec, err := r.Reader.Read(ctx)
	if err != nil || rec.Offset < r.from {
		return rec, err
	}
	select {
	case <-r.released:
		return rec, nil
	case <-ctx.Done():
		return contract.Record{}, ctx.Err()
	}
}

// edge is a pair, and what one of them says at the last instant of something or after it.
type edge struct {
	pair  [2]uuid.UUID
	setup []partner.Command
	last  partner.Command // what is said
	due   time.Time       // of the timer
	want  string          // the outcome
	state string          // of the pair afterwards
}

// edges returns the edge of each thing that time ends, said so long after its last instant,
// which is due.
func (r *rig) edges(due time.Time, late time.Duration) map[string]edge {
	r.t.Helper()
	all := map[string]edge{}
	add := func(name string, build func(a, b uuid.UUID) edge) {
		people := r.users(2, 1)
		e := build(people[0], people[1])
		e.pair, e.due, e.last = [2]uuid.UUID(people), due, at(e.last, due.Add(late))
		all[name] = e
	}
	intime := late <= 0
	pick := func(in, after string) string {
		if intime {
			return in
		}
		return after
	}
	add("a request's acceptance", func(a, b uuid.UUID) edge {
		s := at(send(a, b), due.Add(-7*day))
		return edge{
			setup: []partner.Command{s}, last: accept(b, s),
			want: pick("applied", "not_pending"), state: pick("active, restored 0", "none"),
		}
	})
	add("a restoration", func(a, b uuid.UUID) edge {
		first, again := at(send(a, b), due.Add(-40*day)), at(send(a, b), due.Add(-day))
		return edge{
			setup: []partner.Command{
				first, at(accept(b, first), due.Add(-39*day)), at(remove(a, b), due.Add(-30*day)), again,
			},
			last: accept(b, again),
			want: "applied", state: pick("active, restored 1", "active, restored 0"),
		}
	})
	add("a breakup's withdrawal", func(a, b uuid.UUID) edge {
		s := at(send(a, b), due.Add(-9*day))
		ask := at(command(partner.AskBreakup, a, b), due.Add(-7*day))
		back := command(partner.WithdrawBreakup, a, b)
		back.BreakupID = partner.BreakupIDOf(ask.ID)
		return edge{
			setup: []partner.Command{s, at(accept(b, s), due.Add(-8*day)), ask}, last: back,
			want: pick("applied", "not_pending"), state: pick("active, restored 0", "ended in time"),
		}
	})
	return all
}

// state says how the pair of an edge ended up.
func (r *rig) state(e edge) string {
	r.t.Helper()
	pair := partner.PairOf(e.pair[0], e.pair[1])
	return one[string](r, `SELECT COALESCE((SELECT CASE
			WHEN status = 1 THEN 'active, restored ' || restored_count
			WHEN status = 2 AND ended_at = $3 THEN 'ended in time'
			WHEN status = 3 THEN 'archived'
			ELSE 'status ' || status END
		FROM partnerships WHERE low = $1 AND high = $2 ORDER BY status LIMIT 1), 'none')`, pair.Low, pair.High, e.due)
}

// TestLastInstants has things said at the last instant, a microsecond and a second after
// it, while the queue is an hour late and the timers are due meanwhile: what decides is
// when ingest accepted them. What was appended too late was never answered 202, and is stale,
// whatever it says of its time.
func TestLastInstants(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		r := newKafkaRig(t, b)
		b.AllowAhead(t, r.topics.Specs(testPartitions), 2*time.Hour)
		// What is set up is appended now and says that it was accepted weeks ago: for that
		// long it is not stale.
		_, stop := r.start(func(c *Config) { c.Deadline = 60 * day })
		// The broker stamps what is appended with its own time. What is said at a time that is
		// to come is appended in time, however slow this machine is; what was said a minute ago
		// is not.
		now := time.Now().UTC().Truncate(time.Microsecond)
		soon := now.Add(2 * time.Minute)
		groups := map[string]map[string]edge{
			"at the last instant":        r.edges(soon, 0),
			"a microsecond after":        r.edges(soon, time.Microsecond),
			"a second after":             r.edges(soon, time.Second),
			"in time, but appended late": r.edges(now.Add(-time.Minute), 0),
		}
		for name, e := range groups["in time, but appended late"] {
			e.want = "stale"
			e.state = map[string]string{
				"a request's acceptance": "none", "a restoration": "archived", "a breakup's withdrawal": "ended in time",
			}[name]
			groups["in time, but appended late"][name] = e
		}
		var said []partner.Command
		for _, group := range groups {
			for _, e := range group {
				r.post(e.setup...)
				said = append(said, e.last)
			}
		}
		r.settled()
		for _, group := range groups {
			for _, e := range group {
				r.applied(e.setup...)
			}
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		_, ends, err := r.bus.Offsets(t.Context(), r.topics.Commands)
		if err != nil {
			t.Fatal(err)
		}
		r.post(said...)

		clock := newTraveller()
		clock.travel(soon.Add(time.Hour).Sub(clock.now()))
		late := lateBus{r.bus, ends, make(chan struct{})}
		release := sync.OnceFunc(func() { close(late.released) })
		t.Cleanup(release)
		r.reg = prometheus.NewRegistry()
		r.start(byTheClock(clock), func(c *Config) { c.Bus = late })
		r.eventually("some looks for timers", func() bool {
			return value(t, r.reg, "bondmate_processor_timer_looks_total") >= 20
		})
		for _, cmd := range said {
			if got := r.outcome(cmd.ID); got != "none" {
				t.Fatalf("the queue was to be late, but %s is %s", cmd.Type, got)
			}
		}
		release()
		r.settled()
		r.eventually("the timers that were due", func() bool {
			return one[int64](r, `SELECT count(*) FROM timers WHERE due_at < $1`, clock.now().Add(-time.Minute)) == 0
		})
		type result struct{ Outcome, State string }
		want, got := map[string]result{}, map[string]result{}
		for when, group := range groups {
			for what, e := range group {
				want[what+" "+when] = result{e.want, e.state}
				got[what+" "+when] = result{r.outcome(e.last.ID), r.state(e)}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		r.settled()
		r.gapless()
		r.published()
	})
}
