package ingest

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/ingest/api"
	"github.com/bondmate/backend/pkg/partner"
)

// GetProfile implements GET /api/profile.
func (s *Server) GetProfile(ctx context.Context, _ api.GetProfileRequestObject) (api.GetProfileResponseObject, error) {
	var profile accounts.Profile
	err := s.db.with(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		profile, err = s.accounts.ProfileIn(ctx, conn, exchangeOf(ctx).caller.UserID)
		return err
	})
	if err != nil {
		return nil, err
	}
	return api.GetProfile200JSONResponse(profileOf(profile)), nil
}

func profileOf(p accounts.Profile) api.Profile {
	return api.Profile{
		Id: p.ID, DisplayName: p.DisplayName, PartnerCode: p.PartnerCode,
		Theme: p.Theme, Timezone: p.Timezone, Locale: p.Locale, Tier: api.ProfileTier(p.Tier),
		Slots:   api.SlotCount{Total: p.Slots.Total, Occupied: p.Slots.Occupied, Vacant: p.Slots.Vacant},
		Privacy: api.Privacy{Presence: p.Privacy.Presence, Preview: p.Privacy.Preview},
		Seq:     p.Seq,
	}
}

// Sync implements GET /api/sync: all of it as of one moment, which is seq.
func (s *Server) Sync(ctx context.Context, _ api.SyncRequestObject) (api.SyncResponseObject, error) {
	user := exchangeOf(ctx).caller.UserID
	var answer api.Sync200JSONResponse
	err := s.db.snapshot(ctx, func(ctx context.Context, tx pgx.Tx) error {
		state, err := loadInboxState(ctx, tx, user)
		if err != nil {
			return err
		}
		profile, err := s.accounts.ProfileIn(ctx, tx, user)
		if err != nil {
			return err
		}
		answer.Seq, answer.Epoch, answer.Profile = state.last, state.epoch, profileOf(profile)
		answer.Slots, answer.Preferences.Preview = answer.Profile.Slots, profile.Privacy.Preview
		if answer.Partners, err = listPartnerships(ctx, tx, user); err != nil {
			return err
		}
		first, err := pageOf(nil, nil)
		if err != nil {
			return err
		}
		first.limit = maxSyncRequests
		pending := requestFilter{viewer: user, status: partner.RequestPending, now: s.clock()}
		answer.Requests, err = listRequests(ctx, tx, pending, first)
		answer.Requests = answer.Requests[:min(len(answer.Requests), maxSyncRequests)]
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("snapshot of %s: %w", user, err)
	}
	return answer, nil
}

// SearchByCode implements GET …/search.
func (s *Server) SearchByCode(ctx context.Context, req api.SearchByCodeRequestObject) (api.SearchByCodeResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	person, err := s.accounts.FindByPartnerCode(ctx, req.Params.Code)
	if err != nil {
		return nil, err
	}
	return api.SearchByCode200JSONResponse{User: api.Person{Id: person.ID, DisplayName: person.DisplayName}}, nil
}
