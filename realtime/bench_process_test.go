package realtime_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// processJob names the environment variable that turns this test binary into one of the
// processes of TestSockets: a server, or the phones. Its value is a job.
const processJob = "REALTIME_TEST_PROCESS"

func TestMain(m *testing.M) {
	if text := os.Getenv(processJob); text != "" {
		if err := runJob(text); err != nil {
			fmt.Fprintln(os.Stderr, "process of TestSockets:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// job is what a process does. It then takes commands, one a line, and answers each with
// one line of JSON; it ends with its input.
type job struct {
	Part string // gateway, bare or phones

	// Of the gateway.
	Database string
	Brokers  []string // of the events; without, the command "fan" makes them
	Topic    string
	Keys     string // a directory

	// Of the phones.
	Address string
	Tokens  string // a file of one line a phone: user and access token
	Hello   bool
}

func runJob(text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	switch j.Part {
	case "gateway":
		return serveGateway(j)
	case "bare":
		return serveBare(j)
	case "phones":
		return runPhones(j)
	default:
		return fmt.Errorf("no part %q", j.Part)
	}
}

// answer reads commands until the input ends.
func answer(handle func(command string, args []string) (any, error)) error {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		words := strings.Fields(in.Text())
		if len(words) == 0 {
			continue
		}
		result, err := handle(words[0], words[1:])
		if err != nil {
			return fmt.Errorf("%s: %w", in.Text(), err)
		}
		line, err := json.Marshal(result)
		if err != nil {
			return err
		}
		fmt.Println(string(line))
	}
	return in.Err()
}

// process is one of them, as the test sees it.
type process struct {
	tb  testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startProcess(tb testing.TB, j job) *process {
	tb.Helper()
	exe, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	text, err := json.Marshal(j)
	if err != nil {
		tb.Fatal(err)
	}
	p := &process{tb: tb, cmd: exec.Command(exe)}
	p.cmd.Env = append(os.Environ(), processJob+"="+string(text))
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(p.stop)
	return p
}

// ask sends a command and reads its answer.
func (p *process) ask(command string, into any) {
	p.tb.Helper()
	p.send(command)
	p.hear(command, into)
}

func (p *process) send(command string) {
	p.tb.Helper()
	if _, err := fmt.Fprintln(p.in, command); err != nil {
		p.tb.Fatalf("%s: %v", command, err)
	}
}

func (p *process) hear(command string, into any) {
	p.tb.Helper()
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		p.tb.Fatalf("%s: %v", command, err)
	}
	if err := json.Unmarshal(line, into); err != nil {
		p.tb.Fatalf("%s: answered %q: %v", command, line, err)
	}
}

// stop ends the process and waits for it. It is idempotent.
func (p *process) stop() {
	_ = p.in.Close()
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Wait()
	}
}

// resident is the process's memory in bytes, as the kernel counts it.
func (p *process) resident() int64 {
	p.tb.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		p.tb.Skipf("needs /proc: %v", err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(raw))[1], 10, 64)
	if err != nil {
		p.tb.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// ownCPU is the processor time that this process has used.
func ownCPU() time.Duration {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// cpu is the processor time that the process has used.
func (p *process) cpu() time.Duration {
	p.tb.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		p.tb.Fatal(err)
	}
	// After the name in parentheses; user and system time are fields 14 and 15.
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			p.tb.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 wherever Go runs
}
