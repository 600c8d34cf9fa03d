package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/bondmate/backend/pkg/redistest"
)

// A Redis that demands a password is reached with that of a file; one that goes away is
// told by the health page and by nothing else.
func TestRedisIsBesideThePath(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--requirepass", "hunter2")
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := startAll(t, t.TempDir(), "REDIS_URL="+server.URL(), "REDIS_PASSWORD_FILE="+password)
	redisHealth := func() (service, redis string) {
		resp, err := http.Get(w.url + "/health/detailed")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		var health struct {
			Status string
			Checks struct{ Redis struct{ Status string } }
		}
		if err := json.Unmarshal(text, &health); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return health.Status, health.Checks.Redis.Status
	}
	if service, redis := redisHealth(); service != "healthy" || redis != "healthy" {
		t.Errorf("got %s with Redis %s, want both healthy", service, redis)
	}
	server.Kill()
	if service, redis := redisHealth(); service != "degraded" || redis != "unhealthy" {
		t.Errorf("without Redis: got %s, Redis %s, want degraded, unhealthy", service, redis)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "Redis is healthy again", func() bool {
		_, redis := redisHealth()
		return redis == "healthy"
	})
}
