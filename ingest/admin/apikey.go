package admin

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/partner"
)

// APIKey is a server's key without the secret, which nobody has kept.
type APIKey struct {
	ID         uuid.UUID
	Name       string
	Scopes     []string
	CreatedAt  time.Time
	CreatedBy  string     // user:<id>, or operator:<whoever was at the console>
	ExpiresAt  *time.Time // nil: it does not
	RotatedAt  *time.Time // the last time; nil: never
	OldUntil   *time.Time // until when what servers had before that is good
	LastUsedAt *time.Time // to the minute; nil: never
	RevokedAt  *time.Time
}

// KeyStatus is whether a key is good.
type KeyStatus string

// The statuses of a key.
const (
	KeyLive    KeyStatus = "live"
	KeyExpired KeyStatus = "expired"
	KeyRevoked KeyStatus = "revoked"
)

// Status returns whether the key is good at a time.
func (k APIKey) Status(now time.Time) KeyStatus {
	switch {
	case k.RevokedAt != nil:
		return KeyRevoked
	case k.ExpiresAt != nil && !now.Before(*k.ExpiresAt):
		return KeyExpired
	default:
		return KeyLive
	}
}

// KeyOrder is a wish for a key.
type KeyOrder struct {
	Name      string
	Scopes    []Scope
	ExpiresAt *time.Time // nil: it does not
}

const (
	// KeyGrace is how long what a key was before a rotation is good, unless it is said.
	KeyGrace = 24 * time.Hour
	// MaxKeyGrace is the most that can be said.
	MaxKeyGrace = 7 * 24 * time.Hour
)

// keyName is what a key can be called: it is shown in logs, and typed.
var keyName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func (o KeyOrder) check(now time.Time) error {
	var wrong []fault.Field
	if !keyName.MatchString(o.Name) || uuid.Validate(o.Name) == nil {
		wrong = append(wrong, fault.Field{Pointer: "/name", Code: "wrong_format", Detail: "1 to 64 letters, digits, dots, hyphens and underscores, with a letter or digit first; no id."})
	}
	if len(o.Scopes) == 0 {
		wrong = append(wrong, fault.Field{Pointer: "/scopes", Code: "required", Detail: "A key without a scope can do nothing."})
	}
	for i, s := range o.Scopes {
		if _, err := ParseScope(string(s)); err != nil {
			wrong = append(wrong, fault.Field{Pointer: fmt.Sprintf("/scopes/%d", i), Code: "not_allowed", Detail: "There is no such scope."})
		}
	}
	if o.ExpiresAt != nil && !o.ExpiresAt.After(now) {
		wrong = append(wrong, fault.Field{Pointer: "/expiresAt", Code: "out_of_range", Detail: "It is not in the future."})
	}
	return notValid(wrong)
}

func notValid(wrong []fault.Field) error {
	if len(wrong) == 0 {
		return nil
	}
	e := fault.New(fault.Invalid, "invalid_request", "The request is not valid.")
	e.Fields = wrong
	return e
}

const keyColumns = `id, name, scopes, created_at, created_by, expires_at, rotated_at, old_until, last_used_at, revoked_at`

func scanKey(row pgx.CollectableRow) (APIKey, error) {
	var k APIKey
	err := row.Scan(&k.ID, &k.Name, &k.Scopes, &k.CreatedAt, &k.CreatedBy, &k.ExpiresAt, &k.RotatedAt, &k.OldUntil, &k.LastUsedAt, &k.RevokedAt)
	return k, err
}

const listKeysSQL = `
SELECT ` + keyColumns + `
FROM api_keys
ORDER BY revoked_at DESC NULLS FIRST, created_at, id
LIMIT $1`

// APIKeys lists the keys, those that are revoked last, of these the newest.
func (s *Service) APIKeys(ctx context.Context, actor Actor) (list []APIKey, err error) {
	line := entry{actor: actor, action: permissions["listApiKeys"].Action, severity: partner.SeverityInfo}
	err = s.act(ctx, line, func(tx pgx.Tx, _ *entry) error {
		rows, err := tx.Query(ctx, listKeysSQL, 2*maxKeys)
		if err != nil {
			return fmt.Errorf("list API keys: %w", err)
		}
		if list, err = pgx.CollectRows(rows, scanKey); err != nil {
			return fmt.Errorf("list API keys: %w", err)
		}
		return nil
	})
	return list, err
}

const findKeySQL = `
SELECT id
FROM api_keys
WHERE name = $1 AND revoked_at IS NULL`

var errNoKey = fault.New(fault.NotFound, "not_found", "There is no such key.")

// FindKey returns the id of the key with this name that is not revoked, or whose id it is.
// It says nothing of whether an id is any key's.
func (s *Service) FindKey(ctx context.Context, ref string) (uuid.UUID, error) {
	if id, err := uuid.Parse(ref); err == nil {
		return id, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Within)
	defer cancel()
	var id uuid.UUID
	err := s.pool.QueryRow(ctx, findKeySQL, ref).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return uuid.Nil, errNoKey
	}
	if err != nil {
		return uuid.Nil, fmt.Errorf("find API key: %w", err)
	}
	return id, nil
}

// One at a time, so that there are never more than the bound says.
const lockKeysSQL = `LOCK TABLE api_keys IN SHARE ROW EXCLUSIVE MODE`

const countKeysSQL = `SELECT count(*) FROM api_keys WHERE revoked_at IS NULL`

const insertKeySQL = `
INSERT INTO api_keys (id, name, scopes, hash, created_at, created_by, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
RETURNING ` + keyColumns

// CreateKey makes a key and returns it with its secret, which is not kept and cannot be
// shown again. A name that a key has which is not revoked is taken.
func (s *Service) CreateKey(ctx context.Context, actor Actor, o KeyOrder) (k APIKey, secret string, err error) {
	if err := o.check(s.now()); err != nil {
		return APIKey{}, "", err
	}
	var scopes []string
	for _, scope := range o.Scopes {
		if !slices.Contains(scopes, string(scope)) {
			scopes = append(scopes, string(scope))
		}
	}
	slices.Sort(scopes)
	id := uuid.New()
	secret, hash := identity.NewAPIKey(id)
	line := entry{actor: actor, action: permissions["createApiKey"].Action, severity: partner.SeverityWarning, subject: id}
	line.metadata = map[string]string{"name": o.Name, "scopes": fmt.Sprint(scopes)}
	err = s.act(ctx, line, func(tx pgx.Tx, _ *entry) error {
		if _, err := tx.Exec(ctx, lockKeysSQL); err != nil {
			return fmt.Errorf("lock API keys: %w", err)
		}
		var n int
		if err := tx.QueryRow(ctx, countKeysSQL).Scan(&n); err != nil {
			return fmt.Errorf("count API keys: %w", err)
		}
		if n >= maxKeys {
			return fault.New(fault.Invalid, "invalid_request", fmt.Sprintf("There are %d keys, the most that there can be. Revoke one first.", n))
		}
		rows, err := tx.Query(ctx, insertKeySQL, id, o.Name, scopes, hash, s.now(), actor.name(), o.ExpiresAt)
		if err == nil {
			k, err = pgx.CollectExactlyOneRow(rows, scanKey)
		}
		if taken, ok := errors.AsType[*pgconn.PgError](err); ok && taken.ConstraintName == "api_keys_name" {
			return notValid([]fault.Field{{Pointer: "/name", Code: "taken", Detail: "A key has that name. Revoke it, or rotate it."}})
		}
		if err != nil {
			return fmt.Errorf("insert API key %s: %w", id, err)
		}
		return nil
	})
	if err != nil {
		return APIKey{}, "", err
	}
	s.keys.forget()
	return k, secret, nil
}

// What servers have is what was used: of a rotation whose answer was lost nobody has
// anything, and the next one must not end what they go on using.
const rotateKeySQL = `
UPDATE api_keys
SET hash = $2, hash_used_at = NULL, old_hash = CASE WHEN hash_used_at IS NULL AND old_until > $4 THEN old_hash ELSE hash END,
    old_until = $3, rotated_at = $4
WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $4)
RETURNING ` + keyColumns

// RotateKey gives a key a new secret and returns that; what the key was before is good for
// grace longer, at most MaxKeyGrace: with none it ends at once, as it must when somebody
// else has it. Of what was granted by a rotation before, the one that was used last stays;
// so rotating again after an answer that was lost harms nobody. Name, scopes and expiry
// stay. A key that is not live is the fault not_found.
func (s *Service) RotateKey(ctx context.Context, actor Actor, id uuid.UUID, grace time.Duration) (k APIKey, secret string, err error) {
	if grace < 0 || grace > MaxKeyGrace {
		return APIKey{}, "", notValid([]fault.Field{{Pointer: "/graceSeconds", Code: "out_of_range", Detail: fmt.Sprintf("Between 0 and %.0f.", MaxKeyGrace.Seconds())}})
	}
	secret, hash := identity.NewAPIKey(id)
	line := entry{actor: actor, action: permissions["rotateApiKey"].Action, severity: partner.SeverityNotice, subject: id}
	line.metadata = map[string]string{"grace": grace.String()}
	err = s.act(ctx, line, func(tx pgx.Tx, _ *entry) error {
		now := s.now()
		k, err = keyIn(ctx, tx, rotateKeySQL, id, hash, now.Add(grace), now)
		return err
	})
	if err != nil {
		return APIKey{}, "", err
	}
	s.keys.forget()
	return k, secret, nil
}

func keyIn(ctx context.Context, tx pgx.Tx, sql string, id uuid.UUID, args ...any) (APIKey, error) {
	rows, err := tx.Query(ctx, sql, append([]any{id}, args...)...)
	if err != nil {
		return APIKey{}, fmt.Errorf("change API key %s: %w", id, err)
	}
	k, err := pgx.CollectExactlyOneRow(rows, scanKey)
	if errors.Is(err, pgx.ErrNoRows) {
		return APIKey{}, errNoKey
	}
	if err != nil {
		return APIKey{}, fmt.Errorf("change API key %s: %w", id, err)
	}
	return k, nil
}

const revokeKeySQL = `
UPDATE api_keys
SET revoked_at = COALESCE(revoked_at, $2)
WHERE id = $1
RETURNING ` + keyColumns

// RevokeKey ends a key: at once on this instance, within Config.KeysFor on the others.
// Revoking one that is revoked changes nothing.
func (s *Service) RevokeKey(ctx context.Context, actor Actor, id uuid.UUID) (k APIKey, err error) {
	line := entry{actor: actor, action: permissions["revokeApiKey"].Action, severity: partner.SeverityWarning, subject: id}
	err = s.act(ctx, line, func(tx pgx.Tx, _ *entry) error {
		k, err = keyIn(ctx, tx, revokeKeySQL, id, s.now())
		return err
	})
	if err == nil {
		s.keys.forget()
	}
	return k, err
}
