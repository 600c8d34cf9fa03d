package admin

import (
	"context"

	"github.com/google/uuid"

	"github.com/bondmate/backend/ingest/api"
)

// Desk is the operators' part of the HTTP API: the generated operations under /api/ops. It
// is reached through Service.Admit alone.
type Desk struct {
	service  *Service
	replayer Replayer
}

// NewDesk returns the operations of a service.
func NewDesk(s *Service, to Replayer) *Desk { return &Desk{service: s, replayer: to} }

// ShowUser implements GET /api/ops/users/{id}.
func (d *Desk) ShowUser(ctx context.Context, req api.ShowUserRequestObject) (api.ShowUserResponseObject, error) {
	u, err := d.service.User(ctx, actorOf(ctx), req.Id)
	if err != nil {
		return nil, err
	}
	return api.ShowUser200JSONResponse(userOf(u)), nil
}

// SuspendUser implements POST /api/ops/users/{id}/suspend.
func (d *Desk) SuspendUser(ctx context.Context, req api.SuspendUserRequestObject) (api.SuspendUserResponseObject, error) {
	u, err := d.service.Suspend(ctx, actorOf(ctx), req.Id)
	if err != nil {
		return nil, err
	}
	return api.SuspendUser200JSONResponse(userOf(u)), nil
}

// UnsuspendUser implements POST /api/ops/users/{id}/unsuspend.
func (d *Desk) UnsuspendUser(ctx context.Context, req api.UnsuspendUserRequestObject) (api.UnsuspendUserResponseObject, error) {
	u, err := d.service.Unsuspend(ctx, actorOf(ctx), req.Id)
	if err != nil {
		return nil, err
	}
	return api.UnsuspendUser200JSONResponse(userOf(u)), nil
}

// SetTier implements PUT /api/ops/users/{id}/tier.
func (d *Desk) SetTier(ctx context.Context, req api.SetTierRequestObject) (api.SetTierResponseObject, error) {
	tier, err := ParseTier(string(req.Body.Tier))
	if err != nil {
		return nil, err
	}
	u, err := d.service.SetTier(ctx, actorOf(ctx), req.Id, tier)
	if err != nil {
		return nil, err
	}
	return api.SetTier200JSONResponse(userOf(u)), nil
}

// SetSlots implements PUT /api/ops/users/{id}/slots.
func (d *Desk) SetSlots(ctx context.Context, req api.SetSlotsRequestObject) (api.SetSlotsResponseObject, error) {
	total := 0
	if req.Body.Total != nil {
		total = *req.Body.Total
	}
	u, err := d.service.SetSlots(ctx, actorOf(ctx), req.Id, total)
	if err != nil {
		return nil, err
	}
	return api.SetSlots200JSONResponse(userOf(u)), nil
}

// ListReports implements GET /api/ops/reports.
func (d *Desk) ListReports(ctx context.Context, req api.ListReportsRequestObject) (api.ListReportsResponseObject, error) {
	var f ReportFilter
	if req.Params.Status != nil {
		var err error
		if f.Status, err = ParseReportStatus(string(*req.Params.Status)); err != nil {
			return nil, err
		}
	}
	if req.Params.Cursor != nil {
		f.Cursor = *req.Params.Cursor
	}
	if req.Params.Limit != nil {
		f.Limit = *req.Params.Limit
	}
	list, next, err := d.service.Reports(ctx, actorOf(ctx), f)
	if err != nil {
		return nil, err
	}
	answer := api.ListReports200JSONResponse{Reports: make([]api.OpsReport, len(list))}
	for i, r := range list {
		answer.Reports[i] = reportOf(r)
	}
	if next != "" {
		answer.NextCursor = &next
	}
	return answer, nil
}

// ShowReport implements GET /api/ops/reports/{id}.
func (d *Desk) ShowReport(ctx context.Context, req api.ShowReportRequestObject) (api.ShowReportResponseObject, error) {
	r, err := d.service.Report(ctx, actorOf(ctx), req.Id)
	if err != nil {
		return nil, err
	}
	return api.ShowReport200JSONResponse(reportOf(r)), nil
}

// ResolveReport implements POST /api/ops/reports/{id}/resolve.
func (d *Desk) ResolveReport(ctx context.Context, req api.ResolveReportRequestObject) (api.ResolveReportResponseObject, error) {
	var v Verdict
	var err error
	if v.Resolution, err = ParseResolution(string(req.Body.Resolution)); err != nil {
		return nil, err
	}
	if req.Body.Note != nil {
		v.Note = *req.Body.Note
	}
	r, err := d.service.Resolve(ctx, actorOf(ctx), req.Id, v)
	if err != nil {
		return nil, err
	}
	return api.ResolveReport200JSONResponse(reportOf(r)), nil
}

func reportOf(r Report) api.OpsReport {
	person := func(p Person) api.OpsPerson {
		return api.OpsPerson{Id: p.ID, DisplayName: p.DisplayName, Status: api.OpsUserStatus(p.Status.String())}
	}
	shown := api.OpsReport{
		Id: r.ID, Reporter: person(r.Reporter), Target: person(r.Target), Reason: r.Reason, CreatedAt: r.CreatedAt,
		Status: api.OpsReportStatus(r.Status.String()), Others: r.Others,
	}
	if r.Detail != "" {
		shown.Detail = &r.Detail
	}
	if r.Note != "" {
		shown.Note = &r.Note
	}
	if r.Status == ReportResolved {
		resolution := api.OpsReportResolution(r.Resolution.String())
		shown.Resolution, shown.ResolvedAt = &resolution, &r.ResolvedAt
		if r.ResolvedBy != uuid.Nil {
			shown.ResolvedBy = &r.ResolvedBy
		}
	}
	return shown
}

func userOf(u User) api.OpsUser {
	shown := api.OpsUser{
		Id: u.ID, DisplayName: u.DisplayName, Role: api.OpsUserRole(u.Role.String()), Tier: api.OpsUserTier(u.Tier.String()),
		Status: api.OpsUserStatus(u.Status.String()), CreatedAt: u.CreatedAt.UTC(),
		Slots:    api.SlotCount{Total: u.Slots.Total, Occupied: u.Slots.Occupied, Vacant: max(u.Slots.Total-u.Slots.Occupied, 0)},
		Sessions: u.Sessions, Devices: u.Devices,
	}
	shown.Reports.About, shown.Reports.Open, shown.Reports.By = u.Reports.About, u.Reports.Open, u.Reports.By
	if u.SlotsSet > 0 {
		shown.SlotsSet = &u.SlotsSet
	}
	if u.Email != "" {
		shown.Email = &u.Email
	}
	return shown
}
