package partner

import (
	"slices"
	"time"

	"github.com/google/uuid"
)

// Side is what one user has decided about the other of a pair, and what they did there
// that counts. It is private to that user: no event and no answer tells the other of it.
type Side struct {
	BlockedAt    time.Time   // this user blocks the other; zero: does not
	DoorClosedAt time.Time   // sends from the other are refused until this user sends; zero: open
	Forfeited    uuid.UUID   // the ended partnership that this user will not have restored
	Declines     int         // how often this user declined the other since having sent, or having been partners
	LastDeclined time.Time   // zero when Declines is
	Sends        []time.Time // of this user to the other, within Limits.SendsWindow, ascending
	// Named says that this user has a nickname for the other. It is loaded with the Side but
	// written through Decision.Nicknames, and no part of a SideChange.
	Named bool
}

// SideChange is one user's Side of a pair as it is from now on.
type SideChange struct {
	Owner uuid.UUID
	Other uuid.UUID
	Side  Side // Named is not set; the zero Side deletes the row
}

// Empty reports whether nothing is left to store.
func (s Side) Empty() bool {
	return s.BlockedAt.IsZero() && s.DoorClosedAt.IsZero() && s.Forfeited == uuid.Nil && s.Declines == 0 && len(s.Sends) == 0
}

// Nickname is what a user calls another one. The other never learns of it. It belongs to
// a partnership: it comes back when that is restored and goes when it is archived.
type Nickname struct {
	Owner     uuid.UUID
	Target    uuid.UUID
	Text      string // empty deletes it
	UpdatedAt time.Time
}

// Cut says that what is in the recipient's inbox from the origin, and that none of the
// recipient's sessions has acknowledged by then, is withdrawn (G9). after_seq is the
// highest acknowledged sequence of all sessions, last_seq the inbox's head before the
// events of the decision that cuts; nothing to do when that is no further.
type Cut struct {
	Recipient uuid.UUID
	Origin    uuid.UUID
}

// equal compares what of two Sides is stored.
func (s Side) equal(o Side) bool {
	return s.BlockedAt.Equal(o.BlockedAt) && s.DoorClosedAt.Equal(o.DoorClosedAt) && s.Forfeited == o.Forfeited &&
		s.Declines == o.Declines && s.LastDeclined.Equal(o.LastDeclined) &&
		slices.EqualFunc(s.Sends, o.Sends, time.Time.Equal)
}

// side returns what the user, one of the pair, has decided about the other.
func (t *turn) side(user uuid.UUID) Side {
	if user == t.pair.Pair.Low {
		return t.pair.Low
	}
	return t.pair.High
}

// setSide writes a user's side if it differs from the one before.
func (t *turn) setSide(user uuid.UUID, side Side) {
	before := t.side(user)
	if user == t.pair.Pair.Low {
		t.pair.Low = side
	} else {
		t.pair.High = side
	}
	if side.equal(before) {
		return
	}
	side.Named = false
	change := SideChange{Owner: user, Other: t.pair.Pair.Other(user), Side: side}
	for i := range t.decision.Sides {
		if t.decision.Sides[i].Owner == user {
			t.decision.Sides[i] = change
			return
		}
	}
	t.decision.Sides = append(t.decision.Sides, change)
}

// cut withdraws what the one has not yet seen of the other.
func (t *turn) cut(recipient, origin uuid.UUID) {
	c := Cut{Recipient: recipient, Origin: origin}
	if t.users[recipient].Status != UserUnknown && !slices.Contains(t.decision.Cuts, c) {
		t.decision.Cuts = append(t.decision.Cuts, c)
	}
}

// cutBoth withdraws what either has not yet seen of the other: nobody hears any more from
// a person whom they left or who left them.
func (t *turn) cutBoth() {
	low, high := t.pair.Pair.Low, t.pair.Pair.High
	t.cut(low, high)
	t.cut(high, low)
}
