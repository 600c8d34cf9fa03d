package processor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/partner"
)

// What a patch leaves out is NULL and stays. An INSERT that always meets its row, for an
// UPDATE … FROM would be planned as a join: the columns that it must name and does not
// change are read along.
const writeProfilesSQL = `
INSERT INTO users (id, created_at, display_name, theme, theme_entries, timezone, locale, show_presence, push_preview, partner_code)
SELECT u.id, u.created_at, COALESCE(n.display_name, u.display_name), COALESCE(n.theme, u.theme),
       CASE WHEN n.theme IS NULL THEN u.theme_entries ELSE n.theme_entries::jsonb END,
       COALESCE(n.timezone, u.timezone), COALESCE(n.locale, u.locale), COALESCE(n.presence, u.show_presence),
       COALESCE(n.preview, u.push_preview), COALESCE(n.partner_code, u.partner_code)
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::boolean[], $8::text[], $9::text[])
    AS n (id, display_name, theme, theme_entries, timezone, locale, presence, preview, partner_code)
CROSS JOIN LATERAL (
    SELECT x.id, x.created_at, x.display_name, x.theme, x.theme_entries, x.timezone, x.locale, x.show_presence,
           x.push_preview, x.partner_code
    FROM users x WHERE x.id = n.id LIMIT 1) AS u
ON CONFLICT (id) DO UPDATE SET
    display_name = excluded.display_name, theme = excluded.theme, theme_entries = excluded.theme_entries,
    timezone = excluded.timezone, locale = excluded.locale, show_presence = excluded.show_presence,
    push_preview = excluded.push_preview, partner_code = excluded.partner_code`

// patch lays one patch over another: a later command of the batch wins, field by field.
func patch(under, over partner.ProfilePatch) partner.ProfilePatch {
	lay(&under.DisplayName, over.DisplayName)
	lay(&under.Theme, over.Theme)
	lay(&under.Timezone, over.Timezone)
	lay(&under.Locale, over.Locale)
	lay(&under.Presence, over.Presence)
	lay(&under.Preview, over.Preview)
	lay(&under.PartnerCode, over.PartnerCode)
	return under
}

func lay[T any](under **T, over *T) {
	if over != nil {
		*under = over
	}
}

func (c *changes) queueProfiles(q *pgx.Batch) error {
	ids := slices.SortedFunc(maps.Keys(c.profiles), func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	n := len(ids)
	if n == 0 {
		return nil
	}
	names, themes, entries, zones, locales := make([]*string, n), make([]*string, n), make([]*string, n), make([]*string, n), make([]*string, n)
	presence, previews, codes := make([]*bool, n), make([]*string, n), make([]*string, n)
	for i, id := range ids {
		p := c.profiles[id]
		names[i], zones[i], locales[i], presence[i], previews[i], codes[i] = p.DisplayName, p.Timezone, p.Locale, p.Presence, p.Preview, p.PartnerCode
		if p.Theme == nil {
			continue
		}
		themes[i] = &p.Theme.Name
		if len(p.Theme.Entries) > 0 {
			data, err := json.Marshal(p.Theme.Entries)
			if err != nil {
				return fmt.Errorf("encode theme of %s: %w", id, err)
			}
			text := string(data)
			entries[i] = &text
		}
	}
	q.Queue("write_profiles", ids, names, themes, entries, zones, locales, presence, previews, codes)
	return nil
}
