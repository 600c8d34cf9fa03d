package realtime_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
	"github.com/bondmate/backend/realtime"
	"github.com/bondmate/backend/realtime/realtimetest"
)

const patience = 20 * time.Second

// topic is an events tail that says exactly what a test makes it say.
type topic struct {
	mu    sync.Mutex
	subs  map[int]func(contract.Event)
	n     int
	ready chan struct{}
}

func newTopic() *topic {
	t := &topic{subs: make(map[int]func(contract.Event)), ready: make(chan struct{})}
	close(t.ready)
	return t
}

func (t *topic) Subscribe(f func(contract.Event)) func() {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.n
	t.n++
	t.subs[n] = f
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.subs, n)
	}
}

func (t *topic) Ready() <-chan struct{} { return t.ready }

func (t *topic) publish(events ...contract.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, ev := range events {
		for _, f := range t.subs {
			f(ev)
		}
	}
}

// control is a tail of the control topic that says exactly what a test makes it say.
type control struct {
	mu   sync.Mutex
	subs map[int]func(contract.SessionRevoked)
	n    int
}

func (c *control) Subscribe(f func(contract.SessionRevoked)) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.n
	c.n++
	if c.subs == nil {
		c.subs = make(map[int]func(contract.SessionRevoked))
	}
	c.subs[n] = f
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.subs, n)
	}
}

func (c *control) ended(of phone) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.subs {
		f(contract.SessionRevoked{UserID: of.user, SessionID: of.session, Reason: contract.RevokedByLogout})
	}
}

// verifier knows the tokens that a test has issued.
type verifier struct {
	mu     sync.Mutex
	tokens map[string]identity.Identity
}

func (v *verifier) Verify(_ context.Context, token string) (identity.Identity, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	id, ok := v.tokens[token]
	switch {
	case !ok:
		return identity.Identity{}, fault.New(fault.Unauthenticated, "unauthenticated", "bad token")
	case !time.Now().Before(id.ExpiresAt):
		return identity.Identity{}, fault.New(fault.Unauthenticated, "token_expired", "old token")
	}
	return id, nil
}

// world is a database with inboxes, a topic, and who may connect.
type world struct {
	t        testing.TB
	pool     *pgxpool.Pool
	topic    *topic
	verifier *verifier
	epoch    string

	mu       sync.Mutex
	eventSeq int64
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		t: t, pool: postgrestest.New(t), topic: newTopic(),
		verifier: &verifier{tokens: make(map[string]identity.Identity)},
	}
	if err := w.pool.QueryRow(t.Context(), `SELECT epoch FROM stream_epoch`).Scan(&w.epoch); err != nil {
		t.Fatal(err)
	}
	return w
}

// gateway is one running instance.
type gateway struct {
	*realtime.Gateway
	url     string
	metrics *prometheus.Registry
	stop    func()
}

// start runs a gateway until the test ends; edit may change its configuration.
func (w *world) start(edit func(*realtime.Config)) *gateway {
	w.t.Helper()
	reg := prometheus.NewRegistry()
	cfg := realtime.Config{
		Pool: w.pool, Verifier: w.verifier, Events: w.topic, Registerer: reg,
		// A machine under load must not make straight events old, unless a test wants it.
		StraightFor: time.Minute, ConfirmedFor: time.Minute,
	}
	if edit != nil {
		edit(&cfg)
	}
	g, err := realtime.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	server := httptest.NewServer(g.Handler())
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
		server.Close()
	})
	w.t.Cleanup(stop)
	gw := &gateway{Gateway: g, url: "ws" + strings.TrimPrefix(server.URL, "http") + "/api/realtime", metrics: reg, stop: stop}
	// Run accepts sockets a moment after it was started.
	w.until("the gateway serves", func() bool {
		c, err := realtimetest.Dial(w.ctx(), gw.url, realtimetest.Options{SkipHello: true})
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	})
	w.until("the probe is gone", func() bool { return gw.value("bondmate_realtime_sockets", "") == 0 })
	return gw
}

func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	w.t.Cleanup(cancel)
	return ctx
}

// until polls a condition that another goroutine makes true.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			w.t.Fatalf("never happened: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// value sums a metric's series whose labels contain a value ("" for all).
func (g *gateway) value(name, label string) float64 {
	families, err := g.metrics.Gather()
	if err != nil {
		return -1
	}
	var sum float64
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if label == "" || hasLabel(m, label) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

func hasLabel(m *dto.Metric, value string) bool {
	for _, l := range m.GetLabel() {
		if l.GetValue() == value {
			return true
		}
	}
	return false
}

// phone is a user with a session and a valid token.
type phone struct {
	user, session uuid.UUID
	token         string
}

func (w *world) phone() phone {
	w.t.Helper()
	user := uuid.New()
	w.exec(`INSERT INTO users (id, display_name, partner_code, created_at) VALUES ($1, 'Robin', $2, now())`,
		user, user.String()[:10])
	w.exec(`INSERT INTO user_streams (user_id) VALUES ($1)`, user)
	return w.session(user)
}

func (w *world) session(user uuid.UUID) phone {
	w.t.Helper()
	p := phone{user: user, session: uuid.New()}
	w.exec(`INSERT INTO sessions (id, user_id, refresh_hash, created_at, last_used_at, expires_at)
		VALUES ($1, $2, $3, now(), now(), now() + interval '1 day')`, p.session, user, p.session[:])
	p.token = w.issue(p, time.Hour)
	return p
}

func (w *world) issue(p phone, ttl time.Duration) string {
	token := uuid.NewString()
	w.verifier.mu.Lock()
	defer w.verifier.mu.Unlock()
	w.verifier.tokens[token] = identity.Identity{
		UserID: p.user, SessionID: p.session, Role: identity.RoleUser, ExpiresAt: time.Now().Add(ttl),
	}
	return token
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.pool.Exec(context.Background(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

// commit appends one event to the users' inboxes as the processor does: sequences from the
// locked stream rows. It returns the record that the relay would publish.
func (w *world) commit(users ...uuid.UUID) contract.Event {
	w.t.Helper()
	ev, err := w.tryCommit(users...)
	if err != nil {
		w.t.Fatal(err)
	}
	return ev
}

func (w *world) tryCommit(users ...uuid.UUID) (contract.Event, error) {
	pair := partner.PairOf(users[0], users[len(users)-1])
	users = []uuid.UUID{pair.Low, pair.High}
	if pair.Solo() {
		users = users[:1]
	}
	ctx := context.Background()
	w.mu.Lock()
	w.eventSeq++
	seq := w.eventSeq
	w.mu.Unlock()
	ev := contract.Event{
		EventID: uuid.New(), Type: partner.EventRequestReceived.String(), Version: 1, CommandID: uuid.New(),
		Pair: pair.String(), Epoch: w.epoch, Seq: seq,
		Data: json.RawMessage(fmt.Sprintf(`{"requestId":%q}`, uuid.NewString())),
	}
	err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		for _, u := range users {
			var next int64
			err := tx.QueryRow(ctx, `UPDATE user_streams SET last_seq = last_seq + 1 WHERE user_id = $1 RETURNING last_seq`, u).Scan(&next)
			if err != nil {
				return err
			}
			ev.Recipients = append(ev.Recipients, contract.Recipient{UserID: u, InboxSeq: next})
		}
		ev.AppliedAt = contract.Instant(time.Now())
		ev.AcceptedAt = ev.AppliedAt
		batch := &pgx.Batch{}
		batch.Queue(`INSERT INTO events (partition, seq, topic, id, type, command_id, low, high, accepted_at, applied_at, data)
			VALUES (0, $1, 1, $2, $3, $4, $5, $6, $7, $7, $8)`, seq, ev.EventID, int16(partner.EventRequestReceived),
			ev.CommandID, pair.Low, pair.High, ev.AppliedAt, ev.Data)
		for _, r := range ev.Recipients {
			batch.Queue(`INSERT INTO inbox (user_id, seq, partition, event_seq) VALUES ($1, $2, 0, $3)`, r.UserID, r.InboxSeq, seq)
		}
		return tx.SendBatch(ctx, batch).Close()
	})
	return ev, err
}

// cut takes back the events after one sequence up to another, as an ending does (G9).
func (w *world) cut(user uuid.UUID, after, last int64) {
	w.t.Helper()
	origin := uuid.New()
	w.exec(`UPDATE inbox SET origin = $2 WHERE user_id = $1 AND seq > $3 AND seq <= $4`, user, origin, after, last)
	w.exec(`INSERT INTO cuts (recipient, origin, after_seq, last_seq, made_at) VALUES ($1, $2, $3, $4, now())`, user, origin, after, last)
}

func (w *world) commitN(user uuid.UUID, n int) []contract.Event {
	w.t.Helper()
	out := make([]contract.Event, n)
	for i := range out {
		out[i] = w.commit(user)
	}
	return out
}

func (w *world) dial(g *gateway, p phone, o realtimetest.Options) *realtimetest.Conn {
	w.t.Helper()
	if o.Token == "" && o.Ticket == "" {
		o.Token = p.token
	}
	c, err := realtimetest.Dial(w.ctx(), g.url, o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

// connect dials and returns the ready frame too.
func (w *world) connect(g *gateway, p phone, o realtimetest.Options) (*realtimetest.Conn, realtimetest.Frame) {
	w.t.Helper()
	c := w.dial(g, p, o)
	return c, w.next(c, "ready")
}

func (w *world) next(c *realtimetest.Conn, op string) realtimetest.Frame {
	w.t.Helper()
	f, err := c.Next(w.ctx())
	if err != nil {
		w.t.Fatalf("wait for %s: %v", op, err)
	}
	if f.Op != op {
		w.t.Fatalf("frame is %+v, want op %s", f, op)
	}
	return f
}

// events reads n event frames, which must be from..from+n-1, with nothing in between.
func (w *world) events(c *realtimetest.Conn, from int64, n int) []realtimetest.Frame {
	w.t.Helper()
	out := make([]realtimetest.Frame, 0, n)
	for i := range n {
		f := w.next(c, "event")
		if f.Seq != from+int64(i) {
			w.t.Fatalf("event has seq %d, want %d", f.Seq, from+int64(i))
		}
		out = append(out, f)
	}
	return out
}

// quiet fails when anything but the pong comes before it, and returns its head.
func (w *world) quiet(c *realtimetest.Conn) int64 {
	w.t.Helper()
	if err := c.Ping(); err != nil {
		w.t.Fatal(err)
	}
	return w.next(c, "pong").Seq
}

// closed reads until the server closes and returns how.
func (w *world) closed(c *realtimetest.Conn) *realtimetest.CloseError {
	w.t.Helper()
	ctx := w.ctx()
	for {
		_, err := c.Next(ctx)
		if err == nil {
			continue
		}
		closed, ok := errors.AsType[*realtimetest.CloseError](err)
		if !ok {
			w.t.Fatalf("connection ended with %v, want a close frame", err)
		}
		return closed
	}
}

func (w *world) wantClose(c *realtimetest.Conn, code int) *realtimetest.CloseError {
	w.t.Helper()
	got := w.closed(c)
	if got.Code != code {
		w.t.Fatalf("closed with %v, want %d", got, code)
	}
	return got
}
