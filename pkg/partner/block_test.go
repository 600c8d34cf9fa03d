package partner_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

func TestBlock(t *testing.T) {
	t.Parallel()
	req, current := id(20), id(30)
	cmd := command(partner.Block, ann())
	now := cmd.AcceptedAt
	told := summary{partner.EventBlockChanged, []uuid.UUID{ann()}, ann(), partner.EventData{UserID: new(bob()), Blocked: new(true)}}
	over := summary{partner.EventRequestSuperseded, both(), uuid.Nil, partner.EventData{RequestID: &req}}
	until := now.Add(window)
	end := partner.EventData{
		PartnershipID: &current, ByUserID: new(ann()), StartedAt: new(start().Add(-day)), EndedAt: &now,
		RestorableUntil: &until, RestoredCount: new(0),
	}
	silent := end
	silent.Silent = true
	mine, theirs := partner.Cut{Recipient: ann(), Origin: bob()}, partner.Cut{Recipient: bob(), Origin: ann()}
	tests := map[string]struct {
		state partner.State
		want  []summary
		side  partner.Side
		cuts  []partner.Cut
	}{
		"a stranger":           {state(), []summary{told}, partner.Side{BlockedAt: now, DoorClosedAt: now}, []partner.Cut{mine}},
		"who has asked":        {state(request(req, bob())), []summary{over, told}, partner.Side{BlockedAt: now, DoorClosedAt: now}, []partner.Cut{mine}},
		"who was asked":        {state(request(req, ann())), []summary{over, told}, partner.Side{BlockedAt: now, DoorClosedAt: now}, []partner.Cut{theirs, mine}},
		"a former partner":     {state(ended(current)), []summary{told}, partner.Side{BlockedAt: now, DoorClosedAt: now, Forfeited: current}, []partner.Cut{mine}},
		"behind a closed door": {state(anns(doorClosed)), []summary{told}, partner.Side{BlockedAt: now, DoorClosedAt: start()}, []partner.Cut{mine}},
		"a partner": {state(active(current)), []summary{
			{partner.EventPartnershipEnded, []uuid.UUID{ann()}, uuid.Nil, end},
			{partner.EventPartnershipEnded, []uuid.UUID{bob()}, uuid.Nil, silent},
			{partner.EventSlotVacated, []uuid.UUID{ann()}, uuid.Nil, partner.EventData{Slot: new(int16(1))}},
			{partner.EventSlotVacated, []uuid.UUID{bob()}, uuid.Nil, partner.EventData{Slot: new(int16(1)), Silent: true}},
			told,
		}, partner.Side{BlockedAt: now, DoorClosedAt: now, Forfeited: current}, []partner.Cut{mine, theirs}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := partner.Decide(partner.DefaultLimits(), tt.state, cmd)
			checkEvents(t, d, tt.want...)
			if diff := cmp.Diff([]partner.SideChange{{Owner: ann(), Other: bob(), Side: tt.side}}, d.Sides); diff != "" {
				t.Errorf("sides (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.cuts, d.Cuts); diff != "" {
				t.Errorf("cuts (-want +got):\n%s", diff)
			}
			if p := d.Next.Pair.Partnership; p != nil && (p.Status != partner.PartnershipEnded || p.Reason != "" && len(d.Partners) > 0) {
				t.Errorf("partnership %+v", p)
			}
			for _, r := range d.Requests {
				if r.Status != partner.RequestSuperseded {
					t.Errorf("request %+v", r)
				}
			}
		})
	}
}

// TestBlockedCannotTell has a person ask whom many things keep away, one a time. What
// the sender is told is the same to the last bit.
func TestBlockedCannotTell(t *testing.T) {
	t.Parallel()
	cmd := command(partner.Send, ann())
	want := partner.Decide(partner.DefaultLimits(), state(with(user(bob(), occupied(1, id(99), cleo())))), cmd)
	for name, edit := range map[string]func(*partner.State){
		"blocked":         bobs(blocks),
		"unblocked again": bobs(doorClosed),
		"left quietly":    bobs(doorClosed),
		"suspended":       with(user(bob(), status(partner.UserSuspended))),
		"being deleted":   with(user(bob(), status(partner.UserDeleting))),
		"blocked and full, declined often": func(st *partner.State) {
			bobs(blocks)(st)
			bobs(declined(4))(st)
			with(user(bob(), occupied(1, id(99), cleo())))(st)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := partner.Decide(partner.DefaultLimits(), state(edit), cmd)
			if diff := cmp.Diff(want.Outcome, got.Outcome); diff != "" {
				t.Errorf("outcome (-full +got):\n%s", diff)
			}
			if diff := cmp.Diff(want.Events, got.Events); diff != "" {
				t.Errorf("events (-full +got):\n%s", diff)
			}
			if diff := cmp.Diff(want.Activity, got.Activity); diff != "" {
				t.Errorf("activity (-full +got):\n%s", diff)
			}
		})
	}
}

func TestUnblockLeavesTheDoorClosed(t *testing.T) {
	t.Parallel()
	d := partner.Decide(partner.DefaultLimits(), state(anns(blocks)), command(partner.Unblock, ann()))
	checkEvents(t, d, summary{partner.EventBlockChanged, []uuid.UUID{ann()}, ann(), partner.EventData{UserID: new(bob()), Blocked: new(false)}})
	if diff := cmp.Diff([]partner.SideChange{{Owner: ann(), Other: bob(), Side: partner.Side{DoorClosedAt: start()}}}, d.Sides); diff != "" {
		t.Errorf("sides (-want +got):\n%s", diff)
	}
	knock := command(partner.Send, bob())
	if got := partner.Decide(partner.DefaultLimits(), d.Next, knock); got.Outcome.Code != partner.CodeTargetUnavailable {
		t.Errorf("code %q", got.Outcome.Code)
	}
	open := partner.Decide(partner.DefaultLimits(), d.Next, command(partner.Send, ann()))
	if !open.Next.Pair.Low.DoorClosedAt.IsZero() {
		t.Errorf("side %+v after a send of one's own", open.Next.Pair.Low)
	}
}

func TestForfeit(t *testing.T) {
	t.Parallel()
	current, req := id(30), id(20)
	d := partner.Decide(partner.DefaultLimits(), state(ended(current), request(req, ann())), command(partner.Forfeit, bob(), of(current)))
	checkEvents(t, d, summary{partner.EventCommandApplied, []uuid.UUID{bob()}, bob(), partner.EventData{
		Command: "partnership.forfeit", PartnershipID: &current,
	}})
	accept := command(partner.Accept, bob(), names(req))
	accept.ID = id(101)
	d = partner.Decide(partner.DefaultLimits(), d.Next, accept)
	if p := d.Next.Pair.Partnership; p.ID == current || p.RestoredCount != 0 {
		t.Errorf("restored %+v", p)
	}
	if !d.Next.Pair.High.Empty() {
		t.Errorf("side %+v with nothing left to forfeit", d.Next.Pair.High)
	}
}

func TestDeclinesAddUp(t *testing.T) {
	t.Parallel()
	req := id(20)
	st := state(request(req, ann()), bobs(declined(1)), bobs(doorClosed))
	d := partner.Decide(partner.DefaultLimits(), st, command(partner.Decline, bob(), names(req)))
	want := []partner.SideChange{{Owner: bob(), Other: ann(), Side: partner.Side{DoorClosedAt: start(), Declines: 2, LastDeclined: d.Now}}}
	if diff := cmp.Diff(want, d.Sides); diff != "" {
		t.Errorf("sides (-want +got):\n%s", diff)
	}
	d = partner.Decide(partner.DefaultLimits(), st, command(partner.Accept, bob(), names(req)))
	if diff := cmp.Diff([]partner.SideChange{{Owner: bob(), Other: ann()}}, d.Sides); diff != "" {
		t.Errorf("sides after accepting (-want +got):\n%s", diff)
	}
}
