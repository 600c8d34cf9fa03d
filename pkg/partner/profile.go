package partner

import "github.com/google/uuid"

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
