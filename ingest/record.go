package ingest

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/ingest/journal"
	"github.com/bondmate/backend/pkg/edge"
)

// record runs do in one transaction with its line in the activity log. do returns whether
// anything was done: if not there is no line.
func (s *Server) record(ctx context.Context, line journal.Entry, do func(context.Context, pgx.Tx) (bool, error)) (done bool, err error) {
	x := exchangeOf(ctx)
	line.Address, line.Device = edge.ClientOf(x.request).String(), userAgent(x.request)
	err = s.db.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			var doErr error
			if done, doErr = do(ctx, tx); doErr != nil || !done {
				return doErr
			}
			return journal.Write(ctx, tx, s.clock().UTC(), line)
		})
	})
	if err != nil || !done {
		return false, err
	}
	journal.Say(ctx, s.log, line)
	return true, nil
}

// nothing is what record does for a deed that is done elsewhere.
func nothing(context.Context, pgx.Tx) (bool, error) { return true, nil }

// note takes a line down in accounts' own transaction, which finds out whose it is. Who
// passes it says the line once that is committed.
func (s *Server) note(line *journal.Entry) accounts.Note {
	return func(ctx context.Context, tx pgx.Tx, userID uuid.UUID) error {
		by := exchangeOf(ctx).request
		line.Actor, line.Address, line.Device = userID, edge.ClientOf(by).String(), userAgent(by)
		return journal.Write(ctx, tx, s.clock().UTC(), *line)
	}
}
