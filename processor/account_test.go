package processor

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/partner"
)

// erased waits until the deletion of an account and all its follow-ups are done.
func (r *rig) erased(user uuid.UUID) {
	r.t.Helper()
	r.eventually("the account is erased", func() bool {
		return one[int64](r, `SELECT count(*) FROM users WHERE id = $1 AND partner_code LIKE 'erased-%'`, user) == 1
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
