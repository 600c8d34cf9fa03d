package processor

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/partner"
)

// Every write is one statement over arrays, and states are whole rows: INSERT … ON
// CONFLICT finds its row by the unique index, where UPDATE … FROM unnest would be planned
// as a join. The nil UUID, zero and the empty text stand for NULL where a column allows it.

const writeRequestsSQL = `
INSERT INTO requests (id, sender, target, message, fresh, status, created_at, expires_at, resolved_at)
SELECT id, sender, target, message, fresh, status, created_at, expires_at, resolved_at
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::boolean[], $6::smallint[],
            $7::timestamptz[], $8::timestamptz[], $9::timestamptz[])
    AS n (id, sender, target, message, fresh, status, created_at, expires_at, resolved_at)
ON CONFLICT (id) DO UPDATE SET
    message = excluded.message, status = excluded.status, expires_at = excluded.expires_at,
    resolved_at = excluded.resolved_at`

const writePartnershipsSQL = `
INSERT INTO partnerships (id, low, high, status, started_at, ended_at, restorable_until, ended_by, reason, quiet,
                          restored_count, version)
SELECT id, low, high, status, started_at, ended_at, restorable_until,
       NULLIF(ended_by, '00000000-0000-0000-0000-000000000000'), reason, quiet, restored_count, version
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::smallint[], $5::timestamptz[], $6::timestamptz[],
            $7::timestamptz[], $8::uuid[], $9::text[], $10::boolean[], $11::integer[], $12::bigint[])
    AS n (id, low, high, status, started_at, ended_at, restorable_until, ended_by, reason, quiet, restored_count, version)
ON CONFLICT (id) DO UPDATE SET
    status = excluded.status, ended_at = excluded.ended_at, restorable_until = excluded.restorable_until,
    ended_by = excluded.ended_by, reason = excluded.reason, quiet = excluded.quiet,
    restored_count = excluded.restored_count, version = excluded.version`

const writeMembersSQL = `
INSERT INTO partnership_members (partnership_id, user_id, slot, active)
SELECT partnership_id, user_id, slot, active
FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::boolean[]) AS n (partnership_id, user_id, slot, active)
ON CONFLICT (partnership_id, user_id) DO UPDATE SET slot = excluded.slot, active = excluded.active`

// No ON CONFLICT: the id was looked up under the issuer's lock. Should it be there all the
// same, the primary key is what keeps a command from taking effect twice (G1).
const writeCommandsSQL = `
INSERT INTO commands (id, issuer, type, fingerprint, status, code, result, seq, accepted_at, applied_at)
SELECT id, issuer, type, fingerprint, CASE WHEN code = '' THEN 1 ELSE 2 END, NULLIF(code, ''), NULLIF(result, '')::json,
       NULLIF(seq, 0), accepted_at, applied_at
FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::bytea[], $5::text[], $6::text[], $7::bigint[],
            $8::timestamptz[], $9::timestamptz[])
    AS n (id, issuer, type, fingerprint, code, result, seq, accepted_at, applied_at)`

const writeEventsSQL = `
INSERT INTO events (partition, seq, topic, id, type, command_id, low, high, low_seq, high_seq, other, other_seq,
                    accepted_at, applied_at, data, traceparent)
SELECT partition, seq, topic, id, type, command_id, low, high, NULLIF(low_seq, 0), NULLIF(high_seq, 0),
       NULLIF(other, '00000000-0000-0000-0000-000000000000'), NULLIF(other_seq, 0),
       accepted_at, applied_at, data::json, NULLIF(traceparent, '')
FROM unnest($1::smallint[], $2::bigint[], $3::smallint[], $4::uuid[], $5::smallint[], $6::uuid[], $7::uuid[],
            $8::uuid[], $9::bigint[], $10::bigint[], $11::uuid[], $12::bigint[], $13::timestamptz[],
            $14::timestamptz[], $15::text[], $16::text[])
    AS n (partition, seq, topic, id, type, command_id, low, high, low_seq, high_seq, other, other_seq,
          accepted_at, applied_at, data, traceparent)`

const writeInboxSQL = `
INSERT INTO inbox (user_id, seq, partition, event_seq, origin)
SELECT user_id, seq, partition, event_seq, NULLIF(origin, '00000000-0000-0000-0000-000000000000')
FROM unnest($1::uuid[], $2::bigint[], $3::smallint[], $4::bigint[], $5::uuid[])
    AS n (user_id, seq, partition, event_seq, origin)`

const writeStreamsSQL = `
INSERT INTO user_streams (user_id, last_seq)
SELECT user_id, last_seq FROM unnest($1::uuid[], $2::bigint[]) AS n (user_id, last_seq)
ON CONFLICT (user_id) DO UPDATE SET last_seq = excluded.last_seq`

// The step past the batch, in the batch's own transaction (G1). The rows are held locked
// since the fence. The version tells, after a COMMIT without an answer, whether it landed.
const writePartitionsSQL = `
INSERT INTO processor_partitions (partition, epoch, version, next_offset, last_record_id, event_seq, relayed_seq)
SELECT partition, epoch, version, next_offset, last_record_id, event_seq, relayed_seq
FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[])
    AS n (partition, epoch, version, next_offset, last_record_id, event_seq, relayed_seq)
ON CONFLICT (partition) DO UPDATE SET
    version = excluded.version, next_offset = excluded.next_offset, last_record_id = excluded.last_record_id,
    event_seq = excluded.event_seq, relayed_seq = excluded.relayed_seq`

const writeParkedSQL = `
INSERT INTO parked_commands (partition, log_offset, low, high, id, reason, error, headers, value, parked_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb, $9, $10)`

const deleteParkedSQL = `DELETE FROM parked_commands WHERE partition = $1 AND log_offset = $2`

const writeDeadLetterSQL = `
INSERT INTO dead_letters (topic, partition, log_offset, error, key, headers, value, created_at)
VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7, $8)`

// write writes what the batch changed and commits, in one round trip. Closures come before
// insertions: a slot, or a pair's place in the partial indexes, is free before it is taken.
func (b *batch) write(ctx context.Context, conn *pgx.Conn, c *changes) error {
	q := &pgx.Batch{}
	c.queueStates(q, b.wasActive)
	c.queueBreakups(q)
	c.queueSides(q)
	c.queueNicknames(q)
	if err := c.queueProfiles(q); err != nil {
		return err
	}
	c.queueReads(q)
	c.queueTimers(q)
	c.queueActivity(q)
	c.queueOutcomes(q)
	b.queueCuts(q, c)
	c.queueAccounts(q, b) // last: what erasure deletes is all there by now
	c.queuePublications(q)
	for _, k := range c.unparked {
		q.Queue(deleteParkedSQL, k.partition, k.offset)
	}
	for _, p := range c.parked {
		q.Queue(writeParkedSQL, p.partition, p.offset, p.pair.Low, p.pair.High, p.id, p.reason, storable(p.err), p.headers, p.value, p.at)
	}
	for _, p := range c.reparked {
		q.Queue(reparkSQL, p.partition, p.offset, p.reason, storable(p.err))
	}
	for _, d := range c.dead {
		q.Queue(writeDeadLetterSQL, d.topic, d.partition, d.offset, storable(d.err), d.key, d.headers, d.value, d.at)
	}
	for _, a := range c.actions {
		q.Queue(writeActionSQL, a.id, a.settled, nullable(a.executed), a.outcome, storable(a.err))
	}
	b.queuePartitions(q, c)
	if b.rehearsal == nil {
		q.Queue("commit")
	} else {
		q.Queue(rollbackSQL)
	}
	if err := conn.SendBatch(ctx, q).Close(); err != nil {
		return fmt.Errorf("write and commit: %w", err)
	}
	return nil
}

func byID[V any](m map[uuid.UUID]V) []V {
	ids := slices.SortedFunc(maps.Keys(m), func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	out := make([]V, len(ids))
	for i, id := range ids {
		out[i] = m[id]
	}
	return out
}

func (c *changes) queueStates(q *pgx.Batch, wasActive map[uuid.UUID][2]int16) {
	if len(c.requests) > 0 {
		var closed, open []partner.Request
		for _, r := range byID(c.requests) {
			if r.Status == partner.RequestPending {
				open = append(open, r)
			} else {
				closed = append(closed, r)
			}
		}
		queueRequests(q, closed)
		queueRequests(q, open)
	}
	if len(c.partnerships) == 0 {
		return
	}
	var archived, open []partner.Partnership
	var leaving, staying memberRows
	for _, p := range byID(c.partnerships) {
		if p.Status == partner.PartnershipArchived {
			archived = append(archived, p)
		} else {
			open = append(open, p)
		}
		if p.Status != partner.PartnershipActive {
			leaving.add(p, false)
			continue
		}
		if was, ok := wasActive[p.ID]; ok && was != [2]int16{p.LowSlot, p.HighSlot} {
			leaving.add(p, false) // it gives up its old slots before another takes them
		}
		staying.add(p, true)
	}
	queuePartnerships(q, archived)
	queuePartnerships(q, open)
	leaving.queue(q)
	staying.queue(q)
}

func queueRequests(q *pgx.Batch, rs []partner.Request) {
	n := len(rs)
	if n == 0 {
		return
	}
	ids, senders, targets := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n)
	messages, fresh, status := make([]string, n), make([]bool, n), make([]int16, n)
	created, expires, resolved := make([]time.Time, n), make([]time.Time, n), make([]*time.Time, n)
	for i, r := range rs {
		ids[i], senders[i], targets[i] = r.ID, r.Sender, r.Target
		messages[i], fresh[i], status[i] = r.Message, r.Fresh, int16(r.Status)
		created[i], expires[i], resolved[i] = r.CreatedAt, r.ExpiresAt, nullable(r.ResolvedAt)
	}
	q.Queue("write_requests", ids, senders, targets, messages, fresh, status, created, expires, resolved)
}

func queuePartnerships(q *pgx.Batch, ps []partner.Partnership) {
	n := len(ps)
	if n == 0 {
		return
	}
	ids, lows, highs, endedBy := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n)
	status, restored, versions := make([]int16, n), make([]int32, n), make([]int64, n)
	started, ended, until := make([]time.Time, n), make([]*time.Time, n), make([]*time.Time, n)
	reasons, quiet := make([]string, n), make([]bool, n)
	for i, p := range ps {
		ids[i], lows[i], highs[i], endedBy[i] = p.ID, p.Pair.Low, p.Pair.High, p.EndedBy
		status[i], restored[i], versions[i] = int16(p.Status), int32(p.RestoredCount), p.Version
		started[i], ended[i], until[i] = p.StartedAt, nullable(p.EndedAt), nullable(p.RestorableUntil)
		reasons[i], quiet[i] = p.Reason, p.Quiet
	}
	q.Queue("write_partnerships", ids, lows, highs, status, started, ended, until, endedBy, reasons, quiet, restored, versions)
}

type memberRows struct {
	partnerships []uuid.UUID
	users        []uuid.UUID
	slots        []int16
	active       []bool
}

func (m *memberRows) add(p partner.Partnership, active bool) {
	m.partnerships = append(m.partnerships, p.ID, p.ID)
	m.users = append(m.users, p.Pair.Low, p.Pair.High)
	m.slots = append(m.slots, p.LowSlot, p.HighSlot)
	m.active = append(m.active, active, active)
}

func (m *memberRows) queue(q *pgx.Batch) {
	if len(m.users) > 0 {
		q.Queue("write_members", m.partnerships, m.users, m.slots, m.active)
	}
}

func (c *changes) queueOutcomes(q *pgx.Batch) {
	if n := len(c.commands); n > 0 {
		ids, issuers, types, prints := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]int16, n), make([][]byte, n)
		codes, results, seqs := make([]string, n), make([]string, n), make([]int64, n)
		accepted, applied := make([]time.Time, n), make([]time.Time, n)
		for i := range c.commands {
			r := &c.commands[i]
			ids[i], issuers[i], types[i], prints[i] = r.id, r.issuer, int16(r.kind), r.fingerprint[:]
			codes[i], results[i], seqs[i] = string(r.code), r.result, r.seq
			accepted[i], applied[i] = r.acceptedAt, r.appliedAt
		}
		q.Queue("write_commands", ids, issuers, types, prints, codes, results, seqs, accepted, applied)
	}
	if n := len(c.rows); n > 0 {
		parts, topics, types := make([]int16, n), make([]int16, n), make([]int16, n)
		seqs, lowSeqs, highSeqs, otherSeqs := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
		ids, commands, lows, highs, others := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n)
		accepted, applied := make([]time.Time, n), make([]time.Time, n)
		data, traces := make([]string, n), make([]string, n)
		for i := range c.rows {
			r := &c.rows[i]
			parts[i], seqs[i], topics[i], ids[i], types[i], commands[i] = int16(r.partition), r.seq, r.topic, r.id, r.kind, r.commandID
			lows[i], highs[i], lowSeqs[i], highSeqs[i] = r.pair.Low, r.pair.High, r.lowSeq, r.highSeq
			others[i], otherSeqs[i] = r.other, r.otherSeq
			accepted[i], applied[i], data[i], traces[i] = r.acceptedAt, r.appliedAt, r.data, r.traceparent
		}
		q.Queue("write_events", parts, seqs, topics, ids, types, commands, lows, highs, lowSeqs, highSeqs, others,
			otherSeqs, accepted, applied, data, traces)
	}
	if n := len(c.inbox); n > 0 {
		users, origins := make([]uuid.UUID, n), make([]uuid.UUID, n)
		seqs, eventSeqs, parts := make([]int64, n), make([]int64, n), make([]int16, n)
		for i, r := range c.inbox {
			users[i], seqs[i], parts[i], eventSeqs[i], origins[i] = r.user, r.seq, int16(r.partition), r.eventSeq, r.origin
		}
		q.Queue("write_inbox", users, seqs, parts, eventSeqs, origins)
	}
}

func (b *batch) queuePartitions(q *pgx.Batch, c *changes) {
	n := len(b.steps)
	parts := make([]int16, n)
	epochs, versions, nexts, eventSeqs, relayed := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	lastIDs := make([]string, n)
	for i := range b.steps {
		s := &b.steps[i]
		if seq, ok := c.eventSeqs[s.part.id]; ok {
			s.eventSeq = seq
		}
		parts[i], epochs[i], versions[i], nexts[i] = int16(s.part.id), s.part.epoch, s.part.version+1, s.next
		lastIDs[i], eventSeqs[i], relayed[i] = s.lastID, s.eventSeq, s.relayed
	}
	users := slices.SortedFunc(maps.Keys(c.streams), func(x, y uuid.UUID) int { return bytes.Compare(x[:], y[:]) })
	if len(users) > 0 {
		seqs := make([]int64, len(users))
		for i, u := range users {
			seqs[i] = b.streams[u]
		}
		q.Queue("write_streams", users, seqs)
	}
	q.Queue("write_partitions", parts, epochs, versions, nexts, lastIDs, eventSeqs, relayed)
}

// nullable is NULL for the zero time.
func nullable(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
