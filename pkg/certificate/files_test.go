package certificate_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/bondmate/backend/pkg/certificate"
	"github.com/bondmate/backend/pkg/certificate/certificatetest"
	"github.com/bondmate/backend/pkg/service"
)

// journal is a log that is read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) has(text string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Contains(j.text.String(), text)
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("not within 30 s: %s", what)
		case <-tick.C:
		}
	}
}

// serve runs a server with the settings until the test ends, and beside it what watches.
func serve(t *testing.T, settings *tls.Config, watch func(context.Context) error) string {
	t.Helper()
	server, err := service.Listen(t.Context(), "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, r.Proto)
	}), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	server.UseTLS(settings)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Run(ctx) })
	running.Go(func() { _ = watch(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
	return server.Addr().String()
}

func dial(t *testing.T, addr string, with *tls.Config) *tls.Conn {
	t.Helper()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, with)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// ask sends one request over a connection that stays open.
func ask(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("over an open connection: %v, %v", answer, err)
	}
	_ = answer.Body.Close()
}

func files(t *testing.T, cert, key []byte, clock func() time.Time) (*certificate.Files, *journal, *prometheus.Registry, string) {
	t.Helper()
	dir, log, registry := t.TempDir(), new(journal), prometheus.NewRegistry()
	certFile, keyFile := certificatetest.Write(t, dir, cert, key)
	if clock == nil {
		clock = time.Now
	}
	source, err := certificate.LoadFiles(certificate.FilesConfig{
		CertFile: certFile, KeyFile: keyFile, Log: slog.New(slog.NewTextHandler(log, nil)), Registerer: registry, Clock: clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	return source, log, registry, dir
}

// A new pair holds from the next handshake on, without a restart and without harm to who is
// connected; one that is broken or expired changes nothing.
func TestFilesRotate(t *testing.T) {
	t.Parallel()
	authority := certificatetest.NewAuthority(t)
	cert, key := authority.Issue(t, certificatetest.Pair{Serial: 1})
	source, log, registry, dir := files(t, cert, key, nil)
	addr := serve(t, source.TLS(), source.Run)
	trusting := &tls.Config{RootCAs: authority.Pool(), ServerName: "localhost", NextProtos: []string{"http/1.1"}}
	serial := func() int64 {
		conn := dial(t, addr, trusting)
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64() - 2
	}
	old := dial(t, addr, trusting)
	ask(t, old)
	if got := serial(); got != 1 {
		t.Fatalf("the first certificate is %d", got)
	}

	until := time.Now().Add(45 * time.Minute).Truncate(time.Second)
	cert, key = authority.Issue(t, certificatetest.Pair{Serial: 2, NotAfter: until})
	certificatetest.Write(t, dir, cert, key)
	eventually(t, "the new certificate", func() bool { return serial() == 2 })
	ask(t, old)
	if got := gauge(t, registry); got != float64(until.Unix()) {
		t.Errorf("the metric says %v, want %v", got, until.Unix())
	}

	certificatetest.Write(t, dir, cert, []byte("no key"))
	eventually(t, "a word about the broken pair", func() bool { return log.has("failed to find any PEM data in key input") })
	if got := serial(); got != 2 {
		t.Errorf("with a broken pair the certificate is %d", got)
	}
	expired, itsKey := authority.Issue(t, certificatetest.Pair{Serial: 3, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(-time.Minute)})
	certificatetest.Write(t, dir, expired, itsKey)
	eventually(t, "a word about the expired pair", func() bool { return log.has("the new certificate is valid from") })
	if got := serial(); got != 2 {
		t.Errorf("with an expired pair the certificate is %d", got)
	}
	cert, key = authority.Issue(t, certificatetest.Pair{Serial: 4})
	certificatetest.Write(t, dir, cert, key)
	eventually(t, "the certificate after the broken ones", func() bool { return serial() == 4 })
	ask(t, old)
}

func gauge(t *testing.T, registry *prometheus.Registry) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "bondmate_tls_certificate_expires_timestamp_seconds" {
			return f.Metric[0].GetGauge().GetValue()
		}
	}
	t.Fatal("there is no metric of the expiry")
	return 0
}

func TestFilesWarnBeforeTheyExpire(t *testing.T) {
	t.Parallel()
	authority := certificatetest.NewAuthority(t)
	for name, tt := range map[string]struct {
		in   time.Duration
		warn bool
	}{"in a month": {30 * 24 * time.Hour, false}, "in a week": {7 * 24 * time.Hour, true}, "long ago": {-time.Hour, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cert, key := authority.Issue(t, certificatetest.Pair{NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(tt.in)})
			source, log, _, _ := files(t, cert, key, nil)
			ctx, stop := context.WithCancel(t.Context())
			stop()
			_ = source.Run(ctx) // looks once before it ends
			if got := log.has("the certificate expires"); got != tt.warn {
				t.Errorf("warned: %v", got)
			}
		})
	}
}

func TestFilesThatAreNoPair(t *testing.T) {
	t.Parallel()
	authority := certificatetest.NewAuthority(t)
	cert, key := authority.Issue(t, certificatetest.Pair{})
	_, otherKey := authority.Issue(t, certificatetest.Pair{})
	for name, tt := range map[string][2][]byte{"nothing": {nil, nil}, "another key": {cert, otherKey}, "the two swapped": {key, cert}} {
		certFile, keyFile := certificatetest.Write(t, t.TempDir(), tt[0], tt[1])
		_, err := certificate.LoadFiles(certificate.FilesConfig{
			CertFile: certFile, KeyFile: keyFile, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Clock: time.Now,
		})
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := certificate.Expires(certFile, keyFile); err == nil {
			t.Errorf("%s: expires without an error", name)
		}
	}
}

// What is too old or too weak is not spoken, and what is modern is: HTTP/2 with who wants it,
// sessions that are taken up again.
func TestWhatIsSpoken(t *testing.T) {
	t.Parallel()
	authority := certificatetest.NewAuthority(t)
	cert, key := authority.Issue(t, certificatetest.Pair{})
	source, _, registry, _ := files(t, cert, key, nil)
	addr := serve(t, source.TLS(), source.Run)
	client := func(change func(*tls.Config)) *tls.Config {
		c := &tls.Config{RootCAs: authority.Pool(), ServerName: "localhost"}
		change(c)
		return c
	}
	for name, tt := range map[string]struct {
		with *tls.Config
		ok   bool
	}{
		"TLS 1.1": {client(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }), false},
		"no forward secrecy": {client(func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}
		}), false},
		"CBC": {client(func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
		}), false},
		"TLS 1.2": {client(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), true},
		"TLS 1.3": {client(func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }), true},
	} {
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, tt.with)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			_ = conn.Close()
		}
	}
	for protocols, want := range map[string]string{"h2,http/1.1": "HTTP/2.0", "http/1.1": "HTTP/1.1"} {
		transport := &http.Transport{
			ForceAttemptHTTP2: strings.HasPrefix(protocols, "h2"),
			TLSClientConfig:   client(func(c *tls.Config) { c.NextProtos = strings.Split(protocols, ",") }),
		}
		answer, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Get("https://" + addr)
		if err != nil {
			t.Fatalf("%s: %v", protocols, err)
		}
		if answer.Proto != want {
			t.Errorf("%s: %s", protocols, answer.Proto)
		}
		_ = answer.Body.Close()
		transport.CloseIdleConnections()
	}
	kept := client(func(c *tls.Config) {
		c.ClientSessionCache, c.NextProtos = tls.NewLRUClientSessionCache(1), []string{"http/1.1"}
	})
	ask(t, dial(t, addr, kept)) // the ticket comes with the answer
	if again := dial(t, addr, kept); !again.ConnectionState().DidResume {
		t.Error("a session was not taken up again")
	}
	if n, err := testutil.GatherAndCount(registry); err != nil || n != 1 {
		t.Errorf("%d metrics, %v", n, err)
	}
}

func TestMain(m *testing.M) {
	// The test authority waits at random otherwise, up to 15 s.
	_ = os.Setenv("PEBBLE_VA_NOSLEEP", "1")
	_ = os.Setenv("PEBBLE_WFE_NONCEREJECT", "0")
	os.Exit(m.Run())
}
