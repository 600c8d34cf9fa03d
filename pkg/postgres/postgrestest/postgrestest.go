// Package postgrestest gives each test a database of its own on a real server.
//
// The migrations run once a server, into a template; a test's database is a copy of it,
// dropped when the test ends. The server is the one that TEST_DATABASE_URL names, which
// any number of test processes may share (an advisory lock admits one of them to make
// the template), or one that the first test of the process starts in a temporary
// directory. That one runs without fsync, dies with the process, and its directory goes
// with it. Its goroutines live until then: a leak check compares with what ran before
// (goleak.IgnoreCurrent after the first New).
package postgrestest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bondmate/backend/migrations"
	"github.com/bondmate/backend/pkg/embedded"
	"github.com/bondmate/backend/pkg/postgres"
)

const (
	deadline = 60 * time.Second
	// templateLock is the advisory lock of whoever makes or sweeps databases; arbitrary.
	templateLock = 0x626f6e64_74657374
	// abandoned is the age at which another process's test database counts as left behind.
	abandoned = 2 * time.Hour
)

// New returns a pool on a new, migrated, empty database, which goes with the test.
func New(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return Open(t, postgres.Config{MaxConns: 10})
}

// Open is New with a configuration of the pool; its URL is set here.
func Open(t testing.TB, cfg postgres.Config) *pgxpool.Pool {
	t.Helper()
	cfg.URL = NewURL(t)
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	pool, err := postgres.Open(ctx, cfg)
	if err != nil {
		t.Fatalf("open test database: %v", err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// URL returns the connection string of a pool that New or Open made.
func URL(t testing.TB, pool *pgxpool.Pool) string {
	t.Helper()
	return pool.Config().ConnString()
}

// NewURL returns the connection string of a new, migrated, empty database, which goes
// with the test.
func NewURL(t testing.TB) string {
	t.Helper()
	srv, err := running()
	if err != nil {
		t.Fatalf("test database server: %v", err)
	}
	name := fmt.Sprintf("test_%d_%s", time.Now().Unix(), strings.ReplaceAll(uuid.NewString(), "-", "")[:16])
	if err := srv.exec("CREATE DATABASE " + name + " TEMPLATE " + srv.template + " STRATEGY FILE_COPY"); err != nil {
		t.Fatalf("copy template database: %v", err)
	}
	t.Cleanup(func() {
		// FORCE: a test that left a connection behind must not keep the database.
		if err := srv.exec("DROP DATABASE IF EXISTS " + name + " WITH (FORCE)"); err != nil {
			t.Logf("drop test database: %v", err)
		}
	})
	return withDatabase(srv.url, name)
}

// running is the process's server: a test binary has no place that lives longer than its
// tests, so this one is shared through a variable.
var running = sync.OnceValues(start)

type server struct {
	url      string // of the maintenance database
	template string
}

func start() (*server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	dsn := os.Getenv("TEST_DATABASE_URL")
	if dsn == "" {
		var err error
		if dsn, err = startOwn(ctx); err != nil {
			return nil, err
		}
	}
	srv := &server{url: withDatabase(dsn, "postgres")}
	version, err := fingerprint(migrations.FS)
	if err != nil {
		return nil, err
	}
	srv.template = "bondmate_template_" + version
	return srv, srv.makeTemplate(ctx)
}

// startOwn starts a server that ends with this process: Pdeathsig stops the server, and
// a shell that waits for the end of its input removes the directory.
func startOwn(ctx context.Context) (string, error) {
	dir, err := os.MkdirTemp("", "bondmate-postgres-")
	if err != nil {
		return "", fmt.Errorf("make directory for test server: %w", err)
	}
	if err := removeAtExit(dir); err != nil {
		return "", err
	}
	pg, err := embedded.StartPostgres(ctx, embedded.PostgresConfig{
		Dir: filepath.Join(dir, "postgres"), Unsafe: true, Log: slog.New(slog.DiscardHandler),
		BinDir:   os.Getenv("POSTGRES_BIN_DIR"),
		Settings: map[string]string{"max_connections": "300"},
	})
	if err != nil {
		return "", err
	}
	return pg.DSN, nil
}

// makeTemplate makes the template unless this or another process has done so.
func (s *server) makeTemplate(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return fmt.Errorf("connect to test server: %w", err)
	}
	defer conn.Close(ctx) // ends the session, and with it the lock
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", int64(templateLock)); err != nil {
		return fmt.Errorf("lock template: %w", err)
	}
	rows, _ := conn.Query(ctx, "SELECT datname FROM pg_database") // CollectRows reports the error
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list databases: %w", err)
	}
	ready := false
	for _, name := range names {
		ready = ready || name == s.template
		if leftBehind(name, time.Now()) {
			// Best effort: another process may be at it as well.
			_, _ = conn.Exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
		}
	}
	if ready {
		return nil
	}
	// Under another name until it is complete: a process that dies here leaves no half
	// template.
	building := s.template + "_new"
	if _, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+building+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("drop half-made template: %w", err)
	}
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+building); err != nil {
		return fmt.Errorf("create template: %w", err)
	}
	if err := postgres.Migrate(ctx, withDatabase(s.url, building), migrations.FS, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "ALTER DATABASE "+building+" RENAME TO "+s.template); err != nil {
		return fmt.Errorf("finish template: %w", err)
	}
	return nil
}

func (s *server) exec(statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return fmt.Errorf("connect to test server: %w", err)
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement)
	return err
}

// leftBehind recognises a test database whose process must be dead by now.
func leftBehind(name string, now time.Time) bool {
	parts := strings.Split(name, "_")
	if len(parts) != 3 || parts[0] != "test" {
		return false
	}
	seconds, err := strconv.ParseInt(parts[1], 10, 64)
	return err == nil && now.Sub(time.Unix(seconds, 0)) > abandoned
}

// fingerprint names the schema: other migrations need another template.
func fingerprint(files fs.FS) (string, error) {
	hash := sha256.New()
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return "", fmt.Errorf("list migrations: %w", err)
	}
	always, err := fs.Glob(files, "always/*.sql")
	if err != nil {
		return "", fmt.Errorf("list what is always run: %w", err)
	}
	for _, name := range append(names, always...) {
		content, err := fs.ReadFile(files, name)
		if err != nil {
			return "", fmt.Errorf("read migration %s: %w", name, err)
		}
		hash.Write(fmt.Appendf(nil, "%s %d\n%s", name, len(content), content))
	}
	return hex.EncodeToString(hash.Sum(nil))[:12], nil
}

func withDatabase(dsn, name string) string {
	u, err := url.Parse(dsn)
	if err != nil || u.Scheme == "" {
		return dsn + " dbname=" + name // key=value form: the last one counts
	}
	u.Path = "/" + name
	return u.String()
}
