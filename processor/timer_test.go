package processor

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

// traveller is a clock that a test moves.
type traveller struct {
	mu sync.Mutex
	at time.Time
}

func newTraveller() *traveller {
	return &traveller{at: time.Now().UTC().Truncate(time.Microsecond)}
}

func (c *traveller) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *traveller) travel(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
	return c.at
}

// byTheClock makes a processor live by the test's clock and look for timers often.
func byTheClock(clock *traveller) func(*Config) {
	return func(c *Config) {
		c.Clock, c.TimerPoll = clock.now, 5*time.Millisecond
		c.Deadline, c.Skew = 2500*time.Millisecond, time.Second
	}
}

const day = 24 * time.Hour

// at gives a command the time of the clock, and the broker's append the same.
func at(cmd partner.Command, t time.Time) partner.Command {
	cmd.AcceptedAt = t
	return cmd
}

func (r *rig) append(m *memory, cmds ...partner.Command) {
	r.t.Helper()
	for _, c := range cmds {
		m.append(c.AcceptedAt, r.record(c))
	}
}

func (r *rig) timers() int64 {
	r.t.Helper()
	return one[int64](r, `SELECT count(*) FROM timers`)
}

func (r *rig) applied(cmds ...partner.Command) {
	r.t.Helper()
	for _, c := range cmds {
		if got := r.outcome(c.ID); got != "applied" {
			r.t.Errorf("%s is %s, want applied", c.Type, got)
		}
	}
}

func TestTimersHappenWithoutACommand(t *testing.T) {
	t.Parallel()
	everyBroker(t, func(t *testing.T, r *rig) {
		clock := newTraveller()
		a, b, c := r.user(2), r.user(1), r.user(1) // two slots: the request outlives the other's acceptance
		r.start(byTheClock(clock))
		unanswered, s := send(c, a), send(a, b)
		acc, rm := accept(b, s), remove(a, b)
		rm.Reason = "none of their business"
		for _, cmd := range []*partner.Command{&unanswered, &s, &acc, &rm} {
			cmd.AcceptedAt = clock.travel(time.Second)
		}
		r.accepted(s, acc, unanswered, rm)
		r.settled()
		r.applied(s, acc, unanswered, rm)
		if got := r.timers(); got != 2 {
			t.Errorf("%d timers, want one for the request and one for the end", got)
		}
		clock.travel(7*day + time.Minute)
		r.eventually("the request expires", func() bool {
			return one[int64](r, `SELECT count(*) FROM requests WHERE id = $1 AND status = 5 AND resolved_at = expires_at`, partner.RequestIDOf(unanswered.ID)) == 1
		})
		if got := one[int16](r, `SELECT status FROM partnerships`); got != int16(partner.PartnershipEnded) {
			t.Errorf("partnership has status %d after a week, want ended", got)
		}
		clock.travel(24 * day)
		r.eventually("the partnership is archived", func() bool {
			return one[int64](r, `SELECT count(*) FROM partnerships WHERE status = 3 AND reason = ''`) == 1
		})
		r.eventually("no timer is left", func() bool { return r.timers() == 0 })
		r.settled()
		events := r.published()
		for _, kind := range []partner.EventType{partner.EventRequestExpired, partner.EventPartnershipArchived} {
			n := 0
			for _, ev := range events {
				if ev.Type == kind.String() {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%d events %s, want 1", n, kind)
			}
		}
		r.gapless()
	})
}

// TestTimersFireNoEarlierThanTheRuleAllows holds the clock at the last instant before, and
// at the first one after.
func TestTimersFireNoEarlierThanTheRuleAllows(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	clock := newTraveller()
	a, b := r.user(1), r.user(1)
	r.start(byTheClock(clock))
	s := at(send(a, b), clock.now())
	r.append(m, s)
	r.settled()
	clock.travel(7*day + 3500*time.Millisecond) // the due time, the deadline and the skew
	before := value(t, r.reg, "bondmate_processor_timer_looks_total")
	r.eventually("some looks for timers", func() bool {
		return value(t, r.reg, "bondmate_processor_timer_looks_total") >= before+5
	})
	if got := r.timers(); got != 1 {
		t.Fatalf("the timer fired at the last instant of its time")
	}
	clock.travel(time.Microsecond)
	r.eventually("it fires", func() bool { return r.timers() == 0 })
}

// TestLateQueueBeatsTimers lets the queue be an hour late: what was accepted in time is
// applied before the timer that is due meanwhile, and decides.
func TestLateQueueBeatsTimers(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		late time.Duration // of the acceptance after the last instant
		want string        // of the acceptance
		kind string
	}{
		"a request accepted at its last instant":     {0, "applied", "request"},
		"a request accepted just after it":           {time.Microsecond, "not_pending", "request"},
		"restored at exactly 30 days":                {0, "applied", "archive"},
		"not restored a moment later: a fresh start": {time.Microsecond, "applied", "archive"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, m := newMemoryRig(t)
			clock := newTraveller()
			a, b := r.user(1), r.user(1)
			r.start(byTheClock(clock))
			s := at(send(a, b), clock.now())
			acc := accept(b, s)
			due := s.AcceptedAt.Add(7 * day)
			r.append(m, s)
			if tc.kind == "archive" {
				first := at(accept(b, s), clock.travel(time.Second))
				rm := at(remove(a, b), clock.travel(time.Second))
				due = rm.AcceptedAt.Add(30 * day)
				again := at(send(a, b), due.Add(-day))
				r.append(m, first, rm)
				r.settled()
				clock.travel(29 * day)
				r.append(m, again)
				acc = accept(b, again)
			}
			r.settled()
			// The whole queue is held up while timers are looked for.
			release := m.hold()
			defer release()
			acc = at(acc, due.Add(tc.late))
			r.append(m, acc)
			clock.travel(due.Sub(clock.now()) + time.Hour)
			before := value(t, r.reg, "bondmate_processor_timer_looks_total")
			r.eventually("some looks for timers", func() bool {
				return value(t, r.reg, "bondmate_processor_timer_looks_total") >= before+10
			})
			if got := r.outcome(acc.ID); got != "none" {
				t.Fatalf("the queue was to be late, but the acceptance is %s", got)
			}
			release()
			r.settled()
			if got := r.outcome(acc.ID); got != tc.want {
				t.Errorf("acceptance is %s, want %s", got, tc.want)
			}
			if tc.kind == "archive" {
				want := int32(1)
				if tc.late > 0 {
					want = 0
				}
				if got := one[int32](r, `SELECT restored_count FROM partnerships WHERE status = 1`); got != want {
					t.Errorf("restored %d times, want %d", got, want)
				}
			}
			r.eventually("no timer is left", func() bool { return r.timers() == 0 })
			r.gapless()
		})
	}
}

// TestLostPartitionSetsNoTimerAside fails a timer for good after another has claimed its
// partition: that one decides what becomes of it (G7).
func TestLostPartitionSetsNoTimerAside(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	p, err := New(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := p.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(conn)
	w := &worker{p: p, conn: conn}
	due := timer{part: &partition{epoch: 6}, Timer: partner.Timer{
		Kind: partner.TimerRequest, Pair: partner.PairOf(uuid.New(), uuid.New()), Ref: uuid.New(), Due: newTraveller().now(),
	}}
	r.exec(`INSERT INTO processor_partitions (partition, epoch) VALUES (0, 7)`)
	r.exec(`INSERT INTO timers (low, high, kind, partition, due_at, ref) VALUES ($1, $2, $3, 0, $4, $5)`,
		due.Pair.Low, due.Pair.High, int16(due.Kind), due.Due, due.Ref)
	for _, epoch := range []int64{6, 7} {
		due.part.epoch = epoch
		if err := w.postpone(t.Context(), &due, errors.New("poison")); err != nil {
			t.Fatal(err)
		}
		want := epoch - 6
		if got := one[int64](r, `SELECT count(*) FROM timers WHERE retry_at IS NOT NULL`); got != want {
			t.Errorf("epoch %d of 7 set %d timers aside, want %d", epoch, got, want)
		}
	}
}

// TestIdleAsksNothingOfTheBroker has a timer that is not due for long: looks for it are
// the database's alone.
func TestIdleAsksNothingOfTheBroker(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	a, b := r.user(1), r.user(1)
	clock := newTraveller()
	r.start(byTheClock(clock), func(c *Config) { c.StallAfter = time.Hour })
	r.append(m, at(send(a, b), clock.now()))
	r.settled()
	asked := func() int {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.ends
	}
	before, looks := asked(), value(t, r.reg, "bondmate_processor_timer_looks_total")
	r.eventually("some looks for timers", func() bool {
		return value(t, r.reg, "bondmate_processor_timer_looks_total") >= looks+20
	})
	if n := asked() - before; n > 2 { // the watchdog's own
		t.Errorf("the broker was asked %d times for the end of its log", n)
	}
	clock.travel(8 * day)
	r.eventually("it fires", func() bool { return r.timers() == 0 })
}
