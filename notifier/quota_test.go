package notifier

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

// turning is a provider that fails, until it lets calls wait.
type turning struct {
	gated
	failing atomic.Bool
}

func (p *turning) Send(ctx context.Context, msg Message) error {
	if p.failing.Load() {
		return &SendError{Verdict: Unavailable, Status: 503, Cause: errors.New("away")}
	}
	return p.gated.Send(ctx, msg)
}

// A half-open breaker lets a few calls through, and no more is claimed for it; when they are
// well all the others follow.
func TestHalfOpenBreakerProbes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const total, probes = 30, 3
	var users []uuid.UUID
	for i := range total {
		users = append(users, w.phone(fmt.Sprintf("phone-%d", i)).user)
	}
	provider := &turning{gated: gated{started: make(chan struct{}, total), release: make(chan struct{})}}
	provider.failing.Store(true)
	cfg := w.config()
	cfg.Provider, cfg.InFlight, cfg.Probes, cfg.BreakerTimeout = provider, 10, probes, time.Second
	n := w.notifier(cfg)
	w.deliver(n, received(1, users...))
	w.background(n.Run)
	w.await("the breaker to open", func() bool { return w.counter("bondmate_notifier_breaker_transitions_total", "open") >= 1 })
	w.await("what it caught to be put back", func() bool {
		return query[int](w, `SELECT count(*)::int FROM push_deliveries WHERE status = 2`) == 0
	})
	heldBack := w.counter("bondmate_notifier_push_attempts_total", string(Held))
	provider.failing.Store(false)
	for range probes {
		select {
		case <-provider.started:
		case <-time.After(patience):
			t.Fatal("no probe")
		}
	}
	claimed := query[int](w, `SELECT count(*)::int FROM push_deliveries WHERE status = 2`)
	if calls := provider.calls.Load(); calls != probes || claimed != probes {
		t.Errorf("%d calls and %d claims while the breaker is half open, want %d", calls, claimed, probes)
	}
	if got := w.counter("bondmate_notifier_push_attempts_total", string(Held)); got != heldBack {
		t.Errorf("%v more were claimed than may be called", got-heldBack)
	}
	close(provider.release)
	if diff := cmp.Diff(map[Outcome]int{Delivered: total}, w.awaitSettled(total)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
}

// Calls beyond the quota wait, those whose lease would not last are put back, and neither is
// an attempt.
func TestQuotaIsKept(t *testing.T) {
	t.Parallel()
	for name, lease := range map[string]time.Duration{"waiting": time.Minute, "put back": 150 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			const total, perSecond = 30, 10 // the first ten go at once
			var users []uuid.UUID
			for i := range total {
				users = append(users, w.phone(fmt.Sprintf("phone-%d", i)).user)
			}
			cfg := w.config()
			cfg.PerMinute, cfg.Lease, cfg.CallTimeout = perSecond*60, lease, 100*time.Millisecond
			n := w.notifier(cfg)
			w.deliver(n, received(1, users...))
			w.background(n.Run)
			if diff := cmp.Diff(map[Outcome]int{Delivered: total}, w.awaitSettled(total)); diff != "" {
				t.Errorf("outcomes (-want +got):\n%s", diff)
			}
			if got := query[int](w, `SELECT sum(attempts)::int FROM push_deliveries`); got != total {
				t.Errorf("%d attempts for %d pushes: waiting burned some", got, total)
			}
			pushes := w.fcm.Recent("")
			if took := pushes[len(pushes)-1].Time.Sub(pushes[0].Time); took < 1500*time.Millisecond {
				t.Errorf("%d calls within %v, with %d a second", len(pushes), took, perSecond)
			}
			if w.counter("bondmate_notifier_push_quota_waits_total", "") == 0 {
				t.Error("no call has waited")
			}
		})
	}
}

// Calls at once share the connection that there is where the provider speaks HTTP/2, as FCM
// does.
func TestCallsShareAConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var conns atomic.Int64
	const atOnce = 50
	var warm atomic.Bool
	var gate sync.WaitGroup
	gate.Add(atOnce)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("a call over %s", r.Proto)
		}
		if warm.Load() {
			gate.Done()
			gate.Wait() // all are under way at the same time
		}
		rw.Header().Set("Content-Type", "application/json")
		_, _ = rw.Write([]byte(`{"name":"projects/x/messages/1"}`))
	}))
	server.EnableHTTP2 = true
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	f, err := NewFirebase(t.Context(), FirebaseConfig{CredentialsFile: w.fcm.CredentialsFile(), Endpoint: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	f.base.TLSClientConfig = server.Client().Transport.(*http.Transport).TLSClientConfig
	send := func() {
		if err := f.Send(t.Context(), Message{Token: "phone", TTL: time.Hour, ExpiresAt: time.Now().Add(time.Hour)}); err != nil {
			t.Errorf("send: %v", err)
		}
	}
	send()
	warm.Store(true)
	var calls sync.WaitGroup
	for range atOnce {
		calls.Go(send)
	}
	calls.Wait()
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for %d calls at once", n, atOnce)
	}
}
