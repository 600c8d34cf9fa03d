package contract

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

// Version is the highest version of commands and events that this code reads and the
// one that it writes.
const Version = 1

// Errors of decoding. ErrUnknown comes with the envelope decoded: the record is sound
// but from a newer program, so its pair waits. ErrMalformed means that nothing can ever
// read the record.
var (
	ErrUnknown   = errors.New("unknown type or newer version")
	ErrMalformed = errors.New("malformed record")
)

// Event is one record on the events topic: the envelope of a partner.Event with its
// place in the partition's sequence and its recipients' inboxes.
type Event struct {
	EventID     uuid.UUID       `json:"eventId"`
	Type        string          `json:"type"`
	Version     int             `json:"version"`
	CommandID   uuid.UUID       `json:"commandId"`
	Pair        string          `json:"pair"`
	Epoch       string          `json:"epoch"`
	Seq         int64           `json:"seq"` // the partition's sequence
	AcceptedAt  time.Time       `json:"acceptedAt"`
	AppliedAt   time.Time       `json:"appliedAt"`
	Recipients  []Recipient     `json:"recipients"`
	Data        json.RawMessage `json:"data"` // partner.EventData
	Traceparent string          `json:"-"`    // W3C trace context, in the header of that name
}

// Recipient is one user to whom an event is addressed.
type Recipient struct {
	UserID   uuid.UUID `json:"userId"`
	InboxSeq int64     `json:"inboxSeq"` // the event's sequence in the user's inbox
}

// Envelope is what can be told of any command record, known type or not.
type Envelope struct {
	ID      uuid.UUID
	Type    string
	Version int
	Issuer  uuid.UUID
	Pair    partner.Pair
}
