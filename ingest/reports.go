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

const (
	maxReportReason = 100
	maxReportDetail = 2000
)

// The reported one must exist; whether the two have anything to do with each other, or
// one blocks the other, does not matter.
const insertReport = `
INSERT INTO reports (id, reporter, target, reason, detail, created_at)
SELECT $1, $2, u.id, $4, $5, $6 FROM users u WHERE u.id = $3`

// Report implements POST /api/reports. It is no command: it changes nothing between the
// two, and the one who is reported is never told.
func (s *Server) Report(ctx context.Context, req api.ReportRequestObject) (api.ReportResponseObject, error) {
	reporter, target := exchangeOf(ctx).caller.UserID, req.Body.TargetUserId
	reason, err := name("/reason", req.Body.Reason, maxReportReason)
	if err != nil {
		return nil, err
	}
	detail := ""
	if req.Body.Detail != nil {
		if detail, err = partner.SanitizeLines(*req.Body.Detail, maxReportDetail); err != nil {
			return nil, tooLong("/detail", maxReportDetail, err)
		}
	}
	if target == reporter {
		return nil, rejectedAs(string(partner.CodeSelfRequest))
	}
	receipt := api.Report201JSONResponse{Id: uuid.New(), CreatedAt: s.clock().UTC().Truncate(time.Microsecond)}
	var found bool
	err = s.db.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		tag, err := conn.Exec(ctx, insertReport, receipt.Id, reporter, target, reason, detail, receipt.CreatedAt)
		found = tag.RowsAffected() > 0
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("report of %s by %s: %w", target, reporter, err)
	}
	if !found {
		return nil, rejectedAs(string(partner.CodeUserNotFound))
	}
	return receipt, nil
}

// The address stays inside; rows where the user is only the target are not theirs. A row
// without a command's id stands last among those of its instant.
const selectActivity = `
SELECT at, action, target, code, command_id, device
FROM activity_log
WHERE actor = $1 AND at <= $2 AND (at < $2 OR COALESCE(command_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff') > $3)
ORDER BY at DESC, COALESCE(command_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff') LIMIT $4`

// ListActivity implements GET /api/activity.
func (s *Server) ListActivity(ctx context.Context, req api.ListActivityRequestObject) (api.ListActivityResponseObject, error) {
	p, err := pageOf(req.Params.Cursor, req.Params.Limit)
	if err != nil {
		return nil, err
	}
	actor := exchangeOf(ctx).caller.UserID
	list, err := query(ctx, s.db, func(row pgx.CollectableRow) (api.Activity, error) {
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
	next := p.next(len(list), func() (time.Time, uuid.UUID) {
		last := list[p.limit-1]
		if last.CommandId == nil {
			return last.Time, uuid.Max
		}
		return last.Time, *last.CommandId
	})
	return api.ListActivity200JSONResponse{Activity: list[:min(len(list), p.limit)], NextCursor: next}, nil
}
