package notifier

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.uber.org/goleak"
)

// counting is a provider that takes everything.
type counting struct{ atomic.Int64 }

func (c *counting) Send(context.Context, Message) error {
	c.Add(1)
	return nil
}

// Postgres refuses results for a while: they are kept and written later, and no call is
// made again.
func TestResultsOutliveAnOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const total = 20
	var users []uuid.UUID
	for i := range total {
		users = append(users, w.phone(fmt.Sprintf("phone-%d", i)).user)
	}
	w.exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'disk full' USING ERRCODE = '53100'; END $$`)
	w.exec(`CREATE TRIGGER refuse BEFORE UPDATE ON push_deliveries FOR EACH ROW WHEN (NEW.status = 3) EXECUTE FUNCTION refuse()`)
	calls := new(counting)
	cfg := w.config()
	// A lease that ends during the outage: the rows look like those of a dead notifier.
	cfg.Provider, cfg.CallTimeout, cfg.Lease = calls, 100*time.Millisecond, 300*time.Millisecond
	n := w.notifier(cfg)
	w.deliver(n, received(1, users...))
	w.background(n.Run)
	w.await("calls and a failed settlement", func() bool { return calls.Load() > 0 && n.sender.stalled.Load() })
	failed := time.Now()
	w.await("the leases to end", func() bool { return time.Since(failed) > 2*cfg.Lease })
	if got := w.outcomes(); len(got) != 0 {
		t.Errorf("settled %v though Postgres refuses", got)
	}
	w.exec(`DROP TRIGGER refuse ON push_deliveries`)
	if diff := cmp.Diff(map[Outcome]int{Delivered: total}, w.awaitSettled(total)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if got := calls.Load(); got != total {
		t.Errorf("%d calls, want %d: what was known was sent again", got, total)
	}
}

// Postgres refuses deliveries for a while: the consumer waits with its batch.
func TestConsumerOutlivesAnOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone("phone")
	w.exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'disk full' USING ERRCODE = '53100'; END $$`)
	w.exec(`CREATE TRIGGER refuse BEFORE INSERT ON push_deliveries FOR EACH ROW EXECUTE FUNCTION refuse()`)
	attempts := 0
	n := w.notifier(w.config())
	n.consumer.clock = func() time.Time { // asked once an attempt
		if attempts++; attempts == 3 {
			w.exec(`DROP TRIGGER refuse ON push_deliveries`)
		}
		return time.Now()
	}
	w.deliver(n, received(1, p.user))
	if got := query[int](w, `SELECT count(*) FROM push_deliveries`); got != 1 || attempts != 3 {
		t.Errorf("%d deliveries after %d attempts, want 1 after 3", got, attempts)
	}
}

// Not parallel: it looks at the goroutines of the whole process.
func TestNothingOutlivesRun(t *testing.T) {
	w := newWorld(t)
	warm := w.provider()
	if err := warm.Send(t.Context(), Message{Token: "warm"}); err != nil { // the stand-in serves
		t.Fatal(err)
	}
	warm.Close()
	before := goleak.IgnoreCurrent()
	for i := range 5 {
		provider := w.provider()
		cfg := w.config()
		cfg.Provider, cfg.Registerer = provider, nil
		n := w.notifier(cfg)
		w.deliver(n, received(int64(i+1), w.phone(fmt.Sprintf("phone-%d", i)).user))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx) }()
		w.awaitSettled(i + 1)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		provider.Close()
	}
	goleak.VerifyNone(t, before)
}

// How many pushes a second one notifier sends: Postgres and the stand-in included.
func BenchmarkSend(b *testing.B) {
	w := newWorld(b)
	users := make([]uuid.UUID, 1000)
	for i := range users {
		users[i] = w.phone(fmt.Sprintf("phone-%d", i)).user
	}
	n := w.notifier(w.config())
	w.background(n.Run)
	b.ResetTimer()
	sent := 0
	for b.Loop() {
		w.deliver(n, received(1, users...))
		sent += len(users)
		w.awaitSettled(sent)
	}
	b.ReportMetric(float64(sent)/b.Elapsed().Seconds(), "pushes/s")
}
