package contract

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

// The ce_type of every record on the couples and on the users topic.
const (
	CoupleType = "couple.state"
	UserType   = "user.state"
)

// State is what the records of the compacted topics have in common. Version rises with
// every record of a key, within an epoch: a reader that keeps the highest is never misled
// by a record that arrives late.
type State struct {
	EventID    uuid.UUID
	Version    int64
	Epoch      string
	AcceptedAt time.Time // when what made it so was accepted, or was due
	AppliedAt  time.Time
	// Erased says that nothing is known of the key any more: the record has no value, and
	// compaction removes what there was (a tombstone).
	Erased bool
}

// Couple is one record on the couples topic: what has become of a pair's latest partnership.
type Couple struct {
	State
	Pair          partner.Pair
	PartnershipID uuid.UUID
	Status        partner.PartnershipStatus
	StartedAt     time.Time
	EndedAt       time.Time // zero while active
	RestoredCount int
}

// User is one record on the users topic. It says nothing by which a person could be known.
type User struct {
	State
	UserID     uuid.UUID
	CreatedDay string // such as 2026-03-01, in UTC
	Tier       string // free or premium
	Locale     string
	Timezone   string
	Status     string // partner.UserStatus
}

// stateJSON is what the data of both says first.
type stateJSON struct {
	EventID       string `json:"eventId"`
	Type          string `json:"type"`
	SchemaVersion int    `json:"schemaVersion"`
	Version       int64  `json:"version"`
	Epoch         string `json:"epoch"`
	AcceptedAt    string `json:"acceptedAt"`
	AppliedAt     string `json:"appliedAt"`
}

type coupleJSON struct {
	stateJSON
	Pair          string   `json:"pair"`
	UserIDs       []string `json:"userIds"`
	PartnershipID string   `json:"partnershipId"`
	Status        string   `json:"status"`
	StartedAt     string   `json:"startedAt"`
	EndedAt       string   `json:"endedAt,omitempty"`
	RestoredCount int      `json:"restoredCount"`
}

type userJSON struct {
	stateJSON
	UserID     string `json:"userId"`
	CreatedDay string `json:"createdDay"`
	Tier       string `json:"tier"`
	Locale     string `json:"locale"`
	Timezone   string `json:"timezone"`
	Status     string `json:"status"`
}

func (s State) json(kind string) stateJSON {
	return stateJSON{
		EventID: s.EventID.String(), Type: kind, SchemaVersion: Version, Version: s.Version, Epoch: s.Epoch,
		AcceptedAt: formatTime(s.AcceptedAt), AppliedAt: formatTime(s.AppliedAt),
	}
}

// record builds the record of a state; data is left out of a tombstone.
func (s State) record(rec Record, of attributes, data any) (Record, error) {
	if s.EventID == uuid.Nil || s.Version < 1 || s.Epoch == "" {
		return Record{}, malformed("eventId, version or epoch is missing")
	}
	of.id, of.source, of.time, of.seq, of.epoch = s.EventID.String(), sourceProcessor, formatTime(s.AppliedAt), s.Version, s.Epoch
	of.empty = s.Erased
	rec.Time, rec.Headers = Instant(s.AppliedAt), of.headers()
	if s.Erased {
		return rec, nil
	}
	value, err := json.Marshal(data)
	rec.Value = value
	return rec, err
}

// EncodeCouple returns the record of a pair on a partition of the couples topic: the one
// of the pair's events.
func EncodeCouple(topic string, partition int, c Couple) (Record, error) {
	data := coupleJSON{
		stateJSON: c.json(CoupleType), Pair: c.Pair.String(), UserIDs: []string{c.Pair.Low.String(), c.Pair.High.String()},
		PartnershipID: c.PartnershipID.String(), Status: c.Status.String(), StartedAt: formatTime(c.StartedAt), RestoredCount: c.RestoredCount,
	}
	if !c.EndedAt.IsZero() {
		data.EndedAt = formatTime(c.EndedAt)
	}
	if c.Pair.Solo() || (!c.Erased && (c.PartnershipID == uuid.Nil || c.StartedAt.IsZero())) {
		return Record{}, fmt.Errorf("encode couple %s: %w", c.Pair, malformed("a couple's record needs two users and a partnership"))
	}
	rec, err := c.record(Record{Topic: topic, Partition: partition, Key: []byte(data.Pair)}, attributes{kind: CoupleType, subject: data.Pair, pair: data.Pair}, data)
	if err != nil {
		return Record{}, fmt.Errorf("encode couple %s: %w", c.Pair, err)
	}
	return rec, nil
}

// EncodeUser returns the record of a user on the users topic of so many partitions.
func EncodeUser(topic string, partitions int, u User) (Record, error) {
	data := userJSON{
		stateJSON: u.json(UserType), UserID: u.UserID.String(), CreatedDay: u.CreatedDay, Tier: u.Tier,
		Locale: u.Locale, Timezone: u.Timezone, Status: u.Status,
	}
	if u.UserID == uuid.Nil || (!u.Erased && u.Status == "") {
		return Record{}, fmt.Errorf("encode user %s: %w", u.UserID, malformed("userId or status is missing"))
	}
	key := []byte(data.UserID)
	rec, err := u.record(Record{Topic: topic, Partition: PartitionOf(key, partitions), Key: key}, attributes{kind: UserType, subject: data.UserID}, data)
	if err != nil {
		return Record{}, fmt.Errorf("encode user %s: %w", u.UserID, err)
	}
	return rec, nil
}

func (s *State) read(rec Record, data stateJSON, kind, key string) error {
	var err error
	if s.EventID, err = parseID("eventId", data.EventID); err != nil {
		return err
	}
	if s.AcceptedAt, err = parseTime("acceptedAt", data.AcceptedAt); err != nil {
		return err
	}
	if s.AppliedAt, err = parseTime("appliedAt", data.AppliedAt); err != nil {
		return err
	}
	if s.Version, s.Epoch = data.Version, data.Epoch; s.Version < 1 || s.Epoch == "" || data.Type != kind {
		return malformed("version, epoch or type is missing")
	}
	return checkRecord(rec, data.EventID, kind, key)
}

// readErased takes from the headers what there is of a record without value.
func (s *State) readErased(rec Record) error {
	s.Erased = true
	if rec.Header("ce_id") == "" {
		return nil // another program's, or a sink dropped the headers
	}
	var err error
	if s.EventID, err = parseID("ce_id", rec.Header("ce_id")); err != nil {
		return err
	}
	if s.AppliedAt, err = parseTime("ce_time", rec.Header("ce_time")); err != nil {
		return err
	}
	s.Epoch = rec.Header("ce_epoch")
	if s.Version, err = parseSeq(rec.Header("ce_seq")); err != nil {
		return err
	}
	return nil
}

// DecodeCouple reads a record of the couples topic.
func DecodeCouple(rec Record) (Couple, error) {
	c, err := coupleOf(rec)
	if err != nil {
		return Couple{}, fmt.Errorf("decode couple: %w", err)
	}
	return c, nil
}

func coupleOf(rec Record) (c Couple, err error) {
	if c.Pair, err = parsePair(string(rec.Key)); err != nil {
		return c, err
	}
	if rec.Value == nil {
		return c, c.readErased(rec)
	}
	var data coupleJSON
	if err := unmarshal(rec.Value, &data); err != nil {
		return c, err
	}
	if err := c.read(rec, data.stateJSON, CoupleType, data.Pair); err != nil {
		return c, err
	}
	if c.PartnershipID, err = parseID("partnershipId", data.PartnershipID); err != nil {
		return c, err
	}
	var known bool
	if c.Status, known = partner.ParsePartnershipStatus(data.Status); !known {
		return c, malformed("status is none of a partnership")
	}
	if c.StartedAt, err = parseTime("startedAt", data.StartedAt); err != nil {
		return c, err
	}
	if data.EndedAt != "" {
		if c.EndedAt, err = parseTime("endedAt", data.EndedAt); err != nil {
			return c, err
		}
	}
	c.RestoredCount = data.RestoredCount
	return c, nil
}

// DecodeUser reads a record of the users topic.
func DecodeUser(rec Record) (User, error) {
	u, err := userOf(rec)
	if err != nil {
		return User{}, fmt.Errorf("decode user: %w", err)
	}
	return u, nil
}

func userOf(rec Record) (u User, err error) {
	if u.UserID, err = parseID("key", string(rec.Key)); err != nil {
		return u, err
	}
	if rec.Value == nil {
		return u, u.readErased(rec)
	}
	var data userJSON
	if err := unmarshal(rec.Value, &data); err != nil {
		return u, err
	}
	if data.Status == "" || data.CreatedDay == "" {
		return u, malformed("status or createdDay is missing")
	}
	u.CreatedDay, u.Tier, u.Locale, u.Timezone, u.Status = data.CreatedDay, data.Tier, data.Locale, data.Timezone, data.Status
	return u, u.read(rec, data.stateJSON, UserType, data.UserID)
}
