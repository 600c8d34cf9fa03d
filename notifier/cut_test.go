package notifier

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/embedded/fcm"
)

// TestCutWithdraws claims pushes of events that an ending took back (G9), and their
// neighbours that it did not.
func TestCutWithdraws(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name        string
		origin      uuid.UUID
		after, last int64
		want        Outcome
	}{
		{"taken back", ex, 3, 7, Withdrawn},
		{"the last one taken back", ex, 3, 5, Withdrawn},
		{"acknowledged by then", ex, 5, 7, Delivered},
		{"after the ending", ex, 3, 4, Delivered},
		{"of somebody else", uuid.New(), 3, 7, Delivered},
		{"of time", uuid.Nil, 3, 7, Delivered},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p := w.phone("phone")
			n := w.notifier(w.config())
			w.deliver(n, received(5, p.user))
			w.exec(`INSERT INTO inbox (user_id, seq, partition, event_seq, origin)
				VALUES ($1, 5, 0, 1, NULLIF($2::uuid, '00000000-0000-0000-0000-000000000000'))`, p.user, tc.origin)
			w.exec(`INSERT INTO cuts (recipient, origin, after_seq, last_seq, made_at) VALUES ($1, $2, $3, $4, now())`,
				p.user, ex, tc.after, tc.last)
			w.background(n.Run)
			if diff := cmp.Diff(map[Outcome]int{tc.want: 1}, w.awaitSettled(1)); diff != "" {
				t.Errorf("outcomes (-want +got):\n%s", diff)
			}
			if got, want := len(w.fcm.Recent("")), map[Outcome]int{Delivered: 1}[tc.want]; got != want {
				t.Errorf("%d calls, want %d", got, want)
			}
		})
	}
}

var ex = uuid.MustParse("00000000-0000-4000-8000-0000000000e0")

// TestCutOvertakesAClaim claims two pushes at once and cuts both while the first call,
// which holds up the second, is under way: that one was handed over.
func TestCutOvertakesAClaim(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fcm.Script("", fcm.Answer{Delay: time.Second})
	cfg := w.config()
	cfg.InFlight = 1
	n := w.notifier(cfg)
	phones := []phone{w.phone("one"), w.phone("two")}
	w.deliver(n, received(5, phones[0].user), received(5, phones[1].user))
	for _, p := range phones {
		w.exec(`INSERT INTO inbox (user_id, seq, partition, event_seq, origin) VALUES ($1, 5, 0, 1, $2)`, p.user, ex)
	}
	w.background(n.Run)
	w.await("both to be claimed", func() bool {
		return query[int](w, `SELECT count(*) FROM push_deliveries WHERE status = 2`) == 2
	})
	for _, p := range phones {
		w.exec(`INSERT INTO cuts (recipient, origin, after_seq, last_seq, made_at) VALUES ($1, $2, 0, 5, now())`, p.user, ex)
	}
	if diff := cmp.Diff(map[Outcome]int{Delivered: 1, Withdrawn: 1}, w.awaitSettled(2)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if calls := w.fcm.Recent(""); len(calls) != 1 {
		t.Errorf("%d calls, want the one that was under way", len(calls))
	}
}
