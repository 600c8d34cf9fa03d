package service

import (
	"net"
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// ConnectionBound is how many connections a server holds at once, WebSockets included. What
// is beyond it is closed before anything is read of it, a handshake's cost spared.
type ConnectionBound struct {
	Total     int // 0: any number
	PerClient int // of one IPv4 address, or one /64 of IPv6; 0: any number
	// Exempt says whose connections count for Total alone: proxies', which stand for many.
	// nil: nobody's.
	Exempt func(netip.Addr) bool
	// Refused counts by reason: total or client.
	Refused *prometheus.CounterVec
}

// BoundConnections puts the bound before the server. It is called before Run.
func (s *Server) BoundConnections(b ConnectionBound) {
	s.listener = &boundListener{Listener: s.listener, bound: b, byClient: map[netip.Addr]int{}}
}

// boundListener accepts what is within the bound. Its memory is bounded by Total: a client
// without a connection has no entry.
type boundListener struct {
	net.Listener
	bound ConnectionBound

	mu       sync.Mutex
	total    int
	byClient map[netip.Addr]int
}

// Accept implements net.Listener.
func (l *boundListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, ok := conn.(*net.TCPConn)
		if !ok {
			return conn, nil
		}
		client, counted := l.clientOf(tcp)
		if reason := l.admit(client, counted); reason != "" {
			l.bound.Refused.WithLabelValues(reason).Inc()
			_ = tcp.SetLinger(0) // at once: who floods leaves no closing connections behind
			_ = tcp.Close()
			continue
		}
		return &boundConn{TCPConn: tcp, release: sync.OnceFunc(func() { l.release(client, counted) })}, nil
	}
}

// clientOf returns whom a connection counts for, and whether it counts for anybody.
func (l *boundListener) clientOf(conn *net.TCPConn) (client netip.Addr, counted bool) {
	addr, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok || l.bound.PerClient == 0 {
		return netip.Addr{}, false
	}
	client = addr.AddrPort().Addr().Unmap().WithZone("")
	if l.bound.Exempt != nil && l.bound.Exempt(client) {
		return client, false
	}
	if client.Is6() {
		if network, err := client.Prefix(64); err == nil {
			client = network.Addr()
		}
	}
	return client, true
}

func (l *boundListener) admit(client netip.Addr, counted bool) (refused string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.bound.Total > 0 && l.total >= l.bound.Total:
		return "total"
	case counted && l.byClient[client] >= l.bound.PerClient:
		return "client"
	}
	l.total++
	if counted {
		l.byClient[client]++
	}
	return ""
}

func (l *boundListener) release(client netip.Addr, counted bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if !counted {
		return
	}
	if l.byClient[client]--; l.byClient[client] == 0 {
		delete(l.byClient, client)
	}
}

// boundConn gives its place back when it is closed, by whomever: the server, or the owner of
// a WebSocket.
type boundConn struct {
	*net.TCPConn
	release func()
}

// Close implements net.Conn.
func (c *boundConn) Close() error {
	defer c.release()
	return c.TCPConn.Close()
}
