package accounts

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/fault"
)

// PushDevice is a push address of an account. Its value is not told back.
type PushDevice struct {
	ID         uuid.UUID
	Kind       string // fcm
	Platform   string
	AppVersion string // may be empty
	CreatedAt  time.Time
	UpdatedAt  time.Time
}

// DeviceInput is a push address as the app reports it.
type DeviceInput struct {
	Kind       string // fcm
	Token      string
	Platform   string
	AppVersion string // may be empty
}

const (
	// The share lock on the session makes its end wait for this device, or this wait for
	// the end and then find no session. A value that another account held moves: with a
	// new id, so that no delivery that is due to its former owner can still reach it.
	upsertDeviceSQL = `
INSERT INTO devices AS d (id, user_id, session_id, kind, value, platform, app_version, created_at, updated_at)
SELECT $1, s.user_id, s.id, $4, $5, $6, NULLIF($7, ''), $8, $8
FROM sessions s
WHERE s.id = $3 AND s.user_id = $2 AND s.revoked_at IS NULL AND s.expires_at > $8
FOR SHARE OF s
ON CONFLICT (kind, value) DO UPDATE
SET id = CASE WHEN d.user_id = EXCLUDED.user_id THEN d.id ELSE EXCLUDED.id END,
    created_at = CASE WHEN d.user_id = EXCLUDED.user_id THEN d.created_at ELSE EXCLUDED.created_at END,
    user_id = EXCLUDED.user_id,
    session_id = EXCLUDED.session_id,
    platform = EXCLUDED.platform,
    app_version = EXCLUDED.app_version,
    updated_at = EXCLUDED.updated_at
RETURNING id, kind, platform, COALESCE(app_version, ''), created_at, updated_at`

	trimDevicesSQL = `
DELETE FROM devices
WHERE user_id = $1 AND id IN (
    SELECT id
    FROM devices
    WHERE user_id = $1
    ORDER BY updated_at DESC, id
    OFFSET $2)`
)

// RegisterDevice makes a push address the account's and binds it to the session: it
// goes when the session ends. Over Config.MaxDevices the least recently registered one
// goes. Its faults are invalid_request, and unauthenticated for a session that ended.
func (s *Service) RegisterDevice(ctx context.Context, userID, sessionID uuid.UUID, in DeviceInput) (PushDevice, error) {
	var f faults
	if in.Kind != "fcm" {
		f.add("/kind", "invalid", "must be fcm")
	}
	f.pushAddress("/token", in.Token)
	platform := f.text("/platform", in.Platform, true, 40)
	appVersion := f.text("/appVersion", in.AppVersion, false, 40)
	if err := f.err(); err != nil {
		return PushDevice{}, err
	}
	var d PushDevice
	err := s.transact(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, upsertDeviceSQL, uuid.New(), userID, sessionID, in.Kind, in.Token, platform, appVersion, s.now())
		if err != nil {
			return err
		}
		d, err = pgx.CollectExactlyOneRow(rows, scanDevice)
		if errors.Is(err, pgx.ErrNoRows) {
			return errSession
		}
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, trimDevicesSQL, userID, s.cfg.MaxDevices)
		return err
	})
	if err != nil {
		return PushDevice{}, fmt.Errorf("register device of %s: %w", userID, err)
	}
	return d, nil
}

const devicesSQL = `
SELECT id, kind, platform, COALESCE(app_version, ''), created_at, updated_at
FROM devices
WHERE user_id = $1
ORDER BY updated_at DESC, id
LIMIT $2`

// Devices lists the push devices of an account, the last registered first.
func (s *Service) Devices(ctx context.Context, userID uuid.UUID) ([]PushDevice, error) {
	return s.DevicesIn(ctx, s.pool, userID)
}

// DevicesIn lists the push devices of an account as q sees them.
func (s *Service) DevicesIn(ctx context.Context, q Querier, userID uuid.UUID) ([]PushDevice, error) {
	rows, err := q.Query(ctx, devicesSQL, userID, s.cfg.MaxDevices)
	if err != nil {
		return nil, fmt.Errorf("list devices of %s: %w", userID, err)
	}
	list, err := pgx.CollectRows(rows, scanDevice)
	if err != nil {
		return nil, fmt.Errorf("list devices of %s: %w", userID, err)
	}
	return list, nil
}

func scanDevice(row pgx.CollectableRow) (PushDevice, error) {
	var d PushDevice
	err := row.Scan(&d.ID, &d.Kind, &d.Platform, &d.AppVersion, &d.CreatedAt, &d.UpdatedAt)
	return d, err
}

const deleteDeviceSQL = `
DELETE FROM devices
WHERE id = $1 AND user_id = $2`

// DeleteDevice removes a push device of the account; another's, or none, is the fault
// not_found.
func (s *Service) DeleteDevice(ctx context.Context, userID, deviceID uuid.UUID) error {
	tag, err := s.pool.Exec(ctx, deleteDeviceSQL, deviceID, userID)
	if err != nil {
		return fmt.Errorf("delete device %s: %w", deviceID, err)
	}
	if tag.RowsAffected() == 0 {
		return fault.New(fault.NotFound, "not_found", "There is no such device.")
	}
	return nil
}
