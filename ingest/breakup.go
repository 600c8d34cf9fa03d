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

// RequestBreakup implements POST …/breakup.
func (s *Server) RequestBreakup(ctx context.Context, req api.RequestBreakupRequestObject) (api.RequestBreakupResponseObject, error) {
	var body api.BreakupRequest
	if req.Body != nil {
		body = *req.Body
	}
	reason, err := s.sanitised("/reason", body.Reason)
	if err != nil {
		return nil, err
	}
	return s.carryOut(ctx, call{
		kind: partner.AskBreakup, prefer: req.Params.Prefer, key: req.Params.IdempotencyKey,
		resolve: func(ctx context.Context, in *intent, cmd *partner.Command) (time.Duration, error) {
			pair, waited, err := s.pairToPart(ctx, in, body.PartnershipId)
			if err != nil {
				return waited, err
			}
			cmd.Pair, cmd.Reason = pair, reason
			if body.PartnershipId != nil {
				cmd.PartnershipID = *body.PartnershipId
			}
			return waited, nil
		},
	})
}

// AcceptBreakup implements PUT …/breakup/{breakupId}/accept.
func (s *Server) AcceptBreakup(ctx context.Context, req api.AcceptBreakupRequestObject) (api.AcceptBreakupResponseObject, error) {
	return s.carryOut(ctx, call{
		kind: partner.AcceptBreakup, prefer: req.Params.Prefer, key: req.Params.IdempotencyKey,
		resolve: s.onBreakup(req.BreakupId),
	})
}

// RejectBreakup implements PUT …/breakup/{breakupId}/reject.
func (s *Server) RejectBreakup(ctx context.Context, req api.RejectBreakupRequestObject) (api.RejectBreakupResponseObject, error) {
	return s.carryOut(ctx, call{
		kind: partner.DeclineBreakup, prefer: req.Params.Prefer, key: req.Params.IdempotencyKey,
		resolve: s.onBreakup(req.BreakupId),
	})
}

// WithdrawBreakup implements DELETE …/breakup/{breakupId}.
func (s *Server) WithdrawBreakup(ctx context.Context, req api.WithdrawBreakupRequestObject) (api.WithdrawBreakupResponseObject, error) {
	return s.carryOut(ctx, call{
		kind: partner.WithdrawBreakup, prefer: req.Params.Prefer, key: req.Params.IdempotencyKey,
		resolve: s.onBreakup(req.BreakupId),
	})
}

// onBreakup completes a command about a breakup, as onRequest does about a request.
func (s *Server) onBreakup(id uuid.UUID) func(context.Context, *intent, *partner.Command) (time.Duration, error) {
	return func(ctx context.Context, in *intent, cmd *partner.Command) (time.Duration, error) {
		pair, ok := s.commander.pairs.get(id)
		var waited time.Duration
		if !ok {
			var err error
			waited, ok, err = s.lookTwice(ctx, in.wait, func(ctx context.Context) (found bool, err error) {
				pair, found, err = s.store.breakupPair(ctx, id)
				return found, err
			})
			if err != nil {
				return waited, err
			}
			if ok {
				s.commander.pairs.put(id, pair)
			}
		}
		if !ok || !pair.Has(in.issuer) {
			return waited, notFound("There is no such breakup.")
		}
		cmd.Pair, cmd.BreakupID = pair, id
		return waited, nil
	}
}

// maxBreakups bounds the list: a user has one for each partnership at most.
const maxBreakups = 100

// Until the processor has applied the end, a breakup that is overdue still reads as
// pending: what it ends is active until then, too.
const selectBreakups = `
SELECT b.id, b.partnership_id, u.id, u.display_name, b.asker = $1, CASE WHEN b.asker = $1 THEN b.reason ELSE '' END,
       b.created_at, b.expires_at
FROM partnership_members m
JOIN partnerships p ON p.id = m.partnership_id
JOIN breakups b ON b.low = p.low AND b.high = p.high AND b.status = 1
JOIN users u ON u.id = CASE WHEN b.low = $1 THEN b.high ELSE b.low END
WHERE m.user_id = $1 AND m.active
ORDER BY b.expires_at, b.id LIMIT $2`

// listBreakups returns a user's open breakups, the earliest end first.
func listBreakups(ctx context.Context, q querier, user uuid.UUID) ([]api.Breakup, error) {
	list, err := collect(ctx, q, func(row pgx.CollectableRow) (api.Breakup, error) {
		b := api.Breakup{Status: api.BreakupStatusPending}
		var reason string
		err := row.Scan(&b.Id, &b.PartnershipId, &b.User.Id, &b.User.DisplayName, &b.ByYou, &reason, &b.RequestedAt, &b.EndsAt)
		b.Reason, b.RequestedAt, b.EndsAt = optional(reason), b.RequestedAt.UTC(), b.EndsAt.UTC()
		return b, err
	}, selectBreakups, user, maxBreakups)
	if err != nil {
		return nil, fmt.Errorf("list breakups of %s: %w", user, err)
	}
	return list, nil
}

// GetBreakupStatus implements GET …/breakup-status.
func (s *Server) GetBreakupStatus(ctx context.Context, _ api.GetBreakupStatusRequestObject) (api.GetBreakupStatusResponseObject, error) {
	var answer api.GetBreakupStatus200JSONResponse
	err := s.db.with(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		answer.Breakups, err = listBreakups(ctx, conn, exchangeOf(ctx).caller.UserID)
		return err
	})
	if err != nil {
		return nil, err
	}
	answer.Breakup = first(answer.Breakups)
	return answer, nil
}

// first returns the first of a list, or nil.
func first[T any](list []T) *T {
	if len(list) == 0 {
		return nil
	}
	return &list[0]
}
