package realtime_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/realtime"
	"github.com/bondmate/backend/realtime/realtimetest"
)

func (g *gateway) replays(via string) float64 {
	return g.value("bondmate_realtime_replays_total", via)
}

// TestWindow resumes phones over events that the topic has brought, and looks where what
// they got was read.
func TestWindow(t *testing.T) {
	t.Parallel()
	const (
		plain     = "request.received"
		withdrawn = "withdrawn"
	)
	plains := func(n int) []string { return strings.Fields(strings.Repeat(plain+" ", n)) }
	type scene struct {
		*world
		gw    *gateway
		p     phone
		evs   []contract.Event // the first ten, not published yet
		later *atomic.Int64    // what the gateway's clock is ahead
	}
	tests := []struct {
		name   string
		after  int64
		edit   func(*realtime.Config)
		act    func(s scene) // publishes the events; nil publishes all
		want   []string      // types; none is a resync since history is gone
		window bool
	}{
		{name: "all from the start", want: plains(10), window: true},
		{name: "the last", after: 9, want: plains(1), window: true},
		{name: "in pages", edit: func(c *realtime.Config) { c.PageSize = 3 }, want: plains(10), window: true},
		{
			name: "reordered", want: plains(10), window: true,
			act: func(s scene) {
				for i := range s.evs {
					s.topic.publish(s.evs[len(s.evs)-1-i])
				}
			},
		},
		{
			name: "a cut", after: 2, want: []string{plain, withdrawn, withdrawn, plain, plain, plain, plain, plain},
			act: func(s scene) { s.topic.publish(s.evs...); s.cut(s.p.user, 3, 5) },
		},
		{
			name: "a cut of the last alone", after: 2, want: append(plains(7), withdrawn),
			act: func(s scene) { s.topic.publish(s.evs...); s.cut(s.p.user, 9, 10) },
		},
		{
			name: "a cut of what the phone holds", after: 5, want: plains(5), window: true,
			act: func(s scene) { s.topic.publish(s.evs...); s.cut(s.p.user, 3, 5) },
		},
		{
			name: "a cut for somebody else", want: plains(10), window: true,
			act: func(s scene) { s.topic.publish(s.evs...); s.cut(uuid.New(), 0, 10) },
		},
		{
			name: "a hole", after: 1, want: plains(9),
			act: func(s scene) { s.topic.publish(s.evs[:5]...); s.topic.publish(s.evs[6:]...) },
		},
		{name: "the topic is behind", after: 1, want: plains(9), act: func(s scene) { s.topic.publish(s.evs[:9]...) }},
		{
			name: "of another epoch", after: 1, want: plains(9),
			act: func(s scene) { s.topic.publish(s.evs...); s.exec(`UPDATE stream_epoch SET epoch = 'restored'`) },
		},
		{
			name: "an older epoch's, repeated late", after: 1, want: plains(9),
			act: func(s scene) {
				s.topic.publish(s.evs...)
				old := s.evs[5]
				old.Epoch = "older"
				s.topic.publish(old)
			},
		},
		{
			name: "too many", edit: func(c *realtime.Config) { c.WindowBytes = 2000 }, after: 1, want: plains(9),
		},
		{
			name: "as many as there is room for", edit: func(c *realtime.Config) { c.WindowBytes = 2000 }, after: 7, want: plains(3), window: true,
		},
		{
			name: "repeated, and only the first dropped", edit: func(c *realtime.Config) { c.WindowBytes = 2000 }, after: 7, want: plains(3), window: true,
			act: func(s scene) {
				other := s.evs[0]
				other.Recipients = []contract.Recipient{{UserID: uuid.New(), InboxSeq: 1}}
				s.topic.publish(s.evs[7], s.evs[8], s.evs[9], s.evs[7], other)
			},
		},
		{
			name: "too old", after: 1, want: plains(9),
			act: func(s scene) {
				s.topic.publish(s.evs...)
				s.later.Store(int64(5*time.Minute + time.Second))
				s.until("they are dropped", func() bool { return s.gw.value("bondmate_realtime_window_events", "") == 0 })
			},
		},
		{
			name: "erased", after: 3,
			act: func(s scene) { s.topic.publish(s.evs...); s.exec(`DELETE FROM events WHERE seq <= 5`) },
		},
		{
			name: "gone from the inbox", after: 3,
			act: func(s scene) { s.topic.publish(s.evs...); s.exec(`DELETE FROM inbox WHERE seq <= 5`) },
		},
		{
			name: "another event in its place", after: 3, want: plains(7),
			act: func(s scene) {
				s.evs[3].EventID = uuid.New()
				s.topic.publish(s.evs...)
			},
		},
		{name: "no window", edit: func(c *realtime.Config) { c.WindowBytes = -1 }, want: plains(10)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := scene{world: newWorld(t), later: new(atomic.Int64)}
			s.gw = s.start(func(c *realtime.Config) {
				c.Clock = func() time.Time { return time.Now().Add(time.Duration(s.later.Load())) }
				c.HeadEvery = time.Hour
				if tt.edit != nil {
					tt.edit(c)
				}
			})
			s.p = s.phone()
			s.evs = s.commitN(s.p.user, 10)
			if tt.act == nil {
				s.topic.publish(s.evs...)
			} else {
				tt.act(s)
			}
			c, ready := s.connect(s.gw, s.p, realtimetest.Options{After: &tt.after})
			if ready.Seq != 10 || ready.Resumed != (tt.want != nil) {
				t.Fatalf("ready is %+v", ready)
			}
			if tt.want == nil {
				if f := s.next(c, "resync"); f.Reason != realtime.ResyncHistory {
					t.Errorf("resync is %+v", f)
				}
			}
			var got []string
			for i, f := range s.events(c, tt.after+1, len(tt.want)) {
				got = append(got, f.Type)
				if f.Type == withdrawn {
					continue
				}
				ev := s.evs[int(tt.after)+i]
				f.Received = time.Time{}
				want := realtimetest.Frame{Op: "event", Seq: f.Seq, ID: f.ID, Type: ev.Type, Time: ev.AppliedAt, Data: ev.Data}
				if diff := cmp.Diff(want, f); diff != "" {
					t.Errorf("event (-want +got):\n%s", diff)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("types (-want +got):\n%s", diff)
			}
			s.quiet(c)
			if window, inbox := s.gw.replays("window") > 0, s.gw.replays("inbox") > 0; window != tt.window || inbox == tt.window && tt.want != nil {
				t.Errorf("read from the window %t and from the inbox %t, want the window %t alone", window, inbox, tt.window)
			}
			s.topic.publish(s.commit(s.p.user))
			s.events(c, 11, 1) // either way the stream goes on
		})
	}
}

// TestLateEventsComeFromTheWindow stalls the topic for longer than an event may go straight:
// then every socket has to ask, and none of them reads its inbox.
func TestLateEventsComeFromTheWindow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) { c.StraightFor, c.HeadEvery = 500*time.Millisecond, time.Hour })
	p := w.phone()
	c, _ := w.connect(gw, p, realtimetest.Options{})
	evs := w.commitN(p.user, 5)
	for i := range evs {
		evs[i].AppliedAt = evs[i].AppliedAt.Add(-time.Minute)
	}
	w.topic.publish(evs...)
	w.events(c, 1, 5)
	w.quiet(c)
	if window, inbox := gw.replays("window"), gw.replays("inbox"); window == 0 || inbox > 0 {
		t.Errorf("%v reads of the window and %v of the inbox, want none of the inbox", window, inbox)
	}
}

// TestCutReachesWhatTheWindowGave cuts what a slow phone's queue holds from the window: it
// is held to the time of the look-up, as a page of the inbox is.
func TestCutReachesWhatTheWindowGave(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) {
		c.ConfirmedFor, c.QueueBytes, c.HeadEvery, c.WindowBytes = 300*time.Millisecond, 64<<20, time.Hour, 64<<20
		c.WriteWithin = patience
	})
	p := w.phone()
	evs := w.commitN(p.user, 100)
	pad := json.RawMessage(`{"x":"` + strings.Repeat("x", 256<<10) + `"}`)
	for i := range evs {
		evs[i].Data = pad
	}
	w.topic.publish(evs...)
	c, _ := w.connect(gw, p, realtimetest.Options{After: realtimetest.After(0), ReadBuffer: 256 << 10})
	if gw.replays("window") != 1 || gw.replays("inbox") > 0 {
		t.Fatal("the replay is not the window's")
	}
	w.cut(p.user, 0, 100)
	<-time.After(350 * time.Millisecond) // the age itself, not a wait for something
	taken := 0
	for i, f := range w.events(c, 1, 100) {
		if f.Type == "withdrawn" {
			taken++
		} else if taken > 0 {
			t.Errorf("event %d is old content after withdrawn ones", i+1)
		}
	}
	if taken == 0 {
		t.Error("all went out as they were before the cut")
	}
}

// TestMassReconnect holds up the primary while many phones come back at once.
func TestMassReconnect(t *testing.T) {
	t.Parallel()
	const phones, missed = 500, 2
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) {
		c.HeadEvery, c.SessionEvery = time.Hour, time.Hour
		c.ReadWithin, c.OpenWithin, c.HelloWithin = patience, patience, patience
	})
	list := make([]phone, phones)
	for i := range list {
		list[i] = w.phone()
	}
	for range missed {
		for i := 0; i < phones; i += 2 {
			w.topic.publish(w.commit(list[i].user, list[i+1].user))
		}
	}
	tx, err := w.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), `LOCK TABLE stream_epoch`); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, p := range list {
		wg.Go(func() {
			c, err := realtimetest.Dial(w.ctx(), gw.url, realtimetest.Options{Token: p.token, After: realtimetest.After(0)})
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			for i := range missed {
				if f, err := c.NextOp(w.ctx(), "event"); err != nil || f.Seq != int64(i+1) {
					t.Errorf("frame %+v, %v", f, err)
				}
			}
		})
	}
	w.until("all have come", func() bool { return gw.value("bondmate_realtime_sockets", "pending") == phones })
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	statements := gw.value("bondmate_realtime_inbox_read_sockets", "")
	t.Logf("%d phones came back at once: %v statements, %v pages from the window, %v from inboxes",
		phones, statements, gw.replays("window"), gw.replays("inbox"))
	// The four that were held up, and a few for the rest; the hello of the last may just be coming.
	if statements > phones/10 {
		t.Errorf("%v statements", statements)
	}
	if gw.replays("window") != phones || gw.replays("inbox") != 0 {
		t.Error("some read their inbox")
	}
}

// TestWindowAgainstInbox compares what two gateways replay, one of them without a window,
// over an inbox in which cuts, losses on the topic and retention come at random.
func TestWindowAgainstInbox(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	w := newWorld(t)
	edit := func(bytes int) func(*realtime.Config) {
		return func(c *realtime.Config) { c.WindowBytes, c.PageSize, c.HeadEvery = bytes, 7, time.Hour }
	}
	with, without := w.start(edit(8000)), w.start(edit(-1))
	users := []phone{w.phone(), w.phone()}
	var head, gone [2]int64
	replay := func(gw *gateway, p phone, after, head int64) (got []string) {
		c, ready := w.connect(gw, p, realtimetest.Options{After: &after})
		defer func() { _ = c.Close() }()
		got = append(got, fmt.Sprintf("resumed %t at %d", ready.Resumed, ready.Seq))
		for next := after; ready.Resumed && next < head; {
			f, err := c.Next(w.ctx())
			if err != nil {
				t.Fatal(err)
			}
			f.Received = time.Time{}
			got = append(got, fmt.Sprintf("%+v", f))
			if next++; f.Seq != next {
				t.Fatalf("event %d, want %d", f.Seq, next)
			}
		}
		return got
	}
	for range 150 {
		i := rng.IntN(2)
		switch rng.IntN(12) {
		case 0:
			if head[i] > 0 {
				last := 1 + rng.Int64N(head[i])
				w.cut(users[i].user, rng.Int64N(last), last)
			}
		case 1:
			if rng.IntN(3) == 0 {
				gone[i] += rng.Int64N(head[i] - gone[i] + 1)
				w.exec(`DELETE FROM inbox WHERE user_id = $1 AND seq <= $2`, users[i].user, gone[i])
			}
		case 2, 3, 4, 5:
			for n := 1 + rng.IntN(3); n > 0; n-- {
				ev := w.commit(users[0].user, users[1].user)
				head[0]++
				head[1]++
				if rng.IntN(15) > 0 {
					w.topic.publish(ev)
				}
			}
		default:
			after := max(0, head[i]-rng.Int64N(20))
			if diff := cmp.Diff(replay(without, users[i], after, head[i]), replay(with, users[i], after, head[i])); diff != "" {
				t.Fatalf("after %d of %d (-inbox +window):\n%s", after, head[i], diff)
			}
		}
	}
	if with.replays("window") == 0 || with.replays("inbox") == 0 || without.replays("window") != 0 {
		t.Errorf("%v replays of the window, %v of the inbox", with.replays("window"), with.replays("inbox"))
	}
}

// BenchmarkTopic is what an event of the topic costs that is for nobody here, with the
// window and without: what the window adds to the tail.
func BenchmarkTopic(b *testing.B) {
	for name, bytes := range map[string]int{"window": 32 << 20, "none": -1} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b)
			w.start(func(c *realtime.Config) { c.WindowBytes, c.HeadEvery = bytes, time.Hour })
			users := make([]uuid.UUID, 10_000)
			seqs := make([]int64, len(users))
			for i := range users {
				users[i] = uuid.New()
			}
			data := []byte(fmt.Sprintf(`{"requestId":%q,"fromUserId":%q,"at":%q}`, uuid.New(), uuid.New(), time.Now().Format(time.RFC3339Nano)))
			n := 0
			for b.Loop() {
				one, two := n%len(users), (n+1)%len(users)
				seqs[one]++
				seqs[two]++
				w.topic.publish(contract.Event{
					EventID: uuid.UUID{1: byte(n)}, Type: "request.received", Epoch: w.epoch, AppliedAt: time.Now(), Data: append([]byte(nil), data...),
					Recipients: []contract.Recipient{{UserID: users[one], InboxSeq: seqs[one]}, {UserID: users[two], InboxSeq: seqs[two]}},
				})
				n++
			}
		})
	}
}
