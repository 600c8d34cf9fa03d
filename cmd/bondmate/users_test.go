package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

// operator runs an operator's command and returns what it prints.
func operator(t *testing.T, pool *pgxpool.Pool, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := run(t.Context(), args, terminal{
		environ: []string{"DATABASE_URL=" + postgrestest.URL(t, pool), "LOG_LEVEL=warn"}, stdout: &out, stderr: &out,
	})
	return out.String(), err
}

// account inserts an account and returns its id.
func account(t *testing.T, pool *pgxpool.Pool, email string) uuid.UUID {
	t.Helper()
	id := uuid.New()
	_, err := pool.Exec(t.Context(), `
		WITH u AS (INSERT INTO users (id, display_name, partner_code, created_at) VALUES ($1, 'Ana', $2, now())),
		     s AS (INSERT INTO user_streams (user_id) VALUES ($1))
		INSERT INTO user_slots (user_id, slot) VALUES ($1, 1)`, id, id.String()[:10])
	if err != nil {
		t.Fatal(err)
	}
	if _, err = pool.Exec(t.Context(), `INSERT INTO credentials (user_id, email, password_hash) VALUES ($1, $2, '-')`, id, email); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestUsersPromote(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t)
	id := account(t, pool, "ana@example.org")
	for _, step := range []struct {
		args []string
		want string // in what is printed, or in the error
		fail bool
	}{
		{[]string{"show", "Ana@example.org"}, "role      user", false},
		{[]string{"promote", "ana@example.org", "--role", "admin"}, "role      admin", false},
		{[]string{"promote", id.String(), "--role", "support"}, "role      support", false},
		{[]string{"show", id.String()}, "role      support", false},
		{[]string{"promote", id.String(), "--role", "king"}, `role "king" is unknown`, true},
		{[]string{"promote", id.String()}, `"role" not set`, true},
		{[]string{"show", "ben@example.org"}, "user_not_found", true},
		{[]string{"show", uuid.NewString()}, "user_not_found", true},
	} {
		out, err := operator(t, pool, append([]string{"users"}, step.args...)...)
		if step.fail != (err != nil) {
			t.Errorf("%v: %v", step.args, err)
		}
		if err != nil {
			out = err.Error()
		}
		if !strings.Contains(out, step.want) {
			t.Errorf("%v: got %q, want %q in it", step.args, out, step.want)
		}
	}
	var lines int
	err := pool.QueryRow(t.Context(), `SELECT count(*) FROM activity_log
		WHERE device LIKE 'console: %@%' AND target = $1 AND action LIKE 'ops.user.%'`, id).Scan(&lines)
	if err != nil || lines != 4 {
		t.Errorf("%d lines in the activity log: %v", lines, err)
	}
}
