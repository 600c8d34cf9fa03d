package partner

import (
	"time"

	"github.com/google/uuid"
)

// block keeps the other away: it ends an active partnership as a quiet leave does, closes
// a request in whichever direction, forfeits restoration and closes the door. The other
// is told what a quiet leave and a filled slot would have told, and not a word more; and
// what a filled slot leaves in the other's inbox stays there: a place that empties for no
// reason to be seen would tell of the block. It asks for nothing, so that nobody is kept from blocking; done twice it is done. The
// codes, in order:
//
//   - self_request: of oneself;
//   - user_not_found: no such user.
func (t *turn) block() Outcome {
	by, other := t.cmd.Issuer, t.pair.Pair.Other(t.cmd.Issuer)
	if t.pair.Pair.Solo() {
		return t.reject(CodeSelfRequest)
	}
	if t.users[other].Status == UserUnknown {
		return t.reject(CodeUserNotFound)
	}
	if current := t.pair.Partnership; current != nil && current.Status == PartnershipActive {
		t.end(*current, ending{by: by, endedBy: by, at: t.now, quiet: true})
	}
	if r, ok := t.pendingRequest(); ok {
		t.closeSuperseded(r)
	}
	t.cut(by, other)
	side := t.side(by)
	if side.BlockedAt.IsZero() {
		side.BlockedAt = t.now
	}
	if side.DoorClosedAt.IsZero() {
		side.DoorClosedAt = t.now
	}
	if p := t.pair.Partnership; p != nil {
		side.Forfeited = p.ID
	}
	t.setSide(by, side)
	return t.blockChanged(true, "blocked")
}

// unblock lifts the block. The door stays closed until the issuer sends a request. The code:
//
//   - not_found: the issuer does not block the other.
func (t *turn) unblock() Outcome {
	side := t.side(t.cmd.Issuer)
	if side.BlockedAt.IsZero() {
		return t.reject(CodeNotFound)
	}
	side.BlockedAt = time.Time{}
	t.setSide(t.cmd.Issuer, side)
	return t.blockChanged(false, "unblocked")
}

func (t *turn) blockChanged(blocked bool, status string) Outcome {
	by, other := t.cmd.Issuer, t.pair.Pair.Other(t.cmd.Issuer)
	t.emit(EventBlockChanged, by, EventData{UserID: &other, Blocked: &blocked}, by)
	return Outcome{Result: Result{Status: status}}
}

// closeSuperseded closes a pending request that nobody answered and that cannot be any
// more. Who was asked and has not seen it is not told of it now. Why is never told: a
// filled slot, a block and a deleted account are all one.
func (t *turn) closeSuperseded(r Request) {
	r.Status, r.ResolvedAt = RequestSuperseded, t.now
	t.setRequest(r)
	t.cut(r.Target, r.Sender)
	t.emit(EventRequestSuperseded, uuid.Nil, EventData{RequestID: &r.ID}, r.Sender, r.Target)
}
