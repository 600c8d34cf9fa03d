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

// SetNickname implements POST /api/nicknames.
func (s *Server) SetNickname(ctx context.Context, req api.SetNicknameRequestObject) (api.SetNicknameResponseObject, error) {
	nickname, err := name("/nickname", req.Body.Nickname, s.limits.NicknameMaxLen)
	if err != nil {
		return nil, err
	}
	return s.carryOut(ctx, call{
		kind: partner.SetNickname, prefer: req.Params.Prefer, key: req.Params.IdempotencyKey,
		resolve: about(req.Body.TargetUserId, func(cmd *partner.Command) { cmd.Nickname = nickname }),
	})
}

// ClearNickname implements DELETE /api/nicknames/{targetUserId}.
func (s *Server) ClearNickname(ctx context.Context, req api.ClearNicknameRequestObject) (api.ClearNicknameResponseObject, error) {
	return s.carryOut(ctx, call{
		kind: partner.ClearNickname, prefer: req.Params.Prefer, key: req.Params.IdempotencyKey,
		resolve: about(req.TargetUserId, nil),
	})
}

const selectNickname = `
SELECT target, nickname, updated_at
FROM nicknames
WHERE owner = $1 AND target = $2`

// GetNickname implements GET /api/nicknames/{targetUserId}, for its owner alone.
func (s *Server) GetNickname(ctx context.Context, req api.GetNicknameRequestObject) (api.GetNicknameResponseObject, error) {
	owner := exchangeOf(ctx).caller.UserID
	list, err := query(ctx, s.db, scanNickname, selectNickname, owner, req.TargetUserId)
	if err != nil {
		return nil, fmt.Errorf("load nickname of %s for %s: %w", owner, req.TargetUserId, err)
	}
	if len(list) == 0 {
		return nil, notFound("You have no nickname for this user.")
	}
	return api.GetNickname200JSONResponse(list[0]), nil
}

const selectNicknames = `
SELECT target, nickname, updated_at
FROM nicknames
WHERE owner = $1 AND updated_at <= $2 AND (updated_at < $2 OR target > $3)
ORDER BY updated_at DESC, target LIMIT $4`

// ListNicknames implements GET /api/nicknames.
func (s *Server) ListNicknames(ctx context.Context, req api.ListNicknamesRequestObject) (api.ListNicknamesResponseObject, error) {
	own := listing[api.Nickname]{read: listNicknames, place: func(n api.Nickname) (time.Time, uuid.UUID) {
		return n.UpdatedAt, n.TargetUserId
	}}
	list, next, err := own.page(ctx, s.db, req.Params.Cursor, req.Params.Limit)
	if err != nil {
		return nil, err
	}
	return api.ListNicknames200JSONResponse{Nicknames: list, NextCursor: next}, nil
}

// listNicknames returns a page of those that a user has given, and one more row when there
// is a next page.
func listNicknames(ctx context.Context, q querier, owner uuid.UUID, p page) ([]api.Nickname, error) {
	list, err := collect(ctx, q, scanNickname, selectNicknames, owner, p.at, p.id, p.limit+1)
	if err != nil {
		return nil, fmt.Errorf("list nicknames of %s: %w", owner, err)
	}
	return list, nil
}

func scanNickname(row pgx.CollectableRow) (api.Nickname, error) {
	var n api.Nickname
	err := row.Scan(&n.TargetUserId, &n.Nickname, &n.UpdatedAt)
	n.UpdatedAt = n.UpdatedAt.UTC()
	return n, err
}
