package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bondmate/backend/realtime/realtimetest"
)

// tokens is what a login or a refresh gives.
type tokens struct{ access, refresh string }

func (r reply) tokens() tokens { return tokens{r.text("accessToken"), r.text("refreshToken")} }

// signIn begins one more session of a person, and returns the person with it.
func (p *person) signIn() (*person, tokens) {
	p.t.Helper()
	got := p.call("POST", "/api/auth/login", map[string]any{"email": p.email, "password": secret}).want(200).tokens()
	there := *p
	there.token = got.access
	return &there, got
}

func (p *person) exchange(refresh string) reply {
	p.t.Helper()
	anybody := *p
	anybody.token = ""
	return anybody.call("POST", "/api/auth/refresh", map[string]any{"refreshToken": refresh})
}

// ends waits until the server closes a socket, and returns how long that took since from. It
// has the second that the requirement gives.
func ends(t *testing.T, socket *realtimetest.Conn, from time.Time, code int) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		_, err := socket.Next(ctx)
		if err == nil {
			continue
		}
		took := time.Since(from)
		if closed, ok := errors.AsType[*realtimetest.CloseError](err); !ok || closed.Code != code {
			t.Fatalf("the socket ended with %v, want %d", err, code)
		}
		if took > time.Second {
			t.Errorf("the socket closed after %v, want a second at most", took)
		}
		return took
	}
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// pushes counts what the push provider got for a device since the beginning.
func (w *town) pushes(t *testing.T, device string) (n int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, "pushes.jsonl"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var push struct{ Message struct{ Token string } }
		if json.Unmarshal([]byte(line), &push) == nil && push.Message.Token == device { // the last line may be half written
			n++
		}
	}
	return n
}

// value sums a counter of the process, over the labels that hold a part.
func (w *town) value(t *testing.T, name, part string) string {
	t.Helper()
	_, text := get(t, "http://"+address(t, w.dir, "admin.addr")+"/metrics")
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, name) && strings.Contains(line, part) {
			return strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:])
		}
	}
	return ""
}

// Sessions from end to end: what becomes of a token that two have, and how soon a session that
// ended is over everywhere.
func TestSessions(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	for name, test := range map[string]func(*testing.T, *town){
		"concurrent refreshes":  testConcurrentRefreshes,
		"a lost answer":         testLostAnswer,
		"a stolen grandparent":  testStolenGrandparent,
		"every end":             testEveryEnd,
		"a phone that is gone":  testNoPushAfterTheEnd,
		"a deleted account":     testDeletedAccountsSocket,
		"the console's own end": testConsoleEnd,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, w)
		})
	}
}

func testConcurrentRefreshes(t *testing.T, w *town) {
	ana, first := w.person(t, "Ana").signIn()
	got := make([]tokens, 50)
	var all sync.WaitGroup
	for i := range got {
		all.Go(func() {
			if r := ana.exchange(first.refresh); r.status == 200 {
				got[i] = r.tokens()
			} else {
				t.Errorf("%s", r)
			}
		})
	}
	all.Wait()
	for _, one := range got {
		if one.refresh != got[0].refresh || one.refresh == first.refresh || one.refresh == "" {
			t.Fatal("fifty refreshes with one token gave more than one child")
		}
	}
	ana.token = got[49].access
	ana.get("/api/profile").want(200)
	ana.exchange(got[0].refresh).want(200)
}

func testLostAnswer(t *testing.T, w *town) {
	ana, first := w.person(t, "Ana").signIn()
	lost := ana.exchange(first.refresh).want(200).tokens() // the phone never sees it
	found := ana.exchange(first.refresh).want(200).tokens()
	if found.refresh != lost.refresh {
		t.Error("the repeated refresh gave another child")
	}
	next := ana.exchange(found.refresh).want(200).tokens()
	ana.token = next.access
	ana.get("/api/profile").want(200)
}

// The figure is printed: go test ./cmd/bondmate -run 'TestSessions/a_stolen' -v
func testStolenGrandparent(t *testing.T, w *town) {
	ana := w.person(t, "Ana")
	stays := ana.socket()
	const runs = 15
	took := make([]time.Duration, runs)
	for i := range took {
		phone, stolen := ana.signIn()
		parent := phone.exchange(stolen.refresh).want(200).tokens()
		latest := phone.exchange(parent.refresh).want(200).tokens()
		phone.token = latest.access
		socket := phone.socket()
		if _, err := socket.NextOp(t.Context(), "ready"); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		phone.exchange(stolen.refresh).refused(401, "unauthenticated")
		took[i] = ends(t, socket, began, 4004)
		phone.exchange(latest.refresh).refused(401, "unauthenticated")
		phone.exchange(parent.refresh).refused(401, "unauthenticated")
		phone.get("/api/profile").refused(401, "unauthenticated")
	}
	t.Logf("from the replay's request to the close of the family's socket, %d runs: median %v, longest %v", runs, median(took), took[runs-1])
	if err := stays.Ping(); err != nil {
		t.Errorf("the account's other session: %v", err)
	}
	ana.get("/api/profile").want(200)
	replays := 0
	for _, line := range ana.get("/api/activity?limit=100").want(200).list("activity") {
		if line["action"] == "auth.replayed" {
			replays++
		}
	}
	if replays != runs {
		t.Errorf("%d replays in the activity log, want %d", replays, runs)
	}
	if n := w.value(t, "bondmate_auth_replays_total", ""); n != "15" {
		t.Errorf("%s replays counted, want %d", n, runs)
	}
	if n := w.value(t, "bondmate_realtime_sessions_revoked_total", `by="topic"`); n == "" || n == "0" {
		t.Error("no socket was closed by the control topic: it was the look into the database each time")
	}
}

// Whatever ends a session closes its sockets and its access at once, and leaves the others.
func testEveryEnd(t *testing.T, w *town) {
	for name, test := range map[string]struct {
		end     func(here, there *person) // ends there
		keeps   bool                      // here
		another bool                      // a third session is there that stays
	}{
		"logout":              {func(_, there *person) { there.call("POST", "/api/auth/logout", nil).want(204) }, true, true},
		"logout everywhere":   {func(here, _ *person) { here.call("POST", "/api/auth/logout-all", nil).want(204) }, false, false},
		"from the list":       {func(here, there *person) { here.call("DELETE", "/api/auth/sessions/"+there.session(), nil).want(204) }, true, true},
		"by another password": {func(here, _ *person) { here.changePassword() }, true, false},
		"by a reset": {func(here, _ *person) {
			here.call("POST", "/api/auth/password/forgot", map[string]any{"email": here.email}).want(202)
			token := strings.TrimPrefix(here.mailed("/reset-password").Fragment, "token=")
			here.call("POST", "/api/auth/password/reset", map[string]any{"token": token, "next": "an even longer pass phrase"}).want(204)
		}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			here := w.person(t, "Ana")
			there, _ := here.signIn()
			third, _ := here.signIn()
			sockets := map[*person]*realtimetest.Conn{}
			for _, p := range []*person{here, there, third} {
				sockets[p] = p.socket()
				if _, err := sockets[p].NextOp(t.Context(), "ready"); err != nil {
					t.Fatal(err)
				}
			}
			test.end(here, there)
			began := time.Now() // the answer comes after the commit; a password takes its time before
			t.Logf("closed after %v", ends(t, sockets[there], began, 4004))
			there.get("/api/profile").refused(401, "unauthenticated")
			for p, keeps := range map[*person]bool{here: test.keeps, third: test.another} {
				if keeps {
					p.get("/api/profile").want(200)
					if err := sockets[p].Ping(); err != nil {
						t.Error(err)
					}
					continue
				}
				ends(t, sockets[p], began, 4004)
				p.get("/api/profile").refused(401, "unauthenticated")
			}
		})
	}
}

func (p *person) session() string {
	p.t.Helper()
	for _, s := range p.get("/api/auth/sessions").want(200).list("sessions") {
		if s["current"] == true {
			return s["id"].(string)
		}
	}
	p.t.Fatal("no session is the current one")
	return ""
}

func (p *person) changePassword() {
	p.t.Helper()
	p.call("POST", "/api/auth/password", map[string]any{"current": secret, "next": "an even longer pass phrase"}).want(204)
}

// A session's phone gets no push once the session has ended: not of what comes after, and not
// of what was waiting for its grace. The same person's other phone gets both.
func testNoPushAfterTheEnd(t *testing.T, w *town) {
	for name, end := range map[string]func(phone *person, stolen tokens){
		"logout": func(phone *person, _ tokens) { phone.call("POST", "/api/auth/logout", nil).want(204) },
		"replay": func(phone *person, stolen tokens) {
			parent := phone.exchange(stolen.refresh).want(200).tokens()
			phone.exchange(parent.refresh).want(200)
			phone.exchange(stolen.refresh).refused(401, "unauthenticated")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ana, ben, eve := w.person(t, "Ana"), w.person(t, "Ben"), w.person(t, "Eve")
			phone, held := ana.signIn()
			gone, kept := "gone-"+ana.id.String(), "kept-"+ana.id.String()
			phone.call("POST", "/api/devices", map[string]any{"kind": "fcm", "token": gone, "platform": "ios"}).want(201)
			ana.call("POST", "/api/devices", map[string]any{"kind": "fcm", "token": kept, "platform": "android"}).want(201)

			ben.ask(ana).want(200)
			until(t, "the first push at both phones", func() bool { return w.pushes(t, gone) == 1 && w.pushes(t, kept) == 1 })

			eve.ask(ana).want(200) // its push waits for the grace of 1.5 s
			end(phone, held)
			until(t, "the second push at the phone that is kept", func() bool { return w.pushes(t, kept) == 2 })
			w.person(t, "Dan").ask(ana).want(200)
			until(t, "the third push at the phone that is kept", func() bool { return w.pushes(t, kept) == 3 })
			if n := w.pushes(t, gone); n != 1 {
				t.Errorf("%d pushes at the phone whose session ended, want the one from before", n)
			}
		})
	}
}

func testDeletedAccountsSocket(t *testing.T, w *town) {
	ana := w.person(t, "Ana")
	socket := ana.socket()
	if _, err := socket.NextOp(t.Context(), "ready"); err != nil {
		t.Fatal(err)
	}
	ana.call("DELETE", "/api/account", map[string]any{"password": secret}).want(200)
	t.Logf("closed after %v", ends(t, socket, time.Now(), 4004))
}

// A suspension at a console closes sockets whether the console knows the brokers or not.
func testConsoleEnd(t *testing.T, w *town) {
	for name, brokers := range map[string]string{"with brokers": address(t, w.dir, "kafka.addr"), "without": "", "with brokers that are away": "127.0.0.1:1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ana := w.person(t, "Ana")
			socket := ana.socket()
			if _, err := socket.NextOp(t.Context(), "ready"); err != nil {
				t.Fatal(err)
			}
			var out output
			err := run(t.Context(), []string{"users", "suspend", ana.email}, terminal{
				environ: []string{"DATABASE_URL=" + address(t, w.dir, "postgres.dsn"), "KAFKA_BROKERS=" + brokers, "LOG_LEVEL=error"}, stdout: &out, stderr: &out,
			})
			if err != nil {
				t.Fatalf("%v: %s", err, out.String())
			}
			ends(t, socket, time.Now(), 4004)
		})
	}
}

// Without Kafka a session ends all the same, and its sockets close: the gateway looks into the
// database.
func TestSessionsEndWithoutKafka(t *testing.T) {
	t.Parallel()
	w := newCity(t)
	ana := w.person(t, "Ana")
	phone, stolen := ana.signIn()
	socket, other := phone.socket(), ana.socket()
	for _, s := range []*realtimetest.Conn{socket, other} {
		if _, err := s.NextOp(t.Context(), "ready"); err != nil {
			t.Fatal(err)
		}
	}
	parent := phone.exchange(stolen.refresh).want(200).tokens()
	phone.exchange(parent.refresh).want(200)
	w.broker.Stop()
	phone.exchange(stolen.refresh).refused(401, "unauthenticated")
	ends(t, socket, time.Now(), 4004)
	ana.call("POST", "/api/auth/logout", nil).want(204)
	ends(t, other, time.Now(), 4004)
	ana.get("/api/profile").refused(401, "unauthenticated")
	until(t, "the records that could not be written to be counted", func() bool {
		return w.value(t, "bondmate_ingest_revocations_total", `outcome="failed"`) == "2"
	})
	w.broker.Start()
}
