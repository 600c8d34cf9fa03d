// Package partner is the functional core: the states of two people's partnership
// and the one pure function, Decide, that says what a command does to them.
//
// Nothing here reads a clock, a random source, a network or a database. Every id
// that Decide makes is derived from the command's id (UUIDv5), and the only time is
// the command's own: so the same history always ends in the same state, whoever
// replays it and however late.
package partner

import (
	"bytes"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// Pair is two users in canonical order: the unit of ordering and the Kafka key.
// A command about one user alone has Low == High.
type Pair struct {
	Low, High uuid.UUID
}

// PairOf returns the canonical pair of two users, in either order.
func PairOf(a, b uuid.UUID) Pair {
	if bytes.Compare(a[:], b[:]) > 0 {
		a, b = b, a
	}
	return Pair{Low: a, High: b}
}

// ParsePair reads the text form "low:high" and refuses one that is not canonical.
func ParsePair(s string) (Pair, error) {
	if len(s) != 73 || s[36] != ':' {
		return Pair{}, fmt.Errorf("pair %q is not low:high", s)
	}
	low, err := uuid.Parse(s[:36])
	if err != nil {
		return Pair{}, fmt.Errorf("pair %q: %w", s, err)
	}
	high, err := uuid.Parse(s[37:])
	if err != nil {
		return Pair{}, fmt.Errorf("pair %q: %w", s, err)
	}
	p := Pair{Low: low, High: high}
	if p.String() != s || PairOf(low, high) != p {
		return Pair{}, fmt.Errorf("pair %q is not in canonical form", s)
	}
	return p, nil
}

// String returns "low:high" in lower case, the Kafka key.
func (p Pair) String() string { return p.Low.String() + ":" + p.High.String() }

// Solo reports whether the pair stands for one user alone.
func (p Pair) Solo() bool { return p.Low == p.High }

// Has reports whether u is one of the two.
func (p Pair) Has(u uuid.UUID) bool { return p.Low == u || p.High == u }

// Other returns the one who is not u; for a solo pair u itself.
func (p Pair) Other(u uuid.UUID) uuid.UUID {
	if p.Low == u {
		return p.High
	}
	return p.Low
}

// CommandType names what is asked for. The numbers are stored: never reuse one.
type CommandType uint8

// The command types. Supersede, Sweep, ClosePair and EraseAccount are follow-ups: only
// decisions issue them.
const (
	Send      CommandType = 1 // ask another user to become partners
	Accept    CommandType = 2 // the target says yes
	Decline   CommandType = 3 // the target says no
	Cancel    CommandType = 4 // the sender takes it back
	Remove    CommandType = 5 // end a partnership at once, one-sided
	Supersede CommandType = 6 // close a pending request of a user whose last slot has filled
	Sweep     CommandType = 7 // on user:user, find more requests to supersede than one decision loads

	AskBreakup      CommandType = 8  // ask the partner to part
	AcceptBreakup   CommandType = 9  // the partner agrees: it ends
	DeclineBreakup  CommandType = 10 // the partner does not
	WithdrawBreakup CommandType = 11 // the asker takes it back

	Block   CommandType = 12 // the other of the pair
	Unblock CommandType = 13

	SetNickname   CommandType = 14 // the issuer's own name for the other
	ClearNickname CommandType = 15

	UpdateProfile CommandType = 16 // on user:user
	ChangeCode    CommandType = 17 // on user:user, a new partner code
	Forfeit       CommandType = 18 // never to have an ended partnership restored

	DeleteAccount CommandType = 19 // on user:user
	ClosePair     CommandType = 20 // follow-up: end all that a deleted user has with another
	EraseAccount  CommandType = 21 // follow-up, on user:user: erase, once all pairs are closed

	ReadInbox CommandType = 22 // on user:user, move the read mark up
)

// Command is what a user, or a decision before it, asks for.
type Command struct {
	ID          uuid.UUID
	Type        CommandType
	Issuer      uuid.UUID
	Pair        Pair
	AcceptedAt  time.Time // stamped by ingest just before producing; a follow-up carries its cause's time
	Fingerprint [16]byte  // of method, path, query and body: tells a replay from a reuse of the id
	Cause       uuid.UUID // follow-ups: the event that caused it; zero for a user's own command

	RequestID     uuid.UUID // Accept, Decline, Cancel, Supersede
	PartnershipID uuid.UUID // Remove, AskBreakup: zero means the current one; Forfeit
	BreakupID     uuid.UUID // AcceptBreakup, DeclineBreakup, WithdrawBreakup
	Message       string    // Send; at most 500 characters, already sanitised
	Reason        string    // Remove, AskBreakup; only the issuer ever sees it
	Fresh         bool      // Send, Accept: start anew instead of restoring
	Quiet         bool      // Remove: no push and no badge for the other side
	// More says that this is the last of several follow-ups and brings the next round.
	// Supersede: a Sweep of the issuer follows. ClosePair: an EraseAccount of the issuer.
	More     bool
	Nickname string // SetNickname; 1 to 50 characters, already sanitised
	// Profile is what UpdateProfile changes; of ChangeCode the new partner code, which
	// ingest draws: nothing random is made here.
	Profile *ProfilePatch
	ReadSeq int64 // ReadInbox: the inbox sequence up to which the issuer has read

	// Address and Device tell where a user's command came from. They are for the activity
	// log alone, and no decision depends on them.
	Address string
	Device  string
}

// FollowUp reports whether a decision issued the command, not a user.
func (c Command) FollowUp() bool { return c.Cause != uuid.Nil }

// Code is a stable rejection code, part of the public contract.
type Code string

// The rejection codes of the core, in no order; Decide's checks have a fixed one.
const (
	CodeSelfRequest         Code = "self_request"
	CodeUserNotFound        Code = "user_not_found"
	CodeAlreadyPartners     Code = "already_partners"
	CodeRequestPending      Code = "request_pending"
	CodeNoVacantSlot        Code = "no_vacant_slot"
	CodeTargetUnavailable   Code = "target_unavailable"
	CodeBlockedByYou        Code = "blocked_by_you"
	CodeCooldown            Code = "cooldown"
	CodeNotFound            Code = "not_found"
	CodeNotPending          Code = "not_pending"
	CodeNotCurrent          Code = "not_current"
	CodeAccountDeleting     Code = "account_deleting"
	CodeForbidden           Code = "forbidden"
	CodeIdempotencyMismatch Code = "idempotency_mismatch"
	CodeStale               Code = "stale"
)

// UserStatus is the state of an account. The numbers are stored.
type UserStatus uint8

// The user statuses. The zero value is a user who does not exist.
const (
	UserUnknown     UserStatus = 0
	UserActive      UserStatus = 1
	UserDeactivated UserStatus = 2
	UserSuspended   UserStatus = 3
	UserDeleting    UserStatus = 4
)

// User is one person's aggregate, as far as decisions need it.
type User struct {
	ID       uuid.UUID
	Status   UserStatus
	Slots    []int16    // the numbers of the slots the user owns, ascending
	Occupied []Occupied // the user's active partnerships
	// Pending holds the user's pending requests, sent and received, oldest first,
	// at most PendingLimit of them. Loaded only for commands that can fill a slot
	// (Send, Accept) and for Sweep.
	Pending []PendingRef
	// PendingCut says that there may be more pending requests than Pending holds, although
	// it is shorter than PendingLimit by now. Decide sets it in Next; loading leaves it false.
	PendingCut bool
	// Counterparts holds the others of the pairs that are not closed: those with a pending
	// request, a partnership that is not archived, a pending breakup, or anything in a Side
	// or nickname of either direction. In ascending order, at most PendingLimit of them,
	// with what the batch has changed so far. Loaded only for DeleteAccount and EraseAccount.
	Counterparts []uuid.UUID
	// Remains says that there is more of the user than one transaction erases. Loaded only
	// for EraseAccount.
	Remains bool
	// LastSeq is the last sequence of the user's inbox before this decision, and ReadSeq the
	// read mark, never above it. Only ReadInbox looks at them; Decide leaves LastSeq as it is.
	LastSeq, ReadSeq int64
}

// PendingLimit bounds User.Pending: one decision supersedes at most as many requests
// and leaves the rest to a Sweep. Whoever loads a state loads no more than that.
const PendingLimit = 100

// Occupied is a slot in use.
type Occupied struct {
	Slot          int16
	PartnershipID uuid.UUID
	Partner       uuid.UUID // the other user
}

// PendingRef is a pending request of a user, on whatever pair.
type PendingRef struct {
	RequestID uuid.UUID
	Pair      Pair
}

// RequestStatus is the state of a request. The numbers are stored.
type RequestStatus uint8

// The request statuses.
const (
	RequestPending    RequestStatus = 1
	RequestAccepted   RequestStatus = 2
	RequestDeclined   RequestStatus = 3
	RequestCancelled  RequestStatus = 4
	RequestExpired    RequestStatus = 5
	RequestSuperseded RequestStatus = 6
)

// Request is an invitation from one user to another to become partners.
type Request struct {
	ID         uuid.UUID
	Sender     uuid.UUID
	Target     uuid.UUID
	Message    string
	Fresh      bool
	Status     RequestStatus
	CreatedAt  time.Time
	ExpiresAt  time.Time
	ResolvedAt time.Time // zero while pending; of an expired one ExpiresAt
}

// PartnershipStatus is the state of a partnership. The numbers are stored.
type PartnershipStatus uint8

// The partnership statuses.
const (
	PartnershipActive   PartnershipStatus = 1
	PartnershipEnded    PartnershipStatus = 2 // can be restored until RestorableUntil, inclusive
	PartnershipArchived PartnershipStatus = 3
)

// Partnership is two users as partners.
type Partnership struct {
	ID              uuid.UUID
	Pair            Pair
	Status          PartnershipStatus
	LowSlot         int16 // the slot it takes, or last took, of Pair.Low
	HighSlot        int16
	StartedAt       time.Time
	EndedAt         time.Time // zero while active
	RestorableUntil time.Time // zero while active
	EndedBy         uuid.UUID
	Reason          string
	Quiet           bool
	RestoredCount   int
	// Version rises with every change of any partnership of the pair; it orders the
	// records of the compacted topic.
	Version int64
}

// PairState is everything stored about a pair that a decision on it may need.
type PairState struct {
	Pair Pair
	// Requests holds the pending request, if any, and every request that the command names.
	// More do no harm: within a batch those that earlier commands named are here too.
	Requests []Request
	// Partnership is the active or ended one that is not archived, or nil.
	Partnership *Partnership
	// Breakups holds the pending breakup, if any, and the one that the command names. More
	// do no harm, as with Requests.
	Breakups []Breakup
	// Low and High are what each of the two has decided about the other; the zero Side when
	// nothing is stored. Always loaded, never of a solo pair.
	Low, High Side
}

// State is the part of the world that one command concerns: its pair, and the
// aggregates of the pair's two users (of the issuer too, when not one of them).
type State struct {
	Pair  PairState
	Users map[uuid.UUID]User
}

// EventType names what became true. The numbers are stored: never reuse one.
type EventType uint8

// The event types.
const (
	EventRequestReceived     EventType = 1
	EventRequestSent         EventType = 2
	EventRequestAccepted     EventType = 3
	EventRequestDeclined     EventType = 4
	EventRequestCancelled    EventType = 5
	EventRequestExpired      EventType = 6
	EventRequestSuperseded   EventType = 7
	EventPartnershipStarted  EventType = 8
	EventPartnershipEnded    EventType = 9
	EventPartnershipArchived EventType = 10
	EventSlotVacated         EventType = 11
	EventCommandRejected     EventType = 12
	EventCommandApplied      EventType = 13 // done, with nothing else to tell; addressed to nobody, or to the issuer alone
	EventBreakupRequested    EventType = 14 // to both
	EventBreakupDeclined     EventType = 15 // to both
	EventBreakupWithdrawn    EventType = 16 // to both
	EventNicknameChanged     EventType = 17 // to its owner, without the text
	EventProfileUpdated      EventType = 18 // one to the user, and one to each current partner
	EventBlockChanged        EventType = 19 // to the blocker
	EventAccountDeleted      EventType = 20 // to the deleted user's own sessions
	EventInboxRead           EventType = 21 // to the reader's own devices
)

// Event is what became true for one audience.
type Event struct {
	ID        uuid.UUID
	Type      EventType
	CommandID uuid.UUID
	Pair      Pair
	// Recipients are in ascending order; empty for an event without audience. They are of
	// the pair, save for one alone who is not: the partner who is told of a solo pair's
	// profile (columns other and other_seq).
	Recipients []uuid.UUID
	// Origin is the user whose doing it was: cuts go by it. It is zero for what time did
	// and for what tells of an ending, which no later cut must take away: a person has to
	// learn that a partnership or request is over.
	Origin uuid.UUID
	At     time.Time // the decision's time
	Data   EventData
}

// EventData is what an event says beyond its envelope. It never holds free text,
// an address or a token: clients read texts over HTTP.
type EventData struct {
	RequestID       *uuid.UUID  `json:"requestId,omitempty"`
	PartnershipID   *uuid.UUID  `json:"partnershipId,omitempty"`
	FromUserID      *uuid.UUID  `json:"fromUserId,omitempty"`
	ToUserID        *uuid.UUID  `json:"toUserId,omitempty"`
	ByUserID        *uuid.UUID  `json:"byUserId,omitempty"`
	UserIDs         []uuid.UUID `json:"userIds,omitempty"`
	StartedAt       *time.Time  `json:"startedAt,omitempty"`
	EndedAt         *time.Time  `json:"endedAt,omitempty"`
	RestorableUntil *time.Time  `json:"restorableUntil,omitempty"`
	ExpiresAt       *time.Time  `json:"expiresAt,omitempty"`
	Restored        *bool       `json:"restored,omitempty"`
	RestoredCount   *int        `json:"restoredCount,omitempty"`
	Crossed         bool        `json:"crossed,omitempty"`
	Silent          bool        `json:"silent,omitempty"`
	Slot            *int16      `json:"slot,omitempty"`
	BreakupID       *uuid.UUID  `json:"breakupId,omitempty"`
	UserID          *uuid.UUID  `json:"userId,omitempty"` // whom it is about
	Blocked         *bool       `json:"blocked,omitempty"`
	Fields          []string    `json:"fields,omitempty"` // of the profile, by their names in the API
	ReadSeq         *int64      `json:"seq,omitempty"`    // the read mark
	Code            Code        `json:"code,omitempty"`
	Command         string      `json:"command,omitempty"` // the rejected or applied command's type
}

// Outcome is what became of a command: applied with a result, or rejected with a code.
type Outcome struct {
	Code   Code // empty when applied
	Result Result
}

// Applied reports whether the command took effect.
func (o Outcome) Applied() bool { return o.Code == "" }

// Result is what the issuer is told of an applied command. Which fields are set
// depends on the command's type; the OpenAPI document lists them.
type Result struct {
	RequestID       *uuid.UUID `json:"requestId,omitempty"`
	Status          string     `json:"status,omitempty"`
	PartnershipID   *uuid.UUID `json:"partnershipId,omitempty"`
	StartedAt       *time.Time `json:"startedAt,omitempty"`
	Restored        *bool      `json:"restored,omitempty"`
	Crossed         bool       `json:"crossed,omitempty"`
	EndedAt         *time.Time `json:"endedAt,omitempty"`
	RestorableUntil *time.Time `json:"restorableUntil,omitempty"`
	BreakupID       *uuid.UUID `json:"breakupId,omitempty"`
	ExpiresAt       *time.Time `json:"expiresAt,omitempty"`
	PartnerCode     string     `json:"partnerCode,omitempty"`
	ReadSeq         *int64     `json:"seq,omitempty"`
}

// Decision is all that one command changes. The shell writes it in one transaction.
type Decision struct {
	Now       time.Time // the decision's time: never before the pair's last change
	Outcome   Outcome
	Events    []Event
	FollowUps []Command     // on other pairs, through the outbox
	Requests  []Request     // rows to upsert
	Partners  []Partnership // rows to upsert, archived and ended ones before active ones
	Breakups  []Breakup     // rows to upsert, in order: of several with one id the last counts
	Sides     []SideChange  // rows to upsert, or to delete when the Side is zero
	Nicknames []Nickname    // rows to upsert, or to delete when the text is empty
	Profiles  []ProfileChange
	Accounts  []AccountChange
	Reads     []ReadMark
	Timers    []Timer // rows to upsert by pair and kind; to delete when Due is zero
	// Cuts are made at the inbox heads as they were before this decision's own Events, which
	// they never touch. The stream rows of recipient and origin have to be locked.
	Cuts []Cut
	// Activity is one entry of the activity log for each command of a user; none for
	// ReadInbox, follow-ups and timers. Address and Device are the command's.
	Activity []Activity
	// Next is the state after: the next command of the batch starts from it. It holds the
	// pair and every user of the state before, changed or not. Empty in a Decision that
	// was made without a state (RejectStale, RejectMismatch).
	Next State
}
