package partner

import "github.com/google/uuid"

// applyDue lets happen what was due on the pair before the decision's time: a pending
// request expires after its ExpiresAt, an ended partnership is archived after its
// RestorableUntil. The earlier comes first.
func (t *turn) applyDue() {
	request, expires := t.pendingRequest()
	expires = expires && t.now.After(request.ExpiresAt)
	ended := t.pair.Partnership
	archives := ended != nil && ended.Status == PartnershipEnded && t.now.After(ended.RestorableUntil)
	if expires && archives && ended.RestorableUntil.Before(request.ExpiresAt) {
		t.archive(*ended, uuid.Nil)
		archives = false
	}
	if expires {
		t.expire(request)
	}
	if archives {
		t.archive(*ended, uuid.Nil)
	}
}

// expire closes a request that nobody answered. It is resolved at the time that it had,
// not at the time at which somebody noticed.
func (t *turn) expire(r Request) {
	r.Status, r.ResolvedAt = RequestExpired, r.ExpiresAt
	t.setRequest(r)
	t.emit(EventRequestExpired, uuid.Nil, EventData{RequestID: &r.ID}, r.Sender, r.Target)
}

// archive makes an ended partnership one that can never be restored. What people wrote
// goes; the bare history stays. origin is the user who asked for a fresh start, or zero
// when it is time's doing.
func (t *turn) archive(p Partnership, origin uuid.UUID) {
	p.Status, p.Reason, p.Version = PartnershipArchived, "", p.Version+1
	t.version = p.Version
	t.setPartnership(p)
	t.emit(EventPartnershipArchived, origin, EventData{PartnershipID: &p.ID}, p.Pair.Low, p.Pair.High)
}
