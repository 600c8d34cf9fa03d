package admin

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/ingest/journal"
	"github.com/bondmate/backend/pkg/contract"
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
	ended    []uuid.UUID       // sessions of the target that ended for it, no part of the line
}

// line is the entry as the journal has it.
func (e entry) line() journal.Entry {
	return journal.Entry{
		Actor: e.actor.id(), Target: e.target, Subject: e.subject, Action: e.action, Severity: e.severity, Code: e.code,
		Address: e.actor.Address, Device: e.actor.Device, Metadata: e.metadata,
	}
}

func (s *Service) note(ctx context.Context, to journal.Executor, e entry) error {
	return journal.Write(ctx, to, s.now(), e.line())
}

func (s *Service) say(ctx context.Context, e entry) { journal.Say(ctx, s.cfg.Log, e.line()) }

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
		if s.cfg.Revocations != nil && len(e.ended) > 0 {
			s.cfg.Revocations.Ended(e.target, contract.RevokedBySuspend, e.ended)
		}
	}
	return nil
}
