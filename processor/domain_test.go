package processor

import (
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/partner"
)

// couple makes two partners and waits until they are.
func (r *rig) couple(slots int) (a, b uuid.UUID) {
	r.t.Helper()
	a, b = r.user(slots), r.user(slots)
	r.marry(a, b)
	return a, b
}

func (r *rig) marry(a, b uuid.UUID) {
	r.t.Helper()
	s := send(a, b)
	acc := accept(b, s)
	r.post(s, acc)
	r.settled()
	r.applied(acc)
}

func rename(user uuid.UUID, name string) partner.Command {
	cmd := command(partner.UpdateProfile, user, user)
	cmd.Profile = &partner.ProfilePatch{DisplayName: &name}
	return cmd
}

// TestProfileReachesPartners lets a command about one user alone turn up others: the batch
// starts again with their streams locked too.
func TestProfileReachesPartners(t *testing.T) {
	t.Parallel()
	everyBroker(t, func(t *testing.T, r *rig) {
		r.start()
		a, b := r.couple(2)
		c, d := r.user(1), r.user(1)
		r.marry(a, c)
		before := value(t, r.reg, "bondmate_processor_restarts_total")
		custom := rename(a, "Robin")
		custom.Profile.Theme = &partner.Theme{Name: "custom", Entries: map[string]string{"ink": "#223344"}}
		r.post(custom, rename(d, "Alone"))
		r.settled()
		r.applied(custom)
		if got := value(t, r.reg, "bondmate_processor_restarts_total"); got <= before {
			t.Error("the batch did not start again, so the partners' streams were not locked")
		}
		told := keyed[int](r, `SELECT i.user_id::text, count(*)::int FROM inbox i JOIN events e ON e.partition = i.partition AND e.seq = i.event_seq
			WHERE e.type = 18 GROUP BY 1`)
		want := map[string]int{a.String(): 1, b.String(): 1, c.String(): 1, d.String(): 1}
		if diff := cmp.Diff(want, told); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		if got := one[string](r, `SELECT display_name || theme || (theme_entries->>'ink') || timezone FROM users WHERE id = $1`, a); got != "Robincustom#223344UTC" {
			t.Errorf("profile is %s", got)
		}
		plain := command(partner.UpdateProfile, a, a)
		plain.Profile = &partner.ProfilePatch{Theme: &partner.Theme{Name: "dark"}}
		r.post(plain)
		r.settled()
		if got := one[string](r, `SELECT display_name || theme || (theme_entries IS NULL)::text FROM users WHERE id = $1`, a); got != "Robindarktrue" {
			t.Errorf("profile is %s", got)
		}
		r.gapless()
		r.published()
	})
}

// TestProfilesOfManyPartnersDoNotDeadlock renames people who are all partners of each
// other on all partitions at once: every batch wants the streams of the others.
func TestProfilesOfManyPartnersDoNotDeadlock(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	r.start(func(c *Config) { c.MaxBatch, c.Workers = 4, testPartitions })
	people := r.users(6, 5)
	for i, a := range people {
		for _, b := range people[:i] {
			s := send(a, b)
			r.post(s, accept(b, s))
		}
	}
	r.settled()
	if got := one[int64](r, `SELECT count(*) FROM partnerships WHERE status = 1`); got != 15 {
		t.Fatalf("%d partnerships, want 15", got)
	}
	var cmds []partner.Command
	for i := range 20 {
		for _, a := range people {
			cmds = append(cmds, rename(a, string(rune('a'+i))))
		}
	}
	r.post(cmds...)
	r.settled()
	r.applied(cmds...)
	if got := one[int64](r, `SELECT count(*) FROM events WHERE type = 18`); got != 20*6*6 {
		t.Errorf("%d events, want each renaming told to six", got)
	}
	r.gapless()
}

// TestLeaveCutsWhatWasNotSeen ends a partnership while pushes wait (G9).
func TestLeaveCutsWhatWasNotSeen(t *testing.T) {
	t.Parallel()
	everyBroker(t, func(t *testing.T, r *rig) {
		r.start()
		a, b := r.couple(1)
		r.post(rename(a, "one"), rename(a, "two"), rename(a, "three"), rename(b, "four"))
		r.settled()
		seqs := keyed[int64](r, `SELECT row_number() OVER (ORDER BY i.seq)::text, i.seq FROM inbox i JOIN events e ON e.partition = i.partition AND e.seq = i.event_seq
			WHERE i.user_id = $1 AND e.type = 18 AND i.origin = $2`, b, a)
		session, head := uuid.New(), one[int64](r, `SELECT last_seq FROM user_streams WHERE user_id = $1`, b)
		r.exec(`INSERT INTO sessions (id, user_id, refresh_hash, created_at, last_used_at, expires_at) VALUES ($1, $2, '\x01', now(), now(), now())`, session, b)
		r.exec(`INSERT INTO acks (user_id, session_id, seq, updated_at) VALUES ($1, $2, $3, now())`, b, session, seqs["1"])
		for _, seq := range []int64{seqs["1"], seqs["2"], seqs["3"], head + 1} {
			for status := int16(1); status <= 3; status++ {
				r.exec(`INSERT INTO push_deliveries (id, user_id, device_id, event_id, seq, type, status, outcome, due_at, expires_at, payload, created_at)
					VALUES (gen_random_uuid(), $1, gen_random_uuid(), gen_random_uuid(), $2, 18, $3::smallint, CASE WHEN $3::smallint = 3 THEN 'delivered' END, now(), now(), '{}', now())`, b, seq, status)
			}
		}
		rm := remove(b, a)
		r.post(rm)
		r.settled()
		r.applied(rm)
		withdrawn := keyed[bool](r, `SELECT seq::text, withdrawn FROM inbox_entries WHERE user_id = $1 AND origin = $2`, b, a)
		for name, want := range map[string]bool{"1": false, "2": true, "3": true} {
			if got := withdrawn[strconv.FormatInt(seqs[name], 10)]; got != want {
				t.Errorf("update %s withdrawn: %v, want %v", name, got, want)
			}
		}
		// The end itself is after the cut, and the one who is left has a cut of their own.
		if got := one[bool](r, `SELECT bool_or(withdrawn) FROM inbox_entries WHERE seq > $1 AND user_id = $2`, head, b); got {
			t.Error("the news of the end is withdrawn")
		}
		if got := one[int64](r, `SELECT count(*) FROM cuts WHERE recipient = $1 AND origin = $2`, a, b); got != 1 {
			t.Errorf("%d cuts for the other side, want 1", got)
		}
		got := keyed[int](r, `SELECT seq::text || ' ' || COALESCE(outcome, status::text), count(*)::int FROM push_deliveries GROUP BY 1`)
		text := func(seq int64, outcome string) string { return strconv.FormatInt(seq, 10) + " " + outcome }
		want := map[string]int{}
		for _, seq := range []int64{seqs["1"], head + 1} {
			want[text(seq, "1")], want[text(seq, "2")], want[text(seq, "delivered")] = 1, 1, 1
		}
		for _, seq := range []int64{seqs["2"], seqs["3"]} {
			want[text(seq, "withdrawn")], want[text(seq, "2")], want[text(seq, "delivered")] = 1, 1, 1
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("deliveries (-want +got):\n%s", diff)
		}
		r.gapless()
	})
}

func TestBreakupEndsByItself(t *testing.T) {
	t.Parallel()
	everyBroker(t, func(t *testing.T, r *rig) {
		clock := newTraveller()
		a, b := r.user(1), r.user(1)
		r.start(byTheClock(clock))
		s := at(send(a, b), clock.now())
		acc := at(accept(b, s), clock.travel(time.Second))
		ask := at(command(partner.AskBreakup, a, b), clock.travel(time.Second))
		ask.Reason = "it is over"
		named := at(command(partner.SetNickname, b, a), clock.travel(time.Second))
		named.Nickname = "bear"
		r.accepted(s, acc, ask, named)
		r.settled()
		r.applied(acc, ask, named)
		clock.travel(7*day + time.Minute)
		r.eventually("the partnership ends", func() bool {
			return one[int64](r, `SELECT count(*) FROM partnerships WHERE status = 2 AND ended_by = $1`, a) == 1
		})
		if got := one[int16](r, `SELECT status FROM breakups WHERE resolved_at = expires_at`); got != int16(partner.BreakupExpired) {
			t.Errorf("breakup has status %d, want expired", got)
		}
		if got := one[int64](r, `SELECT count(*) FROM nicknames`); got != 1 {
			t.Errorf("%d nicknames, want 1 until it is archived", got)
		}
		clock.travel(30*day + time.Minute)
		r.eventually("it is archived", func() bool {
			return one[int64](r, `SELECT count(*) FROM partnerships WHERE status = 3`) == 1
		})
		if got := one[int64](r, `SELECT count(*) FROM nicknames`); got != 0 {
			t.Errorf("%d nicknames after the archive, want none", got)
		}
		r.eventually("no timer is left", func() bool { return r.timers() == 0 })
		r.settled()
		r.gapless()
		r.published()
	})
}

func TestTimersOfAParkedPairWait(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	clock := newTraveller()
	a, b, c, d := r.user(1), r.user(1), r.user(1), r.user(1)
	r.start(byTheClock(clock))
	waits, goes := at(send(a, b), clock.now()), at(send(c, d), clock.now())
	r.append(m, waits, goes)
	m.append(clock.now(), r.unknown(at(send(a, b), clock.now())))
	r.settled()
	clock.travel(8 * day)
	r.eventually("the other pair's request expires", func() bool {
		return one[int64](r, `SELECT count(*) FROM requests WHERE status = 5`) == 1
	})
	looks := value(t, r.reg, "bondmate_processor_timer_looks_total")
	r.eventually("some looks for timers", func() bool {
		return value(t, r.reg, "bondmate_processor_timer_looks_total") >= looks+10
	})
	if got := one[int16](r, `SELECT status FROM requests WHERE id = $1`, partner.RequestIDOf(waits.ID)); got != int16(partner.RequestPending) {
		t.Errorf("request of the parked pair has status %d, want pending", got)
	}
	r.exec(`DELETE FROM parked_commands`)
	r.eventually("it expires too", func() bool { return r.timers() == 0 })
	r.gapless()
}

// TestTimerThatFailsHoldsUpNobody makes the writing of one expiry fail.
func TestTimerThatFailsHoldsUpNobody(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	r.exec(`CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN IF NEW.message = 'poison' AND NEW.status = 5 THEN RAISE EXCEPTION 'poison'; END IF; RETURN NEW; END $$`)
	r.exec(`CREATE TRIGGER poison BEFORE INSERT OR UPDATE ON requests FOR EACH ROW EXECUTE FUNCTION poison()`)
	clock := newTraveller()
	people := r.users(10, 1)
	r.start(byTheClock(clock))
	for i := range 5 {
		s := at(send(people[2*i], people[2*i+1]), clock.travel(time.Second))
		if i == 0 {
			s.Message = "poison"
		}
		r.append(m, s)
	}
	r.settled()
	clock.travel(8 * day)
	r.eventually("the others expire", func() bool {
		return one[int64](r, `SELECT count(*) FROM requests WHERE status = 5`) == 4
	})
	r.eventually("it is set aside", func() bool {
		return one[int64](r, `SELECT count(*) FROM timers WHERE retry_at IS NOT NULL AND error LIKE '%poison%'`) == 1
	})
	r.exec(`DROP TRIGGER poison ON requests`)
	clock.travel(2 * time.Hour)
	r.eventually("it is tried again", func() bool { return r.timers() == 0 })
	r.settled()
	r.gapless()
}

// TestTimersInBatches has more due at once than a batch takes, and a stop in between.
func TestTimersInBatches(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	clock := newTraveller()
	people := r.users(60, 1)
	_, stop := r.start(byTheClock(clock))
	for i := range 30 {
		r.append(m, at(send(people[2*i], people[2*i+1]), clock.travel(time.Second)))
	}
	r.settled()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	clock.travel(8 * day)
	r.reg = prometheus.NewRegistry()
	r.start(byTheClock(clock), func(c *Config) { c.MaxBatch, c.Hook = 4, crashNow(7) })
	r.eventually("all expire", func() bool {
		return one[int64](r, `SELECT count(*) FROM requests WHERE status = 5`) == 30
	})
	r.settled()
	if got := one[int64](r, `SELECT count(*) FROM events WHERE type = $1`, int16(partner.EventRequestExpired)); got != 30 {
		t.Errorf("%d expiries, want 30", got)
	}
	r.gapless()
	r.published()
}

// TestTimersOfAMigrationAreAdopted begins with a timer that has no partition yet, and
// with a server that takes the first adoption back.
func TestTimersOfAMigrationAreAdopted(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	clock := newTraveller()
	a, b := r.user(1), r.user(1)
	_, stop := r.start(byTheClock(clock))
	r.append(m, at(send(a, b), clock.now()))
	r.settled()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	r.exec(`UPDATE timers SET partition = -1`)
	r.exec(`CREATE SEQUENCE passes`)
	r.exec(`CREATE FUNCTION take_back() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN IF nextval('passes') = 1 THEN RAISE EXCEPTION 'taken back' USING ERRCODE = '40P01'; END IF; RETURN NULL; END $$`)
	r.exec(`CREATE TRIGGER take_back AFTER UPDATE OF partition ON timers FOR EACH STATEMENT EXECUTE FUNCTION take_back()`)
	clock.travel(8 * day)
	r.reg = prometheus.NewRegistry()
	r.start(byTheClock(clock))
	r.eventually("it expires", func() bool {
		return one[int64](r, `SELECT count(*) FROM requests WHERE status = 5`) == 1
	})
	r.gapless()
}

func TestActivityIsKept(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	r.start()
	a, b := r.user(1), r.user(1)
	s := send(a, b)
	s.Address, s.Device = "192.0.2.7", "Pixel"
	again := send(a, b)
	r.post(s, again)
	r.settled()
	got := keyed[string](r, `SELECT COALESCE(code, 'applied'), action || ' ' || COALESCE(address, '') || ' ' || COALESCE(device, '')
		FROM activity_log WHERE actor = $1 AND target = $2`, a, b)
	if diff := cmp.Diff(map[string]string{"applied": "request.send 192.0.2.7 Pixel", "request_pending": "request.send  "}, got); diff != "" {
		t.Errorf("activity (-want +got):\n%s", diff)
	}
	if n := one[int64](r, `SELECT count(*) FROM activity_log_default`); n != 0 {
		t.Errorf("%d entries without a partition of their month", n)
	}
}
