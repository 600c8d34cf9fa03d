package partner

import (
	"time"

	"github.com/google/uuid"
)

// applyDue lets happen what was due on the pair before the decision's time, the earliest
// first: a pending request expires after its ExpiresAt, a pending breakup ends the
// partnership after its own, an ended partnership is archived after its RestorableUntil.
// One can bring the next: a breakup that ended it long ago, and its archiving.
func (t *turn) applyDue() {
	for {
		var (
			first  time.Time
			happen func()
		)
		due := func(at time.Time, f func()) {
			if t.now.After(at) && (happen == nil || at.Before(first)) {
				first, happen = at, f
			}
		}
		if r, ok := t.pendingRequest(); ok {
			due(r.ExpiresAt, func() { t.expire(r) })
		}
		if b, ok := t.pendingBreakup(); ok {
			due(b.ExpiresAt, func() { t.expireBreakup(b) })
		}
		if p := t.pair.Partnership; p != nil && p.Status == PartnershipEnded {
			due(p.RestorableUntil, func() { t.archive(*p, uuid.Nil) })
		}
		if happen == nil {
			return
		}
		happen()
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
	for _, user := range [...]uuid.UUID{p.Pair.Low, p.Pair.High} {
		t.dropNickname(user)
		side := t.side(user)
		side.Forfeited = uuid.Nil
		t.setSide(user, side)
	}
	t.emit(EventPartnershipArchived, origin, EventData{
		PartnershipID: &p.ID, StartedAt: &p.StartedAt, EndedAt: &p.EndedAt, RestoredCount: &p.RestoredCount,
	}, p.Pair.Low, p.Pair.High)
}
