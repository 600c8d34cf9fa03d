package processor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/pkg/poison"
)

// action is a row of parked_actions that waits for this partition's owner.
type action struct {
	part    *partition
	id      uuid.UUID
	pair    partner.Pair
	kind    poison.Action
	command uuid.UUID // of a drop of one command
	last    int64     // the highest offset that a drop of the pair reaches
	settled int
	dryRun  bool
}

const (
	// actionsAtATime and turnsAtATime bound what actions do before commands have their turn.
	actionsAtATime = 16
	turnsAtATime   = 64
	// censusEvery is how often what is parked is counted.
	censusEvery = 10 * time.Second
)

const dueActionsSQL = `
SELECT a.partition, a.id, a.low, a.high, a.action, a.command_id, a.last_offset, a.settled, a.dry_run
FROM unnest($1::smallint[]) AS k (partition)
CROSS JOIN LATERAL (
    SELECT x.partition, x.id, x.low, x.high, x.action, x.command_id, x.last_offset, x.settled, x.dry_run, x.requested_at
    FROM parked_actions x WHERE x.partition = k.partition AND x.executed_at IS NULL
    ORDER BY x.requested_at, x.id LIMIT $2) AS a
ORDER BY a.requested_at, a.id LIMIT $2`

// owned returns the worker's partitions that nobody has taken, with the connection open.
func (w *worker) owned(ctx context.Context) (map[int]*partition, []int16, error) {
	byID := map[int]*partition{}
	var ids []int16
	for _, part := range w.parts {
		if !part.fenced {
			byID[part.id], ids = part, append(ids, int16(part.id))
		}
	}
	if len(ids) > 0 && w.conn.IsClosed() {
		conn, err := w.p.connect(ctx)
		if err != nil {
			return nil, nil, err
		}
		w.conn = conn
	}
	return byID, ids, nil
}

// byThemselves does what no record asks for: due timers, and what operators decided about
// parked commands. It reports whether there may be more.
func (w *worker) byThemselves(fetching, working context.Context) (more bool, err error) {
	acted, err := w.carryOut(fetching, working)
	if err != nil {
		return false, err
	}
	fired, err := w.fireDue(fetching, working)
	return acted || fired, err
}

// carryOut executes actions, the oldest first.
func (w *worker) carryOut(fetching, working context.Context) (more bool, err error) {
	acts, err := w.dueActions(working)
	if err == nil {
		err = w.known.ask(working, w)
	}
	if err != nil {
		w.p.metrics.retries.WithLabelValues("due_actions").Inc()
		return false, nil //nolint:nilerr // the next look comes soon, and commands need the connection more
	}
	turns := turnsAtATime
	for _, a := range acts {
		ended := false
		for ; turns > 0 && !ended && !a.part.fenced; turns-- {
			if fetching.Err() != nil {
				return false, errGivenUp
			}
			if a.dryRun {
				ended, err = true, w.rehearse(working, a)
			} else {
				ended, err = w.nextTurn(fetching, working, a)
			}
			if errors.As(err, new(*waitError)) {
				w.p.metrics.retries.WithLabelValues("action").Inc()
				w.p.cfg.Log.Warn("action on a parked pair waits", slog.String("pair", a.pair.String()), slog.Any("error", err))
				return false, nil
			}
			if err != nil {
				return false, err
			}
		}
	}
	return turns == 0 || len(acts) == actionsAtATime, nil
}

// waitError is a cause that passes: the action is taken up again at the next look.
type waitError struct{ err error }

func (e *waitError) Error() string { return e.err.Error() }
func (e *waitError) Unwrap() error { return e.err }

func (w *worker) dueActions(ctx context.Context) ([]*action, error) {
	byID, ids, err := w.owned(ctx)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, w.p.cfg.TxDeadline)
	defer cancel()
	rows, err := w.conn.Query(ctx, "due_actions", ids, actionsAtATime)
	if err != nil {
		return nil, fmt.Errorf("read actions on parked pairs: %w", err)
	}
	acts, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (*action, error) {
		var (
			a       action
			id      int
			command uuid.NullUUID
		)
		scanErr := r.Scan(&id, raw(&a.id), raw(&a.pair.Low), raw(&a.pair.High), &a.kind, &command, &a.last, &a.settled, &a.dryRun)
		a.part, a.command = byID[id], command.UUID
		return &a, scanErr
	})
	if err != nil {
		return nil, fmt.Errorf("read actions on parked pairs: %w", err)
	}
	return acts, nil
}

// The command whose turn it is: the one named, or the pair's first. Nobody but the owner
// adds to a pair's parked commands or takes from them, so what is read here still holds
// when the fence does.
const nextParkedSQL = `
SELECT p.partition, p.log_offset, p.low, p.high, p.id, p.reason, p.headers, p.value, p.parked_at,
       EXISTS (SELECT FROM parked_commands o WHERE o.low = $1 AND o.high = $2 AND o.log_offset <> p.log_offset)
FROM parked_commands p
WHERE p.low = $1 AND p.high = $2 AND ($3::uuid IS NULL OR p.id = $3)
ORDER BY p.log_offset LIMIT 1`

func (w *worker) nextParked(ctx context.Context, pair partner.Pair, command uuid.UUID) (found *parkedRow, others bool, err error) {
	var named *uuid.UUID
	if command != uuid.Nil {
		named = &command
	}
	ctx, cancel := context.WithTimeout(ctx, w.p.cfg.TxDeadline)
	defer cancel()
	var p parkedRow
	err = w.conn.QueryRow(ctx, nextParkedSQL, pair.Low, pair.High, named).Scan(
		&p.partition, &p.offset, raw(&p.pair.Low), raw(&p.pair.High), raw(&p.id), &p.reason, &p.headers, &p.value, &p.at, &others)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, &waitError{fmt.Errorf("load parked commands of %s: %w", pair, err)}
	}
	return &p, others, nil
}

// nextTurn takes an action one command further. It reports whether the action has ended,
// or cannot go on here because the partition is another owner's.
func (w *worker) nextTurn(fetching, working context.Context, a *action) (ended bool, err error) {
	t := &turn{act: a}
	var others bool
	if a.kind == poison.Drop && a.command != uuid.Nil {
		if t.parked, others, err = w.nextParked(working, a.pair, a.command); err != nil {
			return false, err
		}
		t.drop = t.parked != nil
	}
	// The rest goes on after a drop, but not when there was nothing to drop: then somebody
	// else decided, and this asks for nothing any more.
	if t.parked == nil && (a.command == uuid.Nil || a.settled > 0) {
		if t.parked, others, err = w.nextParked(working, a.pair, uuid.Nil); err != nil {
			return false, err
		}
		t.drop = t.parked != nil && a.kind == poison.Drop && a.command == uuid.Nil && t.parked.offset <= a.last
	}
	t.last = !others
	it := t.item(a.part, w.p.cfg.Topics.Commands, w.p.cfg.Partitions)
	if t.parked != nil && !t.drop && it.err == nil {
		if err := w.p.markStale(working, []*item{it}); err != nil {
			return false, &waitError{err}
		}
	}
	if err := w.apply(fetching, working, []*item{it}); err != nil {
		return false, err
	}
	if t.parked != nil && t.ended != poison.Stopped {
		a.settled++
	}
	return t.ended != "" || a.part.fenced, nil
}

// known finds, once after each claim, the pairs that wait for a newer program and can go
// on because this is one: the owner asks itself to retry them.
type known struct {
	done  bool
	after partner.Pair
}

const knownAtATime = 256

// The first parked command of each pair, where that waits for a newer program.
const unknownHeadsSQL = `
SELECT h.partition, h.log_offset, h.low, h.high, h.id, h.reason, h.headers, h.value, h.parked_at
FROM (
    SELECT DISTINCT ON (p.low, p.high) p.partition, p.log_offset, p.low, p.high, p.id, p.reason, p.headers, p.value, p.parked_at
    FROM parked_commands p
    WHERE (p.low, p.high) > ($2, $3)
    ORDER BY p.low, p.high, p.log_offset) AS h
WHERE h.partition = ANY($1::smallint[]) AND h.reason IN ('unknown_type', 'newer_version')
ORDER BY h.low, h.high LIMIT $4`

// The row lock is the fence of this write (G7): who lost the partition finds no row.
const askToRetrySQL = `
INSERT INTO parked_actions (id, partition, low, high, action, last_offset, requested_by, requested_at)
SELECT $1, p.partition, $2, $3, 'retry', $4, 'processor', $5
FROM processor_partitions p
WHERE p.partition = $6 AND p.epoch = $7
  AND NOT EXISTS (SELECT FROM parked_actions a
                  WHERE a.low = $2 AND a.high = $3 AND a.executed_at IS NULL AND a.action = 'retry' AND NOT a.dry_run)
FOR UPDATE OF p`

func (k *known) ask(ctx context.Context, w *worker) error {
	if k.done {
		return nil
	}
	_, ids, err := w.owned(ctx)
	if err != nil || len(ids) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, w.p.cfg.TxDeadline)
	defer cancel()
	rows, err := w.conn.Query(ctx, unknownHeadsSQL, ids, k.after.Low, k.after.High, knownAtATime)
	if err != nil {
		return fmt.Errorf("read what waits for a newer program: %w", err)
	}
	heads, err := pgx.CollectRows(rows, scanParkedRow)
	if err != nil {
		return fmt.Errorf("read what waits for a newer program: %w", err)
	}
	for _, p := range heads {
		k.after = p.pair
		if _, _, err := contract.DecodeCommand(p.record(w.p.cfg.Topics.Commands)); err != nil {
			continue // still not for this program
		}
		for _, part := range w.parts {
			if part.id != p.partition || part.fenced {
				continue
			}
			now := contract.Instant(w.p.cfg.Clock())
			if _, err := w.conn.Exec(ctx, askToRetrySQL, uuid.New(), p.pair.Low, p.pair.High, p.offset, now, part.id, part.epoch); err != nil {
				return fmt.Errorf("ask for a retry of %s: %w", p.pair, err)
			}
			w.p.cfg.Log.Info("a parked command is known by now, retrying its pair", slog.String("pair", p.pair.String()), slog.String("command", p.id.String()))
		}
	}
	k.done = len(heads) < knownAtATime
	return nil
}

const censusSQL = `
SELECT k.partition, c.commands, c.pairs, c.since, d.letters
FROM unnest($1::smallint[]) AS k (partition)
CROSS JOIN LATERAL (
    SELECT count(*) AS commands, count(DISTINCT (p.low, p.high)) AS pairs, min(p.parked_at) AS since
    FROM parked_commands p WHERE p.partition = k.partition) AS c
CROSS JOIN LATERAL (
    SELECT count(*) AS letters FROM dead_letters x WHERE x.topic = $2 AND x.partition = k.partition AND x.value IS NOT NULL) AS d`

// census keeps the gauges of what is parked. It is for operators only: an error is the
// next look's.
func (w *worker) census(ctx context.Context) {
	now := w.p.cfg.Clock()
	if now.Sub(w.counts).Abs() < censusEvery {
		return
	}
	_, ids, err := w.owned(ctx)
	if err != nil || len(ids) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, w.p.cfg.TxDeadline)
	defer cancel()
	rows, err := w.conn.Query(ctx, censusSQL, ids, w.p.cfg.Topics.Commands)
	if err != nil {
		w.p.metrics.retries.WithLabelValues("census").Inc()
		return
	}
	var (
		id                       int
		commands, pairs, letters int64
		since                    *time.Time
	)
	m := w.p.metrics
	_, err = pgx.ForEachRow(rows, []any{&id, &commands, &pairs, &since, &letters}, func() error {
		label, age := strconv.Itoa(id), 0.0
		if since != nil {
			age = max(now.Sub(*since).Seconds(), 0)
		}
		m.waiting.WithLabelValues(label).Set(float64(commands))
		m.pairs.WithLabelValues(label).Set(float64(pairs))
		m.parkedAge.WithLabelValues(label).Set(age)
		m.letters.WithLabelValues(label).Set(float64(letters))
		return nil
	})
	if err != nil {
		m.retries.WithLabelValues("census").Inc()
		return
	}
	w.counts = now
}
