package partner_test

import (
	"testing"

	"github.com/bondmate/backend/pkg/partner"
)

func TestVacantSlot(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		user      partner.User
		preferred int16
		want      int16 // 0: none
	}{
		"the only one":                    {user(ann()), 0, 1},
		"none owned":                      {user(ann(), slots(0)), 0, 0},
		"none left":                       {user(ann(), occupied(1, id(30))), 0, 0},
		"the lowest vacant":               {user(ann(), slots(3), occupied(1, id(30))), 0, 2},
		"the preferred":                   {user(ann(), slots(3)), 3, 3},
		"the preferred is taken":          {user(ann(), slots(3), occupied(3, id(30))), 3, 1},
		"the preferred is not owned":      {user(ann(), slots(3)), 7, 1},
		"as many as slots, one not owned": {user(ann(), slots(2), occupied(1, id(30)), occupied(9, id(31))), 0, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, ok := tt.user.VacantSlot(tt.preferred)
			if got != tt.want || ok != (tt.want != 0) || tt.user.Full() == ok {
				t.Errorf("slot %d, %v (full %v), want %d", got, ok, tt.user.Full(), tt.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for _, c := range partner.CommandTypes() {
		if got, ok := partner.ParseCommandType(c.String()); !ok || got != c {
			t.Errorf("%s reads as %d, %v", c, got, ok)
		}
	}
	for _, e := range partner.EventTypes() {
		if got, ok := partner.ParseEventType(e.String()); !ok || got != e {
			t.Errorf("%s reads as %d, %v", e, got, ok)
		}
	}
	for s := partner.RequestPending; s <= partner.RequestSuperseded; s++ {
		if got, ok := partner.ParseRequestStatus(s.String()); !ok || got != s {
			t.Errorf("%s reads as %d, %v", s, got, ok)
		}
	}
	for s, want := range map[partner.BreakupStatus]string{
		partner.BreakupPending: "pending", partner.BreakupSuperseded: "superseded", 0: "breakup status(0)", 9: "breakup status(9)",
	} {
		if got := s.String(); got != want {
			t.Errorf("breakup status %d is %q, want %q", s, got, want)
		}
	}
	for _, name := range []string{"", "command(0)", "request.unheard", "REQUEST.SEND"} {
		_, command := partner.ParseCommandType(name)
		_, event := partner.ParseEventType(name)
		_, status := partner.ParseRequestStatus(name)
		if command || event || status {
			t.Errorf("%q reads as a type or status", name)
		}
	}
	if got := partner.CommandType(99).String(); got != "command(99)" {
		t.Errorf("unknown command type is %q", got)
	}
}
