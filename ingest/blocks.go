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

// BlockUser implements PUT …/blocks/{userId}. Nothing here looks at the other side: that a
// call about somebody was accepted must not tell how they stand to the caller.
func (s *Server) BlockUser(ctx context.Context, req api.BlockUserRequestObject) (api.BlockUserResponseObject, error) {
	return s.carryOut(ctx, call{
		kind: partner.Block, prefer: req.Params.Prefer, key: req.Params.IdempotencyKey,
		resolve: about(req.UserId, nil),
	})
}

// UnblockUser implements DELETE …/blocks/{userId}.
func (s *Server) UnblockUser(ctx context.Context, req api.UnblockUserRequestObject) (api.UnblockUserResponseObject, error) {
	return s.carryOut(ctx, call{
		kind: partner.Unblock, prefer: req.Params.Prefer, key: req.Params.IdempotencyKey,
		resolve: about(req.UserId, nil),
	})
}

const selectBlocks = `
SELECT u.id, u.display_name, b.blocked_at
FROM pair_sides b JOIN users u ON u.id = b.other_id
WHERE b.user_id = $1 AND b.blocked_at IS NOT NULL
  AND b.blocked_at <= $2 AND (b.blocked_at < $2 OR b.other_id > $3)
ORDER BY b.blocked_at DESC, b.other_id LIMIT $4`

// ListBlocks implements GET …/blocks.
func (s *Server) ListBlocks(ctx context.Context, req api.ListBlocksRequestObject) (api.ListBlocksResponseObject, error) {
	own := listing[api.Block]{read: listBlocks, place: func(b api.Block) (time.Time, uuid.UUID) {
		return b.CreatedAt, b.User.Id
	}}
	list, next, err := own.page(ctx, s.db, req.Params.Cursor, req.Params.Limit)
	if err != nil {
		return nil, err
	}
	return api.ListBlocks200JSONResponse{Blocks: list, NextCursor: next}, nil
}

// listBlocks returns a page of those whom a user blocks, and one more row when there is a
// next page.
func listBlocks(ctx context.Context, q querier, user uuid.UUID, p page) ([]api.Block, error) {
	list, err := collect(ctx, q, func(row pgx.CollectableRow) (api.Block, error) {
		var b api.Block
		err := row.Scan(&b.User.Id, &b.User.DisplayName, &b.CreatedAt)
		b.CreatedAt = b.CreatedAt.UTC()
		return b, err
	}, selectBlocks, user, p.at, p.id, p.limit+1)
	if err != nil {
		return nil, fmt.Errorf("list blocks of %s: %w", user, err)
	}
	return list, nil
}
