package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/bondmate/backend/cmd/bondmate/phone"
)

var (
	idleConnections = flag.Int("idle", 1000, "how many connections TestAbuse leaves idle")
	slowConnections = flag.Int("slow", 400, "how many connections TestAbuse drips headers and bodies over")
	abuseFor        = flag.Duration("abuse", 7*time.Second, "how long each part of TestAbuse lasts")
)

const (
	kib, mib = 1 << 10, 1 << 20
	// A connection costs a goroutine and its buffers, and what the collector lets lie about:
	// it runs when the heap has grown five-fold.
	mostPerConnection = 64 * kib
	// mostPerFlood is for requests that are refused: they leave nothing but work for the
	// collector, so it holds however much is sent; and mostLeft for each idle connection of
	// before, since what they took sets how far the heap may grow until the collector runs.
	mostPerFlood = 192 * mib
	mostLeft     = 32 * kib
)

// abuser attacks one server from this process and measures it from outside.
type abuser struct {
	t       *testing.T
	server  *process
	addr    string
	honest  *phone.Phone
	results []abuseResult
}

// abuseResult is a line of the report.
type abuseResult struct {
	what          string
	attacks       int64
	answers       string
	before        int64 // bytes of resident memory
	peak          int64
	honest        int
	failed        int
	p50, p99      time.Duration
	perConnection int64 // bytes; 0 where nothing stays open
}

// Nothing that strangers send without an account takes memory that grows with it, or keeps
// the service from who has one: connections that stand idle or drip a byte at a time, bodies
// of 10 MB, headers of 1 MB, bodies that unpack to far more.
func TestAbuse(t *testing.T) {
	raiseFiles(t, *idleConnections+*slowConnections+1000)
	server := launch(t, []string{"all"}, "DATA_DIR="+t.TempDir())
	a := &abuser{t: t, server: server, addr: strings.TrimPrefix(server.url, "http://"), honest: people(t, server.server(), 1)[0]}
	defer a.report()
	a.measure("nothing", mostPerFlood, func(ctx context.Context) (int64, string) { <-ctx.Done(); return 0, "-" })

	a.idle(*idleConnections)
	a.dripping(*slowConnections)

	body := bytes.Repeat([]byte("a"), 10*mib)
	head := "POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	a.flood("bodies of 10 MB", "413", head+"Content-Length: "+strconv.Itoa(len(body))+"\r\n\r\n", body)
	a.flood("chunked bodies without end", "413", head+"Transfer-Encoding: chunked\r\n\r\n", bytes.Repeat(append([]byte("8000\r\n"), append(bytes.Repeat([]byte("a"), 0x8000), "\r\n"...)...), 320))
	a.flood("headers of 1 MB", "431", "GET / HTTP/1.1\r\nHost: x\r\nX-A: ", bytes.Repeat([]byte("a"), mib))
	a.flood("8,000 header lines", "431", "GET / HTTP/1.1\r\nHost: x\r\n", append(bytes.Repeat([]byte("a:\r\n"), 8000), "\r\n"...))
	var bomb bytes.Buffer
	zip := gzip.NewWriter(&bomb)
	if _, err := zip.Write(make([]byte, 50*mib)); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	a.flood("gzip bombs of 50 MB", "415", head+"Content-Encoding: gzip\r\nContent-Length: "+strconv.Itoa(bomb.Len())+"\r\n\r\n", bomb.Bytes())

	eventually(t, 30*time.Second, "all connections are gone", func() (bool, error) {
		return server.metric("bondmate_http_open_connections") < 20, nil
	})
}

// measure attacks for a while, has an honest client call beside it, and holds the growth of
// the server's memory to a bound.
func (a *abuser) measure(what string, most int64, attack func(context.Context) (int64, string)) {
	a.t.Helper()
	before := a.resident("VmRSS")
	a.resetPeak()
	ctx, cancel := context.WithTimeout(a.t.Context(), *abuseFor)
	defer cancel()
	r := abuseResult{what: what, before: before}
	var attacking sync.WaitGroup
	attacking.Go(func() { r.attacks, r.answers = attack(ctx) })
	took := a.callHonestly(ctx, &r.failed)
	attacking.Wait()
	r.peak = a.resident("VmHWM")
	r.honest = len(took)
	if len(took) > 0 {
		slices.Sort(took)
		r.p50, r.p99 = took[len(took)/2], took[len(took)*99/100]
	}
	a.results = append(a.results, r)
	if r.peak-before > most {
		a.t.Errorf("%s: memory grew by %d MiB, want at most %d", what, (r.peak-before)/mib, most/mib)
	}
	if r.failed > 0 || r.honest == 0 {
		a.t.Errorf("%s: %d of %d honest calls failed", what, r.failed, r.failed+r.honest)
	}
}

// callHonestly makes a call of an account every 20 ms, half of them on a new connection.
func (a *abuser) callHonestly(ctx context.Context, failed *int) (took []time.Duration) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return took
		case <-tick.C:
		}
		if i%2 == 0 {
			a.honest.Server.HTTP.CloseIdleConnections()
		}
		begin := time.Now()
		answer, err := a.honest.Do(a.t.Context(), http.MethodGet, "/api/profile", nil)
		if err != nil || answer.Status != http.StatusOK {
			a.t.Logf("an honest call: %d, %v", answer.Status, err)
			*failed++
			continue
		}
		took = append(took, time.Since(begin))
	}
}

// idle opens connections, half of which have asked once, and keeps them.
func (a *abuser) idle(n int) {
	a.t.Helper()
	var open atomic.Int64
	var conns []net.Conn
	defer func() {
		for _, conn := range conns {
			_ = conn.Close()
		}
	}()
	a.measure(fmt.Sprintf("%d idle connections", n), mostPerFlood+int64(n)*mostPerConnection, func(ctx context.Context) (int64, string) {
		for i := range n {
			conn, err := a.dial(ctx)
			if err != nil {
				a.t.Errorf("connection %d: %v", i, err)
				break
			}
			conns = append(conns, conn)
			if i%2 == 0 {
				if _, err := ask(conn, "GET /live HTTP/1.1\r\nHost: x\r\n\r\n", nil); err != nil {
					a.t.Errorf("connection %d: %v", i, err)
					break
				}
			}
			open.Add(1)
		}
		if got := a.server.metric("bondmate_http_open_connections"); got < float64(n)/2 {
			a.t.Errorf("the server counts %v connections", got)
		}
		<-ctx.Done()
		return open.Load(), "-"
	})
	last := &a.results[len(a.results)-1]
	last.perConnection = max(a.resident("VmRSS")-last.before, 0) / int64(max(n, 1))
}

// dripping sends a byte a second over each connection, headers over half and bodies over the
// other, and connects again when it is cut off.
func (a *abuser) dripping(n int) {
	a.t.Helper()
	a.measure(fmt.Sprintf("%d dripping connections", n), mostPerFlood+int64(n)*mostPerConnection, func(ctx context.Context) (int64, string) {
		var cut, connected atomic.Int64
		var drops sync.WaitGroup
		for i := range n {
			text := "GET / HTTP/1.1\r\nHost: x\r\nX-A: "
			if i%2 == 1 {
				text = "POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n"
			}
			drops.Go(func() {
				for ctx.Err() == nil {
					connected.Add(1)
					if a.drip(ctx, text) {
						cut.Add(1)
					}
				}
			})
		}
		drops.Wait()
		if *abuseFor >= 7*time.Second && cut.Load() < int64(n)/2 {
			a.t.Errorf("only %d of %d dripping connections were cut off", cut.Load(), n)
		}
		return connected.Load(), fmt.Sprintf("%d cut off", cut.Load())
	})
}

// drip reports whether the server ended the connection, rather than ctx.
func (a *abuser) drip(ctx context.Context, text string) bool {
	conn, err := a.dial(ctx)
	if err != nil {
		return false
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		return true
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _, _ = io.Copy(io.Discard, conn) }()
	defer func() { _ = conn.Close(); <-ended }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-ended:
			return true
		case <-tick.C:
			if _, err := io.WriteString(conn, "a"); err != nil {
				return true
			}
		}
	}
}

// flood sends one request again and again from a few clients. Each must get the status, or
// find the connection closed before it has sent all; one of them at least must get it.
func (a *abuser) flood(what, status, head string, rest []byte) {
	a.t.Helper()
	a.measure(what, mostPerFlood+int64(*idleConnections)*mostLeft, func(ctx context.Context) (int64, string) {
		var mu sync.Mutex
		answers := map[string]int64{}
		var clients sync.WaitGroup
		for range 8 {
			clients.Go(func() {
				for ctx.Err() == nil {
					got := a.floodOnce(ctx, head, rest)
					mu.Lock()
					answers[got]++
					mu.Unlock()
				}
			})
		}
		clients.Wait()
		var all int64
		var told []string
		for answer, n := range answers {
			all += n
			told = append(told, fmt.Sprintf("%s: %d", answer, n))
			if answer != status && answer != "closed" && answer != "ended" {
				a.t.Errorf("%s: answered %s, want %s", what, answer, status)
			}
		}
		if answers[status] == 0 {
			a.t.Errorf("%s: nobody was told %s: %v", what, status, answers)
		}
		slices.Sort(told)
		return all, strings.Join(told, ", ")
	})
}

func (a *abuser) floodOnce(ctx context.Context, head string, rest []byte) string {
	conn, err := a.dial(ctx)
	if err != nil {
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			<-ctx.Done() // whose deadline the dialer keeps, a moment before
		}
		if ctx.Err() != nil {
			return "ended"
		}
		return err.Error()
	}
	defer conn.Close()
	status, err := ask(conn, head, rest)
	if err != nil {
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			return "no answer"
		}
		return "closed"
	}
	return status
}

func (a *abuser) dial(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", a.addr)
}

// ask sends a request and returns the status of the answer, which may come before all is sent.
func ask(conn net.Conn, head string, rest []byte) (string, error) {
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if _, err := io.WriteString(conn, head); err == nil {
			_, _ = conn.Write(rest)
		}
	}()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		_ = conn.Close()
	} else if len(rest) > 0 {
		_ = conn.(*net.TCPConn).CloseWrite()
	}
	if len(rest) > 0 {
		_ = conn.SetWriteDeadline(time.Now())
	}
	<-sent
	if err != nil {
		return "", err
	}
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return "", fmt.Errorf("answered %q", line)
	}
	return fields[1], nil
}

// resident reads a line of the server's memory, in bytes: proc(5).
func (a *abuser) resident(line string) int64 {
	a.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.server.cmd.Process.Pid))
	if err != nil {
		a.t.Fatal(err)
	}
	for l := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(l, line+":"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				a.t.Fatal(err)
			}
			return n * kib
		}
	}
	a.t.Fatalf("no %s", line)
	return 0
}

// resetPeak makes VmHWM begin anew.
func (a *abuser) resetPeak() {
	a.t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", a.server.cmd.Process.Pid), []byte("5"), 0); err != nil {
		a.t.Fatal(err)
	}
}

func (a *abuser) report() {
	var text bytes.Buffer
	out := tabwriter.NewWriter(&text, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "attack\tattacks\tRSS before\tpeak\tgrown by\tper connection\thonest calls\tfailed\tp50\tp99\t")
	for _, r := range a.results {
		per := "-"
		if r.perConnection > 0 {
			per = fmt.Sprintf("%.1f KiB", float64(r.perConnection)/kib)
		}
		fmt.Fprintf(out, "%s\t%d\t%d MiB\t%d MiB\t%d MiB\t%s\t%d\t%d\t%s\t%s\t\n", r.what, r.attacks, r.before/mib, r.peak/mib, (r.peak-r.before)/mib,
			per, r.honest, r.failed, r.p50.Round(100*time.Microsecond), r.p99.Round(100*time.Microsecond))
	}
	_ = out.Flush()
	for _, r := range a.results {
		fmt.Fprintf(&text, "%s: %s\n", r.what, r.answers)
	}
	a.t.Logf("over %s each:\n%s", *abuseFor, text.String())
}

// raiseFiles allows this process as many open files as it may have.
func raiseFiles(t *testing.T, need int) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if int(min(limit.Max, 1<<30)) < need {
		t.Fatalf("%d open files are allowed, %d are needed: raise ulimit -n", limit.Max, need)
	}
}
