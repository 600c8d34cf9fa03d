package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// cut says what the proxy does to the next COMMIT that passes it.
type cut int32

const (
	none      cut = iota
	beforeIt      // the connection breaks and the server never sees the COMMIT
	afterIt       // the server commits, and the connection breaks before its answer arrives
	cutsKinds = 2
)

// proxy stands between a role and PostgreSQL. It understands just enough of the protocol
// to break a connection exactly at a COMMIT.
type proxy struct {
	addr     string
	listener net.Listener
	upstream atomic.Pointer[string]
	armed    atomic.Int32
	made     atomic.Int32 // cuts made

	mu    sync.Mutex
	conns map[net.Conn]bool
}

func newProxy(t *testing.T, upstream string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: listener.Addr().String(), listener: listener, conns: map[net.Conn]bool{}}
	p.upstream.Store(&upstream)
	var group sync.WaitGroup
	group.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		p.closeAll()
		group.Wait()
	})
	return p
}

// cutNext breaks the connection of the next COMMIT.
func (p *proxy) cutNext(c cut) { p.armed.Store(int32(c)) }

func (p *proxy) track(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = true
}

func (p *proxy) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", *p.upstream.Load())
	if err != nil {
		return
	}
	defer server.Close()
	p.track(client)
	p.track(server)

	var dropping atomic.Bool
	done := make(chan struct{}, 2)
	go func() {
		p.forward(client, server, &dropping)
		done <- struct{}{}
	}()
	go func() {
		p.answer(server, client, &dropping)
		done <- struct{}{}
	}()
	<-done
	_ = client.Close()
	_ = server.Close()
	<-done
}

var errCut = errors.New("cut")

// forward copies the client's messages and watches for COMMIT, as a statement of its own
// or as a prepared one that is bound.
func (p *proxy) forward(client, server net.Conn, dropping *atomic.Bool) {
	size := make([]byte, 4) // the first message has no type
	if _, err := io.ReadFull(client, size); err != nil {
		return
	}
	body := make([]byte, binary.BigEndian.Uint32(size)-4)
	if _, err := io.ReadFull(client, body); err != nil {
		return
	}
	if _, err := server.Write(append(size, body...)); err != nil {
		return
	}
	commits := map[string]bool{} // names of prepared statements that are COMMIT
	_ = eachMessage(client, func(kind byte, body, raw []byte) error {
		if isCommit(kind, body, commits) {
			switch c := cut(p.armed.Swap(int32(none))); c {
			case none:
			case beforeIt:
				p.made.Add(1)
				return errCut
			case afterIt:
				dropping.Store(true)
			}
		}
		_, err := server.Write(raw)
		return err
	})
}

func isCommit(kind byte, body []byte, commits map[string]bool) bool {
	text := func(b []byte) (string, []byte) {
		s, rest, _ := bytes.Cut(b, []byte{0})
		return string(s), rest
	}
	first, rest := text(body)
	second, _ := text(rest)
	switch kind {
	case 'Q':
		return strings.EqualFold(strings.TrimSpace(first), "commit")
	case 'P':
		commits[first] = strings.EqualFold(strings.TrimSpace(second), "commit")
	case 'B':
		return commits[second]
	}
	return false
}

// answer copies the server's messages; while dropping it swallows them up to the server's
// word that it has committed, and breaks the connection there.
func (p *proxy) answer(server, client net.Conn, dropping *atomic.Bool) {
	_ = eachMessage(server, func(kind byte, body, raw []byte) error {
		if dropping.Load() {
			if kind == 'C' && bytes.HasPrefix(body, []byte("COMMIT")) {
				p.made.Add(1)
				return errCut
			}
			return nil
		}
		_, err := client.Write(raw)
		return err
	})
}

// eachMessage reads typed messages until the connection or the function ends.
func eachMessage(from net.Conn, handle func(kind byte, body, raw []byte) error) error {
	head := make([]byte, 5)
	for {
		if _, err := io.ReadFull(from, head); err != nil {
			return err
		}
		raw := make([]byte, 1+binary.BigEndian.Uint32(head[1:]))
		copy(raw, head)
		if _, err := io.ReadFull(from, raw[5:]); err != nil {
			return err
		}
		if err := handle(head[0], raw[5:], raw); err != nil {
			return err
		}
	}
}
