package realtime

import (
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"
)

// state is a socket's life.
type state uint8

const (
	statePending state = iota // until ready
	stateOpen
	stateClosing // a close frame is queued or sent; nothing else will be
	stateEnded   // the reader is gone
)

func (s state) String() string {
	return [...]string{"pending", "open", "closing", "ended"}[s]
}

// phase says where a socket's next event comes from.
type phase uint8

const (
	phaseLive    phase = iota // the topic
	phaseWaiting              // the topic still, while a fill waits for a gap to close by itself
	phaseReading              // the inbox: events from the topic are only held
)

// socket is one phone's connection. See the package documentation for its goroutines.
type socket struct {
	g    *Gateway
	conn *websocket.Conn
	done chan struct{} // closed when the reader ends

	bearer        bool      // authenticated at upgrade
	user, session uuid.UUID // set by the reader under mu, once, before the hub knows the socket

	mu    sync.Mutex
	state state
	timer *time.Timer // the next of ping, notice and expiry

	// The place in the stream. Every event frame up to next-1 has been queued, none from
	// next on; want is the highest sequence known to exist.
	epoch string
	next  int64
	want  int64
	phase phase
	hurry chan struct{}    // of a fill that waits for a gap to close by itself
	look  bool             // read the inbox even when nothing is known to be missing
	quiet int64            // up to this sequence an event is a replay, which no latency is taken of
	held  map[int64]*event // from the topic, beyond next; bounded by maxHeld

	queue   []frame
	queued  int // bytes
	writing bool
	room    chan struct{} // of a fill that waits for the queue to fall

	sent    int64 // highest sequence handed to the connection in this epoch
	acked   int64 // highest acknowledged, clamped to sent
	visible bool
	silent  bool // nothing was heard of the phone until its deadline passed

	expires  time.Time
	warned   bool
	pingAt   time.Time
	closeBy  string // server or client, for the metric
	closedAs int
}

// setState keeps the gauge. mu is held.
func (s *socket) setState(to state) {
	g := s.g.m.sockets
	if s.state != stateEnded {
		g.WithLabelValues(s.state.String()).Dec()
	}
	if to != stateEnded {
		g.WithLabelValues(to.String()).Inc()
	}
	s.state = to
}

// usable reports whether frames still go out. mu is held.
func (s *socket) usable() bool { return s.state == statePending || s.state == stateOpen }

// close sends the close frame after the frame in hand, drops what is queued, and lets the
// reader end once the peer has answered or Config.CloseWithin has passed.
func (s *socket) close(code int, reason string) {
	s.mu.Lock()
	s.closeLocked(code, reason)
	user := s.user
	s.mu.Unlock()
	s.g.hub.remove(user, s)
}

func (s *socket) closeLocked(code int, reason string) {
	if !s.usable() {
		return
	}
	s.setState(stateClosing)
	s.closeBy, s.closedAs = "server", code
	s.held = nil
	if s.timer != nil {
		s.timer.Stop()
	}
	s.queue, s.queued = append(s.queue[:0], frame{kind: kindClose, body: websocket.FormatCloseMessage(code, reason)}), 0
	if s.writing {
		// A write that a slow peer holds up must not hold up the close as well.
		_ = s.conn.NetConn().SetWriteDeadline(time.Now().Add(s.g.cfg.CloseWithin))
	}
	s.wakeWriter()
	s.signalRoom()
}

// end is the reader's last act.
func (s *socket) end() {
	s.g.hub.remove(s.user, s)
	s.mu.Lock()
	silent := s.silent
	s.mu.Unlock()
	s.g.presence.went(s, silent)
	s.mu.Lock()
	s.setState(stateEnded)
	s.queue, s.queued, s.held = nil, 0, nil
	if s.timer != nil {
		s.timer.Stop()
	}
	code, by := s.closedAs, s.closeBy
	s.signalRoom()
	s.mu.Unlock()
	close(s.done)
	_ = s.conn.Close()
	s.g.m.closed.WithLabelValues(closeLabel(code), by).Inc()
}

// startTimer ends the watch over the hello and begins pings and the watch over the
// token. mu is held.
func (s *socket) startTimer() {
	s.timer.Stop()
	s.pingAt = s.g.cfg.Clock().Add(s.g.cfg.Heartbeat)
	s.timer = time.AfterFunc(s.untilTick(), s.tick)
}

func (s *socket) untilTick() time.Duration {
	at := s.pingAt
	watch := s.expires
	if !s.warned {
		watch = s.expires.Add(-s.g.cfg.ExpiryNotice)
	}
	if watch.Before(at) {
		at = watch
	}
	return max(0, at.Sub(s.g.cfg.Clock()))
}

// tick runs on the timer's goroutine and never waits.
func (s *socket) tick() {
	now := s.g.cfg.Clock()
	s.mu.Lock()
	if !s.usable() {
		s.mu.Unlock()
		return
	}
	if left := s.expires.Sub(now); left <= 0 {
		s.mu.Unlock()
		s.close(CloseTokenExpired, "token expired")
		return
	} else if left <= s.g.cfg.ExpiryNotice && !s.warned {
		s.warned = true
		s.pushText(encode(expiringFrame{Op: "expiring", InMs: left.Milliseconds()}))
	}
	if !now.Before(s.pingAt) {
		s.pingAt = now.Add(s.g.cfg.Heartbeat)
		s.push(frame{kind: kindPing})
	}
	if s.usable() {
		s.timer.Reset(s.untilTick())
	}
	s.mu.Unlock()
}

// extend gives the socket until a new token's expiry.
func (s *socket) extend(expires time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expires, s.warned = expires, false
	if s.timer != nil && s.usable() {
		s.timer.Reset(s.untilTick())
	}
}
