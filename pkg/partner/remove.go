package partner

import "github.com/google/uuid"

// remove ends the partnership at once, whatever the other side thinks of it. It asks for
// nothing but that there is one: nobody is ever kept from leaving. The code:
//
//   - not_current: the two are not partners now, or the command names another partnership
//     of theirs, so that a stale tap cannot end a newer one.
func (t *turn) remove() Outcome {
	current := t.pair.Partnership
	if current == nil || current.Status != PartnershipActive ||
		(t.cmd.PartnershipID != uuid.Nil && t.cmd.PartnershipID != current.ID) {
		return t.reject(CodeNotCurrent)
	}
	by, other := t.cmd.Issuer, t.pair.Pair.Other(t.cmd.Issuer)
	p := *current
	p.Status, p.EndedAt, p.RestorableUntil = PartnershipEnded, t.now, t.now.Add(t.limits.RestoreWindow)
	p.EndedBy, p.Reason, p.Quiet, p.Version = by, t.cmd.Reason, t.cmd.Quiet, t.nextVersion(p.Version)
	t.setPartnership(p)

	data := EventData{PartnershipID: &p.ID, ByUserID: &by, EndedAt: &p.EndedAt, RestorableUntil: &p.RestorableUntil}
	if p.Quiet {
		t.emit(EventPartnershipEnded, by, data, by)
		data.Silent = true
		t.emit(EventPartnershipEnded, by, data, other)
	} else {
		t.emit(EventPartnershipEnded, by, data, by, other)
	}
	return Outcome{Result: Result{PartnershipID: &p.ID, EndedAt: &p.EndedAt, RestorableUntil: &p.RestorableUntil}}
}
