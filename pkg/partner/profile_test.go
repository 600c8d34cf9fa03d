package partner_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

func TestUpdateProfile(t *testing.T) {
	t.Parallel()
	all := &partner.ProfilePatch{
		DisplayName: new("Ann"), Theme: &partner.Theme{Name: "sky"}, Timezone: new("Europe/Vienna"), Locale: new("de-AT"),
		Presence: new(true), Preview: new("full"),
	}
	told := func(to uuid.UUID, fields ...string) summary {
		return summary{partner.EventProfileUpdated, []uuid.UUID{to}, ann(), partner.EventData{UserID: new(ann()), Fields: fields}}
	}
	couple := aloneState(slots(3), occupied(1, id(30), dan()), occupied(2, id(31), bob()))
	tests := map[string]struct {
		state partner.State
		patch *partner.ProfilePatch
		want  []summary
	}{
		"all of it, with two partners": {couple, all, []summary{
			told(ann(), "displayName", "theme", "timezone", "locale", "presence", "preview"),
			told(bob(), "displayName", "theme"), told(dan(), "displayName", "theme"),
		}},
		"only one's own": {couple, &partner.ProfilePatch{Locale: new("en"), Presence: new(false)}, []summary{told(ann(), "locale", "presence")}},
		"the theme":      {couple, &partner.ProfilePatch{Theme: all.Theme}, []summary{told(ann(), "theme"), told(bob(), "theme"), told(dan(), "theme")}},
		"single":         {aloneState(), &partner.ProfilePatch{DisplayName: new("A")}, []summary{told(ann(), "displayName")}},
		"nothing": {couple, &partner.ProfilePatch{}, []summary{
			{partner.EventCommandApplied, []uuid.UUID{ann()}, ann(), partner.EventData{Command: "profile.update"}},
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := command(partner.UpdateProfile, ann(), alone)
			cmd.Profile = tt.patch
			d := partner.Decide(partner.DefaultLimits(), tt.state, cmd)
			checkEvents(t, d, tt.want...)
			var changes []partner.ProfileChange
			if name != "nothing" {
				changes = []partner.ProfileChange{{UserID: ann(), Patch: *tt.patch}}
			}
			if diff := cmp.Diff(changes, d.Profiles); diff != "" {
				t.Errorf("profiles (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(partner.Outcome{Result: partner.Result{Status: "updated"}}, d.Outcome); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
		})
	}
}

func TestChangeCode(t *testing.T) {
	t.Parallel()
	cmd := command(partner.ChangeCode, ann(), alone)
	cmd.Profile = &partner.ProfilePatch{PartnerCode: new("7Q2M0KX4ZP")}
	d := partner.Decide(partner.DefaultLimits(), aloneState(occupied(1, id(30), bob())), cmd)
	checkEvents(t, d, summary{partner.EventProfileUpdated, []uuid.UUID{ann()}, ann(), partner.EventData{UserID: new(ann()), Fields: []string{"partnerCode"}}})
	if diff := cmp.Diff(partner.Outcome{Result: partner.Result{PartnerCode: "7Q2M0KX4ZP"}}, d.Outcome); diff != "" {
		t.Errorf("outcome (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]partner.ProfileChange{{UserID: ann(), Patch: *cmd.Profile}}, d.Profiles); diff != "" {
		t.Errorf("profiles (-want +got):\n%s", diff)
	}
}

func TestNickname(t *testing.T) {
	t.Parallel()
	current := id(30)
	told := summary{partner.EventNicknameChanged, []uuid.UUID{ann()}, ann(), partner.EventData{UserID: new(bob())}}
	set := command(partner.SetNickname, ann(), func(c *partner.Command) { c.Nickname = "Bear" })
	d := partner.Decide(partner.DefaultLimits(), state(active(current)), set)
	checkEvents(t, d, told)
	if diff := cmp.Diff([]partner.Nickname{{Owner: ann(), Target: bob(), Text: "Bear", UpdatedAt: d.Now}}, d.Nicknames); diff != "" {
		t.Errorf("nicknames (-want +got):\n%s", diff)
	}
	if len(d.Sides) != 0 || !d.Next.Pair.Low.Named || d.Next.Pair.High.Named {
		t.Errorf("sides %+v, next %+v", d.Sides, d.Next.Pair)
	}
	d = partner.Decide(partner.DefaultLimits(), d.Next, command(partner.ClearNickname, ann()))
	checkEvents(t, d, told)
	if diff := cmp.Diff([]partner.Nickname{{Owner: ann(), Target: bob(), UpdatedAt: d.Now}}, d.Nicknames); diff != "" {
		t.Errorf("nicknames (-want +got):\n%s", diff)
	}
}
