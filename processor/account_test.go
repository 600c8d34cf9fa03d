package processor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/pkg/postgres"
)

// erased waits until the deletion of an account and all its follow-ups are done.
func (r *rig) erased(user uuid.UUID) {
	r.t.Helper()
	r.eventually("the account is erased", func() bool {
		return one[int64](r, `SELECT count(*) FROM users WHERE id = $1 AND erased_at IS NOT NULL`, user) == 1
	})
	r.settled()
}

// find returns the tables that hold a text, whatever the column.
func (r *rig) find(text string) []string {
	r.t.Helper()
	ctx := context.Background()
	rows, err := r.pool.Query(ctx, `SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = 'public' AND c.relkind = 'r' ORDER BY 1`)
	if err != nil {
		r.t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		r.t.Fatal(err)
	}
	var found []string
	for _, table := range tables {
		// bytea columns show as hexadecimal.
		sql := fmt.Sprintf(`SELECT count(*) FROM %s x WHERE strpos(x::text, $1) > 0 OR strpos(x::text, $2) > 0`, pgx.Identifier{table}.Sanitize())
		if n := one[int64](r, sql, text, fmt.Sprintf("%x", text)); n > 0 {
			found = append(found, table)
		}
	}
	return found
}

// TestDeletedAccountLeavesNothing plants texts in every place that a user's words reach,
// deletes the account and looks for them in every table.
func TestDeletedAccountLeavesNothing(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	r.start(func(c *Config) { c.Workers = testPartitions })
	leaver, ex := r.couple(3)
	former, asked, blocker := r.user(1), r.user(1), r.user(1)

	r.marry(leaver, former)
	over := remove(leaver, former)
	over.Reason = "planted reason"
	ask := command(partner.AskBreakup, leaver, ex)
	ask.Reason = "planted wish"
	nick := command(partner.SetNickname, leaver, ex)
	nick.Nickname = "planted nickname"
	theirs := command(partner.SetNickname, ex, leaver)
	theirs.Nickname = "planted by the ex"
	pending := send(leaver, asked)
	pending.Message = "planted message"
	name := rename(leaver, "planted name")
	code := command(partner.ChangeCode, leaver, leaver)
	planted := "PLANTEDCOD"
	code.Profile = &partner.ProfilePatch{PartnerCode: &planted}
	r.post(over, ask, nick, theirs, pending, name, code, command(partner.Block, blocker, leaver))
	r.settled()
	r.exec(`INSERT INTO credentials (user_id, email, password_hash) VALUES ($1, 'planted@example.org', 'planted hash')`, leaver)
	session := uuid.New()
	r.exec(`INSERT INTO sessions (id, user_id, refresh_hash, created_at, last_used_at, expires_at) VALUES ($1, $2, 'planted refresh', now(), now(), now())`, session, leaver)
	r.exec(`INSERT INTO devices (id, user_id, session_id, kind, value, platform, created_at, updated_at)
		VALUES (gen_random_uuid(), $1, $2, 'fcm', 'planted token', 'android', now(), now())`, leaver, session)
	r.exec(`INSERT INTO push_preferences (user_id, muted, quiet, quiet_from, quiet_to, updated_at) VALUES ($1, '{planted}', true, 1, 2, now())`, leaver)
	for _, text := range []string{"planted reason", "planted wish", "planted nickname", "planted message", "planted name", "PLANTEDCOD", "planted refresh"} {
		if len(r.find(text)) == 0 {
			t.Fatalf("%q is nowhere to begin with", text)
		}
	}

	gone := command(partner.DeleteAccount, leaver, leaver)
	r.post(read(leaver, 1))
	r.settled()
	if got := one[int64](r, `SELECT read_seq FROM user_streams WHERE user_id = $1`, leaver); got != 1 {
		t.Fatalf("the read mark is at %d", got)
	}
	checkReplay(t, r)
	r.post(gone)
	r.erased(leaver)
	checkReplay(t, r)
	r.applied(gone)
	r.announced()
	for _, text := range []string{"planted", "PLANTED"} {
		if found := r.find(text); len(found) > 0 {
			t.Errorf("%q is still in %s", text, strings.Join(found, ", "))
		}
	}
	for name, sql := range map[string]string{
		"partnerships open": `SELECT count(*) FROM partnerships WHERE status < 3`,
		"requests pending":  `SELECT count(*) FROM requests WHERE status = 1`,
		"sides":             `SELECT count(*) FROM pair_sides WHERE $1 IN (user_id, other_id)`,
		"nicknames":         `SELECT count(*) FROM nicknames WHERE $1 IN (owner, target)`,
		"read marks":        `SELECT count(*) FROM user_streams WHERE user_id = $1 AND read_seq > 0`,
		"preferences":       `SELECT count(*) FROM push_preferences WHERE user_id = $1`,
		"timers":            `SELECT count(*) FROM timers WHERE $1 IN (low, high)`,
		"inbox rows":        `SELECT count(*) FROM inbox WHERE user_id = $1`,
		"slots still taken": `SELECT count(*) FROM partnership_members WHERE active AND $1::uuid IS NOT NULL`,
	} {
		args := []any{leaver}
		if !strings.Contains(sql, "$1") {
			args = nil
		}
		if n := one[int64](r, sql, args...); n != 0 {
			t.Errorf("%d %s", n, name)
		}
	}
	if n := one[int64](r, `SELECT count(*) FROM cuts WHERE recipient = $1 AND origin = $2`, ex, leaver); n == 0 {
		t.Error("the ex has no cut")
	}
	again, after := send(ex, r.user(1)), send(leaver, r.user(1))
	r.post(again, after)
	r.settled()
	r.applied(again) // their slot is free
	if got := r.outcome(after.ID); got != "account_deleting" {
		t.Errorf("a command after the deletion is %s, want account_deleting", got)
	}
	r.published()
}

// TestDeletionOfManyPairs has more pairs than one decision closes.
func TestDeletionOfManyPairs(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	r.start()
	leaver := r.user(1)
	others := r.users(partner.PendingLimit+30, 1)
	var cmds []partner.Command
	for i, o := range others {
		if i%2 == 0 {
			cmds = append(cmds, send(o, leaver))
		} else {
			cmds = append(cmds, command(partner.Block, leaver, o))
		}
	}
	// In one go, so that some of them are in one batch with the deletion.
	cmds = append(cmds, command(partner.DeleteAccount, leaver, leaver))
	r.post(cmds...)
	r.erased(leaver)
	if n := one[int64](r, `SELECT count(*) FROM requests WHERE status = 1`) + one[int64](r, `SELECT count(*) FROM pair_sides WHERE user_id = $1`, leaver); n != 0 {
		t.Errorf("%d pairs are not closed", n)
	}
}

// TestDeletionCutsEverybodyAtOnce deletes an account that more people have something of
// than one decision closes, while no follow-up gets anywhere: what the deletion itself
// commits is all that keeps what was on its way from them (G9).
func TestDeletionCutsEverybodyAtOnce(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	var stuck atomic.Bool
	m.onWrite = func(recs []contract.Record) error {
		if stuck.Load() && slices.ContainsFunc(recs, func(rec contract.Record) bool { return rec.Topic == r.topics.Commands }) {
			return errors.New("no follow-up gets through")
		}
		return nil
	}
	r.start(func(c *Config) { c.Limits = partner.DefaultLimits(); c.Limits.SendsPerTarget = 0 })
	leaver, former := r.couple(2)
	others := r.users(partner.PendingLimit+50, 1)
	past := r.user(1) // has something of what is over alone
	var cmds []partner.Command
	for _, o := range others {
		cmds = append(cmds, send(leaver, o))
	}
	taken := send(leaver, past)
	back := command(partner.Cancel, leaver, past)
	back.RequestID = partner.RequestIDOf(taken.ID)
	r.post(append(cmds, taken, back, rename(leaver, "somebody"))...)
	r.settled()
	everybody := append(slices.Clone(others), former, past)
	// All have a phone on which a push is due; the first has read what is there.
	r.exec(`INSERT INTO push_deliveries (id, user_id, device_id, event_id, seq, type, status, due_at, expires_at, payload, created_at)
		SELECT gen_random_uuid(), i.user_id, gen_random_uuid(), gen_random_uuid(), i.seq, 1, 1, now(), now() + interval '1 day', '{}', now()
		FROM inbox i WHERE i.user_id = ANY ($1) AND i.origin = $2`, everybody, leaver)
	session := uuid.New()
	r.exec(`INSERT INTO sessions (id, user_id, refresh_hash, created_at, last_used_at, expires_at) VALUES ($1, $2, 'x', now(), now(), now() + interval '1 day')`, session, others[0])
	r.exec(`INSERT INTO acks (user_id, session_id, seq, updated_at) VALUES ($1, $2, 1, now())`, others[0], session)

	stuck.Store(true)
	gone := command(partner.DeleteAccount, leaver, leaver)
	m.append(time.Now(), r.record(gone))
	r.eventually("the deletion is committed", func() bool { return r.outcome(gone.ID) == "applied" })
	if n := one[int64](r, `SELECT count(DISTINCT user_id) FROM inbox_entries WHERE origin = $1 AND user_id = ANY ($2) AND NOT withdrawn`, leaver, everybody); n != 1 {
		t.Errorf("%d have something of the leaver still, want the one who read it", n)
	}
	if n := one[int64](r, `SELECT count(*) FROM inbox_entries WHERE origin = $1 AND user_id = $2 AND NOT withdrawn`, leaver, others[0]); n != 1 {
		t.Errorf("what was read is withdrawn: %d", n)
	}
	if n := one[int64](r, `SELECT count(DISTINCT user_id) FROM push_deliveries WHERE status < 3 AND user_id = ANY ($1)`, everybody); n != 1 {
		t.Errorf("pushes to %d are due still, want the one who read it", n)
	}
	if n := one[int64](r, `SELECT count(*) FROM requests WHERE status = 1`); n != int64(len(others)) {
		t.Errorf("%d requests are open: the follow-ups were to be held up", n)
	}
	stuck.Store(false)
	r.erased(leaver)
	if n := one[int64](r, `SELECT count(*) FROM requests WHERE status = 1`); n != 0 {
		t.Errorf("%d requests are open", n)
	}
	r.published()
}

// TestErasureInRounds erases more than one transaction takes, with a crash in every one of
// the first rounds: none takes more than it may, and nothing is left at the end.
func TestErasureInRounds(t *testing.T) {
	t.Parallel()
	const rows, most = 500, 60
	r, _ := newMemoryRig(t)
	connect := func(ctx context.Context) (*pgx.Conn, error) { // with the rights that it runs with
		return postgres.Connect(ctx, postgres.Config{URL: r.url, Role: postgres.AppRole})
	}
	leaver, other := r.user(1), r.user(1)
	for _, sql := range []string{
		`INSERT INTO push_deliveries (id, user_id, device_id, event_id, seq, type, status, due_at, expires_at, payload, created_at)
			SELECT gen_random_uuid(), $1, gen_random_uuid(), gen_random_uuid(), 1, 1, 3, now(), now(), '{"planted": 1}', now() FROM generate_series(1, $2::int)`,
		`INSERT INTO requests (id, sender, target, message, status, created_at, expires_at)
			SELECT gen_random_uuid(), $1, gen_random_uuid(), 'planted', 3, now(), now() FROM generate_series(1, $2::int)`,
		`INSERT INTO activity_log (at, actor, action, severity, address, device)
			SELECT now() - n * interval '1 day', $1, 'x', 1, 'planted', 'planted' FROM generate_series(1, $2::int) AS n`,
		`INSERT INTO reports (id, reporter, target, reason, detail, created_at)
			SELECT gen_random_uuid(), $1, gen_random_uuid(), 'x', 'planted', now() FROM generate_series(1, $2::int)`,
		`INSERT INTO inbox (user_id, seq, partition, event_seq) SELECT $1, n, 99, n FROM generate_series(1, $2::int) AS n`,
	} {
		r.exec(sql, leaver, rows)
	}
	r.exec(`UPDATE user_streams SET last_seq = $2 WHERE user_id = $1`, leaver, rows)
	// What one transaction deletes, or blanks, of each of these is written down.
	r.exec(`CREATE TABLE taken (what text, n bigint)`)
	r.exec(`GRANT INSERT ON taken TO ` + postgres.AppRole)
	for _, at := range []string{"DELETE ON push_deliveries", "DELETE ON inbox", "UPDATE ON requests", "UPDATE ON reports"} {
		table := at[strings.LastIndex(at, " ")+1:]
		r.exec(fmt.Sprintf(`CREATE FUNCTION took_%[1]s() RETURNS trigger LANGUAGE plpgsql AS
			$$ BEGIN INSERT INTO taken SELECT '%[1]s', count(*) FROM old_rows; RETURN NULL; END $$`, table))
		r.exec(fmt.Sprintf(`CREATE TRIGGER took AFTER %s REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION took_%s()`, at, table))
	}
	var crashes atomic.Int32
	r.start(func(c *Config) {
		c.Connect, c.EraseRows = connect, most
		c.Hook = func(_ context.Context, at Point) error {
			if n := crashes.Load(); n < 12 && at == []Point{BeforeWrite, AfterCommit, AfterRelay}[n%3] && crashes.CompareAndSwap(n, n+1) {
				return errors.New("crash")
			}
			return nil
		}
	})
	r.post(command(partner.Block, other, leaver), command(partner.DeleteAccount, leaver, leaver))
	r.erased(leaver)
	if found := r.find("planted"); len(found) > 0 {
		t.Errorf("planted is still in %v", found)
	}
	if n := one[int64](r, `SELECT count(*) FROM inbox WHERE user_id = $1`, leaver); n != 0 {
		t.Errorf("%d inbox rows are left", n)
	}
	if n := one[int64](r, `SELECT max(n) FROM taken`); n > most+eraseSlack || n == 0 {
		t.Errorf("one transaction took %d rows of a table, want at most %d", n, most+eraseSlack)
	}
	if n := one[int64](r, `SELECT count(*) FROM commands WHERE type = $1`, int16(partner.EraseAccount)); n < rows/(most+eraseSlack) {
		t.Errorf("%d rounds", n)
	}
	if crashes.Load() < 12 {
		t.Errorf("%d crashes", crashes.Load())
	}
}
