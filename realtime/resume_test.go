package realtime_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/realtime"
	"github.com/bondmate/backend/realtime/realtimetest"
)

func TestResumeSendsExactlyTheRest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// Pages of 7 over 40 events: resuming takes several reads.
	gw := w.start(func(c *realtime.Config) { c.PageSize = 7 })
	p := w.phone()
	want := w.commitN(p.user, 40)
	for _, after := range []int64{0, 1, 12, 33, 39, 40} {
		t.Run(fmt.Sprintf("after=%d", after), func(t *testing.T) {
			c, ready := w.connect(gw, p, realtimetest.Options{After: realtimetest.After(after), Epoch: w.epoch})
			got := ready
			got.Received = time.Time{}
			wantReady := realtimetest.Frame{Op: "ready", UserID: p.user, Seq: 40, Epoch: w.epoch, Resumed: true, Heartbeat: 25}
			if diff := cmp.Diff(wantReady, got); diff != "" {
				t.Errorf("ready (-want +got):\n%s", diff)
			}
			for i, f := range w.events(c, after+1, int(40-after)) {
				ev := want[int(after)+i]
				f.Received = time.Time{}
				wantFrame := realtimetest.Frame{Op: "event", Seq: f.Seq, ID: ev.EventID, Type: ev.Type, Time: ev.AppliedAt, Data: ev.Data}
				if diff := cmp.Diff(wantFrame, f); diff != "" {
					t.Errorf("event (-want +got):\n%s", diff)
				}
			}
			if head := w.quiet(c); head != 40 {
				t.Errorf("pong says %d, want 40", head)
			}
		})
	}
}

func TestHelloWithoutAfterStartsAtTheHead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(nil)
	p := w.phone()
	w.commitN(p.user, 3)
	c, ready := w.connect(gw, p, realtimetest.Options{})
	if ready.Resumed || ready.Seq != 3 {
		t.Errorf("ready is %+v, want seq 3 and not resumed", ready)
	}
	ev := w.commit(p.user)
	w.topic.publish(ev)
	got := w.events(c, 4, 1)[0]
	got.Received = time.Time{}
	want := realtimetest.Frame{Op: "event", Seq: 4, ID: ev.EventID, Type: ev.Type, Time: ev.AppliedAt, Data: ev.Data}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("event from the topic (-want +got):\n%s", diff)
	}
	if reads := gw.value("bondmate_realtime_inbox_reads_total", ""); reads != 1 {
		t.Errorf("%v reads of the inbox, want the hello's only", reads)
	}
}

func TestResync(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		after  int64
		epoch  string
		remove int64 // how much of the beginning retention has removed
		events bool  // remove the events, not the inbox rows
		want   string
	}{
		{name: "another epoch", after: 2, epoch: "older", want: realtime.ResyncEpoch},
		{name: "ahead of the head", after: 11, want: realtime.ResyncAhead},
		{name: "history gone", after: 3, remove: 4, want: realtime.ResyncHistory},
		{name: "all history gone", after: 3, remove: 10, want: realtime.ResyncHistory},
		{name: "events gone under the inbox", after: 3, remove: 4, events: true, want: realtime.ResyncHistory},
		{name: "just not gone", after: 4, remove: 4},
		{name: "at the head of an empty history", after: 10, remove: 10},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			gw := w.start(nil)
			p := w.phone()
			w.commitN(p.user, 10)
			if tt.events {
				w.exec(`DELETE FROM events WHERE seq <= $1`, tt.remove)
			} else {
				w.exec(`DELETE FROM inbox WHERE seq <= $1`, tt.remove)
			}
			c, ready := w.connect(gw, p, realtimetest.Options{After: &tt.after, Epoch: tt.epoch})
			if ready.Resumed != (tt.want == "") || ready.Seq != 10 {
				t.Errorf("ready is %+v", ready)
			}
			next := tt.after + 1
			if tt.want != "" {
				f := w.next(c, "resync")
				f.Received = time.Time{}
				want := realtimetest.Frame{Op: "resync", Reason: tt.want, Seq: 10, Epoch: w.epoch}
				if diff := cmp.Diff(want, f); diff != "" {
					t.Errorf("resync (-want +got):\n%s", diff)
				}
				next = 11
			}
			// Either way the stream goes on.
			w.topic.publish(w.commit(p.user))
			w.events(c, next, int(11-next)+1)
			w.quiet(c)
		})
	}
}

func TestHistoryThatGoesDuringAReplayIsAResync(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) { c.PageSize = 4 })
	p := w.phone()
	w.commitN(p.user, 20)
	w.exec(`DELETE FROM inbox WHERE seq BETWEEN 7 AND 9`) // between the pages of a replay
	c, ready := w.connect(gw, p, realtimetest.Options{After: realtimetest.After(0)})
	if !ready.Resumed {
		t.Fatal("not resumed though the next event was there")
	}
	w.events(c, 1, 6)
	if f := w.next(c, "resync"); f.Reason != realtime.ResyncHistory || f.Seq != 20 {
		t.Errorf("resync is %+v", f)
	}
	w.topic.publish(w.commit(p.user))
	w.events(c, 21, 1)
}

func TestNewEpochUnderAnOpenSocketIsAResync(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"event", "head check"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			gw := w.start(func(c *realtime.Config) {
				c.SessionEvery = 20 * time.Millisecond
				if c.HeadEvery = time.Hour; by == "head check" {
					c.HeadEvery = 40 * time.Millisecond
				}
			})
			p := w.phone()
			w.commitN(p.user, 5)
			c, _ := w.connect(gw, p, realtimetest.Options{After: realtimetest.After(5)})
			// A restore: the inbox is shorter, and the history has another name.
			w.exec(`DELETE FROM inbox WHERE seq > 3`)
			w.exec(`UPDATE user_streams SET last_seq = 3`)
			w.exec(`UPDATE stream_epoch SET epoch = 'restored'`)
			w.epoch = "restored"
			if by == "event" {
				w.topic.publish(w.commit(p.user)) // sequence 4, which the socket has had in the old epoch
			}
			f := w.next(c, "resync")
			if f.Reason != realtime.ResyncEpoch || f.Epoch != "restored" {
				t.Errorf("resync is %+v", f)
			}
			w.topic.publish(w.commit(p.user))
			w.events(c, f.Seq+1, 1)
			w.quiet(c)
		})
	}
}

func TestGapIsFilledFromTheInbox(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(nil)
	p := w.phone()
	c, _ := w.connect(gw, p, realtimetest.Options{})
	evs := w.commitN(p.user, 5)
	w.topic.publish(evs[0], evs[3], evs[1], evs[3]) // 3 and 5 never come, 4 comes twice and early
	w.events(c, 1, 4)
	w.topic.publish(evs[4], evs[0], evs[3])
	w.events(c, 5, 1)
	w.quiet(c)
	if n := gw.value("bondmate_realtime_repeats_total", ""); n < 2 {
		t.Errorf("%v repeats counted, want those of 1 and 4 at least", n)
	}
	if n := gw.value("bondmate_realtime_fills_total", "gap"); n != 1 {
		t.Errorf("%v fills, want 1", n)
	}
}

func TestReorderedEventsNeedNoRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) { c.GapWait = patience })
	p := w.phone()
	c, _ := w.connect(gw, p, realtimetest.Options{})
	evs := w.commitN(p.user, 4)
	w.topic.publish(evs[2], evs[1], evs[3], evs[0])
	w.events(c, 1, 4)
	if reads := gw.value("bondmate_realtime_inbox_reads_total", ""); reads != 1 {
		t.Errorf("%v reads of the inbox, want the hello's only", reads)
	}
}

func TestLostTailIsFoundByTheHeadCheck(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) {
		c.SessionEvery, c.HeadEvery, c.GapWait = 10*time.Millisecond, 30*time.Millisecond, time.Millisecond
	})
	p := w.phone()
	c, _ := w.connect(gw, p, realtimetest.Options{})
	w.commitN(p.user, 3) // the topic never says so
	w.events(c, 1, 3)
}

func TestOldEventIsReadFromTheInbox(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(func(c *realtime.Config) { c.StraightFor = 500 * time.Millisecond })
	p := w.phone()
	c, _ := w.connect(gw, p, realtimetest.Options{})
	ev := w.commit(p.user)
	ev.AppliedAt = ev.AppliedAt.Add(-501 * time.Millisecond)
	// What the inbox says by now is what counts.
	w.cut(p.user, 0, 1)
	w.topic.publish(ev)
	if got := w.events(c, 1, 1)[0]; got.Type != "withdrawn" || string(got.Data) != `{}` {
		t.Errorf("frame is %+v, want what the inbox says", got)
	}
	if n := gw.value("bondmate_realtime_fills_total", "old"); n != 1 {
		t.Errorf("%v fills for age, want 1", n)
	}
}

func TestTopicAheadOfTheInboxDoesNotHang(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.start(nil)
	p := w.phone()
	c, _ := w.connect(gw, p, realtimetest.Options{})
	ev := w.commit(p.user)
	ghost := ev
	ghost.Recipients = []contract.Recipient{{UserID: p.user, InboxSeq: 9}} // of no history that is there
	w.topic.publish(ghost)
	w.events(c, 1, 1)
	w.until("the fill gives up", func() bool { return gw.value("bondmate_realtime_inbox_reads_total", "") >= 3 })
	w.topic.publish(w.commit(p.user))
	w.events(c, 2, 1)
	w.quiet(c)
}

// TestSplice drives sockets through a topic that drops, repeats, reorders and delays, while
// they connect and drop at random on two gateways: each must see exactly its user's inbox.
func TestSplice(t *testing.T) {
	t.Parallel()
	for i := range 4 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("%d seed=%d", i, seed), func(t *testing.T) {
			t.Parallel()
			splice(t, rand.New(rand.NewPCG(seed, 0)))
		})
	}
}

func splice(t *testing.T, rng *rand.Rand) {
	const users, events = 4, 300
	w := newWorld(t)
	edit := func(c *realtime.Config) {
		c.PageSize, c.GapWait = 5, time.Millisecond
		c.SessionEvery, c.HeadEvery = 20*time.Millisecond, 60*time.Millisecond
		c.StraightFor, c.ConfirmedFor = 30*time.Millisecond, 200*time.Millisecond
	}
	// The two gateways hear different tails of one topic.
	tails := []*topic{newTopic(), newTopic()}
	var gws []*gateway
	for _, tail := range tails {
		gws = append(gws, w.start(func(c *realtime.Config) { edit(c); c.Events = tail }))
	}
	phones := make([]phone, users)
	want := make([][]uuid.UUID, users)
	for i := range phones {
		phones[i] = w.phone()
	}
	var wg sync.WaitGroup
	got := make([][]uuid.UUID, users)
	counts := make([]chan int64, users) // the length of each inbox, once known
	for i, p := range phones {
		counts[i] = make(chan int64, 1)
		rng := rand.New(rand.NewPCG(rng.Uint64(), 1))
		wg.Go(func() { got[i] = follow(t, w, gws, p, rng, counts[i]) })
	}

	var late [2][]contract.Event
	for range events {
		a, b := rng.IntN(users), rng.IntN(users)
		ev := w.commit(phones[a].user, phones[b].user)
		for i := range phones {
			if i == a || i == b {
				want[i] = append(want[i], ev.EventID)
			}
		}
		for i, tail := range tails {
			switch rng.IntN(10) {
			case 0: // lost
			case 1, 2: // late, after others
				late[i] = append(late[i], ev)
			case 3: // twice
				tail.publish(ev, ev)
			default:
				tail.publish(ev)
			}
			if len(late[i]) > rng.IntN(6) {
				rng.Shuffle(len(late[i]), func(x, y int) { late[i][x], late[i][y] = late[i][y], late[i][x] })
				tail.publish(late[i]...)
				late[i] = nil
			}
		}
	}
	for i, p := range phones {
		// The last event comes after the count, and never by the topic.
		counts[i] <- int64(len(want[i]) + 1)
		want[i] = append(want[i], w.commit(p.user).EventID)
	}
	wg.Wait()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("inboxes as committed and as received (-want +got):\n%s", diff)
	}
}

// follow is a phone: it resumes on either gateway whenever it has dropped, and demands
// each sequence once and in order until it has the whole inbox. It returns the events' ids.
func follow(t *testing.T, w *world, gws []*gateway, p phone, rng *rand.Rand, count <-chan int64) (got []uuid.UUID) {
	ctx := w.ctx()
	var last, goal int64 = 0, -1
	for {
		c, err := realtimetest.Dial(ctx, gws[rng.IntN(len(gws))].url,
			realtimetest.Options{Token: p.token, After: &last, Epoch: w.epoch})
		if err != nil {
			t.Errorf("dial: %v", err)
			return got
		}
		for budget := 1 + rng.IntN(40); budget > 0 && last != goal; budget-- {
			f, err := c.Next(ctx)
			if err != nil {
				t.Errorf("after %d of %d: %v", last, goal, err)
				_ = c.Close()
				return got
			}
			switch f.Op {
			case "ready":
				if !f.Resumed {
					t.Errorf("not resumed: %+v", f)
				}
			case "event":
				if f.Seq != last+1 {
					t.Errorf("event %d after %d", f.Seq, last)
				}
				last = f.Seq
				got = append(got, f.ID)
			default:
				t.Errorf("frame %+v", f)
			}
			if goal < 0 {
				select {
				case goal = <-count:
				default:
				}
			}
			if t.Failed() {
				break
			}
		}
		_ = c.Close()
		if last == goal || t.Failed() {
			return got
		}
	}
}
