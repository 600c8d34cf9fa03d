package processor

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/pkg/poison"
)

// quickly makes a processor look for actions and timers often.
func quickly(c *Config) { c.TimerPoll = 5 * time.Millisecond }

// order is what an operator asks for.
type order struct {
	action  poison.Action
	command uuid.UUID
	dryRun  bool
}

// ask writes the row that an operator's tool writes.
func (r *rig) ask(pair partner.Pair, o order) uuid.UUID {
	r.t.Helper()
	id := uuid.New()
	r.exec(`INSERT INTO parked_actions (id, partition, low, high, action, command_id, last_offset, dry_run, requested_by, requested_at)
		VALUES ($1, $2, $3, $4, $5, NULLIF($6, '00000000-0000-0000-0000-000000000000'::uuid),
			(SELECT COALESCE(max(log_offset), -1) FROM parked_commands WHERE low = $3 AND high = $4), $7, 'operator:test', now())`,
		id, contract.PartitionOf([]byte(pair.String()), testPartitions), pair.Low, pair.High, string(o.action), o.command, o.dryRun)
	return id
}

// executed waits for the action's outcome.
func (r *rig) executed(id uuid.UUID) string {
	r.t.Helper()
	r.eventually("the action is executed", func() bool {
		return one[bool](r, `SELECT executed_at IS NOT NULL FROM parked_actions WHERE id = $1`, id)
	})
	return one[string](r, `SELECT outcome || ' ' || settled || COALESCE(': ' || error, '') FROM parked_actions WHERE id = $1`, id)
}

func (r *rig) parked() string {
	r.t.Helper()
	return one[string](r, `SELECT COALESCE(string_agg(reason, ',' ORDER BY partition, log_offset), '') FROM parked_commands`)
}

// poisonous makes the database refuse requests with the message "poison" until cured.
func (r *rig) poisonous() (cure func()) {
	r.t.Helper()
	r.exec(`CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN IF NEW.message = 'poison' THEN RAISE EXCEPTION 'poison'; END IF; RETURN NEW; END $$`)
	r.exec(`CREATE TRIGGER poison BEFORE INSERT ON requests FOR EACH ROW EXECUTE FUNCTION poison()`)
	return func() { r.exec(`DROP TRIGGER poison ON requests`) }
}

// story is what a pair does while its first command is poison: a request that fails, its
// acceptance, a nickname and a leave. Nothing of it works before what comes before it.
func story(a, b uuid.UUID) []partner.Command {
	s := send(a, b)
	s.Message = "poison"
	name := command(partner.SetNickname, a, b)
	name.Nickname = "Fish"
	return []partner.Command{s, accept(b, s), name, remove(b, a)}
}

func (r *rig) outcomes(cmds []partner.Command) []string {
	r.t.Helper()
	out := make([]string, len(cmds))
	for i, c := range cmds {
		out[i] = r.outcome(c.ID)
	}
	return out
}

// applyOrder lists the commands of a pair in the order of their events.
func (r *rig) applyOrder(pair partner.Pair) []uuid.UUID {
	r.t.Helper()
	rows, err := r.pool.Query(context.Background(), `SELECT command_id FROM events WHERE low = $1 AND high = $2 AND topic = 1
		GROUP BY command_id ORDER BY min(seq)`, pair.Low, pair.High)
	if err != nil {
		r.t.Fatal(err)
	}
	defer rows.Close()
	var out []uuid.UUID
	for rows.Next() {
		var id uuid.UUID
		if err := rows.Scan(&id); err != nil {
			r.t.Fatal(err)
		}
		out = append(out, id)
	}
	return out
}

func TestRetryAppliesWhatIsParkedInOrder(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	cure := r.poisonous()
	a, b := r.user(1), r.user(1)
	cmds := story(a, b)
	// The leave cannot go ahead: what it would end is parked before it.
	r.start(quickly)
	r.post(cmds...)
	r.settled()
	if got, want := r.parked(), "failed,behind,behind,behind"; got != want {
		t.Fatalf("parked %q, want %q", got, want)
	}
	// Not cured: it stays, and says why.
	if got := r.executed(r.ask(cmds[0].Pair, order{action: poison.Retry})); !strings.HasPrefix(got, "stopped 0: command "+cmds[0].ID.String()) || !strings.Contains(got, "poison") {
		t.Errorf("retry before the cure: %s", got)
	}
	if got, want := r.parked(), "failed,behind,behind,behind"; got != want {
		t.Errorf("parked %q after a vain retry, want %q", got, want)
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
	if got := r.parked(); got != "" {
		t.Errorf("parked %q, want nothing", got)
	}
	if got, want := r.executed(r.ask(cmds[0].Pair, order{action: poison.Retry})), "nothing_parked 0"; got != want {
		t.Errorf("one retry more: %s, want %s", got, want)
	}
	// The pair is one like any other again.
	again := send(a, b)
	r.post(again)
	r.settled()
	if got := r.outcome(again.ID); got != "applied" {
		t.Errorf("command after the retry is %s, want applied", got)
	}
	r.gapless()
	r.published()
}

func TestDropRejectsOneAndTheRestGoesOn(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	a, b := r.user(1), r.user(1)
	hug, s := send(a, b), send(a, b)
	r.start(quickly)
	m.append(time.Now(), r.unknown(hug))
	r.post(s)
	y := accept(b, s)
	r.post(y)
	r.settled()
	if got := r.executed(r.ask(s.Pair, order{action: poison.Retry})); !strings.HasPrefix(got, "stopped 0: command "+hug.ID.String()) || !strings.Contains(got, "unknown type") {
		t.Errorf("retry of an unknown type: %s", got)
	}
	if got, want := r.parked(), "unknown_type,behind,behind"; got != want {
		t.Errorf("parked %q, want %q", got, want)
	}
	if got, want := r.executed(r.ask(s.Pair, order{action: poison.Drop, command: hug.ID})), "done 3"; got != want {
		t.Errorf("drop: %s, want %s", got, want)
	}
	if diff := cmp.Diff([]string{"dropped", "applied", "applied"}, r.outcomes([]partner.Command{hug, s, y})); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	// Its issuer is told, once.
	if got := one[int64](r, `SELECT count(*) FROM events e JOIN inbox i ON i.partition = e.partition AND i.event_seq = e.seq
		WHERE e.command_id = $1 AND e.type = $2 AND e.data->>'code' = 'dropped' AND e.data->>'command' = 'request.hug' AND i.user_id = $3`,
		hug.ID, int16(partner.EventCommandRejected), a); got != 1 {
		t.Errorf("%d rejections in the issuer's inbox, want 1", got)
	}
	// Kafka holds it twice: the pair does not park again.
	m.append(time.Now(), r.unknown(hug))
	r.settled()
	if got := r.parked(); got != "" {
		t.Errorf("a copy of the dropped command parked the pair: %q", got)
	}
	// It is nobody's any more: another drop of it asks for nothing.
	if got, want := r.executed(r.ask(s.Pair, order{action: poison.Drop, command: hug.ID})), "nothing_parked 0"; got != want {
		t.Errorf("second drop: %s, want %s", got, want)
	}
	r.gapless()
	r.published()
}

// A drop of one that is not the first leaves the first where it is.
func TestDropOfALaterOne(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	a, b := r.user(1), r.user(1)
	hug, s, late := send(a, b), send(a, b), send(b, a)
	r.start(quickly)
	m.append(time.Now(), r.unknown(hug))
	r.post(s, late)
	r.settled()
	if got := r.executed(r.ask(s.Pair, order{action: poison.Drop, command: s.ID})); !strings.HasPrefix(got, "stopped 1: command "+hug.ID.String()) {
		t.Errorf("drop: %s", got)
	}
	if diff := cmp.Diff([]string{"none", "dropped", "none"}, r.outcomes([]partner.Command{hug, s, late})); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	r.gapless()
}

// A drop of the pair takes what waited when it was asked for, and nothing later.
func TestDropOfThePairStopsAtWhatItSaw(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	a, b := r.user(1), r.user(1)
	hug, behind, later := send(a, b), send(b, a), send(a, b)
	_, stop := r.start(quickly)
	m.append(time.Now(), r.unknown(hug))
	r.post(behind)
	r.settled()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	act := r.ask(hug.Pair, order{action: poison.Drop})
	r.post(later)
	r.reg = prometheus.NewRegistry()
	r.start(quickly, func(c *Config) { c.TimerPoll = 300 * time.Millisecond })
	r.eventually("the later one waits, or had its turn", func() bool {
		return one[int64](r, `SELECT count(*) FROM parked_commands WHERE id = $1`, later.ID)+one[int64](r, `SELECT count(*) FROM commands WHERE id = $1`, later.ID) > 0
	})
	if got := r.executed(act); !strings.HasPrefix(got, "done ") {
		t.Errorf("drop: %s", got)
	}
	r.settled()
	if diff := cmp.Diff([]string{"dropped", "dropped", "applied"}, r.outcomes([]partner.Command{hug, behind, later})); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	r.gapless()
	r.published()
}

// TestActionTakesEffectOnceAcrossCrashes kills the owner again and again, at each point
// of each turn, and lets the next one go on.
func TestActionTakesEffectOnceAcrossCrashes(t *testing.T) {
	t.Parallel()
	for _, at := range []Point{BeforeDecide, BeforeWrite, AfterCommit, BeforeRelay, AfterRelay} {
		t.Run(string(at), func(t *testing.T) {
			t.Parallel()
			r, _ := newMemoryRig(t)
			cure := r.poisonous()
			a, b := r.user(1), r.user(1)
			cmds := story(a, b)
			_, stop := r.start(quickly)
			r.post(cmds...)
			r.settled()
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			cure()
			act := r.ask(cmds[0].Pair, order{action: poison.Retry})
			var crashes atomic.Int32
			r.reg = prometheus.NewRegistry()
			r.start(quickly, func(c *Config) {
				c.Workers = 1
				c.Hook = func(_ context.Context, p Point) error {
					if p == at && crashes.Add(1) <= 6 {
						return errors.New("crash")
					}
					return nil
				}
			})
			if got, want := r.executed(act), "done 4"; got != want {
				t.Errorf("retry: %s, want %s", got, want)
			}
			r.settled()
			// The relay may publish several turns at once, and then there is less to crash at.
			if crashes.Load() == 0 {
				t.Error("no crash")
			}
			if diff := cmp.Diff([]string{"applied", "applied", "applied", "applied"}, r.outcomes(cmds)); diff != "" {
				t.Errorf("outcomes (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(idsOf(cmds), r.applyOrder(cmds[0].Pair)); diff != "" {
				t.Errorf("order (-want +got):\n%s", diff)
			}
			r.gapless()
			r.published()
		})
	}
}

// Who lost the partition while it carries out an action does nothing of it (G7).
func TestFencedOwnerCarriesOutNothing(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]order{
		"drop":                    {action: poison.Drop},
		"dry drop":                {action: poison.Drop, dryRun: true},
		"dry drop of what is not": {action: poison.Drop, command: uuid.New(), dryRun: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, m := newMemoryRig(t)
			a, b := r.user(1), r.user(1)
			_, stop := r.start(quickly)
			hug := send(a, b)
			m.append(time.Now(), r.unknown(hug))
			r.settled()
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			// The action appears only once the partition has another owner, unknown to this one.
			first := prometheus.NewRegistry()
			looks := "bondmate_processor_timer_looks_total"
			r.start(quickly, func(c *Config) { c.Registerer = first })
			r.eventually("at work", func() bool { return value(t, first, looks) > 2 })
			r.exec(`UPDATE processor_partitions SET epoch = epoch + 1`)
			act := r.ask(hug.Pair, o)
			r.eventually("fenced", func() bool { return value(t, first, "bondmate_processor_fenced_total") > 0 })
			if one[bool](r, `SELECT executed_at IS NOT NULL OR settled > 0 FROM parked_actions WHERE id = $1`, act) {
				t.Error("the fenced owner carried the action out")
			}
			if got := r.outcome(hug.ID); got != "none" {
				t.Errorf("the command is %s, want none", got)
			}
		})
	}
}

// What waited for a newer program goes on by itself once that program owns the partition.
func TestParkedCommandOfANewerProgramGoesOnWithIt(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	a, b, c, d := r.user(1), r.user(1), r.user(1), r.user(1)
	s, hug := send(a, b), send(c, d)
	y := accept(b, s)
	_, stop := r.start(quickly)
	// What the program before this one parked: of it, the type was unknown.
	r.post(s)
	m.append(time.Now(), r.unknown(hug))
	r.settled()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	rec := r.record(y)
	m.append(time.Now(), rec)
	r.exec(`INSERT INTO parked_commands (partition, log_offset, low, high, id, reason, error, headers, value, parked_at)
		VALUES ($1, $2, $3, $4, $5, 'unknown_type', 'unknown', $6::text::jsonb, $7, now())`,
		rec.Partition, len(m.logs[r.topics.Commands][rec.Partition])-1, y.Pair.Low, y.Pair.High, y.ID, headersJSON(rec.Headers), rec.Value)
	r.exec(`UPDATE processor_partitions SET next_offset = next_offset + 1, last_record_id = $2 WHERE partition = $1`, rec.Partition, recordID(rec))
	r.reg = prometheus.NewRegistry()
	r.start(quickly)
	r.eventually("it is applied", func() bool { return r.outcome(y.ID) == "applied" })
	r.settled()
	if got, want := r.parked(), "unknown_type"; got != want {
		t.Errorf("parked %q, want %q: the one that is still unknown", got, want)
	}
	if got, want := one[string](r, `SELECT string_agg(requested_by || ' ' || outcome, ',') FROM parked_actions`), "processor done"; got != want {
		t.Errorf("actions %q, want %q", got, want)
	}
	r.gapless()
	r.published()
}

func TestTimersOfAPairWaitForItsRetry(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	clock := newTraveller()
	a, b := r.user(1), r.user(1)
	r.start(byTheClock(clock))
	s := at(send(a, b), clock.now())
	r.append(m, s)
	hug := at(send(a, b), clock.now())
	m.append(clock.now(), r.unknown(hug))
	y := at(accept(b, s), clock.travel(time.Hour))
	r.append(m, y)
	r.settled()
	// Overdue when the drop comes, and yet what was accepted before it counts.
	clock.travel(8 * day)
	if got, want := r.executed(r.ask(s.Pair, order{action: poison.Drop, command: hug.ID})), "done 2"; got != want {
		t.Errorf("drop: %s, want %s", got, want)
	}
	r.settled()
	if got := r.outcome(y.ID); got != "applied" {
		t.Errorf("the acceptance is %s, want applied", got)
	}
	r.eventually("no timer is left", func() bool { return r.timers() == 0 })
	r.gapless()
}

// TestPanicOfTheRulesParksItsPairAlone: what panics would panic at every start.
func TestPanicOfTheRulesParksItsPairAlone(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	a, b, c, d := r.user(1), r.user(1), r.user(1), r.user(1)
	bad, good := send(a, b), send(c, d)
	bad.Message = "boom"
	mended := make(chan struct{})
	r.start(quickly, func(c *Config) {
		c.Workers = 1
		c.rules.onCommand = func(l partner.Limits, st partner.State, cmd partner.Command) partner.Decision {
			select {
			case <-mended:
			default:
				if cmd.Message == "boom" {
					panic("on " + cmd.Message)
				}
			}
			return partner.Decide(l, st, cmd)
		}
	})
	r.post(bad, good)
	r.settled()
	if got := r.outcome(good.ID); got != "applied" {
		t.Errorf("another pair's command is %s, want applied", got)
	}
	if got, want := one[string](r, `SELECT reason || ' ' || error FROM parked_commands`), "failed panic: string"; got != want {
		t.Errorf("parked as %q, want %q: without the text", got, want)
	}
	if got := value(t, r.reg, "bondmate_processor_panics_total"); got != 1 {
		t.Errorf("%v panics counted, want 1", got)
	}
	close(mended)
	if got, want := r.executed(r.ask(bad.Pair, order{action: poison.Retry})), "done 1"; got != want {
		t.Errorf("retry: %s, want %s", got, want)
	}
	r.gapless()
}

func TestWhatIsParkedIsCounted(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	a, b, c, d := r.user(1), r.user(1), r.user(1), r.user(1)
	clock := newTraveller()
	r.start(byTheClock(clock))
	m.append(clock.now(), r.unknown(at(send(a, b), clock.now())), r.unknown(at(send(c, d), clock.now())), r.record(at(send(a, b), clock.now())))
	broken := r.record(at(send(a, b), clock.now()))
	broken.Value = []byte("{")
	m.append(clock.now(), broken)
	r.settled()
	clock.travel(time.Minute)
	r.eventually("counted", func() bool { return value(t, r.reg, "bondmate_processor_parked_oldest_age_seconds") >= 60 })
	r.eventually("counted for every partition", func() bool { return value(t, r.reg, "bondmate_processor_parked_commands") == 3 })
	for name, want := range map[string]float64{"parked_pairs": 2, "dead_letters": 1} {
		if got := value(t, r.reg, "bondmate_processor_"+name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}
