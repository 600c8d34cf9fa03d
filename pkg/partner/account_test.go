package partner_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

func beside(others ...uuid.UUID) func(*partner.User) {
	return func(u *partner.User) { u.Counterparts = others }
}

func closing(other, cause uuid.UUID, more bool) partner.Command {
	return partner.Command{
		ID: partner.FollowUpID(cause, other), Type: partner.ClosePair, Issuer: ann(), Pair: partner.PairOf(ann(), other), Cause: cause, More: more,
	}
}

func erasing(cause uuid.UUID) partner.Command {
	return partner.Command{
		ID: partner.FollowUpID(cause, ann()), Type: partner.EraseAccount, Issuer: ann(), Pair: partner.PairOf(ann(), ann()), Cause: cause,
	}
}

func accepted(d partner.Decision, cmds ...partner.Command) []partner.Command {
	for i := range cmds {
		cmds[i].AcceptedAt = d.Now
	}
	return cmds
}

func TestDeleteAccount(t *testing.T) {
	t.Parallel()
	cmd := command(partner.DeleteAccount, ann(), alone)
	d := partner.Decide(partner.DefaultLimits(), aloneState(beside(bob(), cleo())), cmd)
	checkEvents(t, d, summary{partner.EventAccountDeleted, []uuid.UUID{ann()}, uuid.Nil, partner.EventData{UserID: new(ann())}})
	if diff := cmp.Diff([]partner.AccountChange{{UserID: ann(), Status: partner.UserDeleting}}, d.Accounts); diff != "" {
		t.Errorf("accounts (-want +got):\n%s", diff)
	}
	if d.Next.Users[ann()].Status != partner.UserDeleting {
		t.Errorf("next user %+v", d.Next.Users[ann()])
	}
	cause := d.Events[0].ID
	want := accepted(d, closing(bob(), cause, false), closing(cleo(), cause, true))
	if diff := cmp.Diff(want, d.FollowUps); diff != "" {
		t.Errorf("follow-ups (-want +got):\n%s", diff)
	}
	d = partner.Decide(partner.DefaultLimits(), aloneState(), cmd)
	if diff := cmp.Diff(accepted(d, erasing(d.Events[0].ID)), d.FollowUps); diff != "" {
		t.Errorf("follow-ups of a user without pairs (-want +got):\n%s", diff)
	}
}

func TestClosePair(t *testing.T) {
	t.Parallel()
	req, current, asked := id(20), id(30), id(40)
	gone := func(st *partner.State) {
		u := st.Users[ann()]
		u.Status = partner.UserDeleting
		st.Users[ann()] = u
	}
	applied := partner.EventCommandApplied
	superseded := partner.EventRequestSuperseded
	ends := []partner.EventType{
		partner.EventPartnershipEnded, partner.EventPartnershipEnded, partner.EventSlotVacated, partner.EventSlotVacated, partner.EventPartnershipArchived,
		applied,
	}
	tests := map[string]struct {
		state     partner.State
		want      []partner.EventType
		nicknames int
		sides     []partner.SideChange
	}{
		"nothing left":             {state(gone), []partner.EventType{applied}, 0, nil},
		"a request":                {state(request(req, bob()), gone), []partner.EventType{superseded, applied}, 0, nil},
		"a partnership":            {state(active(current), gone), ends, 0, nil},
		"one with a breakup":       {state(active(current), breakup(asked, bob()), gone), ends, 0, nil},
		"an ended one":             {state(ended(current), gone), []partner.EventType{partner.EventPartnershipArchived, applied}, 0, nil},
		"nicknames":                {state(active(current), anns(named), bobs(named), gone), ends, 2, nil},
		"what they held of others": {state(anns(blocks), gone), []partner.EventType{applied}, 0, []partner.SideChange{{Owner: ann(), Other: bob()}}},
		"what others held of them": {
			state(bobs(blocks), bobs(declined(2)), anns(sent(start())), gone), []partner.EventType{applied}, 0,
			[]partner.SideChange{{Owner: ann(), Other: bob()}, {Owner: bob(), Other: ann()}},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, more := range []bool{false, true} {
				cmd := closing(bob(), id(9), more)
				cmd.AcceptedAt = start().Add(1)
				d := partner.Decide(partner.DefaultLimits(), tt.state, cmd)
				var types []partner.EventType
				for _, e := range d.Events {
					types = append(types, e.Type)
				}
				if diff := cmp.Diff(tt.want, types); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(tt.sides, d.Sides); diff != "" {
					t.Errorf("sides (-want +got):\n%s", diff)
				}
				if len(d.Nicknames) != tt.nicknames {
					t.Errorf("nicknames %+v", d.Nicknames)
				}
				next := d.Next.Pair
				if next.Partnership != nil || !next.Low.Empty() || !next.High.Empty() || next.Low.Named || next.High.Named {
					t.Errorf("left open: %+v", next)
				}
				for _, timer := range d.Timers {
					if !timer.Due.IsZero() {
						t.Errorf("something is still to come: %+v", timer)
					}
				}
				if len(d.Cuts) == 0 || d.Cuts[len(d.Cuts)-1].Origin != ann() && d.Cuts[0].Origin != ann() {
					t.Errorf("cuts %v", d.Cuts)
				}
				var want []partner.Command
				if more {
					want = accepted(d, erasing(d.Events[0].ID))
				}
				if diff := cmp.Diff(want, d.FollowUps); diff != "" {
					t.Errorf("follow-ups (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestEraseAccount(t *testing.T) {
	t.Parallel()
	cmd := erasing(id(9))
	cmd.AcceptedAt = start()
	d := partner.Decide(partner.DefaultLimits(), aloneState(status(partner.UserDeleting), beside(dan())), cmd)
	if diff := cmp.Diff(accepted(d, closing(dan(), d.Events[0].ID, true)), d.FollowUps); diff != "" || len(d.Accounts) != 0 {
		t.Errorf("with a pair open: %+v, follow-ups (-want +got):\n%s", d.Accounts, diff)
	}
	d = partner.Decide(partner.DefaultLimits(), aloneState(status(partner.UserDeleting)), cmd)
	want := []partner.AccountChange{{UserID: ann(), Status: partner.UserDeleting, Erase: true}}
	if diff := cmp.Diff(want, d.Accounts); diff != "" || len(d.FollowUps) != 0 {
		t.Errorf("follow-ups %v, accounts (-want +got):\n%s", d.FollowUps, diff)
	}
	checkEvents(t, d, summary{partner.EventCommandApplied, []uuid.UUID{}, ann(), partner.EventData{Command: "account.erase"}})
	d = partner.Decide(partner.DefaultLimits(), aloneState(status(partner.UserDeleting), func(u *partner.User) { u.Remains = true }), cmd)
	want[0].More = true
	if diff := cmp.Diff(want, d.Accounts); diff != "" {
		t.Errorf("more than one transaction's, accounts (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(accepted(d, erasing(d.Events[0].ID)), d.FollowUps); diff != "" {
		t.Errorf("more than one transaction's, follow-ups (-want +got):\n%s", diff)
	}
}
