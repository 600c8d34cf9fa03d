package realtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"github.com/gorilla/websocket"

	"github.com/bondmate/backend/pkg/fault"
)

// readLimit is what one message of a client may hold, in bytes: an access token is the
// largest part of any.
const readLimit = 4 << 10

// run is the reader: it lives as long as the socket does.
func (s *socket) run(release func()) {
	defer s.end()
	defer release()
	s.conn.SetReadLimit(readLimit)
	allow := s.limiter()
	s.conn.SetPongHandler(func(string) error { s.heard(); return nil })
	s.conn.SetPingHandler(func(data string) error {
		s.heard()
		if !allow() {
			return nil
		}
		s.mu.Lock()
		s.push(frame{kind: kindPong, body: []byte(data)})
		s.mu.Unlock()
		return nil
	})
	s.mu.Lock()
	// The timer closes a silent socket with a code; the deadline ends it should that fail.
	_ = s.conn.SetReadDeadline(time.Now().Add(s.g.cfg.HelloWithin + 2*s.g.cfg.CloseWithin))
	s.timer = time.AfterFunc(s.g.cfg.HelloWithin, func() { s.close(CloseUnauthenticated, "no hello") })
	s.mu.Unlock()
	for greeted := false; ; {
		kind, body, err := s.conn.ReadMessage()
		if err != nil {
			s.readFailed(err)
			if errors.Is(err, websocket.ErrReadLimit) {
				s.drain()
			}
			return
		}
		s.heard()
		if !allow() || !s.isUsable() {
			continue // it is closing: only the peer's answer is awaited
		}
		m, ok := s.parse(kind, body)
		switch {
		case !ok:
		case greeted:
			s.handle(m)
		case m.Op != "hello":
			s.close(CloseUnauthenticated, "hello expected")
		default:
			greeted = true
			s.hello(m)
			release()
		}
	}
}

// limiter returns a function that waits when more than MessagesPerSec come in a second,
// so that a flood stays in the peer's own buffers. It reports false when the socket ends.
func (s *socket) limiter() func() bool {
	var began time.Time
	count := 0
	return func() bool {
		now := time.Now()
		if now.Sub(began) >= time.Second {
			began, count = now, 0
		}
		if count++; count <= s.g.cfg.MessagesPerSec {
			return true
		}
		ok := s.pause(time.Until(began.Add(time.Second)))
		began, count = time.Now(), 1
		return ok
	}
}

// pause waits for d; false when the gateway or the socket ends.
func (s *socket) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return s.isUsable()
	case <-s.done:
		return false
	case <-s.g.life.Done():
		return false
	}
}

func (s *socket) isUsable() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usable()
}

// heard gives the peer until the pong after next.
func (s *socket) heard() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == stateOpen { // a closing socket's deadline stands
		_ = s.conn.SetReadDeadline(time.Now().Add(s.g.cfg.Heartbeat + s.g.cfg.PongWithin))
	}
}

// readFailed notes why the reader ends, for the metric. The answer to a peer's close frame
// and the one to a message over the limit gorilla has sent, with its own deadline of 1 s.
func (s *socket) readFailed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.usable() {
		return
	}
	network, ok := errors.AsType[net.Error](err) // gorilla hides what is in it
	s.silent = ok && network.Timeout()
	closed, byPeer := errors.AsType[*websocket.CloseError](err)
	switch {
	case errors.Is(err, websocket.ErrReadLimit):
		s.closeBy, s.closedAs = "server", websocket.CloseMessageTooBig
	case byPeer && closed.Code != websocket.CloseAbnormalClosure:
		s.closeBy, s.closedAs = "client", closed.Code
	default:
		s.closeBy, s.closedAs = "client", 0
	}
	s.setState(stateClosing)
}

// drain reads on for a moment what is too large to be read: closing a connection with
// unread bytes resets it, and the peer would not learn why.
func (s *socket) drain() {
	conn := s.conn.NetConn()
	_ = conn.SetReadDeadline(time.Now().Add(s.g.cfg.CloseWithin))
	_, _ = io.CopyN(io.Discard, conn, 1<<20)
}

// parse decodes a message. What is not a JSON object in a text message closes the socket;
// a field of the wrong type is answered with an error.
func (s *socket) parse(kind int, body []byte) (message, bool) {
	m, code, violation := decode(kind, body)
	switch {
	case violation != "":
		s.close(websocket.ClosePolicyViolation, violation)
	case code != "":
		s.replyError(code)
	default:
		return m, true
	}
	return message{}, false
}

// decode reads a message, or says with which code it is answered, or for which reason the
// socket is closed.
func decode(kind int, body []byte) (m message, code, violation string) {
	if kind != websocket.TextMessage {
		return message{}, "", "not a text message"
	}
	err := json.Unmarshal(body, &m)
	wrongType, isType := errors.AsType[*json.UnmarshalTypeError](err)
	switch {
	case err == nil && isObject(body):
		return m, "", ""
	case isType && wrongType.Field != "":
		return message{}, codeInvalid, ""
	default:
		return message{}, "", "not a JSON object"
	}
}

// isObject tells JSON's null, which is read as an empty message, from an object.
func isObject(body []byte) bool {
	body = bytes.TrimLeft(body, " \t\r\n")
	return len(body) > 0 && body[0] == '{'
}

func (s *socket) reply(v any) {
	body := encode(v)
	s.mu.Lock()
	s.pushText(body)
	s.mu.Unlock()
}

func (s *socket) replyError(code string) { s.reply(errorFrame{Op: "error", Code: code}) }

// handle does what an open socket's client asks for.
func (s *socket) handle(m message) {
	switch m.Op {
	case "ack":
		if m.Seq == nil || *m.Seq < 0 {
			s.replyError(codeInvalid)
			return
		}
		s.acknowledge(*m.Seq)
	case "visible":
		if m.On == nil {
			s.replyError(codeInvalid)
			return
		}
		s.mu.Lock()
		s.visible = *m.On
		s.mu.Unlock()
	case "auth":
		s.reauthenticate(m.AccessToken)
	case "ping":
		s.mu.Lock()
		s.pushText(encode(pongFrame{Op: "pong", Seq: max(s.want, s.next-1)}))
		s.mu.Unlock()
	case "hello":
		s.replyError(codeInvalid)
	default:
		s.replyError(codeUnknownOp)
	}
}

// reauthenticate keeps the socket beyond its token's expiry, for the same session only.
func (s *socket) reauthenticate(token string) {
	ctx, cancel := context.WithTimeout(s.g.life, s.g.cfg.ReadWithin)
	defer cancel()
	id, err := s.g.cfg.Verifier.Verify(ctx, token)
	switch {
	case err != nil:
		s.replyError(fault.CodeOf(err))
	case id.UserID != s.user || id.SessionID != s.session:
		s.replyError(codeForbidden)
	default:
		s.extend(id.ExpiresAt)
	}
}

// hello authenticates the socket, makes it reachable and opens its stream.
func (s *socket) hello(m message) {
	s.mu.Lock()
	s.timer.Stop() // it came in time; what follows has deadlines of its own
	s.mu.Unlock()
	if m.After != nil && *m.After < 0 {
		s.close(websocket.ClosePolicyViolation, "after is negative")
		return
	}
	if !s.bearer {
		if m.Ticket == "" {
			s.close(CloseUnauthenticated, "no ticket")
			return
		}
		user, session, err := s.g.store.redeem(s.g.life, m.Ticket)
		switch {
		case errors.Is(err, errTicket):
			s.close(CloseUnauthenticated, "ticket is not valid")
			return
		case err != nil:
			s.g.cfg.Log.Warn("hello refused", "error", err)
			s.close(websocket.CloseServiceRestart, s.g.retryReason())
			return
		}
		s.mu.Lock()
		s.user, s.session = user, session
		s.expires = s.g.cfg.Clock().Add(s.g.cfg.TicketLifetime)
		s.mu.Unlock()
	}
	s.mu.Lock()
	s.visible, s.phase = m.Visible, phaseReading
	s.mu.Unlock()
	// From here on events of the topic reach the socket, which holds them: whatever is
	// committed after the read below is either held or told of.
	if !s.g.hub.add(s.user, s, s.g.cfg.SocketsPerUser) {
		s.close(CloseTooManySockets, "too many sockets")
		return
	}
	s.open(m)
}

// open reads the socket's place, says ready, and brings the socket up to date.
func (s *socket) open(m message) {
	after := int64(-1)
	if m.After != nil {
		after = *m.After
	}
	until := time.Now().Add(s.g.cfg.OpenWithin)
	var p page
	for failures := 1; ; failures++ {
		ctx, cancel := context.WithDeadline(s.g.life, until)
		var err error
		p, err = s.g.reads.read(ctx, s.user, s.session, after)
		cancel()
		if err == nil {
			break
		}
		if time.Now().After(until) || !s.pause(min(backoff(failures), time.Until(until))) {
			s.g.cfg.Log.Warn("hello refused", "error", err)
			s.close(websocket.CloseServiceRestart, s.g.retryReason())
			return
		}
	}
	if !p.live {
		s.close(CloseSessionRevoked, "session revoked")
		return
	}
	if behind := s.begin(m, p, after); behind {
		s.g.running.Go(s.catchUp)
	}
	s.g.presence.came(s)
}

// begin says ready, and resync when the client's place is not in this history. It reports
// whether the socket has to read on.
func (s *socket) begin(m message, p page, after int64) (behind bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.usable() {
		return false
	}
	reason := ""
	switch {
	case m.Epoch != nil && *m.Epoch != p.epoch:
		reason = ResyncEpoch
	case after > p.head:
		reason = ResyncAhead
	case after >= 0 && after < p.head && (len(p.rows) == 0 || p.rows[0].seq != after+1):
		reason = ResyncHistory
	}
	s.epoch, s.quiet = p.epoch, p.head
	s.next = p.head + 1
	resumed := after >= 0 && reason == ""
	if resumed {
		s.next = after + 1
	}
	s.setState(stateOpen)
	_ = s.conn.SetReadDeadline(time.Now().Add(s.g.cfg.Heartbeat + s.g.cfg.PongWithin))
	s.pushText(encode(readyFrame{
		Op: "ready", UserID: s.user, Seq: p.head, Epoch: p.epoch, Resumed: resumed,
		Heartbeat: int(s.g.cfg.Heartbeat / time.Second),
	}))
	s.startTimer()
	if reason != "" {
		s.resync(reason, p)
	}
	if resumed {
		s.pushRows(p)
	}
	s.takeHeld()
	behind = s.usable() && (s.next <= max(p.head, s.want) || s.look || p.full && resumed)
	if !behind {
		s.phase = phaseLive
	}
	return behind
}

// read reads the socket's inbox for a fill.
func (s *socket) read(after int64) (page, error) {
	ctx, cancel := context.WithTimeout(s.g.life, s.g.cfg.GiveUpAfter)
	defer cancel()
	return s.g.reads.read(ctx, s.user, s.session, after)
}

// backoff is exponential with full jitter, from 50 ms to 5 s.
func backoff(failures int) time.Duration {
	return rand.N(min(5*time.Second, 50*time.Millisecond<<min(failures, 10)))
}
