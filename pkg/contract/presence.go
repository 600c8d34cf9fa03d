package contract

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// PresenceType is the ce_type of every record on the presence topic.
const PresenceType = "presence"

// Presence is one record on the presence topic: whether a user who shares that has a socket
// open at one instance of realtime. The same is said again while it stays so; of a user at an
// instance the latest record counts, and a user is online where any instance says so.
type Presence struct {
	UserID   uuid.UUID
	Instance uuid.UUID // of realtime, anew with each start
	Online   bool
	Time     time.Time // online: when it was said; offline: when the last socket there ended
}

type presenceJSON struct {
	EventID  string `json:"eventId"`
	Type     string `json:"type"`
	Version  int    `json:"version"`
	UserID   string `json:"userId"`
	Instance string `json:"instance"`
	Online   bool   `json:"online"`
	Time     string `json:"time"`
}

// ID returns the record's id.
func (p Presence) ID() uuid.UUID {
	return uuid.NewSHA1(p.Instance, []byte(fmt.Sprint(p.UserID, p.Online, formatTime(p.Time))))
}

// EncodePresence returns the record on a presence topic of so many partitions. Its key is the
// user.
func EncodePresence(topic string, partitions int, p Presence) (Record, error) {
	if p.UserID == uuid.Nil || p.Instance == uuid.Nil {
		return Record{}, fmt.Errorf("encode presence: %w", malformed("userId or instance is missing"))
	}
	data := presenceJSON{
		EventID: p.ID().String(), Type: PresenceType, Version: Version,
		UserID: p.UserID.String(), Instance: p.Instance.String(), Online: p.Online, Time: formatTime(p.Time),
	}
	value, err := json.Marshal(data)
	if err != nil {
		return Record{}, fmt.Errorf("encode presence of %s: %w", p.UserID, err)
	}
	key := []byte(data.UserID)
	return Record{
		Topic: topic, Partition: PartitionOf(key, partitions), Time: Instant(p.Time), Key: key, Value: value,
		Headers: attributes{id: data.EventID, kind: data.Type, source: sourceRealtime, time: data.Time, subject: data.UserID}.headers(),
	}, nil
}

// DecodePresence reads a record of the presence topic. One of another type is ErrUnknown.
func DecodePresence(rec Record) (Presence, error) {
	var data presenceJSON
	if err := unmarshal(rec.Value, &data); err != nil {
		return Presence{}, fmt.Errorf("decode presence record: %w", err)
	}
	if data.Type != PresenceType && data.Type != "" {
		return Presence{}, fmt.Errorf("decode presence record: %w", ErrUnknown)
	}
	p, err := presenceOf(rec, data)
	if err != nil {
		return Presence{}, fmt.Errorf("decode presence record: %w", err)
	}
	return p, nil
}

func presenceOf(rec Record, data presenceJSON) (p Presence, err error) {
	if data.Type == "" || data.Version < 1 {
		return p, malformed("type is missing or version is not positive")
	}
	if p.UserID, err = parseID("userId", data.UserID); err != nil {
		return p, err
	}
	if p.Instance, err = parseID("instance", data.Instance); err != nil {
		return p, err
	}
	if p.Time, err = parseTime("time", data.Time); err != nil {
		return p, err
	}
	if p.Online = data.Online; data.EventID != p.ID().String() {
		return p, malformed("eventId is not that of what the record says")
	}
	return p, checkRecord(rec, data.EventID, data.Type, data.UserID)
}
