package service

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestServerAnswersWhatIsInHandBeforeItStops(t *testing.T) {
	t.Parallel()
	arrived, release := make(chan struct{}), make(chan struct{})
	server, err := Listen(t.Context(), "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		_, _ = io.WriteString(w, "done")
	}), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- server.Run(ctx) }()
	client := &http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	body := make(chan string, 1)
	go func() {
		answer, err := client.Get("http://" + server.Addr().String())
		if err != nil {
			body <- err.Error()
			return
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		body <- string(text)
	}()
	<-arrived
	stop()
	select {
	case err := <-ran:
		t.Fatalf("stopped with a request in hand: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	close(release)
	if got := <-body; got != "done" {
		t.Errorf("answer: got %q, want done", got)
	}
	if err := <-ran; err != nil {
		t.Error(err)
	}
}

func TestServerCountsItsOpenConnections(t *testing.T) {
	t.Parallel()
	hijack := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/hijack" {
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
		t.Cleanup(func() { _ = conn.Close() })
	})
	server, err := Listen(t.Context(), "127.0.0.1:0", hijack, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	open := prometheus.NewGauge(prometheus.GaugeOpts{Name: "open", Help: "For the test."})
	server.CountConnections(open)
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- server.Run(ctx) }()
	call := func(path string) net.Conn {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", server.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	await := func(want float64) {
		t.Helper()
		deadline := time.Now().Add(10 * time.Second)
		for testutil.ToFloat64(open) != want {
			if time.Now().After(deadline) {
				t.Fatalf("open connections: got %v, want %v", testutil.ToFloat64(open), want)
			}
			time.Sleep(time.Millisecond)
		}
	}
	first := call("/")
	call("/")
	await(2)
	call("/hijack")
	await(2)
	_ = first.Close()
	await(1)
	stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	await(0)
}

func TestAdminHandler(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "a_gauge", Help: "For the test."}))
	open := make(chan struct{})
	ready := new(Readiness)
	ready.Add("tail", Closed(open))
	ready.Add("database", func(context.Context) error { return nil })
	handler := AdminHandler(registry, ready)
	get := func(path string) (int, string) {
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, path, nil))
		return recorder.Code, recorder.Body.String()
	}

	if status, body := get("/metrics"); status != http.StatusOK || !strings.Contains(body, "a_gauge 0") {
		t.Errorf("/metrics: %d %s", status, body)
	}
	if status, _ := get("/live"); status != http.StatusOK {
		t.Errorf("/live: %d", status)
	}
	if status, _ := get("/debug/pprof/cmdline"); status != http.StatusOK {
		t.Errorf("/debug/pprof/cmdline: %d", status)
	}
	type answer struct {
		Ready bool              `json:"ready"`
		Parts map[string]string `json:"parts"`
	}
	look := func() (int, answer) {
		status, body := get("/ready")
		var got answer
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatalf("/ready: %v in %s", err, body)
		}
		return status, got
	}
	status, got := look()
	want := answer{Parts: map[string]string{"tail": errNotYet.Error(), "database": "ready"}}
	if diff := cmp.Diff(want, got); diff != "" || status != http.StatusServiceUnavailable {
		t.Errorf("/ready before: %d (-want +got):\n%s", status, diff)
	}
	close(open)
	if err := ready.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, got := look(); !got.Ready || status != http.StatusOK {
		t.Errorf("/ready: %d %v", status, got)
	}
	ready.Stop()
	if err := ready.Ready(t.Context()); !errors.Is(err, errStopping) {
		t.Errorf("ready while stopping: %v", err)
	}
	if status, got := look(); got.Ready || status != http.StatusServiceUnavailable {
		t.Errorf("/ready while stopping: %d %v", status, got)
	}
}
