package ingest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/ingest"
	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/ingest/admin"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

const partitions = 3

// devKeys is one key for the whole test process: making one takes a while.
var devKeys = sync.OnceValues(func() (*identity.Keys, error) {
	dir, err := os.MkdirTemp("", "ingest-keys-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	return identity.LoadOrCreateDevelopmentKeys(dir)
})

// world is a server over a database of its own and a queue in memory.
type world struct {
	t        *testing.T
	pool     *pgxpool.Pool
	admin    *admin.Service
	queue    *queue
	registry *prometheus.Registry
	url      string
	router   routers.Router
}

type option func(*ingest.Config)

func newWorld(t *testing.T, options ...option) *world {
	t.Helper()
	pool := postgrestest.New(t)
	w := newInstance(t, pool, newQueue(t, pool), options...)
	w.queue.start()
	return w
}

// newInstance is one more server on the same database and queue.
func newInstance(t *testing.T, pool *pgxpool.Pool, q *queue, options ...option) *world {
	t.Helper()
	keys, err := devKeys()
	must(t, err)
	issuer, err := identity.NewIssuer(identity.IssuerConfig{Keys: keys, Issuer: "test", Audience: "test", Clock: time.Now})
	must(t, err)
	verifier, err := identity.NewVerifier(identity.VerifierConfig{Keys: keys, Issuer: "test", Audience: "test", Clock: time.Now})
	must(t, err)
	passwords, err := identity.NewPasswords(identity.PasswordConfig{Memory: 64, Iterations: 1})
	must(t, err)
	log := slog.New(slog.DiscardHandler)
	service, err := accounts.New(accounts.Config{Pool: pool, Issuer: issuer, Passwords: passwords, Clock: time.Now, Log: log})
	must(t, err)
	administration, err := admin.New(admin.Config{Pool: pool, Partitions: partitions, Clock: time.Now, Log: log})
	must(t, err)
	registry := prometheus.NewRegistry()
	cfg := ingest.Config{
		Pool: pool, Publisher: q, Offsets: q, Events: q, Topics: contract.NewTopics("test"), Partitions: partitions,
		Accounts: service, Admin: administration, Verifier: verifier, Keys: keys, Log: log, Registerer: registry, Clock: time.Now,
	}
	for _, o := range options {
		o(&cfg)
	}
	server, err := ingest.New(cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	front := httptest.NewServer(server.Handler())
	t.Cleanup(func() {
		front.Close()
		cancel()
		if runErr := <-done; runErr != nil {
			t.Errorf("run: %v", runErr)
		}
	})
	spec, err := openapi3.NewLoader().LoadFromFile("openapi.yaml")
	must(t, err)
	spec.Servers = nil // they are relative, and the router wants hosts
	router, err := legacy.NewRouter(spec)
	must(t, err)
	return &world{t: t, pool: pool, admin: administration, queue: q, registry: registry, url: front.URL, router: router}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// answer is a response, already held against the OpenAPI document.
type answer struct {
	status int
	header http.Header
	body   map[string]any
	raw    []byte
	took   time.Duration
}

func (a answer) code() string { s, _ := a.body["code"].(string); return s }

func (a answer) text(path ...string) string {
	var v any = a.body
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	s, _ := v.(string)
	return s
}

// user is a registered account with its token.
type user struct {
	id    uuid.UUID
	code  string
	token string
	w     *world
}

func (w *world) register(name string) user {
	w.t.Helper()
	got := w.do(http.MethodPost, "/api/auth/register", "", nil, map[string]any{
		"email": name + "-" + uuid.NewString() + "@example.org", "password": "a long pass phrase", "displayName": name,
	})
	if got.status != http.StatusCreated {
		w.t.Fatalf("register %s: %d %s", name, got.status, got.raw)
	}
	return user{id: uuid.MustParse(got.text("user", "id")), code: got.text("user", "partnerCode"), token: got.text("accessToken"), w: w}
}

// on is the same user at another instance.
func (u user) on(w *world) user { u.w = w; return u }

func (u user) get(path string) answer {
	u.w.t.Helper()
	return u.w.do(http.MethodGet, path, u.token, nil, nil)
}

// call sends a command; header is pairs of name and value.
func (u user) call(method, path string, body any, header ...string) answer {
	u.w.t.Helper()
	return u.w.do(method, path, u.token, header, body)
}

func (u user) send(to user, header ...string) answer {
	u.w.t.Helper()
	return u.call(http.MethodPost, "/api/enhanced-partners/request", map[string]any{"toUserId": to.id}, header...)
}

// do makes a call and validates its answer. A body that is a string is sent as it is.
func (w *world) do(method, path, token string, header []string, body any) answer {
	w.t.Helper()
	a, err := w.try(method, path, token, header, body)
	if err != nil {
		w.t.Errorf("%s %s: %v", method, path, err)
	}
	return a
}

func (w *world) try(method, path, token string, header []string, body any) (answer, error) {
	var reader io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		reader = bytes.NewReader([]byte(body))
	default:
		data, err := json.Marshal(body)
		if err != nil {
			return answer{}, err
		}
		reader = bytes.NewReader(data)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, w.url+path, reader)
	if err != nil {
		return answer{}, err
	}
	if reader != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	began := time.Now()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{status: res.StatusCode, header: res.Header, raw: raw, took: time.Since(began)}
	if len(raw) > 0 && bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{")) {
		if err := json.Unmarshal(raw, &a.body); err != nil {
			return a, fmt.Errorf("answer is not JSON: %w", err)
		}
	}
	return a, w.validate(req, a)
}

// validate holds an answer against the document; a route that is not in it must be a problem.
func (w *world) validate(req *http.Request, a answer) error {
	if a.header.Get("X-Request-Id") == "" {
		return errors.New("answer has no X-Request-Id")
	}
	route, params, err := w.router.FindRoute(req)
	if err != nil {
		if a.status != http.StatusNotFound && a.status != http.StatusMethodNotAllowed {
			return fmt.Errorf("route is not in the document: %w", err)
		}
		return nil
	}
	return openapi3filter.ValidateResponse(req.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route},
		Status:                 a.status, Header: a.header, Body: io.NopCloser(bytes.NewReader(a.raw)),
		Options: &openapi3filter.Options{
			IncludeResponseStatus: true, MultiError: true,
			ExcludeResponseBody: !strings.Contains(a.header.Get("Content-Type"), "json"),
		},
	})
}

// wantProblem checks a problem's status and code.
func wantProblem(t *testing.T, a answer, status int, code string) {
	t.Helper()
	if a.status != status || a.code() != code {
		t.Errorf("got %d %q, want %d %q: %s", a.status, a.code(), status, code, a.raw)
	}
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("content type is %q", got)
	}
	if status == http.StatusServiceUnavailable && a.header.Get("Retry-After") == "" {
		t.Error("503 has no Retry-After")
	}
}

// eventually polls until ok, or fails.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// queue is the commands topic, a processor of the simplest kind and the events tail, all
// in memory but for the rows.
type queue struct {
	t     *testing.T
	pool  *pgxpool.Pool
	ready chan struct{}

	mu         sync.Mutex
	log        [partitions][]contract.Record
	applied    [partitions]int64
	paused     bool
	silent     bool // apply without telling
	beforeAck  func(ctx context.Context, rec contract.Record) error
	offsetsErr error
	subs       map[int]func(contract.Event)
	nextSub    int
	written    int
	newest     contract.Record
	wake       chan struct{}
}

func newQueue(t *testing.T, pool *pgxpool.Pool) *queue {
	q := &queue{t: t, pool: pool, ready: make(chan struct{}), subs: map[int]func(contract.Event){}, wake: make(chan struct{}, 1)}
	close(q.ready)
	return q
}

func (q *queue) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-q.wake:
			}
			for q.applyNext(ctx) {
			}
		}
	}()
	q.t.Cleanup(func() { cancel(); <-done })
}

func (q *queue) set(change func(*queue)) {
	q.mu.Lock()
	change(q)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) count() int { q.mu.Lock(); defer q.mu.Unlock(); return q.written }

func (q *queue) Produce(ctx context.Context, rec contract.Record) error {
	q.mu.Lock()
	before := q.beforeAck
	q.mu.Unlock()
	if before != nil {
		if err := before(ctx, rec); err != nil {
			return err
		}
	}
	q.set(func(q *queue) {
		q.log[rec.Partition] = append(q.log[rec.Partition], rec)
		q.newest = rec
		q.written++
	})
	return nil
}

func (q *queue) Offsets(context.Context, string) (start, end []int64, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for p := range q.log {
		start, end = append(start, 0), append(end, int64(len(q.log[p])))
	}
	return start, end, q.offsetsErr
}

func (q *queue) Subscribe(handle func(contract.Event)) (cancel func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	id := q.nextSub
	q.nextSub++
	q.subs[id] = handle
	return func() { q.mu.Lock(); defer q.mu.Unlock(); delete(q.subs, id) }
}

func (q *queue) Ready() <-chan struct{} { return q.ready }

func (q *queue) applyNext(ctx context.Context) bool {
	q.mu.Lock()
	var rec contract.Record
	found := false
	for p := range q.log {
		if !q.paused && q.applied[p] < int64(len(q.log[p])) {
			rec, found = q.log[p][q.applied[p]], true
			break
		}
	}
	q.mu.Unlock()
	if !found {
		return false
	}
	cmd, _, err := contract.DecodeCommand(rec)
	if err != nil {
		q.t.Errorf("decode: %v", err)
		return false
	}
	if err := q.apply(ctx, cmd, rec.Partition); err != nil {
		if ctx.Err() == nil {
			q.t.Errorf("apply %s: %v", cmd.Type, err)
		}
		return false
	}
	q.mu.Lock()
	q.applied[rec.Partition]++
	var subs []func(contract.Event)
	for _, s := range q.subs {
		subs = append(subs, s)
	}
	silent := q.silent
	q.mu.Unlock()
	for _, s := range subs {
		if !silent {
			s(contract.Event{CommandID: cmd.ID, Type: "test"})
		}
	}
	return true
}

// apply follows the rules just far enough for the answers that are tested here.
func (q *queue) apply(ctx context.Context, cmd partner.Command, partition int) error {
	now := time.Now().UTC().Truncate(time.Microsecond)
	result, code := map[string]any{}, ""
	exec := func(sql string, args ...any) int64 {
		tag, err := q.pool.Exec(ctx, sql, args...)
		if err != nil && ctx.Err() == nil {
			q.t.Errorf("%s: %v", sql, err)
		}
		return tag.RowsAffected()
	}
	var known int
	if err := q.pool.QueryRow(ctx, `SELECT count(*) FROM commands WHERE id = $1`, cmd.ID).Scan(&known); err != nil {
		return err
	}
	other := cmd.Pair.Other(cmd.Issuer)
	if known == 0 {
		switch cmd.Type {
		case partner.Send:
			id := partner.RequestIDOf(cmd.ID)
			var exists bool
			if err := q.pool.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM users WHERE id = $1)`, other).Scan(&exists); err != nil {
				return err
			}
			switch {
			case cmd.Pair.Solo():
				code = "self_request"
			case !exists:
				code = "user_not_found"
			case exec(`INSERT INTO requests (id, sender, target, message, status, created_at, expires_at)
				VALUES ($1, $2, $3, $4, 1, $5, $6) ON CONFLICT DO NOTHING`,
				id, cmd.Issuer, other, cmd.Message, now, now.Add(7*24*time.Hour)) == 0:
				code = "request_pending"
			default:
				result["requestId"], result["status"] = id, "pending"
			}
		case partner.Accept:
			if exec(`UPDATE requests SET status = 2, resolved_at = $3 WHERE id = $1 AND target = $2 AND status = 1`, cmd.RequestID, cmd.Issuer, now) == 0 {
				code = "not_pending"
				break
			}
			id := uuid.NewSHA1(cmd.ID, []byte("partnership"))
			exec(`INSERT INTO partnerships (id, low, high, status, started_at, version) VALUES ($1, $2, $3, 1, $4, 1)`, id, cmd.Pair.Low, cmd.Pair.High, now)
			exec(`INSERT INTO partnership_members (partnership_id, user_id, slot, active) VALUES ($1, $2, 1, true), ($1, $3, 1, true)`, id, cmd.Pair.Low, cmd.Pair.High)
			result["requestId"], result["partnershipId"], result["startedAt"], result["restored"] = cmd.RequestID, id, now, false
		case partner.Decline, partner.Cancel:
			status, column := 3, "target"
			if cmd.Type == partner.Cancel {
				status, column = 4, "sender"
			}
			if exec(`UPDATE requests SET status = $3, resolved_at = $4 WHERE id = $1 AND `+column+` = $2 AND status = 1`, cmd.RequestID, cmd.Issuer, status, now) == 0 {
				code = "not_pending"
			}
			result["requestId"], result["status"] = cmd.RequestID, partner.RequestStatus(status).String()
		case partner.Remove:
			if exec(`UPDATE partnerships SET status = 2, ended_at = $3, restorable_until = $4, ended_by = $5, reason = $6
				WHERE low = $1 AND high = $2 AND status = 1`, cmd.Pair.Low, cmd.Pair.High, now, now.Add(720*time.Hour), cmd.Issuer, cmd.Reason) == 0 {
				code = "not_current"
			}
			exec(`UPDATE partnership_members SET active = false WHERE user_id = ANY ($1)`, []uuid.UUID{cmd.Pair.Low, cmd.Pair.High})
			result["endedAt"] = now
		default:
			return fmt.Errorf("unexpected %s", cmd.Type)
		}
		status, data := 1, any(result)
		var codeText *string
		if code != "" {
			status, data, codeText = 2, nil, &code
		}
		seq := q.note(ctx, cmd, partition, now)
		exec(`INSERT INTO commands (id, issuer, type, fingerprint, status, code, result, seq, accepted_at, applied_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
			cmd.ID, cmd.Issuer, int16(cmd.Type), cmd.Fingerprint[:], status, codeText, data, seq, cmd.AcceptedAt, now)
	}
	exec(`INSERT INTO processor_partitions (partition, next_offset) VALUES ($1, 1)
		ON CONFLICT (partition) DO UPDATE SET next_offset = processor_partitions.next_offset + 1`, partition)
	return ctx.Err()
}

// note appends one event to the issuer's inbox.
func (q *queue) note(ctx context.Context, cmd partner.Command, partition int, now time.Time) int64 {
	var seq int64
	err := q.pool.QueryRow(ctx, `
		WITH head AS (UPDATE user_streams SET last_seq = last_seq + 1 WHERE user_id = $1 RETURNING last_seq),
		ev AS (INSERT INTO events (partition, seq, topic, id, type, command_id, low, high, accepted_at, applied_at, data)
			SELECT $2, (SELECT count(*) + 1 FROM events), 1, $3, 13, $4, $5, $6, $7, $7, '{"a":1}' RETURNING seq),
		box AS (INSERT INTO inbox (user_id, seq, partition, event_seq) SELECT $1, last_seq, $2, ev.seq FROM head, ev)
		SELECT last_seq FROM head`,
		cmd.Issuer, partition, uuid.New(), cmd.ID, cmd.Pair.Low, cmd.Pair.High, now).Scan(&seq)
	if err != nil && ctx.Err() == nil {
		q.t.Errorf("note: %v", err)
	}
	return seq
}
