package main

import (
	"bufio"
	"context"
	"crypto/md5"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/realtime/realtimetest"
)

// siege is a town under attack, and what its handlers leave behind when one is reached.
type siege struct {
	*town
	db   *pgxpool.Pool
	spec *openapi3.T
}

func newSiege(t *testing.T) *siege {
	t.Helper()
	w := newTown(t, "RATE_LIMITS=off")
	db, err := pgxpool.New(t.Context(), address(t, w.dir, "postgres.dsn"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return &siege{town: w, db: db, spec: document(t)}
}

// closed returns the operations that need a caller, as method and path with ids in it; not
// the WebSocket, which is another handler and also takes a ticket.
func (s *siege) closed() []string {
	var calls []string
	for template, item := range s.spec.Paths.Map() {
		for method, op := range item.Operations() {
			security := s.spec.Security
			if op.Security != nil {
				security = *op.Security
			}
			if len(security) > 0 && template != "/api/realtime" {
				calls = append(calls, method+" "+regexp.MustCompile(`\{[^}]+\}`).ReplaceAllString(template, uuid.NewString()))
			}
		}
	}
	slices.Sort(calls)
	return calls
}

// footprint is everything that is stored: of each table how many rows and a sum over them.
// What the processor notes of its own, with nobody asking, is left out.
func (s *siege) footprint(t *testing.T) map[string]string {
	t.Helper()
	rows, err := s.db.Query(t.Context(), `SELECT table_name::text FROM information_schema.tables
		WHERE table_schema = 'public' AND table_type = 'BASE TABLE' AND table_name NOT IN ('processor_partitions', 'retention_progress')`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if len(tables) < 25 {
		t.Fatalf("only %v", tables)
	}
	sums := map[string]string{}
	for _, table := range tables {
		rows, err := s.db.Query(t.Context(), `SELECT x::text FROM `+pgx.Identifier{table}.Sanitize()+` x ORDER BY 1`)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		sums[table] = fmt.Sprintf("%d rows %x", len(lines), md5.Sum([]byte(strings.Join(lines, "\n"))))
	}
	return sums
}

// settled waits until nothing is on its way any more that calls before have set off.
func (s *siege) settled(t *testing.T) {
	t.Helper()
	deadline, tick := time.After(30*time.Second), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for {
		var due, behind int
		err := s.db.QueryRow(t.Context(), `SELECT
			(SELECT count(*) FROM timers WHERE due_at <= now()),
			(SELECT count(*) FROM processor_partitions WHERE relayed_seq < event_seq)`).Scan(&due, &behind)
		if err != nil {
			t.Fatal(err)
		}
		if due == 0 && behind == 0 {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("not settled: %d timers are due, %d partitions have something to publish", due, behind)
		case <-tick.C:
		}
	}
}

// untouched runs do, and fails the test when anything is stored after it that was not
// before: a handler has been reached.
func (s *siege) untouched(t *testing.T, do func()) {
	t.Helper()
	s.settled(t)
	before := s.footprint(t)
	do()
	if diff := cmp.Diff(before, s.footprint(t)); diff != "" {
		t.Errorf("a handler was reached; what is stored (-before +after):\n%s", diff)
	}
}

// knock makes a call that must be refused as 401 with a code, and with nothing else.
func (s *siege) knock(t *testing.T, name, call, code string, dress func(*http.Request)) {
	t.Helper()
	method, path, _ := strings.Cut(call, " ")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	dress(r)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatalf("%s: %s: %v", name, call, err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var problem struct{ Code string }
	if err := json.Unmarshal(raw, &problem); err != nil || res.StatusCode != http.StatusUnauthorized || problem.Code != code {
		t.Errorf("%s: %s: got %d %s, want 401 %s", name, call, res.StatusCode, raw, code)
		return
	}
	if res.Header.Get("WWW-Authenticate") == "" || !strings.HasPrefix(res.Header.Get("Content-Type"), "application/problem+json") {
		t.Errorf("%s: %s: headers %v", name, call, res.Header)
	}
	if strings.Contains(string(raw), "jwt") || strings.Contains(string(raw), "key") {
		t.Errorf("%s: %s: the answer says why: %s", name, call, raw)
	}
}

func bearer(token string) func(*http.Request) {
	return func(r *http.Request) { r.Header["Authorization"] = []string{"Bearer " + token} }
}

// asSocket makes an upgrade of the call.
func asSocket(dress func(*http.Request)) func(*http.Request) {
	return func(r *http.Request) {
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", "websocket")
		r.Header.Set("Sec-WebSocket-Version", "13")
		r.Header.Set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
		r.Header.Set("Sec-WebSocket-Protocol", "bondmate.v1")
		dress(r)
	}
}

// dial opens a socket, with a query if there is one; the first frame or the end is the test's.
func (s *siege) dial(t *testing.T, o realtimetest.Options, query ...string) *realtimetest.Conn {
	t.Helper()
	conn, err := realtimetest.Dial(t.Context(), "ws"+strings.TrimPrefix(s.url, "http")+"/api/realtime"+strings.Join(query, ""), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// closedAs waits for the server to close a socket.
func closedAs(t *testing.T, name string, conn *realtimetest.Conn, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		_, err := conn.Next(ctx)
		if err == nil {
			continue
		}
		if closed, ok := errors.AsType[*realtimetest.CloseError](err); !ok || closed.Code != code {
			t.Errorf("%s: %v, want close code %d", name, err, code)
		}
		return
	}
}

// The table of attacks on tokens, against everything that runs: every operation that needs
// a caller, the WebSocket's upgrade, and its auth message. None gets further than a 401:
// nothing is stored that was not before, no line in the activity log and no command.
func TestForgedTokens(t *testing.T) {
	t.Parallel()
	s := newSiege(t)
	ana, ben := s.couple(t, "Ana", "Ben")
	ana.call("POST", "/api/nicknames", map[string]any{"targetUserId": ben.id, "nickname": "Bär"}).want(200)
	ticket := func() string { return ana.call("POST", "/api/realtime/ticket", nil).want(200).text("ticket") }
	login := (&person{t: t, in: s.town, name: "Ana"}).call("POST", "/api/auth/login", map[string]any{"email": ana.email, "password": secret}).want(200)
	f := newForger(t, s.town, ana)
	forged := f.tokens(map[string]string{
		"a refresh token": login.text("refreshToken"), "a ticket": ticket(), "a partner code": ana.code, "a password": secret,
	})
	calls := s.closed()
	if len(calls) < 60 {
		t.Fatalf("only %d operations need a caller: %v", len(calls), calls)
	}
	t.Logf("%d tokens, %d other places for one, %d operations", len(forged), len(f.places()), len(calls))

	// That the forger's tokens are good but for what is said of them, and how a good one may be sent.
	for name, token := range map[string]string{"the forger's own": f.claims(nil), "its issuer's": f.valid} {
		for _, scheme := range []string{"Bearer", "bearer", "BEARER"} {
			header := http.Header{"Authorization": {scheme + " " + token}}
			if got := ana.callWith("GET", "/api/profile", nil, header).want(200).text("id"); got != ana.id.String() {
				t.Fatalf("%s: the profile of %s", name, got)
			}
		}
	}

	t.Run("HTTP", func(t *testing.T) {
		s.untouched(t, func() {
			for name, forged := range forged {
				for _, call := range calls {
					s.knock(t, name, call, forged.code, bearer(forged.token))
				}
			}
			for name, dress := range f.places() {
				for _, call := range calls {
					s.knock(t, name, call, "unauthenticated", dress)
				}
			}
		})
	})
	t.Run("WebSocket upgrade", func(t *testing.T) {
		s.untouched(t, func() {
			for name, forged := range forged {
				if name == "a session that never was" || name == "the session of another's, ours" {
					continue // the hello asks for the session: below
				}
				s.knock(t, name, "GET /api/realtime", forged.code, asSocket(bearer(forged.token)))
			}
			for name, dress := range f.places() {
				probe := &http.Request{Header: http.Header{}, URL: &url.URL{}}
				if dress(probe); probe.Header["Authorization"] != nil {
					s.knock(t, name, "GET /api/realtime", "unauthenticated", asSocket(dress))
				}
			}
		})
	})
	t.Run("WebSocket hello", func(t *testing.T) {
		s.untouched(t, func() {
			for _, name := range []string{"a session that never was", "the session of another's, ours"} {
				closedAs(t, name, s.dial(t, realtimetest.Options{Token: forged[name].token}), 4004)
			}
			// A token where the ticket belongs, or where nothing is looked for: not known who calls.
			for name, o := range map[string]realtimetest.Options{
				"nothing":                      {},
				"an access token for a ticket": {Ticket: f.valid},
				"a refresh token for a ticket": {Ticket: login.text("refreshToken")},
				"a ticket that never was":      {Ticket: uuid.NewString()},
				"a ticket with a zero byte":    {Ticket: "\x00"},
				"a token in a cookie":          {Header: http.Header{"Cookie": {"access_token=" + f.valid}}},
				"a token as a subprotocol":     {Subprotocols: []string{"bondmate.v1", f.valid}},
			} {
				closedAs(t, name, s.dial(t, o), 4001)
			}
			closedAs(t, "a token in the query", s.dial(t, realtimetest.Options{}, "?access_token="+f.valid+"&ticket="+f.valid), 4001)
		})
	})
	t.Run("a ticket twice", func(t *testing.T) {
		once := ticket()
		if _, err := s.dial(t, realtimetest.Options{Ticket: once}).NextOp(t.Context(), "ready"); err != nil {
			t.Fatal(err)
		}
		closedAs(t, "twice", s.dial(t, realtimetest.Options{Ticket: once}), 4001)
	})
	t.Run("WebSocket auth message", func(t *testing.T) {
		conn := s.dial(t, realtimetest.Options{Token: f.valid})
		for name, forged := range forged {
			if len(forged.token) > 4000 {
				continue // a message that large closes the socket: below
			}
			if name == "a session that never was" || name == "the session of another's, ours" {
				forged.code = "forbidden" // a good token of somebody else
			}
			if err := conn.Auth(forged.token); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			refused, err := conn.NextOp(t.Context(), "error")
			if err != nil || refused.Code != forged.code {
				t.Errorf("%s: got %q, %v, want %s", name, refused.Code, err, forged.code)
			}
		}
		if err := conn.Ping(); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.NextOp(t.Context(), "pong"); err != nil {
			t.Errorf("the socket did not stay: %v", err)
		}
		_ = conn.Auth(strings.Repeat("A", 1<<20)) // the server may hang up before it is all sent
		closedAs(t, "huge", conn, 1009)
	})
	t.Run("huge", func(t *testing.T) {
		s.untouched(t, func() {
			for _, path := range []string{"/api/profile", "/api/realtime"} {
				if status := headerOf(t, s.url, path, "Bearer "+strings.Repeat("A", 1<<20)); status != http.StatusRequestHeaderFieldsTooLarge {
					t.Errorf("%s: a header of 1 MB: %d, want 431", path, status)
				}
			}
			if status := headerOf(t, s.url, "/api/profile", "Bearer "+strings.Repeat("A", 20<<10)); status != http.StatusUnauthorized {
				t.Errorf("a token of 20 KiB: %d, want 401", status)
			}
		})
	})
}

// headerOf sends a request with an Authorization header and returns the status; the server
// may answer and hang up before it has read everything.
func headerOf(t *testing.T, server, path, authorization string) int {
	t.Helper()
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(t.Context(), "tcp", strings.TrimPrefix(server, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	go func() {
		_, _ = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: bondmate\r\nAuthorization: %s\r\n\r\n", path, authorization)
	}()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode
}

// A token is good until its session ends, and not a call longer.
func TestTokensOfEndedSessions(t *testing.T) {
	t.Parallel()
	s := newSiege(t)
	calls := s.closed()
	for name, test := range map[string]struct {
		end func(p, other *person)
		// within is how long an instance may go on by what it has looked up: not at all where
		// it ended the session itself, and one second where something else did.
		within time.Duration
	}{
		"logged out":             {end: func(p, _ *person) { p.call("POST", "/api/auth/logout", nil).want(204) }},
		"logged out everywhere":  {end: func(_, other *person) { other.call("POST", "/api/auth/logout-all", nil).want(204) }},
		"ended from another":     {end: func(p, other *person) { other.call("DELETE", "/api/auth/sessions/"+session(p), nil).want(204) }},
		"a new password":         {end: func(_, other *person) { other.changePassword() }},
		"suspended":              {end: func(p, _ *person) { s.suspend(p) }, within: time.Second},
		"the account is deleted": {end: func(p, _ *person) { p.call("DELETE", "/api/account", map[string]any{"password": secret}).want(200) }, within: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := s.person(t, "Ana")
			other := &person{t: t, in: s.town, name: "Ana elsewhere", id: p.id, email: p.email}
			other.token = other.call("POST", "/api/auth/login", map[string]any{"email": p.email, "password": secret}).want(200).text("accessToken")
			p.get("/api/profile").want(200)
			test.end(p, other)
			ended := time.Now()
			for test.within > 0 {
				asked := time.Now()
				if p.get("/api/profile").status == http.StatusUnauthorized {
					break
				}
				if asked.Sub(ended) > test.within {
					t.Fatalf("still admitted %v after the end", asked.Sub(ended))
				}
			}
			for _, call := range calls {
				s.knock(t, name, call, "unauthenticated", bearer(p.token))
			}
			closedAs(t, name, s.dial(t, realtimetest.Options{Token: p.token}), 4004)
		})
	}
}

// session is the id of the session that a person's token speaks for.
func session(p *person) string {
	p.t.Helper()
	var c jwt.MapClaims
	if _, _, err := jwt.NewParser().ParseUnverified(p.token, &c); err != nil {
		p.t.Fatal(err)
	}
	return c["sid"].(string)
}

// suspend has an administrator suspend somebody.
func (s *siege) suspend(p *person) {
	p.t.Helper()
	s.promoted(p.t, "admin").call("POST", "/api/ops/users/"+p.id.String()+"/suspend", nil).want(200)
	var status int
	if err := s.db.QueryRow(p.t.Context(), `SELECT status FROM users WHERE id = $1`, p.id).Scan(&status); err != nil || status != int(partner.UserSuspended) {
		p.t.Fatalf("status %d, %v", status, err)
	}
}

// promoted is somebody whom an operator's command has given a role.
func (s *siege) promoted(t *testing.T, role string) *person {
	t.Helper()
	p := s.person(t, role)
	if out, err := operator(t, s.db, "users", "promote", p.email, "--role", role); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return p
}

// A flood of tokens with invented key ids is refused out of memory: no session is looked
// up, nothing is fetched or remembered, and meanwhile everybody else is served.
func TestKeyIDFlood(t *testing.T) {
	t.Parallel()
	s := newSiege(t)
	ana := s.person(t, "Ana")
	f := newForger(t, s.town, ana)
	signature := f.valid[strings.LastIndex(f.valid, "."):]
	payload := strings.Split(f.valid, ".")[1]
	// How often sessions were read, by index or by scan.
	reads := func() (n int64) {
		err := s.db.QueryRow(t.Context(), `SELECT coalesce(seq_scan, 0) + coalesce(idx_scan, 0) FROM pg_stat_user_tables WHERE relname = 'sessions'`).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const flood, strangers = 8000, 8
	s.settled(t)
	before := reads()
	var left atomic.Int64
	left.Store(flood)
	var group sync.WaitGroup
	for range strangers {
		group.Go(func() {
			for left.Add(-1) >= 0 {
				token := f.encode(map[string]any{"alg": "RS256", "typ": "JWT", "kid": uuid.NewString()}) + "." + payload + signature
				s.knock(t, "invented kid", "GET /api/profile", "unauthenticated", bearer(token))
			}
		})
	}
	served := 0
	for left.Load() > 0 {
		ana.get("/api/profile").want(200)
		served++
	}
	group.Wait()
	// What the one caller with a session asks for, and what runs of itself, is far below one
	// read for each stranger.
	if now := reads(); now-before > int64(served)+flood/20 {
		t.Errorf("%d forged tokens made %d reads of sessions, %d good calls beside them", flood, now-before, served)
	}
	t.Logf("%d forged tokens refused, %d good calls served meanwhile, %d reads of sessions", flood, served, reads()-before)
}
