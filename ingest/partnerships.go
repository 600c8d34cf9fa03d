package ingest

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/ingest/api"
	"github.com/bondmate/backend/ingest/cache"
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
SELECT p.id, p.started_at, p.restored_count, u.id, u.display_name, u.theme, u.theme_entries, n.nickname
FROM partnership_members m
JOIN partnerships p ON p.id = m.partnership_id
JOIN users u ON u.id = CASE WHEN p.low = $1 THEN p.high ELSE p.low END
LEFT JOIN nicknames n ON n.owner = $1 AND n.target = u.id
WHERE m.user_id = $1 AND m.active
ORDER BY m.slot`

// listPartnerships returns a user's active partnerships in the order of their slots.
func listPartnerships(ctx context.Context, q querier, user uuid.UUID) ([]api.Partnership, error) {
	list, err := collect(ctx, q, func(row pgx.CollectableRow) (api.Partnership, error) {
		var p api.Partnership
		err := row.Scan(&p.PartnershipId, &p.StartedAt, &p.RestoredCount,
			&p.Partner.UserId, &p.Partner.DisplayName, &p.Partner.Theme, &p.Partner.ThemeEntries, &p.Partner.Nickname)
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
	return remembered(ctx, s, cache.Current, s.loadCurrent)
}

func (s *Server) loadCurrent(ctx context.Context) (api.Current, error) {
	list, seq, err := s.partners(ctx)
	if err != nil {
		return api.Current{}, err
	}
	answer := api.Current{Seq: seq}
	if len(list) > 0 {
		p := list[0]
		answer.Partner, answer.PartnershipId, answer.StartedAt = &p.Partner, &p.PartnershipId, &p.StartedAt
		answer.Restored, answer.RestoredCount = &p.Restored, &p.RestoredCount
	}
	return answer, nil
}

// ListPartners implements GET …/partners.
func (s *Server) ListPartners(ctx context.Context, _ api.ListPartnersRequestObject) (api.ListPartnersResponseObject, error) {
	return remembered(ctx, s, cache.Partners, s.loadPartners)
}

func (s *Server) loadPartners(ctx context.Context) (api.PartnerList, error) {
	list, seq, err := s.partners(ctx)
	return api.PartnerList{Partners: list, Seq: seq}, err
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
	return remembered(ctx, s, cache.Slots, s.loadSlots)
}

func (s *Server) loadSlots(ctx context.Context) (api.SlotList, error) {
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
		return api.SlotList{}, fmt.Errorf("list slots of %s: %w", user, err)
	}
	answer := api.SlotList{Slots: slots, Total: len(slots)}
	for _, slot := range slots {
		if slot.Status == api.SlotStatusOccupied {
			answer.Occupied++
		}
	}
	answer.Vacant = answer.Total - answer.Occupied
	return answer, nil
}
