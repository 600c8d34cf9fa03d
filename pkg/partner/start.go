package partner

import (
	"time"

	"github.com/google/uuid"
)

// unavailable reports whether the other cannot become the issuer's partner, for whatever
// reason: no slot, an account that is not active, a block, a closed door. It is the one
// place that says so, and it answers for every reason alike: the issuer must not be able
// to tell a full slot from anything else.
func (t *turn) unavailable(other uuid.UUID) bool {
	u, side := t.users[other], t.side(other)
	return u.Status != UserActive || u.Full() || !side.BlockedAt.IsZero() || !side.DoorClosedAt.IsZero()
}

// start makes the two of an accepted request partners, on a vacant slot of each. If they
// were partners until at most the restore window ago, that partnership goes on, unless
// one of them wants a fresh start or has forfeited it: then it is archived and a new one
// begins. Those whose
// last slot this takes have their other pending requests superseded.
func (t *turn) start(r Request, crossed bool) Outcome {
	by, low, high := t.cmd.Issuer, t.pair.Pair.Low, t.pair.Pair.High
	// applyDue has archived one that is past its time: what is here can be restored.
	former, fresh := t.pair.Partnership, r.Fresh || t.cmd.Fresh
	restored := former != nil && !fresh && t.pair.Low.Forfeited != former.ID && t.pair.High.Forfeited != former.ID

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
	p.Version = t.nextVersion(p.Version, t.now)
	t.setPartnership(p)
	t.welcome(low)
	t.welcome(high)
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

// welcome forgets what a user held against the other: they are in touch because this user
// wants it.
func (t *turn) welcome(user uuid.UUID) {
	side := t.side(user)
	side.DoorClosedAt, side.Declines, side.LastDeclined = time.Time{}, 0, time.Time{}
	t.setSide(user, side)
}
