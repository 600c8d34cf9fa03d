package admin

import (
	"context"

	"github.com/bondmate/backend/ingest/api"
)

// Desk is the operators' part of the HTTP API: the generated operations under /api/ops. It
// is reached through Service.Admit alone.
type Desk struct {
	service *Service
}

// NewDesk returns the operations of a service.
func NewDesk(s *Service) *Desk { return &Desk{service: s} }

// ShowUser implements GET /api/ops/users/{id}.
func (d *Desk) ShowUser(ctx context.Context, req api.ShowUserRequestObject) (api.ShowUserResponseObject, error) {
	u, err := d.service.User(ctx, req.Id)
	if err != nil {
		return nil, err
	}
	return api.ShowUser200JSONResponse(userOf(u)), nil
}

func userOf(u User) api.OpsUser {
	shown := api.OpsUser{
		Id: u.ID, DisplayName: u.DisplayName, Role: api.OpsUserRole(u.Role.String()), Tier: api.OpsUserTier(u.Tier.String()),
		Status: api.OpsUserStatus(u.Status.String()), CreatedAt: u.CreatedAt.UTC(),
		Slots:    api.SlotCount{Total: u.Slots.Total, Occupied: u.Slots.Occupied, Vacant: max(u.Slots.Total-u.Slots.Occupied, 0)},
		Sessions: u.Sessions, Devices: u.Devices,
	}
	shown.Reports.About, shown.Reports.Open, shown.Reports.By = u.Reports.About, u.Reports.Open, u.Reports.By
	if u.Email != "" {
		shown.Email = &u.Email
	}
	return shown
}
