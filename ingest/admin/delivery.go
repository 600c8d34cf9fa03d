package admin

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/ingest/api"
	"github.com/bondmate/backend/pkg/partner"
)

// Delivery is what became of one event's push to one device.
type Delivery struct {
	ID, EventID, UserID, DeviceID uuid.UUID
	Seq                           int64
	Type                          partner.EventType
	Status                        int16 // 1 due, 2 sending, 3 settled
	Outcome                       *string
	Attempts                      int16
	Error                         *string
	CreatedAt, DueAt, ExpiresAt   time.Time
	HandedAt, SettledAt           *time.Time
	Replaced, Untold              bool
}

// By the index on the event, so that looking costs the notifier nothing.
const deliveriesSQL = `
SELECT id, event_id, user_id, device_id, seq, type, status, outcome, attempts, error, created_at, due_at, expires_at,
       handed_at, settled_at, cut_at IS NOT NULL, untold
FROM push_deliveries WHERE event_id = $1
ORDER BY user_id, device_id LIMIT $2`

// Deliveries lists the deliveries of an event.
func (s *Service) Deliveries(ctx context.Context, actor Actor, event uuid.UUID) (out []Delivery, err error) {
	line := entry{actor: actor, action: permissions["listDeliveries"].Action, severity: partner.SeverityInfo, subject: event}
	err = s.act(ctx, line, func(tx pgx.Tx, _ *entry) error {
		rows, err := tx.Query(ctx, deliveriesSQL, event, listLimit)
		if err != nil {
			return fmt.Errorf("load deliveries of event %s: %w", event, err)
		}
		if out, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Delivery]); err != nil {
			return fmt.Errorf("load deliveries of event %s: %w", event, err)
		}
		return nil
	})
	return out, err
}

// Model returns the delivery as the API shows it.
func (d Delivery) Model() api.Delivery {
	out := api.Delivery{
		Id: d.ID, EventId: d.EventID, UserId: d.UserID, DeviceId: d.DeviceID, Seq: d.Seq, Type: d.Type.String(),
		Status: api.DeliveryStatus([...]string{"", "due", "sending", "settled"}[d.Status]), Attempts: int(d.Attempts), Error: d.Error,
		CreatedAt: d.CreatedAt, DueAt: d.DueAt, ExpiresAt: d.ExpiresAt, HandedAt: d.HandedAt, SettledAt: d.SettledAt,
		Replaced: d.Replaced, Told: d.SettledAt != nil && !d.Untold,
	}
	if d.Outcome != nil {
		out.Outcome = new(api.DeliveryOutcome(*d.Outcome))
	}
	return out
}

// ListDeliveries implements GET /api/ops/deliveries.
func (d *Desk) ListDeliveries(ctx context.Context, req api.ListDeliveriesRequestObject) (api.ListDeliveriesResponseObject, error) {
	found, err := d.service.Deliveries(ctx, actorOf(ctx), req.Params.EventId)
	if err != nil {
		return nil, err
	}
	list := api.ListDeliveries200JSONResponse{Deliveries: make([]api.Delivery, len(found))}
	for i, v := range found {
		list.Deliveries[i] = v.Model()
	}
	return list, nil
}
