package retention

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// tasks in the order of a round: outcomes before the events that they are found by.
func (s *Sweeper) tasks() []task {
	return []task{
		{name: taskCommands, lock: 1, parts: partitions, step: s.commands},
		{name: taskEvents, lock: 2, parts: partitions, step: s.events},
		{name: "push_deliveries", lock: 3, step: s.older("push_deliveries", deletePushesSQL, s.cfg.Keep.Pushes)},
		{name: "dead_letter_bytes", lock: 4, step: s.older("dead_letters", emptyLettersSQL, keepBytes)},
		{name: "dead_letters", lock: 5, step: s.older("dead_letters", deleteLettersSQL, keepLetters)},
		{name: "parked_actions", lock: 12, step: s.older("parked_actions", deleteActionsSQL, keepLetters)},
		{name: "reports", lock: 13, step: s.older("reports", forgetReportsSQL, s.cfg.Keep.Reports)},
		{name: "activity_addresses", lock: 6, step: s.addresses},
		{name: "activity_months", lock: 7, step: s.months},
		{name: "realtime_tickets", lock: 8, step: s.older("realtime_tickets", deleteTicketsSQL, 0)},
		{name: "login_attempts", lock: 15, step: s.older("login_attempts", deleteAttemptsSQL, 0)},
		{name: "api_keys", lock: 19, step: s.older("api_keys", deleteKeysSQL, keepKeys)},
		{name: "mail_tokens", lock: 14, step: s.older("mail_tokens", deleteLinksSQL, 0)},
		{name: "sessions", lock: 9, step: s.sessions},
		{name: taskSides, lock: 10, step: s.paged(taskSides, "pair_sides", deleteSidesSQL, keepSends)},
		{name: taskCuts, lock: 11, step: s.paged(taskCuts, "cuts", deleteCutsSQL, s.cfg.Keep.Events)},
	}
}

// What is open is the notifier's, which ends it by its expiry.
const deletePushesSQL = `
DELETE FROM push_deliveries WHERE id = ANY (ARRAY(
    SELECT d.id FROM push_deliveries d WHERE d.status = 3 AND d.created_at < $1 ORDER BY d.created_at LIMIT $2))`

// There are few dead letters: no index for them.
const emptyLettersSQL = `
UPDATE dead_letters SET key = NULL, headers = '[]', value = NULL WHERE ctid = ANY (ARRAY(
    SELECT d.ctid FROM dead_letters d
    WHERE d.created_at < $1 AND (d.key IS NOT NULL OR d.value IS NOT NULL OR d.headers <> '[]') LIMIT $2))`

const deleteLettersSQL = `
DELETE FROM dead_letters WHERE ctid = ANY (ARRAY(SELECT d.ctid FROM dead_letters d WHERE d.created_at < $1 LIMIT $2))`

// What operators had done to parked commands; what a trial would have changed is in it.
const deleteActionsSQL = `
DELETE FROM parked_actions WHERE id = ANY (ARRAY(SELECT a.id FROM parked_actions a WHERE a.executed_at < $1 LIMIT $2))`

// What a report said, since it was decided on or one of its two was erased; that there was
// one, about whom, and what came of it stays. One that nobody has decided on is over then
// (resolved as lapsed): there is nothing left to decide by.
const forgetReportsSQL = `
UPDATE reports SET reason = '', detail = '', note = '', status = 2, resolution = COALESCE(resolution, 4),
    resolved_at = COALESCE(resolved_at, now())
WHERE id = ANY (ARRAY(
    SELECT r.id FROM reports r WHERE r.closed_at < $1 AND r.reason <> '' ORDER BY r.closed_at LIMIT $2 FOR UPDATE SKIP LOCKED))`

// A gateway that uses one up at this moment has it in hand.
const deleteTicketsSQL = `
DELETE FROM realtime_tickets WHERE hash = ANY (ARRAY(
    SELECT t.hash FROM realtime_tickets t WHERE t.expires_at < $1 ORDER BY t.expires_at LIMIT $2 FOR UPDATE SKIP LOCKED))`

// Counts that have faded and places of logins of long ago. Who is counting on one at this
// moment makes it say something again.
const deleteAttemptsSQL = `
DELETE FROM login_attempts WHERE key = ANY (ARRAY(
    SELECT a.key FROM login_attempts a WHERE a.forget_at < $1 ORDER BY a.forget_at LIMIT $2 FOR UPDATE SKIP LOCKED))`

// Who uses one up at this moment has it in hand.
const deleteLinksSQL = `
DELETE FROM mail_tokens WHERE hash = ANY (ARRAY(
    SELECT t.hash FROM mail_tokens t WHERE t.expires_at < $1 ORDER BY t.expires_at LIMIT $2 FOR UPDATE SKIP LOCKED))`

// Keys that ended so long ago that no line of the activity log needs their name. There are
// few: no index for them.
const deleteKeysSQL = `
DELETE FROM api_keys WHERE id = ANY (ARRAY(SELECT k.id FROM api_keys k WHERE LEAST(k.revoked_at, k.expires_at) < $1 LIMIT $2))`

// older removes rows of a table that are older than keep, a batch a step.
func (s *Sweeper) older(table, sql string, keep time.Duration) func(context.Context, pgx.Tx, *place) (done, error) {
	return func(ctx context.Context, tx pgx.Tx, _ *place) (done, error) {
		tag, err := tx.Exec(ctx, sql, s.cfg.Clock().Add(-keep), s.cfg.Batch)
		if err != nil {
			return done{}, fmt.Errorf("remove old rows of %s: %w", table, err)
		}
		n := tag.RowsAffected()
		return done{map[string]int64{table: n}, n == int64(s.cfg.Batch)}, nil
	}
}

const expireAddressesSQL = `SELECT activity_log_expire_addresses($1, $2)`

func (s *Sweeper) addresses(ctx context.Context, tx pgx.Tx, _ *place) (done, error) {
	var n int64
	if err := tx.QueryRow(ctx, expireAddressesSQL, s.cfg.Clock().Add(-keepAddresses), s.cfg.Batch).Scan(&n); err != nil {
		return done{}, fmt.Errorf("forget addresses: %w", err)
	}
	return done{map[string]int64{"activity_log": n}, n == int64(s.cfg.Batch)}, nil
}

const rotateActivitySQL = `SELECT activity_log_rotate($1, $2)`

// months makes the coming months of the activity log and drops those that are over.
func (s *Sweeper) months(ctx context.Context, tx pgx.Tx, _ *place) (done, error) {
	now := s.cfg.Clock()
	var n int64
	if err := tx.QueryRow(ctx, rotateActivitySQL, now.Add(-keepActivity), now.Add(monthsAhead)).Scan(&n); err != nil {
		return done{}, fmt.Errorf("rotate the activity log: %w", err)
	}
	return done{map[string]int64{"activity_log_months": n}, false}, nil
}

// Sessions that expired, those that were ended before too, by the time at which they
// expired. The one that acknowledged most of its user's inbox stays: what was acknowledged
// is read, and is never withdrawn (G9).
const deleteSessionsSQL = `
WITH old AS (
    SELECT s.id, s.user_id, s.expires_at FROM sessions s
    WHERE s.expires_at < $1 AND s.expires_at > $2 ORDER BY s.expires_at LIMIT $3),
gone AS (
    DELETE FROM sessions d USING old
    WHERE d.id = old.id AND d.expires_at < $1 AND NOT EXISTS (
        SELECT FROM acks a WHERE a.user_id = old.user_id AND a.session_id = old.id AND a.seq > 0 AND NOT EXISTS (
            SELECT FROM acks o WHERE o.user_id = a.user_id AND (o.seq, o.session_id) > (a.seq, a.session_id)))
    RETURNING d.id)
SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM old), (SELECT max(old.expires_at) FROM old)`

func (s *Sweeper) sessions(ctx context.Context, tx pgx.Tx, at *place) (done, error) {
	var removed, seen int64
	var last *time.Time
	err := tx.QueryRow(ctx, deleteSessionsSQL, s.cfg.Clock().Add(-keepSessions), at.from, s.cfg.Batch).Scan(&removed, &seen, &last)
	if err != nil {
		return done{}, fmt.Errorf("remove old sessions: %w", err)
	}
	if last != nil {
		at.from = *last
	}
	return done{map[string]int64{"sessions": removed}, seen == int64(s.cfg.Batch)}, nil
}

// Names of paged tasks in retention_progress.
const (
	taskSides = "pair_sides"
	taskCuts  = "cuts"
)

// A side that says nothing any more: no block, no closed door, no declines, no recent
// sends, and nothing forfeited that could still be restored. The processor writes whole
// rows under the users' locks, so it loses nothing when one goes that it has loaded; and
// one that it changes meanwhile is looked at again here once it lets go of it.
const deleteSidesSQL = `
WITH page AS (
    SELECT s.user_id, s.other_id FROM pair_sides s WHERE (s.user_id, s.other_id) > ($1, $2)
    ORDER BY s.user_id, s.other_id LIMIT $3),
gone AS (
    DELETE FROM pair_sides d USING page
    WHERE d.user_id = page.user_id AND d.other_id = page.other_id
      AND d.blocked_at IS NULL AND d.door_closed_at IS NULL AND d.declines = 0
      AND NOT EXISTS (SELECT FROM unnest(d.sends) AS x (at) WHERE x.at >= $4)
      AND (d.forfeited IS NULL OR EXISTS (SELECT FROM partnerships p WHERE p.id = d.forfeited AND p.status = 3))
    RETURNING d.user_id)
SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM page), l.user_id, l.other_id
FROM (SELECT user_id, other_id FROM page ORDER BY user_id DESC, other_id DESC LIMIT 1) l`

// A cut of which nothing is left in the inbox.
const deleteCutsSQL = `
WITH page AS (
    SELECT c.recipient, c.origin, c.last_seq FROM cuts c WHERE (c.recipient, c.origin) > ($1, $2)
    ORDER BY c.recipient, c.origin LIMIT $3),
gone AS (
    DELETE FROM cuts d USING page
    WHERE d.recipient = page.recipient AND d.origin = page.origin AND d.last_seq = page.last_seq AND d.made_at < $4
      AND NOT EXISTS (SELECT FROM inbox i WHERE i.user_id = d.recipient AND i.seq <= d.last_seq)
    RETURNING d.recipient)
SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM page), l.recipient, l.origin
FROM (SELECT recipient, origin FROM page ORDER BY recipient DESC, origin DESC LIMIT 1) l`

const pageSQL = `SELECT first_id, second_id FROM retention_progress WHERE task = $1 AND partition = -1`

const turnPageSQL = `
INSERT INTO retention_progress (task, first_id, second_id, done_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (task, partition) DO UPDATE SET first_id = excluded.first_id, second_id = excluded.second_id, done_at = excluded.done_at`

// paged goes through a table in which most rows stay, by its key: a round looks at a
// stretch, and after the last row it begins anew.
func (s *Sweeper) paged(name, table, sql string, keep time.Duration) func(context.Context, pgx.Tx, *place) (done, error) {
	return func(ctx context.Context, tx pgx.Tx, _ *place) (done, error) {
		now := s.cfg.Clock()
		var first, second uuid.NullUUID
		if err := tx.QueryRow(ctx, pageSQL, name).Scan(&first, &second); err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return done{}, fmt.Errorf("read progress: %w", err)
		}
		var removed, seen int64
		err := tx.QueryRow(ctx, sql, first.UUID, second.UUID, s.cfg.Batch, now.Add(-keep)).Scan(&removed, &seen, &first, &second)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return done{}, fmt.Errorf("remove rows of %s that say nothing any more: %w", table, err)
		}
		more := seen == int64(s.cfg.Batch)
		if !more {
			first, second = uuid.NullUUID{}, uuid.NullUUID{}
		}
		if _, err := tx.Exec(ctx, turnPageSQL, name, first, second, now); err != nil {
			return done{}, fmt.Errorf("note progress: %w", err)
		}
		return done{map[string]int64{table: removed}, more}, nil
	}
}
