package ingest

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	openapitypes "github.com/oapi-codegen/runtime/types"

	"github.com/bondmate/backend/ingest/api"
	"github.com/bondmate/backend/ingest/journal"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/partner"
)

// maxExports bounds the exports under way: each holds a whole account in memory.
const maxExports = 2

// ExportAccount implements GET /api/account/export: everything that the caller gave or was
// shown, as of one moment. It is made of what the caller's own reads answer, so that what
// others wrote about them (blocks, doors, reports, nicknames, reasons) cannot get into it.
func (s *Server) ExportAccount(ctx context.Context, _ api.ExportAccountRequestObject) (api.ExportAccountResponseObject, error) {
	select {
	case s.exports <- struct{}{}:
		defer func() { <-s.exports }()
	default:
		return nil, fault.New(fault.Unavailable, "overloaded", "Other exports are under way; try again.")
	}
	caller := exchangeOf(ctx).caller
	var file api.Export
	err := s.db.snapshot(ctx, func(ctx context.Context, tx pgx.Tx) (err error) {
		file, err = s.export(ctx, tx, caller.UserID, caller.SessionID)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("export account %s: %w", caller.UserID, err)
	}
	// Taken down before it is handed over: an export that nobody finds later is given to nobody.
	if _, err := s.record(ctx, journal.Entry{Actor: caller.UserID, Action: "account.export", Severity: partner.SeverityNotice}, nothing); err != nil {
		return nil, fmt.Errorf("export account %s: %w", caller.UserID, err)
	}
	name := fmt.Sprintf(`attachment; filename="bondmate-%s.json"`, file.ExportedAt.Format(time.DateOnly))
	return api.ExportAccount200JSONResponse{Body: file, Headers: api.ExportAccount200ResponseHeaders{ContentDisposition: &name}}, nil
}

func (s *Server) export(ctx context.Context, tx pgx.Tx, user, session uuid.UUID) (file api.Export, err error) {
	now := s.clock().UTC()
	all := page{at: endOfTime, limit: math.MaxInt32 - 1}
	file.ExportedAt = now
	record, err := s.accounts.RecordIn(ctx, tx, user)
	if err != nil {
		return file, err
	}
	file.Account = api.ExportedAccount{Email: optional(record.Email), CreatedAt: record.CreatedAt.UTC()}
	if record.Email != "" {
		file.Account.EmailVerified = &record.Verified
	}
	if record.BirthDate != nil {
		file.Account.BirthDate = &openapitypes.Date{Time: *record.BirthDate}
	}
	if at := utc(record.ConsentedAt); at != nil {
		file.Account.Consent = &api.ExportedConsent{Version: record.Consent, At: *at}
	}
	if len(record.Firebase) > 0 {
		links := make([]api.ExportedFirebaseLink, len(record.Firebase))
		for i, l := range record.Firebase {
			links[i] = api.ExportedFirebaseLink{Subject: l.Subject, LinkedAt: l.LinkedAt.UTC()}
		}
		file.Account.Firebase = &links
	}
	profile, err := s.accounts.ProfileIn(ctx, tx, user)
	if err != nil {
		return file, err
	}
	file.Profile = profileOf(profile)
	wanted, err := loadPreferences(ctx, tx, user)
	if err != nil {
		return file, err
	}
	file.Preferences = preferencesOf(wanted)
	sessions, err := s.accounts.SessionsIn(ctx, tx, user, session)
	if err != nil {
		return file, err
	}
	file.Sessions = sessionsOf(sessions)
	devices, err := s.accounts.DevicesIn(ctx, tx, user)
	if err != nil {
		return file, err
	}
	file.Devices = pushDevicesOf(devices)
	if file.Partners, err = listPartnerships(ctx, tx, user); err != nil {
		return file, err
	}
	if file.History, err = listEnded(ctx, tx, endedFilter{viewer: user, now: now}, all); err != nil {
		return file, err
	}
	if file.Breakups, err = allBreakups(ctx, tx, user); err != nil {
		return file, err
	}
	if file.Requests, err = listRequests(ctx, tx, requestFilter{viewer: user, now: now}, all); err != nil {
		return file, err
	}
	if file.Nicknames, err = listNicknames(ctx, tx, user, all); err != nil {
		return file, err
	}
	if file.Blocks, err = listBlocks(ctx, tx, user, all); err != nil {
		return file, err
	}
	if file.Reports, err = listReports(ctx, tx, user); err != nil {
		return file, err
	}
	if file.Activity, err = listActivity(ctx, tx, user, all); err != nil {
		return file, err
	}
	file.Notifications, err = listNotifications(ctx, tx, user, 0, math.MaxInt32)
	return file, err
}

const selectAllBreakups = `
SELECT b.id, b.partnership_id, u.id, u.display_name, b.asker = $1, b.status,
       CASE WHEN b.asker = $1 THEN b.reason ELSE '' END, b.created_at, b.expires_at, b.resolved_at
FROM partnership_members m
JOIN partnerships p ON p.id = m.partnership_id
JOIN breakups b ON b.low = p.low AND b.high = p.high AND b.partnership_id = p.id
JOIN users u ON u.id = CASE WHEN b.low = $1 THEN b.high ELSE b.low END
WHERE m.user_id = $1 AND (m.deleted_at IS NULL OR p.ended_at IS NULL OR m.deleted_at < p.ended_at)
ORDER BY b.created_at DESC, b.id`

// allBreakups returns every breakup of a user's partnerships, the newest first.
func allBreakups(ctx context.Context, q querier, user uuid.UUID) ([]api.ExportedBreakup, error) {
	list, err := collect(ctx, q, func(row pgx.CollectableRow) (api.ExportedBreakup, error) {
		var b api.ExportedBreakup
		var status int16
		var reason string
		err := row.Scan(&b.Id, &b.PartnershipId, &b.User.Id, &b.User.DisplayName, &b.ByYou, &status, &reason,
			&b.RequestedAt, &b.EndsAt, &b.ResolvedAt)
		b.Status, b.Reason = api.ExportedBreakupStatus(partner.BreakupStatus(status).String()), optional(reason)
		b.RequestedAt, b.EndsAt, b.ResolvedAt = b.RequestedAt.UTC(), b.EndsAt.UTC(), utc(b.ResolvedAt)
		return b, err
	}, selectAllBreakups, user)
	if err != nil {
		return nil, fmt.Errorf("list all breakups of %s: %w", user, err)
	}
	return list, nil
}

const selectReports = `
SELECT id, target, reason, detail, created_at
FROM reports
WHERE reporter = $1
ORDER BY created_at DESC, id`

// listReports returns the reports that a user has made, the last first.
func listReports(ctx context.Context, q querier, reporter uuid.UUID) ([]api.ExportedReport, error) {
	list, err := collect(ctx, q, func(row pgx.CollectableRow) (api.ExportedReport, error) {
		var r api.ExportedReport
		var detail string
		err := row.Scan(&r.Id, &r.TargetUserId, &r.Reason, &detail, &r.CreatedAt)
		r.Detail, r.CreatedAt = optional(detail), r.CreatedAt.UTC()
		return r, err
	}, selectReports, reporter)
	if err != nil {
		return nil, fmt.Errorf("list reports of %s: %w", reporter, err)
	}
	return list, nil
}
