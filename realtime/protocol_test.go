package realtime_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/edge"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/realtime"
	"github.com/bondmate/backend/realtime/realtimetest"
)

func (w *world) ticket(p phone, ttl time.Duration) string {
	w.t.Helper()
	ticket, hash := identity.NewSecret()
	w.exec(`INSERT INTO realtime_tickets (hash, user_id, session_id, expires_at) VALUES ($1, $2, $3, $4)`,
		hash, p.user, p.session, time.Now().Add(ttl))
	return ticket
}

func TestTicketAdmitsOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(nil)
	p := w.phone()
	ticket := w.ticket(p, time.Minute)
	var admitted, refused atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			c, err := realtimetest.Dial(w.ctx(), gw.url, realtimetest.Options{Ticket: ticket})
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			f, err := c.Next(w.ctx())
			closed, isClose := errors.AsType[*realtimetest.CloseError](err)
			switch {
			case err == nil && f.Op == "ready" && f.UserID == p.user:
				admitted.Add(1)
			case isClose && closed.Code == realtime.CloseUnauthenticated:
				refused.Add(1)
			default:
				t.Errorf("frame %+v, error %v", f, err)
			}
		})
	}
	wg.Wait()
	if admitted.Load() != 1 || refused.Load() != 7 {
		t.Errorf("%d admitted and %d refused by one ticket, want 1 and 7", admitted.Load(), refused.Load())
	}
}

func TestHelloIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) { c.HelloWithin = 100 * time.Millisecond })
	p := w.phone()
	tests := []struct {
		name    string
		options realtimetest.Options
		send    string
		want    int
	}{
		{name: "nothing in time", options: realtimetest.Options{SkipHello: true}, want: realtime.CloseUnauthenticated},
		{name: "nothing in time, with a token", options: realtimetest.Options{SkipHello: true, Token: p.token}, want: realtime.CloseUnauthenticated},
		{name: "no ticket", want: realtime.CloseUnauthenticated},
		{name: "unknown ticket", options: realtimetest.Options{Ticket: "nonsense"}, want: realtime.CloseUnauthenticated},
		{name: "old ticket", options: realtimetest.Options{Ticket: w.ticket(p, -time.Second)}, want: realtime.CloseUnauthenticated},
		{name: "another message first", options: realtimetest.Options{SkipHello: true, Token: p.token}, send: `{"op":"ping"}`, want: realtime.CloseUnauthenticated},
		{name: "negative after", options: realtimetest.Options{Token: p.token, After: realtimetest.After(-1)}, want: 1008},
		{name: "not JSON", options: realtimetest.Options{SkipHello: true}, send: `hello`, want: 1008},
		{name: "not an object", options: realtimetest.Options{SkipHello: true}, send: `["hello"]`, want: 1008},
		{name: "too large", options: realtimetest.Options{SkipHello: true}, send: `{"op":"hello","ticket":"` + strings.Repeat("x", 5000) + `"}`, want: 1009},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, err := realtimetest.Dial(w.ctx(), gw.url, tt.options)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			if tt.send != "" {
				// The server can have had enough before all is sent.
				if err := c.Send([]byte(tt.send)); err != nil && tt.want != 1009 {
					t.Fatal(err)
				}
			}
			_ = w.wantClose(c, tt.want)
		})
	}
}

func TestUpgradeIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	listed, err := edge.ParseOrigins([]string{"https://app.example.com", "https://*.pages.dev"})
	if err != nil {
		t.Fatal(err)
	}
	gw := w.start(func(c *realtime.Config) { c.Origins = listed })
	p := w.phone()
	tests := []struct {
		name    string
		options realtimetest.Options
		status  int // 0: admitted
		code    string
	}{
		{name: "bad token", options: realtimetest.Options{Token: "nonsense"}, status: 401, code: "unauthenticated"},
		{name: "expired token", options: realtimetest.Options{Token: w.issue(p, -time.Second)}, status: 401, code: "token_expired"},
		{name: "not a bearer token", options: realtimetest.Options{Header: http.Header{"Authorization": {"Basic eDp5"}}}, status: 401, code: "unauthenticated"},
		{name: "another origin", options: realtimetest.Options{Token: p.token, Origin: "https://evil.example"}, status: 403, code: "forbidden"},
		{name: "the origin over http", options: realtimetest.Options{Token: p.token, Origin: "http://app.example.com"}, status: 403, code: "forbidden"},
		{name: "the origin on another port", options: realtimetest.Options{Token: p.token, Origin: "https://app.example.com:444"}, status: 403, code: "forbidden"},
		{name: "the origin as a suffix", options: realtimetest.Options{Token: p.token, Origin: "https://evilapp.example.com"}, status: 403, code: "forbidden"},
		{name: "a wildcard's bare domain", options: realtimetest.Options{Token: p.token, Origin: "https://pages.dev"}, status: 403, code: "forbidden"},
		{name: "null origin", options: realtimetest.Options{Token: p.token, Origin: "null"}, status: 403, code: "forbidden"},
		{name: "another protocol only", options: realtimetest.Options{Token: p.token, Subprotocols: []string{"graphql-ws"}}, status: 400, code: "invalid_request"},
		{name: "the origin", options: realtimetest.Options{Token: p.token, Origin: "https://APP.example.com"}},
		{name: "a subdomain", options: realtimetest.Options{Token: p.token, Origin: "https://x.pages.dev"}},
		{name: "no protocol", options: realtimetest.Options{Token: p.token, Subprotocols: []string{}}},
		{name: "several protocols", options: realtimetest.Options{Token: p.token, Subprotocols: []string{"other", realtime.Subprotocol}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, err := realtimetest.Dial(w.ctx(), gw.url, tt.options)
			if tt.status == 0 {
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = c.Close() }()
				want := realtime.Subprotocol
				if tt.options.Subprotocols != nil && len(tt.options.Subprotocols) == 0 {
					want = ""
				}
				if got := c.Subprotocol(); got != want {
					t.Errorf("subprotocol is %q, want %q", got, want)
				}
				w.next(c, "ready")
				return
			}
			refused, ok := errors.AsType[*realtimetest.RefusedError](err)
			if !ok || refused.Status != tt.status || refused.Code != tt.code {
				t.Errorf("got %v, want %d %s", err, tt.status, tt.code)
			}
		})
	}
}

func TestPlainRequestsAreAnsweredWithProblems(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(nil)
	base := "http" + strings.TrimPrefix(gw.url, "ws")
	for _, tt := range []struct {
		method, url, code string
		status            int
	}{
		{http.MethodGet, base, "upgrade_required", 426},
		{http.MethodPost, base, "method_not_allowed", 405},
		{http.MethodGet, base + "/more", "not_found", 404},
		{http.MethodGet, strings.TrimSuffix(base, "/api/realtime"), "not_found", 404},
	} {
		req, err := http.NewRequestWithContext(w.ctx(), tt.method, tt.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Request-Id", "mine-3")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ Type, Code, RequestID string }
		err = json.NewDecoder(res.Body).Decode(&got)
		_ = res.Body.Close()
		want := struct{ Type, Code, RequestID string }{"urn:bondmate:problem:" + tt.code, tt.code, "mine-3"}
		if err != nil || got != want || res.StatusCode != tt.status || res.Header.Get("X-Request-Id") != "mine-3" ||
			res.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s: %d %+v %v (%v), want %d %+v", tt.method, tt.url, res.StatusCode, got, res.Header, err, tt.status, want)
		}
	}
}

func TestMessagesThatKeepTheSocketOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(nil)
	p := w.phone()
	w.commitN(p.user, 2)
	c, _ := w.connect(gw, p, realtimetest.Options{})
	for _, tt := range []struct{ send, code string }{
		{`{"op":"dance"}`, "unknown_op"},
		{`{}`, "unknown_op"},
		{`{"op":"ack","seq":"1"}`, "invalid_request"},
		{`{"op":"ack"}`, "invalid_request"},
		{`{"op":"visible"}`, "invalid_request"},
		{`{"op":"hello"}`, "invalid_request"},
		{`{"op":"auth","accessToken":"nonsense"}`, "unauthenticated"},
	} {
		if err := c.Send([]byte(tt.send)); err != nil {
			t.Fatal(err)
		}
		if f := w.next(c, "error"); f.Code != tt.code {
			t.Errorf("%s: code %q, want %q", tt.send, f.Code, tt.code)
		}
	}
	if head := w.quiet(c); head != 2 {
		t.Errorf("pong says %d, want 2", head)
	}
	if err := c.Send([]byte(`{"op":`)); err != nil {
		t.Fatal(err)
	}
	_ = w.wantClose(c, 1008)
}

func TestTokenExpiry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) {
		c.ExpiryNotice, c.TicketLifetime = 150*time.Millisecond, 200*time.Millisecond
	})
	p := w.phone()
	t.Run("closes after a notice", func(t *testing.T) {
		t.Parallel()
		for name, o := range map[string]realtimetest.Options{
			"token": {Token: w.issue(p, 300*time.Millisecond)}, "ticket": {Ticket: w.ticket(p, time.Minute)},
		} {
			c, _ := w.connect(gw, p, o)
			if f := w.next(c, "expiring"); f.InMs <= 0 || f.InMs > 150 {
				t.Errorf("%s: notice of %d ms, want up to 150", name, f.InMs)
			}
			_ = w.wantClose(c, realtime.CloseTokenExpired)
		}
	})
	t.Run("auth keeps the socket", func(t *testing.T) {
		t.Parallel()
		c, _ := w.connect(gw, p, realtimetest.Options{Token: w.issue(p, 300*time.Millisecond)})
		w.next(c, "expiring")
		if err := c.Auth(w.issue(p, 600*time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		w.next(c, "expiring") // again, for the new one
		_ = w.wantClose(c, realtime.CloseTokenExpired)
	})
	t.Run("another session's token does not", func(t *testing.T) {
		t.Parallel()
		c, _ := w.connect(gw, p, realtimetest.Options{Token: w.issue(p, 400*time.Millisecond)})
		for _, other := range []phone{w.session(p.user), w.phone()} {
			if err := c.Auth(other.token); err != nil {
				t.Fatal(err)
			}
			if f, err := c.NextOp(w.ctx(), "error"); err != nil || f.Code != "forbidden" {
				t.Errorf("answer %+v %v, want forbidden", f, err)
			}
		}
		_ = w.wantClose(c, realtime.CloseTokenExpired)
	})
}

func TestExpiredSessionIsClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) { c.SessionEvery = 20 * time.Millisecond })
	p := w.phone()
	c, _ := w.connect(gw, p, realtimetest.Options{})
	// The access token is good for another hour.
	w.exec(`UPDATE sessions SET expires_at = now() - interval '1 second' WHERE id = $1`, p.session)
	_ = w.wantClose(c, realtime.CloseSessionRevoked)
	_ = w.wantClose(w.dial(gw, p, realtimetest.Options{}), realtime.CloseSessionRevoked)
}

func TestRevokedSessionIsClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) { c.SessionEvery = 20 * time.Millisecond })
	kept := w.phone()
	first, second := w.session(kept.user), w.session(kept.user)
	stays, _ := w.connect(gw, kept, realtimetest.Options{})
	revoked, _ := w.connect(gw, first, realtimetest.Options{})
	deleted, _ := w.connect(gw, second, realtimetest.Options{})
	w.exec(`UPDATE sessions SET revoked_at = now() WHERE id = $1`, first.session)
	w.exec(`DELETE FROM sessions WHERE id = $1`, second.session)
	_ = w.wantClose(revoked, realtime.CloseSessionRevoked)
	_ = w.wantClose(deleted, realtime.CloseSessionRevoked)
	w.quiet(stays)
	// Its token is still good, but it does not come in again.
	_ = w.wantClose(w.dial(gw, first, realtimetest.Options{}), realtime.CloseSessionRevoked)
}

// The control topic closes a session's sockets on every gateway at once, and no others'; here
// nothing else would for an hour.
func TestControlTopicClosesTheSessionsSockets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	said := &control{}
	edit := func(c *realtime.Config) { c.SessionEvery, c.Control = time.Hour, said }
	one, other := w.start(edit), w.start(edit)
	stays := w.phone()
	ended := w.session(stays.user)
	kept, _ := w.connect(one, stays, realtimetest.Options{})
	first, _ := w.connect(one, ended, realtimetest.Options{})
	second, _ := w.connect(other, ended, realtimetest.Options{})
	said.ended(phone{user: w.phone().user, session: ended.session}) // another user's session of the same id is none
	w.quiet(first)
	said.ended(ended)
	_ = w.wantClose(first, realtime.CloseSessionRevoked)
	_ = w.wantClose(second, realtime.CloseSessionRevoked)
	w.quiet(kept)
	said.ended(ended) // again, of sockets that have gone
	for _, gw := range []*gateway{one, other} {
		if n := gw.value("bondmate_realtime_sessions_revoked_total", "topic"); n != 1 {
			t.Errorf("%v sessions counted as revoked by the topic, want 1", n)
		}
	}
}

// A socket that says hello while its session ends does not slip through: what the topic said
// before it could be found, its own look at the session says.
func TestRevocationDuringHello(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	said := &control{}
	gw := w.start(func(c *realtime.Config) { c.SessionEvery, c.Control = time.Hour, said })
	user := w.phone().user
	for range 20 {
		p := w.session(user)
		go func() {
			w.exec(`UPDATE sessions SET revoked_at = now() WHERE id = $1`, p.session)
			said.ended(p)
		}()
		_ = w.wantClose(w.dial(gw, p, realtimetest.Options{}), realtime.CloseSessionRevoked)
	}
}

// A deleted account's own sockets are told so, and close behind it at once.
func TestDeletedAccountsSocketsClose(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) { c.SessionEvery = time.Hour })
	p := w.phone()
	c, _ := w.connect(gw, p, realtimetest.Options{})
	ev := w.commit(p.user)
	ev.Type = partner.EventAccountDeleted.String()
	w.topic.publish(ev)
	if f := w.next(c, "event"); f.Type != "account.deleted" {
		t.Errorf("event %+v", f)
	}
	_ = w.wantClose(c, realtime.CloseSessionRevoked)
}

type ackRow struct{ Seq, Visible int64 }

func (w *world) ackOf(p phone) ackRow {
	var a ackRow
	_ = w.pool.QueryRow(context.Background(),
		`SELECT seq, visible_seq FROM acks WHERE user_id = $1 AND session_id = $2`, p.user, p.session).Scan(&a.Seq, &a.Visible)
	return a
}

func TestAcknowledgements(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(nil)
	p := w.phone()
	w.commitN(p.user, 5)
	c, _ := w.connect(gw, p, realtimetest.Options{After: realtimetest.After(2)})
	w.events(c, 3, 2)
	step := func(what string, want ackRow, do ...error) {
		t.Helper()
		if err := errors.Join(do...); err != nil {
			t.Fatal(err)
		}
		w.quiet(c) // the message was read
		w.until(what, func() bool { return w.ackOf(p) == want })
	}
	w.events(c, 5, 1)
	step("hidden", ackRow{4, 0}, c.Ack(4))
	step("visible, an old one", ackRow{4, 3}, c.Visible(true), c.Ack(3))
	step("clamped to what was sent", ackRow{5, 5}, c.Ack(1_000_000))
	step("never falls", ackRow{5, 5}, c.Ack(1))
	w.topic.publish(w.commit(p.user))
	w.events(c, 6, 1)
	step("hidden again", ackRow{6, 5}, c.Visible(false), c.Ack(6))
}

func TestAcknowledgementsAreWrittenInOneStatement(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) { c.AckEvery = 100 * time.Millisecond })
	p := w.phone()
	phones := []phone{p, w.session(p.user), w.phone(), w.phone()}
	var conns []*realtimetest.Conn
	for i, p := range phones {
		c, _ := w.connect(gw, p, realtimetest.Options{After: realtimetest.After(0), Visible: true})
		conns = append(conns, c)
		if i != 1 {
			w.topic.publish(w.commit(p.user))
		}
	}
	for i, c := range conns {
		if err := c.Ack(w.next(c, "event").Seq); err != nil {
			t.Fatal(err)
		}
		w.quiet(c)
		if i == 0 { // this session goes away between its acknowledgement and the flush
			w.exec(`DELETE FROM sessions WHERE id = $1`, phones[0].session)
		}
	}
	for _, p := range phones[1:] {
		w.until("acknowledged", func() bool { return w.ackOf(p) == ackRow{1, 1} })
	}
	if got := w.ackOf(phones[0]); got.Seq > 1 {
		t.Errorf("a deleted session acknowledged %+v", got)
	}
}

func TestLastAcknowledgementsAreWrittenAtTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) { c.AckEvery = time.Hour })
	p := w.phone()
	w.commitN(p.user, 1)
	c, _ := w.connect(gw, p, realtimetest.Options{After: realtimetest.After(0)})
	w.events(c, 1, 1)
	if err := c.Ack(1); err != nil {
		t.Fatal(err)
	}
	w.quiet(c)
	// A socket that was sent nothing can acknowledge nothing, whatever its hello claims.
	other := w.session(p.user)
	c, _ = w.connect(gw, other, realtimetest.Options{After: realtimetest.After(1), Visible: true})
	if err := c.Ack(1); err != nil {
		t.Fatal(err)
	}
	w.quiet(c)
	gw.stop()
	want := []ackRow{{1, 0}, {}}
	if diff := cmp.Diff(want, []ackRow{w.ackOf(p), w.ackOf(other)}); diff != "" {
		t.Errorf("acknowledgements (-want +got):\n%s", diff)
	}
}

func TestEveryEventReachesAllSocketsOfItsRecipientsAndNoOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(nil)
	a, b, stranger := w.phone(), w.phone(), w.phone()
	w.commitN(b.user, 3) // the two are at different sequences
	ca, _ := w.connect(gw, a, realtimetest.Options{})
	ca2, _ := w.connect(gw, w.session(a.user), realtimetest.Options{})
	cb, _ := w.connect(gw, b, realtimetest.Options{})
	cs, _ := w.connect(gw, stranger, realtimetest.Options{})
	ev := w.commit(a.user, b.user)
	w.topic.publish(ev)
	ids := []uuid.UUID{w.events(ca, 1, 1)[0].ID, w.events(ca2, 1, 1)[0].ID, w.events(cb, 4, 1)[0].ID}
	if diff := cmp.Diff([]uuid.UUID{ev.EventID, ev.EventID, ev.EventID}, ids); diff != "" {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
	w.quiet(cs)
}
