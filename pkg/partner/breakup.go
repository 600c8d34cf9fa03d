package partner

import (
	"slices"
	"time"

	"github.com/google/uuid"
)

// BreakupStatus is the state of a breakup. The numbers are stored.
type BreakupStatus uint8

// The breakup statuses.
const (
	BreakupPending    BreakupStatus = 1
	BreakupAccepted   BreakupStatus = 2 // the partner agreed, or asked as well
	BreakupDeclined   BreakupStatus = 3
	BreakupWithdrawn  BreakupStatus = 4
	BreakupExpired    BreakupStatus = 5 // nobody answered: the partnership ended with it
	BreakupSuperseded BreakupStatus = 6 // the partnership ended in another way meanwhile
)

// Breakup is one partner asking the other to part. There is at most one pending of a pair.
type Breakup struct {
	ID            uuid.UUID
	PartnershipID uuid.UUID
	Pair          Pair
	Asker         uuid.UUID
	Reason        string // only the asker ever sees it; empty once resolved, when it goes to what ended
	Status        BreakupStatus
	CreatedAt     time.Time
	ExpiresAt     time.Time // when, unanswered, the partnership ends
	ResolvedAt    time.Time // zero while pending; of an expired one ExpiresAt
}

// pendingBreakup returns the pair's pending breakup.
func (t *turn) pendingBreakup() (Breakup, bool) {
	for _, b := range t.pair.Breakups {
		if b.Status == BreakupPending {
			return b, true
		}
	}
	return Breakup{}, false
}

// setBreakup writes a new or changed breakup.
func (t *turn) setBreakup(b Breakup) {
	t.decision.Breakups = append(t.decision.Breakups, b)
	breakups := slices.Clone(t.pair.Breakups)
	if i := slices.IndexFunc(breakups, func(o Breakup) bool { return o.ID == b.ID }); i >= 0 {
		breakups[i] = b
	} else {
		breakups = append(breakups, b)
	}
	t.pair.Breakups = breakups
	if b.Status == BreakupPending {
		t.setTimer(TimerBreakup, b.ID, b.ExpiresAt)
	} else {
		t.cancelTimer(TimerBreakup, b.ID)
	}
}

// resolveBreakup closes a breakup. What its asker wrote does not outlast it: when the
// partnership ends by it, the reason is kept there, and erased with it.
func (t *turn) resolveBreakup(b Breakup, status BreakupStatus, at time.Time) {
	b.Status, b.ResolvedAt, b.Reason = status, at, ""
	t.setBreakup(b)
}

// askBreakup asks the partner to part. When the partner has asked already, both want it,
// and it ends at once; the result names the breakup that was first. The codes, in order:
//
//   - not_current: the two are not partners now, or the command names another partnership;
//   - request_pending: the issuer has already asked.
func (t *turn) askBreakup() Outcome {
	current, ok := t.current()
	if !ok {
		return t.reject(CodeNotCurrent)
	}
	by := t.cmd.Issuer
	if b, ok := t.pendingBreakup(); ok {
		if b.Asker == by {
			return t.reject(CodeRequestPending)
		}
		outcome := t.part(b, current)
		outcome.Result.Crossed = true
		return outcome
	}
	b := Breakup{
		ID: BreakupIDOf(t.cmd.ID), PartnershipID: current.ID, Pair: t.pair.Pair, Asker: by, Reason: t.cmd.Reason,
		Status: BreakupPending, CreatedAt: t.now, ExpiresAt: t.now.Add(t.limits.BreakupTTL),
	}
	t.setBreakup(b)
	t.emit(EventBreakupRequested, by, EventData{
		BreakupID: &b.ID, PartnershipID: &b.PartnershipID, ByUserID: &by, ExpiresAt: &b.ExpiresAt,
	}, b.Pair.Low, b.Pair.High)
	return Outcome{Result: Result{
		BreakupID: &b.ID, PartnershipID: &b.PartnershipID, Status: b.Status.String(), ExpiresAt: &b.ExpiresAt,
	}}
}

// acceptBreakup ends the partnership as both want. The codes, in order:
//
//   - not_found: no such breakup on this pair, or the issuer has asked for it;
//   - not_pending: it is answered, withdrawn, or over with the partnership.
func (t *turn) acceptBreakup() Outcome {
	b, code := t.answerableBreakup(false)
	if code != "" {
		return t.reject(code)
	}
	// Whatever ends a partnership resolves its breakup: one that is pending has one.
	current, ok := t.current()
	if !ok {
		return t.reject(CodeNotPending)
	}
	return t.part(b, current)
}

// declineBreakup is the partner's wish to stay. It holds nobody up: the asker can ask
// again, or leave. Codes: as for acceptBreakup.
func (t *turn) declineBreakup() Outcome {
	b, code := t.answerableBreakup(false)
	if code != "" {
		return t.reject(code)
	}
	return t.closeBreakup(b, BreakupDeclined, EventBreakupDeclined)
}

// withdrawBreakup is the asker taking it back. Codes: not_found, also when somebody else
// has asked; not_pending.
func (t *turn) withdrawBreakup() Outcome {
	b, code := t.answerableBreakup(true)
	if code != "" {
		return t.reject(code)
	}
	return t.closeBreakup(b, BreakupWithdrawn, EventBreakupWithdrawn)
}

// answerableBreakup returns the breakup that the command names if it is pending and the
// issuer has asked for it, or else has not.
func (t *turn) answerableBreakup(asked bool) (Breakup, Code) {
	i := slices.IndexFunc(t.pair.Breakups, func(b Breakup) bool { return b.ID == t.cmd.BreakupID && b.Pair == t.pair.Pair })
	if i < 0 || (t.pair.Breakups[i].Asker == t.cmd.Issuer) != asked {
		return Breakup{}, CodeNotFound
	}
	if t.pair.Breakups[i].Status != BreakupPending {
		return Breakup{}, CodeNotPending
	}
	return t.pair.Breakups[i], ""
}

// part ends the partnership by a breakup to which both agree.
func (t *turn) part(b Breakup, current Partnership) Outcome {
	p := t.end(current, ending{by: t.cmd.Issuer, endedBy: b.Asker, at: t.now, reason: b.Reason, breakup: b.ID})
	t.resolveBreakup(b, BreakupAccepted, t.now)
	return Outcome{Result: Result{
		BreakupID: &b.ID, PartnershipID: &p.ID, Status: BreakupAccepted.String(), EndedAt: &p.EndedAt, RestorableUntil: &p.RestorableUntil,
	}}
}

func (t *turn) closeBreakup(b Breakup, status BreakupStatus, kind EventType) Outcome {
	t.resolveBreakup(b, status, t.now)
	t.emit(kind, t.cmd.Issuer, EventData{
		BreakupID: &b.ID, PartnershipID: &b.PartnershipID, ByUserID: &t.cmd.Issuer,
	}, b.Pair.Low, b.Pair.High)
	return Outcome{Result: Result{BreakupID: &b.ID, PartnershipID: &b.PartnershipID, Status: status.String()}}
}

// expireBreakup ends the partnership that nobody's answer could keep, at the time that
// the breakup had.
func (t *turn) expireBreakup(b Breakup) {
	if p := t.pair.Partnership; p != nil && p.Status == PartnershipActive {
		t.end(*p, ending{by: b.Asker, endedBy: b.Asker, at: b.ExpiresAt, reason: b.Reason, breakup: b.ID})
	}
	t.resolveBreakup(b, BreakupExpired, b.ExpiresAt)
}
