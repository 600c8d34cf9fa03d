package partner

import (
	"time"

	"github.com/google/uuid"
)

// BreakupStatus is the state of a breakup. The numbers are stored.
type BreakupStatus uint8

// The breakup statuses.
const (
	BreakupPending    BreakupStatus = 1
	BreakupAccepted   BreakupStatus = 2 // the partner agreed, or asked as well
	BreakupDeclined   BreakupStatus = 3
	BreakupWithdrawn  BreakupStatus = 4
	BreakupExpired    BreakupStatus = 5 // nobody answered: the partnership ended with it
	BreakupSuperseded BreakupStatus = 6 // the partnership ended in another way meanwhile
)

// Breakup is one partner asking the other to part. There is at most one pending of a pair.
type Breakup struct {
	ID            uuid.UUID
	PartnershipID uuid.UUID
	Pair          Pair
	Asker         uuid.UUID
	Reason        string // only the asker ever sees it; erased when the partnership is archived
	Status        BreakupStatus
	CreatedAt     time.Time
	ExpiresAt     time.Time // when, unanswered, the partnership ends
	ResolvedAt    time.Time // zero while pending; of an expired one ExpiresAt
}
