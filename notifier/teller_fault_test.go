package notifier

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
)

// hangingTopic is a Kafka that answers nobody, until it is mended.
type hangingTopic struct {
	pushesTopic
	waits  sync.Mutex
	hangs  bool
	writes []int // records of each write that hung
}

func (h *hangingTopic) Write(ctx context.Context, recs []contract.Record) error {
	h.waits.Lock()
	hangs := h.hangs
	if hangs {
		h.writes = append(h.writes, len(recs))
	}
	h.waits.Unlock()
	if hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	return h.pushesTopic.Write(ctx, recs)
}

// A Kafka that hangs is waited for once: after that the breaker keeps results from it, and
// no write is tried again before its time.
func TestAHangingTopicIsWaitedForOnce(t *testing.T) {
	t.Parallel()
	w, topic := newWorld(t), &hangingTopic{hangs: true}
	cfg := w.config()
	cfg.Bus, cfg.BreakerTimeout = topic, time.Hour
	n := w.notifier(cfg)
	w.background(n.Run)
	const rounds, each = 5, 20
	for round := range rounds {
		var users []uuid.UUID
		for i := range each {
			users = append(users, w.phone(fmt.Sprintf("phone-%d-%d", round, i)).user)
		}
		w.deliver(n, received(1, users...))
		w.awaitSettled((round + 1) * each)
	}
	topic.waits.Lock()
	writes := len(topic.writes)
	topic.waits.Unlock()
	if writes != 1 {
		t.Errorf("Kafka was waited for %d times, want once", writes)
	}
	if got := w.untold(); got != rounds*each {
		t.Errorf("%d outcomes wait, want %d", got, rounds*each)
	}
	w.await("the gauges to say so", func() bool {
		return w.counter("bondmate_notifier_outcomes_untold", "") == rounds*each && w.counter("bondmate_notifier_outcomes_breaker_state", "") == 2
	})
}

// errorsOf counts the lines of level error.
type errorsOf struct {
	slog.Handler
	mu    sync.Mutex
	lines []string
}

func (e *errorsOf) Enabled(context.Context, slog.Level) bool { return true }
func (e *errorsOf) WithAttrs([]slog.Attr) slog.Handler       { return e }
func (e *errorsOf) WithGroup(string) slog.Handler            { return e }
func (e *errorsOf) Handle(_ context.Context, r slog.Record) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.Level >= slog.LevelError {
		e.lines = append(e.lines, r.Message)
	}
	return nil
}

// A notifier without the right to write the topic pushes all the same, says so once, and
// tells everything when it is given the right.
func TestWithoutTheRightOutcomesWait(t *testing.T) {
	t.Parallel()
	const login = "one-notifier"
	g := kafkatest.EmbeddedGuarded(t, login)
	prefix := kafkatest.Prefix(t)
	topics := contract.NewTopics(prefix)
	as := func(user string) *bus.Client {
		client := bus.New(bus.Config{Brokers: []string{g.Broker}, Security: g.As(user)}, slog.New(slog.DiscardHandler))
		t.Cleanup(client.Close)
		return client
	}
	admin := as(kafkatest.Administrator)
	if err := admin.EnsureTopics(t.Context(), topics.Specs(3)); err != nil {
		t.Fatal(err)
	}
	w, heard := newWorld(t), &errorsOf{}
	cfg := w.config()
	cfg.Bus, cfg.Outcomes, cfg.Partitions, cfg.Log = groupless{Client: as(login)}, topics.Pushes, 3, slog.New(heard)
	n := w.notifier(cfg)
	w.background(n.Run)
	const total = 10
	for i := range total {
		w.deliver(n, received(1, w.phone(fmt.Sprintf("phone-%d", i)).user))
	}
	if diff := cmp.Diff(map[Outcome]int{Delivered: total}, w.awaitSettled(total)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	w.await("several refusals", func() bool { return w.counter("bondmate_notifier_outcome_failures_total", "refused") >= 3 })
	heard.mu.Lock()
	said := slices.Clone(heard.lines)
	heard.mu.Unlock()
	if len(said) != 1 || !strings.Contains(said[0], "outcomes of pushes wait") {
		t.Errorf("said %q, want it once", said)
	}
	if got := w.untold(); got != total {
		t.Errorf("%d outcomes wait, want %d", got, total)
	}
	rights := bus.Rights{Prefix: prefix, Principals: map[contract.Party][]string{contract.Notifier: {"User:" + login}}}
	if _, err := admin.EnsureACLs(t.Context(), rights, false); err != nil {
		t.Fatal(err)
	}
	w.await("all to be told", func() bool { return w.untold() == 0 })
	if got := w.counter("bondmate_notifier_outcomes_told_total", "later"); got != total {
		t.Errorf("%v told later, want %d", got, total)
	}
}

// groupless is a Kafka whose events nobody reads.
type groupless struct{ *bus.Client }

func (groupless) RunGroup(ctx context.Context, _ bus.GroupConfig, _ func(context.Context, bus.Generation) error) error {
	<-ctx.Done()
	return nil
}

// A result whose claim may be another's by now is not told: not even before it is found
// that it changes nothing.
func TestALostClaimIsNotTold(t *testing.T) {
	t.Parallel()
	w, topic := newWorld(t), &pushesTopic{}
	cfg := w.config()
	cfg.Bus = topic
	now := time.Now()
	cfg.Clock = func() time.Time { return now }
	n := w.notifier(cfg)
	w.deliver(n, received(1, w.phone("phone").user))
	jobs, _, err := n.sender.store.claim(t.Context(), now, claimTerms{leaseEnds: now.Add(time.Minute), limit: 10})
	if err != nil || len(jobs) != 1 {
		t.Fatalf("claimed %d, %v", len(jobs), err)
	}
	result := n.sender.resolve(jobs[0], now, nil)
	result.job = jobs[0]
	for _, late := range []struct {
		name string
		at   time.Time
		told bool
	}{
		{"in time", now, true},
		{"just in time", now.Add(time.Minute - tellAtOnceWithin), true},
		{"while its lease might end", now.Add(time.Minute - tellAtOnceWithin + time.Millisecond), false},
		{"after its lease", now.Add(2 * time.Minute), false},
	} {
		before := len(topic.told)
		results := []settlement{result}
		n.sender.teller.clock = func() time.Time { return late.at }
		n.sender.teller.tellAtOnce(results)
		if results[0].told != late.told || len(topic.told) > before != late.told {
			t.Errorf("%s: told %v, %d records, want %v", late.name, results[0].told, len(topic.told)-before, late.told)
		}
	}
	for _, o := range topic.told {
		if !o.SettledAt.Before(jobs[0].LeaseEnds) {
			t.Errorf("told as settled at %s, not before its claim ends at %s: the successor's record would be the earlier one", o.SettledAt, jobs[0].LeaseEnds)
		}
	}
}

// An ending takes back a push while its call is under way, or after it was told as delivered:
// what is told last is that it was withdrawn.
func TestCutsAreTold(t *testing.T) {
	t.Parallel()
	for _, during := range []bool{true, false} {
		t.Run(fmt.Sprintf("during the call %v", during), func(t *testing.T) {
			t.Parallel()
			w, topic := newWorld(t), &pushesTopic{}
			g := &gated{started: make(chan struct{}, 10), release: make(chan struct{})}
			cfg := w.config()
			cfg.Bus, cfg.Provider = topic, g
			n := w.notifier(cfg)
			p := w.phone("phone")
			w.of(ex, p.user, 5)
			w.deliver(n, received(5, p.user))
			w.background(n.Run)
			<-g.started
			if !during {
				close(g.release)
				w.awaitSettled(1)
			}
			w.cut(p.user, 3, 7)
			w.deliver(n, ending(p.user, ex))
			if during {
				close(g.release)
			}
			w.await("the withdrawal to be told", func() bool {
				return slices.Equal(topic.outcomes()[w.deliveryOf(p)], []string{"delivered", "withdrawn"})
			})
			w.await("nothing to wait", func() bool {
				return w.untold() == 0 && query[int](w, `SELECT count(*) FROM push_deliveries WHERE status < 3`) == 0
			})
			topic.mu.Lock()
			defer topic.mu.Unlock()
			first, last := topic.told[0], topic.told[len(topic.told)-1]
			if last.Outcome != "withdrawn" || !last.Replaced || !last.SettledAt.After(first.SettledAt) {
				t.Errorf("told %+v, then %+v", first, last)
			}
			if first.ID() == last.ID() {
				t.Error("both have one id: who drops repeats misses the second")
			}
		})
	}
}

// What is settled without a call is told with its own outcome.
func TestClosedWithoutACallIsTold(t *testing.T) {
	t.Parallel()
	w, topic := newWorld(t), &pushesTopic{}
	cfg := w.config()
	cfg.Bus = topic
	n := w.notifier(cfg)
	late, gone, muted, cut := w.phone("late"), w.phone("gone"), w.phone("muted"), w.phone("cut")
	w.of(ex, cut.user, 5)
	w.deliver(n, received(5, late.user, gone.user, muted.user, cut.user))
	w.exec(`UPDATE push_deliveries SET expires_at = now() WHERE user_id = $1`, late.user)
	w.exec(`DELETE FROM devices WHERE id = $1`, gone.device)
	w.exec(`INSERT INTO push_preferences (user_id, muted, quiet, quiet_from, quiet_to, updated_at) VALUES ($1, '{requests}', false, 0, 0, now())`, muted.user)
	w.cut(cut.user, 3, 7) // settles it, as the processor does, before any notifier runs
	w.background(n.Run)
	w.awaitSettled(4)
	w.await("all to be told", func() bool { return w.untold() == 0 })
	want := map[uuid.UUID][]string{
		w.deliveryOf(late): {"expired"}, w.deliveryOf(gone): {"unregistered"}, w.deliveryOf(muted): {"suppressed"}, w.deliveryOf(cut): {"withdrawn"},
	}
	if diff := cmp.Diff(want, topic.outcomes()); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

// A delivery that has another outcome by the time that one is marked told keeps its mark,
// and the new one is told.
func TestAMarkIsOfItsOutcome(t *testing.T) {
	t.Parallel()
	w, topic := newWorld(t), &pushesTopic{}
	cfg := w.config()
	cfg.Bus = topic
	n := w.notifier(cfg)
	p := w.phone("phone")
	w.deliver(n, received(5, p.user))
	w.exec(`UPDATE push_deliveries SET status = 3, outcome = 'delivered', attempts = 1, settled_at = now()`)
	topic.after = func() { // between the write and the mark
		topic.after = nil
		w.exec(`UPDATE push_deliveries SET outcome = 'withdrawn', settled_at = now()`)
	}
	if err := n.sender.teller.tellWaiting(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.untold(); got != 1 {
		t.Errorf("%d outcomes wait after the delivery got another, want 1", got)
	}
	if err := n.sender.teller.tellWaiting(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := topic.outcomes()[w.deliveryOf(p)]; !slices.Equal(got, []string{"delivered", "withdrawn"}) || w.untold() != 0 {
		t.Errorf("told %v, %d wait", got, w.untold())
	}
}

// What has gathered during an outage is told once, however many notifiers look for it; a
// row that cannot be told holds up none.
func TestABacklogIsToldOnce(t *testing.T) {
	t.Parallel()
	w, topic := newWorld(t), &pushesTopic{}
	cfg := w.config()
	cfg.Bus = topic
	first := w.notifier(cfg)
	cfg.Registerer = nil
	others := []*Notifier{w.notifier(cfg), w.notifier(cfg), w.notifier(cfg)}
	p := w.phone("phone")
	w.deliver(first, received(1, p.user))
	const total = 3*tellBatch + 7
	w.exec(`INSERT INTO push_deliveries (id, user_id, device_id, event_id, seq, type, status, outcome, attempts, due_at, expires_at, payload, created_at, settled_at)
		SELECT gen_random_uuid(), user_id, device_id, gen_random_uuid(), 1, type, 3, 'delivered', 1, now(), now(), payload, now(), now() - n * interval '1 second'
		FROM push_deliveries, generate_series(1, $1) n`, total)
	w.exec(`UPDATE push_deliveries SET payload = '{}', settled_at = now() - interval '1 day' WHERE id = (SELECT id FROM push_deliveries WHERE status = 3 LIMIT 1)`)
	for _, n := range append(others, first) {
		w.background(n.Run)
	}
	w.await("all to be told", func() bool { return w.untold() == 0 && len(topic.outcomes()) == total })
	for id, of := range topic.outcomes() {
		if len(of) != 1 {
			t.Errorf("of %s was told %v", id, of)
		}
	}
}

// Looking for what is untold costs nothing when nothing is, however many rows there are.
func TestUntoldIsFoundByItsIndex(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone("phone")
	w.exec(`INSERT INTO push_deliveries (id, user_id, device_id, event_id, seq, type, status, outcome, attempts, due_at, expires_at, payload, created_at, settled_at, untold)
		SELECT gen_random_uuid(), $1, $2, gen_random_uuid(), n, 1, 3, 'delivered', 1, now(), now(), '{}', now(), now(), false FROM generate_series(1, 20000) n`, p.user, p.device)
	w.exec(`ANALYZE push_deliveries`)
	for _, sql := range []string{selectUntold, countUntold} {
		rows, err := w.pool.Query(t.Context(), `EXPLAIN `+strings.ReplaceAll(sql, "$1", "500"))
		if err != nil {
			t.Fatal(err)
		}
		var plan, line string
		for rows.Next() {
			if err := rows.Scan(&line); err != nil {
				t.Fatal(err)
			}
			plan += line + "\n"
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(plan, "push_deliveries_untold") || strings.Contains(plan, "Seq Scan") {
			t.Errorf("the plan is\n%s", plan)
		}
	}
}

// A delivery that an ending makes due again is untold from then on, whether it had been told
// before or is told while it is marked: whoever settles it next need not know of that.
func TestDueAgainIsUntold(t *testing.T) {
	t.Parallel()
	for _, during := range []bool{true, false} {
		w := newWorld(t)
		n := w.notifier(w.config())
		p := w.phone("phone")
		w.of(ex, p.user, 5)
		w.deliver(n, received(5, p.user))
		now := time.Now()
		jobs, _, err := n.sender.store.claim(t.Context(), now, claimTerms{leaseEnds: now.Add(time.Minute), limit: 10})
		if err != nil || len(jobs) != 1 {
			t.Fatalf("claimed %d, %v", len(jobs), err)
		}
		result := n.sender.resolve(jobs[0], now, nil)
		result.told, result.handed = true, true
		steps := []func(){
			func() {
				if settled, err := n.sender.store.settle(t.Context(), now, []settlement{result}); err != nil || settled != 1 {
					t.Fatalf("settled %d, %v", settled, err)
				}
			},
			func() {
				w.cut(p.user, 3, 7)
				w.deliver(n, ending(p.user, ex))
			},
		}
		if during {
			slices.Reverse(steps)
		}
		for _, step := range steps {
			step()
		}
		if n := query[int](w, `SELECT count(*) FROM push_deliveries WHERE status = 1 AND untold`); n != 1 {
			t.Errorf("marked during the call %v: %d due again and untold, want 1", during, n)
		}
	}
}
