package admin

import (
	"context"
	"time"

	"github.com/bondmate/backend/ingest/api"
)

// ListApiKeys implements GET /api/ops/api-keys.
func (d *Desk) ListApiKeys(ctx context.Context, _ api.ListApiKeysRequestObject) (api.ListApiKeysResponseObject, error) {
	list, err := d.service.APIKeys(ctx, actorOf(ctx))
	if err != nil {
		return nil, err
	}
	answer := api.ListApiKeys200JSONResponse{ApiKeys: make([]api.ApiKey, len(list))}
	for i, k := range list {
		answer.ApiKeys[i] = k.model(d.service.now())
	}
	return answer, nil
}

// CreateApiKey implements POST /api/ops/api-keys.
func (d *Desk) CreateApiKey(ctx context.Context, req api.CreateApiKeyRequestObject) (api.CreateApiKeyResponseObject, error) {
	order := KeyOrder{Name: req.Body.Name, ExpiresAt: req.Body.ExpiresAt}
	for _, name := range req.Body.Scopes {
		order.Scopes = append(order.Scopes, Scope(name))
	}
	k, secret, err := d.service.CreateKey(ctx, actorOf(ctx), order)
	if err != nil {
		return nil, err
	}
	return api.CreateApiKey201JSONResponse{Key: secret, ApiKey: k.model(d.service.now())}, nil
}

// RotateApiKey implements POST /api/ops/api-keys/{id}/rotate.
func (d *Desk) RotateApiKey(ctx context.Context, req api.RotateApiKeyRequestObject) (api.RotateApiKeyResponseObject, error) {
	grace := KeyGrace
	if req.Body != nil && req.Body.GraceSeconds != nil {
		grace = time.Duration(*req.Body.GraceSeconds) * time.Second
	}
	k, secret, err := d.service.RotateKey(ctx, actorOf(ctx), req.Id, grace)
	if err != nil {
		return nil, err
	}
	return api.RotateApiKey200JSONResponse{Key: secret, ApiKey: k.model(d.service.now())}, nil
}

// RevokeApiKey implements POST /api/ops/api-keys/{id}/revoke.
func (d *Desk) RevokeApiKey(ctx context.Context, req api.RevokeApiKeyRequestObject) (api.RevokeApiKeyResponseObject, error) {
	k, err := d.service.RevokeKey(ctx, actorOf(ctx), req.Id)
	if err != nil {
		return nil, err
	}
	return api.RevokeApiKey200JSONResponse(k.model(d.service.now())), nil
}

func (k APIKey) model(now time.Time) api.ApiKey {
	shown := api.ApiKey{
		Id: k.ID, Name: k.Name, Scopes: make([]api.ApiKeyScope, len(k.Scopes)), Status: api.ApiKeyStatus(k.Status(now)),
		CreatedAt: k.CreatedAt.UTC(), CreatedBy: k.CreatedBy,
		ExpiresAt: utc(k.ExpiresAt), RotatedAt: utc(k.RotatedAt), LastUsedAt: utc(k.LastUsedAt), RevokedAt: utc(k.RevokedAt),
	}
	for i, s := range k.Scopes {
		shown.Scopes[i] = api.ApiKeyScope(s)
	}
	if k.OldUntil != nil && now.Before(*k.OldUntil) && k.Status(now) == KeyLive {
		shown.OldUntil = utc(k.OldUntil)
	}
	return shown
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}
