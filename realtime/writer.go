package realtime

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"
)

type kind uint8

const (
	kindText kind = iota
	kindEvent
	kindPing
	kindPong
	kindClose
	kindPresence
	kinds
)

func (k kind) String() string {
	return [...]string{"text", "event", "ping", "pong", "close", "presence"}[k]
}

// frame is what waits for the writer.
type frame struct {
	kind kind
	body []byte // shared between the sockets of a user: never changed

	seq       int64     // of an event
	confirmed time.Time // when it was known that no cut applied, or that two are partners
	about     uuid.UUID // of a word on presence: whose
	applied   time.Time // of an event whose latency is taken
	via       string
	last      bool // the socket closes after it
}

// frameOverhead is what a frame is counted for beyond its body, so that a queue of
// empty ones is bounded too.
const frameOverhead = 64

func (f frame) size() int { return len(f.body) + frameOverhead }

// push queues a frame; when the queue is full the socket is closed instead. It does
// nothing on a socket that is closing. mu is held.
func (s *socket) push(f frame) {
	if !s.usable() {
		return
	}
	if s.queued+f.size() > s.g.cfg.QueueBytes {
		s.g.m.overflow.Inc()
		s.closeLocked(CloseTooSlow, "too slow")
		return
	}
	s.pushAnyway(f)
}

// pushAnyway is push without the bound, for the pages of a fill, which waits for the
// queue to fall before each. mu is held.
func (s *socket) pushAnyway(f frame) {
	if !s.usable() {
		return
	}
	s.queue = append(s.queue, f)
	s.queued += f.size()
	s.wakeWriter()
}

func (s *socket) pushText(body []byte) { s.push(frame{kind: kindText, body: body}) }

// wakeWriter starts the writer unless it runs. mu is held, and the reader has not ended:
// so the gateway's count of goroutines is not zero here.
func (s *socket) wakeWriter() {
	if s.writing || s.state == stateEnded {
		return
	}
	s.writing = true
	s.g.running.Go(s.write)
}

// write is the writer: it lives until the queue is empty.
func (s *socket) write() {
	for {
		batch := s.pop()
		if len(batch) == 0 {
			return
		}
		var err error
		if len(batch) == 1 {
			err = s.send(batch[0])
		} else {
			err = s.sendTogether(batch)
		}
		if err != nil {
			s.writeFailed()
			return
		}
		for _, f := range batch {
			s.written(f)
		}
		clear(batch)
	}
}

// togetherBytes bounds what is written at once.
const togetherBytes = 8 << 10

// pop takes the next frame, with the texts and events behind it that fit into one write, or
// ends the writer. An event that has waited too long for its turn is not sent unread: it and
// all behind it are read again.
func (s *socket) pop() []frame {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, bytes := 0, 0
	for n < len(s.queue) && s.state != stateEnded {
		f := s.queue[n]
		if n > 0 && (f.kind > kindEvent || bytes+f.size() > togetherBytes) {
			break
		}
		if f.kind == kindPresence && s.g.cfg.Clock().Sub(f.confirmed) > s.g.cfg.ConfirmedFor {
			s.queue = s.queue[1:]
			s.queued = max(0, s.queued-f.size())
			s.g.presence.stale(s, f.about)
			continue
		}
		if f.kind == kindEvent && s.g.cfg.Clock().Sub(f.confirmed) > s.g.cfg.ConfirmedFor {
			if n > 0 {
				break // the next pop's
			}
			s.rewind(f.seq)
			continue
		}
		bytes += f.size()
		n++
		if f.kind == kindEvent {
			// Now, not once it is written: the phone's acknowledgement can be faster.
			s.sent = max(s.sent, f.seq)
		}
		if f.kind > kindEvent || f.last {
			break // by itself, and the socket closes after the last
		}
	}
	if n == 0 {
		s.queue, s.queued, s.writing = nil, 0, false
		s.signalRoom()
		return nil
	}
	batch := s.queue[:n:n]
	s.queue = s.queue[n:]
	s.queued = max(0, s.queued-bytes)
	if s.queued <= s.g.cfg.QueueBytes/4 {
		s.signalRoom()
	}
	return batch
}

// together holds the buffers of writes under way.
var together = sync.Pool{New: func() any { return new([]byte) }}

// sendTogether writes several texts in one write: an acceptance is three events for a user,
// and most of what a frame costs is the system call. It passes by the websocket.Conn, which
// writes one message at a time; a whole write is not interrupted by a close frame that the
// reader answers meanwhile, since connections write one call after the other.
func (s *socket) sendTogether(batch []frame) error {
	buf := together.Get().(*[]byte)
	defer together.Put(buf)
	b := (*buf)[:0]
	for _, f := range batch {
		b = append(appendTextHeader(b, len(f.body)), f.body...)
	}
	*buf = b
	conn := s.conn.NetConn()
	_ = conn.SetWriteDeadline(time.Now().Add(s.g.cfg.WriteWithin))
	_, err := conn.Write(b)
	return err
}

// appendTextHeader appends what comes before the text of so many bytes (RFC 6455, section
// 5.2), of fewer than 64 KiB: a server's frame is not masked, and is a whole message.
func appendTextHeader(b []byte, size int) []byte {
	b = append(b, 1<<7|websocket.TextMessage)
	if size < 126 {
		return append(b, byte(size))
	}
	return binary.BigEndian.AppendUint16(append(b, 126), uint16(size))
}

func (s *socket) send(f frame) error {
	now := time.Now()
	switch f.kind {
	case kindPing:
		return s.conn.WriteControl(websocket.PingMessage, nil, now.Add(s.g.cfg.WriteWithin))
	case kindPong:
		return s.conn.WriteControl(websocket.PongMessage, f.body, now.Add(s.g.cfg.WriteWithin))
	case kindClose:
		err := s.conn.WriteControl(websocket.CloseMessage, f.body, now.Add(s.g.cfg.CloseWithin))
		// Whether or not the peer answers, the reader ends by then.
		_ = s.conn.SetReadDeadline(time.Now().Add(s.g.cfg.CloseWithin))
		return err
	default:
		_ = s.conn.SetWriteDeadline(now.Add(s.g.cfg.WriteWithin))
		return s.conn.WriteMessage(websocket.TextMessage, f.body)
	}
}

func (s *socket) written(f frame) {
	s.g.m.frames[f.kind].Inc()
	if f.kind != kindEvent {
		return
	}
	if f.last {
		s.close(CloseSessionRevoked, "account deleted")
	}
	if !f.applied.IsZero() {
		s.g.m.delivered[f.via].Observe(seconds(s.g.cfg.Clock().Sub(f.applied)))
	}
}

// writeFailed ends a socket that cannot be written to: the stream may have been cut
// inside a frame, so no close frame can follow.
func (s *socket) writeFailed() {
	s.mu.Lock()
	if s.usable() {
		s.closeBy, s.closedAs = "server", CloseTooSlow
		s.setState(stateClosing)
	}
	s.queue, s.queued, s.writing = nil, 0, false
	s.signalRoom()
	s.mu.Unlock()
	_ = s.conn.SetReadDeadline(time.Now())
}
