package notifier

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Outcome is how a delivery ended. The set is closed, and stored as text.
type Outcome string

// The outcomes.
const (
	Delivered    Outcome = "delivered"    // the provider took it
	Suppressed   Outcome = "suppressed"   // a visible socket had acknowledged the event first, or the user has muted its category
	Withdrawn    Outcome = "withdrawn"    // the address now belongs to someone else, or an ending took the event back; what was sent by then is replaced
	Unregistered Outcome = "unregistered" // the address is gone
	Rejected     Outcome = "rejected"     // the provider will never take this message
	Expired      Outcome = "expired"      // its time to live passed first
)

// Verdict classifies a call that was not a success by what to do about it.
type Verdict string

// The verdicts.
const (
	// Gone: the address is dead. The delivery is settled, the device deleted unless it was
	// registered again since.
	Gone Verdict = "gone"
	// Refused: the provider will never take this message. Settled, the device stays: the
	// fault may be ours.
	Refused Verdict = "refused"
	// Throttled: the provider works and wants fewer calls. Retried no earlier than it says.
	Throttled Verdict = "throttled"
	// Denied: our credentials, our project or our URL. Retried until it expires, so that
	// what was due while an operator repairs it still goes out.
	Denied Verdict = "denied"
	// Unavailable: the provider failed and said so. Retried.
	Unavailable Verdict = "unavailable"
	// Unknown: no answer came. The push may have gone out; it is retried, and the collapse
	// id hides the repeat.
	Unknown Verdict = "unknown"
	// Cancelled: we gave up the call ourselves. Put back without counting an attempt.
	Cancelled Verdict = "cancelled"
	// Held: the breaker let no call through. Put back without counting an attempt.
	Held Verdict = "held"
)

// SendError says why a call to the provider was not a success.
type SendError struct {
	Verdict    Verdict
	Status     int           // HTTP status, 0 when no answer came
	RetryAfter time.Duration // what the provider asked for; 0 when it did not
	Cause      error
}

// Error implements error.
func (e *SendError) Error() string {
	if e.Status != 0 {
		return fmt.Sprintf("push %s (%d): %v", e.Verdict, e.Status, e.Cause)
	}
	return fmt.Sprintf("push %s: %v", e.Verdict, e.Cause)
}

// Unwrap returns the cause.
func (e *SendError) Unwrap() error { return e.Cause }

// verdictOf returns the verdict of an error of a Provider. What no Provider should return
// counts as a call without an answer.
func verdictOf(err error) Verdict {
	if e, ok := errors.AsType[*SendError](err); ok {
		return e.Verdict
	}
	if errors.Is(err, context.Canceled) {
		return Cancelled
	}
	return Unknown
}

// providerFault reports whether the breaker counts the error as a failure of the
// provider. Dead addresses, bad messages and quotas are answers of a working one.
func providerFault(err error) bool {
	if err == nil {
		return false
	}
	switch verdictOf(err) {
	case Unavailable, Unknown:
		return true
	case Gone, Refused, Throttled, Denied, Cancelled, Held:
		return false
	}
	return true
}

// Message is one push to one device, whatever the provider.
type Message struct {
	Token      string
	Title      string
	Body       string
	Silent     bool // shows and sounds nothing: Title, Body and Category are not read
	Badge      int  // how many entries of the inbox are unread; noBadge: not told
	Data       map[string]string
	Category   string        // Android channel, iOS category
	CollapseID string        // a later message with the same one replaces this one; ≤ 64 bytes
	High       bool          // wakes a sleeping phone
	TTL        time.Duration // how long the provider keeps it for a phone that is off
	ExpiresAt  time.Time
}

// noBadge leaves the number on the app's icon as it is.
const noBadge = -1

// Provider sends pushes. Send returns nil when the provider took the message, else a
// *SendError. It makes at most one call, and returns soon after ctx ends.
type Provider interface {
	Send(ctx context.Context, msg Message) error
}
