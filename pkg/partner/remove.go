package partner

import (
	"time"

	"github.com/google/uuid"
)

// remove ends the partnership at once, whatever the other side thinks of it. It asks for
// nothing but that there is one: nobody is ever kept from leaving. After a quiet one the
// issuer's door is closed: requests of the other are refused until the issuer sends one.
// The code:
//
//   - not_current: the two are not partners now, or the command names another partnership
//     of theirs, so that a stale tap cannot end a newer one.
func (t *turn) remove() Outcome {
	current, ok := t.current()
	if !ok {
		return t.reject(CodeNotCurrent)
	}
	by := t.cmd.Issuer
	p := t.end(current, ending{by: by, endedBy: by, at: t.now, reason: t.cmd.Reason, quiet: t.cmd.Quiet})
	if t.cmd.Quiet {
		side := t.side(by)
		side.DoorClosedAt = t.now
		t.setSide(by, side)
	}
	return Outcome{Result: Result{PartnershipID: &p.ID, EndedAt: &p.EndedAt, RestorableUntil: &p.RestorableUntil}}
}

// current returns the pair's active partnership, if the command names no other one.
func (t *turn) current() (Partnership, bool) {
	p := t.pair.Partnership
	if p == nil || p.Status != PartnershipActive || (t.cmd.PartnershipID != uuid.Nil && t.cmd.PartnershipID != p.ID) {
		return Partnership{}, false
	}
	return *p, true
}

// ending says how a partnership ends.
type ending struct {
	by      uuid.UUID // whose doing it is, as both are told
	endedBy uuid.UUID // who wanted it, and may read the reason
	at      time.Time
	reason  string
	quiet   bool
	breakup uuid.UUID // the one that it comes of; zero: none
}

// end ends the active partnership: both are told, what either had not yet seen of the
// other is withdrawn, their slots are vacant, and a breakup that waits for an answer needs
// none any more. When it is quiet each is told apart, and nothing of it disturbs the one
// who was left.
func (t *turn) end(p Partnership, e ending) Partnership {
	p.Status, p.EndedAt, p.RestorableUntil = PartnershipEnded, e.at, e.at.Add(t.limits.RestoreWindow)
	p.EndedBy, p.Reason, p.Quiet, p.Version = e.endedBy, e.reason, e.quiet, t.nextVersion(p.Version, e.at)
	t.setPartnership(p)
	if b, ok := t.pendingBreakup(); ok && b.ID != e.breakup {
		t.resolveBreakup(b, BreakupSuperseded, e.at)
	}
	t.cutBoth()

	low, high, other := p.Pair.Low, p.Pair.High, p.Pair.Other(e.by)
	data := EventData{
		PartnershipID: &p.ID, ByUserID: &e.by, StartedAt: &p.StartedAt, EndedAt: &p.EndedAt,
		RestorableUntil: &p.RestorableUntil, RestoredCount: &p.RestoredCount,
	}
	if e.breakup != uuid.Nil {
		data.BreakupID = &e.breakup
	}
	if e.quiet {
		t.emit(EventPartnershipEnded, uuid.Nil, data, e.by)
		data.Silent = true
		t.emit(EventPartnershipEnded, uuid.Nil, data, other)
	} else {
		t.emit(EventPartnershipEnded, uuid.Nil, data, low, high)
	}
	t.emit(EventSlotVacated, uuid.Nil, EventData{Slot: &p.LowSlot, Silent: e.quiet && low == other}, low)
	t.emit(EventSlotVacated, uuid.Nil, EventData{Slot: &p.HighSlot, Silent: e.quiet && high == other}, high)
	return p
}

// forfeit makes sure that an ended partnership is never restored: a new one of the two
// will start afresh. The other is told nothing. The code:
//
//   - not_found: no ended partnership of the pair has this id, or it is archived, or the
//     issuer has forfeited it already.
func (t *turn) forfeit() Outcome {
	side, p := t.side(t.cmd.Issuer), t.pair.Partnership
	if p == nil || p.Status != PartnershipEnded || p.ID != t.cmd.PartnershipID || side.Forfeited == p.ID {
		return t.reject(CodeNotFound)
	}
	side.Forfeited = p.ID
	t.setSide(t.cmd.Issuer, side)
	id := p.ID
	t.emit(EventCommandApplied, t.cmd.Issuer, EventData{Command: t.cmd.Type.String(), PartnershipID: &id}, t.cmd.Issuer)
	return Outcome{Result: Result{PartnershipID: &id, Status: "forfeited"}}
}

// leaves reports whether a command of a user only takes its issuer away from somebody.
func (t CommandType) leaves() bool { return t == Remove || t == Block || t == DeleteAccount }
