package partner

import "github.com/google/uuid"

// setNickname gives the other a name that only the issuer sees. The codes, in order:
//
//   - self_request: for oneself;
//   - user_not_found: no such user;
//   - not_current: the two are not partners now.
func (t *turn) setNickname() Outcome {
	owner, target := t.cmd.Issuer, t.pair.Pair.Other(t.cmd.Issuer)
	if t.pair.Pair.Solo() {
		return t.reject(CodeSelfRequest)
	}
	if t.users[target].Status == UserUnknown {
		return t.reject(CodeUserNotFound)
	}
	if _, ok := t.current(); !ok {
		return t.reject(CodeNotCurrent)
	}
	t.decision.Nicknames = append(t.decision.Nicknames, Nickname{Owner: owner, Target: target, Text: t.cmd.Nickname, UpdatedAt: t.now})
	t.markNamed(owner, true)
	t.emit(EventNicknameChanged, owner, EventData{UserID: &target}, owner)
	return Outcome{Result: Result{Status: "set"}}
}

// clearNickname takes it back, also after the partnership. The code:
//
//   - not_found: the issuer has none for the other.
func (t *turn) clearNickname() Outcome {
	owner, target := t.cmd.Issuer, t.pair.Pair.Other(t.cmd.Issuer)
	if !t.side(owner).Named {
		return t.reject(CodeNotFound)
	}
	t.dropNickname(owner)
	t.emit(EventNicknameChanged, owner, EventData{UserID: &target}, owner)
	return Outcome{Result: Result{Status: "cleared"}}
}

// dropNickname deletes the user's name for the other, if there is one.
func (t *turn) dropNickname(owner uuid.UUID) {
	if t.side(owner).Named {
		t.decision.Nicknames = append(t.decision.Nicknames, Nickname{Owner: owner, Target: t.pair.Pair.Other(owner), UpdatedAt: t.now})
		t.markNamed(owner, false)
	}
}

func (t *turn) markNamed(owner uuid.UUID, named bool) {
	side := t.side(owner)
	side.Named = named
	t.setSide(owner, side)
}
