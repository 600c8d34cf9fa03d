package retention

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Names of tasks in retention_progress.
const (
	taskCommands = "commands"
	taskEvents   = "events"
)

const partitionsSQL = `SELECT partition FROM processor_partitions ORDER BY partition`

func partitions(ctx context.Context, tx pgx.Tx) ([]int16, error) {
	rows, err := tx.Query(ctx, partitionsSQL)
	if err != nil {
		return nil, fmt.Errorf("list partitions: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[int16])
	if err != nil {
		return nil, fmt.Errorf("list partitions: %w", err)
	}
	return list, nil
}

// The events of a partition after where the task is, as far as they may be removed: those
// that are on their topic, and, for the events themselves, whose outcomes are gone.
const oldestEventsSQL = `
SELECT e.seq, e.applied_at < $3
FROM events e
WHERE e.partition = $1
  AND e.seq > COALESCE((SELECT p.seq FROM retention_progress p WHERE p.task = $2 AND p.partition = $1), 0)
  AND e.seq <= (SELECT o.relayed_seq FROM processor_partitions o WHERE o.partition = $1)
  AND ($2 <> 'events' OR e.seq <= COALESCE((SELECT c.seq FROM retention_progress c WHERE c.task = 'commands' AND c.partition = $1), 0))
ORDER BY e.seq LIMIT $4`

// stretch returns the last sequence of the oldest events that are all older than before,
// zero for none, and whether there may be more after it. It ends at the first one that is
// not: what stays has no hole.
func (s *Sweeper) stretch(ctx context.Context, tx pgx.Tx, name string, part int16, before time.Time) (last int64, more bool, err error) {
	rows, err := tx.Query(ctx, oldestEventsSQL, part, name, before, s.cfg.Batch)
	if err != nil {
		return 0, false, fmt.Errorf("find old events of partition %d: %w", part, err)
	}
	type event struct {
		Seq int64
		Old bool
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[event])
	if err != nil {
		return 0, false, fmt.Errorf("find old events of partition %d: %w", part, err)
	}
	for _, e := range list {
		if !e.Old {
			return last, false, nil
		}
		last = e.Seq
	}
	return last, len(list) == s.cfg.Batch, nil
}

const progressSQL = `
INSERT INTO retention_progress (task, partition, seq, done_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (task, partition) DO UPDATE SET seq = excluded.seq, done_at = excluded.done_at`

// Every outcome has an event that names its command, or, of an id that was used twice, has
// its id: so they are found without an index that each command would have to write. The
// events are in the order of time within their partition.
const deleteCommandsSQL = `
DELETE FROM commands c
WHERE c.applied_at < $3 AND c.id = ANY (ARRAY(
    SELECT k.id FROM events e CROSS JOIN LATERAL (VALUES (e.command_id), (e.id)) AS k (id)
    WHERE e.partition = $1 AND e.seq > COALESCE((SELECT p.seq FROM retention_progress p WHERE p.task = 'commands' AND p.partition = $1), 0)
      AND e.seq <= $2))`

// commands removes the outcomes of one stretch of a partition.
func (s *Sweeper) commands(ctx context.Context, tx pgx.Tx, at *place) (done, error) {
	now := s.cfg.Clock()
	before := now.Add(-s.cfg.Keep.Commands)
	last, more, err := s.stretch(ctx, tx, taskCommands, at.part, before)
	if err != nil || last == 0 {
		return done{}, err
	}
	tag, err := tx.Exec(ctx, deleteCommandsSQL, at.part, last, before)
	if err != nil {
		return done{}, fmt.Errorf("delete outcomes of partition %d: %w", at.part, err)
	}
	if _, err := tx.Exec(ctx, progressSQL, taskCommands, at.part, last, now); err != nil {
		return done{}, fmt.Errorf("note progress: %w", err)
	}
	return done{map[string]int64{"commands": tag.RowsAffected()}, more}, nil
}

// An inbox loses all up to the highest sequence that goes, so that it keeps no hole: two
// partitions are not at the same place in time.
const deleteEventsSQL = `
WITH gone AS (
    DELETE FROM events e
    WHERE e.partition = $1 AND e.seq > COALESCE((SELECT p.seq FROM retention_progress p WHERE p.task = 'events' AND p.partition = $1), 0)
      AND e.seq <= $2
    RETURNING e.low, e.low_seq, e.high, e.high_seq, e.other, e.other_seq),
heads AS (
    SELECT k.user_id, max(k.seq) AS seq
    FROM gone g CROSS JOIN LATERAL (VALUES (g.low, g.low_seq), (g.high, g.high_seq), (g.other, g.other_seq)) AS k (user_id, seq)
    WHERE k.seq IS NOT NULL GROUP BY k.user_id),
read AS (
    DELETE FROM inbox i USING heads h WHERE i.user_id = h.user_id AND i.seq <= h.seq RETURNING i.user_id)
SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM read)`

// events removes one stretch of a partition with what its recipients have of it.
func (s *Sweeper) events(ctx context.Context, tx pgx.Tx, at *place) (done, error) {
	now := s.cfg.Clock()
	last, more, err := s.stretch(ctx, tx, taskEvents, at.part, now.Add(-s.cfg.Keep.Events))
	if err != nil || last == 0 {
		return done{}, err
	}
	var events, inbox int64
	if err := tx.QueryRow(ctx, deleteEventsSQL, at.part, last).Scan(&events, &inbox); err != nil {
		return done{}, fmt.Errorf("delete events of partition %d: %w", at.part, err)
	}
	if _, err := tx.Exec(ctx, progressSQL, taskEvents, at.part, last, now); err != nil {
		return done{}, fmt.Errorf("note progress: %w", err)
	}
	return done{map[string]int64{"events": events, "inbox": inbox}, more}, nil
}
