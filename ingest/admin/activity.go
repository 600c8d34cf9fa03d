package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/pkg/postgres"
)

// entry is a line of the activity log: who did what to whom, or was refused it.
type entry struct {
	actor    Actor
	action   string
	severity partner.Severity
	code     string            // of a refusal
	target   uuid.UUID         // the user whom it is about; zero for none
	subject  uuid.UUID         // another thing that it is about; zero for none
	also     []entry           // what was done along with it; each a line of its own
	metadata map[string]string // no free text: what is written about people has a place of its own
}

// executor is a pool or a transaction.
type executor interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

const insertActivitySQL = `
INSERT INTO activity_log (at, actor, target, action, severity, code, subject, address, device, metadata)
VALUES ($1, $2, NULLIF($3, '00000000-0000-0000-0000-000000000000'::uuid), $4, $5, NULLIF($6, ''),
        NULLIF($7, '00000000-0000-0000-0000-000000000000'::uuid), NULLIF($8, ''), NULLIF($9, ''), $10)`

// note writes a line.
func (s *Service) note(ctx context.Context, to executor, e entry) error {
	_, err := to.Exec(ctx, insertActivitySQL, s.now(), e.actor.UserID, e.target, e.action, int16(e.severity), e.code,
		e.subject, e.actor.Address, e.actor.Device, e.metadata)
	if err != nil {
		return fmt.Errorf("take down %s: %w", e.action, err)
	}
	return nil
}

// say puts a line that is in the table into the log as well, where operators' tools look.
// Addresses stay in the table.
func (s *Service) say(ctx context.Context, e entry) {
	level := slog.LevelInfo
	if e.severity >= partner.SeverityWarning {
		level = slog.LevelWarn
	}
	attrs := []slog.Attr{slog.String("action", e.action), slog.String("actor", e.actor.UserID.String())}
	for name, id := range map[string]uuid.UUID{"target": e.target, "subject": e.subject} {
		if id != uuid.Nil {
			attrs = append(attrs, slog.String(name, id.String()))
		}
	}
	if e.code != "" {
		attrs = append(attrs, slog.String("code", e.code))
	}
	s.cfg.Log.LogAttrs(ctx, level, "activity", attrs...)
}

// act does something in one transaction with its line in the activity log. do may run
// twice; it completes the line. An attempt that is refused leaves a line with the code,
// and changes nothing.
func (s *Service) act(ctx context.Context, line entry, do func(pgx.Tx, *entry) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Within)
	defer cancel()
	written := line
	err := postgres.Transact(ctx, s.pool, func(tx pgx.Tx) error {
		written = line
		if err := do(tx, &written); err != nil {
			return err
		}
		for _, e := range append([]entry{written}, written.also...) {
			if err := s.note(ctx, tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if refused, ok := errors.AsType[*fault.Error](err); ok {
		written.code = refused.Code
		if noted := s.note(ctx, s.pool, written); noted != nil {
			return noted
		}
		s.say(ctx, written)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", line.action, err)
	}
	for _, e := range append([]entry{written}, written.also...) {
		s.say(ctx, e)
	}
	return nil
}
