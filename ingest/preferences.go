package ingest

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/ingest/api"
	"github.com/bondmate/backend/pkg/partner"
)

// preferences are what a user wants of pushes.
type preferences struct {
	muted    []string
	quiet    bool
	from, to int16 // minutes of the user's own day
	preview  string
}

// The quiet hours of who has not chosen any.
const (
	defaultQuietFrom = 22 * 60
	defaultQuietTo   = 7 * 60
)

const selectPreferences = `
SELECT COALESCE(p.muted, '{}'), COALESCE(p.quiet, false), COALESCE(p.quiet_from, $2), COALESCE(p.quiet_to, $3), u.push_preview
FROM users u LEFT JOIN push_preferences p ON p.user_id = u.id
WHERE u.id = $1`

func loadPreferences(ctx context.Context, q querier, user uuid.UUID) (preferences, error) {
	var p preferences
	err := q.QueryRow(ctx, selectPreferences, user, int16(defaultQuietFrom), int16(defaultQuietTo)).
		Scan(&p.muted, &p.quiet, &p.from, &p.to, &p.preview)
	if err != nil {
		return p, fmt.Errorf("load preferences of %s: %w", user, err)
	}
	return p, nil
}

func preferencesOf(p preferences) api.Preferences {
	hears := func(c partner.Category) bool { return !slices.Contains(p.muted, string(c)) }
	return api.Preferences{
		Categories: api.PushCategories{
			Requests: hears(partner.CategoryRequests), Partnership: hears(partner.CategoryPartnership),
		},
		QuietHours: api.QuietHours{Enabled: p.quiet, From: clockTime(p.from), To: clockTime(p.to)},
		Preview:    api.Preview(p.preview),
	}
}

func clockTime(minutes int16) string { return fmt.Sprintf("%02d:%02d", minutes/60, minutes%60) }

// minutesOf reads a time of day whose form the document has made sure of.
func minutesOf(clock string) int16 {
	digit := func(i int) int16 { return int16(clock[i] - '0') }
	return (digit(0)*10+digit(1))*60 + digit(3)*10 + digit(4)
}

// patched returns the preferences with what a call gives; the rest stays.
func (p preferences) patched(body api.PreferencesUpdate) (preferences, error) {
	if c := body.Categories; c != nil {
		for category, wanted := range map[partner.Category]*bool{
			partner.CategoryRequests: c.Requests, partner.CategoryPartnership: c.Partnership,
		} {
			if wanted == nil {
				continue
			}
			p.muted = slices.DeleteFunc(slices.Clone(p.muted), func(m string) bool { return m == string(category) })
			if !*wanted {
				p.muted = append(p.muted, string(category))
			}
		}
		slices.Sort(p.muted)
	}
	if q := body.QuietHours; q != nil {
		if q.Enabled != nil {
			p.quiet = *q.Enabled
		}
		if q.From != nil {
			p.from = minutesOf(*q.From)
		}
		if q.To != nil {
			p.to = minutesOf(*q.To)
		}
		if p.quiet && p.from == p.to {
			return p, invalid("/quietHours/to", "not_allowed", "Quiet hours end at another time than they begin.")
		}
	}
	if body.Preview != nil {
		p.preview = string(*body.Preview)
	}
	return p, nil
}

// GetPreferences implements GET /api/notifications/preferences.
func (s *Server) GetPreferences(ctx context.Context, _ api.GetPreferencesRequestObject) (api.GetPreferencesResponseObject, error) {
	var p preferences
	err := s.db.with(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		p, err = loadPreferences(ctx, conn, exchangeOf(ctx).caller.UserID)
		return err
	})
	if err != nil {
		return nil, err
	}
	return api.GetPreferences200JSONResponse(preferencesOf(p)), nil
}

// The lock that the processor takes before it writes a profile or erases an account: what
// is read after it stays so until this transaction ends.
const lockStream = `SELECT FROM user_streams WHERE user_id = $1 FOR NO KEY UPDATE`

// The preview is the profile's own: there is one truth, whoever writes it.
const updatePreview = `UPDATE users SET push_preview = $2 WHERE id = $1 AND status <> $3`

const upsertPreferences = `
INSERT INTO push_preferences (user_id, muted, quiet, quiet_from, quiet_to, updated_at)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (user_id) DO UPDATE SET
    muted = excluded.muted, quiet = excluded.quiet, quiet_from = excluded.quiet_from, quiet_to = excluded.quiet_to,
    updated_at = excluded.updated_at`

// PutPreferences implements PUT /api/notifications/preferences. It is no command: it
// concerns nobody else, and nothing has to come before or after it.
func (s *Server) PutPreferences(ctx context.Context, req api.PutPreferencesRequestObject) (api.PutPreferencesResponseObject, error) {
	user := exchangeOf(ctx).caller.UserID
	var body api.PreferencesUpdate
	if req.Body != nil {
		body = *req.Body
	}
	var p preferences
	err := s.db.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) (err error) {
			if _, err = tx.Exec(ctx, lockStream, user); err != nil {
				return fmt.Errorf("lock stream: %w", err)
			}
			if p, err = loadPreferences(ctx, tx, user); err != nil {
				return err
			}
			if p, err = p.patched(body); err != nil {
				return err
			}
			tag, err := tx.Exec(ctx, updatePreview, user, p.preview, int16(partner.UserDeleting))
			if err != nil {
				return fmt.Errorf("write preview: %w", err)
			}
			if tag.RowsAffected() == 0 { // since the session was looked at
				return rejectedAs(string(partner.CodeAccountDeleting))
			}
			_, err = tx.Exec(ctx, upsertPreferences, user, p.muted, p.quiet, p.from, p.to, s.clock())
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("set preferences of %s: %w", user, err)
	}
	return api.PutPreferences200JSONResponse(preferencesOf(p)), nil
}
