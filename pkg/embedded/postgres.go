package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// PostgresConfig says how to run a PostgreSQL server.
type PostgresConfig struct {
	// Dir holds the data, the socket and the password. It is created when missing.
	Dir string
	// BinDir overrides the search for the server's programs.
	BinDir string
	// CacheDir receives fetched programs; "" means the user's cache directory.
	CacheDir string
	// Repository is the Maven repository to fetch from; "" means Maven Central.
	Repository string
	// Unsafe switches off everything that makes data survive a crash. For tests.
	Unsafe bool
	// Settings are added to the server's configuration, over the ones chosen here.
	Settings map[string]string
	Log      *slog.Logger
}

// Postgres is a running server.
type Postgres struct {
	// DSN connects as the owner to the database "bondmate", over loopback TCP.
	DSN string

	pid  int
	done chan struct{} // closed when the server has ended
	err  error         // why it ended; read after done
}

const (
	databaseName  = "bondmate"
	superuser     = "bondmate"
	startDeadline = 60 * time.Second
	stopDeadline  = 10 * time.Second
	orphanGrace   = 5 * time.Second
)

// StartPostgres starts a server on a free loopback port and returns when it answers. The
// data is created at the first start. A server that an earlier, killed process left
// behind in Dir is stopped first, so Dir must be held by the caller (LockDir).
func StartPostgres(ctx context.Context, cfg PostgresConfig) (*Postgres, error) {
	bin, err := programs(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("find PostgreSQL server: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	s := &server{cfg: cfg, bin: bin}
	if s.cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, fmt.Errorf("find data directory: %w", err)
	}
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("prepare PostgreSQL directory: %w", err)
	}
	if err := s.stopOrphan(ctx); err != nil {
		return nil, fmt.Errorf("stop PostgreSQL server of an earlier run: %w", err)
	}
	if err := s.initialize(ctx); err != nil {
		return nil, fmt.Errorf("create PostgreSQL data: %w", err)
	}
	pg, err := s.start(ctx)
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL server: %w", err)
	}
	return pg, nil
}

// server is a server before it runs.
type server struct {
	cfg      PostgresConfig
	bin      string
	user     *account // nil: run as ourselves
	dir      *os.File // cfg.Dir, handed to the children when they could not find it by name
	password string
}

// path names a file below Dir as the server's processes reach it.
func (s *server) path(name string) string {
	if s.dir != nil {
		return "/proc/self/fd/3/" + name
	}
	return filepath.Join(s.cfg.Dir, name)
}

// prepare makes the directory and decides who runs the server: PostgreSQL refuses to run
// as root, so root hands the directory to an unprivileged user.
func (s *server) prepare() error {
	if err := os.MkdirAll(s.cfg.Dir, 0o755); err != nil { // #nosec G301 -- parents stay passable; Dir itself is closed below
		return err
	}
	if os.Geteuid() == 0 {
		var err error
		if s.user, err = unprivileged(); err != nil {
			return err
		}
		if err := chownTree(s.cfg.Dir, s.user); err != nil {
			return err
		}
		if blocked := impassable(s.bin); blocked != "" {
			return fmt.Errorf("PostgreSQL does not run as root, and %s lets no other user reach its programs in %s", blocked, s.bin)
		}
		if blocked := impassable(filepath.Dir(s.cfg.Dir)); blocked != "" {
			// The server may not pass through a parent such as /root. On Linux it gets the
			// directory as an open descriptor and needs no way to it.
			if runtime.GOOS != "linux" {
				return fmt.Errorf("%s lets no other user through, and PostgreSQL does not run as root: chmod o+x it, or set DATA_DIR to a place outside", blocked)
			}
			if s.dir, err = os.Open(s.cfg.Dir); err != nil {
				return err
			}
		}
	}
	if err := os.Chmod(s.cfg.Dir, 0o700); err != nil { // #nosec G302 -- a directory
		return err
	}
	return s.readPassword()
}

// readPassword reads the superuser's password, or makes one before the data exists.
func (s *server) readPassword() error {
	file := filepath.Join(s.cfg.Dir, "password")
	known, err := os.ReadFile(file) // #nosec G304 -- our directory
	switch {
	case err == nil:
		s.password = strings.TrimSpace(string(known))
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if s.initialized() {
		return fmt.Errorf("%s is missing, but the data exists", file)
	}
	s.password = rand.Text()
	if err := os.WriteFile(file, []byte(s.password+"\n"), 0o600); err != nil {
		return err
	}
	if s.user != nil {
		return os.Chown(file, int(s.user.uid), int(s.user.gid)) // initdb reads it
	}
	return nil
}

func (s *server) data() string { return filepath.Join(s.cfg.Dir, "data") }

// initialized looks for what this package writes last, so that an initdb that was killed
// half-way is repeated.
func (s *server) initialized() bool {
	_, marker := os.Stat(filepath.Join(s.cfg.Dir, "initialized"))
	_, data := os.Stat(filepath.Join(s.data(), "PG_VERSION"))
	return marker == nil && data == nil
}

func (s *server) initialize(ctx context.Context) error {
	if s.initialized() {
		return nil
	}
	if err := os.RemoveAll(s.data()); err != nil {
		return err
	}
	args := []string{
		"-D", s.path("data"), "--username", superuser, "--pwfile", s.path("password"),
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-instructions",
	}
	if s.cfg.Unsafe {
		args = append(args, "--no-sync")
	}
	cmd := s.command(ctx, "initdb", args...)
	var out tailBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := onOwnThread(cmd, nil); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out.String())
	}
	return os.WriteFile(filepath.Join(s.cfg.Dir, "initialized"), nil, 0o600)
}

// command runs a program of the server as its user, from a directory that everybody may
// enter.
func (s *server) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...) // #nosec G204 -- found by findBinaries
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = processAttributes(s.user)
	if s.dir != nil {
		cmd.ExtraFiles = []*os.File{s.dir}
	}
	return cmd
}

// stopOrphan stops the server that a killed parent left behind, if one still runs.
func (s *server) stopOrphan(ctx context.Context) error {
	lockFile := filepath.Join(s.data(), "postmaster.pid")
	content, err := os.ReadFile(lockFile) // #nosec G304 -- our directory
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 1 {
		return os.Remove(lockFile) // torn by a crash; nobody writes it but a server
	}
	if !isPostgres(pid) {
		// A pid that was given to another program would make the server refuse to start.
		return os.Remove(lockFile)
	}
	s.cfg.Log.WarnContext(ctx, "PostgreSQL server of an earlier run is still there, stopping it", "pid", pid)
	for _, signal := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGKILL} {
		if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("signal process %d: %w", pid, err)
		}
		gone, cancel := context.WithTimeout(ctx, orphanGrace)
		err := poll(gone, func() bool { return !isPostgres(pid) })
		cancel()
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("process %d does not end", pid)
}

// start runs the server and waits until it answers. It tries again when a port that was
// free a moment ago is taken, and while the backends of a killed server are on their way
// out.
func (s *server) start(ctx context.Context) (*Postgres, error) {
	grace, cancel := context.WithTimeout(ctx, 2*orphanGrace)
	defer cancel()
	for {
		port, err := freePort(ctx)
		if err != nil {
			return nil, err
		}
		pg, err := s.startOn(ctx, port)
		if err == nil || !passing(err) {
			return pg, err
		}
		select {
		case <-grace.Done():
			return nil, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// passing reports whether what the server died of goes away by itself.
func passing(err error) bool {
	return strings.Contains(err.Error(), "could not create any TCP/IP sockets") ||
		strings.Contains(err.Error(), "pre-existing shared memory block")
}

func (s *server) startOn(ctx context.Context, port int) (*Postgres, error) {
	// Not ctx: it ends when this start does, and the server must not.
	cmd := s.command(context.WithoutCancel(ctx), "postgres", s.arguments(port)...)
	log, err := os.OpenFile(filepath.Join(s.cfg.Dir, "server.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log

	dsn := url.URL{
		Scheme: "postgres", User: url.UserPassword(superuser, s.password),
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), Path: "/" + databaseName,
		RawQuery: "sslmode=disable",
	}
	pg := &Postgres{DSN: dsn.String(), done: make(chan struct{})}
	started := make(chan int, 1)
	go func() {
		defer close(pg.done)
		pg.err = onOwnThread(cmd, started)
	}()
	select {
	case pg.pid = <-started:
	case <-pg.done:
		return nil, pg.err
	}
	admin := dsn
	admin.Path = "/postgres"
	var refused error
	timeout := poll(ctx, func() bool {
		select {
		case <-pg.done:
			return true
		default:
			refused = createDatabase(ctx, admin.String())
			return refused == nil
		}
	})
	select {
	case <-pg.done:
		return nil, errors.Join(fmt.Errorf("server ended: %s", s.lastLog()), pg.err)
	default:
	}
	if timeout != nil {
		return nil, errors.Join(fmt.Errorf("server does not answer: %w: %w: %s", timeout, refused, s.lastLog()), pg.Close())
	}
	return pg, nil
}

func (s *server) arguments(port int) []string {
	settings := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"port":                    strconv.Itoa(port),
		"unix_socket_directories": s.path(""),
		"max_connections":         "100",
		"shared_buffers":          "128MB",
		"wal_compression":         "on",
		"max_wal_size":            "1GB",
		"checkpoint_timeout":      "15min",
		"log_min_messages":        "warning",
		"log_line_prefix":         "%m [%p] ",
		"cluster_name":            "bondmate",
		"max_worker_processes":    "4",
	}
	if len(filepath.Join(s.cfg.Dir, ".s.PGSQL.65535.lock")) > 100 { // sun_path holds 107 bytes
		settings["unix_socket_directories"] = ""
	}
	if s.cfg.Unsafe {
		settings["fsync"] = "off"
		settings["synchronous_commit"] = "off"
		settings["full_page_writes"] = "off"
		settings["wal_level"] = "minimal"
		settings["max_wal_senders"] = "0"
	}
	for name, value := range s.cfg.Settings {
		settings[name] = value
	}
	args := []string{"-D", s.path("data")}
	for name, value := range settings {
		args = append(args, "-c", name+"="+value)
	}
	return args
}

func (s *server) lastLog() string {
	content, err := os.ReadFile(filepath.Join(s.cfg.Dir, "server.log"))
	if err != nil {
		return err.Error()
	}
	var tail tailBuffer
	_, _ = tail.Write(content) // never fails
	return tail.String()
}

// createDatabase makes the application's database unless it is there.
func createDatabase(ctx context.Context, adminURL string) error {
	conn, err := pgx.Connect(ctx, adminURL)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var exists bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", databaseName).Scan(&exists); err != nil || exists {
		return err
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+databaseName)
	return err
}

// Done is closed when the server has ended, whether by Close or by itself.
func (p *Postgres) Done() <-chan struct{} { return p.done }

// Close ends all connections and stops the server with a checkpoint, so that the next
// start needs no recovery. It may be called more than once.
func (p *Postgres) Close() error {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL} {
		select {
		case <-p.done:
			return nil
		default:
		}
		_ = syscall.Kill(p.pid, signal) // ended meanwhile: done tells
		select {
		case <-p.done:
			return nil
		case <-time.After(stopDeadline):
		}
	}
	return fmt.Errorf("PostgreSQL server %d does not stop", p.pid)
}

// onOwnThread runs cmd from a thread that lives as long as the command: the kernel's
// parent-death signal comes when the forking thread ends, and the Go runtime ends idle
// threads at will. It sends the pid once the command runs.
func onOwnThread(cmd *exec.Cmd, started chan<- int) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			result <- err
			return
		}
		if started != nil {
			started <- cmd.Process.Pid
		}
		result <- cmd.Wait()
	}()
	return <-result
}

func freePort(ctx context.Context) (int, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// poll waits until ready, looking ever less often, up to 50 ms.
func poll(ctx context.Context, ready func() bool) error {
	for delay := 2 * time.Millisecond; ; delay = min(2*delay, 50*time.Millisecond) {
		if ready() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(delay):
		}
	}
}

// tailBuffer keeps the last part of what a program said, for the error.
type tailBuffer struct{ kept []byte }

const tailSize = 2000

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if extra := len(t.kept) - tailSize; extra > 0 {
		t.kept = t.kept[extra:]
	}
	return len(p), nil
}

func (t *tailBuffer) String() string { return strings.TrimSpace(string(t.kept)) }
