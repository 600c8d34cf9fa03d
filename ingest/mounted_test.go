package ingest_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/bondmate/backend/ingest"
)

// What other packages serve in this process is counted, recovered and given ids like the
// rest, and a connection that became a socket is no request any more.
func TestMountedHandlersAreObserved(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{})
	w := newWorld(t, func(c *ingest.Config) {
		c.Realtime = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet {
				panic("secret")
			}
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\nX-Request-Id: "+
				w.Header().Get("X-Request-Id")+"\r\n\r\n")
			go func() { // a socket outlives its handler
				<-closed
				_ = conn.Close()
			}()
		})
		c.Demo = http.StripPrefix("/demo/", http.FileServer(http.Dir("demo/static")))
	})
	defer close(closed)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+"/api/realtime", nil)
	must(t, err)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "x")
	req.Header.Set("X-Request-Id", "mine-2")
	res, err := http.DefaultTransport.RoundTrip(req)
	must(t, err)
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("X-Request-Id") != "mine-2" {
		t.Errorf("upgrade: %d, id %q", res.StatusCode, res.Header.Get("X-Request-Id"))
	}
	failed, _ := w.try("POST", "/api/realtime", "", nil, nil) // the document has no such route
	wantProblem(t, failed, 500, "internal")
	if strings.Contains(string(failed.raw), "secret") {
		t.Errorf("the panic shows: %s", failed.raw)
	}
	if got, _ := w.try("GET", "/demo/client.js", "", nil, nil); got.status != 200 || len(got.raw) == 0 {
		t.Errorf("demo: %d", got.status)
	}
	wantProblem(t, w.do("GET", "/demo/nothing.js", "", nil, nil), 404, "not_found")

	want := []string{
		`bondmate_http_panics_total 1`,
		`bondmate_http_requests_in_flight 0`,
		`bondmate_http_requests_total{method="GET",route="/api/realtime",status="101"} 1`,
		`bondmate_http_requests_total{method="GET",route="/demo",status="200"} 1`,
		`bondmate_http_requests_total{method="GET",route="/demo",status="404"} 1`,
		`bondmate_http_requests_total{method="POST",route="/api/realtime",status="500"} 1`,
	}
	// The counts come after the answers.
	var got []string
	t.Cleanup(func() {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
	eventually(t, "the counts", func() bool {
		got = w.metricLines("bondmate_http_panics_total", "bondmate_http_requests_")
		return slices.Equal(want, got)
	})
}

// metricLines are the samples whose names begin with one of the prefixes, in order.
func (w *world) metricLines(prefixes ...string) []string {
	w.t.Helper()
	page := httptest.NewRecorder()
	promhttp.HandlerFor(w.registry, promhttp.HandlerOpts{}).ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	var lines []string
	for scanner := bufio.NewScanner(page.Body); scanner.Scan(); {
		for _, prefix := range prefixes {
			if strings.HasPrefix(scanner.Text(), prefix) {
				lines = append(lines, scanner.Text())
			}
		}
	}
	return lines
}
