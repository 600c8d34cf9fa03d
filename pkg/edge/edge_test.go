package edge_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/edge"
)

func must[T any](t *testing.T, value T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// start returns a handler behind an edge, and what the edge logs.
func start(t *testing.T, cfg edge.Config, handler http.HandlerFunc) (http.Handler, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	cfg.Registerer = prometheus.NewRegistry()
	e, err := edge.New(cfg)
	return must(t, e, err).Wrap(handler), &log
}

func origins(t *testing.T, values ...string) edge.Origins {
	t.Helper()
	o, err := edge.ParseOrigins(values)
	return must(t, o, err)
}

func TestOrigins(t *testing.T) {
	t.Parallel()
	listed := origins(t, "https://app.example.com", "https://*.pages.dev", "http://lan.example:8080/")
	for origin, want := range map[string]bool{
		"https://app.example.com":       true,
		"HTTPS://APP.example.com":       true,
		"https://app.example.com:444":   false,
		"http://app.example.com":        false,
		"https://evilapp.example.com":   false,
		"https://app.example.com.evil":  false,
		"https://x.pages.dev":           true,
		"https://a.b.pages.dev":         true,
		"https://pages.dev":             false,
		"https://evilpages.dev":         false,
		"https://.pages.dev":            false,
		"http://lan.example:8080":       true,
		"http://localhost:3000":         false,
		"null":                          false,
		"":                              false,
		"https://":                      false,
		"https://x.pages.dev, https://": false,
	} {
		if got := listed.Admit(origin); got != want {
			t.Errorf("%q: got %v, want %v", origin, got, want)
		}
	}
	local := origins(t).WithLoopback()
	for origin, want := range map[string]bool{
		"http://localhost:5173": true, "http://127.0.0.1:8081": true, "http://[::1]:3000": true, "capacitor://localhost": true,
		"http://localhost.evil.example": false, "https://app.example.com": false, "http://192.168.1.5:3000": false,
	} {
		if got := local.Admit(origin); got != want {
			t.Errorf("loopback, %q: got %v, want %v", origin, got, want)
		}
	}
	if !origins(t, "*").Admit("https://any.example") || origins(t).Admit("https://any.example") {
		t.Error("* admits all, an empty list none")
	}
	for _, bad := range []string{"app.example.com", "https://a.*.example", "https://*.com", "https://a.example/login", "https://me@a.example", "https://a.example?x", "**"} {
		if _, err := edge.ParseOrigins([]string{bad}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// Whoever connects can write anything into X-Forwarded-*: only what trusted proxies
// appended counts.
func TestClient(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		proxies   []string
		peer      string
		forwarded []string
		proto     []string
		want      string
		https     bool
	}{
		"nobody is trusted":               {nil, "203.0.113.9:1", []string{"1.2.3.4"}, []string{"https"}, "203.0.113.9", false},
		"a stranger beside the proxy":     {[]string{"10.0.0.0/8"}, "203.0.113.9:1", []string{"1.2.3.4"}, []string{"https"}, "203.0.113.9", false},
		"the proxy":                       {[]string{"10.0.0.0/8"}, "10.0.0.7:1", []string{"198.51.100.3"}, []string{"https"}, "198.51.100.3", true},
		"forged on the left":              {[]string{"10.0.0.0/8"}, "10.0.0.7:1", []string{"1.2.3.4, 198.51.100.3"}, []string{"https, http"}, "198.51.100.3", false},
		"forged as one of ours":           {[]string{"10.0.0.0/8"}, "10.0.0.7:1", []string{"10.9.9.9, 198.51.100.3"}, nil, "198.51.100.3", false},
		"two proxies, two headers":        {[]string{"10.0.0.0/8"}, "10.0.0.7:1", []string{"198.51.100.3", "10.0.0.8"}, []string{"https"}, "198.51.100.3", true},
		"all are ours":                    {[]string{"10.0.0.0/8"}, "10.0.0.7:1", []string{"10.0.0.9"}, nil, "10.0.0.9", false},
		"the proxy says nothing":          {[]string{"10.0.0.7"}, "10.0.0.7:1", nil, nil, "10.0.0.7", false},
		"nonsense next to the proxy":      {[]string{"10.0.0.7"}, "10.0.0.7:1", []string{"1.2.3.4, unknown"}, nil, "10.0.0.7", false},
		"ports and brackets":              {[]string{"::1"}, "[::1]:1", []string{"[2001:db8::5]:443"}, nil, "2001:db8::5", false},
		"mapped addresses":                {[]string{"10.0.0.0/8"}, "[::ffff:10.0.0.7]:1", []string{"::ffff:198.51.100.3"}, nil, "198.51.100.3", false},
		"one hop":                         {[]string{"1"}, "192.0.2.1:1", []string{"1.2.3.4, 198.51.100.3"}, []string{"https"}, "198.51.100.3", true},
		"two hops":                        {[]string{"2"}, "192.0.2.1:1", []string{"1.2.3.4, 198.51.100.3, 192.0.2.2"}, nil, "198.51.100.3", false},
		"two hops, one of them passed by": {[]string{"2"}, "192.0.2.1:1", []string{"198.51.100.3"}, nil, "198.51.100.3", false},
		"no hop":                          {[]string{"0"}, "192.0.2.1:1", []string{"198.51.100.3"}, []string{"https"}, "192.0.2.1", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxies, err := edge.ParseProxies(tt.proxies)
			must(t, proxies, err)
			var got edge.Client
			handler, _ := start(t, edge.Config{Proxies: proxies}, func(_ http.ResponseWriter, r *http.Request) { got = edge.ClientOf(r) })
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.RemoteAddr = tt.peer
			r.Header["X-Forwarded-For"], r.Header["X-Forwarded-Proto"] = tt.forwarded, tt.proto
			handler.ServeHTTP(httptest.NewRecorder(), r)
			if got.String() != tt.want || got.HTTPS != tt.https {
				t.Errorf("got %s, https %v, want %s, %v", got, got.HTTPS, tt.want, tt.https)
			}
		})
	}
	for _, bad := range []string{"proxy", "10.0.0.0/33", "0.0.0.0/0", "::/0", "-1", "11"} {
		if _, err := edge.ParseProxies([]string{bad}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	if (edge.Client{}).String() != "" {
		t.Error("an unknown address has a text")
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]edge.Version{
		"2": {2}, "2.4": {2, 4}, "2.4.1": {2, 4, 1}, "02.4.10": {2, 4, 10}, "2.4.1.512": {2, 4, 1}, "2.4.1-beta.2": {2, 4, 1}, "2.4.1+512": {2, 4, 1}, "2.4.1 (512)": {2, 4, 1},
	} {
		if got, err := edge.ParseVersion(s); err != nil || got != want {
			t.Errorf("%q: got %v, %v", s, got, err)
		}
	}
	for _, bad := range []string{"", "v2", "2..1", "2.x", "-1", "2.4.99999999999", "latest"} {
		if got, err := edge.ParseVersion(bad); err == nil {
			t.Errorf("%q was read as %v", bad, got)
		}
	}
	for _, tt := range []struct {
		a, b edge.Version
		want int
	}{{edge.Version{2, 10}, edge.Version{2, 9, 9}, 1}, {edge.Version{2}, edge.Version{2, 0, 1}, -1}, {edge.Version{2, 4, 1}, edge.Version{2, 4, 1}, 0}} {
		if got := tt.a.Compare(tt.b); got != tt.want {
			t.Errorf("%v and %v: got %d", tt.a, tt.b, got)
		}
	}
}

func FuzzClient(f *testing.F) {
	f.Add("1.2.3.4, 5.6.7.8", "https")
	f.Add("[::1]:80,,%", "")
	proxies, err := edge.ParseProxies([]string{"10.0.0.0/8"})
	if err != nil {
		f.Fatal(err)
	}
	e, err := edge.New(edge.Config{Proxies: proxies, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, forwarded, proto string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("X-Forwarded-For", forwarded)
		r.Header.Set("X-Forwarded-Proto", proto)
		for peer, wants := range map[string]string{"203.0.113.9:1": "203.0.113.9", "10.0.0.1:1": ""} {
			r.RemoteAddr = peer
			e.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if got := edge.ClientOf(r); !got.Addr.IsValid() || wants != "" && (got.String() != wants || got.HTTPS) {
					t.Errorf("from %s: %s, https %v", peer, got, got.HTTPS)
				}
			})).ServeHTTP(httptest.NewRecorder(), r)
		}
	})
}

func TestCrossOrigin(t *testing.T) {
	t.Parallel()
	preflight := map[string]string{"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "authorization,idempotency-key"}
	for name, tt := range map[string]struct {
		allowed     edge.Origins
		origin      string
		preflight   bool
		admitted    string // Access-Control-Allow-Origin
		credentials string
		logged      bool
	}{
		"listed":               {origins(t, "https://app.example.com"), "https://app.example.com", false, "https://app.example.com", "true", false},
		"listed, preflight":    {origins(t, "https://app.example.com"), "https://app.example.com", true, "https://app.example.com", "true", false},
		"pattern":              {origins(t, "https://*.example.com"), "https://x.example.com", true, "https://x.example.com", "true", false},
		"another":              {origins(t, "https://app.example.com"), "https://evil.example", false, "", "", true},
		"another, preflight":   {origins(t, "https://app.example.com"), "https://evil.example", true, "", "", true},
		"none is listed":       {origins(t), "https://app.example.com", false, "", "", true},
		"a page of this host":  {origins(t), "http://api.example.com", false, "", "", false},
		"this host, encrypted": {origins(t), "https://api.example.com", false, "", "", true},
		"everybody":            {origins(t, "*"), "https://any.example", false, "https://any.example", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			served := false
			handler, log := start(t, edge.Config{Origins: tt.allowed}, func(http.ResponseWriter, *http.Request) { served = true })
			r := httptest.NewRequest(http.MethodGet, "http://api.example.com/api/profile", nil)
			r.Header.Set("Origin", tt.origin)
			if tt.preflight {
				r.Method = http.MethodOptions
				for name, value := range preflight {
					r.Header.Set(name, value)
				}
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			h := w.Header()
			if h.Get("Access-Control-Allow-Origin") != tt.admitted || h.Get("Access-Control-Allow-Credentials") != tt.credentials {
				t.Errorf("headers %v", h)
			}
			if served == tt.preflight {
				t.Errorf("served: %v", served)
			}
			if !strings.Contains(strings.Join(h.Values("Vary"), ","), "Origin") {
				t.Errorf("a cache may mix origins up: Vary %v", h.Values("Vary"))
			}
			if tt.preflight && tt.admitted != "" && (h.Get("Access-Control-Max-Age") != "86400" || h.Get("Access-Control-Allow-Methods") != "PATCH") {
				t.Errorf("preflight: %v", h)
			}
			if logged := strings.Contains(log.String(), "origin refused"); logged != tt.logged {
				t.Errorf("logged %v: %s", logged, log)
			}
		})
	}
}

// Keys are for servers: a page that somebody has put one into gets no further than the
// preflight, also one that is on the list.
func TestPagesSendNoAPIKeys(t *testing.T) {
	t.Parallel()
	for asked, admitted := range map[string]bool{"authorization": true, "x-api-key": false, "authorization,x-api-key": false} {
		handler, _ := start(t, edge.Config{Origins: origins(t, "https://app.example.com")}, func(http.ResponseWriter, *http.Request) {})
		r := httptest.NewRequest(http.MethodOptions, "http://api.example.com/api/ops/reports", nil)
		r.Header.Set("Origin", "https://app.example.com")
		r.Header.Set("Access-Control-Request-Method", http.MethodGet)
		r.Header.Set("Access-Control-Request-Headers", asked)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if got := w.Header().Get("Access-Control-Allow-Origin") != ""; got != admitted {
			t.Errorf("%s: %v", asked, w.Header())
		}
		if got := strings.ToLower(w.Header().Get("Access-Control-Allow-Headers")); strings.Contains(got, "api-key") {
			t.Errorf("%s: pages may send %s", asked, got)
		}
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	answer := func(cfg edge.Config, https bool) http.Header {
		proxies, err := edge.ParseProxies([]string{"1"})
		cfg.Proxies = must(t, proxies, err)
		handler, _ := start(t, cfg, func(http.ResponseWriter, *http.Request) {})
		r := httptest.NewRequest(http.MethodGet, "/api/profile", nil)
		if https {
			r.Header.Set("X-Forwarded-Proto", "https")
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Header()
	}
	want := http.Header{
		"Cache-Control":              {"no-store"},
		"Content-Security-Policy":    {"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
		"Cross-Origin-Opener-Policy": {"same-origin"},
		"Permissions-Policy":         {"camera=(), geolocation=(), microphone=(), payment=()"},
		"Referrer-Policy":            {"no-referrer"},
		"Vary":                       {"Origin"},
		"X-Content-Type-Options":     {"nosniff"},
		"X-Frame-Options":            {"DENY"},
	}
	if diff := cmp.Diff(want, answer(edge.Config{HSTS: true}, false)); diff != "" {
		t.Errorf("over HTTP: %s", diff)
	}
	if diff := cmp.Diff(want, answer(edge.Config{}, true)); diff != "" {
		t.Errorf("without HSTS: %s", diff)
	}
	want["Strict-Transport-Security"] = []string{"max-age=31536000; includeSubDomains; preload"}
	if diff := cmp.Diff(want, answer(edge.Config{HSTS: true}, true)); diff != "" {
		t.Errorf("over HTTPS: %s", diff)
	}
	handler, _ := start(t, edge.Config{HSTS: true}, func(http.ResponseWriter, *http.Request) {})
	r, w := httptest.NewRequest(http.MethodGet, "https://api.example.com/", nil), httptest.NewRecorder() // with TLS of its own
	handler.ServeHTTP(w, r)
	if diff := cmp.Diff(want, w.Header()); diff != "" {
		t.Errorf("over TLS of its own: %s", diff)
	}
}

func TestToHTTPS(t *testing.T) {
	t.Parallel()
	handler := edge.ToHTTPS(3443, slog.New(slog.DiscardHandler))
	for host, want := range map[string]string{
		"api.example.com":      "https://api.example.com/api/sync?a=b",
		"api.example.com:8080": "https://api.example.com:3443/api/sync?a=b",
		"[::1]:8080":           "https://[::1]:3443/api/sync?a=b",
		"":                     "",
	} {
		r, w := httptest.NewRequest(http.MethodPost, "/api/sync?a=b", nil), httptest.NewRecorder()
		r.Host = host
		handler.ServeHTTP(w, r)
		status := http.StatusPermanentRedirect
		if want == "" {
			status = http.StatusMisdirectedRequest
		}
		if w.Code != status || w.Header().Get("Location") != want {
			t.Errorf("%q: %d to %q, want %q", host, w.Code, w.Header().Get("Location"), want)
		}
	}
}

func TestFewHeaders(t *testing.T) {
	t.Parallel()
	handler, _ := start(t, edge.Config{}, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for lines, want := range map[int]int{100: http.StatusTeapot, 101: http.StatusRequestHeaderFieldsTooLarge} {
		r, w := httptest.NewRequest(http.MethodGet, "/", nil), httptest.NewRecorder()
		for i := range lines {
			r.Header.Add("X-"+strconv.Itoa(i/2), "a") // two lines of each
		}
		handler.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%d lines: %d", lines, w.Code)
		}
	}
}

func TestVouch(t *testing.T) {
	t.Parallel()
	for values, want := range map[string]bool{"10.0.0.0/8": true, "10.0.0.7": true, "192.0.2.1": false, "1": true, "0": false} {
		proxies, err := edge.ParseProxies([]string{values})
		if got := must(t, proxies, err).Vouch(netip.MustParseAddr("::ffff:10.0.0.7")); got != want {
			t.Errorf("%s: %v", values, got)
		}
	}
}

func TestRedirect(t *testing.T) {
	t.Parallel()
	proxies, err := edge.ParseProxies([]string{"1"})
	handler, log := start(t, edge.Config{Proxies: must(t, proxies, err), RedirectToHTTPS: true}, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
	})
	for name, tt := range map[string]struct {
		method, target, proto string
		status                int
		location              string
	}{
		"plain":          {http.MethodGet, "http://api.example.com/api/sync?a=b%20c", "http", 308, "https://api.example.com/api/sync?a=b%20c"},
		"with a body":    {http.MethodPost, "http://api.example.com/api/auth/login", "", 308, "https://api.example.com/api/auth/login"},
		"encrypted":      {http.MethodGet, "http://api.example.com/api/sync", "https", 418, ""},
		"a probe inside": {http.MethodGet, "http://10.1.2.3:3000/ready", "", 418, ""},
		"another host":   {http.MethodGet, "http://api.example.com//evil.example/", "http", 308, "https://api.example.com//evil.example/"},
	} {
		r := httptest.NewRequest(tt.method, tt.target, nil)
		if tt.proto != "" {
			r.Header.Set("X-Forwarded-Proto", tt.proto)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != tt.status || w.Header().Get("Location") != tt.location {
			t.Errorf("%s: %d to %q", name, w.Code, w.Header().Get("Location"))
		}
	}
	if !strings.Contains(log.String(), "redirected to https") {
		t.Error("redirects are not logged")
	}
}

func TestCompress(t *testing.T) {
	t.Parallel()
	long := []byte(`{"text":"` + strings.Repeat("and so on ", 400) + `"}`)
	handler, err := edge.Compress(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind, body := "application/json", long
		switch r.URL.Path {
		case "/short":
			body = long[:200]
		case "/picture":
			kind = "image/png"
		}
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(body)
	}))
	must(t, handler, err)
	for name, tt := range map[string]struct {
		path, accept, want string
	}{
		"gzip":                   {"/api/sync", "gzip", "gzip"},
		"brotli":                 {"/api/sync", "br", "br"},
		"zstd":                   {"/api/sync", "zstd", "zstd"},
		"preferred":              {"/api/sync", "gzip;q=1, br;q=0.5", "gzip"},
		"what the client cannot": {"/api/sync", "compress", ""},
		"none":                   {"/api/sync", "", ""},
		"refused":                {"/api/sync", "gzip;q=0", ""},
		"small":                  {"/short", "gzip", ""},
		"compressed":             {"/picture", "gzip", ""},
		"with tokens":            {"/api/auth/refresh", "gzip", ""},
		"with a ticket":          {"/api/realtime/ticket", "gzip", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest(http.MethodGet, tt.path, nil)
			if tt.accept != "" {
				r.Header.Set("Accept-Encoding", tt.accept)
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			if got := w.Header().Get("Content-Encoding"); got != tt.want || w.Code != http.StatusCreated {
				t.Fatalf("%d, encoding %q, want %q", w.Code, got, tt.want)
			}
			want := long
			if tt.path == "/short" {
				want = long[:200]
			}
			packed := w.Body.Len()
			if got := unpack(t, tt.want, w.Body); !bytes.Equal(got, want) {
				t.Errorf("%d bytes arrived, want %d", len(got), len(want))
			}
			if tt.want != "" && packed > len(long)/4 {
				t.Errorf("%d bytes of %d", packed, len(long))
			}
		})
	}
}

func unpack(t *testing.T, encoding string, body io.Reader) []byte {
	t.Helper()
	var err error
	switch encoding {
	case "gzip":
		body, err = gzip.NewReader(body)
	case "br":
		body = brotli.NewReader(body)
	case "zstd":
		body, err = zstd.NewReader(body)
	}
	must(t, body, err)
	all, err := io.ReadAll(body)
	return must(t, all, err)
}

func TestStatic(t *testing.T) {
	t.Parallel()
	page := edge.Static(edge.Page{ContentType: "text/html; charset=utf-8", Body: []byte("<p>hello"), MaxAge: time.Minute})
	get := func(header map[string]string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		for name, value := range header {
			r.Header.Set(name, value)
		}
		w := httptest.NewRecorder()
		page.ServeHTTP(w, r)
		return w
	}
	first := get(nil)
	tag := first.Header().Get("ETag")
	if first.Code != 200 || first.Body.String() != "<p>hello" || tag == "" || first.Header().Get("Cache-Control") != "public, max-age=60" ||
		first.Header().Get("Content-Length") != strconv.Itoa(len("<p>hello")) {
		t.Errorf("%d %v", first.Code, first.Header())
	}
	if again := get(map[string]string{"If-None-Match": tag}); again.Code != http.StatusNotModified || again.Body.Len() != 0 {
		t.Errorf("again: %d, %d bytes", again.Code, again.Body.Len())
	}
	if other := get(map[string]string{"If-None-Match": `W/"other"`}); other.Code != 200 {
		t.Errorf("another: %d", other.Code)
	}
	if part := get(map[string]string{"Range": "bytes=0-2"}); part.Code != 200 || part.Body.Len() != len("<p>hello") {
		t.Errorf("a range: %d, %d bytes", part.Code, part.Body.Len())
	}
}
