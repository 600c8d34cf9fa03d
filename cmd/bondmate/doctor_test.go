package main

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/certificate/certificatetest"
	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/embedded"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
	"github.com/bondmate/backend/pkg/redistest"
)

// column separates a table that is made for people.
var column = regexp.MustCompile(`  +`)

// doctorOf runs the command and returns the results by check and variable, with the whole table.
func doctorOf(t *testing.T, term terminal, args ...string) (results map[string]string, table string, err error) {
	t.Helper()
	var out output
	term.stdout, term.stderr = &out, io.Discard
	err = run(t.Context(), append([]string{"doctor"}, args...), term)
	results = map[string]string{}
	for line := range strings.Lines(out.String()) {
		cells := column.Split(strings.TrimSpace(line), -1)
		if len(cells) != 5 {
			t.Fatalf("a line with %d cells: %q", len(cells), line)
		}
		if cells[0] != "CHECK" {
			results[cells[0]+" "+cells[2]] = cells[1]
		}
		if cells[1] == string(config.Fail) && cells[4] == "-" && !strings.Contains(cells[0], "open files") {
			t.Errorf("no way to mend it: %q", line)
		}
	}
	return results, out.String(), err
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	database := postgrestest.NewURL(t)
	broker, err := embedded.StartBroker(embedded.BrokerConfig{
		Dir: filepath.Join(dir, "kafka"), Topics: topicSpecs(mustLoad(t)), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	stopBroker := sync.OnceFunc(broker.Close)
	t.Cleanup(stopBroker)
	redis := redistest.Start(t)
	authority := certificatetest.NewAuthority(t)
	cert, key := authority.Issue(t, certificatetest.Pair{NotAfter: time.Now().Add(90 * 24 * time.Hour)})
	certFile, certKey := certificatetest.Write(t, dir, cert, key)
	if _, err := identity.LoadOrCreateDevelopmentKeys(dir); err != nil {
		t.Fatal(err)
	}
	jwt := identity.DevelopmentKeyFile(dir)
	environ := []string{
		"DATABASE_URL=" + database, "KAFKA_BROKERS=" + broker.Addr, "REDIS_URL=" + redis.URL(), "DATA_DIR=" + filepath.Join(dir, "data"),
		"TLS_CERT_FILE=" + certFile, "TLS_KEY_FILE=" + certKey, "JWT_PRIVATE_KEY_FILE=" + jwt, "MAX_CONNECTIONS=100",
	}
	term := terminal{environ: environ}
	got, table, err := doctorOf(t, term)
	want := map[string]string{
		"environment APP_ENV": "ok", "security APP_ENV": "warn", "secret file JWT_PRIVATE_KEY_FILE": "ok", "secret file TLS_KEY_FILE": "ok",
		"signing keys JWT_PRIVATE_KEY_FILE": "ok", "certificate TLS_CERT_FILE": "ok", "open files MAX_CONNECTIONS": "ok",
		"database DATABASE_URL": "ok", "schema DATABASE_URL": "ok", "activity log DATABASE_URL": "ok", "database connections DATABASE_MAX_CONNS": "ok", "clocks CLOCK_SKEW": "ok",
		"Kafka KAFKA_BROKERS": "ok", "topics KAFKA_BROKERS": "ok", "Redis REDIS_URL": "ok",
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Fatalf("all is well: %v (-want +got):\n%s\n%s", err, diff, table)
	}

	// Each of these breaks one thing, and nothing but that is told.
	for name, broken := range map[string]struct {
		term terminal
		do   func()
		undo func()
		want map[string]string
	}{
		"a key that all can read": {
			term, func() { chmod(t, jwt, 0o644) }, func() { chmod(t, jwt, 0o600) }, map[string]string{"secret file JWT_PRIVATE_KEY_FILE": "fail"},
		},
		"a key that its group can read": {
			term, func() { chmod(t, certKey, 0o640) }, func() { chmod(t, certKey, 0o600) }, map[string]string{"secret file TLS_KEY_FILE": "warn"},
		},
		"a schema from before": {
			term, func() {
				execute(t, database, `CREATE TABLE kept AS TABLE goose_db_version; DELETE FROM goose_db_version WHERE version_id = (SELECT max(version_id) FROM goose_db_version)`)
			},
			func() {
				execute(t, database, `TRUNCATE goose_db_version; INSERT INTO goose_db_version OVERRIDING SYSTEM VALUE TABLE kept`)
			},
			map[string]string{"schema DATABASE_URL": "fail"},
		},
		"a clock that is wrong": {
			terminal{environ: environ, clock: func() time.Time { return time.Now().Add(3 * time.Second) }}, nil, nil, map[string]string{"clocks CLOCK_SKEW": "fail"},
		},
		"a certificate that expires": {
			terminal{environ: environ, clock: func() time.Time { return time.Now().Add(80 * 24 * time.Hour) }}, nil, nil,
			map[string]string{"certificate TLS_CERT_FILE": "warn", "clocks CLOCK_SKEW": "fail"},
		},
		"topics of another name": {
			terminal{environ: append(environ, "KAFKA_TOPIC_PREFIX=other")}, nil, nil, map[string]string{"topics KAFKA_BROKERS": "fail"},
		},
		"a pool as large as the server": {
			terminal{environ: append(environ, "DATABASE_MAX_CONNS=1000")}, nil, nil, map[string]string{"database connections DATABASE_MAX_CONNS": "warn"},
		},
		"more connections than files": {
			terminal{environ: append(environ, "MAX_CONNECTIONS=1000000")}, nil, nil, map[string]string{"open files MAX_CONNECTIONS": "warn"},
		},
		"a fault": {
			terminal{environ: append(environ, "BATCH_MAX=0")}, nil, nil, map[string]string{"environment BATCH_MAX": "fail"},
		},
	} {
		if broken.do != nil {
			broken.do()
		}
		got, table, err := doctorOf(t, broken.term)
		if broken.undo != nil {
			broken.undo()
		}
		different := map[string]string{}
		for check, result := range got {
			if want[check] != result {
				different[check] = result
			}
		}
		if diff := cmp.Diff(broken.want, different); diff != "" {
			t.Errorf("%s (-want +got):\n%s\n%s", name, diff, table)
		}
		failed := strings.Contains(strings.Join(values(broken.want), " "), "fail")
		if (err != nil) != failed {
			t.Errorf("%s: error %v, want one: %v", name, err, failed)
		}
	}

	redis.Kill()
	stopBroker()
	nowhere := append(environ, "DATABASE_URL=postgres://u:hunter2@127.0.0.1:1/d")
	got, table, err = doctorOf(t, terminal{environ: nowhere})
	if got["Redis REDIS_URL"] != "fail" || got["Kafka KAFKA_BROKERS"] != "fail" || got["database DATABASE_URL"] != "fail" || err == nil {
		t.Errorf("with all servers away: %v\n%s", err, table)
	}
	if strings.Contains(table, "hunter2") {
		t.Errorf("a password is printed:\n%s", table)
	}
}

// With nothing set it says what all would do, and what production would refuse of it.
func TestDoctorOfADevelopersMachine(t *testing.T) {
	t.Parallel()
	term := terminal{environ: []string{"DATA_DIR=" + t.TempDir(), "MAX_CONNECTIONS=100"}}
	if got, table, err := doctorOf(t, term); err != nil || got["security APP_ENV"] != "warn" || got["Kafka KAFKA_BROKERS"] != "ok" {
		t.Errorf("%v\n%s", err, table)
	}
	got, table, err := doctorOf(t, term, "--security")
	want := map[string]string{
		"environment APP_ENV": "warn", "TLS TLS_CERT_FILE": "fail", "redirect to HTTPS HTTPS_REDIRECT": "warn", "web origins CORS_ORIGIN": "ok",
		"signing key JWT_PRIVATE_KEY_FILE": "fail", "rate limits RATE_LIMITS": "ok", "connections of one client MAX_CONNECTIONS_PER_CLIENT": "ok",
		"Firebase logins FIREBASE_AUTH_EMULATOR_HOST": "ok", "pushes FIREBASE_CREDENTIALS_FILE": "fail", "database password DATABASE_URL": "ok",
		"way to the database DATABASE_URL": "warn", "way to Kafka KAFKA_BROKERS": "warn", "way to Redis REDIS_URL": "ok", "links in mails FRONTEND_URL": "ok",
		"admin port ADMIN_HOST": "ok", "demo APP_ENV": "warn",
	}
	if diff := cmp.Diff(want, got); diff != "" || err == nil {
		t.Errorf("%v (-want +got):\n%s\n%s", err, diff, table)
	}
	if got, table, err := doctorOf(t, term, "--security", "--role", "processor"); err != nil || got["TLS TLS_CERT_FILE"] != "" {
		t.Errorf("a processor has no port: %v\n%s", err, table)
	}
	if _, _, err := doctorOf(t, term, "--role", "none"); err == nil {
		t.Error("a role that is none")
	}
}

func mustLoad(t *testing.T) config.Config {
	t.Helper()
	cfg, err := config.Load(nil)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func chmod(t *testing.T, file string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(file, mode); err != nil {
		t.Fatal(err)
	}
}

func execute(t *testing.T, url, statements string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	if _, err := conn.Exec(t.Context(), statements); err != nil {
		t.Fatal(err)
	}
}

func values(m map[string]string) []string {
	var all []string
	for _, v := range m {
		all = append(all, v)
	}
	return all
}
