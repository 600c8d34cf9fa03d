package embedded_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/embedded"
)

// TestMain doubles as the process that is killed: a test runs this binary again with
// asProcess set, and kills it.
func TestMain(m *testing.M) {
	if dir := os.Getenv(asProcess); dir != "" {
		beProcess(dir)
		return
	}
	os.Exit(m.Run())
}

const asProcess = "EMBEDDED_TEST_AS_PROCESS"

func beProcess(dir string) {
	lock, err := embedded.LockDir(dir)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	defer func() { _ = lock.Close() }()
	pg, err := embedded.StartPostgres(context.Background(), postgresConfig(dir))
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	broker, err := embedded.StartBroker(brokerConfig(dir))
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("serving", pg.DSN, broker.Addr)
	select {} // until killed
}

func postgresConfig(dir string) embedded.PostgresConfig {
	return embedded.PostgresConfig{
		Dir: filepath.Join(dir, "postgres"), Log: slog.New(slog.DiscardHandler),
		// Without fsync only a power loss loses what was committed, and no test cuts the
		// power; a commit must still reach the kernel.
		Unsafe: true, Settings: map[string]string{"synchronous_commit": "on"},
	}
}

// startProcess runs this test binary as a process that holds both servers, and returns
// how to kill it and where they are.
func startProcess(t *testing.T, dir string) (kill func(), dsn, broker string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asProcess+"="+dir)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	kill = func() {
		if killed {
			return
		}
		killed = true
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // killed, as it says
	}
	t.Cleanup(kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the process says nothing: %v", err)
	}
	fields := strings.Fields(line)
	if len(fields) != 3 || fields[0] != "serving" {
		t.Fatalf("the process says %q", line)
	}
	return kill, fields[1], fields[2]
}

func mustExec(t *testing.T, dsn, statement string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func count(t *testing.T, dsn string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM kept").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestPostgresKeepsItsDataOverRestarts(t *testing.T) {
	t.Parallel()
	// t.TempDir lets no other user through, as /root does not: as root this shows that the
	// server's user needs no way to its directory.
	cfg := postgresConfig(t.TempDir())
	cfg.Unsafe = false
	first, err := embedded.StartPostgres(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, first.DSN, "CREATE TABLE kept AS SELECT generate_series(1, 10)")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-first.Done():
	default:
		t.Error("closed, but not done")
	}
	if err := first.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
	begin := time.Now()
	second, err := embedded.StartPostgres(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("warm start: %v", time.Since(begin))
	closeLater(t, second)
	if got := count(t, second.DSN); got != 10 {
		t.Errorf("rows after a restart: got %d, want 10", got)
	}
}

func TestPostgresRefusesWithoutThePassword(t *testing.T) {
	t.Parallel()
	pg, err := embedded.StartPostgres(t.Context(), postgresConfig(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, pg)
	cfg, err := pgx.ParseConfig(pg.DSN)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Password = "wrong"
	if conn, err := pgx.ConnectConfig(t.Context(), cfg); err == nil {
		conn.Close(t.Context())
		t.Error("a wrong password was accepted")
	}
}

func TestPostgresReportsThatItEnded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pg, err := embedded.StartPostgres(t.Context(), postgresConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, pg.DSN, "CREATE TABLE kept AS SELECT 1")
	if err := syscall.Kill(postmaster(t, dir), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-pg.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the server was killed, and nobody noticed")
	}
	// Its lock file is still there, and backends may be on their way out.
	again, err := embedded.StartPostgres(t.Context(), postgresConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, again)
	if got := count(t, again.DSN); got != 1 {
		t.Errorf("rows after recovery: got %d, want 1", got)
	}
}

func TestPostgresDiesWithItsProcessAndRecovers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for round := 1; round <= 3; round++ {
		kill, dsn, _ := startProcess(t, dir)
		if round == 1 {
			mustExec(t, dsn, "CREATE TABLE kept (n int)")
		}
		mustExec(t, dsn, "INSERT INTO kept VALUES (1)")
		pid := postmaster(t, dir)
		kill()
		eventually(t, "the server ends with its process", func() bool { return !alive(pid) })
	}
	begin := time.Now()
	pg, err := embedded.StartPostgres(t.Context(), postgresConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("start after kill -9: %v", time.Since(begin))
	closeLater(t, pg)
	if got := count(t, pg.DSN); got != 3 {
		t.Errorf("rows after three kills: got %d, want 3", got)
	}
}

func TestPostgresStartsOverWhatAKilledFirstStartLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	half := filepath.Join(dir, "postgres", "data")
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(half, "PG_VERSION"), []byte("15\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pg, err := embedded.StartPostgres(t.Context(), postgresConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := pg.Close(); err != nil {
		t.Error(err)
	}
}

func TestPostgresStopsAnOrphan(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	orphan, err := embedded.StartPostgres(t.Context(), postgresConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = orphan.Close() }) // killed by then
	mustExec(t, orphan.DSN, "CREATE TABLE kept AS SELECT 1")
	// Nobody closed it: as after a kill where the kernel does not pass the death on.
	next, err := embedded.StartPostgres(t.Context(), postgresConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, next)
	select {
	case <-orphan.Done():
	case <-time.After(10 * time.Second):
		t.Error("two servers on one directory")
	}
	if got := count(t, next.DSN); got != 1 {
		t.Errorf("rows: got %d, want 1", got)
	}
}

// closeLater stops a server when the test ends, which must work.
func closeLater(t *testing.T, pg *embedded.Postgres) {
	t.Helper()
	t.Cleanup(func() {
		if err := pg.Close(); err != nil {
			t.Errorf("close server: %v", err)
		}
	})
}

// postmaster returns the pid of the server in a data directory.
func postmaster(t *testing.T, dir string) int {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, "postgres", "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(content), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// alive reports whether the process exists and has not ended (a zombie has).
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return syscall.Kill(pid, 0) == nil && !os.IsNotExist(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
