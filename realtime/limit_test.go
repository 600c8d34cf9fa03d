package realtime_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/realtime"
	"github.com/bondmate/backend/realtime/realtimetest"
)

func TestSocketsOfAUserAreLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) { c.SocketsPerUser = 2 })
	p := w.phone()
	first, _ := w.connect(gw, p, realtimetest.Options{})
	w.connect(gw, p, realtimetest.Options{})
	_ = w.wantClose(w.dial(gw, p, realtimetest.Options{}), realtime.CloseTooManySockets)
	w.connect(gw, w.phone(), realtimetest.Options{})
	_ = first.Close()
	w.until("a place is free", func() bool { return gw.value("bondmate_realtime_sockets", "open") == 2 })
	w.connect(gw, p, realtimetest.Options{})
}

func TestSocketsAndHandshakesAreLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) { c.MaxSockets, c.MaxPending = 3, 1 })
	p := w.phone()
	refusedAs := func(code string) {
		t.Helper()
		_, err := realtimetest.Dial(w.ctx(), gw.url, realtimetest.Options{Token: p.token})
		refused, ok := errors.AsType[*realtimetest.RefusedError](err)
		if !ok || refused.Status != http.StatusServiceUnavailable || refused.Code != code || refused.RetryAfter == "" {
			t.Fatalf("got %v, want 503 %s with Retry-After", err, code)
		}
	}
	silent := w.dial(gw, p, realtimetest.Options{SkipHello: true})
	refusedAs("overloaded") // one handshake at a time
	if err := silent.Send([]byte(`{"op":"hello"}`)); err != nil {
		t.Fatal(err)
	}
	w.next(silent, "ready")
	for i := range 2 {
		w.until("the handshake's place is free", func() bool { return gw.value("bondmate_realtime_sockets", "pending") == 0 })
		w.until(fmt.Sprintf("socket %d is admitted", i), func() bool {
			c, err := realtimetest.Dial(w.ctx(), gw.url, realtimetest.Options{Token: p.token})
			if err != nil {
				return false
			}
			t.Cleanup(func() { _ = c.Close() })
			w.next(c, "ready")
			return true
		})
	}
	refusedAs("overloaded") // three sockets at most
}

// TestSlowSocketIsClosedAlone floods a phone that reads nothing. The sequences need no
// inbox: they all come straight from the topic.
func TestSlowSocketIsClosedAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) {
		c.QueueBytes, c.CloseWithin, c.HeadEvery = 64<<10, 200*time.Millisecond, time.Hour
	})
	slow, other := w.phone(), w.phone()
	cs, _ := w.connect(gw, slow, realtimetest.Options{ReadBuffer: 256 << 10})
	co, _ := w.connect(gw, other, realtimetest.Options{})
	data := json.RawMessage(`{"x":"` + strings.Repeat("x", 16<<10) + `"}`)
	var seq int64
	for gw.value("bondmate_realtime_queue_overflow_total", "") == 0 {
		if seq++; seq > 10_000 {
			t.Fatal("no overflow after 160 MB")
		}
		ev := contract.Event{Type: "request.received", Epoch: w.epoch, AppliedAt: time.Now(), Data: data}
		ev.Recipients = []contract.Recipient{{UserID: slow.user, InboxSeq: seq}}
		w.topic.publish(ev)
		if seq%50 == 0 {
			w.topic.publish(w.commit(other.user))
			w.events(co, seq/50, 1)
		}
	}
	w.until("it is counted", func() bool { return gw.value("bondmate_realtime_closed_total", "4008") == 1 })
	w.until("its socket is gone", func() bool { return gw.value("bondmate_realtime_sockets", "") == 1 })
	w.topic.publish(w.commit(other.user))
	w.events(co, seq/50+1, 1)
	// What it was sent before, it can read, in order.
	last := int64(0)
	for {
		f, err := cs.Next(w.ctx())
		if err != nil {
			break
		}
		if f.Seq != last+1 {
			t.Fatalf("event %d after %d", f.Seq, last)
		}
		last = f.Seq
	}
	if last >= seq {
		t.Errorf("the slow phone had all %d events: it was not slow", seq)
	}
}

// TestSlowReplayIsNoOverflow resumes a phone that reads slowly over far more than a queue.
func TestSlowReplayIsNoOverflow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) { c.QueueBytes, c.PageSize = 4<<10, 5 })
	p := w.phone()
	w.commitN(p.user, 100)
	w.exec(`UPDATE events SET data = json_build_object('x', repeat('x', 131072))`)
	c, _ := w.connect(gw, p, realtimetest.Options{After: realtimetest.After(0), ReadBuffer: 256 << 10})
	if n := gw.value("bondmate_realtime_inbox_reads_total", ""); n > 19 {
		t.Errorf("%v pages read though the phone has taken none", n)
	}
	w.events(c, 1, 100)
	w.quiet(c)
}

// TestQueuedEventsAreReadAgain holds up a phone until its queued events are too old to be
// sent unread; by then the inbox says something else (a cut), and that is what it gets.
func TestQueuedEventsAreReadAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) {
		c.ConfirmedFor, c.QueueBytes, c.HeadEvery = 300*time.Millisecond, 64<<20, time.Hour
		c.WriteWithin = patience
	})
	p := w.phone()
	c, _ := w.connect(gw, p, realtimetest.Options{ReadBuffer: 256 << 10})
	evs := w.commitN(p.user, 100)
	w.cut(p.user, 0, 100)
	pad := json.RawMessage(`{"x":"` + strings.Repeat("x", 256<<10) + `"}`)
	for i := range evs {
		evs[i].AppliedAt, evs[i].Data = time.Now(), pad
	}
	w.topic.publish(evs...)
	<-time.After(350 * time.Millisecond) // the age itself, not a wait for something
	withdrawn := 0
	for i, f := range w.events(c, 1, 100) {
		if f.Type == "withdrawn" {
			withdrawn++
		} else if withdrawn > 0 {
			t.Errorf("event %d is old content after withdrawn ones", i+1)
		}
	}
	if withdrawn == 0 || gw.value("bondmate_realtime_rewinds_total", "") == 0 {
		t.Errorf("%d of 100 were read again", withdrawn)
	}
}

func TestDatabaseOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) { c.OpenWithin = 300 * time.Millisecond })
	p := w.phone()
	c, _ := w.connect(gw, p, realtimetest.Options{})
	evs := w.commitN(p.user, 3)
	w.exec(`ALTER TABLE stream_epoch RENAME TO away`)
	w.topic.publish(evs[1]) // a gap that cannot be read now
	w.until("the breaker opens", func() bool { return gw.value("bondmate_realtime_breaker_state", "") == 2 })
	// A new socket is asked to come again, with a time.
	closed := w.wantClose(w.dial(gw, p, realtimetest.Options{After: realtimetest.After(0)}), 1012)
	if closed.RetryAfterMs <= 0 {
		t.Errorf("closed with %q, want retryAfterMs", closed.Reason)
	}
	w.quiet(c)
	w.exec(`ALTER TABLE away RENAME TO stream_epoch`)
	w.events(c, 1, 3)
	w.until("the breaker closes", func() bool {
		// Reads close it; a socket that resumes is one.
		probe, ready := w.connect(gw, p, realtimetest.Options{After: realtimetest.After(3)})
		_ = probe.Close()
		return ready.Resumed && gw.value("bondmate_realtime_breaker_state", "") == 0
	})
}

func TestDrain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) { c.DrainWithin = 200 * time.Millisecond })
	var conns []*realtimetest.Conn
	for range 60 {
		c, _ := w.connect(gw, w.phone(), realtimetest.Options{})
		conns = append(conns, c)
	}
	done := make(chan error, 1)
	go func() { done <- gw.Drain(w.ctx()) }()
	seen := make(map[int64]bool)
	for _, c := range conns {
		closed := w.wantClose(c, 1012)
		if closed.RetryAfterMs < 100 || closed.RetryAfterMs > 10_100 {
			t.Errorf("closed with %q", closed.Reason)
		}
		seen[closed.RetryAfterMs] = true
	}
	if len(seen) < 30 {
		t.Errorf("%d different times for 60 sockets: they come back together", len(seen))
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	_, err := realtimetest.Dial(w.ctx(), gw.url, realtimetest.Options{SkipHello: true})
	if refused, ok := errors.AsType[*realtimetest.RefusedError](err); !ok || refused.Status != 503 {
		t.Errorf("dial while draining: %v, want 503", err)
	}
}

func TestDeadPeerIsDropped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) { c.Heartbeat, c.PongWithin = 50*time.Millisecond, 100*time.Millisecond })
	p := w.phone()
	alive, _ := w.connect(gw, p, realtimetest.Options{})
	// This one never reads, so it never answers a ping.
	ws, res, err := websocket.DefaultDialer.DialContext(w.ctx(), gw.url, http.Header{"Authorization": {"Bearer " + p.token}})
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	defer func() { _ = ws.Close() }()
	if err := ws.WriteMessage(websocket.TextMessage, []byte(`{"op":"hello"}`)); err != nil {
		t.Fatal(err)
	}
	w.until("both are open", func() bool { return gw.value("bondmate_realtime_sockets", "open") == 2 })
	w.until("one is dropped", func() bool { return gw.value("bondmate_realtime_sockets", "") == 1 })
	w.until("the other was pinged meanwhile", func() bool { return gw.value("bondmate_realtime_frames_total", "ping") > 5 })
	w.quiet(alive)
}

func TestNotServingBeforeTheTopicIsReady(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tail := newTopic()
	tail.ready = make(chan struct{})
	g, err := realtime.New(realtime.Config{Pool: w.pool, Verifier: w.verifier, Events: tail})
	if err != nil {
		t.Fatal(err)
	}
	server, url := serve(t, g)
	defer server()
	ctx, cancel := context.WithCancel(w.ctx())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	o := realtimetest.Options{Token: w.phone().token}
	_, err = realtimetest.Dial(w.ctx(), url, o)
	if refused, ok := errors.AsType[*realtimetest.RefusedError](err); !ok || refused.Status != 503 {
		t.Errorf("dial before ready: %v, want 503", err)
	}
	close(tail.ready)
	w.until("it serves", func() bool {
		c, err := realtimetest.Dial(w.ctx(), url, o)
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func serve(t *testing.T, g *realtime.Gateway) (stop func(), url string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: g.Handler(), ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(listener) }()
	return func() { _ = server.Close() }, "ws://" + listener.Addr().String() + "/api/realtime"
}

// TestNothingIsLeftBehind runs alone: it is not parallel.
func TestNothingIsLeftBehind(t *testing.T) {
	w := newWorld(t)
	before := goleak.IgnoreCurrent()
	gw := w.start(nil)
	p := w.phone()
	var conns []*realtimetest.Conn
	for range 5 {
		c, _ := w.connect(gw, p, realtimetest.Options{After: realtimetest.After(0)})
		conns = append(conns, c)
	}
	silent := w.dial(gw, p, realtimetest.Options{SkipHello: true})
	evs := w.commitN(p.user, 20)
	w.topic.publish(evs[3:]...)
	w.events(conns[0], 1, 5)
	_ = conns[1].Close() // some go while events come
	w.topic.publish(w.commit(p.user))
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		for {
			if _, err := conns[2].Next(w.ctx()); err != nil {
				return
			}
		}
	}()
	gw.stop()
	<-reading
	for _, c := range append(conns, silent) {
		_ = c.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	goleak.VerifyNone(t, before, goleak.IgnoreTopFunction("github.com/jackc/pgx/v5/pgxpool.(*Pool).backgroundHealthCheck"),
		goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}
