package service

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/bondmate/backend/pkg/certificate/certificatetest"
)

// run serves a handler until the test ends; change is called before it runs.
func run(t *testing.T, handler http.HandlerFunc, change func(*Server)) string {
	t.Helper()
	server, err := Listen(t.Context(), "127.0.0.1:0", handler, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(server)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return server.Addr().String()
}

func connect(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// drip writes a byte at a time until the connection ends or the test does.
func drip(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	var dripping sync.WaitGroup
	dripping.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			if _, err := io.WriteString(conn, text[i%len(text):][:1]); err != nil {
				return
			}
			<-tick.C
		}
	})
	t.Cleanup(func() { _ = conn.Close(); dripping.Wait() })
}

func echo(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// Who sends bytes all the time, but no request, is cut off when the time for it is over.
func TestDripping(t *testing.T) {
	t.Parallel()
	addr := run(t, echo, nil)
	for name, tt := range map[string]struct {
		first, then string
		within      time.Duration
		answer      string
	}{
		"headers":        {"GET / HTTP/1.1\r\nHost: x\r\nX-A: ", "a", readHeaderTimeout, ""},
		"a request line": {"GET /", "a", readHeaderTimeout, ""},
		"a body":         {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n", "a", readTimeout, "HTTP/1.1 400"},
		"chunks":         {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\na\r\n", readTimeout, "HTTP/1.1 400"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, begin := connect(t, addr), time.Now()
			if _, err := io.WriteString(conn, tt.first); err != nil {
				t.Fatal(err)
			}
			drip(t, conn, tt.then)
			_ = conn.SetReadDeadline(begin.Add(tt.within + 5*time.Second))
			answer, err := io.ReadAll(conn)
			if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
				t.Fatalf("still connected after %s", time.Since(begin))
			}
			if took := time.Since(begin); took < tt.within-time.Second {
				t.Errorf("cut off after %s already", took)
			}
			if !strings.HasPrefix(string(answer), tt.answer) {
				t.Errorf("answered %q, want %q", answer, tt.answer)
			}
		})
	}
}

// Who takes nothing of a large answer does not hold its writer.
func TestAReaderThatStands(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	addr := run(t, func(w http.ResponseWriter, _ *http.Request) {
		block := make([]byte, 1<<20)
		for {
			if _, err := w.Write(block); err != nil {
				ended <- err
				return
			}
		}
	}, nil)
	conn := connect(t, addr)
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		t.Logf("the handler's write ended: %v", err)
	case <-time.After(writeTimeout + 5*time.Second):
		t.Error("the handler still writes")
	}
}

func TestHeadersAreBounded(t *testing.T) {
	t.Parallel()
	addr := run(t, echo, nil)
	conn := connect(t, addr)
	go func() {
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nX-A: "+strings.Repeat("a", 1<<20)+"\r\n\r\n")
	}()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	status, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.HasPrefix(status, "HTTP/1.1 431 ") {
		t.Errorf("%q, %v", status, err)
	}
}

func refusals() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "refused", Help: "For the test."}, []string{"reason"})
}

// turnedAway reports whether the server ends a new connection without a word.
func turnedAway(t *testing.T, addr string) bool {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		return errors.Is(err, syscall.ECONNRESET)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := conn.Read(make([]byte, 1))
	timeout, ok := errors.AsType[net.Error](err)
	return n == 0 && err != nil && (!ok || !timeout.Timeout())
}

// servedSoon connects until it is served: the server notices the end of a connection a
// moment after it has ended.
func servedSoon(t *testing.T, addr string) bool {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			continue
		}
		t.Cleanup(func() { _ = conn.Close() })
		if served(t, conn) {
			return true
		}
	}
	return false
}

func served(t *testing.T, conn net.Conn) bool {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return false
	}
	status, err := bufio.NewReader(conn).ReadString('\n')
	return err == nil && strings.HasPrefix(status, "HTTP/1.1 204 ")
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		bound  ConnectionBound
		reason string
	}{
		"in total":                       {ConnectionBound{Total: 3}, "total"},
		"of one client":                  {ConnectionBound{Total: 10, PerClient: 3}, "client"},
		"in total, also of what is ours": {ConnectionBound{Total: 3, PerClient: 1, Exempt: netip.Addr.IsLoopback}, "total"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.bound.Refused = refusals()
			hijacked := make(chan net.Conn, 1)
			addr := run(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/socket" {
					echo(w, r)
					return
				}
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				hijacked <- conn
			}, func(s *Server) { s.BoundConnections(tt.bound) })
			first := connect(t, addr)
			for _, conn := range []net.Conn{first, connect(t, addr)} {
				if !served(t, conn) {
					t.Fatal("refused within the bound")
				}
			}
			socket := connect(t, addr)
			if _, err := io.WriteString(socket, "GET /socket HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			owned := <-hijacked
			if !turnedAway(t, addr) {
				t.Error("a fourth connection was let in")
			}
			if n := testutil.ToFloat64(tt.bound.Refused.WithLabelValues(tt.reason)); n != 1 {
				t.Errorf("%v refusals counted for %s", n, tt.reason)
			}
			// A place is free again when a connection ends, a WebSocket's when its owner closes it.
			_ = owned.Close()
			if !servedSoon(t, addr) {
				t.Error("the WebSocket's place was not given back")
			}
			_ = first.Close()
			if !servedSoon(t, addr) {
				t.Error("the place of a closed connection was not given back")
			}
		})
	}
}

// A client of which nothing is connected is not remembered.
func TestTheBoundForgets(t *testing.T) {
	t.Parallel()
	l := &boundListener{bound: ConnectionBound{PerClient: 1}, byClient: map[netip.Addr]int{}}
	addr := netip.MustParseAddr("2001:db8::1")
	if l.admit(addr, true) != "" || l.admit(addr, true) != "client" {
		t.Error("the bound of one")
	}
	l.release(addr, true)
	if len(l.byClient) != 0 || l.total != 0 {
		t.Errorf("%d clients, %d connections", len(l.byClient), l.total)
	}
}

// secure returns a TLS server's address and settings for its clients.
func secure(t *testing.T, handler http.HandlerFunc) (string, *tls.Config) {
	t.Helper()
	authority := certificatetest.NewAuthority(t)
	cert, key := authority.Issue(t, certificatetest.Pair{})
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	addr := run(t, handler, func(s *Server) {
		s.UseTLS(&tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12})
	})
	return addr, &tls.Config{RootCAs: authority.Pool(), ServerName: "localhost", NextProtos: []string{"h2"}}
}

// h2 is an HTTP/2 client that keeps to none of its duties.
type h2 struct {
	conn   *tls.Conn
	framer *http2.Framer
	block  bytes.Buffer
	coder  *hpack.Encoder
}

func dialH2(t *testing.T, addr string, with *tls.Config) *h2 {
	t.Helper()
	conn, err := (&tls.Dialer{Config: with}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	c := &h2{conn: conn.(*tls.Conn), framer: http2.NewFramer(conn, conn)}
	c.coder = hpack.NewEncoder(&c.block)
	if err := c.framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c
}

// get begins a request on a stream.
func (c *h2) get(stream uint32, more ...hpack.HeaderField) error {
	c.block.Reset()
	for _, f := range append([]hpack.HeaderField{
		{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "localhost"}, {Name: ":path", Value: "/"},
	}, more...) {
		_ = c.coder.WriteField(f)
	}
	return c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.block.Bytes(), EndStream: true, EndHeaders: true})
}

// A client that resets each request as soon as it has sent it (CVE-2023-44487) makes no more
// work than its streams allow, and is cut off.
func TestRapidReset(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	running, most := 0, 0
	release := make(chan struct{})
	addr, with := secure(t, func(http.ResponseWriter, *http.Request) {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		<-release
		mu.Lock()
		running--
		mu.Unlock()
	})
	defer close(release)
	c := dialH2(t, addr, with)
	goaway := make(chan http2.ErrCode, 1)
	go func() {
		for {
			frame, err := c.framer.ReadFrame()
			if err != nil {
				close(goaway)
				return
			}
			if away, ok := frame.(*http2.GoAwayFrame); ok {
				goaway <- away.ErrCode
				return
			}
		}
	}()
	for stream := uint32(1); stream < 20_000; stream += 2 {
		if c.get(stream) != nil || c.framer.WriteRSTStream(stream, http2.ErrCodeCancel) != nil {
			break // cut off
		}
	}
	select {
	case code, told := <-goaway:
		if told && code != http2.ErrCodeEnhanceYourCalm {
			t.Errorf("sent away with %s", code)
		}
	case <-time.After(10 * time.Second):
		t.Error("10,000 resets, and still connected")
	}
	mu.Lock()
	defer mu.Unlock()
	if most == 0 || most > maxStreams {
		t.Errorf("%d handlers ran at once, want at most %d", most, maxStreams)
	}
}

func TestStreamsAndHeadersOfHTTP2AreBounded(t *testing.T) {
	t.Parallel()
	addr, with := secure(t, echo)
	c := dialH2(t, addr, with)
	_ = c.conn.SetDeadline(time.Now().Add(10 * time.Second))
	var fields []hpack.HeaderField
	for i := range 40 { // 40 KiB; each frame within the size that the server takes
		fields = append(fields, hpack.HeaderField{Name: fmt.Sprintf("x-%d", i), Value: strings.Repeat("a", 1<<10)})
	}
	decoder := hpack.NewDecoder(4096, nil)
	c.block.Reset()
	for _, f := range append([]hpack.HeaderField{
		{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "localhost"}, {Name: ":path", Value: "/"},
	}, fields...) {
		_ = c.coder.WriteField(f)
	}
	const frameSize = 16 << 10
	block := c.block.Bytes()
	first := block[:min(frameSize, len(block))]
	rest := block[len(first):]
	if err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndStream: true, EndHeaders: len(rest) == 0}); err != nil {
		t.Fatal(err)
	}
	for len(rest) > 0 {
		part := rest[:min(frameSize, len(rest))]
		rest = rest[len(part):]
		if err := c.framer.WriteContinuation(1, len(rest) == 0, part); err != nil {
			t.Fatal(err)
		}
	}
	streams := uint32(0)
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			t.Fatalf("no answer: %v", err)
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if n, ok := f.Value(http2.SettingMaxConcurrentStreams); ok {
				streams = n
			}
		case *http2.HeadersFrame:
			got, err := decoder.DecodeFull(f.HeaderBlockFragment())
			if err != nil || got[0].Value != "431" {
				t.Errorf("answered %v, %v", got, err)
			}
			if streams != maxStreams {
				t.Errorf("%d streams at once are allowed, want %d", streams, maxStreams)
			}
			return
		}
	}
}
