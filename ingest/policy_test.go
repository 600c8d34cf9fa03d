package ingest

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"
)

// with returns the document with lines put into an operation, or instead of x-defaults.
func with(t *testing.T, operation string, lines ...string) []byte {
	t.Helper()
	mark := "      operationId: " + operation + "\n"
	if bytes.Count(openAPI, []byte(mark)) != 1 {
		t.Fatalf("no operation %s", operation)
	}
	return bytes.Replace(openAPI, []byte(mark), []byte(mark+"      "+strings.Join(lines, "\n      ")+"\n"), 1)
}

// serveDocument serves one public operation as a document says, by a handler of the test.
func serveDocument(t *testing.T, text []byte, method, path string, handler http.HandlerFunc) http.Handler {
	t.Helper()
	d, err := documentIn(text)
	if err != nil {
		t.Fatal(err)
	}
	router := mux.NewRouter()
	router.Handle(path, handler).Methods(method)
	if err := d.bind(router); err != nil {
		t.Fatal(err)
	}
	s := &Server{
		document: d, log: slog.New(slog.DiscardHandler), metrics: newMetrics(prometheus.NewRegistry(), func() float64 { return 0 }),
		shedding: &shedding{database: new(line), queue: new(line), mostInLine: 1, mostQueued: 1, shed: newShedCounter()},
	}
	router.Use(s.matched)
	return s.observed(router)
}

// What goes says so on every answer, refusals included.
func TestDeprecation(t *testing.T) {
	t.Parallel()
	text := with(t, "live", "deprecated: true", "x-deprecated-since: '2027-01-31'", "x-sunset: '2027-06-30'", "x-deprecation-link: /docs#logout-all")
	handler := serveDocument(t, text, http.MethodGet, "/live", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	for body, want := range map[string]int{"": http.StatusNoContent, strings.Repeat(" ", 64<<10+1): http.StatusRequestEntityTooLarge} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/live", strings.NewReader(body)))
		if w.Code != want {
			t.Fatalf("%d: %s", w.Code, w.Body)
		}
		for name, want := range map[string]string{
			"Deprecation": "@1801353600", "Sunset": "Wed, 30 Jun 2027 00:00:00 GMT", "Link": `</docs#logout-all>; rel="deprecation"; type="text/html"`,
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
	}
	handler = serveDocument(t, openAPI, http.MethodGet, "/live", func(w http.ResponseWriter, _ *http.Request) {})
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/live", nil))
	if w.Header().Get("Deprecation") != "" || w.Header().Get("Sunset") != "" {
		t.Errorf("what stays says that it goes: %v", w.Header())
	}
}

func TestDocumentsThatContradictThemselves(t *testing.T) {
	t.Parallel()
	for name, lines := range map[string][]string{
		"gone, since nobody knows when": {"deprecated: true"},
		"goes, but is not deprecated":   {"x-sunset: '2027-01-31'"},
		"goes before it is deprecated":  {"deprecated: true", "x-deprecated-since: '2027-01-31'", "x-sunset: '2027-01-30'"},
		"no day":                        {"deprecated: true", "x-deprecated-since: soon"},
		"no time":                       {"x-timeout: 30"},
		"no time at all":                {"x-timeout: 0s"},
		"less than one may wait":        {"x-timeout: 12s"},
		"no size":                       {"x-max-body: 64k"},
	} {
		if _, err := documentIn(with(t, "sendRequest", lines...)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, line := range []string{"  timeout: 10s", "  waitingTimeout: 20s", "  maxBody: 65536", "x-defaults:"} {
		if !bytes.Contains(openAPI, []byte("\n"+line)) {
			t.Fatalf("the document has no line %q", line)
		}
		if _, err := documentIn(bytes.Replace(openAPI, []byte("\n"+line), []byte("\n"+strings.Replace(line, ":", "x:", 1)), 1)); err == nil {
			t.Errorf("without %q: no error", line)
		}
	}
}

// Every operation has a time and a limit, those who wait have long enough, and the limit of
// bodies is what API users were told.
func TestEveryOperationHasItsPolicy(t *testing.T) {
	t.Parallel()
	d, err := loadDocument()
	if err != nil {
		t.Fatal(err)
	}
	waiting := 0
	for name, op := range d.byName {
		want := 10 * time.Second
		for _, p := range op.parameters {
			if p.Name == "Prefer" {
				want = 20 * time.Second
				waiting++
			}
		}
		switch name {
		case "GET /api/account/export":
			want = time.Minute
		case "POST /api/auth/refresh", "GET /", "GET /health", "GET /api/health", "GET /health/detailed", "GET /ready", "GET /live", "GET /.well-known/jwks.json":
			want = 5 * time.Second
		}
		if op.timeout != want || op.maxBody != 64<<10 || op.deprecated != nil {
			t.Errorf("%s: %s, %d bytes, deprecated %v; want %s", name, op.timeout, op.maxBody, op.deprecated, want)
		}
	}
	if waiting < 15 {
		t.Errorf("only %d operations take Prefer", waiting)
	}
}

func TestTheTimeOfAnOperation(t *testing.T) {
	t.Parallel()
	var left time.Duration
	handler := serveDocument(t, with(t, "verifyEmail", "x-timeout: 3s", "x-max-body: 100"), http.MethodPost, "/api/auth/email/verify", func(_ http.ResponseWriter, r *http.Request) {
		deadline, _ := r.Context().Deadline()
		left = time.Until(deadline)
	})
	post := func(body io.Reader) *httptest.ResponseRecorder {
		r, w := httptest.NewRequest(http.MethodPost, "/api/auth/email/verify", body), httptest.NewRecorder()
		r.Header.Set("Content-Type", "application/json")
		handler.ServeHTTP(w, r)
		return w
	}
	// A body that takes its time leaves the work its own: the clock starts anew behind it.
	slow := &slowReader{Reader: strings.NewReader(`{"token":"` + strings.Repeat("a", 43) + `"}`), pause: time.Second}
	if w := post(slow); w.Code != http.StatusOK || left > 3*time.Second || left <= 2*time.Second {
		t.Errorf("%d, %s left: %s", w.Code, left, w.Body)
	}
	if w := post(strings.NewReader(`{"token":"` + strings.Repeat("a", 100) + `"}`)); w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("over its limit: %d %s", w.Code, w.Body)
	}
}

// slowReader waits once before it reads.
type slowReader struct {
	io.Reader
	pause time.Duration
}

func (s *slowReader) Read(p []byte) (int, error) {
	<-time.After(s.pause)
	s.pause = 0
	return s.Reader.Read(p)
}

// An operation that may take longer than the server gives to the others gets its answer out.
func TestALongOperationIsAnswered(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(serveDocument(t, with(t, "live", "x-max-body: 1"), http.MethodGet, "/live", func(w http.ResponseWriter, _ *http.Request) {
		<-time.After(400 * time.Millisecond)
		_, _ = io.WriteString(w, "late")
	}))
	server.Config.WriteTimeout = 200 * time.Millisecond
	server.Start()
	t.Cleanup(server.Close)
	answer, err := server.Client().Get(server.URL + "/live")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if body, err := io.ReadAll(answer.Body); err != nil || string(body) != "late" {
		t.Errorf("%q, %v", body, err)
	}
}

// unread fails the test when somebody reads it.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}

// What is packed, or says that it is too long, is refused without a look at it.
func TestRefusedUnread(t *testing.T) {
	t.Parallel()
	handler := serveDocument(t, openAPI, http.MethodGet, "/live", func(http.ResponseWriter, *http.Request) { t.Error("it was served") })
	login := serveDocument(t, openAPI, http.MethodPost, "/api/auth/login", func(http.ResponseWriter, *http.Request) { t.Error("it was served") })
	var bomb bytes.Buffer
	zip := gzip.NewWriter(&bomb)
	_, _ = zip.Write(make([]byte, 10<<20))
	_ = zip.Close()
	for name, tt := range map[string]struct {
		handler http.Handler
		path    string
		length  int64
		header  http.Header
		status  int
	}{
		"gzip":               {login, "/api/auth/login", int64(bomb.Len()), http.Header{"Content-Encoding": {"gzip"}}, 415},
		"br, length unknown": {login, "/api/auth/login", -1, http.Header{"Content-Encoding": {"br"}}, 415},
		"twice":              {login, "/api/auth/login", 10, http.Header{"Content-Encoding": {"identity", "GZIP"}}, 415},
		"no body is read":    {handler, "/live", 10, http.Header{"Content-Encoding": {"deflate"}}, 415},
		"10 MB":              {login, "/api/auth/login", 10 << 20, nil, 413},
		"10 MB of no body":   {handler, "/live", 10 << 20, nil, 413},
	} {
		method := http.MethodPost
		if tt.path == "/live" {
			method = http.MethodGet
		}
		r, w := httptest.NewRequest(method, tt.path, unread{t}), httptest.NewRecorder()
		r.ContentLength = tt.length
		r.Header = http.Header{"Content-Type": {"application/json"}}
		for name, values := range tt.header {
			r.Header[name] = values
		}
		tt.handler.ServeHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		if want := map[bool]string{true: "identity"}[tt.status == 415]; w.Header().Get("Accept-Encoding") != want {
			t.Errorf("%s: Accept-Encoding %q", name, w.Header().Get("Accept-Encoding"))
		}
	}
	// identity is no encoding, and neither is one of nothing.
	served := false
	plain := serveDocument(t, openAPI, http.MethodGet, "/live", func(http.ResponseWriter, *http.Request) { served = true })
	for _, encoding := range []string{"identity", ""} {
		r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/live", strings.NewReader(" "))
		r.Header.Set("Content-Encoding", encoding)
		served = false
		w := httptest.NewRecorder()
		if plain.ServeHTTP(w, r); !served {
			t.Errorf("%q: %d %s", encoding, w.Code, w.Body)
		}
	}
}

func documentIn(text []byte) (*document, error) {
	spec, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		return nil, err
	}
	return documentOf(spec)
}
