// Package journal writes the lines of the activity log that are about no command: logins,
// exports, reports, and what operators do. Those of commands are the processor's.
//
// A line that is written in the transaction of what it is about is there exactly when that
// was done. Each is said in the structured log as well, after the commit, where operators'
// tools look; addresses stay in the table.
package journal

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/bondmate/backend/pkg/partner"
)

// Entry is a line: who did what to whom, or was refused it.
type Entry struct {
	Actor    uuid.UUID // zero: an operator at a console, or (with an Address) somebody who is not logged in
	Target   uuid.UUID // the user whom it is about; zero for the actor alone
	Subject  uuid.UUID // another thing that it is about: a session, a report; zero for none
	Action   string
	Severity partner.Severity
	Code     string            // of a refusal
	Address  string            // where the actor called from
	Device   string            // what the caller says of itself
	Metadata map[string]string // no free text: what is written about people has a place of its own
}

// Executor is a pool, a connection or a transaction.
type Executor interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

const insertSQL = `
INSERT INTO activity_log (at, actor, target, action, severity, code, subject, address, device, metadata)
VALUES ($1, $2, NULLIF($3, '00000000-0000-0000-0000-000000000000'::uuid), $4, $5, NULLIF($6, ''),
        NULLIF($7, '00000000-0000-0000-0000-000000000000'::uuid), NULLIF($8, ''), NULLIF($9, ''), $10)`

// Write puts a line into the table.
func Write(ctx context.Context, to Executor, at time.Time, e Entry) error {
	_, err := to.Exec(ctx, insertSQL, at, e.Actor, e.Target, e.Action, int16(e.Severity), e.Code,
		e.Subject, e.Address, e.Device, e.Metadata)
	if err != nil {
		return fmt.Errorf("take down %s: %w", e.Action, err)
	}
	return nil
}

// Say puts a line that is in the table into the log.
func Say(ctx context.Context, log *slog.Logger, e Entry) {
	level := slog.LevelInfo
	if e.Severity >= partner.SeverityWarning {
		level = slog.LevelWarn
	}
	attrs := []slog.Attr{slog.String("action", e.Action), slog.String("actor", e.Actor.String())}
	if e.Target != uuid.Nil {
		attrs = append(attrs, slog.String("target", e.Target.String()))
	}
	if e.Subject != uuid.Nil {
		attrs = append(attrs, slog.String("subject", e.Subject.String()))
	}
	if e.Code != "" {
		attrs = append(attrs, slog.String("code", e.Code))
	}
	log.LogAttrs(ctx, level, "activity", attrs...)
}
