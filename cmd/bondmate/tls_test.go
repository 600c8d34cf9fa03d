package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/bondmate/backend/pkg/certificate/certificatetest"
)

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// With a certificate the public port speaks TLS and nothing else: HTTP/2 to who wants it,
// WebSockets, and the same to who came with the old certificate before it was replaced. The
// port beside it sends who comes in the clear there.
func TestAllOverTLS(t *testing.T) {
	t.Parallel()
	authority := certificatetest.NewAuthority(t)
	cert, key := authority.Issue(t, certificatetest.Pair{Serial: 1})
	files := t.TempDir()
	certFile, keyFile := certificatetest.Write(t, files, cert, key)
	plain, admin := strconv.Itoa(freePort(t)), strconv.Itoa(freePort(t))
	p := startAll(t, t.TempDir(), "TLS_CERT_FILE="+certFile, "TLS_KEY_FILE="+keyFile, "HTTP_PORT="+plain, "ADMIN_PORT="+admin)
	if !strings.HasPrefix(p.url, "https://127.0.0.1:") {
		t.Fatalf("ready at %s", p.url)
	}
	trusting := &tls.Config{RootCAs: authority.Pool()}
	transport := &http.Transport{TLSClientConfig: trusting, ForceAttemptHTTP2: true}
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(client.CloseIdleConnections)
	answer, err := client.Get(p.url + "/ready")
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusOK || answer.Proto != "HTTP/2.0" {
		t.Errorf("/ready: %d over %s", answer.StatusCode, answer.Proto)
	}
	// Not in production, no browser is told to remember.
	if hsts := answer.Header.Get("Strict-Transport-Security"); hsts != "" {
		t.Errorf("HSTS in development: %q", hsts)
	}

	moved, err := client.Post("http://127.0.0.1:"+plain+"/api/auth/login?a=b", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	_ = moved.Body.Close()
	if moved.StatusCode != http.StatusPermanentRedirect || moved.Header.Get("Location") != p.url+"/api/auth/login?a=b" {
		t.Errorf("in the clear: %d to %q", moved.StatusCode, moved.Header.Get("Location"))
	}
	if wrong, err := http.Get("http" + strings.TrimPrefix(p.url, "https") + "/ready"); err != nil || wrong.StatusCode != http.StatusBadRequest {
		t.Errorf("in the clear on the TLS port: %v, %v", wrong, err)
	}

	dialer := websocket.Dialer{TLSClientConfig: &tls.Config{RootCAs: authority.Pool()}, Subprotocols: []string{"bondmate.v1"}, HandshakeTimeout: 10 * time.Second}
	socket, handshake, err := dialer.Dial("wss"+strings.TrimPrefix(p.url, "https")+"/api/realtime", http.Header{"Origin": {p.url}})
	if err != nil {
		t.Fatalf("WebSocket: %v (%v)", err, handshake)
	}
	defer func() { _ = socket.Close() }()

	cert, key = authority.Issue(t, certificatetest.Pair{Serial: 2})
	certificatetest.Write(t, files, cert, key)
	deadline := time.Now().Add(20 * time.Second)
	for served := int64(0); served != 2+2; {
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", strings.TrimPrefix(p.url, "https://"), trusting)
		if err != nil {
			t.Fatal(err)
		}
		served = conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
		_ = conn.Close()
		if time.Now().After(deadline) {
			t.Fatal("the new certificate is not served")
		}
	}
	_ = socket.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, _, err := socket.ReadMessage(); !websocket.IsCloseError(err, 4001) { // nobody said who they are
		t.Errorf("the WebSocket from before ended with %v, want code 4001", err)
	}

	metrics, err := http.Get("http://127.0.0.1:" + admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer metrics.Body.Close()
	text, err := io.ReadAll(metrics.Body)
	if err != nil || !bytes.Contains(text, []byte("\nbondmate_tls_certificate_expires_timestamp_seconds 1.")) {
		t.Errorf("no metric of the expiry: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := run(ctx, []string{"healthcheck"}, terminal{environ: []string{"ADMIN_PORT=" + admin}, stdout: io.Discard, stderr: io.Discard}); err != nil {
		t.Errorf("healthcheck: %v", err)
	}
}
