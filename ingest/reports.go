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
	filed := journal.Entry{Actor: reporter, Target: target, Action: "report.file", Severity: partner.SeverityNotice, Subject: receipt.Id}
	found, err := s.record(ctx, filed, func(ctx context.Context, tx pgx.Tx) (bool, error) {
		tag, err := tx.Exec(ctx, insertReport, receipt.Id, reporter, target, reason, detail, receipt.CreatedAt)
		return tag.RowsAffected() > 0, err
	})
	if err != nil {
		return nil, fmt.Errorf("report of %s by %s: %w", target, reporter, err)
	}
	if !found {
		return nil, rejectedAs(string(partner.CodeUserNotFound))
	}
	return receipt, nil
}
