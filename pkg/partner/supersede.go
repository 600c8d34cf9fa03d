package partner

import "github.com/google/uuid"

// supersedeIfFull orders the closing of a user's other pending requests when no slot of
// theirs is left: each lies on a pair of its own, with its own place in the order of
// things, so it takes a command of its own.
//
// When there may be more than the state holds, the last of the commands brings a Sweep
// after it. Sweeping at once would find the same requests again, and again, as long as
// a partition with some of them stands still; this way each round has at least one
// request behind it.
func (t *turn) supersedeIfFull(id, cause uuid.UUID) {
	u := t.users[id]
	if !u.Full() {
		return
	}
	for i, ref := range u.Pending {
		t.followUp(Command{
			ID: FollowUpID(cause, ref.RequestID), Type: Supersede, Issuer: id, Pair: ref.Pair, Cause: cause,
			RequestID: ref.RequestID, More: u.morePending() && i == len(u.Pending)-1,
		})
	}
	if len(u.Pending) == 0 && u.morePending() {
		t.followUpSweep(id, cause)
	}
}

// supersede closes a request that was pending when the issuer's last slot filled. It does
// so even if a slot is vacant again by now: what becomes of the request must not hang on
// which of two partitions is quicker.
func (t *turn) supersede() Outcome {
	var result Result
	if r, ok := t.namedRequest(); ok && r.Status == RequestPending {
		t.closeSuperseded(r)
		result = Result{RequestID: &r.ID, Status: RequestSuperseded.String()}
	}
	if len(t.decision.Events) == 0 {
		t.applied()
	}
	if t.cmd.More {
		t.followUpSweep(t.cmd.Issuer, t.decision.Events[0].ID)
	}
	return Outcome{Result: result}
}

// sweep looks for what one decision could not hold: the issuer's pending requests, if
// their slots are still all taken.
func (t *turn) sweep() Outcome {
	t.supersedeIfFull(t.cmd.Issuer, t.applied())
	return Outcome{}
}

// applied says that the command is done without anything to tell anybody.
func (t *turn) applied() uuid.UUID {
	return t.emit(EventCommandApplied, t.cmd.Issuer, EventData{Command: t.cmd.Type.String()})
}

func (t *turn) followUpSweep(user, cause uuid.UUID) {
	t.followUp(Command{ID: FollowUpID(cause, user), Type: Sweep, Issuer: user, Pair: PairOf(user, user), Cause: cause})
}

// followUp gives the command the cause's time: when it is read does not matter.
func (t *turn) followUp(c Command) {
	c.AcceptedAt = t.now
	t.decision.FollowUps = append(t.decision.FollowUps, c)
}
