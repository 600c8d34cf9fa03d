package contract

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// PushOutcomeType is the ce_type of every record on the pushes topic.
const PushOutcomeType = "push.outcome"

// pushOutcomes are the ways in which a delivery ends. The set is closed.
var pushOutcomes = []string{"delivered", "suppressed", "withdrawn", "unregistered", "rejected", "expired"}

// PushOutcome is one record on the pushes topic: how the delivery of one event to one
// device ended. It has no token, no text and no address.
//
// A delivery ends once, but for two cases: a push that was delivered and is then taken back
// ends again, as withdrawn; and a notifier that stood still beyond its claim may have been
// overtaken by another. So of several records of one delivery the one with the latest
// SettledAt counts.
type PushOutcome struct {
	UserID        uuid.UUID
	DeliveryID    uuid.UUID
	SourceEventID uuid.UUID // the event that it is about
	SourceType    string    // that one's type
	Seq           int64     // that one's place in the user's inbox
	Epoch         string    // names the history that Seq counts in
	Category      string
	Outcome       string
	Attempts      int  // calls to the provider
	Replaced      bool // an ending took it back when it may have been on the phone
	AppliedAt     time.Time
	DueAt         time.Time
	SettledAt     time.Time
}

type pushOutcomeJSON struct {
	EventID       string `json:"eventId"`
	Type          string `json:"type"`
	Version       int    `json:"version"`
	UserID        string `json:"userId"`
	DeliveryID    string `json:"deliveryId"`
	SourceEventID string `json:"sourceEventId"`
	SourceType    string `json:"sourceType"`
	Seq           int64  `json:"seq"`
	Epoch         string `json:"epoch"`
	Category      string `json:"category,omitempty"`
	Outcome       string `json:"outcome"`
	Attempts      int    `json:"attempts"`
	Replaced      bool   `json:"replaced,omitempty"`
	AppliedAt     string `json:"appliedAt"`
	DueAt         string `json:"dueAt"`
	SettledAt     string `json:"settledAt"`
}

// ID returns the record's id. It derives from the delivery and the outcome: the same told
// again, after a crash or a write without an answer, is a repeat, and another outcome of
// the delivery is not.
func (o PushOutcome) ID() uuid.UUID {
	return uuid.NewSHA1(o.DeliveryID, []byte(PushOutcomeType+"/"+o.Outcome))
}

func (o PushOutcome) check() error {
	switch {
	case o.UserID == uuid.Nil || o.DeliveryID == uuid.Nil || o.SourceEventID == uuid.Nil:
		return malformed("userId, deliveryId or sourceEventId is missing")
	case o.SourceType == "" || o.Epoch == "":
		return malformed("sourceType or epoch is missing")
	case o.Seq < 1 || o.Attempts < 0:
		return malformed("seq is not positive or attempts is negative")
	case !slices.Contains(pushOutcomes, o.Outcome):
		return malformed("outcome is none of a delivery")
	case o.Replaced && o.Outcome == "delivered":
		return malformed("what was taken back is not delivered")
	}
	return nil
}

// EncodePushOutcome returns the record of a delivery's outcome on a pushes topic of so many
// partitions. Its key is the user.
func EncodePushOutcome(topic string, partitions int, o PushOutcome) (Record, error) {
	if err := o.check(); err != nil {
		return Record{}, fmt.Errorf("encode outcome of push %s: %w", o.DeliveryID, err)
	}
	data := pushOutcomeJSON{
		EventID: o.ID().String(), Type: PushOutcomeType, Version: Version,
		UserID: o.UserID.String(), DeliveryID: o.DeliveryID.String(), SourceEventID: o.SourceEventID.String(), SourceType: o.SourceType,
		Seq: o.Seq, Epoch: o.Epoch, Category: o.Category, Outcome: o.Outcome, Attempts: o.Attempts, Replaced: o.Replaced,
		AppliedAt: formatTime(o.AppliedAt), DueAt: formatTime(o.DueAt), SettledAt: formatTime(o.SettledAt),
	}
	value, err := json.Marshal(data)
	if err != nil {
		return Record{}, fmt.Errorf("encode outcome of push %s: %w", o.DeliveryID, err)
	}
	key := []byte(data.UserID)
	return Record{
		Topic: topic, Partition: PartitionOf(key, partitions), Time: Instant(o.SettledAt), Key: key, Value: value,
		Headers: attributes{id: data.EventID, kind: data.Type, source: sourceNotifier, time: data.SettledAt, subject: data.UserID}.headers(),
	}, nil
}

// DecodePushOutcome reads a record of the pushes topic. One of another type is ErrUnknown.
func DecodePushOutcome(rec Record) (PushOutcome, error) {
	var data pushOutcomeJSON
	if err := unmarshal(rec.Value, &data); err != nil {
		return PushOutcome{}, fmt.Errorf("decode push outcome: %w", err)
	}
	if data.Type != PushOutcomeType && data.Type != "" {
		return PushOutcome{}, fmt.Errorf("decode push outcome: %w", ErrUnknown)
	}
	o, err := pushOutcomeOf(rec, data)
	if err != nil {
		return PushOutcome{}, fmt.Errorf("decode push outcome: %w", err)
	}
	return o, nil
}

func pushOutcomeOf(rec Record, data pushOutcomeJSON) (o PushOutcome, err error) {
	if data.Type == "" || data.Version < 1 {
		return o, malformed("type is missing or version is not positive")
	}
	for _, f := range []struct {
		name, text string
		into       *uuid.UUID
	}{
		{"userId", data.UserID, &o.UserID}, {"deliveryId", data.DeliveryID, &o.DeliveryID}, {"sourceEventId", data.SourceEventID, &o.SourceEventID},
	} {
		if *f.into, err = parseID(f.name, f.text); err != nil {
			return o, err
		}
	}
	for _, f := range []struct {
		name, text string
		into       *time.Time
	}{
		{"appliedAt", data.AppliedAt, &o.AppliedAt}, {"dueAt", data.DueAt, &o.DueAt}, {"settledAt", data.SettledAt, &o.SettledAt},
	} {
		if *f.into, err = parseTime(f.name, f.text); err != nil {
			return o, err
		}
	}
	o.SourceType, o.Seq, o.Epoch, o.Category = data.SourceType, data.Seq, data.Epoch, data.Category
	o.Outcome, o.Attempts, o.Replaced = data.Outcome, data.Attempts, data.Replaced
	if err := o.check(); err != nil {
		return o, err
	}
	if data.EventID != o.ID().String() {
		return o, malformed("eventId is not that of the delivery's outcome")
	}
	return o, checkRecord(rec, data.EventID, data.Type, data.UserID)
}
