package partner

import "github.com/google/uuid"

// pairability returns the code that forbids the issuer and the other to become partners
// now, or none.
func (t *turn) pairability(other uuid.UUID) Code {
	if t.users[t.cmd.Issuer].Full() {
		return CodeNoVacantSlot
	}
	if !t.users[other].available() {
		return CodeTargetUnavailable
	}
	return ""
}

// start makes the two of an accepted request partners, on a vacant slot of each. If they
// were partners until at most the restore window ago, that partnership goes on, unless
// one of them wants a fresh start: then it is archived and a new one begins. Those whose
// last slot this takes have their other pending requests superseded.
func (t *turn) start(r Request, crossed bool) Outcome {
	by, low, high := t.cmd.Issuer, t.pair.Pair.Low, t.pair.Pair.High
	// applyDue has archived one that is past its time: what is here can be restored.
	former, fresh := t.pair.Partnership, r.Fresh || t.cmd.Fresh
	restored := former != nil && !fresh

	p := Partnership{ID: PartnershipIDOf(t.cmd.ID), Pair: t.pair.Pair, Status: PartnershipActive, StartedAt: t.now}
	if former != nil {
		p.LowSlot, p.HighSlot, p.Version = former.LowSlot, former.HighSlot, former.Version
	}
	if restored {
		p.ID, p.StartedAt, p.RestoredCount = former.ID, former.StartedAt, former.RestoredCount+1
	}
	p.LowSlot, _ = t.users[low].VacantSlot(p.LowSlot)
	p.HighSlot, _ = t.users[high].VacantSlot(p.HighSlot)

	r.Status, r.ResolvedAt = RequestAccepted, t.now
	t.setRequest(r)
	t.emit(EventRequestAccepted, by, EventData{RequestID: &r.ID, ByUserID: &by, PartnershipID: &p.ID, Crossed: crossed}, low, high)
	if former != nil && !restored {
		t.archive(*former, by)
	}
	p.Version = t.nextVersion(p.Version)
	t.setPartnership(p)
	started := t.emit(EventPartnershipStarted, by, EventData{
		PartnershipID: &p.ID, UserIDs: []uuid.UUID{low, high}, StartedAt: &p.StartedAt,
		Restored: &restored, RestoredCount: &p.RestoredCount,
	}, low, high)
	t.supersedeIfFull(low, started)
	t.supersedeIfFull(high, started)

	result := Result{RequestID: &r.ID, PartnershipID: &p.ID, Crossed: crossed}
	if !crossed {
		result.StartedAt, result.Restored = &p.StartedAt, &restored
	}
	return Outcome{Result: result}
}
