package realtime

import (
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// maxHeld bounds the events that a socket holds back behind a gap. What does not fit is
// read from the inbox.
const maxHeld = 64

// event is one event of the topic as it goes to the sockets of one user.
type event struct {
	seq     int64
	epoch   string
	applied time.Time
	body    []byte // encoded once for all of the user's sockets
	last    bool   // the account is gone: nothing comes after it
}

// onEvent hands one event of the topic to the sockets of its recipients here. It never
// waits: it is called by the tail.
func (g *Gateway) onEvent(ev contract.Event) {
	// First, so that a socket that has to read on because of it finds it there.
	g.window.add(ev)
	g.presence.onEvent(ev)
	var tail []byte
	// A deleted account's sessions went in the transaction of this event, which its sockets are
	// told before they close.
	last := ev.Type == partner.EventAccountDeleted.String()
	for _, r := range ev.Recipients {
		list := g.hub.of(r.UserID)
		if len(list) == 0 {
			continue
		}
		if tail == nil {
			tail = eventTail(ev.EventID, ev.Type, ev.AppliedAt, ev.Data)
		}
		e := &event{seq: r.InboxSeq, epoch: ev.Epoch, applied: ev.AppliedAt, body: eventFrame(r.InboxSeq, tail), last: last}
		for _, s := range list {
			s.offer(e)
		}
	}
}

// offer gives a socket an event of the topic: it goes out when it is exactly the next
// one and young, else it only tells that there is something to read.
func (s *socket) offer(e *event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.usable():
		return
	case s.epoch == "": // the hello has not read its place yet
		s.hold(e)
		s.want = max(s.want, e.seq)
		return
	case e.epoch != s.epoch:
		s.look = true
		s.fill("epoch", 0)
		return
	case e.seq < s.next:
		s.g.m.repeats.Inc()
		return
	}
	s.want = max(s.want, e.seq)
	if e.seq == s.next && s.phase != phaseReading && s.young(e) {
		s.pushEvent(e)
		s.takeHeld()
	} else {
		s.hold(e)
	}
	s.fillIfBehind()
}

// hold keeps an event until its turn. mu is held.
func (s *socket) hold(e *event) {
	if len(s.held) >= maxHeld || e.seq >= s.next+4*maxHeld && s.epoch != "" {
		return
	}
	if s.held == nil {
		s.held = make(map[int64]*event)
	}
	s.held[e.seq] = e
}

// takeHeld queues the held events whose turn it is, as long as they are young. mu is held.
func (s *socket) takeHeld() {
	for len(s.held) > 0 && s.usable() {
		e, ok := s.held[s.next]
		if !ok || e.epoch != s.epoch || !s.young(e) {
			return
		}
		delete(s.held, e.seq)
		s.pushEvent(e)
	}
	s.held = nil
}

// pushEvent queues an event of the topic whose turn it is. mu is held.
func (s *socket) pushEvent(e *event) {
	f := frame{kind: kindEvent, body: e.body, seq: e.seq, confirmed: e.applied, via: viaTopic, last: e.last}
	if e.seq > s.quiet {
		f.applied = e.applied
	}
	s.next++
	s.push(f)
}

func (s *socket) young(e *event) bool {
	return s.g.cfg.Clock().Sub(e.applied) <= s.g.cfg.StraightFor
}

// fillIfBehind starts a fill when something is known to be missing. mu is held.
func (s *socket) fillIfBehind() {
	if s.want < s.next {
		return
	}
	if e, ok := s.held[s.next]; ok && !s.young(e) {
		s.fill("old", 0)
		return
	}
	s.fill("gap", s.g.cfg.GapWait)
}

// behind tells a socket that its inbox reaches up to head in the epoch, which the topic
// may have failed to say.
func (s *socket) behind(head int64, epoch string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.usable() || s.epoch == "":
	case epoch != s.epoch:
		s.look = true
		s.fill("epoch", 0)
	case head >= s.next:
		s.want = max(s.want, head)
		// What the topic is just delivering is no gap.
		s.fill("head", 10*s.g.cfg.GapWait)
	}
}

// rewind takes back the queued events from seq on, to be read again. mu is held.
func (s *socket) rewind(seq int64) {
	s.g.m.rewinds.Inc()
	s.want = max(s.want, s.next-1)
	s.next = seq
	s.dropEvents()
	s.fill("rewind", 0)
}

// dropEvents removes the events from the queue. mu is held.
func (s *socket) dropEvents() {
	kept := s.queue[:0]
	s.queued = 0
	for _, f := range s.queue {
		if f.kind != kindEvent {
			kept = append(kept, f)
			s.queued += f.size()
		}
	}
	clear(s.queue[len(kept):])
	s.queue = kept
	s.signalRoom()
}

// fill starts the fill goroutine unless one runs. mu is held.
func (s *socket) fill(cause string, wait time.Duration) {
	if s.phase != phaseLive || !s.usable() {
		if s.hurry != nil && wait == 0 {
			close(s.hurry) // no use in waiting any longer
			s.hurry = nil
		}
		return
	}
	s.g.m.fills.WithLabelValues(cause).Inc()
	s.phase = phaseWaiting
	if wait > 0 {
		s.hurry = make(chan struct{})
	}
	s.g.running.Go(func() { s.runFill(wait) })
}

// signalRoom wakes the fill, if it waits. mu is held.
func (s *socket) signalRoom() {
	if s.room != nil {
		close(s.room)
		s.room = nil
	}
}

// runFill is the fill: it reads the inbox until the socket is no longer behind.
func (s *socket) runFill(wait time.Duration) {
	if wait > 0 && !s.await(wait) {
		return
	}
	s.mu.Lock()
	s.hurry = nil
	s.takeHeld()
	if s.want < s.next && !s.look {
		s.phase = phaseLive
		s.mu.Unlock()
		return
	}
	s.phase = phaseReading
	s.mu.Unlock()
	s.catchUp()
}

// await lets a gap close by itself for a while. It reports false when the socket has ended.
func (s *socket) await(wait time.Duration) bool {
	s.mu.Lock()
	hurry := s.hurry // nil when there was a reason to hurry already
	s.mu.Unlock()
	if hurry == nil {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-hurry:
	case <-s.done:
		return false
	}
	return true
}

// catchUp reads page after page until the socket is up to date, then lets the topic take
// over. The phase is reading, which is what makes it the only one to move next forward.
func (s *socket) catchUp() {
	failures, since := 0, time.Now()
	for {
		after, ok := s.awaitRoom()
		if !ok {
			return
		}
		p, err := s.read(after)
		if err != nil {
			failures++
			if time.Since(since) > s.g.cfg.GiveUpAfter {
				s.close(websocket.CloseServiceRestart, s.g.retryReason())
				return
			}
			if !s.pause(backoff(failures)) {
				return
			}
			continue
		}
		failures, since = 0, time.Now()
		if s.apply(p, after) {
			return
		}
	}
}

// awaitRoom waits until the queue has room for a page and returns where to read on.
// A peer that takes nothing is ended by the writer's deadline.
func (s *socket) awaitRoom() (after int64, ok bool) {
	for {
		s.mu.Lock()
		if !s.usable() {
			s.mu.Unlock()
			return 0, false
		}
		if s.queued <= s.g.cfg.QueueBytes/4 {
			after = s.next - 1
			s.mu.Unlock()
			return after, true
		}
		if s.room == nil {
			s.room = make(chan struct{})
		}
		room := s.room
		s.mu.Unlock()
		select {
		case <-room:
		case <-s.done:
			return 0, false
		}
	}
}

// apply queues a page that was read after the sequence given, and reports whether the
// socket is up to date.
func (s *socket) apply(p page, after int64) bool {
	if !p.live {
		s.close(CloseSessionRevoked, "session revoked")
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.usable() {
		return true
	}
	if after != s.next-1 {
		return false // rewound meanwhile: the page is of another place
	}
	switch {
	case p.epoch != s.epoch:
		s.resync(ResyncEpoch, p)
		return false
	case p.head < after:
		s.resync(ResyncAhead, p)
		return false
	case p.head > after && (len(p.rows) == 0 || p.rows[0].seq != after+1):
		s.resync(ResyncHistory, p)
		return false
	}
	s.look = false
	s.pushRows(p)
	s.takeHeld()
	switch {
	case p.full || s.next <= p.head:
		return false
	case s.want < s.next:
	case len(p.rows) == 0:
		// The topic told of a sequence in this epoch that the primary does not have,
		// though events are published after commit. The primary is right.
		s.g.cfg.Log.Warn("the topic is ahead of the inbox", "user", s.user, "want", s.want, "head", p.head)
		s.want, s.held = s.next-1, nil
	default:
		return false
	}
	s.phase = phaseLive
	for seq := range s.held {
		if seq < s.next {
			delete(s.held, seq)
		}
	}
	if len(s.held) == 0 {
		s.held = nil
	}
	return true
}

// pushRows queues the rows that follow each other from next on. mu is held.
func (s *socket) pushRows(p page) {
	for _, r := range p.rows {
		if r.seq != s.next {
			return
		}
		at := contract.Instant(r.appliedAt)
		f := frame{
			kind: kindEvent, seq: r.seq, confirmed: p.readAt, via: p.via,
			body: eventFrame(r.seq, eventTail(r.id, r.kind, at, r.data)),
		}
		if r.seq > s.quiet {
			f.applied = at
		}
		delete(s.held, r.seq)
		s.next++
		s.pushAnyway(f)
	}
}

// resync tells the client that what comes after its place cannot be sent, and goes on
// after the head. mu is held.
func (s *socket) resync(reason string, p page) {
	s.g.m.resyncs.WithLabelValues(reason).Inc()
	s.dropEvents()
	if p.epoch != s.epoch {
		s.held, s.want, s.sent, s.acked = nil, p.head, 0, 0
	}
	s.epoch, s.next = p.epoch, p.head+1
	s.sent, s.acked = min(s.sent, p.head), min(s.acked, p.head)
	s.quiet = max(s.quiet, p.head)
	s.look = true // what was held of the new history is lost: look once more
	s.push(frame{kind: kindText, body: encode(resyncFrame{Op: "resync", Reason: reason, Seq: p.head, Epoch: p.epoch})})
}

// acknowledge notes how far the phone has come, never beyond what this socket was sent:
// an acknowledgement withholds pushes and keeps content from being withdrawn.
func (s *socket) acknowledge(seq int64) {
	s.mu.Lock()
	seq = min(seq, s.sent)
	fresh := seq > 0 && (seq > s.acked || s.visible)
	s.acked = max(s.acked, seq)
	a := ack{user: s.user, session: s.session, epoch: s.epoch, seq: s.acked}
	if s.visible {
		a.visible = seq
	}
	s.mu.Unlock()
	if fresh && a.session != uuid.Nil {
		s.g.acks.add(a)
	}
}
