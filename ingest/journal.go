package ingest

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/edge"
	"github.com/bondmate/backend/pkg/partner"
)

// deed is a line of the activity log about what is no command: a login, an export, a
// report, one's own copy of a history deleted.
type deed struct {
	actor    uuid.UUID
	target   uuid.UUID // zero for what concerns the actor alone
	action   string
	severity partner.Severity
	subject  uuid.UUID // the session, report or partnership; zero for none
}

const insertDeed = `
INSERT INTO activity_log (at, actor, target, action, severity, subject, address, device)
VALUES ($1, $2, NULLIF($3, '00000000-0000-0000-0000-000000000000'::uuid), $4, $5,
        NULLIF($6, '00000000-0000-0000-0000-000000000000'::uuid), NULLIF($7, ''), NULLIF($8, ''))`

// record runs do in one transaction with its line in the activity log. do may complete
// the line, and returns whether anything was done: if not there is no line.
func (s *Server) record(ctx context.Context, d deed, do func(context.Context, pgx.Tx, *deed) (bool, error)) (done bool, err error) {
	x := exchangeOf(ctx)
	err = s.db.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			var doErr error
			if done, doErr = do(ctx, tx, &d); doErr != nil || !done {
				return doErr
			}
			_, execErr := tx.Exec(ctx, insertDeed, s.clock().UTC(), d.actor, d.target, d.action, int16(d.severity), d.subject,
				edge.ClientOf(x.request).String(), userAgent(x.request))
			if execErr != nil {
				return fmt.Errorf("take down %s: %w", d.action, execErr)
			}
			return nil
		})
	})
	if err != nil || !done {
		return false, err
	}
	// Said where operators' tools look as well; addresses stay in the table.
	s.log.LogAttrs(ctx, slog.LevelInfo, "activity", slog.String("action", d.action), slog.String("actor", d.actor.String()),
		slog.String("target", d.target.String()), slog.String("subject", d.subject.String()))
	return true, nil
}

// nothing is what record does for a deed that is done elsewhere.
func nothing(context.Context, pgx.Tx, *deed) (bool, error) { return true, nil }
