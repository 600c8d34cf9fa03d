package partner_test

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

func numbered(n int) uuid.UUID {
	u := uuid.UUID{0: 0xee, 6: 0x40, 8: 0x80}
	binary.BigEndian.PutUint32(u[12:], uint32(n))
	return u
}

func TestFillingTheLastSlotSupersedes(t *testing.T) {
	t.Parallel()
	req := id(20)
	// Ann has one slot and two other requests; Bob keeps a vacant slot.
	st := state(
		with(user(ann(), waiting(id(21), ann(), cleo()), waiting(id(22), ann(), dan()))),
		with(user(bob(), slots(2), waiting(id(23), bob(), cleo()))),
		request(req, ann()),
	)
	cmd := command(partner.Accept, bob(), names(req))
	d := partner.Decide(partner.DefaultLimits(), st, cmd)
	cause := d.Events[1].ID
	if d.Events[1].Type != partner.EventPartnershipStarted {
		t.Fatalf("events %+v", d.Events)
	}
	want := []partner.Command{
		{ID: partner.FollowUpID(cause, id(21)), Type: partner.Supersede, Issuer: ann(), Pair: partner.PairOf(ann(), cleo()), AcceptedAt: d.Now, Cause: cause, RequestID: id(21)},
		{ID: partner.FollowUpID(cause, id(22)), Type: partner.Supersede, Issuer: ann(), Pair: partner.PairOf(ann(), dan()), AcceptedAt: d.Now, Cause: cause, RequestID: id(22)},
	}
	if diff := cmp.Diff(want, d.FollowUps); diff != "" {
		t.Errorf("follow-ups (-want +got):\n%s", diff)
	}
}

func TestSupersede(t *testing.T) {
	t.Parallel()
	req := id(20)
	cmd := command(partner.Supersede, bob(), names(req), because(id(9)))
	tests := map[string]struct {
		state      partner.State
		wantResult partner.Result
		want       summary
	}{
		"pending": {
			state(request(req, ann())), partner.Result{RequestID: &req, Status: "superseded"},
			summary{partner.EventRequestSuperseded, both(), uuid.Nil, partner.EventData{RequestID: &req}},
		},
		"issuer deleting: follow-ups go on": {
			state(request(req, ann()), with(user(bob(), status(partner.UserDeleting)))), partner.Result{RequestID: &req, Status: "superseded"},
			summary{partner.EventRequestSuperseded, both(), uuid.Nil, partner.EventData{RequestID: &req}},
		},
		"answered meanwhile": {
			state(request(req, ann(), resolved(partner.RequestDeclined))), partner.Result{},
			summary{partner.EventCommandApplied, []uuid.UUID{}, bob(), partner.EventData{Command: "request.supersede"}},
		},
		"not there": {
			state(), partner.Result{},
			summary{partner.EventCommandApplied, []uuid.UUID{}, bob(), partner.EventData{Command: "request.supersede"}},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, more := range []bool{false, true} {
				cmd := cmd
				cmd.More = more
				d := partner.Decide(partner.DefaultLimits(), tt.state, cmd)
				checkEvents(t, d, tt.want)
				if diff := cmp.Diff(partner.Outcome{Result: tt.wantResult}, d.Outcome); diff != "" {
					t.Errorf("outcome (-want +got):\n%s", diff)
				}
				var want []partner.Command
				if more {
					cause := d.Events[0].ID
					want = []partner.Command{{
						ID: partner.FollowUpID(cause, bob()), Type: partner.Sweep, Issuer: bob(), Pair: partner.PairOf(bob(), bob()), AcceptedAt: d.Now, Cause: cause,
					}}
				}
				if diff := cmp.Diff(want, d.FollowUps); diff != "" {
					t.Errorf("follow-ups (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// TestSweep closes more requests than one decision holds, with the pairs' partitions as
// slow as can be: of each round only the last command is applied before the next sweep.
func TestSweep(t *testing.T) {
	t.Parallel()
	solo := partner.PairOf(ann(), ann())
	open := make(map[uuid.UUID]partner.PendingRef)
	var order []uuid.UUID
	for n := range 250 {
		order = append(order, numbered(n))
		open[numbered(n)] = partner.PendingRef{RequestID: numbered(n), Pair: partner.PairOf(ann(), numbered(1000+n))}
	}
	load := func() partner.State {
		u := user(ann(), occupied(1, id(30)))
		for _, r := range order {
			if ref, ok := open[r]; ok && len(u.Pending) < partner.PendingLimit {
				u.Pending = append(u.Pending, ref)
			}
		}
		return partner.State{Pair: partner.PairState{Pair: solo}, Users: map[uuid.UUID]partner.User{ann(): u}}
	}
	next := &partner.Command{ID: id(50), Type: partner.Sweep, Issuer: ann(), Pair: solo, AcceptedAt: start(), Cause: id(9)}
	for round := 0; next != nil; round++ {
		if round > 250 {
			t.Fatalf("no end after %d rounds, %d requests open", round, len(open))
		}
		d := partner.Decide(partner.DefaultLimits(), load(), *next)
		if len(d.Events) != 1 || d.Events[0].Type != partner.EventCommandApplied || len(d.Events[0].Recipients) != 0 {
			t.Fatalf("events %+v", d.Events)
		}
		next = nil
		lastRound := len(open) < partner.PendingLimit
		for i, f := range d.FollowUps {
			if f.Type != partner.Supersede || f.Cause != d.Events[0].ID {
				t.Fatalf("follow-up %+v", f)
			}
			if f.More != (!lastRound && i == len(d.FollowUps)-1) {
				t.Fatalf("round %d, follow-up %d of %d: more is %v", round, i, len(d.FollowUps), f.More)
			}
			if f.More || lastRound {
				delete(open, f.RequestID)
			}
			if f.More {
				sd := partner.Decide(partner.DefaultLimits(), partner.State{Pair: partner.PairState{Pair: f.Pair}, Users: load().Users}, f)
				next = &sd.FollowUps[0]
			}
		}
	}
	if len(open) != 0 {
		t.Errorf("%d requests are still open", len(open))
	}
}

func TestSweepOfAVacantUserDoesNothing(t *testing.T) {
	t.Parallel()
	solo := partner.PairOf(ann(), ann())
	st := partner.State{
		Pair:  partner.PairState{Pair: solo},
		Users: map[uuid.UUID]partner.User{ann(): user(ann(), waiting(id(21), ann(), cleo()))},
	}
	d := partner.Decide(partner.DefaultLimits(), st, partner.Command{ID: id(50), Type: partner.Sweep, Issuer: ann(), Pair: solo, AcceptedAt: start(), Cause: id(9)})
	if len(d.FollowUps) != 0 {
		t.Errorf("follow-ups %+v", d.FollowUps)
	}
	checkEvents(t, d, summary{partner.EventCommandApplied, []uuid.UUID{}, ann(), partner.EventData{Command: "request.sweep"}})
}

// A batch may shorten a list that was cut when it was loaded: the rest is not forgotten.
func TestCutListIsRemembered(t *testing.T) {
	t.Parallel()
	req := id(20)
	bobs := user(bob())
	for n := range partner.PendingLimit {
		bobs.Pending = append(bobs.Pending, partner.PendingRef{RequestID: numbered(n), Pair: partner.PairOf(bob(), numbered(1000+n))})
	}
	// The oldest is Ann's; she takes it back and asks again.
	bobs.Pending[0] = partner.PendingRef{RequestID: req, Pair: partner.PairOf(ann(), bob())}
	st := state(request(req, ann()), with(bobs))
	for i, cmd := range []partner.Command{
		command(partner.Cancel, ann(), names(req)),
		command(partner.Send, ann()),
		command(partner.Accept, bob(), names(partner.RequestIDOf(id(101)))),
	} {
		cmd.ID = id(byte(100 + i))
		d := partner.Decide(partner.DefaultLimits(), st, cmd)
		if !d.Outcome.Applied() {
			t.Fatalf("command %d: %s", i, d.Outcome.Code)
		}
		st = d.Next
		if i < 2 {
			continue
		}
		if n := len(d.FollowUps); n != partner.PendingLimit-1 || !d.FollowUps[n-1].More {
			t.Errorf("%d follow-ups, want %d with more after the last", n, partner.PendingLimit-1)
		}
	}
}

func TestRejectionsWithoutState(t *testing.T) {
	t.Parallel()
	cmd := command(partner.Accept, bob(), names(id(20)), func(c *partner.Command) { c.Fingerprint = [16]byte{7} })
	stale, mismatch := partner.RejectStale(cmd), partner.RejectMismatch(cmd)
	for code, d := range map[partner.Code]partner.Decision{partner.CodeStale: stale, partner.CodeIdempotencyMismatch: mismatch} {
		want := []summary{{partner.EventCommandRejected, []uuid.UUID{bob()}, bob(), partner.EventData{
			Code: code, Command: "request.accept", RequestID: new(id(20)),
		}}}
		if diff := cmp.Diff(want, summaries(d.Events)); diff != "" || d.Outcome.Code != code || d.Events[0].CommandID != cmd.ID {
			t.Errorf("%s (-want +got):\n%s", code, diff)
		}
	}
	if stale.Events[0].ID != partner.EventID(cmd.ID, 0) || mismatch.Events[0].ID != partner.MismatchEventID(cmd.ID, cmd.Fingerprint) {
		t.Error("event ids do not derive as documented")
	}
	if partner.MismatchEventID(cmd.ID, [16]byte{7}) == partner.MismatchEventID(cmd.ID, [16]byte{8}) {
		t.Error("two fingerprints have one event id")
	}
}
