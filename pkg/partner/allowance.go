package partner

import "github.com/google/uuid"

// allowanceChanged follows a change that an operator has made to a user's tier or slots: it
// is in the state already, under the same lock that every decision about the user holds.
// The user is told; and when it has left no vacant slot, the user's pending requests close
// as they do when the last slot fills.
func (t *turn) allowanceChanged() {
	user := t.pair.Pair.Low
	if status := t.users[user].Status; status == UserUnknown || status == UserDeleting {
		return
	}
	told := t.emit(EventProfileUpdated, uuid.Nil, EventData{UserID: &user, Fields: []string{"tier", "slots"}}, user)
	t.supersedeIfFull(user, told)
}
