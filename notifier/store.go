package notifier

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// The values of push_deliveries.status.
const (
	statusDue     int16 = 1
	statusSending int16 = 2
	statusSettled int16 = 3
)

// addressKind is the kind of device that this notifier pushes to.
const addressKind = "fcm"

// store is the schedule of pushes in Postgres. Each method is one transaction.
type store struct{ pool *pgxpool.Pool }

// deadLetter is a record that nothing can ever read.
type deadLetter struct {
	record contract.Record
	err    error
}

// The end of a session deletes its devices; that its time is over does not, and a phone
// that nobody signs in on any more is not told what happens.
const selectDevices = `
SELECT d.user_id, d.id
FROM devices d JOIN sessions s ON s.id = d.session_id
WHERE d.user_id = ANY ($1) AND d.kind = $2 AND s.revoked_at IS NULL AND s.expires_at > $3
ORDER BY d.user_id, d.id`

// ON CONFLICT: an event that is read again is due once (G6).
const insertDeliveries = `
INSERT INTO push_deliveries (id, user_id, device_id, event_id, seq, type, status, due_at, expires_at, payload, created_at)
SELECT id, user_id, device_id, event_id, seq, type, $8, $9, expires_at, payload, $10
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::bigint[], $6::smallint[], $7::timestamptz[], $11::jsonb[])
	AS d (id, user_id, device_id, event_id, seq, type, expires_at, payload)
ON CONFLICT (id) DO NOTHING`

const insertDeadLetters = `
INSERT INTO dead_letters (topic, partition, log_offset, error, key, headers, value, created_at)
SELECT topic, partition, log_offset, error, key, headers, value, $8
FROM unnest($1::text[], $2::smallint[], $3::bigint[], $4::text[], $5::bytea[], $6::jsonb[], $7::bytea[])
	AS l (topic, partition, log_offset, error, key, headers, value)
ON CONFLICT (topic, partition, log_offset) DO NOTHING`

// intake is what a batch of records asks for.
type intake struct {
	pushes  []push
	letters []deadLetter
	endings []partner.Pair // what may have taken back what was sent before
}

// enqueue makes the pushes due on their users' devices, and the replacements of what was
// taken back, keeps the dead letters, and returns how many deliveries are new and how many
// are to be replaced.
func (s store) enqueue(ctx context.Context, now, due time.Time, in intake) (inserted, marked int64, err error) {
	if len(in.pushes) == 0 && len(in.letters) == 0 && len(in.endings) == 0 {
		return 0, 0, nil
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if len(in.letters) > 0 {
			if err := insertLetters(ctx, tx, now, in.letters); err != nil {
				return err
			}
		}
		if len(in.endings) > 0 {
			if marked, err = mark(ctx, tx, now, in.endings); err != nil {
				return err
			}
		}
		devices, err := devicesOf(ctx, tx, now, in.pushes)
		if err != nil {
			return err
		}
		rows := sorted(in.pushes, devices)
		if len(rows) == 0 {
			return nil
		}
		inserted, err = insertRows(ctx, tx, now, due, rows)
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("make %d pushes due: %w", len(in.pushes), err)
	}
	return inserted, marked, nil
}

func devicesOf(ctx context.Context, tx pgx.Tx, now time.Time, pushes []push) (map[uuid.UUID][]uuid.UUID, error) {
	if len(pushes) == 0 {
		return nil, nil
	}
	users := make([]uuid.UUID, len(pushes))
	for i, p := range pushes {
		users[i] = p.user
	}
	type row struct{ User, Device uuid.UUID }
	rows, err := tx.Query(ctx, selectDevices, users, addressKind, now)
	if err != nil {
		return nil, fmt.Errorf("load devices: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return nil, fmt.Errorf("load devices: %w", err)
	}
	out := make(map[uuid.UUID][]uuid.UUID, len(found))
	for _, r := range found {
		out[r.User] = append(out[r.User], r.Device)
	}
	return out, nil
}

func insertRows(ctx context.Context, tx pgx.Tx, now, due time.Time, rows []delivery) (int64, error) {
	n := len(rows)
	var (
		ids, users, devices, events = make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n)
		seqs, types                 = make([]int64, n), make([]int16, n)
		expires, payloads           = make([]time.Time, n), make([][]byte, n)
	)
	for i, r := range rows {
		ids[i], users[i], devices[i], events[i] = r.id, r.user, r.device, r.event
		seqs[i], types[i], expires[i] = r.seq, int16(r.kind), r.expires
		b, err := json.Marshal(r.payload)
		if err != nil {
			return 0, fmt.Errorf("encode push of event %s: %w", r.event, err)
		}
		payloads[i] = b
	}
	tag, err := tx.Exec(ctx, insertDeliveries, ids, users, devices, events, seqs, types, expires,
		statusDue, due, now, payloads)
	if err != nil {
		return 0, fmt.Errorf("insert push deliveries: %w", err)
	}
	return tag.RowsAffected(), nil
}

func insertLetters(ctx context.Context, tx pgx.Tx, now time.Time, letters []deadLetter) error {
	n := len(letters)
	var (
		topics, texts         = make([]string, n), make([]string, n)
		partitions, offsets   = make([]int16, n), make([]int64, n)
		keys, headers, values = make([][]byte, n), make([][]byte, n), make([][]byte, n)
	)
	for i, l := range letters {
		r := l.record
		topics[i], partitions[i], offsets[i] = r.Topic, int16(r.Partition), r.Offset
		texts[i] = storable(l.err.Error())
		keys[i], values[i] = r.Key, r.Value
		b, err := json.Marshal(storedHeaders(r.Headers))
		if err != nil {
			return fmt.Errorf("encode headers of a dead letter: %w", err)
		}
		headers[i] = b
	}
	if _, err := tx.Exec(ctx, insertDeadLetters, topics, partitions, offsets, texts, keys, headers, values, now); err != nil {
		return fmt.Errorf("insert dead letters: %w", err)
	}
	return nil
}

// storedHeader is one header in dead_letters.headers, in the order of the record.
type storedHeader struct {
	Key   string `json:"key"`
	Text  string `json:"text,omitempty"`
	Bytes []byte `json:"bytes,omitempty"` // what is not text that jsonb can hold
}

func storedHeaders(hs []contract.Header) []storedHeader {
	out := make([]storedHeader, 0, len(hs))
	for _, h := range hs {
		stored := storedHeader{Key: storable(h.Key)}
		if text := string(h.Value); storable(text) == text {
			stored.Text = text
		} else {
			stored.Bytes = h.Value
		}
		out = append(out, stored)
	}
	return out
}

// storable makes a text of anybody's bytes that Postgres takes. The bytes themselves are
// in the dead letter's value.
func storable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// claimed is a delivery that this notifier may send until its lease ends.
type claimed struct {
	ID        uuid.UUID
	Kind      partner.EventType
	Attempts  int16 // this one included; proves the claim when it is settled
	DueAt     time.Time
	ExpiresAt time.Time
	Payload   payload
	Replaces  bool // its push was sent and taken back: what is sent now replaces it, silently
	Token     string
	Preview   string
	Locale    string
	UserID    uuid.UUID
	Unread    int       // entries of the user's inbox
	SeenAt    time.Time // the device's updated_at
	LeaseEnds time.Time
}

// closure is a delivery that claiming dealt with without a call.
type closure struct {
	Kind    partner.EventType
	Outcome Outcome // empty: put off until the user's quiet hours end
}

// SKIP LOCKED: rows that another notifier, or a cut, has in hand are theirs.
//
// With each comes when its user wants no pushes. LATERAL, so that it is a look-up for each
// row and never a join with all preferences.
const lockDue = `
SELECT p.id, h.timezone, h.quiet_from, h.quiet_to
FROM push_deliveries p
LEFT JOIN LATERAL (
	SELECT u.timezone, x.quiet_from, x.quiet_to
	FROM push_preferences x JOIN users u ON u.id = x.user_id
	WHERE x.user_id = p.user_id AND x.quiet LIMIT 1) h ON true
WHERE p.status < 3 AND p.due_at <= $1 AND p.id <> ALL ($3)
ORDER BY p.due_at
LIMIT $2
FOR UPDATE OF p SKIP LOCKED`

// A statement of its own, after the locks: it sees every acknowledgement, every change of
// devices and every cut that was committed before them. An ending that cuts settles what is
// due under the same locks, so no push of what it took back is claimed after it (G9).
// attempts rises with each claim, so a result that comes after its lease finds another
// number and changes nothing.
//
// What was taken back and may be on the phone (handed over, or claimed by a notifier that
// never said what came of it) is claimed once more, to be replaced there; unless a later
// push of the same thing does that already.
const judgeDue = `
UPDATE push_deliveries p
SET status = CASE WHEN j.outcome IS NULL THEN 2 ELSE 3 END,
    outcome = j.outcome,
    attempts = p.attempts + CASE WHEN j.outcome IS NULL THEN 1 ELSE 0 END,
    due_at = CASE WHEN j.outcome IS NULL THEN $3 ELSE p.due_at END,
    settled_at = CASE WHEN j.outcome IS NULL THEN NULL ELSE $2 END,
    handed_at = CASE WHEN j.handed THEN coalesce(p.handed_at, $2) END,
    cut_at = CASE WHEN j.replaces THEN coalesce(p.cut_at, $2) ELSE p.cut_at END,
    untold = true
FROM (
	SELECT q.id, q.due_at AS was_due, d.value, d.updated_at, u.push_preview, u.locale, w.handed, w.withdrawn AND w.handed AS replaces,
		CASE
			WHEN q.expires_at <= $2 THEN 'expired'
			WHEN d.id IS NULL OR u.id IS NULL OR s.id IS NULL THEN 'unregistered'
			WHEN d.user_id <> q.user_id THEN 'withdrawn'
			WHEN w.withdrawn AND NOT w.handed THEN 'withdrawn'
			WHEN w.withdrawn AND EXISTS (
				SELECT FROM push_deliveries l
				WHERE l.user_id = q.user_id AND l.seq > q.seq AND l.device_id = q.device_id
				  AND l.cut_at IS NULL AND (l.status = 2 OR l.handed_at IS NOT NULL OR l.outcome = 'delivered')
				  AND l.payload ->> 'collapseId' = q.payload ->> 'collapseId') THEN 'withdrawn'
			WHEN NOT w.withdrawn AND NOT q.payload ? 'quietly' AND EXISTS (
				SELECT FROM acks a WHERE a.user_id = q.user_id AND a.visible_seq >= q.seq) THEN 'suppressed'
			WHEN NOT w.withdrawn AND q.payload ? 'quietly' AND EXISTS (
				SELECT FROM acks a WHERE a.user_id = q.user_id AND a.session_id = d.session_id AND a.seq >= q.seq) THEN 'suppressed'
			WHEN NOT w.withdrawn AND EXISTS (
				SELECT FROM push_preferences m
				WHERE m.user_id = q.user_id AND q.payload ->> 'category' = ANY (m.muted)) THEN 'suppressed'
		END AS outcome
	FROM unnest($1::uuid[]) AS k (id)
	JOIN push_deliveries q ON q.id = k.id
	CROSS JOIN LATERAL (
		SELECT q.status = 2 OR q.handed_at IS NOT NULL AS handed,
			EXISTS (SELECT FROM inbox_entries i WHERE i.user_id = q.user_id AND i.seq = q.seq AND i.withdrawn) AS withdrawn
	) w
	LEFT JOIN devices d ON d.id = q.device_id
	LEFT JOIN sessions s ON s.id = d.session_id AND s.revoked_at IS NULL AND s.expires_at > $2
	LEFT JOIN users u ON u.id = q.user_id
) j
WHERE p.id = j.id
RETURNING p.id, p.type, p.attempts, j.was_due, p.expires_at, p.payload, j.replaces, coalesce(p.outcome, ''),
	coalesce(j.value, ''), coalesce(j.push_preview, ''), coalesce(j.locale, ''), p.user_id, coalesce(j.updated_at, 'epoch')`

// claimTerms say what to claim and for how long.
type claimTerms struct {
	leaseEnds time.Time
	limit     int
	except    []uuid.UUID // what the claimer holds already
}

// claim takes what is due at now, and settles among it what needs no call: expired,
// acknowledged over a visible socket, without an address.
func (s store) claim(ctx context.Context, now time.Time, terms claimTerms) ([]claimed, []closure, error) {
	if terms.except == nil {
		terms.except = []uuid.UUID{} // NULL would exclude everything
	}
	var (
		jobs   []claimed
		closed []closure
	)
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, lockDue, now, terms.limit, terms.except)
		if err != nil {
			return err
		}
		due, err := pgx.CollectRows(rows, pgx.RowToStructByPos[dueRow])
		if err != nil || len(due) == 0 {
			return err
		}
		ids, later, err := putOff(ctx, tx, now, due)
		if err != nil {
			return err
		}
		if closed = append(closed, later...); len(ids) == 0 {
			return nil
		}
		rows, err = tx.Query(ctx, judgeDue, ids, now, terms.leaseEnds)
		if err != nil {
			return err
		}
		_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
			c := claimed{LeaseEnds: terms.leaseEnds}
			var (
				kind    int16
				outcome Outcome
			)
			scanErr := row.Scan(&c.ID, &kind, &c.Attempts, &c.DueAt, &c.ExpiresAt, &c.Payload, &c.Replaces, &outcome,
				&c.Token, &c.Preview, &c.Locale, &c.UserID, &c.SeenAt)
			c.Kind = partner.EventType(kind)
			if outcome == "" {
				jobs = append(jobs, c)
			} else {
				closed = append(closed, closure{c.Kind, outcome})
			}
			return struct{}{}, scanErr
		})
		if err != nil {
			return err
		}
		return countUnread(ctx, tx, jobs)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("claim due pushes: %w", err)
	}
	return jobs, closed, nil
}

const selectUnread = `
SELECT k.id, unread_count(k.id, $2, $3)
FROM unnest($1::uuid[]) AS k (id)`

// countUnread says of each claim how many entries of its user's inbox are unread now.
func countUnread(ctx context.Context, tx pgx.Tx, jobs []claimed) error {
	if len(jobs) == 0 {
		return nil
	}
	counts := make(map[uuid.UUID]int, len(jobs))
	for _, job := range jobs {
		counts[job.UserID] = 0
	}
	rows, err := tx.Query(ctx, selectUnread, slices.Collect(maps.Keys(counts)), partner.UnreadEventTypes(), partner.MaxUnread)
	if err != nil {
		return fmt.Errorf("count what is unread: %w", err)
	}
	var (
		user   uuid.UUID
		unread int
	)
	if _, err := pgx.ForEachRow(rows, []any{&user, &unread}, func() error {
		counts[user] = unread
		return nil
	}); err != nil {
		return fmt.Errorf("count what is unread: %w", err)
	}
	for i := range jobs {
		jobs[i].Unread = counts[jobs[i].UserID]
	}
	return nil
}

const selectWithdrawn = `
SELECT EXISTS (SELECT FROM push_deliveries q JOIN inbox_entries i ON i.user_id = q.user_id AND i.seq = q.seq
	WHERE q.id = $1 AND i.withdrawn)`

// withdrawn reports whether a cut took back what a delivery is about.
func (s store) withdrawn(ctx context.Context, id uuid.UUID) (withdrawn bool, err error) {
	if err = s.pool.QueryRow(ctx, selectWithdrawn, id).Scan(&withdrawn); err != nil {
		return false, fmt.Errorf("look for a cut of push %s: %w", id, err)
	}
	return withdrawn, nil
}

// settlement is what became of one claim.
type settlement struct {
	id       uuid.UUID
	claim    int16   // claimed.Attempts: the claim that this is the result of
	outcome  Outcome // empty: due again
	attempts int16
	dueAt    time.Time
	err      string
	handed   bool // the push may be on the phone
	replaces bool // claimed.Replaces

	job  claimed // what it is the result of
	told bool    // the pushes topic has the outcome

	gone   string // the address to delete, when it is dead
	seenAt time.Time
}

// Only over the claim that the result belongs to, see judgeDue. A push that was taken back
// while it was being sent is due again at once, whatever came of the call: claiming it
// finds out whether there is something to replace.
const settleClaims = `
UPDATE push_deliveries p
SET status = CASE WHEN r.outcome = '' OR p.cut_at IS NOT NULL AND NOT r.replaces THEN 1 ELSE 3 END,
    outcome = CASE WHEN p.cut_at IS NOT NULL AND NOT r.replaces THEN NULL ELSE nullif(r.outcome, '') END,
    attempts = r.attempts,
    due_at = CASE WHEN p.cut_at IS NOT NULL AND NOT r.replaces THEN $7::timestamptz ELSE r.due_at END,
    error = nullif(r.error, ''),
    settled_at = CASE WHEN r.outcome = '' OR p.cut_at IS NOT NULL AND NOT r.replaces THEN NULL ELSE $7::timestamptz END,
    handed_at = CASE WHEN r.handed THEN coalesce(p.handed_at, $7::timestamptz) ELSE p.handed_at END,
    untold = NOT (r.told AND (p.cut_at IS NULL OR r.replaces))
FROM unnest($1::uuid[], $2::smallint[], $3::text[], $4::smallint[], $5::timestamptz[], $6::text[], $8::boolean[], $9::boolean[], $10::boolean[])
	AS r (id, claim, outcome, attempts, due_at, error, handed, replaces, told)
WHERE p.id = r.id AND p.status = 2 AND p.attempts = r.claim`

// An address that was registered again since it was read is alive.
const deleteGone = `
DELETE FROM devices d
USING unnest($1::text[], $2::timestamptz[]) AS g (value, seen_at)
WHERE d.kind = $3 AND d.value = g.value AND d.updated_at <= g.seen_at`

// settle writes results and returns how many still held their claim.
func (s store) settle(ctx context.Context, now time.Time, results []settlement) (int64, error) {
	n := len(results)
	var (
		ids, claims, outcomes = make([]uuid.UUID, n), make([]int16, n), make([]string, n)
		attempts, due, errs   = make([]int16, n), make([]time.Time, n), make([]string, n)
		handed, replaces      = make([]bool, n), make([]bool, n)
		told                  = make([]bool, n)
		gone                  []string
		seen                  []time.Time
	)
	for i, r := range results {
		ids[i], claims[i], outcomes[i] = r.id, r.claim, string(r.outcome)
		attempts[i], due[i], errs[i] = r.attempts, r.dueAt, storable(r.err)
		handed[i], replaces[i], told[i] = r.handed, r.replaces, r.told
		if r.gone != "" {
			gone, seen = append(gone, r.gone), append(seen, r.seenAt)
		}
	}
	var settled int64
	if len(gone) == 0 { // a transaction by itself
		tag, err := s.pool.Exec(ctx, settleClaims, ids, claims, outcomes, attempts, due, errs, now, handed, replaces, told)
		if err != nil {
			return 0, fmt.Errorf("settle %d pushes: %w", n, err)
		}
		return tag.RowsAffected(), nil
	}
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, settleClaims, ids, claims, outcomes, attempts, due, errs, now, handed, replaces, told)
		if err != nil {
			return err
		}
		settled = tag.RowsAffected()
		if len(gone) == 0 {
			return nil
		}
		_, err = tx.Exec(ctx, deleteGone, gone, seen, addressKind)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("settle %d pushes: %w", n, err)
	}
	return settled, nil
}

// maxCounted bounds what looking at the backlog costs.
const maxCounted = 10000

const selectSchedule = `
SELECT (SELECT min(due_at) FROM push_deliveries WHERE status < 3),
	(SELECT count(*) FROM (SELECT FROM push_deliveries WHERE status < 3 AND due_at <= $1 LIMIT $2) b)`

// schedule returns when the next delivery is due, zero when none is, and how many are due
// at now, counted up to maxCounted.
func (s store) schedule(ctx context.Context, now time.Time) (time.Time, int64, error) {
	var (
		next    *time.Time
		backlog int64
	)
	if err := s.pool.QueryRow(ctx, selectSchedule, now, maxCounted).Scan(&next, &backlog); err != nil {
		return time.Time{}, 0, fmt.Errorf("load the push schedule: %w", err)
	}
	if next == nil {
		return time.Time{}, backlog, nil
	}
	return *next, backlog, nil
}
