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

// The epoch, the head, the oldest sequence kept, the highest acknowledged one, and how
// many after that were withdrawn.
const selectInboxState = `
SELECT e.epoch,
    COALESCE((SELECT last_seq FROM user_streams WHERE user_id = $1), 0),
    COALESCE((SELECT seq FROM inbox WHERE user_id = $1 ORDER BY seq LIMIT 1), 0),
    a.read,
    (SELECT count(DISTINCT i.seq)
     FROM cuts c JOIN inbox i ON i.user_id = c.recipient AND i.origin = c.origin
         AND i.seq > GREATEST(c.after_seq, a.read) AND i.seq <= c.last_seq
     WHERE c.recipient = $1 AND c.last_seq > a.read),
    (SELECT count(*)
     FROM inbox i JOIN events v ON v.partition = i.partition AND v.seq = i.event_seq
     WHERE i.user_id = $1 AND i.seq > a.read AND v.data ->> 'silent' = 'true')
FROM stream_epoch e,
    (SELECT COALESCE(max(seq), 0) AS read FROM acks WHERE user_id = $1) a`

type inboxState struct {
	epoch                                 string
	last, oldest, read, withdrawn, silent int64
}

// unread counts the events after the highest sequence that any session acknowledged, and
// leaves out those of which only the place is left, and the silent ones: a quiet leave puts
// nothing on the badge of the one who was left. No silent event has an origin, so none is
// among the withdrawn as well.
func (s inboxState) unread() int64 { return max(0, s.last-s.read-s.withdrawn-s.silent) }

func loadInboxState(ctx context.Context, q querier, user uuid.UUID) (inboxState, error) {
	var s inboxState
	if err := q.QueryRow(ctx, selectInboxState, user).Scan(&s.epoch, &s.last, &s.oldest, &s.read, &s.withdrawn, &s.silent); err != nil {
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
	var after int64
	if req.Params.After != nil {
		after = *req.Params.After
	}
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
		if after > state.last {
			return resync("The history is shorter than that.")
		}
		if after < state.last && (state.oldest == 0 || after+1 < state.oldest) {
			return resync("That part of the history is gone.")
		}
		events, err := listNotifications(ctx, tx, user, after, limit)
		if err != nil {
			return err
		}
		answer = api.ListNotifications200JSONResponse{
			Events: events, LastSeq: state.last, Unread: state.unread(), Epoch: state.epoch,
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

func resync(detail string) error {
	return fault.New(fault.Conflict, "resync", detail+" Call GET /api/sync and go on from its seq.")
}
