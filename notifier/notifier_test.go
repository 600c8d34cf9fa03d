package notifier

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/embedded/fcm"
	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

// patience bounds every wait of these tests: much longer than anything takes here.
const patience = 20 * time.Second

// world is a database and a push provider of a test's own.
type world struct {
	t    testing.TB
	pool *pgxpool.Pool
	fcm  *fcm.Server
	reg  *prometheus.Registry
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, pool: postgrestest.New(t), reg: prometheus.NewRegistry()}
	var err error
	if w.fcm, err = fcm.New(fcm.Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	w.background(w.fcm.Run)
	return w
}

// background runs something until the test ends, or the returned function is called.
func (w *world) background(run func(context.Context) error) (stop func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	var stopped bool
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				w.t.Errorf("run: %v", err)
			}
		case <-time.After(patience):
			w.t.Error("did not stop")
		}
	}
	w.t.Cleanup(stop)
	return stop
}

func (w *world) provider() *Firebase {
	w.t.Helper()
	f, err := NewFirebase(w.t.Context(), FirebaseConfig{CredentialsFile: w.fcm.CredentialsFile(), Endpoint: w.fcm.Endpoint()})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(f.Close)
	return f
}

// config is one with short waits.
func (w *world) config() Config {
	return Config{
		Bus: noBus{}, Group: bus.GroupConfig{ID: "test-notifier", Topic: "test.events"}, DeadLetter: "test.deadletter",
		Outcomes: "test.pushes", Partitions: 12,
		Pool: w.pool, Provider: w.provider(), Log: slog.New(slog.DiscardHandler), Registerer: w.reg,
		Grace: -1, CallTimeout: 2 * time.Second, PollInterval: 50 * time.Millisecond,
		BreakerTimeout: 100 * time.Millisecond, DrainTimeout: 2 * time.Second,
		RetryBase: 10 * time.Millisecond, RetryCap: 50 * time.Millisecond, QuotaWait: 20 * time.Millisecond,
	}
}

func (w *world) notifier(cfg Config) *Notifier {
	w.t.Helper()
	n, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// noBus is a Kafka without records.
type noBus struct{}

func (noBus) RunGroup(ctx context.Context, _ bus.GroupConfig, _ func(context.Context, bus.Generation) error) error {
	<-ctx.Done()
	return nil
}

func (noBus) Write(context.Context, []contract.Record) error { return nil }

func (noBus) OpenPartition(string, int, int64) *bus.PartitionReader { return nil }

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.pool.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

func query[T any](w *world, sql string, args ...any) T {
	w.t.Helper()
	var out T
	if err := w.pool.QueryRow(w.t.Context(), sql, args...).Scan(&out); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return out
}

// phone is a user with one session and one device.
type phone struct {
	user, session, device uuid.UUID
	token                 string
}

func (w *world) phone(token string) phone {
	w.t.Helper()
	p := phone{user: uuid.New(), session: uuid.New(), device: uuid.New(), token: token}
	now := time.Now()
	w.exec(`INSERT INTO users (id, display_name, partner_code, created_at) VALUES ($1, 'x', $2, $3)`,
		p.user, p.user.String()[:10], now)
	w.exec(`INSERT INTO sessions (id, user_id, refresh_hash, created_at, last_used_at, expires_at) VALUES ($1, $2, $3, $4, $4, $5)`,
		p.session, p.user, p.session[:], now, now.Add(time.Hour))
	w.exec(`INSERT INTO devices (id, user_id, session_id, kind, value, platform, created_at, updated_at)
		VALUES ($1, $2, $3, 'fcm', $4, 'android', $5, $5)`, p.device, p.user, p.session, token, now)
	return p
}

// received returns a request.received from a stranger to users at inbox sequence 1, 2, ….
func received(seq int64, to ...uuid.UUID) contract.Event {
	from, request := uuid.New(), uuid.New()
	return event(partner.EventRequestReceived, partner.EventData{FromUserID: &from, RequestID: &request}, seq, to...)
}

func event(kind partner.EventType, data partner.EventData, seq int64, to ...uuid.UUID) contract.Event {
	b, err := json.Marshal(data)
	if err != nil {
		panic(err)
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	ev := contract.Event{
		EventID: uuid.New(), Type: kind.String(), Version: 1, CommandID: uuid.New(),
		Pair: partner.PairOf(uuid.New(), uuid.New()).String(), Epoch: "e1", Seq: seq, AcceptedAt: now, AppliedAt: now, Data: b,
	}
	for _, u := range to {
		ev.Recipients = append(ev.Recipients, contract.Recipient{UserID: u, InboxSeq: seq})
	}
	return ev
}

func record(t testing.TB, ev contract.Event, offset int64) contract.Record {
	t.Helper()
	rec, err := contract.EncodeEvent("test.events", 0, ev)
	if err != nil {
		t.Fatal(err)
	}
	rec.Offset = offset
	return rec
}

// deliver writes events as the consumer does.
func (w *world) deliver(n *Notifier, events ...contract.Event) {
	w.t.Helper()
	var batch []contract.Record
	for i, ev := range events {
		batch = append(batch, record(w.t, ev, int64(i)))
	}
	if err := n.consumer.persist(w.t.Context(), batch); err != nil {
		w.t.Fatal(err)
	}
}

// await polls until a condition holds.
func (w *world) await(what string, holds func() bool) {
	w.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			w.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// awaitSettled waits until n deliveries are settled, and returns how many by outcome.
func (w *world) awaitSettled(n int) map[Outcome]int {
	w.t.Helper()
	w.await("settled deliveries", func() bool {
		return query[int](w, `SELECT count(*) FROM push_deliveries WHERE status = 3`) >= n
	})
	return w.outcomes()
}

func (w *world) outcomes() map[Outcome]int {
	w.t.Helper()
	rows, err := w.pool.Query(w.t.Context(), `SELECT outcome, count(*) FROM push_deliveries WHERE status = 3 GROUP BY 1`)
	if err != nil {
		w.t.Fatal(err)
	}
	defer rows.Close()
	out := map[Outcome]int{}
	for rows.Next() {
		var (
			outcome Outcome
			n       int
		)
		if err := rows.Scan(&outcome, &n); err != nil {
			w.t.Fatal(err)
		}
		out[outcome] = n
	}
	if err := rows.Err(); err != nil {
		w.t.Fatal(err)
	}
	return out
}

// statuses returns how the provider answered the calls for a token, in order.
func (w *world) statuses(token string) []int {
	var out []int
	for _, p := range w.fcm.Recent(token) {
		out = append(out, p.Status)
	}
	return out
}

// counter returns the sum of a metric's series that have a label value, or all for "".
func (w *world) counter(name, label string) float64 {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	var sum float64
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			match := label == ""
			for _, l := range m.GetLabel() {
				match = match || l.GetValue() == label
			}
			if match {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}
