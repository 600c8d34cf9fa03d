package notifier

import (
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

// rule says how one event type is pushed.
type rule struct {
	pushed     bool
	ttl        time.Duration // from the event's time; later the push is dropped
	high       bool          // wakes a sleeping phone
	collapseBy subject       // pushes about one thing replace each other
	text       textKey       // for those who do not want it discreet
	ends       bool          // may come of what takes back pushes that were sent: see replace.go
	quietly    bool          // shows and sounds nothing: it sets the badge of the user's other devices
}

// subject is the thing that an event is about.
type subject uint8

const (
	theEvent subject = iota
	theRequest
	thePartnership
	theBadge
)

const day = 24 * time.Hour

// rules is the one table of what is pushed, and how; its category, and what counts as
// unread, is in the core's table, which the app's settings and lists read, too. A recipient
// whose own doing the event is (byUserId or fromUserId) never gets a push of it, nor does
// anyone of a silent one; inbox.read, which is for the reader's own devices, names nobody.
//
// Both recipients of partnership.started know already: one did it and the other got
// request.accepted. What time did (expired, superseded, archived) is for the next look
// at the app.
func rules() map[partner.EventType]rule {
	return map[partner.EventType]rule{
		partner.EventRequestReceived: {
			pushed: true, ttl: 7 * day, high: true,
			collapseBy: theRequest, text: textRequestReceived,
		},
		partner.EventRequestSent: {},
		partner.EventRequestAccepted: {
			pushed: true, ttl: 7 * day, high: true,
			collapseBy: theRequest, text: textRequestAccepted,
		},
		partner.EventRequestDeclined: {
			pushed: true, ttl: 3 * day,
			collapseBy: theRequest, text: textRequestDeclined,
		},
		partner.EventRequestCancelled:   {},
		partner.EventRequestExpired:     {},
		partner.EventRequestSuperseded:  {ends: true},
		partner.EventPartnershipStarted: {},
		partner.EventPartnershipEnded: {
			pushed: true, ttl: 3 * day,
			collapseBy: thePartnership, text: textPartnershipEnded, ends: true,
		},
		partner.EventPartnershipArchived: {},
		partner.EventSlotVacated:         {},
		partner.EventCommandRejected:     {},
		partner.EventCommandApplied:      {ends: true}, // the end of an account, for a pair without anything open
		partner.EventBreakupRequested: {
			pushed: true, ttl: 7 * day, high: true,
			collapseBy: thePartnership, text: textBreakupRequested,
		},
		partner.EventBreakupDeclined: {
			pushed: true, ttl: 3 * day,
			collapseBy: thePartnership, text: textBreakupDeclined,
		},
		partner.EventBreakupWithdrawn: {},
		partner.EventNicknameChanged:  {},
		partner.EventProfileUpdated:   {},
		partner.EventBlockChanged:     {ends: true}, // to the blocker alone, and their own doing
		partner.EventAccountDeleted:   {ends: true},
		// The user's own doing, for their other devices: what was read on one is unread on none.
		partner.EventInboxRead: {pushed: true, ttl: day, collapseBy: theBadge, quietly: true},
	}
}

// own reports whether the event is the user's own doing.
func own(data partner.EventData, user uuid.UUID) bool {
	return is(data.ByUserID, user) || is(data.FromUserID, user)
}

func is(id *uuid.UUID, user uuid.UUID) bool { return id != nil && *id == user }

// collapseID names what later pushes replace. At most 64 bytes: Apple's limit.
func (r rule) collapseID(event uuid.UUID, data partner.EventData) string {
	switch {
	case r.collapseBy == theRequest && data.RequestID != nil:
		return "request-" + data.RequestID.String()
	case r.collapseBy == theBadge:
		return "badge"
	case r.collapseBy == thePartnership && data.PartnershipID != nil:
		return "partnership-" + data.PartnershipID.String()
	default:
		return "event-" + event.String()
	}
}

// linkList opens the list of notifications.
const linkList = "bondmate://notifications"

// linkOf returns the link that opens what the event is about.
func linkOf(t partner.EventType, data partner.EventData) string {
	switch {
	case t == partner.EventRequestAccepted && data.PartnershipID != nil, data.RequestID == nil && data.PartnershipID != nil:
		return "bondmate://partnerships/" + data.PartnershipID.String()
	case data.RequestID != nil:
		return "bondmate://requests/" + data.RequestID.String()
	default:
		return linkList
	}
}
