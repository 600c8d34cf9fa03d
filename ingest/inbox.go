package ingest

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/ingest/api"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/partner"
)

// The epoch, the head, the oldest sequence kept, the read mark, and how many entries after
// it are unread. What any session has acknowledged counts as read, too.
const selectInboxState = `
SELECT e.epoch, s.last, COALESCE((SELECT seq FROM inbox WHERE user_id = $1 ORDER BY seq LIMIT 1), 0), s.read,
    unread_count($1, $2, $3)
FROM stream_epoch e,
    (SELECT COALESCE(max(last_seq), 0) AS last,
        GREATEST(COALESCE(max(read_seq), 0), (SELECT COALESCE(max(seq), 0) FROM acks WHERE user_id = $1)) AS read
     FROM user_streams WHERE user_id = $1) s`

type inboxState struct {
	epoch              string
	last, oldest, read int64
	unread             int64
}

// gone is the last sequence that is kept no longer.
func (s inboxState) gone() int64 {
	if s.oldest == 0 {
		return s.last
	}
	return s.oldest - 1
}

func loadInboxState(ctx context.Context, q querier, user uuid.UUID) (inboxState, error) {
	var s inboxState
	err := q.QueryRow(ctx, selectInboxState, user, partner.UnreadEventTypes(), partner.MaxUnread).Scan(&s.epoch, &s.last, &s.oldest, &s.read, &s.unread)
	if err != nil {
		return s, fmt.Errorf("load inbox state of %s: %w", user, err)
	}
	return s, nil
}

// What a cut has withdrawn keeps its place and nothing else (G9); the view knows the cuts.
const selectInbox = `
SELECT i.seq, e.id, e.type, e.applied_at, CASE WHEN i.withdrawn THEN '{}' ELSE e.data END, i.withdrawn
FROM inbox_entries i JOIN events e ON e.partition = i.partition AND e.seq = i.event_seq
WHERE i.user_id = $1 AND i.seq > $2
ORDER BY i.seq LIMIT $3`

// kindWithdrawn is the type of a placeholder. It is no event type: nothing stores it.
const kindWithdrawn = "withdrawn"

// ListNotifications implements GET /api/notifications (G5): what it answers follows after
// without a gap, or it answers resync.
func (s *Server) ListNotifications(ctx context.Context, req api.ListNotificationsRequestObject) (api.ListNotificationsResponseObject, error) {
	user := exchangeOf(ctx).caller.UserID
	limit := defaultPage
	if req.Params.Limit != nil {
		limit = *req.Params.Limit
	}
	var answer api.ListNotifications200JSONResponse
	err := s.db.snapshot(ctx, func(ctx context.Context, tx pgx.Tx) error {
		state, err := loadInboxState(ctx, tx, user)
		if err != nil {
			return err
		}
		if other := req.Params.Epoch; other != nil && *other != state.epoch {
			return resync("The history has another epoch.")
		}
		after := state.gone() // without a place: all that is kept
		if req.Params.After != nil {
			after = *req.Params.After
		}
		if after > state.last {
			return resync("The history is shorter than that.")
		}
		if after < state.gone() {
			return resync("That part of the history is gone.")
		}
		events, err := listNotifications(ctx, tx, user, after, limit)
		if err != nil {
			return err
		}
		answer = api.ListNotifications200JSONResponse{
			Events: events, LastSeq: state.last, ReadSeq: state.read, Unread: state.unread, Epoch: state.epoch,
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// listNotifications returns what follows after in a user's inbox, in order.
func listNotifications(ctx context.Context, q querier, user uuid.UUID, after int64, limit int) ([]api.Notification, error) {
	events, err := collect(ctx, q, scanNotification, selectInbox, user, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list inbox of %s: %w", user, err)
	}
	return events, nil
}

func scanNotification(row pgx.CollectableRow) (api.Notification, error) {
	var n api.Notification
	var kind int16
	var withdrawn bool
	err := row.Scan(&n.Seq, &n.Id, &kind, &n.Time, (*[]byte)(&n.Data), &withdrawn)
	n.Time = n.Time.UTC()
	n.Type = partner.EventType(kind).String()
	if withdrawn {
		n.Type = kindWithdrawn
	}
	return n, err
}

// ReadNotifications implements POST /api/notifications/read.
func (s *Server) ReadNotifications(ctx context.Context, req api.ReadNotificationsRequestObject) (api.ReadNotificationsResponseObject, error) {
	return s.carryOut(ctx, call{
		kind: partner.ReadInbox, prefer: req.Params.Prefer, key: req.Params.IdempotencyKey,
		resolve: alone(func(cmd *partner.Command) { cmd.ReadSeq = req.Body.Seq }),
	})
}

func resync(detail string) error {
	return fault.New(fault.Conflict, "resync", detail+" Call GET /api/sync and go on from its seq.")
}
