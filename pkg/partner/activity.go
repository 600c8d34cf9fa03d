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

// logActivity notes what a user did, also when it was refused. What follows from it, and
// what time does, is nobody's action.
func (t *turn) logActivity(outcome Outcome) {
	if t.cmd.FollowUp() || t.cmd.Type == ReadInbox { // up to where somebody has read is nobody's business
		return
	}
	a := Activity{Actor: t.cmd.Issuer, Action: t.cmd.Type.String(), Severity: t.cmd.Type.severity(), Code: outcome.Code}
	if !t.pair.Pair.Solo() {
		a.Target = t.pair.Pair.Other(t.cmd.Issuer)
	}
	switch outcome.Code {
	case "":
	case CodeCooldown:
		a.Severity = SeverityWarning
	default:
		a.Severity = SeverityInfo
	}
	for _, id := range [...]*uuid.UUID{outcome.Result.RequestID, outcome.Result.BreakupID, outcome.Result.PartnershipID} {
		if id != nil {
			a.Subject = *id
			break
		}
	}
	t.decision.Activity = append(t.decision.Activity, a)
}

func (t CommandType) severity() Severity {
	switch t {
	case Remove, AskBreakup, AcceptBreakup, Block, Forfeit, ChangeCode, DeleteAccount:
		return SeverityNotice
	default:
		return SeverityInfo
	}
}
