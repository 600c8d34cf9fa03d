package ingest_test

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/ingest"
	"github.com/bondmate/backend/pkg/contract"
)

// wantOverloaded is an answer at once, with a time to come back.
func wantOverloaded(t *testing.T, what string, a answer) {
	t.Helper()
	wantProblem(t, a, 503, "overloaded")
	if retry, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || retry < 1 || retry > 4 {
		t.Errorf("%s: Retry-After is %q", what, a.header.Get("Retry-After"))
	}
	if a.took > 500*time.Millisecond { // a third of what waiting in vain takes
		t.Errorf("%s: turned away after %s", what, a.took)
	}
}

// With every connection of the pool taken lists are turned away at once; health answers, and a
// leave waits its turn and takes effect.
func TestSaturatedPool(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben := w.register("Ana"), w.register("Ben")
	sent := ana.send(ben, "Prefer", "wait=5")
	if got := ben.call("PUT", "/api/enhanced-partners/request/"+sent.text("requestId")+"/accept", nil, "Prefer", "wait=5"); got.status != http.StatusOK {
		t.Fatalf("accept: %d %s", got.status, got.raw)
	}
	list := func() answer { return ana.get("/api/enhanced-partners/history") }
	if got := list(); got.status != http.StatusOK {
		t.Fatalf("list: %d %s", got.status, got.raw)
	}
	var release []func()
	for range w.pool.Config().MaxConns {
		conn, err := w.pool.Acquire(t.Context())
		must(t, err)
		release = append(release, conn.Release)
	}
	// The first ones wait, until one of them has waited too long for others to join.
	var early sync.WaitGroup
	refused := make(chan answer, 1)
	shed := make(chan struct{})
	var once sync.Once
	for done, next := false, time.NewTicker(20*time.Millisecond); !done; {
		early.Go(func() {
			if a := list(); a.code() == "overloaded" {
				once.Do(func() {
					refused <- a
					close(shed)
				})
			}
		})
		select {
		case <-shed:
			done = true
			next.Stop()
		case <-next.C:
		}
	}
	wantOverloaded(t, "a list", <-refused)
	var left answer
	var leaving sync.WaitGroup
	leaving.Go(func() { left = ana.call("POST", "/api/enhanced-partners/remove", nil) })
	if got := w.do(http.MethodGet, "/health", "", nil, nil); got.status != http.StatusOK {
		t.Errorf("health: %d %s", got.status, got.raw)
	}
	if got := w.do(http.MethodGet, "/live", "", nil, nil); got.status != http.StatusOK {
		t.Errorf("live: %d %s", got.status, got.raw)
	}
	for _, r := range release {
		r()
	}
	leaving.Wait()
	early.Wait()
	if left.status != http.StatusAccepted {
		t.Errorf("the leave: %d %s", left.status, left.raw)
	}
	eventually(t, "lists again", func() bool { return list().status == http.StatusOK })
}

// With the producer full of commands that nobody acknowledges others are turned away at once;
// reads go on, and a leave gets through.
func TestStalledPublisher(t *testing.T) {
	t.Parallel()
	const full = 4
	w := newWorld(t, func(c *ingest.Config) { c.MaxQueued = full })
	ana, ben := w.register("Ana"), w.register("Ben")
	sent := ana.send(ben, "Prefer", "wait=5")
	if got := ben.call("PUT", "/api/enhanced-partners/request/"+sent.text("requestId")+"/accept", nil, "Prefer", "wait=5"); got.status != http.StatusOK {
		t.Fatalf("accept: %d %s", got.status, got.raw)
	}
	stalled, arrived := make(chan struct{}), make(chan struct{}, 2*full)
	w.queue.set(func(q *queue) {
		q.beforeAck = func(ctx context.Context, _ contract.Record) error {
			arrived <- struct{}{}
			select {
			case <-stalled:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	var waiting sync.WaitGroup
	for range full {
		waiting.Go(func() { ana.send(user{id: uuid.New()}) })
	}
	for range full {
		<-arrived
	}
	wantOverloaded(t, "a request", ana.send(user{id: uuid.New()}))
	if got := ana.get("/api/enhanced-partners/current"); got.status != http.StatusOK {
		t.Errorf("a read: %d %s", got.status, got.raw)
	}
	if got := w.do(http.MethodGet, "/health", "", nil, nil); got.status != http.StatusOK {
		t.Errorf("health: %d %s", got.status, got.raw)
	}
	var left answer
	waiting.Go(func() { left = ana.call("POST", "/api/enhanced-partners/remove", nil) })
	<-arrived // it is with the producer
	close(stalled)
	waiting.Wait()
	if left.status != http.StatusAccepted {
		t.Errorf("the leave: %d %s", left.status, left.raw)
	}
	if got := ana.send(user{id: uuid.New()}); got.status != http.StatusAccepted {
		t.Errorf("afterwards: %d %s", got.status, got.raw)
	}
}
