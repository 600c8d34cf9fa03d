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

// The command types. Supersede and Sweep are follow-ups: only the processor issues them.
const (
	Send      CommandType = 1 // ask another user to become partners
	Accept    CommandType = 2 // the target says yes
	Decline   CommandType = 3 // the target says no
	Cancel    CommandType = 4 // the sender takes it back
	Remove    CommandType = 5 // end a partnership at once, one-sided
	Supersede CommandType = 6 // close a pending request of a user whose last slot has filled
	Sweep     CommandType = 7 // on user:user, find more requests to supersede than one decision loads
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
	PartnershipID uuid.UUID // Remove; zero means the current one
	Message       string    // Send; at most 500 characters, already sanitised
	Reason        string    // Remove; only the remover ever sees it
	Fresh         bool      // Send, Accept: start anew instead of restoring
	Quiet         bool      // Remove: no push and no badge for the other side
	More          bool      // Supersede: a Sweep of the issuer follows, since more is to be closed
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
	CodeNotFound            Code = "not_found"
	CodeNotPending          Code = "not_pending"
	CodeNotCurrent          Code = "not_current"
	CodeAccountDeleting     Code = "account_deleting"
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
}

// PendingLimit bounds User.Pending: one decision supersedes at most as many requests
// and leaves the rest to a Sweep. Whoever loads a state loads no more than that.
const PendingLimit = 100

// Occupied is a slot in use.
type Occupied struct {
	Slot          int16
	PartnershipID uuid.UUID
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
	EventCommandApplied      EventType = 13 // nothing was left to do; has no audience
)

// Event is what became true for one audience.
type Event struct {
	ID         uuid.UUID
	Type       EventType
	CommandID  uuid.UUID
	Pair       Pair
	Recipients []uuid.UUID // in ascending order; empty for an event without audience
	Origin     uuid.UUID   // the user whose doing it was, zero for time's: cuts go by it
	At         time.Time   // the decision's time
	Data       EventData
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
}

// Limits are the configurable figures of the rules.
type Limits struct {
	RequestTTL     time.Duration // a pending request expires after it; default 7 days
	RestoreWindow  time.Duration // inclusive; default 720 h
	MessageMaxLen  int           // characters; default 500
	NicknameMaxLen int           // characters; default 50
}

// DefaultLimits returns the limits of the specification.
func DefaultLimits() Limits {
	return Limits{RequestTTL: 7 * 24 * time.Hour, RestoreWindow: 720 * time.Hour, MessageMaxLen: 500, NicknameMaxLen: 50}
}

// Decision is all that one command changes. The shell writes it in one transaction.
type Decision struct {
	Now       time.Time // the decision's time: never before the pair's last change
	Outcome   Outcome
	Events    []Event
	FollowUps []Command     // on other pairs, through the outbox
	Requests  []Request     // rows to upsert
	Partners  []Partnership // rows to upsert, archived and ended ones before active ones
	// Next is the state after: the next command of the batch starts from it. It holds the
	// pair and every user of the state before, changed or not. Empty in a Decision that
	// was made without a state (RejectStale, RejectMismatch).
	Next State
}
