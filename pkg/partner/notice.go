package partner

// Category groups event types by what a person mutes. The names are the API's, and those of
// the Android channels and iOS categories: never changed.
type Category string

// The categories.
const (
	CategoryRequests    Category = "requests"    // asked, accepted, declined
	CategoryPartnership Category = "partnership" // a partnership that ends, or is asked to
)

// Categories returns all categories, in the order in which an app lists them.
func Categories() []Category { return []Category{CategoryRequests, CategoryPartnership} }

// notice says how an event type concerns the person it is addressed to. Whoever's own
// doing an event is has read it, and a silent event is never on a badge.
type notice struct {
	known    bool
	category Category // of what is pushed; empty for the rest
	unread   bool     // counts as unread in the app
}

// notices is the one table of categories and of what counts as unread; notifier adds how
// the pushed ones are pushed. Both recipients of partnership.started know already: one did
// it and the other got request.accepted.
var notices = [...]notice{
	EventRequestReceived:     {true, CategoryRequests, true},
	EventRequestSent:         {true, "", false},
	EventRequestAccepted:     {true, CategoryRequests, true},
	EventRequestDeclined:     {true, CategoryRequests, true},
	EventRequestCancelled:    {true, "", false},
	EventRequestExpired:      {true, "", true},
	EventRequestSuperseded:   {true, "", true},
	EventPartnershipStarted:  {true, "", false},
	EventPartnershipEnded:    {true, CategoryPartnership, true},
	EventPartnershipArchived: {true, "", false},
	EventSlotVacated:         {true, "", false},
	EventCommandRejected:     {true, "", false},
	EventCommandApplied:      {true, "", false},
	EventBreakupRequested:    {true, CategoryPartnership, true},
	EventBreakupDeclined:     {true, CategoryPartnership, true},
	EventBreakupWithdrawn:    {true, "", true},
	EventNicknameChanged:     {true, "", false},
	EventProfileUpdated:      {true, "", false},
	EventBlockChanged:        {true, "", false},
	EventAccountDeleted:      {true, "", false},
	EventInboxRead:           {true, "", false},
}

func (t EventType) notice() notice {
	if int(t) < len(notices) {
		return notices[t]
	}
	return notice{}
}

// Category returns what a person mutes to get no push of the type; empty for a type that
// is never pushed.
func (t EventType) Category() Category { return t.notice().category }

// Unread reports whether an event of the type counts as unread.
func (t EventType) Unread() bool { return t.notice().unread }

// MaxUnread bounds what counting unread entries costs: no more than so many of the newest
// entries of an inbox are looked at.
const MaxUnread = 1000

// UnreadEventTypes returns the numbers of the types that count as unread, for statements.
func UnreadEventTypes() []int16 {
	var types []int16
	for _, t := range EventTypes() {
		if t.Unread() {
			types = append(types, int16(t))
		}
	}
	return types
}
