package partner

import "github.com/google/uuid"

// accept makes sender and target partners. The codes, in order:
//
//   - not_found: no such request on this pair, or the issuer is not its target;
//   - not_pending: it is answered, taken back, expired or superseded;
//   - no_vacant_slot: the issuer's slots are all taken;
//   - target_unavailable: the sender's are, or the sender's account is not active.
//
// A block has closed the request before, and the sender's door is open since it was sent.
func (t *turn) accept() Outcome {
	r, code := t.answerable(func(r Request) uuid.UUID { return r.Target })
	switch {
	case code != "":
		return t.reject(code)
	case t.users[t.cmd.Issuer].Full():
		return t.reject(CodeNoVacantSlot)
	case t.unavailable(r.Sender):
		return t.reject(CodeTargetUnavailable)
	}
	return t.start(r, false)
}

// decline is the target's no. The sender has to wait before asking again, longer after each.
// Codes: not_found, not_pending, as for accept.
func (t *turn) decline() Outcome {
	r, code := t.answerable(func(r Request) uuid.UUID { return r.Target })
	if code != "" {
		return t.reject(code)
	}
	side := t.side(t.cmd.Issuer)
	side.Declines, side.LastDeclined = side.Declines+1, t.now
	t.setSide(t.cmd.Issuer, side)
	return t.close(r, RequestDeclined, EventRequestDeclined)
}

// cancel is the sender taking it back. Codes: not_found, also when the issuer is not the
// sender; not_pending.
func (t *turn) cancel() Outcome {
	r, code := t.answerable(func(r Request) uuid.UUID { return r.Sender })
	if code != "" {
		return t.reject(code)
	}
	return t.close(r, RequestCancelled, EventRequestCancelled)
}

// answerable returns the request that the command names if it is pending and the issuer
// is the one whose turn it is.
func (t *turn) answerable(whose func(Request) uuid.UUID) (Request, Code) {
	r, ok := t.namedRequest()
	if !ok || whose(r) != t.cmd.Issuer {
		return Request{}, CodeNotFound
	}
	if r.Status != RequestPending {
		return Request{}, CodeNotPending
	}
	return r, ""
}

// close resolves a request without a partnership coming of it.
func (t *turn) close(r Request, status RequestStatus, kind EventType) Outcome {
	r.Status, r.ResolvedAt = status, t.now
	t.setRequest(r)
	t.emit(kind, t.cmd.Issuer, EventData{RequestID: &r.ID, ByUserID: &t.cmd.Issuer}, r.Sender, r.Target)
	return Outcome{Result: Result{RequestID: &r.ID, Status: status.String()}}
}
