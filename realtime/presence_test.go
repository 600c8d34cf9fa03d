package realtime_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/realtime"
	"github.com/bondmate/backend/realtime/realtimetest"
)

// peers is a presence topic between gateways.
type peers struct {
	mu    sync.Mutex
	subs  map[int]func(contract.Presence)
	n     int
	said  []contract.Presence
	away  bool
	ready chan struct{}
}

func newPeers() *peers {
	p := &peers{subs: map[int]func(contract.Presence){}, ready: make(chan struct{})}
	close(p.ready)
	return p
}

func (p *peers) Ready() <-chan struct{} { return p.ready }

func (p *peers) Subscribe(f func(contract.Presence)) func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.n
	p.n++
	p.subs[n] = f
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.subs, n)
	}
}

func (p *peers) Write(_ context.Context, recs []contract.Record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away {
		return errors.New("away")
	}
	for _, rec := range recs {
		v, err := contract.DecodePresence(rec)
		if err != nil {
			return err
		}
		p.said = append(p.said, v)
		for _, f := range p.subs {
			f(v)
		}
	}
	return nil
}

func (p *peers) say(v contract.Presence) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.subs {
		f(v)
	}
}

// of returns what was said of a user, and by how many instances.
func (p *peers) of(user uuid.UUID) (said []contract.Presence) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v := range p.said {
		if v.UserID == user {
			said = append(said, v)
		}
	}
	return said
}

// watch starts a gateway on a presence topic.
func (w *world) watch(p *peers, edit func(*realtime.Config)) *gateway {
	w.t.Helper()
	return w.start(func(c *realtime.Config) {
		c.Peers, c.Announcer, c.PresenceTopic, c.PresencePartitions = p, p, "test.presence.v1", 2
		c.PresenceTick, c.LeaveWithin = 20*time.Millisecond, 100*time.Millisecond
		if edit != nil {
			edit(c)
		}
	})
}

// sharing is a phone whose user shares presence.
func (w *world) sharing() phone {
	w.t.Helper()
	p := w.phone()
	w.exec(`UPDATE users SET show_presence = true WHERE id = $1`, p.user)
	return p
}

// unite makes two people partners, as the processor does, and returns their partnership.
func (w *world) unite(a, b phone) uuid.UUID {
	w.t.Helper()
	pair, id := partner.PairOf(a.user, b.user), uuid.New()
	w.exec(`INSERT INTO partnerships (id, low, high, status, started_at, version) VALUES ($1, $2, $3, 1, now(), 1)`, id, pair.Low, pair.High)
	for _, user := range []uuid.UUID{a.user, b.user} {
		var slot int
		if err := w.pool.QueryRow(w.ctx(), `INSERT INTO user_slots (user_id, slot)
			SELECT $1, 1 + count(*) FROM user_slots WHERE user_id = $1 RETURNING slot`, user).Scan(&slot); err != nil {
			w.t.Fatal(err)
		}
		w.exec(`INSERT INTO partnership_members (partnership_id, user_id, slot, active) VALUES ($1, $2, $3, true)`, id, user, slot)
	}
	return id
}

// part ends it, and tells of it on the events topic.
func (w *world) part(id uuid.UUID, a, b phone) {
	w.t.Helper()
	w.exec(`UPDATE partnership_members SET active = false WHERE partnership_id = $1`, id)
	w.exec(`UPDATE partnerships SET status = 2, ended_at = now() WHERE id = $1`, id)
	w.tell(partner.EventPartnershipEnded, a, b, `{}`)
}

// tell publishes an event that has no inbox of its own in these tests.
func (w *world) tell(kind partner.EventType, a, b phone, data string) {
	w.t.Helper()
	w.mu.Lock()
	w.eventSeq++
	seq := w.eventSeq
	w.mu.Unlock()
	w.topic.publish(contract.Event{
		EventID: uuid.New(), Type: kind.String(), Version: 1, Pair: partner.PairOf(a.user, b.user).String(),
		Epoch: w.epoch, Seq: seq, AppliedAt: contract.Instant(time.Now()), Data: json.RawMessage(data),
	})
}

// share sets whether a user shares presence, and tells of it.
func (w *world) share(p phone, on bool) {
	w.t.Helper()
	w.exec(`UPDATE users SET show_presence = $2 WHERE id = $1`, p.user, on)
	w.tell(partner.EventProfileUpdated, p, p, `{"fields":["presence"]}`)
}

// sees reads the next frame, which must be of this person being online or not.
func (w *world) sees(c *realtimetest.Conn, of phone, online bool) realtimetest.Frame {
	w.t.Helper()
	f := w.next(c, "presence")
	if f.UserID != of.user || f.Online != online {
		w.t.Fatalf("frame %+v, want of %s: online %v", f, of.user, online)
	}
	return f
}

func TestPartnersSeeEachOther(t *testing.T) {
	t.Parallel()
	w, topic := newWorld(t), newPeers()
	one, two := w.watch(topic, nil), w.watch(topic, nil)
	ann, ben, cid := w.sharing(), w.sharing(), w.sharing()
	w.unite(ann, ben)

	b, _ := w.connect(one, ben, realtimetest.Options{})
	if f := w.sees(b, ann, false); f.LastSeen != nil {
		t.Errorf("last seen at %v, who was never there", f.LastSeen)
	}
	stranger, _ := w.connect(one, cid, realtimetest.Options{})
	first, _ := w.connect(two, ann, realtimetest.Options{})
	if f := w.sees(b, ann, true); f.LastSeen == nil || time.Since(*f.LastSeen) > time.Minute {
		t.Errorf("online, last seen at %v", f.LastSeen)
	}
	w.sees(first, ben, true)

	// Another device is no news, neither when it comes nor when it goes.
	second, _ := w.connect(one, w.session(ann.user), realtimetest.Options{})
	w.sees(second, ben, true)
	_ = second.Close()
	w.until("the second device is gone", func() bool { return one.value("bondmate_realtime_sockets", "open") == 2 })
	w.quiet(b)

	before := time.Now()
	_ = first.Close()
	f := w.sees(b, ann, false)
	if f.LastSeen == nil || f.LastSeen.Before(before.Add(-time.Second)) || f.LastSeen.After(time.Now()) {
		t.Errorf("went after %v, last seen at %v", before, f.LastSeen)
	}
	w.quiet(stranger)
	if said := topic.of(cid.user); len(said) == 0 {
		t.Error("somebody who shares is not announced")
	}
	// Whoever comes later learns when that was, whatever gateway knew it.
	three := w.watch(newPeers(), nil)
	_ = b.Close()
	again, _ := w.connect(three, ben, realtimetest.Options{})
	if g := w.sees(again, ann, false); g.LastSeen == nil || g.LastSeen.Sub(*f.LastSeen).Abs() > time.Second {
		t.Errorf("last seen at %v, and then at %v", f.LastSeen, g.LastSeen)
	}
}

// A phone whose socket ends may come again for a moment before that is told.
func TestShortBreakIsNoAbsence(t *testing.T) {
	t.Parallel()
	w, topic := newWorld(t), newPeers()
	g := w.watch(topic, func(c *realtime.Config) { c.LeaveWithin, c.PresenceExpiry = time.Hour, 200*time.Millisecond })
	ann, ben, cid := w.sharing(), w.sharing(), w.sharing()
	w.unite(ann, ben)
	b, _ := w.connect(g, ben, realtimetest.Options{})
	w.sees(b, ann, false)
	a, _ := w.connect(g, ann, realtimetest.Options{})
	w.sees(b, ann, true)
	w.unite(ben, cid)
	w.tell(partner.EventPartnershipStarted, ben, cid, `{}`)
	w.sees(b, cid, false)
	_ = a.Close()
	w.until("ann's socket has ended", func() bool { return g.value("bondmate_realtime_sockets", "open") == 1 })
	// Of cid an instance says something, and then nothing: that is found where ann's absence would be.
	topic.say(contract.Presence{UserID: cid.user, Instance: uuid.New(), Online: true, Time: contract.Instant(time.Now())})
	w.sees(b, cid, true)
	w.sees(b, cid, false)
	w.quiet(b)
}

// A phone that is no longer heard of was last seen when it was last heard.
func TestSilentPhoneGoesOffline(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.watch(newPeers(), func(c *realtime.Config) { c.Heartbeat, c.PongWithin = 500*time.Millisecond, 500*time.Millisecond })
	ann, ben := w.sharing(), w.sharing()
	w.unite(ann, ben)
	b, _ := w.connect(g, ben, realtimetest.Options{})
	w.sees(b, ann, false)
	// A client that nobody reads from does not see the pings, and answers none.
	a := w.dial(g, ann, realtimetest.Options{SkipHello: true})
	if err := a.Send([]byte(`{"op":"hello"}`)); err != nil {
		t.Fatal(err)
	}
	said := time.Now()
	w.sees(b, ann, true)
	if f := w.sees(b, ann, false); f.LastSeen == nil || f.LastSeen.Sub(said).Abs() > 400*time.Millisecond {
		t.Errorf("last heard at %v, last seen at %v", said, f.LastSeen)
	}
}

func TestPresenceIsForPartnersWhoBothShare(t *testing.T) {
	t.Parallel()
	w, topic := newWorld(t), newPeers()
	g := w.watch(topic, nil)
	ann, ben, eve := w.sharing(), w.phone(), w.sharing()
	id := w.unite(ann, ben)
	a, _ := w.connect(g, ann, realtimetest.Options{})
	b, _ := w.connect(g, ben, realtimetest.Options{})
	e, _ := w.connect(g, eve, realtimetest.Options{})

	// One of them does not share: nobody is told anything, and the topic knows of one alone.
	w.until("ann is announced", func() bool { return len(topic.of(ann.user)) > 0 })
	w.share(ben, true)
	w.sees(a, ben, true)
	w.sees(b, ann, true)
	w.until("ben is announced", func() bool { return len(topic.of(ben.user)) > 0 })

	w.share(ben, false)
	if f := w.sees(a, ben, false); f.LastSeen != nil {
		t.Errorf("who shares no longer was last seen at %v", f.LastSeen)
	}
	w.sees(b, ann, false)
	w.until("ben is taken back", func() bool { said := topic.of(ben.user); return !said[len(said)-1].Online })
	var kept int
	if err := w.pool.QueryRow(w.ctx(), `SELECT count(*) FROM presence WHERE user_id = $1`, ben.user).Scan(&kept); err != nil || kept != 0 {
		t.Errorf("%d rows of when he was last seen are kept, %v", kept, err)
	}

	w.share(ben, true)
	w.sees(a, ben, true)
	w.sees(b, ann, true)
	// Partners no longer: not a word more, neither of the end nor of anything after it.
	w.part(id, ann, ben)
	_ = b.Close()
	w.until("ben is gone", func() bool { said := topic.of(ben.user); return !said[len(said)-1].Online })
	b, _ = w.connect(g, ben, realtimetest.Options{})
	w.until("ben is back", func() bool { said := topic.of(ben.user); return said[len(said)-1].Online })
	// What comes next comes after all that could have come of it: it is of a new partnership.
	w.unite(ann, eve)
	w.tell(partner.EventPartnershipStarted, ann, eve, `{}`)
	w.sees(a, eve, true)
	w.sees(e, ann, true)
	w.quiet(a)
	w.quiet(b)
	w.quiet(e)
}

func TestPresenceOfSuspendedIsNotShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.watch(newPeers(), nil)
	ann, ben, cid := w.sharing(), w.sharing(), w.sharing()
	w.unite(ann, ben)
	w.unite(ann, cid)
	w.exec(`UPDATE users SET status = $2 WHERE id = $1`, ben.user, partner.UserSuspended)
	_, _ = w.connect(g, ben, realtimetest.Options{})
	_, _ = w.connect(g, cid, realtimetest.Options{})
	a, _ := w.connect(g, ann, realtimetest.Options{})
	w.sees(a, cid, true)
	w.quiet(a)
}

// An instance that dies says nothing: what it said is believed for a while.
func TestPresenceOfADeadInstanceExpires(t *testing.T) {
	t.Parallel()
	w, topic := newWorld(t), newPeers()
	g := w.watch(topic, func(c *realtime.Config) { c.PresenceExpiry = 300 * time.Millisecond })
	ann, ben := w.sharing(), w.sharing()
	w.unite(ann, ben)
	b, _ := w.connect(g, ben, realtimetest.Options{})
	w.sees(b, ann, false)
	instance, seen := uuid.New(), contract.Instant(time.Now().Add(-time.Minute))
	topic.say(contract.Presence{UserID: ann.user, Instance: instance, Online: true, Time: seen})
	w.sees(b, ann, true)
	if f := w.sees(b, ann, false); f.LastSeen == nil || f.LastSeen.Sub(seen).Abs() > time.Second {
		t.Errorf("last seen at %v, want at the instance's last word, %v", f.LastSeen, seen)
	}
	if n := g.value("bondmate_realtime_presence_expired_total", ""); n != 1 {
		t.Errorf("%v expired, want 1", n)
	}
	// It lives after all, and so does another.
	other := uuid.New()
	topic.say(contract.Presence{UserID: ann.user, Instance: other, Online: true, Time: seen})
	w.sees(b, ann, true)
	topic.say(contract.Presence{UserID: ann.user, Instance: instance, Time: seen})
	topic.say(contract.Presence{UserID: ann.user, Instance: other, Time: seen})
	w.sees(b, ann, false)
}

// Who is online is said again and again, so that the topic may lose a word or not be there.
func TestPresenceIsSaidAgain(t *testing.T) {
	t.Parallel()
	w, topic := newWorld(t), newPeers()
	topic.away = true
	one, two := w.watch(topic, func(c *realtime.Config) { c.AnnounceEvery = 100 * time.Millisecond }), w.watch(topic, nil)
	ann, ben, cid := w.sharing(), w.sharing(), w.sharing()
	w.unite(ann, ben)
	w.unite(ann, cid)
	b, _ := w.connect(two, ben, realtimetest.Options{})
	w.sees(b, ann, false)
	c, _ := w.connect(one, cid, realtimetest.Options{})
	w.sees(c, ann, false)
	_, _ = w.connect(one, ann, realtimetest.Options{})
	w.sees(c, ann, true) // without the topic, on one gateway
	w.until("the topic failed", func() bool { return one.value("bondmate_realtime_presence_announced_total", "failed") > 0 })
	topic.mu.Lock()
	topic.away = false
	topic.mu.Unlock()
	w.sees(b, ann, true)
}

// A gateway that drains leaves it to the others to find out who does not come again.
func TestDrainingGatewayTakesNobodyOffline(t *testing.T) {
	t.Parallel()
	w, topic := newWorld(t), newPeers()
	one, two := w.watch(topic, nil), w.watch(topic, nil)
	ann, ben := w.sharing(), w.sharing()
	w.unite(ann, ben)
	b, _ := w.connect(two, ben, realtimetest.Options{})
	w.sees(b, ann, false)
	a, _ := w.connect(one, ann, realtimetest.Options{})
	w.sees(b, ann, true)
	seenAt := func() (at time.Time) {
		if err := w.pool.QueryRow(w.ctx(), `SELECT COALESCE(max(seen_at), 'epoch') FROM presence WHERE user_id = $1`, ann.user).Scan(&at); err != nil {
			t.Fatal(err)
		}
		return at
	}
	before := seenAt()
	if err := one.Drain(w.ctx()); err != nil {
		t.Fatal(err)
	}
	_ = w.wantClose(a, 1012)
	w.until("her leaving is noted", func() bool { return seenAt().After(before) })
	one.stop()
	a, _ = w.connect(two, ann, realtimetest.Options{})
	w.sees(a, ben, true)
	w.quiet(b)
	for _, said := range topic.of(ann.user) {
		if !said.Online {
			t.Errorf("the draining gateway said %+v", said)
		}
	}
}
