package ingest

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/ingest/api"
	"github.com/bondmate/backend/pkg/partner"
)

// maxSyncRequests bounds the pending requests of a snapshot.
const maxSyncRequests = 200

// ListRequests implements GET …/requests.
func (s *Server) ListRequests(ctx context.Context, req api.ListRequestsRequestObject) (api.ListRequestsResponseObject, error) {
	p, err := pageOf(req.Params.Cursor, req.Params.Limit)
	if err != nil {
		return nil, err
	}
	wanted := requestFilter{viewer: exchangeOf(ctx).caller.UserID, now: s.clock()}
	if d := req.Params.Direction; d != nil {
		wanted.direction = string(*d)
	}
	if st := req.Params.Status; st != nil {
		status, ok := partner.ParseRequestStatus(string(*st))
		if !ok {
			return nil, invalid("status", "not_allowed", "There is no such status.")
		}
		wanted.status = status
	}
	var list []api.PartnerRequest
	err = s.db.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		list, err = listRequests(ctx, conn, wanted, p)
		return err
	})
	if err != nil {
		return nil, err
	}
	next := p.next(len(list), func() (time.Time, uuid.UUID) {
		last := list[p.limit-1]
		return last.CreatedAt, last.Id
	})
	return api.ListRequests200JSONResponse{Requests: list[:min(len(list), p.limit)], NextCursor: next}, nil
}

// GetRequest implements GET …/request/{requestId}, for its two parties.
func (s *Server) GetRequest(ctx context.Context, req api.GetRequestRequestObject) (api.GetRequestResponseObject, error) {
	viewer := exchangeOf(ctx).caller.UserID
	var list []api.PartnerRequest
	_, found, err := s.lookTwice(ctx, 0, func(ctx context.Context) (bool, error) {
		var err error
		list, err = query(ctx, s.db, scanRequest(viewer, s.clock()), selectRequest, req.RequestId, viewer)
		return len(list) > 0, err
	})
	if err != nil {
		return nil, fmt.Errorf("load request %s: %w", req.RequestId, err)
	}
	if !found {
		return nil, notFound("There is no such request.")
	}
	return api.GetRequest200JSONResponse(list[0]), nil
}

const selectRequest = `
SELECT r.id, r.sender, u.id, u.display_name, r.message, r.status, r.created_at, r.expires_at, r.resolved_at
FROM requests r JOIN users u ON u.id = CASE WHEN r.sender = $2 THEN r.target ELSE r.sender END
WHERE r.id = $1 AND (r.sender = $2 OR r.target = $2)`

// requestFilter says which requests of a user are wanted. A zero field wants all.
type requestFilter struct {
	viewer    uuid.UUID
	direction string
	status    partner.RequestStatus
	now       time.Time
}

// A branch for each direction, so that each walks its own index from the place on. Until
// the processor has applied the expiry, a pending request that is overdue is expired: $6
// is the status wanted, 0 for all, 1 is pending and 5 expired.
const selectRequests = `
SELECT r.id, r.sender, u.id, u.display_name, r.message, r.status, r.created_at, r.expires_at, r.resolved_at
FROM (
    (SELECT * FROM requests
     WHERE sender = $1 AND $2 <> 'incoming'
       AND created_at <= $3 AND (created_at < $3 OR id > $4)
       AND ($6 = 0 OR CASE WHEN status = 1 AND expires_at <= $7 THEN 5 ELSE status END = $6)
     ORDER BY created_at DESC, id LIMIT $5)
    UNION ALL
    (SELECT * FROM requests
     WHERE target = $1 AND $2 <> 'outgoing'
       AND created_at <= $3 AND (created_at < $3 OR id > $4)
       AND ($6 = 0 OR CASE WHEN status = 1 AND expires_at <= $7 THEN 5 ELSE status END = $6)
     ORDER BY created_at DESC, id LIMIT $5)
) r JOIN users u ON u.id = CASE WHEN r.sender = $1 THEN r.target ELSE r.sender END
ORDER BY r.created_at DESC, r.id LIMIT $5`

// listRequests returns a page of a user's requests, newest first, and one more row when
// there is a next page.
func listRequests(ctx context.Context, q querier, f requestFilter, p page) ([]api.PartnerRequest, error) {
	list, err := collect(ctx, q, scanRequest(f.viewer, f.now), selectRequests,
		f.viewer, f.direction, p.at, p.id, p.limit+1, int16(f.status), f.now)
	if err != nil {
		return nil, fmt.Errorf("list requests of %s: %w", f.viewer, err)
	}
	return list, nil
}

func scanRequest(viewer uuid.UUID, now time.Time) pgx.RowToFunc[api.PartnerRequest] {
	return func(row pgx.CollectableRow) (api.PartnerRequest, error) {
		var r api.PartnerRequest
		var sender uuid.UUID
		var message string
		var status int16
		err := row.Scan(&r.Id, &sender, &r.User.Id, &r.User.DisplayName, &message, &status,
			&r.CreatedAt, &r.ExpiresAt, &r.ResolvedAt)
		if err != nil {
			return r, err
		}
		r.CreatedAt, r.ExpiresAt, r.ResolvedAt = r.CreatedAt.UTC(), r.ExpiresAt.UTC(), utc(r.ResolvedAt)
		r.Direction = api.DirectionIncoming
		if sender == viewer {
			r.Direction = api.DirectionOutgoing
		}
		if message != "" {
			r.Message = &message
		}
		state := partner.RequestStatus(status)
		if state == partner.RequestPending && !r.ExpiresAt.After(now) {
			expired := r.ExpiresAt
			state, r.ResolvedAt = partner.RequestExpired, &expired
		}
		r.Status = api.RequestStatus(state.String())
		return r, nil
	}
}
