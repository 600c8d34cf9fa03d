package partner

import "github.com/google/uuid"

// ReadMark is up to where a user has read their inbox.
type ReadMark struct {
	UserID uuid.UUID
	Seq    int64
}

// readInbox moves the issuer's read mark up, at most to the inbox's end: of a sequence
// beyond it, which an app may hold of another history, only what there is counts. The mark
// never goes down, so whichever of two devices comes last does no harm; then nobody needs
// to be told, and the event has no audience.
func (t *turn) readInbox() Outcome {
	user := t.cmd.Issuer
	u := t.users[user]
	seq := min(t.cmd.ReadSeq, u.LastSeq)
	if seq <= u.ReadSeq {
		t.applied()
		return Outcome{Result: Result{ReadSeq: &u.ReadSeq}}
	}
	t.changeUser(user, func(u User) User { u.ReadSeq = seq; return u })
	t.decision.Reads = append(t.decision.Reads, ReadMark{UserID: user, Seq: seq})
	t.emit(EventInboxRead, user, EventData{ReadSeq: &seq}, user)
	return Outcome{Result: Result{ReadSeq: &seq}}
}
