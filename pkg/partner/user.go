package partner

import (
	"slices"

	"github.com/google/uuid"
)

// VacantSlot returns a slot that the user owns and that no active partnership takes: the
// preferred one if it is vacant, else the lowest.
func (u User) VacantSlot(preferred int16) (slot int16, ok bool) {
	// A user must not end up with more partnerships than slots, even if a slot that is
	// in use should no longer be theirs.
	if len(u.Occupied) >= len(u.Slots) {
		return 0, false
	}
	for _, s := range u.Slots {
		if slices.ContainsFunc(u.Occupied, func(o Occupied) bool { return o.Slot == s }) {
			continue
		}
		if s == preferred {
			return s, true
		}
		if !ok {
			slot, ok = s, true
		}
	}
	return slot, ok
}

// Full reports whether the user has no vacant slot.
func (u User) Full() bool {
	_, vacant := u.VacantSlot(0)
	return !vacant
}

// withPending returns the user with one more pending request. The slices of the receiver
// are shared with the caller's state and so are never written to.
func (u User) withPending(ref PendingRef) User {
	if len(u.Pending) >= PendingLimit {
		u.PendingCut = true
		return u
	}
	u.Pending = append(slices.Clip(u.Pending), ref)
	return u
}

func (u User) withoutPending(request uuid.UUID) User {
	i := slices.IndexFunc(u.Pending, func(r PendingRef) bool { return r.RequestID == request })
	if i < 0 {
		return u
	}
	u.PendingCut = u.morePending()
	u.Pending = slices.Delete(slices.Clone(u.Pending), i, i+1)
	return u
}

// morePending reports whether the user may have more pending requests than are loaded.
func (u User) morePending() bool { return u.PendingCut || len(u.Pending) >= PendingLimit }

func (u User) withOccupied(o Occupied) User {
	u.Occupied = append(slices.Clip(u.Occupied), o)
	slices.SortFunc(u.Occupied, func(a, b Occupied) int { return int(a.Slot) - int(b.Slot) })
	return u
}

func (u User) withoutOccupied(partnership uuid.UUID) User {
	i := slices.IndexFunc(u.Occupied, func(o Occupied) bool { return o.PartnershipID == partnership })
	if i >= 0 {
		u.Occupied = slices.Delete(slices.Clone(u.Occupied), i, i+1)
	}
	return u
}
