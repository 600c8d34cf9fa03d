// Package redistest runs a Redis server on the loopback interface for tests.
//
// A Server owns its process, which dies with the test's, also when that is killed. It
// keeps nothing on disk: one that is started again is empty.
package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// startWithin bounds the wait for a server that starts.
const startWithin = 15 * time.Second

// Server is one Redis. Its methods are for one goroutine at a time.
type Server struct {
	Addr string // host:port, the same over restarts
	args []string
	dir  string
	run  *process // nil while stopped
}

type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process is gone
}

// Start starts a server for the test, with more of redis-server's arguments (such as
// --requirepass), and stops it at the test's end. Without the program the test is skipped
// with a loud line; in CI it fails.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("redis-server is needed in CI: %v", err)
		}
		t.Skipf("\n*** NOT TESTED: no redis-server on this machine (package redis-server): %v ***", err)
	}
	quiet.Do(func() { redis.SetLogger(nothing{}) })
	s := &Server{dir: t.TempDir(), args: args}
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	s.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s
}

// quiet takes the library's lines about connections that fail, as they shall here, off the
// output. The logger is the library's only one.
var quiet sync.Once //nolint:gochecknoglobals // as the logger

type nothing struct{}

func (nothing) Printf(context.Context, string, ...any) {}

// URL is the server's address as REDIS_URL has it.
func (s *Server) URL() string { return "redis://" + s.Addr }

// Client returns a client of the server that is closed at the test's end. It asks once and
// fails fast.
func (s *Server) Client(t testing.TB) *redis.Client {
	t.Helper()
	client := redis.NewClient(&redis.Options{
		Addr: s.Addr, DialTimeout: 500 * time.Millisecond, ReadTimeout: 500 * time.Millisecond, WriteTimeout: 500 * time.Millisecond,
		MaxRetries: -1, ContextTimeoutEnabled: true,
	})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// Start starts a server that was killed and returns when it answers.
func (s *Server) Start(ctx context.Context) error {
	if s.run != nil {
		return errors.New("start Redis: it is running")
	}
	_, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		return fmt.Errorf("start Redis: %w", err)
	}
	args := append([]string{"--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", s.dir}, s.args...)
	run := &process{exited: make(chan struct{})}
	run.cmd = exec.CommandContext(context.WithoutCancel(ctx), "redis-server", args...) //nolint:gosec // our own arguments
	// Signals to the terminal's group are for the tests, which stop the server themselves.
	run.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread that forked ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(run.exited)
		err := run.cmd.Start()
		started <- err
		if err == nil {
			_ = run.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start Redis: %w", err)
	}
	s.run = run
	if err := s.await(ctx); err != nil {
		s.Kill()
		return fmt.Errorf("start Redis: %w", err)
	}
	return nil
}

// await returns once the port takes connections, which redis-server opens last.
func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.Addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-s.run.exited:
			return errors.New("the server exited")
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Kill ends the server at once.
func (s *Server) Kill() {
	if s.run == nil {
		return
	}
	_ = s.run.cmd.Process.Signal(syscall.SIGCONT)
	_ = s.run.cmd.Process.Kill()
	<-s.run.exited
	s.run = nil
}

// Pause stops the server's process as a hung machine would; Resume lets it go on.
func (s *Server) Pause() error { return s.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *Server) Resume() error { return s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) error {
	if s.run == nil {
		return errors.New("signal Redis: it is stopped")
	}
	return s.run.cmd.Process.Signal(sig)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // returns at once
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}
