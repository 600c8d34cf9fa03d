package notifier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/embedded/fcm"
)

// Each answer of the provider, what becomes of the delivery, how often it was called, and
// whether the device stays.
func TestAnswers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		answers  []fcm.Answer
		outcome  Outcome
		statuses []int
		device   bool
	}{
		{"taken", nil, Delivered, []int{200}, true},
		{"404 with details", []fcm.Answer{fcm.Refuse(404, "NOT_FOUND", "UNREGISTERED")}, Unregistered, []int{404}, false},
		{"404 without details", []fcm.Answer{fcm.Refuse(404, "NOT_FOUND", "")}, Delivered, []int{404, 200}, true},
		{"400 with details", []fcm.Answer{fcm.Refuse(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT")}, Rejected, []int{400}, true},
		{"400 without details", []fcm.Answer{fcm.Refuse(400, "INVALID_ARGUMENT", "")}, Rejected, []int{400}, true},
		{"401", []fcm.Answer{fcm.Refuse(401, "UNAUTHENTICATED", "")}, Delivered, []int{401, 200}, true},
		{"401 of Apple's key", []fcm.Answer{fcm.Refuse(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR")}, Delivered, []int{401, 200}, true},
		{"403 of another project", []fcm.Answer{fcm.Refuse(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH")}, Rejected, []int{403}, true},
		{"403 of our account", []fcm.Answer{fcm.Refuse(403, "PERMISSION_DENIED", "")}, Delivered, []int{403, 200}, true},
		{"429", []fcm.Answer{fcm.Refuse(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")}, Delivered, []int{429, 200}, true},
		{"500", []fcm.Answer{fcm.Refuse(500, "INTERNAL", "INTERNAL")}, Delivered, []int{500, 200}, true},
		{"503 twice", []fcm.Answer{{Status: 503, Times: 2}}, Delivered, []int{503, 503, 200}, true},
		{"dropped connection", []fcm.Answer{{Drop: true}}, Delivered, []int{0, 200}, true},
		{"not JSON", []fcm.Answer{{Status: 502, Body: "<html>"}}, Delivered, []int{502, 200}, true},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p := w.phone("phone")
			w.fcm.Script("", tc.answers...)
			n := w.notifier(w.config())
			w.deliver(n, received(1, p.user))
			w.background(n.Run)

			if diff := cmp.Diff(map[Outcome]int{tc.outcome: 1}, w.awaitSettled(1)); diff != "" {
				t.Errorf("outcomes (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.statuses, w.statuses("phone")); diff != "" {
				t.Errorf("answers given (-want +got):\n%s", diff)
			}
			if got := query[int](w, `SELECT count(*) FROM devices`) == 1; got != tc.device {
				t.Errorf("device stays: %v, want %v", got, tc.device)
			}
			if got := query[int](w, `SELECT attempts FROM push_deliveries`); got != len(tc.statuses) {
				t.Errorf("%d attempts, want %d", got, len(tc.statuses))
			}
		})
	}
}

func TestTimeoutIsRetried(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone("phone")
	w.fcm.Script("", fcm.Answer{Delay: time.Minute})
	cfg := w.config()
	cfg.CallTimeout = 50 * time.Millisecond
	n := w.notifier(cfg)
	w.deliver(n, received(1, p.user))
	w.background(n.Run)
	if diff := cmp.Diff(map[Outcome]int{Delivered: 1}, w.awaitSettled(1)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if got := w.counter("bondmate_notifier_push_attempts_total", string(Unknown)); got != 1 {
		t.Errorf("%v attempts without an answer, want 1", got)
	}
}

// The message is what apps rely on.
func TestMessage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone("phone")
	n := w.notifier(w.config())
	ev := received(7, p.user)
	w.deliver(n, ev)
	w.background(n.Run)
	w.awaitSettled(1)

	var data struct {
		RequestID string `json:"requestId"`
	}
	if err := json.Unmarshal(ev.Data, &data); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(w.fcm.Recent("phone")[0].Message, &got); err != nil {
		t.Fatal(err)
	}
	android := got["android"].(map[string]any)
	if ttl, err := time.ParseDuration(android["ttl"].(string)); err != nil || ttl > 7*day || ttl < 7*day-time.Minute {
		t.Errorf("ttl %v %v, want about 7 days", ttl, err)
	}
	delete(android, "ttl")
	headers := got["apns"].(map[string]any)["headers"].(map[string]any)
	if headers["apns-expiration"] != fmt.Sprint(ev.AppliedAt.Add(7*day).Unix()) {
		t.Errorf("apns-expiration %v", headers["apns-expiration"])
	}
	delete(headers, "apns-expiration")
	collapse := "request-" + data.RequestID
	want := map[string]any{
		"token": "phone",
		"data": map[string]any{
			"v": "1", "eventId": ev.EventID.String(), "seq": "7", "epoch": "e1", "type": "request.received",
			"link": "bondmate://requests/" + data.RequestID,
		},
		"notification": map[string]any{"title": "Bond Mate", "body": "You have an update"},
		"android": map[string]any{
			"priority": "high", "collapse_key": collapse,
			"notification": map[string]any{"tag": collapse, "channel_id": "requests", "notification_count": 0.0},
		},
		"apns": map[string]any{
			"headers": map[string]any{"apns-priority": "10", "apns-collapse-id": collapse},
			"payload": map[string]any{"aps": map[string]any{"category": "requests", "sound": "default", "badge": 0.0}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("message (-want +got):\n%s", diff)
	}
	if len(collapse) > 64 {
		t.Errorf("collapse id of %d bytes: Apple takes 64", len(collapse))
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p := w.phone("phone")
			w.fcm.Script("", fcm.Answer{Status: status}.RetryAfter("3600"))
			n := w.notifier(w.config())
			before := time.Now()
			w.deliver(n, received(1, p.user))
			w.background(n.Run)
			w.await("the delivery to be due again", func() bool {
				return query[int](w, `SELECT count(*) FROM push_deliveries WHERE status = 1 AND attempts = 1`) == 1
			})
			if due := query[time.Time](w, `SELECT due_at FROM push_deliveries`); due.Before(before.Add(time.Hour)) {
				t.Errorf("due %v after the call, want an hour or more", due.Sub(before))
			}
			if diff := cmp.Diff([]int{status}, w.statuses("phone")); diff != "" {
				t.Errorf("answers given (-want +got):\n%s", diff)
			}
		})
	}
}

func TestExpires(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, late := w.phone("phone"), w.phone("late")
	w.fcm.Script("phone", fcm.Answer{Status: 500}.RetryAfter("864000")) // longer than the push lives
	n := w.notifier(w.config())
	w.deliver(n, received(1, p.user), received(2, late.user))
	w.exec(`UPDATE push_deliveries SET expires_at = now() WHERE user_id = $1`, late.user)
	w.exec(`UPDATE push_deliveries SET expires_at = now() + interval '1 hour' WHERE user_id = $1`, p.user)
	w.background(n.Run)
	if diff := cmp.Diff(map[Outcome]int{Expired: 2}, w.awaitSettled(2)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if got := len(w.fcm.Recent("late")); got != 0 {
		t.Errorf("%d calls for what had expired", got)
	}
}

func TestAcknowledged(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name         string
		seq, visible int64
		want         Outcome
	}{
		{"over a visible socket", 5, 5, Suppressed},
		{"beyond it, over a visible socket", 9, 9, Suppressed},
		{"over a hidden socket", 5, 0, Delivered},
		{"before it", 4, 4, Delivered},
		{"hidden, visible before it", 9, 4, Delivered},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p := w.phone("phone")
			w.exec(`INSERT INTO acks (user_id, session_id, seq, visible_seq, updated_at) VALUES ($1, $2, $3, $4, now())`,
				p.user, p.session, tc.seq, tc.visible)
			n := w.notifier(w.config())
			w.deliver(n, received(5, p.user))
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

func TestGraceLeavesTimeToAcknowledge(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone("phone")
	cfg := w.config()
	cfg.Grace = time.Minute
	start := time.Now()
	cfg.Clock = func() time.Time { return start }
	n := w.notifier(cfg)
	w.deliver(n, received(1, p.user))

	jobs, closed, err := n.sender.store.claim(t.Context(), start.Add(time.Minute-time.Millisecond), claimTerms{leaseEnds: start.Add(time.Hour), limit: 10})
	if err != nil || len(jobs)+len(closed) != 0 {
		t.Errorf("within the grace: %d claimed, %d closed, %v", len(jobs), len(closed), err)
	}
	jobs, _, err = n.sender.store.claim(t.Context(), start.Add(time.Minute), claimTerms{leaseEnds: start.Add(time.Hour), limit: 10})
	if err != nil || len(jobs) != 1 {
		t.Errorf("after the grace: %d claimed, %v; want 1", len(jobs), err)
	}
}

func TestUnregisteredStaysWhenRefreshed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone("phone")
	n := w.notifier(w.config())
	w.deliver(n, received(1, p.user))
	now := time.Now()
	jobs, _, err := n.sender.store.claim(t.Context(), now, claimTerms{leaseEnds: now.Add(time.Minute), limit: 10})
	if err != nil || len(jobs) != 1 {
		t.Fatalf("claimed %d, %v", len(jobs), err)
	}
	// The phone registers the same address again while the call is under way.
	w.exec(`UPDATE devices SET updated_at = now() + interval '1 millisecond' WHERE id = $1`, p.device)
	result := n.sender.resolve(jobs[0], now, &SendError{Verdict: Gone, Status: 404, Cause: errors.New("dead")})
	if _, err := n.sender.store.settle(t.Context(), now, []settlement{result}); err != nil {
		t.Fatal(err)
	}
	if got := query[int](w, `SELECT count(*) FROM devices`); got != 1 {
		t.Error("the device is gone though it was registered again")
	}
	if diff := cmp.Diff(map[Outcome]int{Unregistered: 1}, w.outcomes()); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
}

func TestAddressOfSomeoneElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before, after := w.phone("phone"), w.phone("another")
	n := w.notifier(w.config())
	w.deliver(n, received(1, before.user))
	// Another user logs in on the first phone: the address is theirs now.
	w.exec(`UPDATE devices SET user_id = $1, session_id = $2 WHERE id = $3`, after.user, after.session, before.device)
	w.background(n.Run)
	if diff := cmp.Diff(map[Outcome]int{Withdrawn: 1}, w.awaitSettled(1)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if got := len(w.fcm.Recent("")); got != 0 {
		t.Errorf("%d calls with another user's event", got)
	}
}

// A notifier dies between claim and settle: its rows are due again when the lease ends,
// not before, and its late results change nothing.
func TestLeaseRecovers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone("phone")
	n := w.notifier(w.config())
	w.deliver(n, received(1, p.user))
	ctx, s, now := t.Context(), n.sender.store, time.Now()
	lease := now.Add(time.Minute)
	first, _, err := s.claim(ctx, now, claimTerms{leaseEnds: lease, limit: 10})
	if err != nil || len(first) != 1 {
		t.Fatalf("claimed %d, %v", len(first), err)
	}
	early, _, err := s.claim(ctx, lease.Add(-time.Millisecond), claimTerms{leaseEnds: lease.Add(time.Minute), limit: 10})
	if err != nil || len(early) != 0 {
		t.Errorf("before the lease's end: claimed %d, %v", len(early), err)
	}
	second, _, err := s.claim(ctx, lease, claimTerms{leaseEnds: lease.Add(time.Minute), limit: 10})
	if err != nil || len(second) != 1 || second[0].Attempts != 2 {
		t.Fatalf("at the lease's end: claimed %+v, %v", second, err)
	}
	late := n.sender.resolve(first[0], lease, &SendError{Verdict: Refused, Cause: errors.New("late")})
	if settled, err := s.settle(ctx, lease, []settlement{late}); err != nil || settled != 0 {
		t.Errorf("a late result settled %d rows, %v", settled, err)
	}
	if settled, err := s.settle(ctx, lease, []settlement{n.sender.resolve(second[0], lease, nil)}); err != nil || settled != 1 {
		t.Errorf("the successor's result settled %d rows, %v", settled, err)
	}
	if diff := cmp.Diff(map[Outcome]int{Delivered: 1}, w.outcomes()); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
}

// Two notifiers on one table send each delivery once.
func TestTwoSendersShare(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const total = 200
	var users []uuid.UUID
	for i := range total {
		users = append(users, w.phone(fmt.Sprintf("phone-%d", i)).user)
	}
	cfg := w.config()
	a := w.notifier(cfg)
	cfg.Registerer = nil
	b := w.notifier(cfg)
	w.deliver(a, received(1, users...))
	w.background(a.Run)
	w.background(b.Run)
	if diff := cmp.Diff(map[Outcome]int{Delivered: total}, w.awaitSettled(total)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	for i := range total {
		if got := len(w.fcm.Recent(fmt.Sprintf("phone-%d", i))); got != 1 {
			t.Errorf("phone %d got %d pushes", i, got)
		}
	}
}

// The provider fails for everyone, then recovers: the breaker opens, nothing is lost, and
// waiting burns no attempts.
func TestBreaker(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const total = 40
	var users []uuid.UUID
	for i := range total {
		users = append(users, w.phone(fmt.Sprintf("phone-%d", i)).user)
	}
	w.fcm.Script("", fcm.Answer{Status: 503, Times: -1})
	cfg := w.config()
	cfg.InFlight = 4
	n := w.notifier(cfg)
	w.deliver(n, received(1, users...))
	w.background(n.Run)
	w.await("the breaker to open twice", func() bool {
		return w.counter("bondmate_notifier_breaker_transitions_total", "open") >= 2
	})
	if got := w.counter("bondmate_notifier_push_attempts_total", string(Unavailable)); got > 20 {
		t.Errorf("%v calls to a dead provider: the breaker does not hold them back", got)
	}
	w.fcm.ClearScripts()
	if diff := cmp.Diff(map[Outcome]int{Delivered: total}, w.awaitSettled(total)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	calls := len(w.fcm.Recent(""))
	if got := query[int](w, `SELECT sum(attempts)::int FROM push_deliveries`); got != calls {
		t.Errorf("%d attempts for %d calls: waiting burned some", got, calls)
	}
	if got := w.counter("bondmate_notifier_breaker_state", ""); got != 0 {
		t.Errorf("breaker state %v, want closed", got)
	}
}

// A working provider that refuses is not a broken one: dead phones stop nobody's pushes.
func TestRefusalsDoNotTrip(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var users []uuid.UUID
	for i := range 30 {
		users = append(users, w.phone(fmt.Sprintf("dead-%d", i)).user)
	}
	alive := w.phone("alive")
	w.fcm.Script("dead", fcm.Answer{Status: 404, Body: fcm.Refuse(404, "NOT_FOUND", "UNREGISTERED").Body, Times: -1})
	n := w.notifier(w.config())
	w.deliver(n, received(1, append(users, alive.user)...))
	w.background(n.Run)
	if diff := cmp.Diff(map[Outcome]int{Delivered: 1, Unregistered: 30}, w.awaitSettled(31)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if got := w.counter("bondmate_notifier_breaker_transitions_total", ""); got != 0 {
		t.Errorf("%v breaker transitions", got)
	}
}

// gated is a provider whose calls wait until they are let go or cut.
type gated struct {
	started chan struct{}
	release chan struct{}
	calls   atomic.Int64
}

func (g *gated) Send(ctx context.Context, _ Message) error {
	g.calls.Add(1)
	g.started <- struct{}{}
	select {
	case <-g.release:
		return nil
	case <-ctx.Done():
		return &SendError{Verdict: Cancelled, Cause: ctx.Err()}
	}
}

// A stop finishes the calls in hand, writes their results, and hands back the rest.
func TestStopFinishesCallsInHand(t *testing.T) {
	t.Parallel()
	for _, finishes := range []bool{true, false} {
		t.Run(fmt.Sprintf("finishes in time %v", finishes), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			const total, inFlight = 10, 2
			var users []uuid.UUID
			for i := range total {
				users = append(users, w.phone(fmt.Sprintf("phone-%d", i)).user)
			}
			g := &gated{started: make(chan struct{}, total), release: make(chan struct{})}
			cfg := w.config()
			cfg.Provider, cfg.InFlight, cfg.CallTimeout = g, inFlight, time.Minute
			cfg.DrainTimeout = 50 * time.Millisecond
			if finishes {
				cfg.DrainTimeout = time.Minute
			}
			n := w.notifier(cfg)
			w.deliver(n, received(1, users...))
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- n.Run(ctx) }()
			<-g.started
			<-g.started
			stop()
			if finishes {
				close(g.release)
			}
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(patience):
				t.Fatal("did not stop")
			}
			want := 0
			if finishes {
				want = int(g.calls.Load())
			}
			if got := w.outcomes()[Delivered]; got != want {
				t.Errorf("%d delivered, want the %d in hand", got, want)
			}
			back := query[int](w, `SELECT count(*) FROM push_deliveries WHERE status = 1 AND attempts = 0`)
			if back != total-want {
				t.Errorf("%d handed back, want %d", back, total-want)
			}
		})
	}
}
