package contract

import (
	"encoding/json"
	"fmt"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

// eventJSON is the data of a record on the events topic.
type eventJSON struct {
	EventID    string          `json:"eventId"`
	Type       string          `json:"type"`
	Version    int             `json:"version"`
	CommandID  string          `json:"commandId"`
	Pair       string          `json:"pair"`
	Epoch      string          `json:"epoch"`
	Seq        int64           `json:"seq"`
	AcceptedAt string          `json:"acceptedAt"`
	AppliedAt  string          `json:"appliedAt"`
	Recipients []recipientJSON `json:"recipients"`
	Data       json.RawMessage `json:"data"`
}

type recipientJSON struct {
	UserID   string `json:"userId"`
	InboxSeq int64  `json:"inboxSeq"`
}

// EncodeEvent returns the record of an event. The partition is the one of the commands
// topic that produced it: commands and events have the same count, so a pair's events lie
// where its commands do. ev.Data must be a JSON object or empty; ev.Version is not read.
func EncodeEvent(topic string, partition int, ev Event) (Record, error) {
	if len(ev.Data) == 0 {
		ev.Data = json.RawMessage("{}")
	}
	if err := checkEvent(ev); err != nil {
		return Record{}, fmt.Errorf("encode event %s: %w", ev.EventID, err)
	}
	at := Instant(ev.AppliedAt)
	data := eventJSON{
		EventID:    ev.EventID.String(),
		Type:       ev.Type,
		Version:    Version,
		CommandID:  ev.CommandID.String(),
		Pair:       ev.Pair,
		Epoch:      ev.Epoch,
		Seq:        ev.Seq,
		AcceptedAt: formatTime(ev.AcceptedAt),
		AppliedAt:  formatTime(at),
		Recipients: make([]recipientJSON, len(ev.Recipients)),
		Data:       ev.Data,
	}
	for i, r := range ev.Recipients {
		data.Recipients[i] = recipientJSON{UserID: r.UserID.String(), InboxSeq: r.InboxSeq}
	}
	value, err := json.Marshal(data)
	if err != nil {
		return Record{}, fmt.Errorf("encode event %s: %w", ev.EventID, err)
	}
	return Record{
		Topic:     topic,
		Partition: partition,
		Time:      at,
		Key:       []byte(ev.Pair),
		Value:     value,
		Headers: attributes{
			id: data.EventID, kind: data.Type, source: sourceProcessor, time: data.AppliedAt, pair: data.Pair,
			commandID: data.CommandID, seq: data.Seq, epoch: data.Epoch, traceparent: ev.Traceparent,
		}.headers(),
	}, nil
}

// DecodeEvent reads a record of the events topic. An event of a type that this code does
// not know is returned as any other: it has its place in its recipients' inboxes and goes
// to their clients, who ignore it when they do not know it either. A newer version is
// returned together with ErrUnknown: the envelope only grows, so all but Data can be used.
func DecodeEvent(rec Record) (Event, error) {
	data, ok := scanEvent(rec.Value)
	if !ok {
		if err := unmarshal(rec.Value, &data); err != nil {
			return Event{}, fmt.Errorf("decode event: %w", err)
		}
	}
	ev, err := eventOf(rec, data)
	if err != nil {
		return Event{}, fmt.Errorf("decode event: %w", err)
	}
	ev.Traceparent = rec.Header("traceparent")
	if ev.Version > Version {
		return ev, fmt.Errorf("decode event %s version %d: %w", ev.EventID, ev.Version, ErrUnknown)
	}
	return ev, nil
}

func eventOf(rec Record, data eventJSON) (Event, error) {
	ev := Event{
		Type: data.Type, Version: data.Version, Pair: data.Pair, Epoch: data.Epoch, Seq: data.Seq, Data: data.Data,
		Recipients: make([]Recipient, len(data.Recipients)),
	}
	var err error
	if ev.EventID, err = parseID("eventId", data.EventID); err != nil {
		return ev, err
	}
	if ev.CommandID, err = parseID("commandId", data.CommandID); err != nil {
		return ev, err
	}
	if ev.AcceptedAt, err = parseTime("acceptedAt", data.AcceptedAt); err != nil {
		return ev, err
	}
	if ev.AppliedAt, err = parseTime("appliedAt", data.AppliedAt); err != nil {
		return ev, err
	}
	for i, r := range data.Recipients {
		if ev.Recipients[i].UserID, err = parseID("userId", r.UserID); err != nil {
			return ev, err
		}
		ev.Recipients[i].InboxSeq = r.InboxSeq
	}
	if data.Version < 1 {
		return ev, malformed("version is not positive")
	}
	if err := checkEvent(ev); err != nil {
		return ev, err
	}
	return ev, checkRecord(rec, data.EventID, data.Type, data.Pair)
}

// checkEvent holds an event against what every reader may rely on.
func checkEvent(ev Event) error {
	if _, err := parsePair(ev.Pair); err != nil {
		return err
	}
	switch {
	case ev.EventID == uuid.Nil || ev.CommandID == uuid.Nil:
		return malformed("eventId or commandId is missing")
	case ev.Type == "":
		return malformed("type is missing")
	case ev.Epoch == "":
		return malformed("epoch is missing")
	case ev.Seq < 1:
		return malformed("seq is not positive")
	case len(ev.Data) == 0 || ev.Data[0] != '{':
		return malformed("data is not an object")
	}
	for _, r := range ev.Recipients {
		if r.UserID == uuid.Nil || r.InboxSeq < 1 {
			return malformed("a recipient has no userId or no positive inboxSeq")
		}
	}
	return nil
}

// Details returns the event's data. Fields that this code does not know are dropped.
func (e Event) Details() (partner.EventData, error) {
	var data partner.EventData
	if err := json.Unmarshal(e.Data, &data); err != nil {
		return data, fmt.Errorf("read data of event %s: %w", e.EventID, err)
	}
	return data, nil
}
