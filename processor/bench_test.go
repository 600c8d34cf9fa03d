package processor

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// history is the usual mix on many pairs: two people become partners, part and get
// together again, round after round over all pairs.
func history(pairs [][2]int, users []uuid.UUID, n int) []partner.Command {
	cmds := make([]partner.Command, 0, n)
	for len(cmds) < n {
		last := make([]partner.Command, len(pairs))
		for kind := range 3 {
			for i, p := range pairs {
				a, b := users[p[0]], users[p[1]]
				switch kind {
				case 0:
					last[i] = send(a, b)
				case 1:
					last[i] = accept(b, last[i])
				case 2:
					last[i] = remove(a, b)
				}
				cmds = append(cmds, last[i])
			}
		}
	}
	return cmds[:n]
}

// BenchmarkApply measures the processor alone: commands wait in a broker in memory, and
// are applied to Postgres and published back to memory. Give it a server that keeps its
// promises with TEST_DATABASE_URL: the tests' own one runs without fsync.
func BenchmarkApply(b *testing.B) {
	for _, workers := range []int{1, 2, 3} {
		for _, most := range []int{1, 100, 256} {
			b.Run(fmt.Sprintf("workers=%d/batch=%d", workers, most), func(b *testing.B) {
				m := newMemory(12)
				r := newRig(b, m, contract.NewTopics("bench"))
				const people = 4000
				users := r.users(people, 1)
				pairs := make([][2]int, people/2)
				for i := range pairs {
					pairs[i] = [2]int{2 * i, 2*i + 1}
				}
				cmds := history(pairs, users, b.N)
				for _, c := range cmds {
					rec, err := contract.EncodeCommand(r.topics, 12, c, "")
					if err != nil {
						b.Fatal(err)
					}
					m.append(time.Now(), rec)
				}
				own, server := cpuTime(b, "self"), time.Duration(0)
				before := one[int64](r, `SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint`)
				b.ResetTimer()
				begin := time.Now()
				_, stop := r.start(func(c *Config) {
					c.Partitions, c.Workers, c.MaxBatch, c.Deadline = 12, workers, most, time.Hour
					c.Limits = partner.DefaultLimits()
					c.Limits.SendsPerTarget = 0 // the same pairs ask each other again and again
				})
				for one[int64](r, `SELECT COALESCE(sum(next_offset), 0)::bigint FROM processor_partitions`) < int64(b.N) {
					<-time.After(20 * time.Millisecond)
				}
				took := time.Since(begin)
				b.StopTimer()
				own = cpuTime(b, "self") - own
				for _, pid := range many[int32](r, `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`) {
					server += cpuTime(b, fmt.Sprint(pid))
				}
				wal := one[int64](r, `SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint`) - before
				_ = stop()
				b.ReportMetric(float64(b.N)/took.Seconds(), "commands/s")
				// What it costs, whoever else is on the machine.
				b.ReportMetric(float64(own.Microseconds())/float64(b.N), "own-cpu-µs/command")
				b.ReportMetric(float64(server.Microseconds())/float64(b.N), "postgres-cpu-µs/command")
				b.ReportMetric(float64(wal)/float64(b.N), "WAL-bytes/command")
				if got := one[int64](r, `SELECT count(*) FROM commands WHERE status = 1`); got != int64(b.N) {
					b.Fatalf("%d of %d applied", got, b.N)
				}
			})
		}
	}
}

// BenchmarkLone measures one command at a time, from the topic to the events topic.
func BenchmarkLone(b *testing.B) {
	r, m := newMemoryRig(b)
	users := r.users(2000, 1)
	pairs := make([][2]int, 1000)
	for i := range pairs {
		pairs[i] = [2]int{2 * i, 2*i + 1}
	}
	cmds := history(pairs, users, b.N)
	written := make(chan struct{}, 64)
	m.onWrite = func(recs []contract.Record) error {
		if recs[0].Topic == r.topics.Events {
			written <- struct{}{}
		}
		return nil
	}
	r.start()
	b.ResetTimer()
	for _, c := range cmds {
		m.append(time.Now(), r.record(c))
		select {
		case <-written:
		case <-time.After(10 * time.Second):
			b.Fatal("not published")
		}
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
	return time.Duration(ticks) * 10 * time.Millisecond
}

func many[T any](r *rig, sql string) []T {
	r.t.Helper()
	rows, err := r.pool.Query(r.t.Context(), sql)
	if err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
	v, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
	return v
}
