package retention_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/postgres"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
	"github.com/bondmate/backend/processor/retention"
)

const day = 24 * time.Hour

// rig is a database with a sweeper that has the program's rights and a clock of its own.
type rig struct {
	*testing.T
	owner *pgxpool.Pool // plants what no program would
	app   *pgxpool.Pool
	reg   *prometheus.Registry
	now   time.Time
}

func newRig(t *testing.T) *rig {
	t.Helper()
	owner := postgrestest.New(t)
	app, err := postgres.Open(t.Context(), postgres.Config{URL: postgrestest.URL(t, owner), Role: postgres.AppRole, MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(app.Close)
	return &rig{T: t, owner: owner, app: app, reg: prometheus.NewRegistry(), now: time.Now().UTC().Truncate(time.Microsecond)}
}

func (r *rig) sweeper(reg prometheus.Registerer) *retention.Sweeper {
	r.Helper()
	s, err := retention.New(retention.Config{
		Pool: r.app, Batch: 3, Pause: time.Microsecond, Clock: func() time.Time { return r.now }, Registerer: reg,
	})
	if err != nil {
		r.Fatal(err)
	}
	return s
}

func (r *rig) sweep() {
	r.Helper()
	r.reg = prometheus.NewRegistry()
	if err := r.sweeper(r.reg).Round(r.Context()); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) exec(sql string, args ...any) {
	r.Helper()
	if _, err := r.owner.Exec(r.Context(), sql, args...); err != nil {
		r.Fatalf("%s: %v", sql, err)
	}
}

// list returns one column as texts.
func (r *rig) list(sql string, args ...any) []string {
	r.Helper()
	rows, err := r.owner.Query(r.Context(), sql, args...)
	if err != nil {
		r.Fatalf("%s: %v", sql, err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		r.Fatalf("%s: %v", sql, err)
	}
	return out
}

func (r *rig) want(what string, want []string, sql string, args ...any) {
	r.Helper()
	if want == nil {
		want = []string{}
	}
	if diff := cmp.Diff(want, r.list(sql, args...)); diff != "" {
		r.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func (r *rig) user() uuid.UUID {
	r.Helper()
	id := uuid.New()
	r.exec(`INSERT INTO users (id, display_name, partner_code, created_at) VALUES ($1, 'U', $2, now())`, id, id.String()[:18])
	r.exec(`INSERT INTO user_streams (user_id) VALUES ($1)`, id)
	return id
}

// event plants an event of so many days ago with its command and its place in the
// inboxes of the pair.
func (r *rig) event(partition, seq int, ago time.Duration, low, high uuid.UUID) {
	r.Helper()
	command, at := uuid.New(), r.now.Add(-ago)
	r.exec(`INSERT INTO commands (accepted_at, applied_at, id, issuer, type, status, fingerprint) VALUES ($1, $1, $2, $3, 1, 1, '')`, at, command, low)
	seqs := make([]int64, 2)
	for i, u := range []uuid.UUID{low, high} {
		if err := r.owner.QueryRow(r.Context(), `UPDATE user_streams SET last_seq = last_seq + 1 WHERE user_id = $1 RETURNING last_seq`, u).Scan(&seqs[i]); err != nil {
			r.Fatal(err)
		}
		r.exec(`INSERT INTO inbox (user_id, seq, partition, event_seq) VALUES ($1, $2, $3, $4)`, u, seqs[i], partition, seq)
	}
	r.exec(`INSERT INTO events (partition, seq, accepted_at, applied_at, low_seq, high_seq, id, command_id, low, high, topic, type, data)
		VALUES ($1, $2, $3, $3, $4, $5, $6, $7, $8, $9, 1, 1, '{}')`, partition, seq, at, seqs[0], seqs[1], uuid.New(), command, low, high)
	r.exec(`INSERT INTO processor_partitions (partition, event_seq, relayed_seq) VALUES ($1, $2, $2)
		ON CONFLICT (partition) DO UPDATE SET event_seq = excluded.event_seq, relayed_seq = excluded.relayed_seq`, partition, seq)
}

func counted(r *rig, name string) map[string]float64 {
	r.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		r.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetCounter().GetValue() > 0 {
				out[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	return out
}

const (
	eventsLeft = `SELECT partition || '/' || seq FROM events ORDER BY partition, seq`
	// Each inbox is the end of its sequence, and every row of it has its event (G5).
	inboxHoles = `SELECT s.user_id::text FROM user_streams s WHERE EXISTS (SELECT FROM inbox i WHERE i.user_id = s.user_id)
		AND (SELECT count(*) <> max(seq) - min(seq) + 1 OR max(seq) <> s.last_seq FROM inbox i WHERE i.user_id = s.user_id)
		UNION ALL SELECT i.user_id::text FROM inbox i WHERE NOT EXISTS (SELECT FROM events e WHERE e.partition = i.partition AND e.seq = i.event_seq)`
)

// Events go after 90 days with what is in inboxes, outcomes after 30. What is not yet on
// its topic stays, however old, and so does all behind it.
func TestHistory(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ana, ben, eve, ken, lea := r.user(), r.user(), r.user(), r.user(), r.user()
	r.event(2, 1, 200*day, ken, lea)
	r.event(2, 2, 199*day, ken, lea)
	// Ana's inbox has events of two partitions, which are not at the same place in time.
	for seq := 1; seq <= 8; seq++ {
		r.event(0, seq, 100*day-time.Duration(seq)*time.Hour, ana, ben)
	}
	r.event(1, 1, 92*day, ana, eve)
	r.event(1, 2, 89*day, ana, eve)
	r.event(0, 9, 40*day, ana, ben)
	r.event(0, 10, 29*day, ana, ben)
	r.exec(`UPDATE processor_partitions SET relayed_seq = 1 WHERE partition = 2`)
	// An id that was used twice is refused under an id of its own, which is its event's.
	r.exec(`INSERT INTO commands (accepted_at, applied_at, id, issuer, type, status, fingerprint)
		SELECT applied_at, applied_at, id, low, 1, 2, '' FROM events WHERE partition = 0 AND seq = 3`)

	r.sweep()
	r.want("events", []string{"0/9", "0/10", "1/2", "2/2"}, eventsLeft)
	r.want("inboxes with a hole", nil, inboxHoles)
	r.want("outcomes", []string{"199", "29"}, `SELECT round(extract(epoch FROM $1::timestamptz - applied_at) / 86400)::text FROM commands ORDER BY 1`, r.now)
	if diff := cmp.Diff(map[string]float64{"events": 10, "inbox": 20, "commands": 13}, counted(r, "bondmate_retention_removed_total")); diff != "" {
		t.Errorf("counted (-want +got):\n%s", diff)
	}

	r.now = r.now.Add(62 * day) // and the relay comes through at last
	r.exec(`UPDATE processor_partitions SET relayed_seq = event_seq`)
	r.sweep()
	r.want("events later", nil, `SELECT partition || '/' || seq FROM events WHERE partition <> 0 ORDER BY 1`)
	r.want("inboxes with a hole", nil, inboxHoles)
	r.want("outcomes later", nil, `SELECT id::text FROM commands`)
	r.event(1, 3, 0, ana, eve)
	r.want("inboxes with a hole once it goes on", nil, inboxHoles)
}

// The partitions of one inbox are never seen at different places, not even between two
// transactions of a round: a sweep that ends after any of them leaves no hole.
func TestHistoryInterrupted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ana, ben, eve := r.user(), r.user(), r.user()
	for seq := 1; seq <= 12; seq++ {
		other := ben
		if seq%2 == 0 {
			other = eve
		}
		r.event(seq%3, (seq+2)/3, 100*day-time.Duration(seq)*time.Minute, ana, other)
	}
	for steps := 1; steps <= 6; steps++ {
		s, err := retention.New(retention.Config{
			Pool: r.app, Batch: 1, Steps: steps, Pause: time.Microsecond, Clock: func() time.Time { return r.now },
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.want(fmt.Sprintf("inboxes with a hole after %d steps", steps), nil, inboxHoles)
	}
}

func TestTables(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ana, ben := r.user(), r.user()
	ago := func(d time.Duration) time.Time { return r.now.Add(-d) }
	for i := range 5 {
		for name, d := range map[string]time.Duration{"old": 46 * day, "young": 44 * day} {
			r.exec(`INSERT INTO push_deliveries (id, user_id, device_id, event_id, seq, type, status, due_at, expires_at, payload, error, created_at)
				VALUES ($1, $2, $1, $1, 1, 1, 3, $3, $3, '{}', $4, $3)`, uuid.New(), ana, ago(d), name)
		}
		r.exec(`INSERT INTO realtime_tickets (hash, user_id, session_id, expires_at) VALUES ($1, $2, $3, $4)`,
			[]byte{byte(i)}, ana, r.session(ana, -day, 0), ago(time.Duration(i-1)*time.Minute))
		r.exec(`INSERT INTO mail_tokens (hash, user_id, purpose, email, expires_at) VALUES ($1, $2, 1, 'a@example.org', $3)`,
			[]byte{byte(i)}, ana, ago(time.Duration(i-1)*time.Minute))
	}
	for offset, d := range []time.Duration{6 * day, 8 * day, 31 * day} {
		r.exec(`INSERT INTO dead_letters (topic, partition, log_offset, error, key, headers, value, created_at)
			VALUES ('t', 0, $1, 'e', 'k', '[{"key":"a"}]', 'v', $2)`, offset, ago(d))
	}
	for error, executed := range map[string]any{"waits": nil, "old": ago(31 * day), "young": ago(29 * day)} {
		r.exec(`INSERT INTO parked_actions (id, partition, low, high, action, last_offset, requested_by, requested_at, executed_at, error)
			VALUES ($1, 0, $2, $3, 'drop', 0, 'x', $4, $5, $6)`, uuid.New(), ana, ben, ago(40*day), executed, error)
	}
	for name, d := range map[string]time.Duration{"faded": time.Minute, "faded too": day, "counts": -time.Minute, "place": -29 * day, "old place": day} {
		r.exec(`INSERT INTO login_attempts (key, user_id, failures, counted_at, waits_until, forget_at)
			VALUES (convert_to($1, 'UTF8'), CASE WHEN $1 LIKE '%place' THEN $2::uuid END, 1, $3, $3, $3)`, name, ana, ago(d))
	}
	for name, ended := range map[string][2]any{ // revoked, expires
		"lives": {nil, nil}, "lives on": {nil, ago(-day)}, "revoked": {ago(395 * day), nil}, "revoked long ago": {ago(397 * day), ago(-day)},
		"expired": {nil, ago(395 * day)}, "expired long ago": {nil, ago(397 * day)}, "expired long ago, then revoked": {ago(day), ago(397 * day)},
	} {
		r.exec(`INSERT INTO api_keys (id, name, scopes, hash, created_at, created_by, revoked_at, expires_at)
			VALUES (gen_random_uuid(), $1, '{}', '', $2, '', $3, $4)`, name, ago(900*day), ended[0], ended[1])
	}
	// Ana's old sessions but the one that read most; Ben's live one read more than his old one.
	r.session(ana, 40*day, 5)
	best := r.session(ana, 50*day, 7)
	r.session(ana, 60*day, 7-1)
	r.session(ben, 40*day, 9)
	live := r.session(ben, -day, 12)

	partnership := func(status int) uuid.UUID {
		id, low, high := uuid.New(), r.user(), r.user()
		if low.String() > high.String() {
			low, high = high, low
		}
		r.exec(`INSERT INTO partnerships (id, low, high, status, started_at, version) VALUES ($1, $2, $3, $4, now(), 1)`, id, low, high, status)
		return id
	}
	side := func(columns, values string, args ...any) {
		r.exec(fmt.Sprintf(`INSERT INTO pair_sides (user_id, other_id, %s) VALUES ($1, gen_random_uuid(), %s)`, columns, values), append([]any{ana}, args...)...)
	}
	side("sends", "ARRAY[$2::timestamptz]", ago(11*day))
	side("sends", "ARRAY[$2::timestamptz, $3::timestamptz]", ago(11*day), ago(9*day))
	side("forfeited", "$2", partnership(3))
	side("forfeited", "$2", partnership(2))
	side("blocked_at", "$2", ago(900*day))
	side("door_closed_at", "$2", ago(900*day))
	side("declines, last_declined_at", "4, $2", ago(900*day))

	for seq := range 6 {
		r.event(0, seq+1, 0, ana, ben)
	}
	r.exec(`DELETE FROM inbox WHERE user_id = $1 AND seq <= 3`, ana)
	for last, d := range map[int]time.Duration{2: 91 * day, 3: 89 * day, 4: 91 * day} {
		r.exec(`INSERT INTO cuts (recipient, origin, after_seq, last_seq, made_at) VALUES ($1, $2, 0, $3, $4)`, ana, ben, last, ago(d))
	}

	for range 3 { // what is gone through page by page begins anew
		r.sweep()
	}
	r.want("pushes", []string{"young", "young", "young", "young", "young"}, `SELECT error FROM push_deliveries ORDER BY 1`)
	r.want("tickets", []string{`\x00`, `\x01`}, `SELECT hash::text FROM realtime_tickets ORDER BY 1`)
	r.want("attempts", []string{"counts", "place"}, `SELECT convert_from(key, 'UTF8') FROM login_attempts ORDER BY 1`)
	r.want("API keys", []string{"expired", "lives", "lives on", "revoked"}, `SELECT name FROM api_keys ORDER BY 1`)
	r.want("tokens of mails", []string{`\x00`, `\x01`}, `SELECT hash::text FROM mail_tokens ORDER BY 1`)
	r.want("dead letters", []string{"0:v", "1:nothing"}, `SELECT log_offset || ':' || COALESCE(convert_from(value, 'UTF8'), 'nothing') FROM dead_letters ORDER BY 1`)
	r.want("bytes of dead letters", []string{"1"}, `SELECT count(*)::text FROM dead_letters WHERE key IS NOT NULL OR headers <> '[]'`)
	r.want("parked actions", []string{"waits", "young"}, `SELECT error FROM parked_actions ORDER BY 1`)
	r.want("old sessions", []string{best.String()}, `SELECT id::text FROM sessions WHERE expires_at < $1`, r.now)
	r.want("read by each", []string{"7", "12"}, `SELECT max(seq)::text FROM acks GROUP BY user_id ORDER BY max(seq)`)
	r.want("live sessions", []string{live.String()}, `SELECT id::text FROM sessions WHERE user_id = $1`, ben)
	r.want("sides", []string{"block", "declines", "door", "restorable", "sends"}, `SELECT CASE WHEN blocked_at IS NOT NULL THEN 'block' WHEN door_closed_at IS NOT NULL THEN 'door'
		WHEN declines > 0 THEN 'declines' WHEN forfeited IS NOT NULL THEN 'restorable' ELSE 'sends' END FROM pair_sides ORDER BY 1`)
	r.want("cuts", []string{"3", "4"}, `SELECT last_seq::text FROM cuts ORDER BY 1`)
}

// session plants a session that expired so long ago and has acknowledged up to seq.
func (r *rig) session(user uuid.UUID, expired time.Duration, seq int64) uuid.UUID {
	r.Helper()
	id := uuid.New()
	r.exec(`INSERT INTO sessions (id, user_id, refresh_hash, created_at, last_used_at, expires_at) VALUES ($1, $2, $3, now(), now(), $4)`,
		id, user, id[:], r.now.Add(-expired))
	if seq > 0 {
		r.exec(`INSERT INTO acks (user_id, session_id, seq, updated_at) VALUES ($1, $2, $3, now())`, user, id, seq)
	}
	return id
}

// Months of the activity log are made ahead and dropped after a year, addresses go after
// 30 days; all by a role that can do none of it with statements of its own.
func TestActivityLog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	over := r.now.AddDate(0, -14, 0)
	name := "activity_log_" + over.Format("200601")
	first := time.Date(over.Year(), over.Month(), 1, 0, 0, 0, 0, time.UTC)
	r.exec(fmt.Sprintf(`CREATE TABLE %s PARTITION OF activity_log FOR VALUES FROM ('%s') TO ('%s')`,
		name, first.Format(time.RFC3339), first.AddDate(0, 1, 0).Format(time.RFC3339)))
	soon := r.now.AddDate(0, 2, 0)
	r.exec(`DROP TABLE activity_log_` + soon.Format("200601"))
	plant := func(at time.Time) {
		r.exec(`INSERT INTO activity_log (at, actor, action, severity, address) VALUES ($1, $2, 'x', 1, '192.0.2.1')`, at, uuid.New())
	}
	for range 5 {
		plant(first.Add(day))
		plant(r.now.Add(-31 * day))
		plant(r.now.Add(-29 * day))
	}
	plant(soon) // into the default: its month is not there
	r.sweep()
	r.want("months that are over", nil, `SELECT relname::text FROM pg_class WHERE relname = $1`, name)
	r.want("rows with an address", []string{"6 of 11"},
		`SELECT count(*) FILTER (WHERE address IS NOT NULL) || ' of ' || count(*) FROM activity_log`)
	r.want("rows with an address that is due", nil, `SELECT 'x' FROM activity_log WHERE address IS NOT NULL AND at < $1`, r.now.Add(-30*day))
	r.want("in the default", nil, `SELECT 'x' FROM activity_log_default WHERE at > $1`, r.now)
	r.want("the month that was missing", []string{"1"}, `SELECT count(*)::text FROM activity_log_`+soon.Format("200601"))
	r.want("indexes of it", []string{"2"}, `SELECT count(*)::text FROM pg_indexes WHERE tablename = $1`, "activity_log_"+soon.Format("200601"))
}

// Several processors sweep at once: each row goes once, and nobody fails.
func TestSweepersAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ana, ben := r.user(), r.user()
	for seq := 1; seq <= 40; seq++ {
		r.event(seq%2, (seq+1)/2, 100*day, ana, ben)
	}
	var all sync.WaitGroup
	for range 4 {
		s := r.sweeper(nil)
		all.Go(func() {
			if err := s.Round(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	r.sweep() // whoever gave way may have left something
	r.want("events", nil, eventsLeft)
	r.want("outcomes", nil, `SELECT id::text FROM commands`)
	r.want("inboxes with a hole", nil, inboxHoles)
}

// A round ends with its context, and Run with it, without an error.
func TestRunEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.sweeper(nil).Run(ctx) }()
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("not ended in 10 s")
	}
}

func TestOutcomesLongerThanEvents(t *testing.T) {
	t.Parallel()
	_, err := retention.New(retention.Config{Pool: new(pgxpool.Pool), Clock: time.Now, Keep: retention.Keep{Commands: 91 * day}})
	if err == nil {
		t.Error("outcomes could outlive the events that they are found by")
	}
}

// What reports said goes when it is said to; that there were reports stays.
func TestReportsAreForgotten(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	reporter, target := r.user(), r.user()
	plant := func(reason string, status int, closed *time.Duration) {
		var at *time.Time
		if closed != nil {
			at = new(r.now.Add(-*closed))
		}
		var resolution *int
		var resolvedAt *time.Time
		note := ""
		if status == 2 {
			resolution, resolvedAt, note = new(2), new(r.now), "note"
		}
		r.exec(`INSERT INTO reports (id, reporter, target, reason, detail, status, resolution, note, resolved_at, created_at, closed_at)
			VALUES (gen_random_uuid(), $1, $2, $3, 'detail', $4, $5, $6, $7, now(), $8)`,
			reporter, target, reason, status, resolution, note, resolvedAt, at)
	}
	plant("open", 1, nil)
	plant("just kept", 2, new(90*day-time.Second))
	plant("of one whom nobody was erased for long enough", 1, new(89*day))
	plant("resolved", 2, new(90*day+time.Second))
	for range 4 { // more than one step
		plant("erased", 1, new(91*day))
	}
	r.sweep()
	r.want("reports", []string{
		"1: just kept detail note", "1: of one whom nobody was erased for long enough detail", "1: open detail", "4: lapsed", "1: resolved",
	}, `SELECT n || ': ' || what FROM (SELECT count(*) AS n, CASE
			WHEN reason <> '' THEN trim(reason || ' ' || detail || ' ' || note)
			WHEN status = 2 AND resolved_at IS NOT NULL AND detail || note = '' THEN CASE resolution WHEN 4 THEN 'lapsed' WHEN 2 THEN 'resolved' END END AS what
		FROM reports GROUP BY 2) x ORDER BY (what IN ('lapsed', 'resolved')), what`)
}
