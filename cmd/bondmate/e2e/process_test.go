// Package e2e runs the built binary as separate processes, as a user or an operator does,
// and looks at it from outside: HTTP, WebSocket, metrics, topics and tables.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bondmate/backend/cmd/bondmate/phone"
)

// program is the binary under test, built once for the package.
var program string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "bondmate-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, "make folder for the binary:", err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		program = filepath.Join(dir, "bondmate")
		build := exec.Command("go", "build", "-o", program, "github.com/bondmate/backend/cmd/bondmate")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build the binary:", err)
			return 1
		}
		return m.Run()
	}())
}

// process is one running bondmate.
type process struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	url   string // where it serves, once ready
	admin string // http://host:port of its metrics
	log   string // file with what it wrote to stderr
	done  chan struct{}
	once  sync.Once
}

// launch runs one bondmate with the arguments and waits until it says that it is ready.
// Settings are "NAME=value". The process is killed when the test ends.
func launch(t *testing.T, args []string, settings ...string) *process {
	t.Helper()
	adminPort := freePort(t)
	p := &process{
		t: t, name: args[0], done: make(chan struct{}),
		admin: "http://127.0.0.1:" + strconv.Itoa(adminPort),
		log:   filepath.Join(t.TempDir(), args[0]+".log"),
	}
	stderr, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	p.cmd = exec.Command(program, args...)
	p.cmd.Env = append(os.Environ(), "PORT=0", "LOG_LEVEL=warn", "RATE_LIMITS=off", "ADMIN_PORT="+strconv.Itoa(adminPort))
	p.cmd.Env = append(p.cmd.Env, settings...)
	p.cmd.Stderr = stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan string, 1)
	started := make(chan error, 1)
	go func() { // owns the process: Pdeathsig counts from the thread that forked
		runtime.LockOSThread()
		if err := p.cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		scanReady(stdout, ready)
		_ = p.cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %v: %v", args, err)
	}
	t.Cleanup(func() {
		p.signal(syscall.SIGCONT)
		p.kill()
		if t.Failed() {
			p.dump()
		}
	})
	select {
	case p.url = <-ready:
	case <-p.done:
		p.dump()
		t.Fatalf("bondmate %s ended before it was ready", strings.Join(args, " "))
	case <-time.After(60 * time.Second):
		t.Fatalf("bondmate %s was not ready within 60 s", strings.Join(args, " "))
	}
	return p
}

// scanReady passes on the address of the line `ready http://…` and drains the rest.
func scanReady(stdout io.Reader, ready chan<- string) {
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "ready"); ok {
			ready <- strings.TrimSpace(rest)
			break
		}
	}
	_, _ = io.Copy(io.Discard, stdout)
}

func (p *process) server() *phone.Server { return phone.NewServer(p.url) }

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// freeze stops the process (SIGSTOP) and returns when none of its threads runs any more: on
// a busy machine that takes a while after the signal was sent.
func (p *process) freeze() {
	p.t.Helper()
	p.signal(syscall.SIGSTOP)
	eventually(p.t, 20*time.Second, p.name+" stands still", func() (bool, error) {
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
		if err != nil || len(stats) == 0 {
			return false, err
		}
		for _, file := range stats {
			stat, err := os.ReadFile(file)
			if err != nil {
				return false, nil // a thread that has just ended
			}
			// The state follows the name, which is in parentheses: proc(5).
			if i := bytes.LastIndexByte(stat, ')'); i < 0 || len(stat) < i+3 || stat[i+2] != 'T' {
				return false, nil
			}
		}
		return true, nil
	})
}

// kill ends the process as a crash does, and waits until it is gone.
func (p *process) kill() {
	p.once.Do(func() {
		p.signal(syscall.SIGKILL)
		<-p.done
	})
}

// stop ends the process as a deployment does, and fails the test when it takes over 30 s.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		p.t.Errorf("%s did not stop within 30 s of SIGTERM", p.name)
		p.kill()
	}
}

func (p *process) dump() {
	raw, _ := os.ReadFile(p.log)
	if len(raw) > 4000 {
		raw = raw[len(raw)-4000:]
	}
	p.t.Logf("last lines of %s:\n%s", p.name, raw)
}

// metric sums the samples of a metric family over all labels that contain each of the
// given parts, such as `code="stale"`.
func (p *process) metric(name string, parts ...string) float64 {
	p.t.Helper()
	resp, err := http.Get(p.admin + "/metrics")
	if err != nil {
		p.t.Fatalf("read metrics of %s: %v", p.name, err)
	}
	defer resp.Body.Close()
	sum := 0.0
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
next:
	for lines.Scan() {
		line := lines.Text()
		rest, ok := strings.CutPrefix(line, name)
		if !ok || (rest[0] != '{' && rest[0] != ' ') {
			continue
		}
		for _, part := range parts {
			if !strings.Contains(rest, part) {
				continue next
			}
		}
		v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			p.t.Fatalf("metric line %q: %v", line, err)
		}
		sum += v
	}
	return sum
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// eventually waits until the condition holds, polling, and fails the test otherwise.
func eventually(t *testing.T, within time.Duration, what string, condition func() (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		ok, err := condition()
		if ok && err == nil {
			return
		}
		last = err
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s (last error: %v)", within, what, last)
		case <-tick.C:
		}
	}
}

// testLog returns a logger that writes to the test's output.
func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}
