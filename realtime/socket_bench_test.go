package realtime_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bondmate/backend/realtime"
	"github.com/bondmate/backend/realtime/realtimetest"
)

// dialer names the environment variable that turns this test binary into the process of
// phones that BenchmarkIdleSocket measures against: "<url> <token> <count>".
const dialer = "REALTIME_TEST_DIALER"

func TestMain(m *testing.M) {
	if job := os.Getenv(dialer); job != "" {
		os.Exit(dialMany(strings.Fields(job)))
	}
	os.Exit(m.Run())
}

// dialMany opens idle sockets, says so on its output, and waits for its input to end.
func dialMany(job []string) int {
	count, err := strconv.Atoi(job[2])
	if err != nil {
		return 2
	}
	for range count {
		c, err := realtimetest.Dial(context.Background(), job[0], realtimetest.Options{Token: job[1]})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if _, err := c.NextOp(context.Background(), "ready"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	fmt.Println("ready")
	_, _ = os.Stdin.Read(make([]byte, 1))
	return 0
}

// BenchmarkIdleSocket reports what an open socket without traffic holds in the gateway's
// process: heap and stacks, after a collection, and the whole process's resident memory.
func BenchmarkIdleSocket(b *testing.B) {
	const sockets = 2000
	w := newWorld(b)
	gw := w.start(func(c *realtime.Config) { c.SocketsPerUser = sockets })
	p := w.phone()
	held := func() (inuse, resident float64) {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc + m.StackInuse), residentBytes()
	}
	for b.Loop() {
		inuse, resident := held()
		exe, err := os.Executable()
		if err != nil {
			b.Fatal(err)
		}
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), dialer+"="+gw.url+" "+p.token+" "+strconv.Itoa(sockets))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		in, err := cmd.StdinPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 6)); err != nil {
			b.Fatal(err)
		}
		w.until("all are open", func() bool { return gw.value("bondmate_realtime_sockets", "open") == sockets })
		inuseNow, residentNow := held()
		b.ReportMetric((inuseNow-inuse)/sockets/1024, "KiB/socket")
		b.ReportMetric((residentNow-resident)/sockets/1024, "RSS-KiB/socket")
		_ = in.Close()
		_ = cmd.Wait()
		w.until("all are gone", func() bool { return gw.value("bondmate_realtime_sockets", "") == 0 })
	}
}

func residentBytes() float64 {
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	pages, _ := strconv.Atoi(strings.Fields(string(raw))[1])
	return float64(pages * os.Getpagesize())
}

// BenchmarkHubToSocket reports the time from the topic handing over an event to the phone
// having read its frame, both in this process, one event at a time.
func BenchmarkHubToSocket(b *testing.B) {
	w := newWorld(b)
	gw := w.start(func(c *realtime.Config) { c.HeadEvery = time.Hour })
	p := w.phone()
	c, _ := w.connect(gw, p, realtimetest.Options{})
	evs := w.commitN(p.user, 1)
	took := make([]time.Duration, 0, 4096)
	var seq int64
	ctx := w.ctx()
	for b.Loop() {
		seq++
		ev := evs[0]
		ev.AppliedAt = time.Now()
		ev.Recipients[0].InboxSeq = seq
		start := time.Now()
		w.topic.publish(ev)
		f, err := c.Next(ctx)
		if err != nil || f.Seq != seq {
			b.Fatalf("frame %+v, %v", f, err)
		}
		took = append(took, f.Received.Sub(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
