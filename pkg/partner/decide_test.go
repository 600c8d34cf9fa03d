package partner_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

const (
	day    = 24 * time.Hour
	window = 720 * time.Hour
)

func id(n byte) uuid.UUID { return uuid.UUID{0: n, 6: 0x40, 8: 0x80, 15: n} }

func start() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// The cast: Ann writes, Bob is written to, Cleo and Dan are others.
func ann() uuid.UUID  { return id(1) }
func bob() uuid.UUID  { return id(2) }
func cleo() uuid.UUID { return id(3) }
func dan() uuid.UUID  { return id(4) }

func user(id uuid.UUID, edits ...func(*partner.User)) partner.User {
	u := partner.User{ID: id, Status: partner.UserActive, Slots: []int16{1}}
	for _, edit := range edits {
		edit(&u)
	}
	return u
}

func status(s partner.UserStatus) func(*partner.User) {
	return func(u *partner.User) { u.Status = s }
}

func slots(n int16) func(*partner.User) {
	return func(u *partner.User) {
		u.Slots = nil
		for s := range n {
			u.Slots = append(u.Slots, s+1)
		}
	}
}

func occupied(slot int16, partnership uuid.UUID, partners ...uuid.UUID) func(*partner.User) {
	return func(u *partner.User) {
		o := partner.Occupied{Slot: slot, PartnershipID: partnership}
		for _, p := range partners {
			o.Partner = p
		}
		u.Occupied = append(u.Occupied, o)
	}
}

func waiting(request uuid.UUID, a, b uuid.UUID) func(*partner.User) {
	return func(u *partner.User) {
		u.Pending = append(u.Pending, partner.PendingRef{RequestID: request, Pair: partner.PairOf(a, b)})
	}
}

// state is the state of Ann and Bob's pair.
func state(edits ...func(*partner.State)) partner.State {
	st := partner.State{
		Pair:  partner.PairState{Pair: partner.PairOf(ann(), bob())},
		Users: map[uuid.UUID]partner.User{ann(): user(ann()), bob(): user(bob())},
	}
	for _, edit := range edits {
		edit(&st)
	}
	return st
}

func with(u partner.User) func(*partner.State) {
	return func(st *partner.State) { st.Users[u.ID] = u }
}

func without(id uuid.UUID) func(*partner.State) {
	return func(st *partner.State) { delete(st.Users, id) }
}

// request is one from sender to the other of the pair, made at the start.
func request(id, sender uuid.UUID, edits ...func(*partner.Request)) func(*partner.State) {
	return func(st *partner.State) {
		r := partner.Request{
			ID: id, Sender: sender, Target: st.Pair.Pair.Other(sender), Status: partner.RequestPending,
			CreatedAt: start(), ExpiresAt: start().Add(7 * day),
		}
		for _, edit := range edits {
			edit(&r)
		}
		st.Pair.Requests = append(st.Pair.Requests, r)
		if r.Status != partner.RequestPending {
			return
		}
		for u, v := range st.Users {
			if st.Pair.Pair.Has(u) {
				v.Pending = append(v.Pending, partner.PendingRef{RequestID: id, Pair: st.Pair.Pair})
				st.Users[u] = v
			}
		}
	}
}

func resolved(s partner.RequestStatus) func(*partner.Request) {
	return func(r *partner.Request) { r.Status, r.ResolvedAt = s, start().Add(time.Hour) }
}

// active is a partnership since a day before the start, on slot 1 of both.
func active(pid uuid.UUID) func(*partner.State) {
	return func(st *partner.State) {
		st.Pair.Partnership = &partner.Partnership{
			ID: pid, Pair: st.Pair.Pair, Status: partner.PartnershipActive, LowSlot: 1, HighSlot: 1,
			StartedAt: start().Add(-day), Version: 5,
		}
		for _, u := range []uuid.UUID{st.Pair.Pair.Low, st.Pair.Pair.High} {
			v := st.Users[u]
			v.Occupied = append(v.Occupied, partner.Occupied{Slot: 1, PartnershipID: pid, Partner: st.Pair.Pair.Other(u)})
			st.Users[u] = v
		}
	}
}

// ended is a partnership that Ann ended at the start.
func ended(pid uuid.UUID) func(*partner.State) {
	return func(st *partner.State) {
		st.Pair.Partnership = &partner.Partnership{
			ID: pid, Pair: st.Pair.Pair, Status: partner.PartnershipEnded, LowSlot: 1, HighSlot: 1,
			StartedAt: start().Add(-day), EndedAt: start(), RestorableUntil: start().Add(window),
			EndedBy: ann(), Reason: "a reason", Quiet: true, RestoredCount: 2, Version: 6,
		}
	}
}

func command(t partner.CommandType, issuer uuid.UUID, edits ...func(*partner.Command)) partner.Command {
	c := partner.Command{
		ID: id(100), Type: t, Issuer: issuer, Pair: partner.PairOf(ann(), bob()), AcceptedAt: start().Add(2 * time.Hour),
	}
	for _, edit := range edits {
		edit(&c)
	}
	return c
}

func names(r uuid.UUID) func(*partner.Command) { return func(c *partner.Command) { c.RequestID = r } }
func at(t time.Time) func(*partner.Command)    { return func(c *partner.Command) { c.AcceptedAt = t } }
func fresh(c *partner.Command)                 { c.Fresh = true }
func because(event uuid.UUID) func(*partner.Command) {
	return func(c *partner.Command) { c.Cause = event }
}

func TestRejections(t *testing.T) {
	t.Parallel()
	req, current := id(20), id(30)
	full := func(u uuid.UUID) func(*partner.State) { return with(user(u, occupied(1, id(99)))) }
	self := func(st *partner.State) {
		st.Pair.Pair = partner.PairOf(ann(), ann())
		delete(st.Users, bob())
	}
	toSelf := func(c *partner.Command) { c.Pair = partner.PairOf(ann(), ann()) }
	of := func(p uuid.UUID) func(*partner.Command) { return func(c *partner.Command) { c.PartnershipID = p } }
	unavailable := map[string]func(*partner.State){
		"deactivated": with(user(bob(), status(partner.UserDeactivated))),
		"suspended":   with(user(bob(), status(partner.UserSuspended))),
		"deleting":    with(user(bob(), status(partner.UserDeleting))),
		"full":        full(bob()),
	}
	tests := map[string]struct {
		state   partner.State
		command partner.Command
		want    partner.Code
	}{
		// The order of codes: in each case the later ones would apply as well.
		"send: deleting issuer before all else": {
			state(self, with(user(ann(), status(partner.UserDeleting)))), command(partner.Send, ann(), toSelf), partner.CodeAccountDeleting,
		},
		"send: issuer unknown":  {state(without(ann())), command(partner.Send, ann()), partner.CodeAccountDeleting},
		"send: to self, full":   {state(self, full(ann())), command(partner.Send, ann(), toSelf), partner.CodeSelfRequest},
		"send: unknown, full":   {state(without(bob()), full(ann())), command(partner.Send, ann()), partner.CodeUserNotFound},
		"send: partners, full":  {state(active(current)), command(partner.Send, ann()), partner.CodeAlreadyPartners},
		"send: asked, full":     {state(full(ann()), request(req, ann())), command(partner.Send, ann()), partner.CodeRequestPending},
		"send: full, both full": {state(full(ann()), full(bob())), command(partner.Send, ann()), partner.CodeNoVacantSlot},
		"send: crossing, full":  {state(full(ann()), request(req, bob())), command(partner.Send, ann()), partner.CodeNoVacantSlot},

		"accept: deleting issuer": {
			state(with(user(bob(), status(partner.UserDeleting)))), command(partner.Accept, bob(), names(req)), partner.CodeAccountDeleting,
		},
		"accept: no such request":      {state(full(bob())), command(partner.Accept, bob(), names(req)), partner.CodeNotFound},
		"accept: by the sender":        {state(full(ann()), request(req, ann())), command(partner.Accept, ann(), names(req)), partner.CodeNotFound},
		"accept: by the sender, later": {state(request(req, ann(), resolved(partner.RequestDeclined))), command(partner.Accept, ann(), names(req)), partner.CodeNotFound},
		"accept: declined, full":       {state(full(bob()), request(req, ann(), resolved(partner.RequestDeclined))), command(partner.Accept, bob(), names(req)), partner.CodeNotPending},
		"accept: another is pending": {
			state(request(req, ann(), resolved(partner.RequestCancelled)), request(id(21), ann())), command(partner.Accept, bob(), names(req)), partner.CodeNotPending,
		},
		"accept: full, both full": {state(full(ann()), full(bob()), request(req, ann())), command(partner.Accept, bob(), names(req)), partner.CodeNoVacantSlot},
		"accept: expired":         {state(full(bob()), request(req, ann())), command(partner.Accept, bob(), names(req), at(start().Add(7*day+1))), partner.CodeNotPending},

		"decline: no such request": {state(), command(partner.Decline, bob(), names(req)), partner.CodeNotFound},
		"decline: by the sender":   {state(request(req, ann())), command(partner.Decline, ann(), names(req)), partner.CodeNotFound},
		"decline: accepted":        {state(request(req, ann(), resolved(partner.RequestAccepted))), command(partner.Decline, bob(), names(req)), partner.CodeNotPending},
		"cancel: no such request":  {state(), command(partner.Cancel, ann(), names(req)), partner.CodeNotFound},
		"cancel: by the target":    {state(request(req, ann())), command(partner.Cancel, bob(), names(req)), partner.CodeNotFound},
		"cancel: superseded":       {state(request(req, ann(), resolved(partner.RequestSuperseded))), command(partner.Cancel, ann(), names(req)), partner.CodeNotPending},

		"remove: never partners":      {state(), command(partner.Remove, ann()), partner.CodeNotCurrent},
		"remove: ended":               {state(ended(current)), command(partner.Remove, ann(), of(current)), partner.CodeNotCurrent},
		"remove: another partnership": {state(active(current)), command(partner.Remove, ann(), of(id(31))), partner.CodeNotCurrent},
		"remove: deleting issuer": {
			state(with(user(ann(), status(partner.UserDeleting)))), command(partner.Remove, ann()), partner.CodeAccountDeleting,
		},
	}
	for why, edit := range unavailable {
		type test = struct {
			state   partner.State
			command partner.Command
			want    partner.Code
		}
		tests["send: target "+why] = test{state(edit), command(partner.Send, ann()), partner.CodeTargetUnavailable}
		tests["send: crossing, target "+why] = test{state(edit, request(req, bob())), command(partner.Send, ann()), partner.CodeTargetUnavailable}
	}
	for why, edit := range map[string]func(*partner.State){
		"deactivated": with(user(ann(), status(partner.UserDeactivated))), "suspended": with(user(ann(), status(partner.UserSuspended))),
		"deleting": with(user(ann(), status(partner.UserDeleting))), "full": full(ann()), "gone": without(ann()),
	} {
		tests["accept: sender "+why] = struct {
			state   partner.State
			command partner.Command
			want    partner.Code
		}{state(edit, request(req, ann())), command(partner.Accept, bob(), names(req)), partner.CodeTargetUnavailable}
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := partner.Decide(partner.DefaultLimits(), tt.state, tt.command)
			if got.Outcome.Code != tt.want || got.Outcome.Applied() {
				t.Fatalf("code %q, want %q", got.Outcome.Code, tt.want)
			}
			last := got.Events[len(got.Events)-1]
			wantAudience := []uuid.UUID{tt.command.Issuer}
			if _, known := tt.state.Users[tt.command.Issuer]; !known {
				wantAudience = []uuid.UUID{}
			}
			if last.Type != partner.EventCommandRejected || last.Data.Code != tt.want || last.Data.Command != tt.command.Type.String() {
				t.Errorf("event %+v does not tell of the rejection", last)
			}
			if diff := cmp.Diff(wantAudience, last.Recipients); diff != "" {
				t.Errorf("recipients (-want +got):\n%s", diff)
			}
			if len(got.FollowUps) != 0 || len(got.Partners) != 0 {
				t.Errorf("a rejection changed something: %+v", got)
			}
		})
	}
}

// summary is what matters of an event in the tests below.
type summary struct {
	Type   partner.EventType
	To     []uuid.UUID
	Origin uuid.UUID
	Data   partner.EventData
}

func summaries(events []partner.Event) []summary {
	out := make([]summary, 0, len(events))
	for _, e := range events {
		out = append(out, summary{e.Type, e.Recipients, e.Origin, e.Data})
	}
	return out
}

func checkEvents(t *testing.T, d partner.Decision, want ...summary) {
	t.Helper()
	if diff := cmp.Diff(want, summaries(d.Events)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	for i, e := range d.Events {
		if e.ID != partner.EventID(e.CommandID, i) || e.At != d.Now {
			t.Errorf("event %d has id %s and time %s", i, e.ID, e.At)
		}
	}
}

func both() []uuid.UUID { return []uuid.UUID{ann(), bob()} }

func TestSend(t *testing.T) {
	t.Parallel()
	cmd := command(partner.Send, bob(), fresh, func(c *partner.Command) { c.Message = "be mine" })
	d := partner.Decide(partner.DefaultLimits(), state(), cmd)
	r := partner.Request{
		ID: partner.RequestIDOf(cmd.ID), Sender: bob(), Target: ann(), Message: "be mine", Fresh: true,
		Status: partner.RequestPending, CreatedAt: cmd.AcceptedAt, ExpiresAt: cmd.AcceptedAt.Add(7 * day),
	}
	if diff := cmp.Diff([]partner.Request{r}, d.Requests); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(partner.Outcome{Result: partner.Result{RequestID: &r.ID, Status: "pending"}}, d.Outcome); diff != "" {
		t.Errorf("outcome (-want +got):\n%s", diff)
	}
	checkEvents(t, d,
		summary{partner.EventRequestSent, []uuid.UUID{bob()}, bob(), partner.EventData{RequestID: &r.ID, ToUserID: new(ann()), ExpiresAt: &r.ExpiresAt}},
		summary{partner.EventRequestReceived, []uuid.UUID{ann()}, bob(), partner.EventData{RequestID: &r.ID, FromUserID: new(bob()), ExpiresAt: &r.ExpiresAt}},
	)
	ref := []partner.PendingRef{{RequestID: r.ID, Pair: cmd.Pair}}
	for _, u := range both() {
		if diff := cmp.Diff(ref, d.Next.Users[u].Pending); diff != "" {
			t.Errorf("pending of %s (-want +got):\n%s", u, diff)
		}
	}
	if diff := cmp.Diff([]partner.Request{r}, d.Next.Pair.Requests); diff != "" {
		t.Errorf("next requests (-want +got):\n%s", diff)
	}
}

func TestAccept(t *testing.T) {
	t.Parallel()
	req := id(20)
	cmd := command(partner.Accept, bob(), names(req))
	d := partner.Decide(partner.DefaultLimits(), state(request(req, ann()), with(user(bob(), slots(2), occupied(1, id(99))))), cmd)
	p := partner.Partnership{
		ID: partner.PartnershipIDOf(cmd.ID), Pair: cmd.Pair, Status: partner.PartnershipActive, LowSlot: 1, HighSlot: 2,
		StartedAt: cmd.AcceptedAt, Version: cmd.AcceptedAt.UnixMicro(),
	}
	if diff := cmp.Diff([]partner.Partnership{p}, d.Partners); diff != "" {
		t.Errorf("partnerships (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&p, d.Next.Pair.Partnership); diff != "" {
		t.Errorf("next partnership (-want +got):\n%s", diff)
	}
	want := partner.Outcome{Result: partner.Result{RequestID: &req, PartnershipID: &p.ID, StartedAt: &p.StartedAt, Restored: new(false)}}
	if diff := cmp.Diff(want, d.Outcome); diff != "" {
		t.Errorf("outcome (-want +got):\n%s", diff)
	}
	checkEvents(t, d,
		summary{partner.EventRequestAccepted, both(), bob(), partner.EventData{RequestID: &req, ByUserID: new(bob()), PartnershipID: &p.ID}},
		summary{partner.EventPartnershipStarted, both(), bob(), partner.EventData{
			PartnershipID: &p.ID, UserIDs: both(), StartedAt: &p.StartedAt, Restored: new(false), RestoredCount: new(0),
		}},
	)
	if r := d.Requests; len(r) != 1 || r[0].Status != partner.RequestAccepted || r[0].ResolvedAt != cmd.AcceptedAt {
		t.Errorf("requests %+v", r)
	}
	wantUsers := map[uuid.UUID]partner.User{
		ann(): user(ann(), occupied(1, p.ID, bob())), bob(): user(bob(), slots(2), occupied(1, id(99)), occupied(2, p.ID, ann())),
	}
	wantUsers[ann()] = func(u partner.User) partner.User { u.Pending = []partner.PendingRef{}; return u }(wantUsers[ann()])
	wantUsers[bob()] = func(u partner.User) partner.User { u.Pending = d.Next.Users[bob()].Pending; return u }(wantUsers[bob()])
	if diff := cmp.Diff(wantUsers, d.Next.Users); diff != "" {
		t.Errorf("next users (-want +got):\n%s", diff)
	}
}

func TestCrossingSendAccepts(t *testing.T) {
	t.Parallel()
	req := id(20)
	cmd := command(partner.Send, bob(), func(c *partner.Command) { c.Message = "me too" })
	d := partner.Decide(partner.DefaultLimits(), state(request(req, ann())), cmd)
	pid := partner.PartnershipIDOf(cmd.ID)
	if diff := cmp.Diff(partner.Outcome{Result: partner.Result{RequestID: &req, PartnershipID: &pid, Crossed: true}}, d.Outcome); diff != "" {
		t.Errorf("outcome (-want +got):\n%s", diff)
	}
	if len(d.Requests) != 1 || d.Requests[0].ID != req || d.Requests[0].Status != partner.RequestAccepted {
		t.Errorf("requests %+v, want only the surviving one, accepted", d.Requests)
	}
	if e := d.Events[0]; e.Type != partner.EventRequestAccepted || !e.Data.Crossed || *e.Data.RequestID != req || *e.Data.ByUserID != bob() {
		t.Errorf("event %+v does not tell of the crossing", e)
	}
}

func TestDeclineAndCancel(t *testing.T) {
	t.Parallel()
	req := id(20)
	tests := map[string]struct {
		cmd    partner.Command
		status partner.RequestStatus
		event  partner.EventType
	}{
		"decline": {command(partner.Decline, bob(), names(req)), partner.RequestDeclined, partner.EventRequestDeclined},
		"cancel":  {command(partner.Cancel, ann(), names(req)), partner.RequestCancelled, partner.EventRequestCancelled},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := partner.Decide(partner.DefaultLimits(), state(request(req, ann())), tt.cmd)
			if diff := cmp.Diff(partner.Outcome{Result: partner.Result{RequestID: &req, Status: tt.status.String()}}, d.Outcome); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
			checkEvents(t, d, summary{tt.event, both(), tt.cmd.Issuer, partner.EventData{RequestID: &req, ByUserID: &tt.cmd.Issuer}})
			if r := d.Requests; len(r) != 1 || r[0].Status != tt.status || r[0].ResolvedAt != tt.cmd.AcceptedAt {
				t.Errorf("requests %+v", r)
			}
			for u, v := range d.Next.Users {
				if len(v.Pending) != 0 {
					t.Errorf("%s still has pending requests %v", u, v.Pending)
				}
			}
		})
	}
}

func TestRemove(t *testing.T) {
	t.Parallel()
	pid, cmd := id(30), command(partner.Remove, bob(), func(c *partner.Command) { c.Reason = "it is over" })
	until := cmd.AcceptedAt.Add(window)
	data := partner.EventData{
		PartnershipID: &pid, ByUserID: new(bob()), StartedAt: new(start().Add(-day)), EndedAt: &cmd.AcceptedAt,
		RestorableUntil: &until, RestoredCount: new(0),
	}
	silent := data
	silent.Silent = true
	named, quiet := cmd, cmd
	named.PartnershipID, quiet.Quiet = pid, true
	vacated := func(u uuid.UUID, silent bool) summary {
		return summary{partner.EventSlotVacated, []uuid.UUID{u}, uuid.Nil, partner.EventData{Slot: new(int16(1)), Silent: silent}}
	}
	tests := map[string]struct {
		cmd  partner.Command
		want []summary
		door []partner.SideChange
	}{
		"the current one": {cmd, []summary{
			{partner.EventPartnershipEnded, both(), uuid.Nil, data}, vacated(ann(), false), vacated(bob(), false),
		}, nil},
		"by its id": {named, []summary{
			{partner.EventPartnershipEnded, both(), uuid.Nil, data}, vacated(ann(), false), vacated(bob(), false),
		}, nil},
		"quietly": {quiet, []summary{
			{partner.EventPartnershipEnded, []uuid.UUID{bob()}, uuid.Nil, data},
			{partner.EventPartnershipEnded, []uuid.UUID{ann()}, uuid.Nil, silent}, vacated(ann(), true), vacated(bob(), false),
		}, []partner.SideChange{{Owner: bob(), Other: ann(), Side: partner.Side{DoorClosedAt: cmd.AcceptedAt}}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := partner.Decide(partner.DefaultLimits(), state(active(pid)), tt.cmd)
			checkEvents(t, d, tt.want...)
			want := partner.Partnership{
				ID: pid, Pair: cmd.Pair, Status: partner.PartnershipEnded, LowSlot: 1, HighSlot: 1, StartedAt: start().Add(-day),
				EndedAt: cmd.AcceptedAt, RestorableUntil: until, EndedBy: bob(), Reason: "it is over", Quiet: tt.cmd.Quiet,
				Version: cmd.AcceptedAt.UnixMicro(),
			}
			if diff := cmp.Diff([]partner.Partnership{want}, d.Partners); diff != "" {
				t.Errorf("partnerships (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(partner.Outcome{Result: partner.Result{PartnershipID: &pid, EndedAt: &cmd.AcceptedAt, RestorableUntil: &until}}, d.Outcome); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.door, d.Sides); diff != "" {
				t.Errorf("sides (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]partner.Cut{{Recipient: ann(), Origin: bob()}, {Recipient: bob(), Origin: ann()}}, d.Cuts); diff != "" {
				t.Errorf("cuts (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]partner.Timer{{Kind: partner.TimerArchive, Pair: cmd.Pair, Ref: pid, Due: until}}, d.Timers); diff != "" {
				t.Errorf("timers (-want +got):\n%s", diff)
			}
			for u, v := range d.Next.Users {
				if len(v.Occupied) != 0 || v.Full() {
					t.Errorf("%s has no vacant slot: %+v", u, v)
				}
			}
		})
	}
}
