package notifier

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

func TestQuietUntil(t *testing.T) {
	t.Parallel()
	const vienna = "Europe/Vienna"
	clock := func(hour, minute int) int16 { return int16(hour*60 + minute) }
	tests := map[string]struct {
		zone     string
		from, to int16
		now      string // of UTC
		want     string // of UTC; empty: no quiet hours hold
	}{
		"before midnight":               {vienna, clock(22, 0), clock(7, 0), "2026-01-10T21:30:15Z", "2026-01-11T06:00:00Z"},
		"after midnight":                {vienna, clock(22, 0), clock(7, 0), "2026-01-10T23:30:15Z", "2026-01-11T06:00:00Z"},
		"as they begin":                 {vienna, clock(22, 0), clock(7, 0), "2026-01-10T21:00:00Z", "2026-01-11T06:00:00Z"},
		"just before":                   {vienna, clock(22, 0), clock(7, 0), "2026-01-10T20:59:59.9Z", ""},
		"as they end":                   {vienna, clock(22, 0), clock(7, 0), "2026-01-11T06:00:00Z", ""},
		"by day":                        {vienna, clock(13, 0), clock(14, 30), "2026-01-10T12:10:00Z", "2026-01-10T13:30:00Z"},
		"by day, before":                {vienna, clock(13, 0), clock(14, 30), "2026-01-10T11:59:00Z", ""},
		"by day, after":                 {vienna, clock(13, 0), clock(14, 30), "2026-01-10T13:30:00Z", ""},
		"the zone decides":              {"Asia/Tokyo", clock(22, 0), clock(7, 0), "2026-01-10T13:30:00Z", "2026-01-10T22:00:00Z"},
		"half an hour":                  {"Asia/Kolkata", clock(22, 0), clock(7, 0), "2026-01-10T16:30:00Z", "2026-01-11T01:30:00Z"},
		"the night that is short":       {vienna, clock(22, 0), clock(7, 0), "2026-03-28T22:30:00Z", "2026-03-29T05:00:00Z"},
		"the night that is long":        {vienna, clock(22, 0), clock(7, 0), "2026-10-24T21:30:00Z", "2026-10-25T06:00:00Z"},
		"an end that there is not":      {vienna, clock(22, 0), clock(2, 30), "2026-03-28T22:30:00Z", "2026-03-29T01:30:00Z"},
		"the second of two ends":        {vienna, clock(22, 0), clock(2, 30), "2026-10-25T01:10:00Z", "2026-10-25T01:30:00Z"},
		"the second of two, westward":   {"America/New_York", clock(22, 0), clock(1, 30), "2026-11-01T06:10:40Z", "2026-11-01T06:30:00Z"},
		"to midnight":                   {vienna, clock(20, 0), 0, "2026-01-10T22:59:00Z", "2026-01-10T23:00:00Z"},
		"the last day of a year":        {vienna, clock(22, 0), clock(7, 0), "2026-12-31T22:30:00Z", "2027-01-01T06:00:00Z"},
		"a zone that nobody knows here": {"Mars/Olympus", clock(22, 0), clock(7, 0), "2026-01-10T22:30:00Z", "2026-01-11T07:00:00Z"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now, err := time.Parse(time.RFC3339, tt.now)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if end, ok := (dueRow{uuid.New(), &tt.zone, &tt.from, &tt.to}).quietUntil(now); ok {
				got = end.UTC().Format(time.RFC3339)
			}
			if got != tt.want {
				t.Errorf("quiet until %q, want %q", got, tt.want)
			}
		})
	}
	if _, ok := (dueRow{}).quietUntil(time.Now()); ok {
		t.Error("who has no quiet hours has some")
	}
}

// wants sets a user's preferences: what is muted, and quiet hours around a time of UTC.
func (w *world) wants(user uuid.UUID, muted []string, quiet bool, around time.Time) {
	w.t.Helper()
	minute := around.UTC().Hour()*60 + around.UTC().Minute()
	w.exec(`INSERT INTO push_preferences (user_id, muted, quiet, quiet_from, quiet_to, updated_at) VALUES ($1, $2, $3, $4, $5, now())
		ON CONFLICT (user_id) DO UPDATE SET muted = excluded.muted, quiet = excluded.quiet`,
		user, muted, quiet, (minute+24*60-60)%(24*60), (minute+120)%(24*60))
}

// TestMutedCategory pushes of two categories to people who muted one, both or none.
func TestMutedCategory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.notifier(w.config())
	none, requests, both := w.phone("none"), w.phone("requests"), w.phone("both")
	w.wants(requests.user, []string{"requests"}, false, time.Now())
	w.wants(both.user, []string{"partnership", "requests"}, false, time.Now())
	for i, p := range []phone{none, requests, both} {
		other, id := uuid.New(), uuid.New()
		w.deliver(n, received(int64(1+i), p.user),
			event(partner.EventPartnershipEnded, partner.EventData{ByUserID: &other, PartnershipID: &id}, int64(10+i), p.user))
	}
	w.background(n.Run)
	if diff := cmp.Diff(map[Outcome]int{Delivered: 3, Suppressed: 3}, w.awaitSettled(6)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	for token, want := range map[string]int{"none": 2, "requests": 1, "both": 0} {
		if got := len(w.fcm.Recent(token)); got != want {
			t.Errorf("%d pushes to %s, want %d", got, token, want)
		}
	}
}

// TestQuietHoursPutOff lets a push come due in its user's quiet hours: it waits until they
// end, without an attempt, and whoever has none does not.
func TestQuietHoursPutOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.config()
	start := time.Now().UTC().Truncate(time.Microsecond)
	n := w.notifier(cfg)
	sleeps, awake, off := w.phone("sleeps"), w.phone("awake"), w.phone("off")
	w.exec(`UPDATE sessions SET expires_at = now() + interval '1 day'`)
	w.wants(sleeps.user, []string{}, true, start)
	w.wants(off.user, []string{}, false, start)
	w.deliver(n, received(1, sleeps.user), received(1, awake.user), received(1, off.user))
	stop := w.background(n.Run)
	w.awaitSettled(2)
	w.await("the push to be put off", func() bool { return w.counter("bondmate_notifier_pushes_put_off_total", "") == 1 })
	stop()
	if calls := w.fcm.Recent("sleeps"); len(calls) != 0 {
		t.Fatalf("%d calls in the quiet hours", len(calls))
	}
	due := query[time.Time](w, `SELECT due_at FROM push_deliveries WHERE user_id = $1 AND status = 1 AND attempts = 0`, sleeps.user)
	if want := start.Truncate(time.Minute).Add(2 * time.Hour); !due.Equal(want) {
		t.Errorf("put off until %s, want %s", due, want)
	}
	jobs, _, err := n.sender.store.claim(t.Context(), due, claimTerms{leaseEnds: due.Add(time.Minute), limit: 10})
	if err != nil || len(jobs) != 1 {
		t.Errorf("after the quiet hours: %d claimed, %v; want 1", len(jobs), err)
	}
}

// TestQuietHoursHoldUpNoReplacement takes back in the night what was pushed before it (G9).
func TestQuietHoursHoldUpNoReplacement(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone("phone")
	n := w.notifier(w.config())
	w.of(ex, p.user, 5)
	w.background(n.Run)
	w.deliver(n, received(5, p.user))
	w.awaitSettled(1)
	w.wants(p.user, []string{"requests", "partnership"}, true, time.Now())
	w.cut(p.user, 0, 5)
	w.deliver(n, ending(p.user, ex))
	w.await("the replacement", func() bool { return len(w.fcm.Recent("phone")) == 2 })
	w.wantKinds("phone", "request.received", "withdrawn")
}
