package partner_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

func TestRestoration(t *testing.T) {
	t.Parallel()
	old, req := id(30), id(20)
	// The request comes late in the window, so that it is pending when the window closes.
	late := func(r *partner.Request) { r.CreatedAt, r.ExpiresAt = start().Add(29*day), start().Add(36*day) }
	freshly := func(r *partner.Request) { late(r); r.Fresh = true }
	plain := state(ended(old), request(req, ann(), late))
	wanted := state(ended(old), request(req, ann(), freshly))
	crossing := func(edits ...func(*partner.Command)) partner.Command {
		return command(partner.Send, bob(), edits...)
	}
	accept := func(edits ...func(*partner.Command)) partner.Command {
		return command(partner.Accept, bob(), append(edits, names(req))...)
	}
	type outcome struct {
		restored bool
		archived bool
		origin   uuid.UUID // of the archiving
	}
	tests := map[string]struct {
		state partner.State
		cmd   partner.Command
		want  outcome
	}{
		"within the window":                              {plain, accept(at(start().Add(30 * day).Add(-1))), outcome{restored: true}},
		"at its very end":                                {plain, accept(at(start().Add(window))), outcome{restored: true}},
		"a microsecond later":                            {plain, accept(at(start().Add(window + time.Microsecond))), outcome{archived: true}},
		"sender wants a fresh start":                     {wanted, accept(at(start().Add(29 * day))), outcome{archived: true, origin: bob()}},
		"target wants a fresh start":                     {plain, accept(at(start().Add(29*day)), fresh), outcome{archived: true, origin: bob()}},
		"both do":                                        {wanted, accept(at(start().Add(29*day)), fresh), outcome{archived: true, origin: bob()}},
		"crossing":                                       {plain, crossing(at(start().Add(29 * day))), outcome{restored: true}},
		"crossing, the later one fresh":                  {plain, crossing(at(start().Add(29*day)), fresh), outcome{archived: true, origin: bob()}},
		"crossing, the earlier one fresh":                {wanted, crossing(at(start().Add(29 * day))), outcome{archived: true, origin: bob()}},
		"a clock behind the end counts from the request": {plain, accept(at(start().Add(-time.Hour))), outcome{restored: true}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := partner.Decide(partner.DefaultLimits(), tt.state, tt.cmd)
			if !d.Outcome.Applied() {
				t.Fatalf("rejected: %s", d.Outcome.Code)
			}
			var got outcome
			var started partner.Event
			for _, e := range d.Events {
				switch e.Type {
				case partner.EventPartnershipArchived:
					got.archived, got.origin = true, e.Origin
					if diff := cmp.Diff(both(), e.Recipients); diff != "" || *e.Data.PartnershipID != old {
						t.Errorf("archived event %+v", e)
					}
				case partner.EventPartnershipStarted:
					got.restored, started = *e.Data.Restored, e
				default:
				}
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(outcome{})); diff != "" {
				t.Fatalf("outcome (-want +got):\n%s", diff)
			}
			current := d.Next.Pair.Partnership
			if got.restored {
				want := partner.Partnership{
					ID: old, Pair: tt.cmd.Pair, Status: partner.PartnershipActive, LowSlot: 1, HighSlot: 1,
					StartedAt: start().Add(-day), RestoredCount: 3, Version: d.Now.UnixMicro(),
				}
				if diff := cmp.Diff([]partner.Partnership{want}, d.Partners); diff != "" {
					t.Errorf("partnerships (-want +got):\n%s", diff)
				}
				if *started.Data.StartedAt != want.StartedAt || *started.Data.RestoredCount != 3 || *started.Data.PartnershipID != old {
					t.Errorf("started event %+v", started.Data)
				}
				return
			}
			if len(d.Partners) != 2 {
				t.Fatalf("%d partnerships written, want the archived and the new", len(d.Partners))
			}
			archived, begun := d.Partners[0], d.Partners[1]
			if archived.ID != old || archived.Status != partner.PartnershipArchived || archived.Reason != "" {
				t.Errorf("archived %+v", archived)
			}
			if begun.ID != partner.PartnershipIDOf(tt.cmd.ID) || begun.StartedAt != d.Now || begun.RestoredCount != 0 || begun.ID != current.ID {
				t.Errorf("begun %+v", begun)
			}
			if begun.Version <= archived.Version || archived.Version <= 6 {
				t.Errorf("versions %d, %d do not rise from 6", archived.Version, begun.Version)
			}
		})
	}
}

func TestDue(t *testing.T) {
	t.Parallel()
	req, old := id(20), id(30)
	expiry := start().Add(7 * day)
	tests := map[string]struct {
		state     partner.State
		cmd       partner.Command
		wantCode  partner.Code
		wantTypes []partner.EventType
	}{
		"accepted at the very instant of expiry": {
			state(request(req, ann())), command(partner.Accept, bob(), names(req), at(expiry)), "",
			[]partner.EventType{partner.EventRequestAccepted, partner.EventPartnershipStarted},
		},
		"accepted later": {
			state(request(req, ann())), command(partner.Accept, bob(), names(req), at(expiry.Add(time.Microsecond))), partner.CodeNotPending,
			[]partner.EventType{partner.EventRequestExpired, partner.EventCommandRejected},
		},
		"sent again at the instant of expiry": {
			state(request(req, ann())), command(partner.Send, ann(), at(expiry)), partner.CodeRequestPending,
			[]partner.EventType{partner.EventCommandRejected},
		},
		"sent again after expiry": {
			state(request(req, ann())), command(partner.Send, ann(), at(expiry.Add(time.Microsecond))), "",
			[]partner.EventType{partner.EventRequestExpired, partner.EventRequestSent, partner.EventRequestReceived},
		},
		"sent back after expiry does not cross": {
			state(request(req, ann())), command(partner.Send, bob(), at(expiry.Add(time.Microsecond))), "",
			[]partner.EventType{partner.EventRequestExpired, partner.EventRequestSent, partner.EventRequestReceived},
		},
		"superseded after expiry": {
			state(request(req, ann())), command(partner.Supersede, ann(), names(req), because(id(9)), at(expiry.Add(time.Microsecond))), "",
			[]partner.EventType{partner.EventRequestExpired},
		},
		"archived before expired, as it was due": {
			state(ended(old), request(req, ann(), func(r *partner.Request) {
				r.CreatedAt, r.ExpiresAt = start().Add(25*day), start().Add(32*day)
			})), command(partner.Remove, ann(), at(start().Add(40*day))), partner.CodeNotCurrent,
			[]partner.EventType{partner.EventPartnershipArchived, partner.EventRequestExpired, partner.EventCommandRejected},
		},
		"expired before archived, as it was due": {
			state(ended(old), request(req, ann())), command(partner.Remove, ann(), at(start().Add(40*day))), partner.CodeNotCurrent,
			[]partner.EventType{partner.EventRequestExpired, partner.EventPartnershipArchived, partner.EventCommandRejected},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := partner.Decide(partner.DefaultLimits(), tt.state, tt.cmd)
			if d.Outcome.Code != tt.wantCode {
				t.Errorf("code %q, want %q", d.Outcome.Code, tt.wantCode)
			}
			var types []partner.EventType
			for _, e := range d.Events {
				types = append(types, e.Type)
				if timers := e.Type == partner.EventRequestExpired || e.Type == partner.EventPartnershipArchived; timers {
					if e.Origin != uuid.Nil || len(e.Recipients) != 2 {
						t.Errorf("what time did: %+v", e)
					}
				}
			}
			if diff := cmp.Diff(tt.wantTypes, types); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			for _, r := range d.Requests {
				if r.Status == partner.RequestExpired && r.ResolvedAt != r.ExpiresAt {
					t.Errorf("expired at %s, was due at %s", r.ResolvedAt, r.ExpiresAt)
				}
			}
			for _, p := range d.Partners {
				if p.Status == partner.PartnershipArchived && p.Reason != "" {
					t.Errorf("the reason outlived the archiving: %q", p.Reason)
				}
			}
		})
	}
}

func TestDecisionTimeNeverGoesBack(t *testing.T) {
	t.Parallel()
	early := at(start().Add(-time.Hour))
	tests := map[string]struct {
		state partner.State
		cmd   partner.Command
	}{
		"before the pending request": {state(request(id(20), ann())), command(partner.Decline, bob(), names(id(20)), early)},
		"before the end":             {state(ended(id(30))), command(partner.Send, bob(), early)},
		"before the start": {
			state(active(id(30)), func(st *partner.State) { st.Pair.Partnership.StartedAt = start() }), command(partner.Remove, bob(), early),
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if d := partner.Decide(partner.DefaultLimits(), tt.state, tt.cmd); d.Now != start() || !d.Outcome.Applied() {
				t.Errorf("now %s (%s), want %s", d.Now, d.Outcome.Code, start())
			}
		})
	}
	t.Run("what a batch left in the state does not count", func(t *testing.T) {
		t.Parallel()
		st := state(request(id(20), ann(), resolved(partner.RequestDeclined)))
		if d := partner.Decide(partner.DefaultLimits(), st, command(partner.Send, ann(), at(start()))); d.Now != start() {
			t.Errorf("now %s, want %s", d.Now, start())
		}
	})
}

func TestPreferredSlot(t *testing.T) {
	t.Parallel()
	st := state(ended(id(30)), request(id(20), ann()), with(user(bob(), slots(3), occupied(1, id(98)))))
	st.Pair.Partnership.HighSlot = 3
	d := partner.Decide(partner.DefaultLimits(), st, command(partner.Accept, bob(), names(id(20))))
	if got := d.Next.Pair.Partnership.HighSlot; got != 3 {
		t.Errorf("restored to slot %d, want the former one, 3", got)
	}
	st.Users[bob()] = user(bob(), slots(3), occupied(1, id(98)), occupied(3, id(99)))
	d = partner.Decide(partner.DefaultLimits(), st, command(partner.Accept, bob(), names(id(20))))
	if got := d.Next.Pair.Partnership.HighSlot; got != 2 {
		t.Errorf("restored to slot %d, want the vacant one, 2", got)
	}
}
