package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

func TestTimersListsWhatIsDue(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t)
	now := time.Now()
	low, high := uuid.UUID{1}, uuid.UUID{2}
	for kind, due := range map[int]time.Time{1: now.Add(-time.Hour), 2: now.Add(90 * time.Minute), 3: now.Add(-time.Minute)} {
		if _, err := pool.Exec(t.Context(), `INSERT INTO timers (low, high, kind, partition, due_at, ref, error)
			VALUES ($1, $2, $3::smallint, 4, $4, $5, CASE WHEN $3::smallint = 3 THEN 'poison' END)`, low, high, kind, due, uuid.UUID{byte(kind)}); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		args []string
		want []string // a part of each line after the head
	}{
		"due":         {nil, []string{"request expires", "failed: poison"}},
		"due by then": {[]string{"--within", "2h"}, []string{"request expires", "failed: poison", "in 1h"}},
		"failed":      {[]string{"--failed"}, []string{"breakup ends partnership"}},
		"the first":   {[]string{"--limit", "1"}, []string{"overdue by 1h"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			err := run(t.Context(), append([]string{"timers"}, tc.args...), terminal{
				environ: []string{"DATABASE_URL=" + postgrestest.URL(t, pool)}, stdout: &out, stderr: &out,
			})
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")[1:]
			if len(lines) != len(tc.want) {
				t.Fatalf("%d timers, want %d:\n%s", len(lines), len(tc.want), out.String())
			}
			for i, want := range tc.want {
				if !strings.Contains(lines[i], want) {
					t.Errorf("line %d is %q, want %q in it", i+1, lines[i], want)
				}
			}
		})
	}
}
