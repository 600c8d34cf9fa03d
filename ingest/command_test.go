package ingest_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/ingest"
	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/contract"
)

func TestAcceptedBeforeApplied(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben := w.register("Ana"), w.register("Ben")
	w.queue.set(func(q *queue) { q.paused = true })
	got := ana.send(ben)
	if got.status != 202 || got.text("status") != "accepted" || got.text("requestId") == "" {
		t.Fatalf("send: %d %s", got.status, got.raw)
	}
	path := got.header.Get("Location")
	if command := ana.get(path); command.text("status") != "accepted" || command.text("type") != "request.send" {
		t.Errorf("command: %s", command.raw)
	}
	w.queue.set(func(q *queue) { q.paused = false })
	eventually(t, "the outcome", func() bool { return ana.get(path).text("status") == "applied" })
	if command := ana.get(path); command.text("result", "status") != "pending" || command.text("appliedAt") == "" {
		t.Errorf("command: %s", command.raw)
	}
}

func TestWaitEndsWithTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben := w.register("Ana"), w.register("Ben")
	w.queue.set(func(q *queue) { q.paused = true })
	got := ana.send(ben, "Prefer", "respond-async, wait=1")
	if got.status != 202 || got.header.Get("Preference-Applied") != "wait=1" {
		t.Errorf("send: %d %s", got.status, got.raw)
	}
	if got.took < 900*time.Millisecond || got.took > 3*time.Second {
		t.Errorf("waited %v", got.took)
	}
}

// Nothing wakes the call, so only its own look can find the outcome.
func TestWaitFindsOutcomeWithoutAnEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben := w.register("Ana"), w.register("Ben")
	w.queue.set(func(q *queue) { q.silent = true })
	if got := ana.send(ben, "Prefer", "wait=5"); got.status != 200 || got.took > 2*time.Second {
		t.Errorf("send: %d after %v: %s", got.status, got.took, got.raw)
	}
}

// The row is there, and its event gone by, before the acknowledgement returns.
func TestOutcomeBeforeAcknowledgement(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben := w.register("Ana"), w.register("Ben")
	w.queue.set(func(q *queue) {
		q.beforeAck = func(ctx context.Context, rec contract.Record) error {
			cmd, _, err := contract.DecodeCommand(rec)
			if err != nil {
				return err
			}
			if err := q.apply(ctx, cmd, rec.Partition); err != nil {
				return err
			}
			q.mu.Lock()
			defer q.mu.Unlock()
			for _, s := range q.subs {
				s(contract.Event{CommandID: cmd.ID})
			}
			return nil
		}
		q.paused = true
	})
	if got := ana.send(ben, "Prefer", "wait=5"); got.status != 200 || got.took > time.Second {
		t.Errorf("send: %d after %v: %s", got.status, got.took, got.raw)
	}
}

func TestSameKeyManyTimesAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	second := newInstance(t, w.pool, w.queue)
	ana, ben := w.register("Ana"), w.register("Ben")
	ana.get("/api/profile") // the test is about commands, not about fifty sessions checked on a cold pool
	ana.on(second).get("/api/profile")
	const calls = 50
	answers := make([]answer, calls)
	var wg sync.WaitGroup
	for i := range calls {
		caller := ana
		if i%2 == 1 {
			caller = ana.on(second)
		}
		wg.Go(func() { answers[i] = caller.send(ben, "Idempotency-Key", "once", "Prefer", "wait=5") })
	}
	wg.Wait()
	originals := 0
	for _, a := range answers {
		if diff := cmp.Diff(answers[0].body, a.body); diff != "" || a.status != 200 {
			t.Fatalf("answers differ: %d %s", a.status, diff)
		}
		if a.header.Get("Idempotency-Replayed") == "" {
			originals++
		}
	}
	if originals < 1 || originals > 2 {
		t.Errorf("%d answers say that they are not a replay, for two instances", originals)
	}
	var requests, outcomes int
	must(t, w.pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM requests), (SELECT count(*) FROM commands)`).Scan(&requests, &outcomes))
	if requests != 1 || outcomes != 1 {
		t.Errorf("%d requests, %d outcomes", requests, outcomes)
	}
	if n := w.queue.count(); n > 2 {
		t.Errorf("two instances wrote %d records", n)
	}
	later := ana.send(ben, "Idempotency-Key", "once")
	if later.status != 200 || later.header.Get("Idempotency-Replayed") != "true" || !cmp.Equal(later.body, answers[0].body) {
		t.Errorf("replay: %d %s", later.status, later.raw)
	}
}

func TestKeyWithAnotherBody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben, eve := w.register("Ana"), w.register("Ben"), w.register("Eve")
	first := ana.send(ben, "Idempotency-Key", "k", "Prefer", "wait=5")
	wantProblem(t, ana.send(eve, "Idempotency-Key", "k"), 422, "idempotency_mismatch")
	wantProblem(t, ana.send(eve, "Idempotency-Key", "k", "Prefer", "wait=2"), 422, "idempotency_mismatch")
	// The same call written another way is the same call.
	again := ana.call("POST", "/api/enhanced-partners/request", "{ \"toUserId\" : \""+ben.id.String()+"\" }", "Idempotency-Key", "k")
	if again.text("commandId") != first.text("commandId") || again.status != 200 {
		t.Errorf("again: %d %s", again.status, again.raw)
	}
	// Another user's key, and the key on another path, are other keys.
	if got := ben.send(eve, "Idempotency-Key", "k", "Prefer", "wait=5"); got.status != 200 {
		t.Errorf("other user: %d %s", got.status, got.raw)
	}
	cancelled := ana.call("DELETE", "/api/enhanced-partners/request/"+first.text("requestId"), nil, "Idempotency-Key", "k", "Prefer", "wait=5")
	if cancelled.status != 200 || cancelled.text("result", "status") != "cancelled" {
		t.Errorf("other path: %d %s", cancelled.status, cancelled.raw)
	}
}

func TestKeyUnderWayWithAnotherBody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben, eve := w.register("Ana"), w.register("Ben"), w.register("Eve")
	w.queue.set(func(q *queue) { q.paused = true })
	if got := ana.send(ben, "Idempotency-Key", "k"); got.status != 202 {
		t.Fatalf("send: %s", got.raw)
	}
	same := ana.send(ben, "Idempotency-Key", "k")
	if same.status != 202 || same.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("same: %d %s", same.status, same.raw)
	}
	wantProblem(t, ana.send(eve, "Idempotency-Key", "k"), 422, "idempotency_mismatch")
	if n := w.queue.count(); n != 1 {
		t.Errorf("%d records", n)
	}
}

func TestTwoBodiesRaceWithOneKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	second := newInstance(t, w.pool, w.queue)
	ana, ben, eve := w.register("Ana"), w.register("Ben"), w.register("Eve")
	for round := range 10 {
		key := "race-" + uuid.NewString()
		var a, b answer
		var wg sync.WaitGroup
		wg.Go(func() { a = ana.send(ben, "Idempotency-Key", key, "Prefer", "wait=5") })
		wg.Go(func() { b = ana.on(second).send(eve, "Idempotency-Key", key, "Prefer", "wait=5") })
		wg.Wait()
		statuses := []int{a.status, b.status}
		slices.Sort(statuses)
		if !cmp.Equal(statuses, []int{200, 422}) && !cmp.Equal(statuses, []int{409, 422}) { // 409: asked in an earlier round
			t.Fatalf("round %d: %v\n%s\n%s", round, statuses, a.raw, b.raw)
		}
	}
}

func TestReplayOutlivesWhatItNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben := w.register("Ana"), w.register("Ben")
	id := ana.send(ben, "Prefer", "wait=5").text("requestId")
	ben.call("PUT", "/api/enhanced-partners/request/"+id+"/accept", nil, "Prefer", "wait=5")
	first := ana.call("POST", "/api/enhanced-partners/remove", nil, "Idempotency-Key", "leave", "Prefer", "wait=5")
	again := ana.call("POST", "/api/enhanced-partners/remove", nil, "Idempotency-Key", "leave")
	if first.status != 200 || again.status != 200 || !cmp.Equal(first.body, again.body) {
		t.Errorf("first %d %s, again %d %s", first.status, first.raw, again.status, again.raw)
	}
}

// Two instances: the one that is asked has not seen the send, which is still queued.
func TestAcceptWaitsForThePipe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	second := newInstance(t, w.pool, w.queue)
	ana, ben := w.register("Ana"), w.register("Ben")
	w.queue.set(func(q *queue) { q.paused = true })
	id := ana.send(ben).text("requestId")

	accept := "/api/enhanced-partners/request/" + id + "/accept"
	slow := ben.on(second).call("PUT", accept, nil, "Prefer", "wait=1")
	wantProblem(t, slow, 503, "behind")
	wantProblem(t, ben.on(second).get("/api/commands/"+uuid.NewString()), 503, "behind")

	got := make(chan answer, 1)
	go func() { got <- ben.on(second).call("PUT", accept, nil, "Prefer", "wait=5") }()
	w.queue.set(func(q *queue) { q.paused = false })
	if a := <-got; a.status != 200 {
		t.Errorf("accept: %d %s", a.status, a.raw)
	}
	wantProblem(t, ben.call("PUT", "/api/enhanced-partners/request/"+uuid.NewString()+"/accept", nil), 404, "not_found")
	wantProblem(t, ben.get("/api/commands/"+uuid.NewString()), 404, "not_found")
}

// At the instance that took the send, memory knows the pair: no wait.
func TestAcceptRightAfterSend(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben := w.register("Ana"), w.register("Ben")
	w.queue.set(func(q *queue) { q.paused = true })
	id := ana.send(ben).text("requestId")
	if got := ben.call("PUT", "/api/enhanced-partners/request/"+id+"/accept", nil); got.status != 202 || got.took > time.Second {
		t.Errorf("accept: %d after %v: %s", got.status, got.took, got.raw)
	}
}

func TestKafkaAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *ingest.Config) { c.Deadline = 300 * time.Millisecond })
	ana, ben := w.register("Ana"), w.register("Ben")
	w.queue.set(func(q *queue) {
		q.beforeAck = func(ctx context.Context, _ contract.Record) error {
			<-ctx.Done() // a dead broker does not answer
			return ctx.Err()
		}
		q.offsetsErr = errors.New("no broker")
	})
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			got := ana.send(ben)
			wantProblem(t, got, 503, "queue_unavailable")
			if got.took > time.Second {
				t.Errorf("took %v", got.took)
			}
		})
	}
	wg.Wait()
	fast := ana.send(ben) // the breaker is open: nobody waits for a deadline any more
	wantProblem(t, fast, 503, "queue_unavailable")
	if fast.took > 200*time.Millisecond {
		t.Errorf("breaker is open, took %v", fast.took)
	}
	if got := ana.get("/api/profile"); got.status != 200 {
		t.Errorf("profile: %d", got.status)
	}
	wantProblem(t, ana.get("/api/commands/"+uuid.NewString()), 503, "queue_unavailable")
	detailed := w.do("GET", "/health/detailed", "", nil, nil)
	kafka := detailed.body["checks"].(map[string]any)["kafka"].(map[string]any)
	if detailed.text("status") != "degraded" || kafka["connected"] != false || kafka["lag"] != nil {
		t.Errorf("detailed: %s", detailed.raw)
	}

	w.queue.set(func(q *queue) { q.beforeAck, q.offsetsErr = nil, nil })
	eventually(t, "service to resume", func() bool { return ana.send(ben).status == 202 })
}

func TestFullBufferIsOverload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben := w.register("Ana"), w.register("Ben")
	w.queue.set(func(q *queue) {
		q.beforeAck = func(context.Context, contract.Record) error { return bus.ErrBufferFull }
	})
	for range 10 { // not the cluster's fault: the breaker stays closed
		wantProblem(t, ana.send(ben), 503, "overloaded")
	}
}

// A command whose writing failed is written again by the next call with its key.
func TestKeyAfterFailedWrite(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben := w.register("Ana"), w.register("Ben")
	w.queue.set(func(q *queue) {
		q.beforeAck = func(context.Context, contract.Record) error { return errors.New("broken") }
	})
	wantProblem(t, ana.send(ben, "Idempotency-Key", "k"), 503, "queue_unavailable")
	w.queue.set(func(q *queue) { q.beforeAck = nil })
	if got := ana.send(ben, "Idempotency-Key", "k", "Prefer", "wait=5"); got.status != 200 || got.header.Get("Idempotency-Replayed") != "" {
		t.Errorf("again: %d %s", got.status, got.raw)
	}
}

func TestPoolFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana := w.register("Ana")
	ana.get("/api/profile")
	for range w.pool.Config().MaxConns {
		conn, err := w.pool.Acquire(t.Context())
		must(t, err)
		defer conn.Release()
	}
	got := ana.get("/api/profile")
	wantProblem(t, got, 503, "database_unavailable")
	if got.took > 4*time.Second {
		t.Errorf("took %v", got.took)
	}
}

func TestPanicIsInternal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben := w.register("Ana"), w.register("Ben")
	w.queue.set(func(q *queue) {
		q.beforeAck = func(context.Context, contract.Record) error { panic("secret") }
	})
	got := ana.send(ben, "Idempotency-Key", "k")
	wantProblem(t, got, 500, "internal")
	if strings.Contains(string(got.raw), "secret") {
		t.Errorf("the panic shows: %s", got.raw)
	}
	w.queue.set(func(q *queue) { q.beforeAck = nil })
	if got := ana.send(ben, "Idempotency-Key", "k", "Prefer", "wait=5"); got.status != http.StatusOK {
		t.Errorf("again: %d %s", got.status, got.raw)
	}
	families, err := w.registry.Gather()
	must(t, err)
	for _, f := range families {
		if f.GetName() == "bondmate_http_panics_total" && f.GetMetric()[0].GetCounter().GetValue() != 1 {
			t.Errorf("panics: %v", f)
		}
	}
}
