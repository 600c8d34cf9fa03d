package ingest

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/ingest/api"
	"github.com/bondmate/backend/ingest/journal"
	"github.com/bondmate/backend/pkg/partner"
)

// $5 wants only those that can be restored at that time; null wants all that have ended.
// What the user has deleted is not history, and what the user has forfeited is not
// restorable; the other one's view of it does not change.
const selectEnded = `
SELECT p.id, u.id, u.display_name, p.started_at, p.ended_at,
       CASE WHEN p.status = 2 AND s.forfeited IS DISTINCT FROM p.id THEN p.restorable_until END,
       p.ended_by = $1, CASE WHEN p.ended_by = $1 THEN p.reason ELSE '' END, p.restored_count
FROM partnership_members m
JOIN partnerships p ON p.id = m.partnership_id
JOIN users u ON u.id = CASE WHEN p.low = $1 THEN p.high ELSE p.low END
LEFT JOIN pair_sides s ON s.user_id = $1 AND s.other_id = u.id
WHERE m.user_id = $1 AND p.status > 1
  AND p.ended_at <= $2 AND (p.ended_at < $2 OR p.id > $3)
  AND CASE WHEN $5::timestamptz IS NULL THEN m.deleted_at IS NULL OR m.deleted_at < p.ended_at
           ELSE p.status = 2 AND p.restorable_until >= $5 AND s.forfeited IS DISTINCT FROM p.id END
ORDER BY p.ended_at DESC, p.id LIMIT $4`

// endedFilter says which ended partnerships are wanted.
type endedFilter struct {
	viewer     uuid.UUID
	restorable bool // only those that can be restored now; otherwise the history
	now        time.Time
}

// listEnded returns a page of a user's partnerships that have ended, the last first, and
// one more row when there is a next page.
func listEnded(ctx context.Context, q querier, f endedFilter, p page) ([]api.EndedPartnership, error) {
	var restorableAt *time.Time
	if f.restorable {
		restorableAt = &f.now
	}
	list, err := collect(ctx, q, func(row pgx.CollectableRow) (api.EndedPartnership, error) {
		var e api.EndedPartnership
		var until *time.Time
		var byYou *bool
		var reason string
		err := row.Scan(&e.PartnershipId, &e.User.Id, &e.User.DisplayName, &e.StartedAt, &e.EndedAt, &until,
			&byYou, &reason, &e.RestoredCount)
		e.StartedAt, e.EndedAt, e.EndedByYou = e.StartedAt.UTC(), e.EndedAt.UTC(), isTrue(byYou)
		e.Reason = optional(reason)
		if until != nil && !until.Before(f.now) {
			days := daysLeft(until.Sub(f.now))
			e.RestorableUntil, e.DaysLeft = utc(until), &days
		}
		return e, err
	}, selectEnded, f.viewer, p.at, p.id, p.limit+1, restorableAt)
	if err != nil {
		return nil, fmt.Errorf("list ended partnerships of %s: %w", f.viewer, err)
	}
	return list, nil
}

// ended returns a page of the caller's partnerships that have ended, with the cursor of
// the next.
func (s *Server) ended(ctx context.Context, cursor *string, limit *int, restorable bool) (list []api.EndedPartnership, next *string, err error) {
	p, err := pageOf(cursor, limit)
	if err != nil {
		return nil, nil, err
	}
	err = s.db.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		wanted := endedFilter{viewer: exchangeOf(ctx).caller.UserID, restorable: restorable, now: s.clock()}
		list, err = listEnded(ctx, conn, wanted, p)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	next = p.next(len(list), func() (time.Time, uuid.UUID) {
		last := list[p.limit-1]
		return last.EndedAt, last.PartnershipId
	})
	return list[:min(len(list), p.limit)], next, nil
}

// daysLeft counts begun days, so that the last hours are one day and not none.
func daysLeft(left time.Duration) int {
	const day = 24 * time.Hour
	return int((left + day - 1) / day)
}

// ListHistory implements GET …/history.
func (s *Server) ListHistory(ctx context.Context, req api.ListHistoryRequestObject) (api.ListHistoryResponseObject, error) {
	list, next, err := s.ended(ctx, req.Params.Cursor, req.Params.Limit, false)
	if err != nil {
		return nil, err
	}
	return api.ListHistory200JSONResponse{History: list, NextCursor: next}, nil
}

// ListRestorable implements GET …/restorable.
func (s *Server) ListRestorable(ctx context.Context, req api.ListRestorableRequestObject) (api.ListRestorableResponseObject, error) {
	list, next, err := s.ended(ctx, req.Params.Cursor, req.Params.Limit, true)
	if err != nil {
		return nil, err
	}
	return api.ListRestorable200JSONResponse{Restorable: list, NextCursor: next}, nil
}

// Only an ended one: of an active partnership there is no copy to delete. Of a row that
// is gone already nothing changes.
const deleteOwnCopy = `
UPDATE partnership_members m
SET deleted_at = GREATEST(COALESCE(m.deleted_at, $3), $3)
FROM partnerships p
WHERE m.partnership_id = $1 AND m.user_id = $2 AND p.id = m.partnership_id AND p.status > 1`

// DeleteHistory implements DELETE …/history/{partnershipId}. It is the caller's own view
// alone, so it needs no command.
func (s *Server) DeleteHistory(ctx context.Context, req api.DeleteHistoryRequestObject) (api.DeleteHistoryResponseObject, error) {
	user := exchangeOf(ctx).caller.UserID
	copied := journal.Entry{Actor: user, Action: "history.delete", Severity: partner.SeverityNotice, Subject: req.PartnershipId}
	found, err := s.record(ctx, copied, func(ctx context.Context, tx pgx.Tx) (bool, error) {
		tag, err := tx.Exec(ctx, deleteOwnCopy, req.PartnershipId, user, s.clock().UTC())
		return tag.RowsAffected() > 0, err
	})
	if err != nil {
		return nil, fmt.Errorf("delete history %s of %s: %w", req.PartnershipId, user, err)
	}
	if !found {
		return nil, notFound("There is no such ended partnership.")
	}
	return api.DeleteHistory204Response{}, nil
}

// Forfeit implements POST …/restorable/{partnershipId}/forfeit.
func (s *Server) Forfeit(ctx context.Context, req api.ForfeitRequestObject) (api.ForfeitResponseObject, error) {
	return s.carryOut(ctx, call{
		kind: partner.Forfeit, prefer: req.Params.Prefer, key: req.Params.IdempotencyKey,
		resolve: func(ctx context.Context, in *intent, cmd *partner.Command) (time.Duration, error) {
			var pairs []partner.Pair
			waited, found, err := s.lookTwice(ctx, in.wait, func(ctx context.Context) (bool, error) {
				var err error
				pairs, err = s.store.partnershipPair(ctx, req.PartnershipId, in.issuer)
				return len(pairs) > 0, err
			})
			if err != nil {
				return waited, err
			}
			if !found {
				return waited, notFound("There is no such ended partnership.")
			}
			cmd.Pair, cmd.PartnershipID = pairs[0], req.PartnershipId
			return waited, nil
		},
	})
}
