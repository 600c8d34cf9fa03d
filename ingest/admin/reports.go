package admin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/ingest/cursor"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/partner"
)

// ReportStatus is whether somebody has decided on a report. The numbers are stored.
type ReportStatus uint8

// The report statuses.
const (
	ReportOpen     ReportStatus = 1
	ReportResolved ReportStatus = 2
)

// String returns the status as the API shows it.
func (s ReportStatus) String() string {
	switch s {
	case ReportOpen:
		return "open"
	case ReportResolved:
		return "resolved"
	default:
		return fmt.Sprintf("report status(%d)", uint8(s))
	}
}

// ParseReportStatus reads a status as the API shows it.
func ParseReportStatus(name string) (ReportStatus, error) {
	for _, s := range []ReportStatus{ReportOpen, ReportResolved} {
		if s.String() == name {
			return s, nil
		}
	}
	return 0, fmt.Errorf("report status %q is unknown", name)
}

// Resolution is what came of a report. The numbers are stored.
type Resolution uint8

// The resolutions. Lapsed is the clean-up's (processor/retention): nobody decided, and what
// it said is gone.
const (
	Dismissed Resolution = 1
	Warned    Resolution = 2 // the people who run the service have spoken to the user; nothing is sent
	Suspended Resolution = 3
	Lapsed    Resolution = 4
)

// String returns the resolution's name in the API.
func (r Resolution) String() string {
	switch r {
	case Dismissed:
		return "dismissed"
	case Warned:
		return "warned"
	case Suspended:
		return "suspended"
	case Lapsed:
		return "lapsed"
	default:
		return fmt.Sprintf("resolution(%d)", uint8(r))
	}
}

// ParseResolution reads the name of a resolution that an operator can choose.
func ParseResolution(name string) (Resolution, error) {
	for _, r := range []Resolution{Dismissed, Warned, Suspended} {
		if r.String() == name {
			return r, nil
		}
	}
	return 0, fmt.Errorf("resolution %q is unknown", name)
}

// Report is a complaint of somebody about somebody.
type Report struct {
	ID         uuid.UUID
	Reporter   Person
	Target     Person
	Reason     string // empty once it is erased
	Detail     string // only of a single report, as is Note
	Status     ReportStatus
	Resolution Resolution // zero while open
	Note       string
	CreatedAt  time.Time
	ResolvedAt time.Time // zero while open
	ResolvedBy uuid.UUID // a user or an API key; the nil id: at a console, or the clean-up
	Others     int       // further reports about the target
}

// Person is one of the two of a report.
type Person struct {
	ID          uuid.UUID
	DisplayName string
	Status      partner.UserStatus
}

// ReportFilter says which reports to list, and from where on.
type ReportFilter struct {
	Status ReportStatus // zero: all
	Cursor string
	Limit  int // default 50
}

// Nobody reads a report about themselves, whatever their role: the reported one never
// learns of it.
const listReportsSQL = `
SELECT r.id, r.reporter, f.display_name, f.status, r.target, t.display_name, t.status, r.reason, '', r.status,
    COALESCE(r.resolution, 0), '', r.created_at, r.resolved_at, r.resolved_by,
    (SELECT count(*) FROM reports o WHERE o.target = r.target AND o.id <> r.id)
FROM reports r
JOIN users f ON f.id = r.reporter
JOIN users t ON t.id = r.target
WHERE r.target <> $1 AND (r.status = $2 OR $2 = 0) AND (r.created_at, r.id) > ($3, $4)
ORDER BY r.created_at, r.id
LIMIT $5`

// Reports returns the reports from the filter's place on, the oldest first, and the cursor
// of those after them; empty when there are none.
func (s *Service) Reports(ctx context.Context, actor Actor, f ReportFilter) ([]Report, string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Within)
	defer cancel()
	return s.reportsIn(ctx, s.pool, actor, f)
}

// ListReports is Reports for a console: it takes itself down.
func (s *Service) ListReports(ctx context.Context, actor Actor, f ReportFilter) (list []Report, next string, err error) {
	line := entry{actor: actor, action: permissions["listReports"].Action, severity: partner.SeverityInfo}
	err = s.act(ctx, line, func(tx pgx.Tx, _ *entry) error {
		list, next, err = s.reportsIn(ctx, tx, actor, f)
		return err
	})
	return list, next, err
}

func (s *Service) reportsIn(ctx context.Context, q querier, actor Actor, f ReportFilter) ([]Report, string, error) {
	var after struct {
		at time.Time
		id uuid.UUID
	}
	if f.Cursor != "" {
		var ok bool
		if after.at, after.id, ok = cursor.Decode(f.Cursor); !ok {
			e := fault.New(fault.Invalid, "invalid_request", "The request is not valid.")
			e.Fields = []fault.Field{{Pointer: "cursor", Code: "wrong_format", Detail: "The cursor is not one of this list."}}
			return nil, "", e
		}
	}
	if f.Limit == 0 {
		f.Limit = 50
	}
	rows, err := q.Query(ctx, listReportsSQL, actor.UserID, f.Status, after.at, after.id, f.Limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list reports: %w", err)
	}
	list, err := pgx.CollectRows(rows, scanReport)
	if err != nil {
		return nil, "", fmt.Errorf("list reports: %w", err)
	}
	if len(list) <= f.Limit {
		return list, "", nil
	}
	list = list[:f.Limit]
	last := list[f.Limit-1]
	return list, cursor.Encode(last.CreatedAt, last.ID), nil
}

func scanReport(row pgx.CollectableRow) (Report, error) {
	var r Report
	var resolvedAt *time.Time
	var resolvedBy uuid.NullUUID
	err := row.Scan(&r.ID, &r.Reporter.ID, &r.Reporter.DisplayName, &r.Reporter.Status, &r.Target.ID, &r.Target.DisplayName,
		&r.Target.Status, &r.Reason, &r.Detail, &r.Status, &r.Resolution, &r.Note, &r.CreatedAt, &resolvedAt, &resolvedBy, &r.Others)
	r.CreatedAt, r.ResolvedBy = r.CreatedAt.UTC(), resolvedBy.UUID
	if resolvedAt != nil {
		r.ResolvedAt = resolvedAt.UTC()
	}
	return r, err
}

const reportSQL = `
SELECT r.id, r.reporter, f.display_name, f.status, r.target, t.display_name, t.status, r.reason, r.detail, r.status,
    COALESCE(r.resolution, 0), r.note, r.created_at, r.resolved_at, r.resolved_by,
    (SELECT count(*) FROM reports o WHERE o.target = r.target AND o.id <> r.id)
FROM reports r
JOIN users f ON f.id = r.reporter
JOIN users t ON t.id = r.target
WHERE r.id = $1 AND r.target <> $2`

func (s *Service) reportIn(ctx context.Context, q querier, actor Actor, id uuid.UUID) (Report, error) {
	rows, err := q.Query(ctx, reportSQL, id, actor.UserID)
	if err != nil {
		return Report{}, fmt.Errorf("load report %s: %w", id, err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, scanReport)
	if errors.Is(err, pgx.ErrNoRows) {
		return Report{}, errNoReport
	}
	if err != nil {
		return Report{}, fmt.Errorf("load report %s: %w", id, err)
	}
	return r, nil
}

var errNoReport = fault.New(fault.NotFound, "not_found", "There is no such report.")

// Report returns a report with all that it says. The gate has taken the look-up down.
func (s *Service) Report(ctx context.Context, actor Actor, id uuid.UUID) (Report, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Within)
	defer cancel()
	return s.reportIn(ctx, s.pool, actor, id)
}

// ShowReport is Report for a console: it takes itself down.
func (s *Service) ShowReport(ctx context.Context, actor Actor, id uuid.UUID) (r Report, err error) {
	line := entry{actor: actor, action: permissions["showReport"].Action, severity: partner.SeverityInfo, subject: id}
	err = s.act(ctx, line, func(tx pgx.Tx, _ *entry) error {
		r, err = s.reportIn(ctx, tx, actor, id)
		return err
	})
	return r, err
}

// Verdict is a decision on a report.
type Verdict struct {
	Resolution Resolution
	Note       string // for other operators; at most MaxNote characters
}

// MaxNote is how long a note can be, in characters.
const MaxNote = 2000

const lockReportSQL = `
SELECT target, status
FROM reports
WHERE id = $1 AND target <> $2
FOR UPDATE`

const resolveReportSQL = `
UPDATE reports
SET status = $2, resolution = $3, note = $4, resolved_at = $5, resolved_by = $6, closed_at = LEAST(closed_at, $5)
WHERE id = $1`

// Resolve decides on a report, once; to suspend is part of the same transaction. Its faults
// are not_found, not_pending when it is decided already, and those of Suspend.
func (s *Service) Resolve(ctx context.Context, actor Actor, id uuid.UUID, v Verdict) (r Report, err error) {
	note, err := partner.SanitizeLines(v.Note, MaxNote)
	if err != nil {
		e := fault.Wrap(err, fault.Invalid, "invalid_request", "The request is not valid.")
		e.Fields = []fault.Field{{Pointer: "/note", Code: "too_long", Detail: fmt.Sprintf("At most %d characters of text.", MaxNote)}}
		return Report{}, e
	}
	line := entry{actor: actor, action: permissions["resolveReport"].Action, severity: partner.SeverityNotice, subject: id}
	line.metadata = map[string]string{"resolution": v.Resolution.String()}
	err = s.act(ctx, line, func(tx pgx.Tx, line *entry) error {
		var status ReportStatus
		err := tx.QueryRow(ctx, lockReportSQL, id, actor.UserID).Scan(&line.target, &status)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return errNoReport
		case err != nil:
			return fmt.Errorf("lock report %s: %w", id, err)
		case status != ReportOpen:
			return fault.New(fault.Conflict, "not_pending", "The report is resolved already.")
		}
		if v.Resolution == Suspended {
			ended, err := s.suspendIn(ctx, tx, actor, line.target)
			if err != nil {
				return err
			}
			also := entry{actor: actor, action: permissions["suspendUser"].Action, severity: partner.SeverityWarning, target: line.target, subject: id, ended: ended}
			line.also = append(line.also, also)
		}
		_, err = tx.Exec(ctx, resolveReportSQL, id, ReportResolved, v.Resolution, note, s.now(), actor.id())
		if err != nil {
			return fmt.Errorf("resolve report %s: %w", id, err)
		}
		r, err = s.reportIn(ctx, tx, actor, id)
		return err
	})
	return r, err
}
