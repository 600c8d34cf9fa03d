package partner

import (
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Decide says what a command does to the state: the events that become true, the rows
// that change, the follow-ups on other pairs and the outcome. It is pure: the same state
// and command give the same decision, and st is not changed.
//
// The decision's time is the command's AcceptedAt, or the last change of the pair that
// st knows of when that is later: clocks of two machines never make a pair go back in
// time. What was due on the pair before that time happens first, whoever is late with
// it; so a slow queue changes no outcome. A time limit is inclusive: at the very instant
// at which a request expires it can still be accepted.
//
// A rejected command changes nothing beyond what was due, save that a Send which gets as
// far as its target counts as its issuer's wish to be in touch (see send). The checks run in one order,
// so each case has one code. For every command of a user it starts with:
//
//   - account_deleting: the issuer is being deleted, or is not known (any more);
//   - forbidden: the issuer is suspended. It meets what was queued before the suspension,
//     since nobody who is suspended can issue more. A leave, a block and a deletion are
//     carried out all the same: who has left stays gone, whatever else they have done.
//
// The function of each command's type lists its own codes in order. Follow-ups are never
// rejected: they do what is left to do, and when that is nothing they yield one event
// without audience. Every decision has at least one event with the command's id.
func Decide(limits Limits, st State, cmd Command) Decision {
	t := newTurn(limits, st, cmd)
	t.applyDue()
	outcome := t.run()
	t.logActivity(outcome)
	return t.done(outcome)
}

func newTurn(limits Limits, st State, cmd Command) *turn {
	return &turn{limits: limits, cmd: cmd, now: decisionTime(st.Pair, cmd), pair: st.Pair, users: maps.Clone(st.Users)}
}

func (t *turn) done(outcome Outcome) Decision {
	t.decision.Outcome = outcome
	t.decision.Now = t.now
	t.decision.Next = State{Pair: t.pair, Users: t.users}
	return t.decision
}

// run does what the command asks. An unknown type never gets here: decoding stops it.
func (t *turn) run() Outcome {
	if !t.cmd.FollowUp() {
		switch status := t.users[t.cmd.Issuer].Status; {
		case status == UserUnknown || status == UserDeleting:
			return t.reject(CodeAccountDeleting)
		case status == UserSuspended && !t.cmd.Type.leaves():
			return t.reject(CodeForbidden)
		}
	}
	switch t.cmd.Type {
	case Send:
		return t.send()
	case Accept:
		return t.accept()
	case Decline:
		return t.decline()
	case Cancel:
		return t.cancel()
	case Remove:
		return t.remove()
	case Supersede:
		return t.supersede()
	case Sweep:
		return t.sweep()
	case AskBreakup:
		return t.askBreakup()
	case AcceptBreakup:
		return t.acceptBreakup()
	case DeclineBreakup:
		return t.declineBreakup()
	case WithdrawBreakup:
		return t.withdrawBreakup()
	case Block:
		return t.block()
	case Unblock:
		return t.unblock()
	case SetNickname:
		return t.setNickname()
	case ClearNickname:
		return t.clearNickname()
	case UpdateProfile:
		return t.updateProfile()
	case ChangeCode:
		return t.changeCode()
	case Forfeit:
		return t.forfeit()
	case DeleteAccount:
		return t.deleteAccount()
	case ClosePair:
		return t.closePair()
	case EraseAccount:
		return t.eraseAccount()
	case ReadInbox:
		return t.readInbox()
	default:
		return t.reject(CodeNotFound)
	}
}

// decisionTime reads only what every load of the pair brings: the pending request and
// breakup, the partnership, both sides, and the request or breakup that the command names.
// Whatever else a batch left in the
// state does not count, so the size of batches changes no decision.
func decisionTime(pair PairState, cmd Command) time.Time {
	now := cmd.AcceptedAt
	later := func(at time.Time) {
		if at.After(now) {
			now = at
		}
	}
	for _, r := range pair.Requests {
		if r.Status == RequestPending || (r.ID == cmd.RequestID && cmd.RequestID != uuid.Nil) {
			later(r.CreatedAt)
			later(r.ResolvedAt)
		}
	}
	if p := pair.Partnership; p != nil {
		later(p.StartedAt)
		later(p.EndedAt)
	}
	for _, b := range pair.Breakups {
		if b.Status == BreakupPending || (b.ID == cmd.BreakupID && cmd.BreakupID != uuid.Nil) {
			later(b.CreatedAt)
			later(b.ResolvedAt)
		}
	}
	for _, side := range [...]*Side{&pair.Low, &pair.High} {
		later(side.BlockedAt)
		later(side.DoorClosedAt)
		later(side.LastDeclined)
		if n := len(side.Sends); n > 0 {
			later(side.Sends[n-1])
		}
	}
	return now
}

// turn is one decision in the making: the state so far, and what is to be written.
// All changes go through setRequest, setPartnership, setBreakup and setSide, which keep
// rows, timers, pair and both users' aggregates in step.
type turn struct {
	limits   Limits
	cmd      Command
	now      time.Time
	pair     PairState
	users    map[uuid.UUID]User // a copy of the input's; the slices in it are not
	version  int64              // of what this decision archived
	decision Decision
}

// pendingRequest returns the pair's pending request.
func (t *turn) pendingRequest() (Request, bool) {
	for _, r := range t.pair.Requests {
		if r.Status == RequestPending {
			return r, true
		}
	}
	return Request{}, false
}

// namedRequest returns the request that the command names, if it is one of the pair.
func (t *turn) namedRequest() (Request, bool) {
	for _, r := range t.pair.Requests {
		if r.ID == t.cmd.RequestID && PairOf(r.Sender, r.Target) == t.pair.Pair {
			return r, true
		}
	}
	return Request{}, false
}

// setRequest writes a new or changed request.
func (t *turn) setRequest(r Request) {
	t.decision.Requests = append(t.decision.Requests, r)
	requests := slices.Clone(t.pair.Requests)
	if i := slices.IndexFunc(requests, func(o Request) bool { return o.ID == r.ID }); i >= 0 {
		requests[i] = r
	} else {
		requests = append(requests, r)
	}
	t.pair.Requests = requests
	if r.Status == RequestPending {
		t.setTimer(TimerRequest, r.ID, r.ExpiresAt)
	} else {
		t.cancelTimer(TimerRequest, r.ID)
	}
	for _, id := range [...]uuid.UUID{t.pair.Pair.Low, t.pair.Pair.High} {
		if r.Status == RequestPending {
			t.changeUser(id, func(u User) User { return u.withPending(PendingRef{RequestID: r.ID, Pair: t.pair.Pair}) })
		} else {
			t.changeUser(id, func(u User) User { return u.withoutPending(r.ID) })
		}
	}
}

// setPartnership writes a new or changed partnership. An active one takes its slots,
// any other leaves them.
func (t *turn) setPartnership(p Partnership) {
	t.decision.Partners = append(t.decision.Partners, p)
	if p.Status == PartnershipEnded {
		t.setTimer(TimerArchive, p.ID, p.RestorableUntil)
	} else if before := t.pair.Partnership; before != nil && before.Status == PartnershipEnded {
		t.cancelTimer(TimerArchive, before.ID)
	}
	t.pair.Partnership = nil
	if p.Status != PartnershipArchived {
		t.pair.Partnership = &p
	}
	for _, side := range [...]struct {
		user uuid.UUID
		slot int16
	}{{p.Pair.Low, p.LowSlot}, {p.Pair.High, p.HighSlot}} {
		t.changeUser(side.user, func(u User) User {
			u = u.withoutOccupied(p.ID)
			if p.Status == PartnershipActive {
				u = u.withOccupied(Occupied{Slot: side.slot, PartnershipID: p.ID, Partner: p.Pair.Other(side.user)})
			}
			return u
		})
	}
}

// changeUser leaves out whoever is not in the state: nothing is kept of them.
func (t *turn) changeUser(id uuid.UUID, change func(User) User) {
	if u, ok := t.users[id]; ok {
		t.users[id] = change(u)
	}
}

// nextVersion rises over all partnerships of a pair, also when the one before is archived
// and no longer in the state: it is the time of the change in microseconds, or one more than the last
// version where that is not enough. Archiving only adds one to the version that the end
// of the partnership had, weeks before, so that a new one is surely above it.
func (t *turn) nextVersion(last int64, at time.Time) int64 {
	return max(last+1, t.version+1, at.UnixMicro())
}
