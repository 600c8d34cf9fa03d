package processor

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/pkg/poison"
)

func TestUndecodableBecomesDeadLetter(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	a, b := r.user(1), r.user(1)
	s := send(a, b)
	rec := r.record(s)
	poison := rec
	poison.Value = []byte{0, 0xff, '{'}
	poison.Headers = []contract.Header{{Key: "ce_id", Value: []byte{0, 0xfe}}, {Key: "x", Value: nil}}
	misplaced := r.record(s)
	misplaced.Partition = (misplaced.Partition + 1) % testPartitions
	r.start()
	m.Write(t.Context(), []contract.Record{poison, rec, misplaced}) //nolint:errcheck // memory
	r.settled()
	if got := r.outcome(s.ID); got != "applied" {
		t.Errorf("command behind the poison is %s, want applied", got)
	}
	if got := one[int64](r, `SELECT count(*) FROM dead_letters`); got != 2 {
		t.Errorf("%d dead letters, want 2", got)
	}
	if got := one[[]byte](r, `SELECT value FROM dead_letters WHERE partition = $1`, rec.Partition); !bytes.Equal(got, poison.Value) {
		t.Errorf("dead letter holds %q, want %q", got, poison.Value)
	}
	letters := m.all(r.topics.DeadLetter)
	if len(letters) != 2 {
		t.Fatalf("%d dead-letter records, want 2", len(letters))
	}
	for _, l := range letters {
		d, err := contract.DecodeDeadLetter(l)
		if err != nil || d.Topic != r.topics.Commands || d.Error == "" {
			t.Errorf("dead letter %+v, %v", d, err)
		}
		if bytes.Contains(l.Value, poison.Value) {
			t.Error("the dead-letter record holds the bytes")
		}
	}
	r.gapless()
}

// unknown makes a record of a type that this program does not know.
func (r *rig) unknown(cmd partner.Command) contract.Record {
	rec := r.record(cmd)
	rec.Value = bytes.Replace(rec.Value, []byte(cmd.Type.String()), []byte("request.hug"), 1)
	for i, h := range rec.Headers {
		if h.Key == "ce_type" {
			rec.Headers[i].Value = []byte("request.hug")
		}
	}
	return rec
}

func TestUnknownTypeParksItsPairAlone(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	a, b, c := r.user(2), r.user(1), r.user(1)
	behind, beside := send(a, b), send(a, c)
	hug := send(a, b)
	m.Write(t.Context(), []contract.Record{r.unknown(hug), r.record(behind), r.record(beside)}) //nolint:errcheck // memory
	_, stop := r.start()
	r.settled()
	if got := r.outcome(beside.ID); got != "applied" {
		t.Errorf("other pair's command is %s, want applied", got)
	}
	if got := r.outcome(behind.ID); got != "none" {
		t.Errorf("command behind is %s, want none", got)
	}
	later := send(b, a)
	r.post(later)
	r.settled()
	if err := stop(); err != nil {
		t.Error(err)
	}
	got := one[string](r, `SELECT string_agg(reason, ',' ORDER BY log_offset) FROM parked_commands`)
	if want := poison.UnknownType + "," + poison.Behind + "," + poison.Behind; got != want {
		t.Errorf("parked %s, want %s", got, want)
	}
	r.gapless()
}

func TestLeaveIsNotHeldUpByAParkedPair(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	a, b := r.user(1), r.user(1)
	s := send(a, b)
	hug, behind := send(a, b), send(b, a)
	rm := remove(b, a)
	r.start()
	r.post(s, accept(b, s))
	r.settled()
	m.Write(t.Context(), []contract.Record{r.unknown(hug)}) //nolint:errcheck // memory
	r.post(behind)
	r.settled()
	r.post(rm)
	r.settled()
	if got := r.outcome(rm.ID); got != "applied" {
		t.Errorf("leave is %s, want applied", got)
	}
	for _, c := range []partner.Command{hug, behind} {
		if got := r.outcome(c.ID); got != string(codeSupersededByLeave) {
			t.Errorf("parked command is %s, want %s", got, codeSupersededByLeave)
		}
	}
	if got := one[int64](r, `SELECT count(*) FROM parked_commands`); got != 0 {
		t.Errorf("%d commands parked, want 0", got)
	}
	again := send(a, b)
	r.post(again)
	r.settled()
	if got := r.outcome(again.ID); got != "applied" {
		t.Errorf("command after the leave is %s, want applied", got)
	}
	r.gapless()
	r.published()
}

func TestDeterministicFailureParksItsPairAlone(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	r.poisonous()
	users := r.users(20, 1)
	var good []partner.Command
	for i := range 9 {
		good = append(good, send(users[2*i], users[2*i+1]))
	}
	bad := send(users[18], users[19])
	bad.Message = "poison"
	behind := send(users[18], users[19])
	for i, c := range append(good, bad, behind) {
		_ = i
		m.append(c.AcceptedAt, r.record(c))
	}
	r.start()
	r.settled()
	for _, c := range good {
		if got := r.outcome(c.ID); got != "applied" {
			t.Errorf("good command is %s, want applied", got)
		}
	}
	got := one[string](r, `SELECT string_agg(reason, ',' ORDER BY log_offset) FROM parked_commands`)
	if want := poison.Failed + "," + poison.Behind; got != want {
		t.Errorf("parked %s, want %s", got, want)
	}
	r.gapless()
	r.published()
}

func TestStreamThatIsMissingIsMadeAndLocked(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	a, b := r.user(1), r.user(1)
	r.exec(`DELETE FROM user_streams WHERE user_id = $1`, b)
	r.start()
	s := send(a, b)
	r.post(s)
	r.settled()
	if got := r.outcome(s.ID); got != "applied" {
		t.Errorf("command is %s, want applied", got)
	}
	if got := one[int64](r, `SELECT last_seq FROM user_streams WHERE user_id = $1`, b); got != 1 {
		t.Errorf("stream at %d, want 1", got)
	}
	if got := value(t, r.reg, "bondmate_processor_restarts_total"); got != 1 {
		t.Errorf("%v restarts, want 1", got)
	}
	r.gapless()
}

// A fault that is not the server's comes again however often it is tried: here a parked
// command that cannot be read any more. It must not stop who shares the worker.
func TestFaultOfOurOwnParksItsPairAlone(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	a, b, c, d := r.user(1), r.user(1), r.user(1), r.user(1)
	r.start(func(c *Config) { c.Workers = 1 })
	s := send(a, b)
	y := accept(b, s)
	r.post(s, y)
	r.settled()
	m.Write(t.Context(), []contract.Record{r.unknown(send(a, b))}) //nolint:errcheck // memory
	r.settled()
	r.exec(`UPDATE parked_commands SET value = 'no command'`)
	leave, other := remove(a, b), send(c, d)
	r.post(leave, other)
	r.settled()
	if got := r.outcome(other.ID); got != "applied" {
		t.Errorf("another pair's command is %s, want applied", got)
	}
	if got := one[int64](r, `SELECT count(*) FROM parked_commands`); got != 2 {
		t.Errorf("%d commands are parked, want the unreadable one and the leave", got)
	}
	r.gapless()
}

// Who loses the partition while it makes a stream leaves no stream behind (G7).
func TestMissingStreamIsMadeBehindTheFence(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	a, b := r.user(1), r.user(1)
	r.exec(`DELETE FROM user_streams WHERE user_id = $1`, b)
	first := prometheus.NewRegistry()
	var once sync.Once
	claimed := make(chan error, 1)
	r.start(func(c *Config) {
		c.Registerer = first
		c.Hook = func(_ context.Context, at Point) error {
			if at != BeforeDecide {
				return nil
			}
			// Another owner queues up for the row, and has it as soon as this transaction ends. When
			// this one has claimed it back it may make the stream, which is not looked for here.
			again := true
			once.Do(func() {
				again = false
				go func() {
					_, err := r.pool.Exec(context.Background(), `UPDATE processor_partitions SET epoch = epoch + 1`)
					claimed <- err
				}()
				r.eventually("waiting", func() bool {
					return one[int64](r, `SELECT count(*) FROM pg_stat_activity
						WHERE datname = current_database() AND wait_event_type = 'Lock'`) > 0
				})
			})
			if again {
				return errors.New("claimed back")
			}
			return nil
		}
	})
	r.post(send(a, b))
	r.eventually("fenced", func() bool { return value(t, first, "bondmate_processor_fenced_total") > 0 })
	if err := <-claimed; err != nil {
		t.Fatal(err)
	}
	if got := one[int64](r, `SELECT count(*) FROM user_streams WHERE user_id = $1`, b); got != 0 {
		t.Error("the fenced owner made a stream")
	}
}

// TestLeavesOfEveryKindGoThroughAtOnce has a couple whose pair is parked, with something
// behind the poison, and each way to get away from it (G8).
func TestLeavesOfEveryKindGoThroughAtOnce(t *testing.T) {
	t.Parallel()
	kinds := map[string]struct {
		leave func(by, other uuid.UUID) partner.Command
		again string // what becomes of a request of the one who was left
	}{
		"remove": {remove, "applied"},
		"quiet remove": {func(by, other uuid.UUID) partner.Command {
			cmd := remove(by, other)
			cmd.Quiet = true
			return cmd
		}, "target_unavailable"},
		"block":    {func(by, other uuid.UUID) partner.Command { return command(partner.Block, by, other) }, "target_unavailable"},
		"deletion": {func(by, _ uuid.UUID) partner.Command { return command(partner.DeleteAccount, by, by) }, "target_unavailable"},
	}
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, m := newMemoryRig(t)
			a, b := r.user(1), r.user(1)
			r.start()
			s := send(a, b)
			r.post(s, accept(b, s))
			r.settled()
			hug, behind := send(a, b), command(partner.SetNickname, a, b)
			behind.Nickname = "Fish"
			m.append(time.Now(), r.unknown(hug))
			r.post(behind)
			r.settled()
			leave := kind.leave(b, a)
			r.post(leave)
			r.settled()
			r.eventually("nothing is parked", func() bool { return r.parked() == "" })
			r.settled()
			want := []string{"applied", string(codeSupersededByLeave), string(codeSupersededByLeave)}
			if diff := cmp.Diff(want, r.outcomes([]partner.Command{leave, hug, behind})); diff != "" {
				t.Errorf("outcomes (-want +got):\n%s", diff)
			}
			if got := one[int64](r, `SELECT count(*) FROM partnership_members WHERE active`); got != 0 {
				t.Errorf("%d active members, want 0", got)
			}
			// Whoever had something parked is told that it will not be.
			if got := one[int64](r, `SELECT count(*) FROM events e JOIN inbox i ON i.partition = e.partition AND i.event_seq = e.seq
				WHERE e.data->>'code' = 'superseded_by_leave' AND i.user_id = $1`, a); got != 2 {
				t.Errorf("%d rejections in the inbox of whose commands they were, want 2", got)
			}
			again := send(a, b)
			r.post(again)
			r.settled()
			if got := r.outcome(again.ID); got != kind.again {
				t.Errorf("a request of the one who was left is %s, want %s", got, kind.again)
			}
			if name != "deletion" { // which erases an inbox
				r.gapless()
			}
			r.published()
		})
	}
}

// A deletion settles what is parked on the user's own pair, and on pairs of which nothing
// else is known: what the user wrote is in it.
func TestDeletionReachesWhatIsOnlyParked(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	r.poisonous()
	a, b := r.user(1), r.user(1)
	r.start()
	bad := send(a, b)
	bad.Message = "poison"
	own := r.unknown(command(partner.DeleteAccount, a, a))
	m.append(time.Now(), r.record(bad))
	own.Value = bytes.Replace(own.Value, []byte("account.delete"), []byte("request.hug"), 1)
	m.append(time.Now(), own)
	r.settled()
	if got := one[int64](r, `SELECT count(*) FROM parked_commands`); got != 2 {
		t.Fatalf("%d commands are parked, want 2", got)
	}
	gone := command(partner.DeleteAccount, a, a)
	r.post(gone)
	r.eventually("nothing is parked", func() bool { return r.parked() == "" })
	r.settled()
	if diff := cmp.Diff([]string{"applied", string(codeSupersededByLeave)}, r.outcomes([]partner.Command{gone, bad})); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if got := one[string](r, `SELECT display_name FROM users WHERE id = $1`, a); got != "" {
		t.Errorf("the name is %q after the erasure", got)
	}
	r.published()
}

// Behind the poison waits a copy of a command that has its outcome by now: the leave goes
// through all the same, and the outcome stays.
func TestLeaveWithACopyParked(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	a, b := r.user(1), r.user(1)
	r.start(quickly)
	s := send(a, b)
	r.post(s, accept(b, s))
	r.settled()
	first, second, name := send(a, b), send(a, b), command(partner.SetNickname, a, b)
	name.Nickname = "Fish"
	m.append(time.Now(), r.unknown(first), r.record(name), r.unknown(second), r.record(name))
	r.settled()
	if got := r.executed(r.ask(s.Pair, order{action: poison.Drop, command: first.ID})); !strings.HasPrefix(got, "stopped 2: ") {
		t.Fatalf("drop: %s", got)
	}
	leave := remove(b, a)
	r.post(leave)
	r.settled()
	if diff := cmp.Diff([]string{"applied", "applied", string(codeSupersededByLeave)}, r.outcomes([]partner.Command{leave, name, second})); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if got := r.parked(); got != "" {
		t.Errorf("parked %q, want nothing", got)
	}
	r.gapless()
}
