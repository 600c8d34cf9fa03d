// Package apache runs an Apache Kafka server on the loopback interface from jars that
// .ci/kafka-setup fetched: one node that is broker and controller, without replication.
//
// A Server owns its process and its directory. The process dies with the one that started
// it, also when that is killed.
package apache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/bondmate/backend/pkg/bus"
)

// Version is that in .ci/kafka/pom.xml.
const Version = "4.1.0"

// ErrUnavailable says that the jars or java are missing on this machine.
var ErrUnavailable = errors.New("no Apache Kafka here: run .ci/kafka-setup (it needs java and mvn)")

// Available returns ErrUnavailable, and why, when a server cannot run here.
func Available() error {
	if _, err := libraries(); err != nil {
		return err
	}
	_, err := javaProgram()
	return err
}

// javaProgram returns JAVA_HOME's java or the one in the PATH.
func javaProgram() (string, error) {
	name := "java"
	if home := os.Getenv("JAVA_HOME"); home != "" {
		name = filepath.Join(home, "bin", "java")
	}
	program, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return program, nil
}

// libraries returns the directory with the jars: TEST_KAFKA_LIBS or the cache that
// .ci/kafka-setup fills.
func libraries() (string, error) {
	dir := os.Getenv("TEST_KAFKA_LIBS")
	if dir == "" {
		cache := os.Getenv("BONDMATE_CACHE")
		if cache == "" {
			base, err := os.UserCacheDir()
			if err != nil {
				return "", fmt.Errorf("%w: %w", ErrUnavailable, err)
			}
			cache = filepath.Join(base, "bondmate")
		}
		dir = filepath.Join(cache, "kafka-"+Version, "libs")
	}
	if _, err := os.Stat(dir); err != nil { // #nosec G703 -- the developer's own variable
		return "", fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return dir, nil
}

// Server is one Kafka. Its methods are for one goroutine at a time.
type Server struct {
	Addr string // host:port, the same over restarts
	dir  string
	libs string
	java string
	run  *process // nil while stopped
}

type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process is gone
}

// New prepares a server with its data in dir; Start starts it.
func New(ctx context.Context, dir string) (*Server, error) {
	return prepare(ctx, dir, nil)
}

func prepare(ctx context.Context, dir string, doors *Doors) (*Server, error) {
	libs, err := libraries()
	if err != nil {
		return nil, err
	}
	java, err := javaProgram()
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, libs: libs, java: java}
	ports, err := freePorts(2 + doorCount)
	if err != nil {
		return nil, err
	}
	s.Addr = fmt.Sprintf("127.0.0.1:%d", ports[0])
	config, format := properties(dir, ports[0], ports[1]), []string{"format", "--cluster-id", "bondmate-test-cluster0", "--config", s.properties()}
	if doors != nil {
		config += doors.properties(ports[0], ports[1], ports[2:])
		format = append(format, doors.users()...)
	}
	if err = os.WriteFile(s.properties(), []byte(config), 0o600); err != nil {
		return nil, fmt.Errorf("write Kafka's configuration: %w", err)
	}
	out, err := s.command(ctx, "kafka.tools.StorageTool", format...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("format Kafka's storage: %w: %s", err, out)
	}
	return s, nil
}

func (s *Server) properties() string { return filepath.Join(s.dir, "server.properties") }

// LogFile returns the path of the server's output.
func (s *Server) LogFile() string { return filepath.Join(s.dir, "server.log") }

func (s *Server) command(ctx context.Context, class string, args ...string) *exec.Cmd {
	args = append([]string{
		"-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
		"-cp", filepath.Join(s.libs, "*"), class,
	}, args...)
	cmd := exec.CommandContext(ctx, s.java, args...) //nolint:gosec // java with our own arguments
	cmd.Dir = s.dir
	// Signals to the terminal's group are for the tests, which stop the server themselves.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return cmd
}

// Start starts the server and returns when it answers.
func (s *Server) Start(ctx context.Context) error {
	if s.run != nil {
		return errors.New("start Kafka: it is running")
	}
	out, err := os.OpenFile(s.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start Kafka: %w", err)
	}
	run := &process{exited: make(chan struct{})}
	run.cmd = s.command(context.WithoutCancel(ctx), "kafka.Kafka", s.properties())
	run.cmd.Stdout, run.cmd.Stderr = out, out
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread that forked ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(run.exited)
		defer func() { _ = out.Close() }()
		err := run.cmd.Start()
		started <- err
		if err == nil {
			_ = run.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start Kafka: %w", err)
	}
	s.run = run
	if err := s.await(ctx); err != nil {
		s.Kill()
		log, _ := os.ReadFile(s.LogFile())
		return fmt.Errorf("start Kafka: %w: %s", err, log[max(0, len(log)-4096):])
	}
	return nil
}

func (s *Server) await(ctx context.Context) error {
	client := bus.New(bus.Config{Brokers: []string{s.Addr}, ClientID: "await", DialTimeout: time.Second}, slog.New(slog.DiscardHandler))
	defer client.Close()
	for {
		err := client.Ping(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-s.run.exited:
			return errors.New("the server exited")
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Stop ends the server in an orderly way, or after 15 s by force.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

// Kill ends the server at once.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Pause stops the server's process as a hung machine would; Resume lets it go on.
func (s *Server) Pause() error { return s.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *Server) Resume() error { return s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) error {
	if s.run == nil {
		return errors.New("signal Kafka: it is stopped")
	}
	return s.run.cmd.Process.Signal(sig)
}

func (s *Server) end(sig syscall.Signal) {
	if s.run == nil {
		return
	}
	_ = s.run.cmd.Process.Signal(syscall.SIGCONT)
	_ = s.run.cmd.Process.Signal(sig)
	select {
	case <-s.run.exited:
	case <-time.After(15 * time.Second):
		_ = s.run.cmd.Process.Kill()
		<-s.run.exited
	}
	s.run = nil
}

func freePorts(n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // returns at once
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		// All are open together, so they differ.
		defer func() { _ = l.Close() }()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}

func properties(dir string, port, controllerPort int) string {
	return strings.Join([]string{
		"process.roles=broker,controller",
		"node.id=1",
		fmt.Sprintf("controller.quorum.voters=1@127.0.0.1:%d", controllerPort),
		fmt.Sprintf("listeners=PLAINTEXT://127.0.0.1:%d,CONTROLLER://127.0.0.1:%d", port, controllerPort),
		fmt.Sprintf("advertised.listeners=PLAINTEXT://127.0.0.1:%d", port),
		"controller.listener.names=CONTROLLER",
		"inter.broker.listener.name=PLAINTEXT",
		"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"log.dirs=" + filepath.Join(dir, "data"),
		"auto.create.topics.enable=false",
		"offsets.topic.replication.factor=1",
		"offsets.topic.num.partitions=4",
		"transaction.state.log.replication.factor=1",
		"transaction.state.log.min.isr=1",
		"share.coordinator.state.topic.replication.factor=1",
		"share.coordinator.state.topic.min.isr=1",
		"group.initial.rebalance.delay.ms=0",
		"group.min.session.timeout.ms=100",
		// A killed broker cannot register again before its session has ended.
		"broker.session.timeout.ms=2000",
		"broker.heartbeat.interval.ms=300",
		"num.network.threads=2",
		"num.io.threads=2",
		"background.threads=2",
		"num.recovery.threads.per.data.dir=1",
		"log.cleaner.dedupe.buffer.size=16777216",
		"",
	}, "\n")
}
