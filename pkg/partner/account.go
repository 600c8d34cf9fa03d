package partner

import "github.com/google/uuid"

// AccountChange is a change of a user's account.
type AccountChange struct {
	UserID uuid.UUID
	// Status is the new status. With UserDeleting, in the same transaction, all sessions and
	// devices of the user end, and of what anybody has of the user and has not acknowledged
	// only the place is left, as with a Cut: of everybody, however many they are (G9).
	Status UserStatus
	// Erase says that all pairs of the user are closed: every personal datum of the user
	// goes, the bare row of the id stays. Status is UserDeleting then.
	Erase bool
	// More says that Erase goes as far as one transaction does, and that another follows.
	More bool
}

// deleteAccount begins the deletion of the issuer's account. From here on every command
// of theirs is rejected and nobody can become their partner; nobody hears from them any
// more. Each pair of theirs has its own place in the order of things, so it is closed by
// a command of its own; what is left of them is erased when all are.
func (t *turn) deleteAccount() Outcome {
	user := t.cmd.Issuer
	t.changeUser(user, func(u User) User { u.Status = UserDeleting; return u })
	t.decision.Accounts = append(t.decision.Accounts, AccountChange{UserID: user, Status: UserDeleting})
	t.closePairs(t.emit(EventAccountDeleted, uuid.Nil, EventData{UserID: &user}, user))
	return Outcome{Result: Result{Status: "deleting"}}
}

// closePairs orders the closing of the issuer's pairs, and after the last of them another
// look for more; with none there, erasure. As with Sweep, each round has at least one pair
// behind it before it looks again.
func (t *turn) closePairs(cause uuid.UUID) {
	user := t.cmd.Issuer
	others := t.users[user].Counterparts
	for i, other := range others {
		t.followUp(Command{
			ID: FollowUpID(cause, other), Type: ClosePair, Issuer: user, Pair: PairOf(user, other), Cause: cause,
			More: i == len(others)-1,
		})
	}
	if len(others) == 0 {
		t.followUpErase(cause)
	}
}

// closePair ends and deletes all that a deleted user has with another, whoever began it.
// To the other a partnership ends as by a quiet leave, save that it cannot be restored.
func (t *turn) closePair() Outcome {
	user := t.cmd.Issuer
	if current := t.pair.Partnership; current != nil && current.Status == PartnershipActive {
		t.end(*current, ending{by: user, endedBy: user, at: t.now, quiet: true})
	}
	if p := t.pair.Partnership; p != nil {
		t.archive(*p, uuid.Nil)
	}
	if r, ok := t.pendingRequest(); ok {
		t.closeSuperseded(r)
	}
	t.applied() // also after other events: it alone tells that what each held about the other is gone
	t.cut(t.pair.Pair.Other(user), user)
	for _, owner := range [...]uuid.UUID{t.pair.Pair.Low, t.pair.Pair.High} {
		t.dropNickname(owner)
		t.setSide(owner, Side{})
	}
	if t.cmd.More {
		t.followUpErase(t.decision.Events[0].ID)
	}
	return Outcome{}
}

// eraseAccount orders the erasure of what is left of a deleted user, as much as one
// transaction takes and then the next, or another round of closing when there still are pairs.
func (t *turn) eraseAccount() Outcome {
	user := t.cmd.Issuer
	cause := t.applied()
	if len(t.users[user].Counterparts) > 0 {
		t.closePairs(cause)
		return Outcome{}
	}
	more := t.users[user].Remains
	t.decision.Accounts = append(t.decision.Accounts, AccountChange{UserID: user, Status: UserDeleting, Erase: true, More: more})
	if more {
		t.followUpErase(cause)
	}
	return Outcome{}
}

func (t *turn) followUpErase(cause uuid.UUID) {
	user := t.cmd.Issuer
	t.followUp(Command{ID: FollowUpID(cause, user), Type: EraseAccount, Issuer: user, Pair: PairOf(user, user), Cause: cause})
}
