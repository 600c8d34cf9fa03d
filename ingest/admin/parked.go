package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/pkg/poison"
)

// ParkedPair is a pair whose commands wait because the first of them could not be applied.
type ParkedPair struct {
	Pair      partner.Pair
	Partition int
	Commands  int
	Since     time.Time
	Head      uuid.UUID // the command that the others wait for
	Reason    string    // why it waits
	Error     string
}

// ParkedCommand is a parked command without what anybody wrote in it.
type ParkedCommand struct {
	ID       uuid.UUID
	Pair     partner.Pair
	Reason   string
	Error    string
	ParkedAt time.Time
	Place    Place
	Shape    Shape
}

// ParkedAction is a retry or drop that was asked for, and how far it is.
type ParkedAction struct {
	ID          uuid.UUID
	Pair        partner.Pair
	Action      poison.Action
	Command     uuid.UUID // zero: the pair
	DryRun      bool
	By          string
	RequestedAt time.Time
	ExecutedAt  time.Time // zero: it waits for the partition's owner
	Settled     int       // commands that are parked no more by its doing
	Waiting     int       // commands that are parked on the pair now
	Outcome     poison.Outcome
	Error       string
	Report      *poison.Report // of a dry run that has been carried out
}

// ParkedOrder is what an operator asks for.
type ParkedOrder struct {
	Action  poison.Action
	Pair    partner.Pair
	Command uuid.UUID // of a drop: this one alone; zero: all that wait now
	DryRun  bool
}

const listLimit = 100

var errNotParked = fault.New(fault.NotFound, "not_found", "Nothing of this is parked.")

// Pairs in the order in which they were parked. The table holds what is wrong at present:
// it is small.
const parkedPairsSQL = `
SELECT h.low, h.high, h.partition, g.commands, g.since, h.id, h.reason, h.error
FROM (SELECT low, high, count(*) AS commands, min(parked_at) AS since, min(log_offset) AS head
      FROM parked_commands GROUP BY low, high) AS g
JOIN parked_commands h ON h.low = g.low AND h.high = g.high AND h.log_offset = g.head
ORDER BY g.since, h.low, h.high LIMIT $1`

// ParkedPairs lists the parked pairs, the longest parked first.
func (s *Service) ParkedPairs(ctx context.Context, actor Actor, limit int) (pairs []ParkedPair, err error) {
	if limit <= 0 || limit > listLimit {
		limit = listLimit
	}
	line := entry{actor: actor, action: permissions["listParked"].Action, severity: partner.SeverityInfo}
	err = s.act(ctx, line, func(tx pgx.Tx, _ *entry) error {
		rows, err := tx.Query(ctx, parkedPairsSQL, limit)
		if err != nil {
			return fmt.Errorf("list parked pairs: %w", err)
		}
		pairs, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (p ParkedPair, err error) {
			err = r.Scan(&p.Pair.Low, &p.Pair.High, &p.Partition, &p.Commands, &p.Since, &p.Head, &p.Reason, &p.Error)
			return p, err
		})
		return err
	})
	return pairs, err
}

const findParkedSQL = `SELECT low, high FROM parked_commands WHERE id = $1 LIMIT 1`

// FindParked returns the pair that ref names, "low:high", or the pair and the command when
// it is the id of a parked command.
func (s *Service) FindParked(ctx context.Context, ref string) (partner.Pair, uuid.UUID, error) {
	if strings.Contains(ref, ":") {
		pair, err := partner.ParsePair(ref)
		if err != nil {
			return partner.Pair{}, uuid.Nil, fault.Wrap(err, fault.Invalid, "invalid_request", "A pair is two ids in ascending order, with a colon between them.")
		}
		return pair, uuid.Nil, nil
	}
	id, err := uuid.Parse(ref)
	if err != nil {
		return partner.Pair{}, uuid.Nil, fault.Wrap(err, fault.Invalid, "invalid_request", "This is neither a pair nor a command's id.")
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Within)
	defer cancel()
	var pair partner.Pair
	err = s.pool.QueryRow(ctx, findParkedSQL, id).Scan(&pair.Low, &pair.High)
	if errors.Is(err, pgx.ErrNoRows) {
		return partner.Pair{}, uuid.Nil, errNotParked
	}
	if err != nil {
		return partner.Pair{}, uuid.Nil, fmt.Errorf("find parked command %s: %w", id, err)
	}
	return pair, id, nil
}

const parkedCommandsSQL = `
SELECT id, low, high, reason, error, parked_at, partition, log_offset, value
FROM parked_commands
WHERE low = $1 AND high = $2
ORDER BY log_offset LIMIT $3`

// Parked lists the first commands of a parked pair in their order, up to a hundred, and
// what was asked for on the pair of late.
func (s *Service) Parked(ctx context.Context, actor Actor, pair partner.Pair) (commands []ParkedCommand, actions []ParkedAction, err error) {
	line := entry{actor: actor, action: permissions["showParked"].Action, severity: partner.SeverityInfo}
	err = s.act(ctx, line, func(tx pgx.Tx, e *entry) error {
		commands, actions, err = parkedIn(ctx, tx, pair, e)
		return err
	})
	return commands, actions, err
}

// ParkedOf is Parked of the pair of a parked command.
func (s *Service) ParkedOf(ctx context.Context, actor Actor, command uuid.UUID) (pair partner.Pair, commands []ParkedCommand, actions []ParkedAction, err error) {
	line := entry{actor: actor, action: permissions["showParked"].Action, severity: partner.SeverityInfo, subject: command}
	err = s.act(ctx, line, func(tx pgx.Tx, e *entry) error {
		err := tx.QueryRow(ctx, findParkedSQL, command).Scan(&pair.Low, &pair.High)
		if errors.Is(err, pgx.ErrNoRows) {
			return errNotParked
		}
		if err != nil {
			return fmt.Errorf("find parked command %s: %w", command, err)
		}
		commands, actions, err = parkedIn(ctx, tx, pair, e)
		return err
	})
	return pair, commands, actions, err
}

func parkedIn(ctx context.Context, tx pgx.Tx, pair partner.Pair, line *entry) (commands []ParkedCommand, actions []ParkedAction, err error) {
	line.metadata = map[string]string{"pair": pair.String()}
	rows, err := tx.Query(ctx, parkedCommandsSQL, pair.Low, pair.High, listLimit)
	if err != nil {
		return nil, nil, fmt.Errorf("list parked commands of %s: %w", pair, err)
	}
	commands, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (c ParkedCommand, err error) {
		var value []byte
		err = r.Scan(&c.ID, &c.Pair.Low, &c.Pair.High, &c.Reason, &c.Error, &c.ParkedAt, &c.Place.Partition, &c.Place.Offset, &value)
		c.Shape = shapeOf([]byte(c.Pair.String()), value)
		return c, err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list parked commands of %s: %w", pair, err)
	}
	if actions, err = actionsIn(ctx, tx, recentActionsSQL, pair.Low, pair.High); err != nil {
		return nil, nil, err
	}
	if len(commands) == 0 && len(actions) == 0 {
		return nil, nil, errNotParked
	}
	return commands, actions, nil
}

const parkedPayloadSQL = `SELECT low, high, value FROM parked_commands WHERE id = $1 ORDER BY log_offset LIMIT 1`

// ParkedPayload returns the bytes of a parked command: what people wrote to each other, so
// the line in the activity log says that somebody read it.
func (s *Service) ParkedPayload(ctx context.Context, actor Actor, id uuid.UUID) (value []byte, err error) {
	line := entry{actor: actor, action: permissions["readParkedPayload"].Action, severity: partner.SeverityWarning, subject: id}
	err = s.act(ctx, line, func(tx pgx.Tx, e *entry) error {
		var pair partner.Pair
		err := tx.QueryRow(ctx, parkedPayloadSQL, id).Scan(&pair.Low, &pair.High, &value)
		if errors.Is(err, pgx.ErrNoRows) {
			return errNotParked
		}
		if err != nil {
			return fmt.Errorf("load parked command %s: %w", id, err)
		}
		e.metadata = map[string]string{"pair": pair.String()}
		return nil
	})
	return value, err
}

// Of nothing there is no partition, and no row.
const askParkedSQL = `
INSERT INTO parked_actions (id, partition, low, high, action, command_id, last_offset, dry_run, requested_by, requested_at)
SELECT $1, p.partition, $2, $3, $4, NULLIF($5, '00000000-0000-0000-0000-000000000000'::uuid), max(p.log_offset), $6, $7, $8
FROM parked_commands p
WHERE p.low = $2 AND p.high = $3
  AND ($5 = '00000000-0000-0000-0000-000000000000'::uuid
       OR EXISTS (SELECT FROM parked_commands c WHERE c.low = $2 AND c.high = $3 AND c.id = $5))
GROUP BY p.partition`

// AskParked asks the owner of the pair's partition for a retry or a drop. It changes
// nothing by itself: AwaitParked tells what became of it.
func (s *Service) AskParked(ctx context.Context, actor Actor, o ParkedOrder) (id uuid.UUID, err error) {
	action := permissions["retryParked"].Action
	if o.Action == poison.Drop {
		action = permissions["dropParked"].Action
	} else if o.Command != uuid.Nil {
		return uuid.Nil, fault.New(fault.Invalid, "invalid_request", "A retry is of the whole pair: its commands keep their order.")
	}
	id = uuid.New()
	line := entry{
		actor: actor, action: action, severity: partner.SeverityNotice, subject: o.Command,
		metadata: map[string]string{"pair": o.Pair.String(), "asked": id.String()},
	}
	if o.DryRun {
		line.severity, line.metadata["dryRun"] = partner.SeverityInfo, "true"
	}
	err = s.act(ctx, line, func(tx pgx.Tx, _ *entry) error {
		tag, err := tx.Exec(ctx, askParkedSQL, id, o.Pair.Low, o.Pair.High, string(o.Action), o.Command, o.DryRun, actor.name(), s.now())
		if err != nil {
			return fmt.Errorf("ask for a %s of %s: %w", o.Action, o.Pair, err)
		}
		if tag.RowsAffected() == 0 {
			return errNotParked
		}
		return nil
	})
	return id, err
}

const actionColumns = `
SELECT a.id, a.low, a.high, a.action, a.command_id, a.dry_run, a.requested_by, a.requested_at, a.executed_at, a.settled,
       (SELECT count(*) FROM parked_commands p WHERE p.low = a.low AND p.high = a.high), COALESCE(a.outcome, ''), COALESCE(a.error, ''), a.report
FROM parked_actions a
`

const (
	oneActionSQL     = actionColumns + `WHERE a.id = $1`
	recentActionsSQL = actionColumns + `WHERE a.low = $1 AND a.high = $2 ORDER BY a.requested_at DESC LIMIT 10`
)

func actionsIn(ctx context.Context, q querier, sql string, args ...any) ([]ParkedAction, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("load actions on parked pairs: %w", err)
	}
	actions, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (a ParkedAction, err error) {
		var (
			command  uuid.NullUUID
			executed *time.Time
		)
		err = r.Scan(&a.ID, &a.Pair.Low, &a.Pair.High, &a.Action, &command, &a.DryRun, &a.By, &a.RequestedAt, &executed, &a.Settled,
			&a.Waiting, &a.Outcome, &a.Error, &a.Report)
		a.Command = command.UUID
		if executed != nil {
			a.ExecutedAt = *executed
		}
		return a, err
	})
	if err != nil {
		return nil, fmt.Errorf("load actions on parked pairs: %w", err)
	}
	return actions, nil
}

// ParkedAction returns an action that was asked for. It is not taken down: asking was.
func (s *Service) ParkedAction(ctx context.Context, id uuid.UUID) (ParkedAction, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Within)
	defer cancel()
	found, err := actionsIn(ctx, s.pool, oneActionSQL, id)
	if err != nil {
		return ParkedAction{}, err
	}
	if len(found) == 0 {
		return ParkedAction{}, fault.New(fault.NotFound, "not_found", "Nobody asked for this.")
	}
	return found[0], nil
}

// awaitEvery is how often an action is looked at while somebody waits for it.
const awaitEvery = 100 * time.Millisecond

// AwaitParked returns the action once it has been carried out, or as it is after so long.
func (s *Service) AwaitParked(ctx context.Context, id uuid.UUID, within time.Duration) (ParkedAction, error) {
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	ticker := time.NewTicker(awaitEvery)
	defer ticker.Stop()
	for {
		a, err := s.ParkedAction(ctx, id)
		if err != nil || !a.ExecutedAt.IsZero() {
			return a, err
		}
		select {
		case <-ticker.C:
		case <-deadline.C:
			return a, nil
		case <-ctx.Done():
			return a, fmt.Errorf("wait for action %s: %w", id, ctx.Err())
		}
	}
}

// Place is where on its topic a record lies.
type Place struct {
	Partition int
	Offset    int64
}

// decoded is what today's decoder says of a record.
func decoded(key, value []byte) (contract.Envelope, error) {
	_, env, err := contract.DecodeCommand(contract.Record{Key: key, Value: value})
	return env, err
}
