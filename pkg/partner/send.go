package partner

// send asks another user to become partners. When that user has already asked, the two
// requests cross: it counts as accepting theirs, whose id survives, and the message of
// this one goes nowhere. The codes, in order:
//
//   - self_request: to oneself;
//   - user_not_found: no such user;
//   - already_partners: the two are partners now;
//   - request_pending: the sender has already asked;
//   - no_vacant_slot: the sender's slots are all taken;
//   - target_unavailable: the target's are, or the target's account is not active.
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
	if code := t.pairability(target); code != "" {
		return t.reject(code)
	}
	if exists {
		return t.start(pending, true)
	}

	r := Request{
		ID: RequestIDOf(t.cmd.ID), Sender: sender, Target: target, Message: t.cmd.Message, Fresh: t.cmd.Fresh,
		Status: RequestPending, CreatedAt: t.now, ExpiresAt: t.now.Add(t.limits.RequestTTL),
	}
	t.setRequest(r)
	t.emit(EventRequestSent, sender, EventData{RequestID: &r.ID, ToUserID: &target, ExpiresAt: &r.ExpiresAt}, sender)
	t.emit(EventRequestReceived, sender, EventData{RequestID: &r.ID, FromUserID: &sender, ExpiresAt: &r.ExpiresAt}, target)
	return Outcome{Result: Result{RequestID: &r.ID, Status: r.Status.String()}}
}
