package processor

import (
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// eraseSlack is how many more rows of a table a round of an erasure takes than it looked
// for: what others wrote about the user meanwhile, such as a push that was due.
const eraseSlack = 100

// Whether a table holds more of a user than one round takes.
const loadRemainsSQL = `
SELECT k.id,
       EXISTS (SELECT FROM inbox x WHERE x.user_id = k.id OFFSET $2)
       OR EXISTS (SELECT FROM push_deliveries x WHERE x.user_id = k.id OFFSET $2)
       OR EXISTS (SELECT FROM requests x WHERE x.sender = k.id AND x.message <> '' OFFSET $2)
       OR EXISTS (SELECT FROM partnership_members m CROSS JOIN LATERAL (
                      SELECT p.id, p.low, p.high, p.ended_by, p.reason FROM partnerships p WHERE p.id = m.partnership_id LIMIT 1) AS p
                  WHERE m.user_id = k.id AND (p.ended_by = k.id AND p.reason <> '' OR EXISTS (
                      SELECT FROM breakups b WHERE b.low = p.low AND b.high = p.high AND b.asker = k.id AND b.reason <> '')) OFFSET $2)
       OR EXISTS (SELECT FROM reports x WHERE x.reporter = k.id AND (x.detail <> '' OR x.closed_at IS NULL) OFFSET $2)
       OR EXISTS (SELECT FROM reports x WHERE x.target = k.id AND x.closed_at IS NULL OFFSET $2)
       OR EXISTS (SELECT FROM login_attempts x WHERE x.user_id = k.id OFFSET $2)
       OR EXISTS (SELECT FROM cuts x WHERE x.recipient = k.id OFFSET $2)
       OR EXISTS (SELECT FROM activity_log x WHERE x.actor = k.id
                  AND (x.address IS NOT NULL OR x.device IS NOT NULL OR x.metadata IS NOT NULL) OFFSET $2)
FROM unnest($1::uuid[]) AS k (id)`

func (w *world) scanRemains(rows pgx.Rows) error {
	var (
		id      uuid.UUID
		remains bool
	)
	_, err := pgx.ForEachRow(rows, []any{raw(&id), &remains}, func() error {
		u := w.users[id]
		u.Remains = remains
		w.users[id] = u
		return nil
	})
	return err
}

// What is erased of a user whose pairs are all closed, in order, at most $2 rows of a table
// in one transaction (each takes both arguments); loadRemainsSQL knows what may take more than
// one. What tells who it
// was goes first. The bare row of the id stays: it outlives every command that may still
// name it. Rows of pairs (sides, nicknames, timers, parked commands) went when those were
// closed, and what others hold of a partnership is bare by then. Events name ids alone.
var eraseSQL = [...]string{
	`UPDATE users SET display_name = '', partner_code = 'erased-' || id, theme = 'light', theme_entries = NULL, timezone = 'UTC',
		locale = 'en', show_presence = false, push_preview = 'discreet', birth_date = NULL, consent_version = NULL, consented_at = NULL WHERE id = $1 AND $2 > 0`,
	`DELETE FROM credentials WHERE user_id = $1 AND $2 > 0`,
	`DELETE FROM login_attempts WHERE key = ANY (ARRAY(SELECT x.key FROM login_attempts x WHERE x.user_id = $1 LIMIT $2))`,
	`DELETE FROM mail_tokens WHERE user_id = $1 AND $2 > 0`,
	`DELETE FROM firebase_links WHERE user_id = $1 AND $2 > 0`,
	`DELETE FROM devices WHERE user_id = $1 AND $2 > 0`,
	`DELETE FROM push_preferences WHERE user_id = $1 AND $2 > 0`,
	`DELETE FROM presence WHERE user_id = $1 AND $2 > 0`,
	`UPDATE requests SET message = '' WHERE id = ANY (ARRAY(
		SELECT x.id FROM requests x WHERE x.sender = $1 AND x.message <> '' LIMIT $2))`,
	`UPDATE partnerships SET reason = '' WHERE id = ANY (ARRAY(
		SELECT p.id FROM partnership_members m
		CROSS JOIN LATERAL (SELECT y.id, y.ended_by, y.reason FROM partnerships y WHERE y.id = m.partnership_id LIMIT 1) AS p
		WHERE m.user_id = $1 AND p.ended_by = $1 AND p.reason <> '' LIMIT $2))`,
	`UPDATE breakups SET reason = '' WHERE id = ANY (ARRAY(
		SELECT b.id FROM partnership_members m
		CROSS JOIN LATERAL (SELECT y.low, y.high FROM partnerships y WHERE y.id = m.partnership_id LIMIT 1) AS p
		CROSS JOIN LATERAL (SELECT y.id FROM breakups y WHERE y.low = p.low AND y.high = p.high AND y.asker = $1 AND y.reason <> '') AS b
		WHERE m.user_id = $1 LIMIT $2))`,
	// The rest of their texts is kept for safety, for a while from now on.
	`UPDATE reports SET detail = CASE WHEN reporter = $1 THEN '' ELSE detail END, closed_at = COALESCE(closed_at, now())
		WHERE id = ANY (ARRAY(
			SELECT x.id FROM reports x WHERE x.reporter = $1 AND (x.detail <> '' OR x.closed_at IS NULL)
			UNION SELECT x.id FROM reports x WHERE x.target = $1 AND x.closed_at IS NULL LIMIT $2))`,
	// Found by the inbox, so before it goes.
	`UPDATE commands SET result = NULL WHERE result IS NOT NULL AND id = ANY (ARRAY(
		SELECT e.command_id FROM (SELECT x.partition, x.event_seq FROM inbox x WHERE x.user_id = $1 ORDER BY x.seq LIMIT $2) AS i
		CROSS JOIN LATERAL (SELECT y.command_id FROM events y
			WHERE y.partition = i.partition AND y.seq = i.event_seq AND y.low = y.high LIMIT 1) AS e))`,
	`DELETE FROM inbox WHERE user_id = $1 AND seq = ANY (ARRAY(
		SELECT x.seq FROM inbox x WHERE x.user_id = $1 ORDER BY x.seq LIMIT $2))`,
	`UPDATE user_streams SET read_seq = 0 WHERE user_id = $1 AND read_seq > 0 AND $2 > 0`,
	`DELETE FROM push_deliveries WHERE id = ANY (ARRAY(SELECT x.id FROM push_deliveries x WHERE x.user_id = $1 LIMIT $2))`,
	`DELETE FROM cuts WHERE recipient = $1 AND ctid = ANY (ARRAY(SELECT x.ctid FROM cuts x WHERE x.recipient = $1 LIMIT $2))`,
	`SELECT activity_log_erase($1, $2)`, // we may only add to the log ourselves
	// What operators did to commands of theirs, and records of theirs that could not be read:
	// there are few of either, so neither is found by an index.
	`DELETE FROM parked_actions WHERE id = ANY (ARRAY(
		SELECT x.id FROM parked_actions x WHERE (x.low = $1 OR x.high = $1) AND x.executed_at IS NOT NULL LIMIT $2))`,
	`UPDATE dead_letters SET key = NULL, headers = '[]', value = NULL WHERE ctid = ANY (ARRAY(
		SELECT x.ctid FROM dead_letters x
		WHERE position(convert_to($1::text, 'UTF8') IN x.key) > 0 OR position(convert_to($1::text, 'UTF8') IN x.value) > 0
		   OR position($1::text IN x.headers::text) > 0 LIMIT $2))`,
}

const erasedSQL = `UPDATE users SET erased_at = $2 WHERE id = $1`

// What anybody has of a user whose account is being deleted is cut at once (G9), however
// many they are: everybody with whom the user ever had a request or a partnership, since
// nothing of a user goes to anyone else. Their streams are not locked for that. What the
// user originates is decided under the user's own stream, which is: so all of it is below
// the heads that are seen here, and after this there is none.
const cutFromAllSQL = `
INSERT INTO cuts (recipient, origin, after_seq, last_seq, made_at)
SELECT o.id, $1::uuid, a.seq, s.last_seq, $2::timestamptz
FROM (SELECT x.target AS id FROM requests x WHERE x.sender = $1
      UNION SELECT x.sender FROM requests x WHERE x.target = $1
      UNION SELECT CASE WHEN p.low = $1 THEN p.high ELSE p.low END
            FROM partnership_members m
            CROSS JOIN LATERAL (SELECT y.low, y.high FROM partnerships y WHERE y.id = m.partnership_id LIMIT 1) AS p
            WHERE m.user_id = $1) AS o
CROSS JOIN LATERAL (SELECT x.last_seq FROM user_streams x WHERE x.user_id = o.id LIMIT 1) AS s
CROSS JOIN LATERAL (SELECT COALESCE(max(x.seq), 0) AS seq FROM acks x WHERE x.user_id = o.id) AS a
WHERE a.seq < s.last_seq
ON CONFLICT (recipient, origin, last_seq) DO NOTHING`

// As withdrawPushesSQL, of everybody whom the user is cut off from.
const withdrawFromAllSQL = `
UPDATE push_deliveries p
SET status = 3, outcome = 'withdrawn', settled_at = $2::timestamptz
WHERE p.status = 1 AND p.id = ANY (ARRAY(
    SELECT d.id FROM cuts c
    CROSS JOIN LATERAL (SELECT x.id, x.seq FROM push_deliveries x
        WHERE x.user_id = c.recipient AND x.seq > c.after_seq AND x.seq <= c.last_seq AND x.status < 3) AS d
    CROSS JOIN LATERAL (SELECT FROM inbox i WHERE i.user_id = c.recipient AND i.seq = d.seq AND i.origin = $1 LIMIT 1) AS i
    WHERE c.origin = $1))`
