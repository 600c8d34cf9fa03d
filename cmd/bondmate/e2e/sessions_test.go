package e2e

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/realtime/realtimetest"
)

// at is the same phone at another instance.
func at(p *phone.Phone, s *phone.Server) *phone.Phone {
	there := *p
	there.Server = s
	return &there
}

// exchange exchanges a refresh token, and returns the phone with what it got.
func exchange(t *testing.T, p *phone.Phone, refresh string) (*phone.Phone, int) {
	t.Helper()
	anybody := *p
	anybody.AccessToken = ""
	answer, err := anybody.Do(t.Context(), http.MethodPost, "/api/auth/refresh", map[string]any{"refreshToken": refresh})
	if err != nil {
		t.Fatal(err)
	}
	next := *p
	if answer.Status == http.StatusOK {
		var got struct{ AccessToken, RefreshToken string }
		if err := answer.Decode(http.StatusOK, &got); err != nil {
			t.Fatal(err)
		}
		next.AccessToken, next.RefreshToken = got.AccessToken, got.RefreshToken
	}
	return &next, answer.Status
}

func status(t *testing.T, p *phone.Phone, method, path string) int {
	t.Helper()
	answer, err := p.Do(t.Context(), method, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status
}

func login(t *testing.T, p *phone.Phone) *phone.Phone {
	t.Helper()
	answer, err := p.Do(t.Context(), http.MethodPost, "/api/auth/login", map[string]any{"email": p.Email, "password": phone.Password})
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ AccessToken, RefreshToken string }
	if err := answer.Decode(http.StatusOK, &got); err != nil {
		t.Fatal(err)
	}
	there := *p
	there.AccessToken, there.RefreshToken = got.AccessToken, got.RefreshToken
	return &there
}

// revokedAfter waits until the gateway closes a socket with 4004 and returns how long after
// since. The requirement gives it a second.
func revokedAfter(t *testing.T, socket *realtimetest.Conn, since time.Time) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		_, err := socket.Next(ctx)
		if err == nil {
			continue
		}
		took := time.Since(since)
		if closed, ok := errors.AsType[*realtimetest.CloseError](err); !ok || closed.Code != 4004 {
			t.Fatalf("the socket ended with %v, want 4004", err)
		}
		if took > time.Second {
			t.Errorf("the socket closed after %v, want a second at most", took)
		}
		return took
	}
}

func middle(all []time.Duration) (median, longest time.Duration) {
	slices.Sort(all)
	return all[len(all)/2], all[len(all)-1]
}

// Sessions over two instances of ingest and two gateways, each a process, on Apache Kafka: one
// child however many refresh where, an answer that was lost at one instance found at the other,
// and a family that dies at one instance dead everywhere within a second. The figures are
// printed: .ci/with-kafka go test ./cmd/bondmate/e2e -run TestSessionsOverTwoInstances -v
func TestSessionsOverTwoInstances(t *testing.T) {
	t.Parallel()
	c := newCluster(t, kafkatest.Apache(t), "")
	first, second := c.role("ingest"), c.role("ingest")
	gateways := []*process{c.role("realtime"), c.role("realtime")}
	here, there := first.server(), second.server()
	ana := people(t, here, 1)[0]
	connect := func(p *phone.Phone, at *process) *realtimetest.Conn {
		t.Helper()
		mine := *p
		mine.Server = at.server()
		socket, err := mine.Connect(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = socket.Close() })
		if _, err := socket.NextOp(t.Context(), "ready"); err != nil {
			t.Fatal(err)
		}
		return socket
	}

	// Fifty at once, half of them at each instance.
	children := make([]string, 50)
	var all sync.WaitGroup
	for i := range children {
		all.Go(func() {
			next, code := exchange(t, at(ana, []*phone.Server{here, there}[i%2]), ana.RefreshToken)
			if code != http.StatusOK {
				t.Errorf("refresh %d: %d", i, code)
			}
			children[i] = next.RefreshToken
		})
	}
	all.Wait()
	slices.Sort(children)
	if got := slices.Compact(children); len(got) != 1 || got[0] == ana.RefreshToken {
		t.Fatalf("%d children of one token", len(got))
	}

	// An answer that got lost at one instance.
	child := *ana
	child.RefreshToken = children[0]
	lost, _ := exchange(t, &child, child.RefreshToken)
	found, code := exchange(t, at(&child, there), child.RefreshToken)
	if code != http.StatusOK || found.RefreshToken != lost.RefreshToken {
		t.Errorf("the other instance answers %d, or with another child", code)
	}

	// A token that somebody has stolen long ago, used at the one instance; the owner's phone has
	// a socket at each gateway and calls the other instance.
	stays := connect(found, gateways[0])
	const runs = 11
	var closed, refused []time.Duration
	for range runs {
		stolen := login(t, ana)
		parent, _ := exchange(t, stolen, stolen.RefreshToken)
		latest, _ := exchange(t, parent, parent.RefreshToken)
		sockets := []*realtimetest.Conn{connect(latest, gateways[0]), connect(latest, gateways[1])}
		owner := at(latest, there)
		if got := status(t, owner, http.MethodGet, "/api/profile"); got != http.StatusOK { // remembered as live there
			t.Fatalf("the owner is answered %d", got)
		}
		began := time.Now()
		if _, code := exchange(t, stolen, stolen.RefreshToken); code != http.StatusUnauthorized {
			t.Fatalf("the grandparent is answered %d", code)
		}
		for _, socket := range sockets {
			closed = append(closed, revokedAfter(t, socket, began))
		}
		eventually(t, 20*time.Second, "the other instance refuses", func() (bool, error) {
			return status(t, owner, http.MethodGet, "/api/profile") == http.StatusUnauthorized, nil
		})
		refused = append(refused, time.Since(began))
		if _, code := exchange(t, owner, latest.RefreshToken); code != http.StatusUnauthorized {
			t.Errorf("the family's latest token is answered %d", code)
		}
	}
	median, longest := middle(closed)
	t.Logf("replay of a grandparent to the close of the family's sockets at two gateways, %d sockets: median %v, longest %v", len(closed), median, longest)
	median, longest = middle(refused)
	if longest > 2*time.Second { // a second of memory is all there is, should the topic have failed
		t.Errorf("the other instance refused after %v", longest)
	}
	t.Logf("to the first refusal at the other instance of ingest, %d runs: median %v, longest %v", len(refused), median, longest)
	if n := gateways[0].metric("bondmate_realtime_sessions_revoked_total", `by="topic"`) + gateways[1].metric("bondmate_realtime_sessions_revoked_total", `by="topic"`); n == 0 {
		t.Error("no socket was closed by the control topic")
	}
	if n := first.metric("bondmate_auth_replays_total"); n != runs {
		t.Errorf("%v replays counted, want %d", n, runs)
	}

	// A suspension at a console that knows the brokers, of somebody with a socket at each gateway.
	bad := people(t, there, 1)[0]
	sockets := []*realtimetest.Conn{connect(bad, gateways[0]), connect(bad, gateways[1])}
	c.command("users", "suspend", bad.Email)
	began := time.Now()
	for _, socket := range sockets {
		revokedAfter(t, socket, began)
	}

	if err := stays.Ping(); err != nil {
		t.Errorf("the session that nobody ended: %v", err)
	}
}
