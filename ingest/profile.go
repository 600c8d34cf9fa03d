package ingest

import (
	"context"
	"fmt"
	"regexp"
	"time"
	_ "time/tzdata" // what a time zone is must not depend on the machine

	"github.com/jackc/pgx/v5"
	"golang.org/x/text/language"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/ingest/api"
	"github.com/bondmate/backend/ingest/cache"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/partner"
)

// GetProfile implements GET /api/profile.
func (s *Server) GetProfile(ctx context.Context, _ api.GetProfileRequestObject) (api.GetProfileResponseObject, error) {
	return remembered(ctx, s, cache.Profile, s.loadProfile)
}

func (s *Server) loadProfile(ctx context.Context) (api.Profile, error) {
	var profile accounts.Profile
	err := s.db.with(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		profile, err = s.accounts.ProfileIn(ctx, conn, exchangeOf(ctx).caller.UserID)
		return err
	})
	return profileOf(profile), err
}

func profileOf(p accounts.Profile) api.Profile {
	profile := api.Profile{
		Id: p.ID, DisplayName: p.DisplayName, PartnerCode: p.PartnerCode,
		Theme: api.ThemeName(p.Theme), Timezone: p.Timezone, Locale: p.Locale, Tier: api.ProfileTier(p.Tier),
		Slots:   api.SlotCount{Total: p.Slots.Total, Occupied: p.Slots.Occupied, Vacant: p.Slots.Vacant},
		Privacy: api.Privacy{Presence: p.Privacy.Presence, Preview: p.Privacy.Preview},
		Seq:     p.Seq,
	}
	if p.ThemeEntries != nil {
		entries := api.ThemeEntries(p.ThemeEntries)
		profile.ThemeEntries = &entries
	}
	return profile
}

// UpdateProfile implements PATCH /api/profile.
func (s *Server) UpdateProfile(ctx context.Context, req api.UpdateProfileRequestObject) (api.UpdateProfileResponseObject, error) {
	patch, err := patchOf(*req.Body)
	if err != nil {
		return nil, err
	}
	return s.carryOut(ctx, call{
		kind: partner.UpdateProfile, prefer: req.Params.Prefer, key: req.Params.IdempotencyKey,
		resolve: alone(func(cmd *partner.Command) { cmd.Profile = &patch }),
	})
}

// ChangePartnerCode implements POST /api/profile/partner-code. The code is drawn here,
// since a decision makes nothing random.
func (s *Server) ChangePartnerCode(ctx context.Context, req api.ChangePartnerCodeRequestObject) (api.ChangePartnerCodeResponseObject, error) {
	return s.carryOut(ctx, call{
		kind: partner.ChangeCode, prefer: req.Params.Prefer, key: req.Params.IdempotencyKey,
		resolve: alone(func(cmd *partner.Command) {
			code := identity.NewPartnerCode()
			cmd.Profile = &partner.ProfilePatch{PartnerCode: &code}
		}),
	})
}

const (
	maxDisplayName  = 100 // characters, as at registration
	maxThemeEntries = 20
	maxThemeEntry   = 40 // characters, of its name and of its value
	themeCustom     = "custom"
)

// patchOf returns the change of a profile as it is stored: sanitised, and in the one form
// that each value has.
func patchOf(body api.ProfileUpdate) (partner.ProfilePatch, error) {
	var patch partner.ProfilePatch
	if body.DisplayName != nil {
		shown, err := name("/displayName", *body.DisplayName, maxDisplayName)
		if err != nil {
			return patch, err
		}
		patch.DisplayName = &shown
	}
	if body.ThemeEntries != nil && (body.Theme == nil || *body.Theme != themeCustom) {
		return patch, invalid("/themeEntries", "not_allowed", "Entries belong to the theme custom.")
	}
	if body.Theme != nil {
		patch.Theme = &partner.Theme{Name: string(*body.Theme)}
		if body.ThemeEntries != nil {
			entries, err := themeEntries(*body.ThemeEntries)
			if err != nil {
				return patch, err
			}
			patch.Theme.Entries = entries
		}
	}
	if body.Timezone != nil {
		if !isTimeZone(*body.Timezone) {
			return patch, invalid("/timezone", "wrong_format", "It is not a name of the IANA time zone database.")
		}
		patch.Timezone = body.Timezone
	}
	if body.Locale != nil {
		tag, err := language.Parse(*body.Locale)
		if err != nil {
			return patch, invalid("/locale", "wrong_format", "It is not a BCP 47 language tag.")
		}
		locale := tag.String()
		patch.Locale = &locale
	}
	if p := body.Privacy; p != nil {
		patch.Presence = p.Presence
		if p.Preview != nil {
			preview := string(*p.Preview)
			patch.Preview = &preview
		}
	}
	return patch, nil
}

// isTimeZone reports whether a name is in the IANA database, whose names begin with a capital.
// A machine's directory of zones has more: localtime, posixrules, posix/… and right/… are the
// machine's own, and another one would read the profile otherwise or not at all. "Local" is
// Go's name for the first of these.
func isTimeZone(name string) bool {
	if name == "" || name[0] < 'A' || name[0] > 'Z' || name == "Local" {
		return false
	}
	_, err := time.LoadLocation(name)
	return err == nil
}

// themeEntries returns the entries sanitised. Their names are for programs: letters,
// digits, dots, hyphens and underscores.
func themeEntries(given api.ThemeEntries) (map[string]string, error) {
	if len(given) > maxThemeEntries {
		return nil, invalid("/themeEntries", "too_long", fmt.Sprintf("At most %d entries.", maxThemeEntries))
	}
	entries := make(map[string]string, len(given))
	for key, value := range given {
		if !themeEntryName.MatchString(key) {
			return nil, invalid("/themeEntries", "wrong_format",
				fmt.Sprintf("The name of an entry has 1 to %d letters, digits, dots, hyphens and underscores.", maxThemeEntry))
		}
		clean, err := partner.SanitizeText(value, maxThemeEntry)
		if err != nil {
			return nil, tooLong("/themeEntries/"+key, maxThemeEntry, err)
		}
		entries[key] = clean
	}
	return entries, nil
}

var themeEntryName = regexp.MustCompile(fmt.Sprintf(`^[A-Za-z0-9._-]{1,%d}$`, maxThemeEntry))

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
		answer.ReadSeq, answer.Unread = state.read, state.unread
		answer.Slots = answer.Profile.Slots
		wanted, err := loadPreferences(ctx, tx, user)
		if err != nil {
			return err
		}
		answer.Preferences = preferencesOf(wanted)
		if answer.Partners, err = listPartnerships(ctx, tx, user); err != nil {
			return err
		}
		breakups, err := listBreakups(ctx, tx, user)
		if err != nil {
			return err
		}
		answer.Breakup = first(breakups)
		newest, err := pageOf(nil, nil)
		if err != nil {
			return err
		}
		newest.limit = maxSyncRequests
		pending := requestFilter{viewer: user, status: partner.RequestPending, now: s.clock()}
		answer.Requests, err = listRequests(ctx, tx, pending, newest)
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
