package accounts

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/identity"
)

// Ticket admits one WebSocket once.
type Ticket struct {
	Ticket    string
	ExpiresAt time.Time
}

const (
	// The share lock on the session: see upsertDeviceSQL.
	insertTicketSQL = `
INSERT INTO realtime_tickets (hash, user_id, session_id, expires_at)
SELECT $1, s.user_id, s.id, $4
FROM sessions s
WHERE s.id = $3 AND s.user_id = $2 AND s.revoked_at IS NULL AND s.expires_at > $5
FOR SHARE OF s`

	trimTicketsSQL = `
DELETE FROM realtime_tickets
WHERE hash IN (
    SELECT hash
    FROM realtime_tickets
    WHERE session_id = $1
    ORDER BY expires_at DESC, hash
    OFFSET $2)`

	// Nobody waits for rows that another sweep has in hand.
	sweepTicketsSQL = `
DELETE FROM realtime_tickets
WHERE hash IN (
    SELECT hash
    FROM realtime_tickets
    WHERE expires_at <= $1
    ORDER BY expires_at
    LIMIT 100
    FOR UPDATE SKIP LOCKED)`
)

// CreateTicket makes a ticket for a session, whose hash alone is stored, and clears away
// expired ones. Over Config.MaxTickets the session's oldest goes. A session that has
// ended is the fault unauthenticated.
func (s *Service) CreateTicket(ctx context.Context, userID, sessionID uuid.UUID) (Ticket, error) {
	now := s.now()
	secret, hash := identity.NewSecret()
	t := Ticket{Ticket: secret, ExpiresAt: now.Add(s.cfg.TicketTTL)}
	err := s.transact(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, insertTicketSQL, hash, userID, sessionID, t.ExpiresAt, now)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return errSession
		}
		var batch pgx.Batch
		batch.Queue(trimTicketsSQL, sessionID, s.cfg.MaxTickets)
		batch.Queue(sweepTicketsSQL, now)
		return tx.SendBatch(ctx, &batch).Close()
	})
	if err != nil {
		return Ticket{}, fmt.Errorf("create realtime ticket: %w", err)
	}
	return t, nil
}
