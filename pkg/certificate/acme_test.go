package certificate_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/certificate"
	"github.com/bondmate/backend/pkg/certificate/certificatetest"
	"github.com/bondmate/backend/pkg/service"
)

const domain = "api.bondmate.example"

// authority is Let's Encrypt's own test server in this process, which finds every name on
// loopback.
type authority struct {
	directory string
	caFile    string // who signed the authority's own certificate
	issues    *x509.CertPool
	orders    func() int
}

func startAuthority(t *testing.T, httpPort, tlsPort int) *authority {
	t.Helper()
	quiet := log.New(io.Discard, "", 0)
	if testing.Verbose() {
		quiet = log.New(t.Output(), "authority ", 0)
	}
	store := db.NewMemoryStore()
	issuer := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "of the test", ValidityPeriod: 90 * 24 * 3600}})
	validator := va.New(quiet, httpPort, tlsPort, true, startDNS(t), store)
	front := wfe.New(quiet, store, validator, issuer, []string{"authority.example"}, true, false, 1, 1)
	var mu sync.Mutex
	orders := 0
	handler := front.Handler()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/order-plz" {
			mu.Lock()
			orders++
			mu.Unlock()
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, pemOf(server.Certificate()), 0o600); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(issuer.GetRootCert(0).Cert)
	return &authority{server.URL + wfe.DirectoryPath, caFile, roots, func() int {
		mu.Lock()
		defer mu.Unlock()
		return orders
	}}
}

// startDNS answers that every name is here.
func startDNS(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{Listener: listener, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, question *dns.Msg) {
		answer := new(dns.Msg).SetReply(question)
		if q := question.Question[0]; q.Qtype == dns.TypeA {
			answer.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(127, 0, 0, 1)}}
		}
		_ = w.WriteMsg(answer)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	return listener.Addr().String()
}

func newACME(t *testing.T, from *authority, dir string) (*certificate.ACME, *journal, *prometheus.Registry) {
	t.Helper()
	log, registry := new(journal), prometheus.NewRegistry()
	source, err := certificate.NewACME(certificate.ACMEConfig{
		Domains: []string{domain}, Email: "ops@bondmate.example", Dir: dir, Directory: from.directory, CAFile: from.caFile,
		Log: slog.New(slog.NewTextHandler(log, nil)), Registerer: registry, Clock: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return source, log, registry
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// later lets the settings of a server be known after its port is: the authority has to know
// the port, and the source the authority.
type later struct {
	ready chan struct{}
	with  *tls.Config
}

func (l *later) settings() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		<-l.ready
		return l.with, nil
	}, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }}
}

// The program asks for its certificate by itself, proves over its own port that the name is
// its own, serves it, keeps it, and needs no second order after a restart.
func TestACMEOverTheTLSPort(t *testing.T) {
	t.Parallel()
	wait := &later{ready: make(chan struct{})}
	run := make(chan func(context.Context) error, 1)
	addr := serve(t, wait.settings(), func(ctx context.Context) error { return (<-run)(ctx) })
	port := mustPort(t, addr)
	from := startAuthority(t, freePort(t), port)
	dir := t.TempDir()
	source, _, registry := newACME(t, from, dir)
	wait.with = source.TLS()
	close(wait.ready)
	run <- source.Run

	eventually(t, "a certificate", func() bool { return gauge(t, registry) > 0 })
	trusting := &tls.Config{RootCAs: from.issues, ServerName: domain}
	conn := dial(t, addr, trusting)
	if left := time.Until(conn.ConnectionState().PeerCertificates[0].NotAfter); left < 24*time.Hour || gauge(t, registry) != float64(conn.ConnectionState().PeerCertificates[0].NotAfter.Unix()) {
		t.Errorf("valid for %s, the metric says %v", left, gauge(t, registry))
	}
	for _, name := range []string{"other.example", ""} { // nobody orders one in our name for another's
		if _, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, &tls.Config{ServerName: name, InsecureSkipVerify: true}); err == nil {
			t.Errorf("a certificate for %q", name)
		}
	}
	if n := from.orders(); n != 1 {
		t.Errorf("%d orders, want 1", n)
	}
	again, _, registry := newACME(t, from, dir)
	addr = serve(t, again.TLS(), again.Run)
	eventually(t, "the kept certificate", func() bool { return gauge(t, registry) > 0 })
	dial(t, addr, trusting)
	if n := from.orders(); n != 1 {
		t.Errorf("%d orders after a restart, want 1", n)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s can be read by others: %v, %v", entry.Name(), info.Mode(), err)
		}
	}
}

// Where the authority cannot reach the TLS port it is shown over plain HTTP.
func TestACMEOverPlainHTTP(t *testing.T) {
	t.Parallel()
	plain := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	ready := make(chan struct{})
	var challenges http.Handler
	server, err := service.Listen(t.Context(), "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-ready
		challenges.ServeHTTP(w, r)
	}), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("serve: %v", err)
		}
	})
	from := startAuthority(t, server.Addr().Port, freePort(t))
	source, log, registry := newACME(t, from, t.TempDir())
	challenges = source.Challenges(plain)
	close(ready)
	addr := serve(t, source.TLS(), source.Run)
	eventually(t, "a certificate", func() bool { return gauge(t, registry) > 0 })
	if log.has("no certificate") {
		t.Errorf("it failed before: %s", log.text.String())
	}
	dial(t, addr, &tls.Config{RootCAs: from.issues, ServerName: domain})
	answer, err := http.Get("http://" + server.Addr().String() + "/api/sync")
	if err != nil || answer.StatusCode != http.StatusTeapot {
		t.Errorf("what is no challenge: %v, %v", answer, err)
	}
	_ = answer.Body.Close()
}

// While the authority refuses, clients are turned away at once and cause no further orders.
func TestACMEThatFails(t *testing.T) {
	t.Parallel()
	from := startAuthority(t, freePort(t), freePort(t))
	source, log, registry := newACME(t, from, t.TempDir())
	addr := serve(t, source.TLS(), source.Run)
	eventually(t, "a word about the failure", func() bool { return log.has("no certificate from the authority") && log.has("again_in=1m") })
	before := from.orders()
	for range 20 {
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, &tls.Config{ServerName: domain, RootCAs: from.issues})
		if err == nil {
			_ = conn.Close()
			t.Fatal("a certificate came from nowhere")
		}
	}
	// By the guard, not by the library's own, which holds for a minute only.
	if _, err := source.TLS().GetCertificate(&tls.ClientHelloInfo{ServerName: domain}); err == nil || err.Error() != "certificate: not issued yet" {
		t.Errorf("a client gets %v", err)
	}
	if after := from.orders(); before == 0 || after != before {
		t.Errorf("%d orders before 20 clients came, %d after", before, after)
	}
	if gauge(t, registry) != 0 {
		t.Error("an expiry without a certificate")
	}
}

func TestACMENeedsARealCAFile(t *testing.T) {
	t.Parallel()
	cert, _ := certificatetest.NewAuthority(t).Issue(t, certificatetest.Pair{})
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, cert[:10], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{empty, empty + ".not"} {
		if _, err := certificate.NewACME(certificate.ACMEConfig{
			Domains: []string{domain}, Dir: t.TempDir(), CAFile: file, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Clock: time.Now,
		}); err == nil {
			t.Errorf("%s was taken", file)
		}
	}
}

func mustPort(t *testing.T, addr string) int {
	t.Helper()
	parsed, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Port
}

func pemOf(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}
