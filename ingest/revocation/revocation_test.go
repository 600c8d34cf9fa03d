package revocation_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/bondmate/backend/ingest/revocation"
	"github.com/bondmate/backend/pkg/contract"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// topic is a publisher that takes records, fails, or hangs until it is let go.
type topic struct {
	mu   sync.Mutex
	err  error
	hang chan struct{} // nil: it does not hang
	got  []contract.SessionRevoked
}

func (p *topic) Produce(ctx context.Context, rec contract.Record) error {
	p.mu.Lock()
	err, hang := p.err, p.hang
	p.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err != nil {
		return err
	}
	r, err := contract.DecodeSessionRevoked(rec)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got = append(p.got, r)
	return nil
}

func (p *topic) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.got)
}

func (p *topic) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

type notices struct {
	*revocation.Notices
	reg  *prometheus.Registry
	stop func() time.Duration // ends Run and says how long that took
}

func start(t *testing.T, to *topic) notices {
	t.Helper()
	n := notices{reg: prometheus.NewRegistry()}
	var err error
	n.Notices, err = revocation.New(revocation.Config{
		Publisher: to, Topic: "test.control.v1", Partitions: 12, Clock: time.Now, Log: slog.New(slog.DiscardHandler), Registerer: n.reg,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = n.Run(ctx) }()
	n.stop = func() time.Duration {
		began := time.Now()
		cancel()
		<-done
		return time.Since(began)
	}
	t.Cleanup(func() { n.stop() })
	return n
}

func (n notices) expect(t *testing.T, want string) {
	t.Helper()
	head := "# HELP bondmate_ingest_revocations_total Sessions that ended, by whether the control topic was told of it: written, failed, dropped (too many were waiting).\n" +
		"# TYPE bondmate_ingest_revocations_total counter\n"
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); <-time.After(time.Millisecond) {
		if err = testutil.GatherAndCompare(n.reg, strings.NewReader(head+want), "bondmate_ingest_revocations_total"); err == nil {
			return
		}
	}
	t.Error(err)
}

func sessions(n int) []uuid.UUID {
	ids := make([]uuid.UUID, n)
	for i := range ids {
		ids[i] = uuid.New()
	}
	return ids
}

func TestEverySessionIsToldOf(t *testing.T) {
	t.Parallel()
	to := &topic{}
	n := start(t, to)
	user, ids := uuid.New(), sessions(50)
	n.Ended(user, contract.RevokedByReset, ids)
	n.expect(t, "bondmate_ingest_revocations_total{outcome=\"written\"} 50\n")
	left := map[uuid.UUID]bool{}
	for _, id := range ids {
		left[id] = true
	}
	for _, r := range to.got {
		if r.UserID != user || r.Reason != contract.RevokedByReset || !left[r.SessionID] {
			t.Errorf("record %+v of no session that ended, or a second one", r)
		}
		delete(left, r.SessionID)
	}
	if len(left) != 0 {
		t.Errorf("%d sessions were not told of", len(left))
	}
}

// Whoever ends a session goes on at once, whatever Kafka does, and what waits is bounded.
func TestNobodyWaitsForKafka(t *testing.T) {
	t.Parallel()
	to := &topic{hang: make(chan struct{})}
	n := start(t, to)
	told := make(chan struct{})
	go func() {
		defer close(told)
		for range 100 {
			n.Ended(uuid.New(), contract.RevokedByLogout, sessions(50))
		}
	}()
	select {
	case <-told:
	case <-time.After(20 * time.Second):
		t.Fatal("Ended waits for Kafka")
	}
	close(to.hang) // before anything has taken its two seconds, or after: each is counted once
	counted := func() (sum float64) {
		families, err := n.reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
		return sum
	}
	for end := time.Now().Add(20 * time.Second); counted() != 5000; <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%v of 5000 are accounted for", counted())
		}
	}
	if got := to.count(); got > 1024+4 || got == 0 {
		t.Errorf("%d records were kept for later, the queue holds 1024", got)
	}
}

func TestFailuresAreCountedAndEnd(t *testing.T) {
	t.Parallel()
	to := &topic{err: errors.New("no broker")}
	n := start(t, to)
	n.Ended(uuid.New(), contract.RevokedByLogout, sessions(3))
	n.expect(t, "bondmate_ingest_revocations_total{outcome=\"failed\"} 3\n")
	to.fail(nil)
	n.Ended(uuid.New(), contract.RevokedByLogout, sessions(1))
	n.expect(t, "bondmate_ingest_revocations_total{outcome=\"failed\"} 3\nbondmate_ingest_revocations_total{outcome=\"written\"} 1\n")
}

// A stopping process writes what waits, as a console's command does that ends at once.
func TestWhatWaitsIsWrittenAtTheEnd(t *testing.T) {
	t.Parallel()
	to := &topic{}
	n := start(t, to)
	n.Ended(uuid.New(), contract.RevokedBySuspend, sessions(20))
	n.stop()
	if got := to.count(); got != 20 {
		t.Errorf("%d of 20 records were written", got)
	}
	// One that hangs holds nobody up for longer than its time.
	to = &topic{hang: make(chan struct{})}
	n = start(t, to)
	n.Ended(uuid.New(), contract.RevokedBySuspend, sessions(500))
	if took := n.stop(); took > 10*time.Second {
		t.Errorf("it stopped after %v, want 2 s", took)
	}
}
