package ingest_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/ingest"
	"github.com/bondmate/backend/pkg/edge"
	"github.com/bondmate/backend/pkg/identity"
)

// What stands before the handlers reaches them: preflights have an id and a status in the
// log, documents their own policy and a validator, and the activity log the address that
// the proxy vouches for.
func TestFront(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *ingest.Config) {
		proxies, err := edge.ParseProxies([]string{"127.0.0.1"})
		must(t, err)
		origins, err := edge.ParseOrigins([]string{"https://app.example.com"})
		must(t, err)
		c.Edge, err = edge.New(edge.Config{Origins: origins, Proxies: proxies, Log: c.Log, Registerer: prometheus.NewRegistry()})
		must(t, err)
	})
	preflight, _ := w.try( // no operation of the document
		"OPTIONS", "/api/enhanced-partners/request", "", []string{
			"Origin", "https://app.example.com", "Access-Control-Request-Method", "POST", "X-Request-Id", "mine-3",
		}, nil)
	if preflight.status != 204 || preflight.header.Get("X-Request-Id") != "mine-3" ||
		preflight.header.Get("Access-Control-Allow-Origin") != "https://app.example.com" {
		t.Errorf("preflight: %d %v", preflight.status, preflight.header)
	}

	docs := w.do("GET", "/docs", "", []string{"Accept-Encoding", "br"}, nil)
	if docs.header.Get("Content-Encoding") != "br" || docs.header.Get("ETag") == "" ||
		docs.header.Get("Cache-Control") != "public, max-age=300" ||
		docs.header.Get("Content-Security-Policy") != "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'" {
		t.Errorf("docs: %v", docs.header)
	}
	if again := w.do("GET", "/docs", "", []string{"If-None-Match", docs.header.Get("ETag")}, nil); again.status != 304 || len(again.raw) != 0 {
		t.Errorf("docs again: %d, %d bytes", again.status, len(again.raw))
	}

	ana := w.register("Ana")
	profile := w.do("GET", "/api/profile", ana.token, nil, nil)
	for name, want := range map[string]string{
		"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
		"Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	} {
		if got := profile.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}

	ana = ana.as(identity.RoleSupport)
	w.do("GET", "/api/ops/users/"+ana.id.String(), ana.token, []string{"X-Forwarded-For", "203.0.113.9, 198.51.100.7"}, nil)
	var address string
	must(t, w.pool.QueryRow(t.Context(), `SELECT address FROM activity_log WHERE actor = $1 AND action = 'ops.user.show'`, ana.id).Scan(&address))
	if address != "198.51.100.7" {
		t.Errorf("the activity log has the address %s", address)
	}
}

func TestOldApps(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *ingest.Config) { c.MinAppVersion = edge.Version{2, 4} })
	ana := w.register("Ana")
	for _, tt := range []struct {
		path, version string
		status        int
	}{
		{"/api/profile", "2.3.9", 426}, {"/api/profile", "1", 426}, {"/api/nothing", "2.3", 426},
		{"/api/profile", "2.4.0", 200}, {"/api/profile", "2.10", 200}, {"/api/profile", "", 200}, {"/api/profile", "my own", 200},
		{"/api/health", "1.0", 200}, {"/ready", "1.0", 200},
	} {
		got, _ := w.try("GET", tt.path, ana.token, []string{"X-App-Version", tt.version}, nil)
		if got.status != tt.status || tt.status == 426 && got.code() != "upgrade_required" {
			t.Errorf("%s to version %q: %d %s", tt.path, tt.version, got.status, got.raw)
		}
	}
	if got := w.do("POST", "/api/auth/login", "", []string{"X-App-Version", "2.3.9"}, map[string]any{"email": "a@b.example", "password": "-"}); got.code() != "upgrade_required" {
		t.Errorf("login: %d %s", got.status, got.raw)
	}
}
