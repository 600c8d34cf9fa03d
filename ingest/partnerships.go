package ingest

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/ingest/api"
)

const selectHead = `SELECT COALESCE((SELECT last_seq FROM user_streams WHERE user_id = $1), 0)`

// head returns the last sequence of a user's inbox.
func head(ctx context.Context, q querier, user uuid.UUID) (int64, error) {
	var seq int64
	if err := q.QueryRow(ctx, selectHead, user).Scan(&seq); err != nil {
		return 0, fmt.Errorf("load inbox head of %s: %w", user, err)
	}
	return seq, nil
}

const selectPartnerships = `
SELECT p.id, p.started_at, p.restored_count, u.id, u.display_name, u.theme
FROM partnership_members m
JOIN partnerships p ON p.id = m.partnership_id
JOIN users u ON u.id = CASE WHEN p.low = $1 THEN p.high ELSE p.low END
WHERE m.user_id = $1 AND m.active
ORDER BY m.slot`

// listPartnerships returns a user's active partnerships in the order of their slots.
func listPartnerships(ctx context.Context, q querier, user uuid.UUID) ([]api.Partnership, error) {
	list, err := collect(ctx, q, func(row pgx.CollectableRow) (api.Partnership, error) {
		var p api.Partnership
		err := row.Scan(&p.PartnershipId, &p.StartedAt, &p.RestoredCount,
			&p.Partner.UserId, &p.Partner.DisplayName, &p.Partner.Theme)
		p.StartedAt, p.Restored = p.StartedAt.UTC(), p.RestoredCount > 0
		return p, err
	}, selectPartnerships, user)
	if err != nil {
		return nil, fmt.Errorf("list partnerships of %s: %w", user, err)
	}
	return list, nil
}

// partners reads a user's partnerships with the sequence at which they were so.
func (s *Server) partners(ctx context.Context) (list []api.Partnership, seq int64, err error) {
	user := exchangeOf(ctx).caller.UserID
	err = s.db.snapshot(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if seq, err = head(ctx, tx, user); err != nil {
			return err
		}
		list, err = listPartnerships(ctx, tx, user)
		return err
	})
	return list, seq, err
}

// GetCurrent implements GET …/current.
func (s *Server) GetCurrent(ctx context.Context, _ api.GetCurrentRequestObject) (api.GetCurrentResponseObject, error) {
	list, seq, err := s.partners(ctx)
	if err != nil {
		return nil, err
	}
	answer := api.GetCurrent200JSONResponse{Seq: seq}
	if len(list) > 0 {
		p := list[0]
		answer.Partner, answer.PartnershipId, answer.StartedAt = &p.Partner, &p.PartnershipId, &p.StartedAt
		answer.Restored, answer.RestoredCount = &p.Restored, &p.RestoredCount
	}
	return answer, nil
}

// ListPartners implements GET …/partners.
func (s *Server) ListPartners(ctx context.Context, _ api.ListPartnersRequestObject) (api.ListPartnersResponseObject, error) {
	list, seq, err := s.partners(ctx)
	if err != nil {
		return nil, err
	}
	return api.ListPartners200JSONResponse{Partners: list, Seq: seq}, nil
}

const selectSlots = `
SELECT s.slot, p.id, u.id, u.display_name
FROM user_slots s
LEFT JOIN partnership_members m ON m.user_id = s.user_id AND m.slot = s.slot AND m.active
LEFT JOIN partnerships p ON p.id = m.partnership_id
LEFT JOIN users u ON u.id = CASE WHEN p.low = $1 THEN p.high ELSE p.low END
WHERE s.user_id = $1
ORDER BY s.slot`

// GetSlots implements GET …/slots.
func (s *Server) GetSlots(ctx context.Context, _ api.GetSlotsRequestObject) (api.GetSlotsResponseObject, error) {
	user := exchangeOf(ctx).caller.UserID
	slots, err := query(ctx, s.db, func(row pgx.CollectableRow) (api.Slot, error) {
		slot := api.Slot{Status: api.SlotStatusVacant}
		var other *uuid.UUID
		var name *string
		err := row.Scan(&slot.Slot, &slot.PartnershipId, &other, &name)
		if other != nil && name != nil {
			slot.Status, slot.User = api.SlotStatusOccupied, &api.Person{Id: *other, DisplayName: *name}
		}
		return slot, err
	}, selectSlots, user)
	if err != nil {
		return nil, fmt.Errorf("list slots of %s: %w", user, err)
	}
	answer := api.GetSlots200JSONResponse{Slots: slots, Total: len(slots)}
	for _, slot := range slots {
		if slot.Status == api.SlotStatusOccupied {
			answer.Occupied++
		}
	}
	answer.Vacant = answer.Total - answer.Occupied
	return answer, nil
}

// $5 wants only those that can be restored at that time; null wants all that have ended.
const selectEnded = `
SELECT p.id, u.id, u.display_name, p.started_at, p.ended_at, p.restorable_until, p.status,
       p.ended_by = $1, CASE WHEN p.ended_by = $1 THEN p.reason ELSE '' END, p.restored_count
FROM partnership_members m
JOIN partnerships p ON p.id = m.partnership_id
JOIN users u ON u.id = CASE WHEN p.low = $1 THEN p.high ELSE p.low END
WHERE m.user_id = $1 AND p.status > 1
  AND p.ended_at <= $2 AND (p.ended_at < $2 OR p.id > $3)
  AND ($5::timestamptz IS NULL OR (p.status = 2 AND p.restorable_until >= $5))
ORDER BY p.ended_at DESC, p.id LIMIT $4`

// statusEnded is partner.PartnershipEnded: ended, and not archived yet.
const statusEnded = 2

// ended returns a page of the caller's partnerships that have ended, the last first.
func (s *Server) ended(ctx context.Context, p page, restorableAt *time.Time) ([]api.EndedPartnership, *string, error) {
	user := exchangeOf(ctx).caller.UserID
	now := s.clock()
	list, err := query(ctx, s.db, func(row pgx.CollectableRow) (api.EndedPartnership, error) {
		var e api.EndedPartnership
		var until *time.Time
		var status int16
		var byYou *bool
		var reason string
		err := row.Scan(&e.PartnershipId, &e.User.Id, &e.User.DisplayName, &e.StartedAt, &e.EndedAt, &until, &status,
			&byYou, &reason, &e.RestoredCount)
		e.StartedAt, e.EndedAt, e.EndedByYou = e.StartedAt.UTC(), e.EndedAt.UTC(), isTrue(byYou)
		if reason != "" {
			e.Reason = &reason
		}
		if status == statusEnded && until != nil && !until.Before(now) {
			e.RestorableUntil = utc(until)
		}
		return e, err
	}, selectEnded, user, p.at, p.id, p.limit+1, restorableAt)
	if err != nil {
		return nil, nil, fmt.Errorf("list ended partnerships of %s: %w", user, err)
	}
	next := p.next(len(list), func() (time.Time, uuid.UUID) {
		last := list[p.limit-1]
		return last.EndedAt, last.PartnershipId
	})
	return list[:min(len(list), p.limit)], next, nil
}

// ListHistory implements GET …/history.
func (s *Server) ListHistory(ctx context.Context, req api.ListHistoryRequestObject) (api.ListHistoryResponseObject, error) {
	p, err := pageOf(req.Params.Cursor, req.Params.Limit)
	if err != nil {
		return nil, err
	}
	list, next, err := s.ended(ctx, p, nil)
	if err != nil {
		return nil, err
	}
	return api.ListHistory200JSONResponse{History: list, NextCursor: next}, nil
}

// ListRestorable implements GET …/restorable.
func (s *Server) ListRestorable(ctx context.Context, req api.ListRestorableRequestObject) (api.ListRestorableResponseObject, error) {
	p, err := pageOf(req.Params.Cursor, req.Params.Limit)
	if err != nil {
		return nil, err
	}
	now := s.clock()
	list, next, err := s.ended(ctx, p, &now)
	if err != nil {
		return nil, err
	}
	return api.ListRestorable200JSONResponse{Restorable: list, NextCursor: next}, nil
}
