package partner

import "github.com/google/uuid"

// Severity says how much an entry of the activity log matters. The numbers are stored.
type Severity uint8

// The severities.
const (
	SeverityInfo    Severity = 1
	SeverityNotice  Severity = 2 // ends or closes something: leaving, blocking, forfeiting, deleting
	SeverityWarning Severity = 3 // was refused by a limit on what one user may do to another
)

// Activity is an entry of the activity log: who did what to whom.
type Activity struct {
	Actor    uuid.UUID
	Target   uuid.UUID // zero for what concerns the actor alone
	Action   string    // the command's type, such as "request.send"
	Severity Severity
	Code     Code      // empty when applied
	Subject  uuid.UUID // the request, partnership or breakup; zero when there is none
}
