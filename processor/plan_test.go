package processor

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/bondmate/backend/pkg/partner"
)

// TestLoadDoesNotGrowWithTheTables measures the pages that each statement of the load
// reads, with plans made on empty tables, before and after the tables have grown. A plan
// that scans grows with them; in production it would be the plan until the next claim.
func TestLoadDoesNotGrowWithTheTables(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	ctx := t.Context()
	p, err := New(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := p.connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(conn)
	a, b := r.user(1), r.user(1)
	pair := partner.PairOf(a, b)
	request := uuid.New()
	r.exec(`INSERT INTO requests (id, sender, target, status, created_at, expires_at) VALUES ($1, $2, $3, 1, now(), now())`, request, a, b)
	r.exec(`INSERT INTO processor_partitions (partition) VALUES (0)`)
	users, lows, highs := []uuid.UUID{pair.Low, pair.High}, []uuid.UUID{pair.Low}, []uuid.UUID{pair.High}
	long := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	type plan struct {
		params string
		args   []any
	}
	statements := map[string]plan{
		"fence":              {`smallint[]`, []any{[]int16{0}}},
		"lock_streams":       {`uuid[]`, []any{users}},
		"load_users":         {`uuid[]`, []any{users}},
		"load_requests":      {`uuid[], uuid[], uuid[]`, []any{lows, highs, []uuid.UUID{request}}},
		"load_partnerships":  {`uuid[], uuid[]`, []any{lows, highs}},
		"load_commands":      {`uuid[]`, []any{[]uuid.UUID{uuid.New()}}},
		"load_parked":        {`uuid[], uuid[]`, []any{lows, highs}},
		"load_pending":       {`uuid[], bigint`, []any{users, int64(356)}},
		"load_sides":         {`uuid[], uuid[]`, []any{users, []uuid.UUID{pair.High, pair.Low}}},
		"load_breakups":      {`uuid[], uuid[], uuid[]`, []any{lows, highs, []uuid.UUID{uuid.New()}}},
		"due_timers":         {`smallint[], timestamptz[], timestamptz, bigint`, []any{[]int16{0}, []time.Time{long}, long, int64(10)}},
		"due_actions":        {`smallint[], integer`, []any{[]int16{0}, int64(10)}},
		"load_user_states":   {`uuid[]`, []any{users}},
		"load_couple_states": {`uuid[], uuid[]`, []any{lows, highs}},
		"delete_published":   {`uuid[], uuid[], smallint[], uuid[]`, []any{lows, highs, []int16{5}, []uuid.UUID{request}}},
		"write_cuts":         {`uuid[], uuid[], bigint[], timestamptz`, []any{[]uuid.UUID{a}, []uuid.UUID{b}, []int64{7}, long}},
		"withdraw_pushes":    {`uuid[], uuid[], bigint[], timestamptz`, []any{[]uuid.UUID{a}, []uuid.UUID{b}, []int64{7}, long}},
		"delete_timers":      {`uuid[], uuid[], smallint[]`, []any{lows, highs, []int16{0}}},
		"delete_sides":       {`uuid[], uuid[]`, []any{users, []uuid.UUID{pair.High, pair.Low}}},
		"delete_nicknames":   {`uuid[], uuid[]`, []any{users, []uuid.UUID{pair.High, pair.Low}}},
		"write_reads":        {`uuid[], bigint[]`, []any{[]uuid.UUID{a}, []int64{0}}},
		"write_profiles": {`uuid[], text[], text[], text[], text[], text[], boolean[], text[], text[]`,
			[]any{[]uuid.UUID{a}, []string{"Robin"}, nil, nil, nil, nil, nil, nil, nil}},
	}
	// What the foreign keys do when a deletion ends sessions.
	for name, table := range map[string]string{"end_acks": "acks", "end_devices": "devices", "end_tickets": "realtime_tickets"} {
		if _, err := conn.Prepare(ctx, name, `DELETE FROM `+table+` WHERE session_id = ANY($1::uuid[])`); err != nil {
			t.Fatal(err)
		}
		statements[name] = plan{args: []any{[]uuid.UUID{uuid.New()}}}
	}
	pages := func(name string) int64 {
		t.Helper()
		// EXPLAIN of the prepared statement itself: its generic plan is what runs.
		s := statements[name]
		sql := fmt.Sprintf(`EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE %s(%s)`, name, literals(s.args))
		var out []struct {
			Plan struct {
				Hit  int64 `json:"Shared Hit Blocks"`
				Read int64 `json:"Shared Read Blocks"`
			} `json:"Plan"`
		}
		if err := conn.QueryRow(ctx, sql, pgx.QueryExecModeSimpleProtocol).Scan(&out); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		return out[0].Plan.Hit + out[0].Plan.Read
	}
	before := map[string]int64{}
	for name := range statements {
		pages(name) // the first run fills the catalogue caches
		before[name] = pages(name)
	}
	grow(r, 20_000)
	for name := range statements {
		// A B-tree gains a level or two; a scan gains hundreds of pages.
		if got := pages(name); got > before[name]+12 {
			t.Errorf("%s reads %d pages on grown tables, %d on small ones", name, got, before[name])
		}
	}
}

func literals(args []any) string {
	out := ""
	for i, arg := range args {
		if i > 0 {
			out += ", "
		}
		switch v := arg.(type) {
		case []uuid.UUID:
			s := ""
			for j, id := range v {
				if j > 0 {
					s += ","
				}
				s += id.String()
			}
			out += "'{" + s + "}'"
		case []int16:
			out += "'{0}'"
		case int64:
			out += fmt.Sprint(v)
		case []int64:
			out += fmt.Sprintf("'{%d}'", v[0])
		case []string:
			out += "'{" + v[0] + "}'"
		case time.Time:
			out += "'" + v.Format(time.RFC3339) + "'"
		case []time.Time:
			out += "'{" + v[0].Format(time.RFC3339) + "}'"
		case nil:
			out += "'{}'"
		}
	}
	return out
}

// grow fills the tables with n strangers who have been partners, and ask each other again.
func grow(r *rig, n int) {
	r.t.Helper()
	r.exec(`INSERT INTO users (id, display_name, partner_code, created_at)
		SELECT gen_random_uuid(), 'U', 'x' || i, now() FROM generate_series(1, $1::int) i`, n)
	r.exec(`INSERT INTO user_streams (user_id) SELECT id FROM users ON CONFLICT DO NOTHING`)
	r.exec(`INSERT INTO user_slots (user_id, slot) SELECT id, 1 FROM users ON CONFLICT DO NOTHING`)
	r.exec(`WITH p AS (SELECT id, lag(id) OVER (ORDER BY id) AS before FROM users WHERE partner_code LIKE 'x%')
		INSERT INTO requests (id, sender, target, status, created_at, expires_at)
		SELECT gen_random_uuid(), before, id, s, now(), now() FROM p, generate_series(1, 3) s WHERE before IS NOT NULL`)
	r.exec(`WITH p AS (SELECT id, lag(id) OVER (ORDER BY id) AS before FROM users WHERE partner_code LIKE 'x%')
		INSERT INTO partnerships (id, low, high, status, started_at, version)
		SELECT gen_random_uuid(), before, id, s, now(), 1 FROM p, generate_series(2, 3) s WHERE before IS NOT NULL`)
	r.exec(`INSERT INTO partnership_members (partnership_id, user_id, slot, active)
		SELECT p.id, u, 1, false FROM partnerships p, LATERAL (VALUES (p.low), (p.high)) AS v (u)`)
	r.exec(`INSERT INTO commands (id, issuer, type, fingerprint, status, accepted_at, applied_at)
		SELECT gen_random_uuid(), id, 1, '\x00', 1, now(), now() FROM users`)
	r.exec(`WITH p AS (SELECT id, lag(id) OVER (ORDER BY id) AS before FROM users WHERE partner_code LIKE 'x%'),
		s AS (INSERT INTO pair_sides (user_id, other_id, declines) SELECT before, id, 1 FROM p WHERE before IS NOT NULL),
		n AS (INSERT INTO nicknames (owner, target, nickname, updated_at) SELECT before, id, 'bear', now() FROM p WHERE before IS NOT NULL),
		t AS (INSERT INTO timers (low, high, kind, partition, due_at, ref) SELECT before, id, 1, 0, now(), id FROM p WHERE before IS NOT NULL),
		c AS (INSERT INTO cuts (recipient, origin, after_seq, last_seq, made_at) SELECT before, id, 1, 2, now() FROM p WHERE before IS NOT NULL),
		i AS (INSERT INTO inbox (user_id, seq, partition, event_seq, origin) SELECT before, 1, 0, 1, id FROM p WHERE before IS NOT NULL),
		d AS (INSERT INTO push_deliveries (id, user_id, device_id, event_id, seq, type, status, due_at, expires_at, payload, created_at)
			SELECT gen_random_uuid(), before, id, id, 1, 1, s, now(), now(), '{}', now() FROM p, generate_series(1, 3) s WHERE before IS NOT NULL)
		INSERT INTO breakups (id, partnership_id, low, high, asker, status, created_at, expires_at)
		SELECT gen_random_uuid(), id, before, id, id, s, now(), now() FROM p, generate_series(1, 2) s WHERE before IS NOT NULL`)
	r.exec(`WITH s AS (INSERT INTO sessions (id, user_id, refresh_hash, created_at, last_used_at, expires_at)
			SELECT id, id, decode(replace(id::text, '-', ''), 'hex'), now(), now(), now() FROM users RETURNING id)
		INSERT INTO acks (user_id, session_id, seq, updated_at) SELECT id, id, 1, now() FROM s`)
	r.exec(`INSERT INTO parked_commands (partition, log_offset, low, high, id, reason, headers, value, parked_at)
		SELECT 0, row_number() OVER (), id, id, id, 'behind', '[]', '', now() FROM users WHERE partner_code LIKE 'x%'`)
	r.exec(`INSERT INTO parked_actions (id, partition, low, high, action, last_offset, requested_by, requested_at, executed_at, outcome)
		SELECT gen_random_uuid(), 0, id, id, 'retry', 1, 'operator:x', now(), now(), 'done' FROM users WHERE partner_code LIKE 'x%'`)
}

// TestConstraintsHoldAroundTheCore goes around the core with SQL: what G3 forbids, the
// database forbids too.
func TestConstraintsHoldAroundTheCore(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	a, b, c := r.user(1), r.user(1), r.user(1)
	r.start()
	s := send(a, b)
	r.post(s, accept(b, s))
	r.settled()
	ab, ac := partner.PairOf(a, b), partner.PairOf(a, c)
	second := uuid.New()
	r.exec(`INSERT INTO partnerships (id, low, high, status, started_at, version) VALUES ($1, $2, $3, 1, now(), 1)`, second, ac.Low, ac.High)
	r.exec(`INSERT INTO requests (id, sender, target, status, created_at, expires_at) VALUES ($1, $2, $3, 1, now(), now())`, uuid.New(), a, c)
	tests := map[string]struct {
		sql  string
		args []any
		want string // constraint
	}{
		"second active partnership in the one slot": {
			`INSERT INTO partnership_members (partnership_id, user_id, slot, active) VALUES ($1, $2, 1, true)`, []any{second, a},
			"partnership_members_active",
		},
		"a slot that the user does not own": {
			`INSERT INTO partnership_members (partnership_id, user_id, slot, active) VALUES ($1, $2, 2, true)`, []any{second, a},
			"partnership_members_user_id_slot_fkey",
		},
		"second active partnership of the pair": {
			`INSERT INTO partnerships (id, low, high, status, started_at, version) VALUES ($1, $2, $3, 1, now(), 1)`,
			[]any{uuid.New(), ab.Low, ab.High}, "partnerships_open",
		},
		"pair not in canonical order": {
			`INSERT INTO partnerships (id, low, high, status, started_at, version) VALUES ($1, $2, $3, 1, now(), 1)`,
			[]any{uuid.New(), ab.High, ab.Low}, "partnerships_check",
		},
		"second pending request, other way round": {
			`INSERT INTO requests (id, sender, target, status, created_at, expires_at) VALUES ($1, $2, $3, 1, now(), now())`,
			[]any{uuid.New(), c, a}, "requests_pending",
		},
		"request to oneself": {
			`INSERT INTO requests (id, sender, target, status, created_at, expires_at) VALUES ($1, $2, $2, 1, now(), now())`,
			[]any{uuid.New(), a}, "requests_check",
		},
		"command twice": {
			`INSERT INTO commands (id, issuer, type, fingerprint, status, accepted_at, applied_at) VALUES ($1, $2, 1, '\x00', 1, now(), now())`,
			[]any{s.ID, a}, "commands_pkey",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := r.pool.Exec(context.Background(), tc.sql, tc.args...)
			pg, ok := errors.AsType[*pgconn.PgError](err)
			if !ok || pg.ConstraintName != tc.want {
				t.Errorf("got %v, want a violation of %s", err, tc.want)
			}
		})
	}
}
