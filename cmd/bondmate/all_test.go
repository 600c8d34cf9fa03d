package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bondmate/backend/pkg/embedded"
)

// output is what a command prints, readable while it runs.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// running is `bondmate all` in this process, as main runs it.
type running struct {
	url  string
	took time.Duration
	stop func() error
}

func startAll(t *testing.T, dir string, environ ...string) running {
	t.Helper()
	return startRole(t, "all", nil, append([]string{"DATA_DIR=" + dir}, environ...))
}

// generous are limits for a town of people at one address, who do in a minute what others do
// in a day.
var generous = []string{
	"RATE_LIMIT_FREE=100000", "RATE_LIMIT_PREMIUM=100000", "RATE_LIMIT_ADMIN=100000", "RATE_LIMIT_ANONYMOUS=100000",
	"RATE_LIMIT_REGISTER=100000", "RATE_LIMIT_LOGIN=100000", "RATE_LIMIT_MAIL=100000", "RATE_LIMIT_SOCKETS=100000",
	"RATE_LIMIT_REQUESTS_MINUTE=100000", "RATE_LIMIT_REQUESTS_HOUR=100000", "RATE_LIMIT_REQUESTS_DAY=100000",
}

// startRole runs a role, or all, as main does, by a clock: nil means the real one.
func startRole(t *testing.T, role string, clock func() time.Time, environ []string) running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var stdout, stderr output
	ended := make(chan error, 1)
	begin := time.Now()
	go func() {
		ended <- run(ctx, []string{role}, terminal{
			environ: append(append([]string{"PORT=0", "LOG_LEVEL=warn"}, generous...), environ...), stdout: &stdout, stderr: &stderr, clock: clock,
		})
	}()
	var once sync.Once
	var err error
	stop := func() error {
		once.Do(func() {
			cancel()
			select {
			case err = <-ended:
			case <-time.After(35 * time.Second):
				err = errors.New("not stopped within 35 s")
			}
		})
		return err
	}
	t.Cleanup(func() {
		if err := stop(); err != nil && !t.Failed() {
			t.Errorf("stop: %v", err)
		}
		if t.Failed() {
			t.Logf("stdout:\n%sstderr:\n%s", stdout.String(), stderr.String())
		}
	})
	for {
		for line := range strings.Lines(stdout.String()) {
			if url, ok := strings.CutPrefix(line, "ready "); ok && strings.HasSuffix(line, "\n") {
				return running{strings.TrimSpace(url), time.Since(begin), stop}
			}
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("ended before it was ready: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Since(begin) > 90*time.Second {
			t.Fatal("not ready within 90 s")
		}
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	answer, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

// address reads a file that `all` left in its data directory.
func address(t *testing.T, dir, name string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("%s: mode %v, want 0600: it may hold a password", name, info.Mode().Perm())
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(content))
}

func TestAllServesStopsAndComesBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := startAll(t, dir)
	t.Logf("ready on an empty directory after %v", first.took)
	for path, want := range map[string]int{"/health": 200, "/ready": 200, "/demo/": 200, "/api/profile": 401} {
		if status, body := get(t, first.url+path); status != want {
			t.Errorf("%s: got %d, want %d: %s", path, status, want, body)
		}
	}
	admin := "http://" + address(t, dir, "admin.addr")
	if status, body := get(t, admin+"/ready"); status != http.StatusOK {
		t.Errorf("admin /ready: %d %s", status, body)
	}
	_, metrics := get(t, admin+"/metrics")
	for _, name := range []string{"bondmate_build_info", "bondmate_postgres_pool_connections", "go_goroutines"} {
		if !strings.Contains(metrics, "\n"+name) {
			t.Errorf("/metrics lacks %s", name)
		}
	}
	for _, name := range []string{"kafka.addr", "postgres.dsn"} {
		if address(t, dir, name) == "" {
			t.Errorf("%s is empty", name)
		}
	}

	refused, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := run(refused, []string{"all"}, terminal{environ: []string{"DATA_DIR=" + dir, "PORT=0"}, stdout: io.Discard, stderr: io.Discard})
	if _, ok := errors.AsType[*embedded.LockedError](err); !ok {
		t.Errorf("a second one on the same directory: got %v, want a *LockedError", err)
	}

	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	second := startAll(t, dir)
	t.Logf("ready on an existing directory after %v", second.took)
	if status, _ := get(t, second.url+"/ready"); status != http.StatusOK {
		t.Errorf("/ready after a restart: %d", status)
	}
}

func TestRunReportsFaultsOfTheEnvironment(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args    []string
		environ []string
		want    []string
	}{
		"all":                         {[]string{"all"}, []string{"PORT=x", "KAFKA_SYNC=maybe"}, []string{"PORT:", "KAFKA_SYNC:"}},
		"all in production":           {[]string{"all"}, []string{"APP_ENV=production"}, []string{"JWT_PRIVATE_KEY_FILE:"}},
		"a role without servers":      {[]string{"realtime"}, nil, []string{"DATABASE_URL:", "KAFKA_BROKERS:"}},
		"migrate without a database":  {[]string{"migrate"}, nil, []string{"DATABASE_URL:"}},
		"topics without a broker":     {[]string{"topics", "plan"}, nil, []string{"KAFKA_BROKERS:"}},
		"a word that is no command":   {[]string{"al"}, nil, []string{"unknown command"}},
		"an argument too many":        {[]string{"processor", "2"}, nil, []string{"unknown command"}},
		"config shows faults as well": {[]string{"config"}, []string{"BATCH_MAX=0"}, []string{"BATCH_MAX:"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			environ := append([]string{"DATA_DIR=" + t.TempDir()}, test.environ...)
			err := run(t.Context(), test.args, terminal{environ: environ, stdout: io.Discard, stderr: io.Discard})
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want it to name %q", err, want)
				}
			}
		})
	}
}
