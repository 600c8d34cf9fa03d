package partner

import "github.com/google/uuid"

// AccountChange is a change of a user's account.
type AccountChange struct {
	UserID uuid.UUID
	// Status is the new status. With UserDeleting all sessions and devices of the user end
	// in the same transaction.
	Status UserStatus
	// Erase says that all pairs of the user are closed: every personal datum of the user
	// goes, the bare row of the id stays. Status is UserDeleting then.
	Erase bool
}
