package partner

import (
	"slices"
	"time"
)

// send asks another user to become partners. When that user has already asked, the two
// requests cross: it counts as accepting theirs, whose id survives, and the message of
// this one goes nowhere. The codes, in order:
//
//   - self_request: to oneself;
//   - user_not_found: no such user;
//   - already_partners: the two are partners now;
//   - request_pending: the sender has already asked;
//   - no_vacant_slot: the sender's slots are all taken;
//   - blocked_by_you: the sender blocks the target;
//   - target_unavailable: the target's slots are all taken, the target's account is not
//     active, or the target blocks the sender or has closed the door: all the same;
//   - cooldown: the target has declined not long enough ago, or the sender has sent often
//     enough of late. It does not hold for requests that cross.
//
// Whatever the target's side says, with the send the sender wishes to be in touch again:
// the sender's own door opens and their declines are forgotten. Were that only so when it
// succeeds, two who have closed their doors on each other could never meet again.
func (t *turn) send() Outcome {
	if t.pair.Pair.Solo() {
		return t.reject(CodeSelfRequest)
	}
	sender, target := t.cmd.Issuer, t.pair.Pair.Other(t.cmd.Issuer)
	if t.users[target].Status == UserUnknown {
		return t.reject(CodeUserNotFound)
	}
	if p := t.pair.Partnership; p != nil && p.Status == PartnershipActive {
		return t.reject(CodeAlreadyPartners)
	}
	pending, exists := t.pendingRequest()
	if exists && pending.Sender == sender {
		return t.reject(CodeRequestPending)
	}
	if t.users[sender].Full() {
		return t.reject(CodeNoVacantSlot)
	}
	if !t.side(sender).BlockedAt.IsZero() {
		return t.reject(CodeBlockedByYou)
	}
	t.welcome(sender)
	if t.unavailable(target) {
		return t.reject(CodeTargetUnavailable)
	}
	if exists {
		return t.start(pending, true)
	}
	side := t.side(sender)
	side.Sends = t.recentSends(side)
	if t.coolingDown(t.side(target)) || (t.limits.SendsPerTarget > 0 && len(side.Sends) >= t.limits.SendsPerTarget) {
		return t.reject(CodeCooldown)
	}
	if t.limits.SendsPerTarget > 0 {
		side.Sends = append(side.Sends, t.now)
	}
	t.setSide(sender, side)

	r := Request{
		ID: RequestIDOf(t.cmd.ID), Sender: sender, Target: target, Message: t.cmd.Message, Fresh: t.cmd.Fresh,
		Status: RequestPending, CreatedAt: t.now, ExpiresAt: t.now.Add(t.limits.RequestTTL),
	}
	t.setRequest(r)
	t.emit(EventRequestSent, sender, EventData{RequestID: &r.ID, ToUserID: &target, ExpiresAt: &r.ExpiresAt}, sender)
	t.emit(EventRequestReceived, sender, EventData{RequestID: &r.ID, FromUserID: &sender, ExpiresAt: &r.ExpiresAt}, target)
	return Outcome{Result: Result{RequestID: &r.ID, Status: r.Status.String()}}
}

// coolingDown reports whether a target with this side has declined too short a time ago
// to be asked again. A cooldown is over at the very instant at which it ends.
func (t *turn) coolingDown(target Side) bool {
	switch n := target.Declines; {
	case n == 0:
		return false
	case n > len(t.limits.Cooldowns):
		return true
	default:
		return t.now.Before(target.LastDeclined.Add(t.limits.Cooldowns[n-1]))
	}
}

// recentSends returns, in a slice of its own, the times that still count.
func (t *turn) recentSends(side Side) []time.Time {
	horizon := t.now.Add(-t.limits.SendsWindow)
	return slices.DeleteFunc(slices.Clone(side.Sends), func(at time.Time) bool { return !at.After(horizon) })
}
