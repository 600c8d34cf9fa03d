package processor

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// allow changes a user's slots as ingest does: the rows, and the timer that lets follow
// what follows.
func (r *rig) allow(user uuid.UUID, slots int, at time.Time) {
	r.t.Helper()
	r.exec(`DELETE FROM user_slots WHERE user_id = $1 AND slot > $2`, user, slots)
	r.exec(`INSERT INTO user_slots SELECT $1, n FROM generate_series(1, $2::int) AS n ON CONFLICT DO NOTHING`, user, slots)
	r.exec(`INSERT INTO timers (low, high, kind, partition, due_at, ref) VALUES ($1, $1, $2, $3, $4, gen_random_uuid())`, user,
		int16(partner.TimerAllowance), contract.PartitionOf([]byte(partner.PairOf(user, user).String()), testPartitions), at)
}

// A slot that an operator takes away can be the last vacant one: the user's other requests
// close then, both ways, more of them than one decision holds.
func TestAllowanceThatLeavesNoSlotSupersedes(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	clock := newTraveller()
	ana, other := r.user(2), r.user(2)
	askers := r.users(partner.PendingLimit+3, 1)
	r.start(byTheClock(clock))
	var cmds []partner.Command
	s := send(ana, other)
	for _, cmd := range []partner.Command{s, accept(other, s)} {
		cmds = append(cmds, at(cmd, clock.travel(time.Second)))
	}
	for i, asker := range askers {
		cmd := send(asker, ana)
		if i%2 == 0 {
			cmd = send(ana, asker)
		}
		cmds = append(cmds, at(cmd, clock.travel(time.Second)))
	}
	r.append(m, cmds...)
	r.settled()
	r.applied(cmds...)
	told := one[int64](r, `SELECT last_seq FROM user_streams WHERE user_id = $1`, ana)

	r.allow(ana, 1, clock.travel(time.Second))
	clock.travel(10 * time.Second)
	r.eventually("all requests are closed", func() bool {
		return one[int64](r, `SELECT count(*) FROM requests WHERE status = 1`) == 0
	})
	r.settled()
	got := keyed[int64](r, `SELECT status::text, count(*) FROM requests GROUP BY 1`)
	if diff := cmp.Diff(map[string]int64{"2": 1, "6": int64(len(askers))}, got); diff != "" {
		t.Errorf("requests by status (-want +got):\n%s", diff)
	}
	data := one[string](r, `SELECT e.data::text FROM inbox i JOIN events e ON e.partition = i.partition AND e.seq = i.event_seq
		WHERE i.user_id = $1 AND i.seq = $2`, ana, told+1)
	if want := `{"userId":"` + ana.String() + `","fields":["tier","slots"]}`; data != want {
		t.Errorf("told %s, want %s", data, want)
	}
	if n := one[int64](r, `SELECT count(*) FROM timers WHERE kind = $1`, int16(partner.TimerAllowance)); n != 0 {
		t.Errorf("%d timers are left", n)
	}

	// More slots close nothing, and let somebody in again.
	r.allow(ana, 3, clock.travel(time.Second))
	clock.travel(10 * time.Second)
	r.eventually("the timer has gone off", func() bool {
		return one[int64](r, `SELECT count(*) FROM timers WHERE kind = $1`, int16(partner.TimerAllowance)) == 0
	})
	late := at(send(askers[1], ana), clock.travel(time.Second))
	r.append(m, late)
	r.settled()
	r.applied(late)
	r.gapless()
	r.published()
}
