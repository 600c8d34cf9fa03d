package realtime_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/realtime"
	"github.com/bondmate/backend/realtime/realtimetest"
)

// TestCutLeavesPlaceholders reads an inbox of which an ending took something back (G9): in
// a replay, and for an event that is too old to go straight from the topic.
func TestCutLeavesPlaceholders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) { c.StraightFor = 500 * time.Millisecond })
	p, ex, friend := w.phone(), uuid.New(), uuid.New()
	live, _ := w.connect(gw, p, realtimetest.Options{})
	evs := w.commitN(p.user, 6)
	for i, origin := range []uuid.UUID{ex, friend, ex, ex, uuid.Nil, ex} {
		if origin != uuid.Nil {
			w.exec(`UPDATE inbox SET origin = $3 WHERE user_id = $1 AND seq = $2`, p.user, i+1, origin)
		}
	}
	// The first was acknowledged, and the last came after the cut.
	w.exec(`INSERT INTO cuts (recipient, origin, after_seq, last_seq, made_at) VALUES ($1, $2, 1, 5, now())`, p.user, ex)
	w.exec(`INSERT INTO cuts (recipient, origin, after_seq, last_seq, made_at) VALUES ($1, $2, 0, 9, now())`, friend, ex)

	want := []string{"request.received", "request.received", "withdrawn", "withdrawn", "request.received", "request.received"}
	check := func(name string, frames []realtimetest.Frame) {
		t.Helper()
		var got []string
		for _, f := range frames {
			got = append(got, f.Type)
			if empty := string(f.Data) == `{}`; empty != (f.Type == "withdrawn") {
				t.Errorf("%s: %s has data %s", name, f.Type, f.Data)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	after := int64(0)
	replay, _ := w.connect(gw, p, realtimetest.Options{After: &after})
	check("replay", w.events(replay, 1, 6))

	for i := range evs {
		evs[i].AppliedAt = evs[i].AppliedAt.Add(-time.Minute)
	}
	w.topic.publish(evs...)
	check("old events of the topic", w.events(live, 1, 6))
}
