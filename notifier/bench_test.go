package notifier

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/embedded/fcm"
)

// BenchmarkPushes reports how many pushes a second a notifier delivers: events become rows in
// PostgreSQL (no fsync, as in all tests), rows are claimed, sent with the Firebase SDK to the
// stand-in over HTTP, told to a topic that takes no time, and settled. The stand-in is in this
// process, so its CPU counts as own; the delay is how long it takes to answer.
func BenchmarkPushes(b *testing.B) {
	for _, delay := range []time.Duration{0, 50 * time.Millisecond} {
		b.Run(fmt.Sprintf("answers-in=%v", delay), func(b *testing.B) {
			w := newWorld(b)
			if delay > 0 {
				w.fcm.Script("", fcm.Answer{Delay: delay, Times: -1})
			}
			cfg := w.config()
			cfg.InFlight, cfg.CallTimeout, cfg.PollInterval = 0, 0, 0 // the defaults
			n := w.notifier(cfg)
			users := make([]uuid.UUID, 500)
			for i := range users {
				users[i] = w.phone(fmt.Sprintf("phone-%d", i)).user
			}
			records := make([]contract.Record, b.N)
			for i := range records {
				records[i] = record(b, received(int64(1+i/len(users)), users[i%len(users)]), int64(i))
			}
			own, began := cpuTime(b, "self"), time.Now()
			b.ResetTimer()
			stop := w.background(n.Run)
			fed := make(chan error, 1)
			go func() {
				for rest := records; len(rest) > 0; {
					batch := rest[:min(cfg.MaxBatch+500, len(rest))]
					rest = rest[len(batch):]
					if err := n.consumer.persist(context.Background(), batch); err != nil {
						fed <- err
						return
					}
				}
				fed <- nil
			}()
			if err := <-fed; err != nil {
				b.Fatal(err)
			}
			for query[int](w, `SELECT count(*)::int FROM push_deliveries WHERE status < 3`) > 0 {
				<-time.After(100 * time.Millisecond)
			}
			took := time.Since(began)
			b.StopTimer()
			own = cpuTime(b, "self") - own
			var server time.Duration
			rows, err := w.pool.Query(b.Context(), `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
			if err != nil {
				b.Fatal(err)
			}
			for rows.Next() {
				var pid int32
				if err := rows.Scan(&pid); err != nil {
					b.Fatal(err)
				}
				server += cpuTime(b, strconv.Itoa(int(pid)))
			}
			rows.Close()
			stop()
			if got := w.outcomes()[Delivered]; got != b.N {
				b.Fatalf("%d of %d delivered", got, b.N)
			}
			b.ReportMetric(float64(b.N)/took.Seconds(), "pushes/s")
			b.ReportMetric(float64(own.Microseconds())/float64(b.N), "own-cpu-µs/push")
			b.ReportMetric(float64(server.Microseconds())/float64(b.N), "postgres-cpu-µs/push")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// cpuTime returns what a process has used so far, or zero where /proc does not tell.
func cpuTime(b *testing.B, pid string) time.Duration {
	b.Helper()
	data, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0
	}
	// The name in parentheses may hold spaces; user and system time are the 12th and 13th after it.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	ticks := 0
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100
}
