package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

// exported is what of a line the tests look at.
type exported struct {
	SpecVersion string          `json:"specversion"`
	ID          string          `json:"id"`
	Type        string          `json:"type"`
	Time        time.Time       `json:"time"`
	Partition   int             `json:"partition"`
	Seq         string          `json:"seq"`
	Data        json.RawMessage `json:"data"`
}

func (e exported) place() string { return fmt.Sprintf("%d/%s", e.Partition, e.Seq) }

// plant writes one event a minute from start on into a partition: seq 1 to n. Every tenth
// row is due on another topic, each third event's clock is a minute ahead, and
// for a while the owner's is minutes behind.
func plant(t *testing.T, pool *pgxpool.Pool, partition, n int, start time.Time) {
	t.Helper()
	for _, sql := range []string{
		`INSERT INTO processor_partitions (partition, event_seq) VALUES ($1, $2::bigint) ON CONFLICT (partition) DO UPDATE SET event_seq = excluded.event_seq`,
		`INSERT INTO events (partition, seq, topic, id, type, command_id, low, high, low_seq, accepted_at, applied_at, data)
		 SELECT $1, i, CASE WHEN i % 10 = 0 THEN 2 ELSE 1 END, gen_random_uuid(), CASE WHEN i % 2 = 0 THEN 2 ELSE 8 END, gen_random_uuid(),
		        '10000000-0000-4000-8000-000000000000', '20000000-0000-4000-8000-000000000000', i, $3,
		        $3::timestamptz + (i - 1) * interval '1 minute' + CASE WHEN i BETWEEN 4000 AND 4004 THEN interval '-8 minutes' WHEN i % 3 = 0 THEN interval '61 seconds' ELSE interval '0' END, '{}'
		 FROM generate_series(1, $2::bigint) AS i`,
	} {
		args := []any{partition, n, start}
		if strings.Contains(sql, "processor_partitions") {
			args = args[:2]
		}
		if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
}

func exportLines(t *testing.T, pool *pgxpool.Pool, args ...string) (lines []exported, said string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	err = run(t.Context(), append([]string{"export", "events"}, args...), terminal{
		environ: []string{"DATABASE_URL=" + postgrestest.URL(t, pool)}, stdout: &out, stderr: &errs,
	})
	return parseLines(t, out.Bytes()), errs.String(), err
}

func parseLines(t *testing.T, text []byte) (lines []exported) {
	t.Helper()
	for line := range bytes.Lines(text) {
		var e exported
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		lines = append(lines, e)
	}
	return lines
}

// Every event of the span and no other, whatever the pages, in order, as on the topic.
func TestExportOfASpan(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t)
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	const many = 2*exportStride + 100
	plant(t, pool, 3, many, start)
	plant(t, pool, 1, 50, start)
	at := func(minutes int) string { return start.Add(time.Duration(minutes) * time.Minute).Format(time.RFC3339) }
	for name, tc := range map[string]struct {
		args  []string
		where string
	}{
		"all":                         {[]string{"--from", "2026-03-01"}, `true`},
		"a day":                       {[]string{"--from", "2026-03-02", "--to", "2026-03-03"}, `applied_at >= '2026-03-02' AND applied_at < '2026-03-03'`},
		"over a page":                 {[]string{"--from", at(exportStride - 3), "--to", at(exportStride + 4)}, `applied_at >= '` + at(exportStride-3) + `' AND applied_at < '` + at(exportStride+4) + `'`},
		"from a clock that is behind": {[]string{"--from", at(3998), "--to", at(4010)}, `applied_at >= '` + at(3998) + `' AND applied_at < '` + at(4010) + `'`},
		"one minute":                  {[]string{"--from", at(7), "--to", at(8)}, `applied_at >= '` + at(7) + `' AND applied_at < '` + at(8) + `'`},
		"one type":                    {[]string{"--from", "2026-03-01", "--type", "partnership.started"}, `type = 8`},
		"two types":                   {[]string{"--from", "2026-03-02", "--type", "partnership.started,request.sent"}, `applied_at >= '2026-03-02'`},
		"no such type":                {[]string{"--from", "2026-03-02", "--type", "partnership.ended"}, `false`},
		"before it all":               {[]string{"--from", "2025-03-02", "--to", "2025-03-03"}, `false`},
		"after it all":                {[]string{"--from", "2026-06-02", "--to", "2026-06-03"}, `false`},
		"begins earlier":              {[]string{"--from", "2025-03-02", "--to", at(20)}, `applied_at < '` + at(20) + `'`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lines, said, err := exportLines(t, pool, tc.args...)
			if err != nil {
				t.Fatalf("%v %s", err, said)
			}
			rows, err := pool.Query(t.Context(), `SELECT partition || '/' || seq FROM events WHERE topic = 1 AND `+tc.where+` ORDER BY partition, seq`)
			if err != nil {
				t.Fatal(err)
			}
			var want, got []string
			for rows.Next() {
				var place string
				if err := rows.Scan(&place); err != nil {
					t.Fatal(err)
				}
				want = append(want, place)
			}
			for _, e := range lines {
				got = append(got, e.place())
			}
			if !slices.Equal(got, want) {
				t.Errorf("%d lines, want %d: %.200v, want %.200v", len(got), len(want), got, want)
			}
			if strings.Contains(said, "history_dropped") || !strings.HasPrefix(said, fmt.Sprintf("%d events ", len(want))) {
				t.Errorf("it said %q", said)
			}
		})
	}
}

// What was removed of a span is said.
func TestExportSaysWhatIsGone(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t)
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	plant(t, pool, 0, 100, start)
	plant(t, pool, 1, 100, start)
	if _, err := pool.Exec(t.Context(), `DELETE FROM events WHERE seq <= 50 OR partition = 1`); err != nil {
		t.Fatal(err)
	}
	lines, said, err := exportLines(t, pool, "--from", "2026-03-01")
	if err != nil || len(lines) != 45 {
		t.Fatalf("%d lines, %v", len(lines), err)
	}
	for _, want := range []string{"history_dropped: partition 0 begins with seq 51, ", "history_dropped: partition 1 has no events left"} {
		if !strings.Contains(said, want) {
			t.Errorf("it said %q, want %q", said, want)
		}
	}
	if _, said, err := exportLines(t, pool, "--from", "2026-03-02T00:00:00Z"); err != nil || strings.Contains(said, "partition 0") {
		t.Errorf("of a span that is whole it said %q, %v", said, err)
	}
}

func TestExportRefuses(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t)
	there := filepath.Join(t.TempDir(), "there.jsonl")
	if err := os.WriteFile(there, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no time":              {[]string{"--from", "yesterday"}, "invalid_time"},
		"no time at its end":   {[]string{"--from", "2026-03-01", "--to", "01.02.2026"}, "invalid_time"},
		"nothing between":      {[]string{"--from", "2026-03-01", "--to", "2026-03-01"}, "empty_span"},
		"the wrong way":        {[]string{"--from", "2026-03-02", "--to", "2026-03-01"}, "empty_span"},
		"the future":           {[]string{"--from", "2026-03-02", "--to", time.Now().Add(time.Hour).Format(time.RFC3339)}, "not_settled"},
		"no such type":         {[]string{"--from", "2026-03-02", "--type", "partnership.began"}, "unknown_type"},
		"a file that is there": {[]string{"--from", "2026-03-02", "--output", there}, "output_exists"},
		"no such folder":       {[]string{"--from", "2026-03-02", "--output", there + "/x"}, "output_unwritable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lines, _, err := exportLines(t, pool, tc.args...)
			if fault.CodeOf(err) != tc.want || len(lines) > 0 {
				t.Errorf("%v and %d lines, want %s", err, len(lines), tc.want)
			}
		})
	}
	if kept, err := os.ReadFile(there); err != nil || string(kept) != "kept" {
		t.Errorf("the file that was there holds %q, %v", kept, err)
	}
}

// Events of the last minute may still come, so a span ends before it.
func TestExportSpanIsSettled(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	for ago, settled := range map[time.Duration]bool{59 * time.Second: false, time.Minute: true, time.Hour: true} {
		_, err := exportTerms{from: "2026-03-01", to: now.Add(-ago).Format(time.RFC3339)}.span(now)
		if settled && err != nil || !settled && fault.CodeOf(err) != "not_settled" {
			t.Errorf("until %s ago: %v", ago, err)
		}
	}
	if s, err := (exportTerms{from: "2026-03-01"}).span(now); err != nil || !s.to.Equal(now.Add(-time.Minute)) {
		t.Errorf("until %s by default, %v", s.to, err)
	}
}

func TestExportToAFile(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t)
	plant(t, pool, 0, 9, time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC))
	dir := t.TempDir()
	name := filepath.Join(dir, "events.jsonl")
	if _, said, err := exportLines(t, pool, "--from", "2026-03-01", "--output", name); err != nil {
		t.Fatalf("%v %s", err, said)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(parseLines(t, text)); n != 9 {
		t.Errorf("%d lines in the file, want 9", n)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Rows come from the replica once it holds what the primary does, and not before.
func TestExportReadsTheReplica(t *testing.T) {
	t.Parallel()
	primary, replica := postgrestest.New(t), postgrestest.New(t)
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	plant(t, primary, 0, 9, start)
	plant(t, replica, 0, 5, start)
	cfg := config.Config{DatabaseURL: postgrestest.URL(t, primary), DatabaseReadURL: postgrestest.URL(t, replica)}
	if _, err := openEventSource(t.Context(), cfg, 100*time.Millisecond); fault.CodeOf(err) != "replica_behind" {
		t.Errorf("with a replica behind: %v", err)
	}
	if _, err := replica.Exec(t.Context(), `UPDATE processor_partitions SET event_seq = 9; UPDATE events SET type = 9`); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	err := run(t.Context(), []string{"export", "events", "--from", "2026-03-01"}, terminal{
		environ: []string{"DATABASE_URL=" + cfg.DatabaseURL, "DATABASE_READ_URL=" + cfg.DatabaseReadURL}, stdout: &out, stderr: &errs,
	})
	if err != nil {
		t.Fatal(err)
	}
	lines := parseLines(t, out.Bytes())
	if len(lines) != 5 || lines[0].Type != "partnership.ended" {
		t.Errorf("%d lines, want the replica's 5: %+v", len(lines), lines)
	}
}
