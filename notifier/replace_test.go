package notifier

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/embedded/fcm"
	"github.com/bondmate/backend/pkg/partner"
)

// ending returns the event of a quiet leave between two, as it is read by the consumer.
func ending(user, former uuid.UUID) contract.Event {
	ev := event(partner.EventPartnershipEnded, partner.EventData{ByUserID: &former, Silent: true}, 9, user)
	ev.Pair = partner.PairOf(user, former).String()
	return ev
}

// of says whose doing the user's entry is.
func (w *world) of(origin uuid.UUID, user uuid.UUID, seq int64) {
	w.t.Helper()
	w.exec(`INSERT INTO inbox (user_id, seq, partition, event_seq, origin) VALUES ($1, $2, 0, 1, $3)`, user, seq, origin)
}

// cut takes back what the user has of ex, as the processor does.
func (w *world) cut(user uuid.UUID, after, last int64) {
	w.t.Helper()
	w.exec(`INSERT INTO cuts (recipient, origin, after_seq, last_seq, made_at) VALUES ($1, $2, $3, $4, now())`, user, ex, after, last)
	w.exec(`UPDATE push_deliveries p SET status = 3, outcome = 'withdrawn', settled_at = now() WHERE user_id = $1 AND status = 1
		AND EXISTS (SELECT FROM inbox_entries i WHERE i.user_id = p.user_id AND i.seq = p.seq AND i.withdrawn)`, user)
}

// kinds returns the types in the data of the calls for a token, in order.
func (w *world) kinds(token string) []string {
	w.t.Helper()
	var out []string
	for _, p := range w.fcm.Recent(token) {
		var msg struct{ Data struct{ Type string } }
		if err := json.Unmarshal(p.Message, &msg); err != nil {
			w.t.Fatal(err)
		}
		out = append(out, msg.Data.Type)
	}
	return out
}

func (w *world) wantKinds(token string, want ...string) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.kinds(token)); diff != "" {
		w.t.Errorf("calls for %s (-want +got):\n%s", token, diff)
	}
}

// passed returns once a delivery made due now is settled: what was due before it is, too.
func (w *world) passed(n *Notifier, name string) {
	w.t.Helper()
	p := w.phone(name)
	w.deliver(n, received(1, p.user))
	w.await("a later push", func() bool { return len(w.fcm.Recent(name)) > 0 })
	w.await("nothing in hand", func() bool { return query[int](w, `SELECT count(*) FROM push_deliveries WHERE status < 3`) == 0 })
}

// TestSentIsReplaced ends things after a push was sent: what was taken back is replaced,
// once, however often the ending is read.
func TestSentIsReplaced(t *testing.T) {
	t.Parallel()
	type change func(w *world, p phone)
	tests := []struct {
		name        string
		after, last int64
		before      change // of the ending
		want        []string
		outcome     Outcome
	}{
		{"taken back", 3, 7, nil, []string{"request.received", "withdrawn"}, Withdrawn},
		{"acknowledged by then", 5, 7, nil, []string{"request.received"}, Delivered},
		{"after the ending", 3, 4, nil, []string{"request.received"}, Delivered},
		{"of somebody else", 3, 7, func(w *world, p phone) {
			w.exec(`UPDATE inbox SET origin = $1`, uuid.New())
		}, []string{"request.received"}, Delivered},
		{"expired meanwhile", 3, 7, func(w *world, p phone) {
			w.exec(`UPDATE push_deliveries SET expires_at = now()`)
		}, []string{"request.received"}, Delivered},
		{"the session ended", 3, 7, func(w *world, p phone) {
			w.exec(`UPDATE sessions SET revoked_at = now() WHERE id = $1`, p.session)
		}, []string{"request.received"}, Unregistered},
		{"the phone is another's now", 3, 7, func(w *world, p phone) {
			other := w.phone("theirs")
			w.exec(`UPDATE devices SET user_id = $1, session_id = $2 WHERE id = $3`, other.user, other.session, p.device)
		}, []string{"request.received"}, Withdrawn},
		{"sent by the binary before", 3, 7, func(w *world, p phone) {
			w.exec(`UPDATE push_deliveries SET handed_at = NULL`)
		}, []string{"request.received", "withdrawn"}, Withdrawn},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p := w.phone("phone")
			n := w.notifier(w.config())
			w.of(ex, p.user, 5)
			w.background(n.Run)
			w.deliver(n, received(5, p.user))
			w.awaitSettled(1)
			if tc.before != nil {
				tc.before(w, p)
			}
			w.cut(p.user, tc.after, tc.last)
			for i := range 3 {
				w.deliver(n, ending(p.user, ex))
				w.passed(n, fmt.Sprint("later", i))
			}
			w.wantKinds("phone", tc.want...)
			if got := query[Outcome](w, `SELECT outcome FROM push_deliveries WHERE user_id = $1`, p.user); got != tc.outcome {
				t.Errorf("outcome %s, want %s", got, tc.outcome)
			}
			if got, want := w.counter("bondmate_notifier_pushes_replaced_total", ""), float64(len(tc.want)-1); got != want {
				t.Errorf("%v replaced by the metric, want %v", got, want)
			}
		})
	}
}

// TestInFlightIsReplaced ends things while the call is under way: whatever came of it that
// may have reached the phone is replaced, and the push itself is not tried again.
func TestInFlightIsReplaced(t *testing.T) {
	t.Parallel()
	const slow = 400 * time.Millisecond
	refuse := func(status int, code, fcmCode string) fcm.Answer {
		a := fcm.Refuse(status, code, fcmCode)
		a.Delay = slow
		return a
	}
	tests := []struct {
		name    string
		answer  fcm.Answer
		want    []string
		outcome Outcome
	}{
		{"taken", fcm.Answer{Delay: slow}, []string{"request.received", "withdrawn"}, Withdrawn},
		{"503", fcm.Answer{Delay: slow, Status: 503}, []string{"request.received", "withdrawn"}, Withdrawn},
		{"dropped", fcm.Answer{Delay: slow, Drop: true}, []string{"request.received", "withdrawn"}, Withdrawn},
		{"no answer", fcm.Answer{Delay: time.Minute}, []string{"request.received", "withdrawn"}, Withdrawn},
		{"quota", refuse(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), []string{"request.received"}, Withdrawn},
		{"refused", refuse(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"), []string{"request.received"}, Withdrawn},
		{"unregistered", refuse(404, "NOT_FOUND", "UNREGISTERED"), []string{"request.received"}, Unregistered},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p := w.phone("phone")
			w.fcm.Script("phone", tc.answer)
			cfg := w.config()
			cfg.CallTimeout = time.Second
			n := w.notifier(cfg)
			w.of(ex, p.user, 5)
			w.background(n.Run)
			w.deliver(n, received(5, p.user))
			w.await("the call to begin", func() bool { return w.fcm.Begun() == 1 })
			w.cut(p.user, 0, 5)
			w.deliver(n, ending(p.user, ex))
			w.awaitSettled(1)
			w.passed(n, "later")
			w.wantKinds("phone", tc.want...)
			if got := query[Outcome](w, `SELECT outcome FROM push_deliveries WHERE user_id = $1`, p.user); got != tc.outcome {
				t.Errorf("outcome %s, want %s", got, tc.outcome)
			}
		})
	}
}

// TestUnknownBeforeTheEndingIsReplaced ends things between a call without an answer and
// the next try: the processor settles what is due, and the push may be on the phone.
func TestUnknownBeforeTheEndingIsReplaced(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		answer fcm.Answer
		want   []string
	}{
		{"no answer", fcm.Answer{Drop: true}, []string{"request.received", "withdrawn"}},
		{"refused for now", fcm.Answer{Status: 429}, []string{"request.received"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p := w.phone("phone")
			w.fcm.Script("phone", tc.answer)
			cfg := w.config()
			cfg.RetryBase, cfg.RetryCap, cfg.QuotaWait = time.Hour, time.Hour, time.Hour
			n := w.notifier(cfg)
			w.of(ex, p.user, 5)
			w.background(n.Run)
			w.deliver(n, received(5, p.user))
			w.await("the first call", func() bool {
				return query[int](w, `SELECT count(*) FROM push_deliveries WHERE status = 1 AND attempts = 1`) == 1
			})
			w.cut(p.user, 0, 5)
			w.deliver(n, ending(p.user, ex))
			w.passed(n, "later")
			w.wantKinds("phone", tc.want...)
		})
	}
}

// TestReplacementIsTriedAgain fails it, lets its notifier die, and wants it once in the end.
func TestReplacementIsTriedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone("phone")
	w.fcm.Script("phone", fcm.Answer{}, fcm.Answer{Status: 503, Times: 2}, fcm.Refuse(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"))
	n := w.notifier(w.config())
	w.of(ex, p.user, 5)
	stop := w.background(n.Run)
	w.deliver(n, received(5, p.user))
	w.awaitSettled(1)
	stop()
	w.cut(p.user, 0, 5)
	w.deliver(n, ending(p.user, ex))

	now := time.Now()
	jobs, _, err := n.sender.store.claim(t.Context(), now, claimTerms{leaseEnds: now.Add(100 * time.Millisecond), limit: 10})
	if err != nil || len(jobs) != 1 || !jobs[0].Replaces {
		t.Fatalf("claimed %+v, %v; want the replacement", jobs, err)
	}
	cfg := w.config()
	cfg.Registerer = nil
	next := w.notifier(cfg)
	w.background(next.Run)
	w.passed(next, "later")
	w.wantKinds("phone", "request.received", "withdrawn", "withdrawn", "withdrawn", "withdrawn")
	if diff := cmp.Diff([]int{200, 503, 503, 429, 200}, w.statuses("phone")); diff != "" {
		t.Errorf("answers given (-want +got):\n%s", diff)
	}
	late := n.sender.resolve(jobs[0], now, &SendError{Verdict: Throttled})
	if settled, err := n.sender.store.settle(t.Context(), now, []settlement{late}); err != nil || settled != 0 {
		t.Errorf("the result of the dead one's claim settled %d rows, %v", settled, err)
	}
}

// TestLaterPushReplacesBySelf ends things aloud: the push of the ending has the same
// collapse id, so nothing may come after it and take it off the screen.
func TestLaterPushReplacesBySelf(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, partnership := w.phone("phone"), uuid.New()
	n := w.notifier(w.config())
	w.of(ex, p.user, 5)
	stop := w.background(n.Run)
	asked := event(partner.EventBreakupRequested, partner.EventData{ByUserID: &ex, PartnershipID: &partnership}, 5, p.user)
	w.deliver(n, asked)
	w.awaitSettled(1)
	w.cut(p.user, 0, 5)
	ended := ending(p.user, ex)
	aloud := event(partner.EventPartnershipEnded, partner.EventData{ByUserID: &ex, PartnershipID: &partnership}, 6, p.user)
	w.deliver(n, aloud) // of no pair that was cut, so that nothing is marked yet
	w.awaitSettled(2)
	w.deliver(n, ended)
	w.passed(n, "later")
	stop()
	w.wantKinds("phone", "breakup.requested", "partnership.ended")
	if diff := cmp.Diff(map[Outcome]int{Delivered: 2, Withdrawn: 1}, w.outcomes()); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
}

// TestDeletedAccountIsReplacedEverywhere deletes the account of whom two have pushes of.
func TestDeletedAccountIsReplacedEverywhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two := w.phone("one"), w.phone("two")
	n := w.notifier(w.config())
	w.background(n.Run)
	w.of(ex, one.user, 5)
	w.of(ex, two.user, 5)
	w.deliver(n, received(5, one.user, two.user))
	w.awaitSettled(2)
	w.cut(one.user, 0, 5)
	w.cut(two.user, 0, 5)
	gone := event(partner.EventAccountDeleted, partner.EventData{UserID: &ex}, 1, ex)
	gone.Pair = partner.PairOf(ex, ex).String()
	w.deliver(n, gone)
	w.passed(n, "later")
	w.wantKinds("one", "request.received", "withdrawn")
	w.wantKinds("two", "request.received", "withdrawn")
}

// TestReplacementMessage is what apps rely on: it takes the place of the push and shows nothing.
func TestReplacementMessage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone("phone")
	n := w.notifier(w.config())
	w.background(n.Run)
	w.of(ex, p.user, 5)
	ev := received(5, p.user)
	w.deliver(n, ev)
	w.awaitSettled(1)
	w.cut(p.user, 0, 5)
	w.deliver(n, ending(p.user, ex))
	w.await("the replacement", func() bool { return len(w.fcm.Recent("phone")) == 2 })

	var sent, got map[string]any
	for i, into := range []*map[string]any{&sent, &got} {
		if err := json.Unmarshal(w.fcm.Recent("phone")[i].Message, into); err != nil {
			t.Fatal(err)
		}
	}
	android := got["android"].(map[string]any)
	if ttl, err := time.ParseDuration(android["ttl"].(string)); err != nil || ttl > 7*day || ttl < 7*day-time.Minute {
		t.Errorf("ttl %v %v, want that of the push", ttl, err)
	}
	delete(android, "ttl")
	collapse := sent["android"].(map[string]any)["collapse_key"]
	want := map[string]any{
		"token": "phone",
		"data": map[string]any{
			"v": "1", "eventId": ev.EventID.String(), "seq": "5", "epoch": "e1", "type": "withdrawn",
			"link": "bondmate://notifications", "replaces": collapse, "unread": "0",
		},
		"android": map[string]any{"priority": "high", "collapse_key": collapse},
		"apns": map[string]any{
			"headers": map[string]any{
				"apns-priority": "5", "apns-push-type": "background", "apns-collapse-id": collapse,
				"apns-expiration": sent["apns"].(map[string]any)["headers"].(map[string]any)["apns-expiration"],
			},
			"payload": map[string]any{"aps": map[string]any{"content-available": 1.0}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("message (-want +got):\n%s", diff)
	}
}
