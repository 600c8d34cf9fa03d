package partner_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

func TestAskBreakup(t *testing.T) {
	t.Parallel()
	current := id(30)
	cmd := command(partner.AskBreakup, bob(), func(c *partner.Command) { c.Reason = "we grew apart" })
	d := partner.Decide(partner.DefaultLimits(), state(active(current)), cmd)
	asked, until := partner.BreakupIDOf(cmd.ID), cmd.AcceptedAt.Add(7*day)
	want := partner.Breakup{
		ID: asked, PartnershipID: current, Pair: cmd.Pair, Asker: bob(), Reason: "we grew apart", Status: partner.BreakupPending,
		CreatedAt: cmd.AcceptedAt, ExpiresAt: until,
	}
	if diff := cmp.Diff([]partner.Breakup{want}, d.Breakups); diff != "" {
		t.Errorf("breakups (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]partner.Breakup{want}, d.Next.Pair.Breakups); diff != "" {
		t.Errorf("next breakups (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]partner.Timer{{Kind: partner.TimerBreakup, Pair: cmd.Pair, Ref: asked, Due: until}}, d.Timers); diff != "" {
		t.Errorf("timers (-want +got):\n%s", diff)
	}
	wantOutcome := partner.Outcome{Result: partner.Result{BreakupID: &asked, PartnershipID: new(current), Status: "pending", ExpiresAt: &until}}
	if diff := cmp.Diff(wantOutcome, d.Outcome); diff != "" {
		t.Errorf("outcome (-want +got):\n%s", diff)
	}
	checkEvents(t, d, summary{partner.EventBreakupRequested, both(), bob(), partner.EventData{
		BreakupID: &asked, PartnershipID: new(current), ByUserID: new(bob()), ExpiresAt: &until,
	}})
	if len(d.Cuts)+len(d.Partners)+len(d.Sides) != 0 {
		t.Errorf("asking alone changed more: %+v", d)
	}
}

// TestBreakupEnds has each way in which a breakup ends a partnership, or the end of the
// partnership a breakup.
func TestBreakupEnds(t *testing.T) {
	t.Parallel()
	current, asked := id(30), id(40)
	st := state(active(current), breakup(asked, ann()))
	due := start().Add(7 * day)
	later := at(start().Add(9 * day))
	tests := map[string]struct {
		cmd        partner.Command
		status     partner.BreakupStatus
		endedAt    time.Time
		endedBy    uuid.UUID
		by         uuid.UUID
		reason     string
		wantResult string
	}{
		"accepted":            {command(partner.AcceptBreakup, bob(), answers(asked)), partner.BreakupAccepted, start().Add(2 * time.Hour), ann(), bob(), "a reason", "accepted"},
		"asked by both":       {command(partner.AskBreakup, bob()), partner.BreakupAccepted, start().Add(2 * time.Hour), ann(), bob(), "a reason", "accepted"},
		"nobody answered":     {command(partner.DeclineBreakup, bob(), answers(asked), later), partner.BreakupExpired, due, ann(), ann(), "a reason", ""},
		"noticed by a send":   {command(partner.Send, bob(), later), partner.BreakupExpired, due, ann(), ann(), "a reason", "pending"},
		"the asker left":      {command(partner.Remove, ann()), partner.BreakupSuperseded, start().Add(2 * time.Hour), ann(), ann(), "", ""},
		"the partner left":    {command(partner.Remove, bob()), partner.BreakupSuperseded, start().Add(2 * time.Hour), bob(), bob(), "", ""},
		"the partner blocked": {command(partner.Block, bob()), partner.BreakupSuperseded, start().Add(2 * time.Hour), bob(), bob(), "", "blocked"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := partner.Decide(partner.DefaultLimits(), st, tt.cmd)
			p := d.Next.Pair.Partnership
			if p == nil || p.Status != partner.PartnershipEnded || p.EndedAt != tt.endedAt || p.EndedBy != tt.endedBy || p.Reason != tt.reason {
				t.Errorf("partnership %+v", p)
			}
			if p.RestorableUntil != tt.endedAt.Add(window) {
				t.Errorf("restorable until %s", p.RestorableUntil)
			}
			if b := d.Breakups[len(d.Breakups)-1]; b.ID != asked || b.Status != tt.status || b.ResolvedAt != tt.endedAt || b.Reason != "" {
				t.Errorf("breakup %+v", b)
			}
			if d.Outcome.Result.Status != tt.wantResult {
				t.Errorf("result %+v", d.Outcome)
			}
			e := d.Events[0]
			if e.Type != partner.EventPartnershipEnded || *e.Data.ByUserID != tt.by || *e.Data.EndedAt != tt.endedAt {
				t.Errorf("event %+v", e)
			}
			if got := e.Data.BreakupID != nil; got != (tt.status != partner.BreakupSuperseded) {
				t.Errorf("the event names the breakup: %v", got)
			}
			for _, timer := range d.Timers {
				if timer.Kind == partner.TimerBreakup && !timer.Due.IsZero() {
					t.Errorf("the breakup still has a timer: %+v", timer)
				}
			}
			if len(d.Cuts) != 2 {
				t.Errorf("cuts %v", d.Cuts)
			}
		})
	}
}

func TestBreakupClosesWithoutEnd(t *testing.T) {
	t.Parallel()
	current, asked := id(30), id(40)
	tests := map[string]struct {
		cmd    partner.Command
		status partner.BreakupStatus
		event  partner.EventType
	}{
		"declined":  {command(partner.DeclineBreakup, bob(), answers(asked)), partner.BreakupDeclined, partner.EventBreakupDeclined},
		"withdrawn": {command(partner.WithdrawBreakup, ann(), answers(asked)), partner.BreakupWithdrawn, partner.EventBreakupWithdrawn},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := partner.Decide(partner.DefaultLimits(), state(active(current), breakup(asked, ann())), tt.cmd)
			checkEvents(t, d, summary{tt.event, both(), tt.cmd.Issuer, partner.EventData{
				BreakupID: &asked, PartnershipID: &current, ByUserID: &tt.cmd.Issuer,
			}})
			want := partner.Outcome{Result: partner.Result{BreakupID: &asked, PartnershipID: &current, Status: tt.status.String()}}
			if diff := cmp.Diff(want, d.Outcome); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]partner.Timer{{Kind: partner.TimerBreakup, Pair: tt.cmd.Pair, Ref: asked}}, d.Timers); diff != "" {
				t.Errorf("timers (-want +got):\n%s", diff)
			}
			if len(d.Partners) != 0 || d.Next.Pair.Partnership.Status != partner.PartnershipActive {
				t.Errorf("partnerships %+v", d.Partners)
			}
		})
	}
}

func TestDecideDue(t *testing.T) {
	t.Parallel()
	req, current, asked := id(20), id(30), id(40)
	pair := partner.PairOf(ann(), bob())
	timer := func(kind partner.TimerKind, ref uuid.UUID, due time.Time) partner.Timer {
		return partner.Timer{Kind: kind, Pair: pair, Ref: ref, Due: due}
	}
	week := start().Add(7 * day)
	tests := map[string]struct {
		state  partner.State
		timer  partner.Timer
		want   []partner.EventType
		timers []partner.Timer
	}{
		"a request expires": {
			state(request(req, ann())), timer(partner.TimerRequest, req, week),
			[]partner.EventType{partner.EventRequestExpired}, []partner.Timer{timer(partner.TimerRequest, req, time.Time{})},
		},
		"a breakup ends it": {
			state(active(current), breakup(asked, ann())), timer(partner.TimerBreakup, asked, week),
			[]partner.EventType{partner.EventPartnershipEnded, partner.EventSlotVacated, partner.EventSlotVacated},
			[]partner.Timer{timer(partner.TimerArchive, current, week.Add(window)), timer(partner.TimerBreakup, asked, time.Time{})},
		},
		"an ended partnership is archived": {
			state(ended(current), anns(named), bobs(forfeits(current))), timer(partner.TimerArchive, current, start().Add(window)),
			[]partner.EventType{partner.EventPartnershipArchived}, []partner.Timer{timer(partner.TimerArchive, current, time.Time{})},
		},
		"another was due before": {
			state(ended(current), request(req, ann())), timer(partner.TimerArchive, current, start().Add(window)),
			[]partner.EventType{partner.EventRequestExpired, partner.EventPartnershipArchived},
			[]partner.Timer{timer(partner.TimerRequest, req, time.Time{}), timer(partner.TimerArchive, current, time.Time{})},
		},
		"answered before":        {state(), timer(partner.TimerRequest, req, week), nil, nil},
		"restored before":        {state(active(current)), timer(partner.TimerArchive, current, start().Add(window)), nil, nil},
		"the request is younger": {state(request(id(21), ann())), timer(partner.TimerRequest, req, start().Add(day)), nil, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := partner.DecideDue(partner.DefaultLimits(), tt.state, tt.timer)
			var types []partner.EventType
			for _, e := range d.Events {
				types = append(types, e.Type)
				if e.CommandID != partner.TimerID(tt.timer) || e.Origin != uuid.Nil {
					t.Errorf("event %+v", e)
				}
			}
			if diff := cmp.Diff(tt.want, types); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.timers, d.Timers); diff != "" {
				t.Errorf("timers (-want +got):\n%s", diff)
			}
			if !d.Outcome.Applied() || len(d.Activity) != 0 {
				t.Errorf("outcome %+v, activity %v", d.Outcome, d.Activity)
			}
			if len(tt.want) > 0 && d.Now != tt.timer.Due.Add(time.Microsecond) {
				t.Errorf("decided at %s", d.Now)
			}
			again := partner.DecideDue(partner.DefaultLimits(), d.Next, tt.timer)
			if len(again.Events)+len(again.Timers)+len(again.Requests)+len(again.Partners)+len(again.Sides) != 0 {
				t.Errorf("once more it does something: %+v", again)
			}
		})
	}
	t.Run("what people wrote goes with the archiving", func(t *testing.T) {
		t.Parallel()
		st := state(ended(current), anns(named), bobs(forfeits(current)), bobs(doorClosed))
		d := partner.DecideDue(partner.DefaultLimits(), st, timer(partner.TimerArchive, current, start().Add(window)))
		if diff := cmp.Diff([]partner.Nickname{{Owner: ann(), Target: bob(), UpdatedAt: d.Now}}, d.Nicknames); diff != "" {
			t.Errorf("nicknames (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]partner.SideChange{{Owner: bob(), Other: ann(), Side: partner.Side{DoorClosedAt: start()}}}, d.Sides); diff != "" {
			t.Errorf("sides (-want +got):\n%s", diff)
		}
		if d.Partners[0].Reason != "" {
			t.Errorf("reason %q", d.Partners[0].Reason)
		}
	})
}
