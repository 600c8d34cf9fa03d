package ingest

import (
	"context"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/ingest/api"
	"github.com/bondmate/backend/pkg/partner"
)

// DeleteAccount implements DELETE /api/account. Who asks is checked here, before anything
// is queued: the password is in no record, no log and no fingerprint.
func (s *Server) DeleteAccount(ctx context.Context, req api.DeleteAccountRequestObject) (api.DeleteAccountResponseObject, error) {
	var password *string
	if req.Body != nil {
		password = req.Body.Password
	}
	if err := s.confirmOwner(ctx, password); err != nil {
		return nil, err
	}
	return s.carryOut(ctx, call{
		kind: partner.DeleteAccount, prefer: req.Params.Prefer, key: req.Params.IdempotencyKey, secret: true,
		resolve: alone(nil),
	})
}

func (s *Server) confirmOwner(ctx context.Context, password *string) error {
	caller := exchangeOf(ctx).caller
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	err := s.accounts.ConfirmOwner(ctx, accounts.Confirmation{
		UserID: caller.UserID, SessionID: caller.SessionID, Password: password, Address: clientAddress(ctx),
	})
	return s.refused(ctx, caller.UserID, err)
}
