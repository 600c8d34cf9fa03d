package e2e

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/realtime/realtimetest"
)

// Partners on two gateways see each other come, and go in the two ways that nobody says
// goodbye: a phone whose cable is pulled, and a gateway that is killed. Others see nothing.
func TestPresenceOverTwoGateways(t *testing.T) {
	t.Parallel()
	c := newCluster(t, kafkatest.Apache(t), "")
	ingest := c.role("ingest").server()
	c.role("processor")
	stays, dies := c.role("realtime"), c.role("realtime")
	phones := people(t, ingest, 5)
	ann, ben, former, eve, dan := phones[0], phones[1], phones[2], phones[3], phones[4]
	ok := must(t, http.StatusOK)
	unite := func(a, b *phone.Phone) {
		t.Helper()
		asked := ok(a.Send(t.Context(), b.UserID, phone.Wait(10)))
		ok(b.Accept(t.Context(), asked.RequestID, phone.Wait(10)))
	}
	for _, p := range phones {
		ok(p.Do(t.Context(), http.MethodPatch, "/api/profile", map[string]any{"privacy": map[string]any{"presence": true}}, phone.Wait(10)))
	}
	unite(ann, former)
	ok(ann.Remove(t.Context(), phone.Wait(10)))
	unite(ann, ben)
	unite(eve, dan)

	formers := dial(t, former, stays.server(), realtimetest.Options{})
	bens := dial(t, ben, stays.server(), realtimetest.Options{})
	eves := dial(t, eve, stays.server(), realtimetest.Options{})
	for _, s := range []*realtimetest.Conn{formers, bens, eves} {
		defer func() { _ = s.Close() }()
	}
	awaitPresence(t, bens, ann, false)
	awaitPresence(t, eves, dan, false)

	began := time.Now()
	anns := dial(t, ann, dies.server(), realtimetest.Options{})
	defer func() { _ = anns.Close() }()
	f := awaitPresence(t, bens, ann, true)
	t.Logf("the hello at one gateway to the partner's frame at the other: %v", f.Received.Sub(began))
	awaitPresence(t, anns, ben, true)

	cable := newCable(t, stays.url)
	dans := dial(t, dan, cable.server(), realtimetest.Options{})
	defer func() { _ = dans.Close() }()
	awaitPresence(t, eves, dan, true)

	cable.pull()
	dies.kill()
	pulled := time.Now()
	var waiting sync.WaitGroup
	for who, see := range map[string]struct {
		by *realtimetest.Conn
		of *phone.Phone
	}{"whose gateway was killed": {bens, ann}, "whose cable was pulled": {eves, dan}} {
		waiting.Go(func() {
			f := awaitPresence(t, see.by, see.of, false)
			took := f.Received.Sub(pulled)
			t.Logf("a partner %s is offline after %v", who, took)
			if f.LastSeen == nil || f.LastSeen.Sub(pulled).Abs() > 11*time.Second { // an instance says it every 10 s
				t.Errorf("%s: last seen %v, at %v it was over", who, f.LastSeen, pulled)
			}
			if took > 35*time.Second+3*time.Second { // what a busy machine adds
				t.Errorf("that is more than 35 s")
			}
		})
	}
	waiting.Wait()
	// What comes after all of it comes first here: nobody else was told anything.
	if err := formers.Ping(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		f, err := formers.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if f.Op == "presence" {
			t.Errorf("a former partner is told %+v", f)
		}
		if f.Op == "pong" {
			break
		}
	}
}

// awaitPresence reads frames until the presence of a user, who must be the only one of whom
// this socket hears.
func awaitPresence(t *testing.T, socket *realtimetest.Conn, of *phone.Phone, online bool) realtimetest.Frame {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	f, err := socket.NextOp(ctx, "presence")
	if err != nil || f.UserID != of.UserID || f.Online != online {
		t.Errorf("frame %+v, %v; want of %s: online %v", f, err, of.UserID, online)
	}
	return f
}

// cable is a way to a server that can be pulled: from then on nothing passes, and neither end
// is told.
type cable struct {
	addr   string
	pulled atomic.Bool
}

func newCable(t *testing.T, url string) *cable {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{addr: listener.Addr().String()}
	var group sync.WaitGroup
	var mu sync.Mutex
	var ends []net.Conn
	group.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
			if err != nil {
				_ = near.Close()
				continue
			}
			mu.Lock()
			ends = append(ends, near, far)
			mu.Unlock()
			group.Go(func() { _, _ = io.Copy(wire{c, far}, near) })
			group.Go(func() { _, _ = io.Copy(wire{c, near}, far) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		for _, end := range ends {
			_ = end.Close()
		}
		mu.Unlock()
		group.Wait()
	})
	return c
}

func (c *cable) server() *phone.Server { return phone.NewServer("http://" + c.addr) }

func (c *cable) pull() { c.pulled.Store(true) }

// wire passes on what is written until the cable is pulled.
type wire struct {
	of *cable
	to net.Conn
}

func (w wire) Write(b []byte) (int, error) {
	if w.of.pulled.Load() {
		return len(b), nil
	}
	return w.to.Write(b)
}
