package ingest

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/ingest/api"
)

// The address stays inside; rows where the user is only the target are not theirs. A row
// without a command's id stands last among those of its instant.
const selectActivity = `
SELECT at, action, target, code, command_id, device
FROM activity_log
WHERE actor = $1 AND at <= $2 AND (at < $2 OR COALESCE(command_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff') > $3)
ORDER BY at DESC, COALESCE(command_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff') LIMIT $4`

// ListActivity implements GET /api/activity.
func (s *Server) ListActivity(ctx context.Context, req api.ListActivityRequestObject) (api.ListActivityResponseObject, error) {
	own := listing[api.Activity]{read: listActivity, place: func(a api.Activity) (time.Time, uuid.UUID) {
		if a.CommandId == nil {
			return a.Time, uuid.Max
		}
		return a.Time, *a.CommandId
	}}
	list, next, err := own.page(ctx, s.db, req.Params.Cursor, req.Params.Limit)
	if err != nil {
		return nil, err
	}
	return api.ListActivity200JSONResponse{Activity: list, NextCursor: next}, nil
}

// listActivity returns a page of what a user has done, the last first, and one more row
// when there is a next page.
func listActivity(ctx context.Context, q querier, actor uuid.UUID, p page) ([]api.Activity, error) {
	list, err := collect(ctx, q, func(row pgx.CollectableRow) (api.Activity, error) {
		var a api.Activity
		var code *string
		err := row.Scan(&a.Time, &a.Action, &a.TargetUserId, &code, &a.CommandId, &a.Device)
		a.Time = a.Time.UTC()
		if code != nil {
			refused := api.ErrorCode(*code)
			a.Code = &refused
		}
		return a, err
	}, selectActivity, actor, p.at, p.id, p.limit+1)
	if err != nil {
		return nil, fmt.Errorf("list activity of %s: %w", actor, err)
	}
	return list, nil
}
