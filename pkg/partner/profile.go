package partner

import (
	"bytes"
	"slices"

	"github.com/google/uuid"
)

// ProfilePatch is what a user changes of their profile: what is nil stays. The texts are
// sanitised and of permitted length and form already; the JSON is the wire's.
type ProfilePatch struct {
	DisplayName *string `json:"displayName,omitempty"`
	Theme       *Theme  `json:"theme,omitempty"`
	Timezone    *string `json:"timezone,omitempty"`    // IANA name
	Locale      *string `json:"locale,omitempty"`      // BCP 47 tag
	Presence    *bool   `json:"presence,omitempty"`    // shares, and so sees, presence
	Preview     *string `json:"preview,omitempty"`     // of pushes on the lock screen
	PartnerCode *string `json:"partnerCode,omitempty"` // only ChangeCode sets it
}

// Theme is how a user's app looks, to the partners as well.
type Theme struct {
	Name    string            `json:"name"`              // light, dark, water, love, sky, forest, custom
	Entries map[string]string `json:"entries,omitempty"` // of custom; at most 20 short ones
}

// ProfileChange is a patch to write to its user's row.
type ProfileChange struct {
	UserID uuid.UUID
	Patch  ProfilePatch
}

// fields names what the patch changes, as the API does: all of it, or only what the
// user's partners see.
func (p ProfilePatch) fields(shared bool) []string {
	var out []string
	add := func(name string, changed, toPartners bool) {
		if changed && (toPartners || !shared) {
			out = append(out, name)
		}
	}
	add("displayName", p.DisplayName != nil, true)
	add("theme", p.Theme != nil, true)
	add("timezone", p.Timezone != nil, false)
	add("locale", p.Locale != nil, false)
	add("presence", p.Presence != nil, false)
	add("preview", p.Preview != nil, false)
	add("partnerCode", p.PartnerCode != nil, false)
	return out
}

// updateProfile changes what the issuer shows and how their app behaves. Name and theme
// are told to each current partner too, in an event of their own.
func (t *turn) updateProfile() Outcome {
	user := t.cmd.Issuer
	t.patch(*t.cmd.Profile)
	shared := t.cmd.Profile.fields(true)
	if len(shared) == 0 {
		return Outcome{Result: Result{Status: "updated"}}
	}
	var partners []uuid.UUID
	for _, o := range t.users[user].Occupied {
		partners = append(partners, o.Partner)
	}
	slices.SortFunc(partners, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	for _, p := range partners {
		t.append(EventProfileUpdated, user, EventData{UserID: &user, Fields: shared}, []uuid.UUID{p})
	}
	return Outcome{Result: Result{Status: "updated"}}
}

// changeCode gives the issuer another partner code. Requests that wait stay; who knows
// only the old code finds nobody.
func (t *turn) changeCode() Outcome {
	t.patch(*t.cmd.Profile)
	return Outcome{Result: Result{PartnerCode: *t.cmd.Profile.PartnerCode}}
}

func (t *turn) patch(p ProfilePatch) {
	user := t.cmd.Issuer
	if len(p.fields(false)) == 0 {
		t.emit(EventCommandApplied, user, EventData{Command: t.cmd.Type.String()}, user)
		return
	}
	t.decision.Profiles = append(t.decision.Profiles, ProfileChange{UserID: user, Patch: p})
	t.emit(EventProfileUpdated, user, EventData{UserID: &user, Fields: p.fields(false)}, user)
}
