package partner

import "fmt"

// The names of the types are the wire contract and the numbers are stored: neither is
// ever changed. The tables are indexed by the number.

var commandNames = [...]string{
	Send:      "request.send",
	Accept:    "request.accept",
	Decline:   "request.decline",
	Cancel:    "request.cancel",
	Remove:    "partnership.remove",
	Supersede: "request.supersede",
	Sweep:     "request.sweep",

	AskBreakup:      "breakup.request",
	AcceptBreakup:   "breakup.accept",
	DeclineBreakup:  "breakup.decline",
	WithdrawBreakup: "breakup.withdraw",
	Block:           "user.block",
	Unblock:         "user.unblock",
	SetNickname:     "nickname.set",
	ClearNickname:   "nickname.clear",
	UpdateProfile:   "profile.update",
	ChangeCode:      "partner_code.change",
	Forfeit:         "partnership.forfeit",
	DeleteAccount:   "account.delete",
	ClosePair:       "pair.close",
	EraseAccount:    "account.erase",
	ReadInbox:       "notifications.read",
}

var eventNames = [...]string{
	EventRequestReceived:     "request.received",
	EventRequestSent:         "request.sent",
	EventRequestAccepted:     "request.accepted",
	EventRequestDeclined:     "request.declined",
	EventRequestCancelled:    "request.cancelled",
	EventRequestExpired:      "request.expired",
	EventRequestSuperseded:   "request.superseded",
	EventPartnershipStarted:  "partnership.started",
	EventPartnershipEnded:    "partnership.ended",
	EventPartnershipArchived: "partnership.archived",
	EventSlotVacated:         "slot.vacated",
	EventCommandRejected:     "command.rejected",
	EventCommandApplied:      "command.applied",
	EventBreakupRequested:    "breakup.requested",
	EventBreakupDeclined:     "breakup.declined",
	EventBreakupWithdrawn:    "breakup.withdrawn",
	EventNicknameChanged:     "nickname.changed",
	EventProfileUpdated:      "profile.updated",
	EventBlockChanged:        "block.changed",
	EventAccountDeleted:      "account.deleted",
	EventInboxRead:           "inbox.read",
}

var breakupStatusNames = [...]string{
	BreakupPending:    "pending",
	BreakupAccepted:   "accepted",
	BreakupDeclined:   "declined",
	BreakupWithdrawn:  "withdrawn",
	BreakupExpired:    "expired",
	BreakupSuperseded: "superseded",
}

var requestStatusNames = [...]string{
	RequestPending:    "pending",
	RequestAccepted:   "accepted",
	RequestDeclined:   "declined",
	RequestCancelled:  "cancelled",
	RequestExpired:    "expired",
	RequestSuperseded: "superseded",
}

var partnershipStatusNames = [...]string{
	PartnershipActive:   "active",
	PartnershipEnded:    "ended",
	PartnershipArchived: "archived",
}

var userStatusNames = [...]string{
	UserActive:      "active",
	UserDeactivated: "deactivated",
	UserSuspended:   "suspended",
	UserDeleting:    "deleting",
}

// String returns the type's name on the wire, such as "request.send".
func (t CommandType) String() string {
	if int(t) < len(commandNames) && commandNames[t] != "" {
		return commandNames[t]
	}
	return fmt.Sprintf("command(%d)", uint8(t))
}

// ParseCommandType reads a command type's name; false for one that this code does not know.
func ParseCommandType(name string) (CommandType, bool) {
	i, ok := indexOf(commandNames[:], name)
	return CommandType(i), ok
}

// CommandTypes returns all command types in the order of their numbers.
func CommandTypes() []CommandType {
	out := make([]CommandType, 0, len(commandNames)-1)
	for i := 1; i < len(commandNames); i++ {
		out = append(out, CommandType(i))
	}
	return out
}

// String returns the type's name on the wire, such as "request.received".
func (t EventType) String() string {
	if int(t) < len(eventNames) && eventNames[t] != "" {
		return eventNames[t]
	}
	return fmt.Sprintf("event(%d)", uint8(t))
}

// ParseEventType reads an event type's name; false for one that this code does not know.
func ParseEventType(name string) (EventType, bool) {
	i, ok := indexOf(eventNames[:], name)
	return EventType(i), ok
}

// EventTypes returns all event types in the order of their numbers.
func EventTypes() []EventType {
	out := make([]EventType, 0, len(eventNames)-1)
	for i := 1; i < len(eventNames); i++ {
		out = append(out, EventType(i))
	}
	return out
}

// String returns the status as the API shows it, such as "pending".
func (s RequestStatus) String() string {
	if int(s) < len(requestStatusNames) && requestStatusNames[s] != "" {
		return requestStatusNames[s]
	}
	return fmt.Sprintf("request status(%d)", uint8(s))
}

// ParseRequestStatus reads a status as the API shows it.
func ParseRequestStatus(name string) (RequestStatus, bool) {
	i, ok := indexOf(requestStatusNames[:], name)
	return RequestStatus(i), ok
}

// String returns the status as the API shows it, such as "pending".
func (s BreakupStatus) String() string {
	if int(s) < len(breakupStatusNames) && breakupStatusNames[s] != "" {
		return breakupStatusNames[s]
	}
	return fmt.Sprintf("breakup status(%d)", uint8(s))
}

// String returns the status as analysts read it, such as "archived".
func (s PartnershipStatus) String() string {
	if int(s) < len(partnershipStatusNames) && partnershipStatusNames[s] != "" {
		return partnershipStatusNames[s]
	}
	return fmt.Sprintf("partnership status(%d)", uint8(s))
}

// ParsePartnershipStatus reads a status as analysts read it.
func ParsePartnershipStatus(name string) (PartnershipStatus, bool) {
	i, ok := indexOf(partnershipStatusNames[:], name)
	return PartnershipStatus(i), ok
}

// String returns the status as operators and analysts read it, such as "suspended".
func (s UserStatus) String() string {
	if int(s) < len(userStatusNames) && userStatusNames[s] != "" {
		return userStatusNames[s]
	}
	return fmt.Sprintf("user status(%d)", uint8(s))
}

// indexOf is a scan: with a dozen short names it is quicker than hashing one.
func indexOf(names []string, name string) (uint8, bool) {
	if name == "" {
		return 0, false
	}
	for i, n := range names {
		if n == name {
			return uint8(i), true // no table has 256 names
		}
	}
	return 0, false
}
