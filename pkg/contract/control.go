package contract

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// SessionRevokedType is the ce_type of every record on the control topic.
const SessionRevokedType = "session.revoked"

// Why a session ended, as the records on the control topic say. Readers close its sockets
// whatever it says, words that they do not know too.
const (
	RevokedByLogout   = "logout"  // it, or all of the account's, by its owner
	RevokedByOwner    = "revoked" // from the list of sessions
	RevokedByPassword = "password_changed"
	RevokedByReset    = "password_reset"
	RevokedByReplay   = "replayed"  // an old refresh token of it was used
	RevokedByLimit    = "too_many"  // a newer session took its place
	RevokedBySuspend  = "suspended" // by an operator
)

// SessionRevoked is one record on the control topic: a session has ended before its time,
// and that is committed. It repeats what the database says, so that nobody has to ask it: who
// misses the record finds the session ended there.
type SessionRevoked struct {
	UserID    uuid.UUID
	SessionID uuid.UUID
	Reason    string
	Time      time.Time
}

type sessionRevokedJSON struct {
	EventID   string `json:"eventId"`
	Type      string `json:"type"`
	Version   int    `json:"version"`
	UserID    string `json:"userId"`
	SessionID string `json:"sessionId"`
	Reason    string `json:"reason"`
	Time      string `json:"time"`
}

// ID returns the record's id. It derives from the session, which ends once.
func (r SessionRevoked) ID() uuid.UUID { return uuid.NewSHA1(r.SessionID, []byte(SessionRevokedType)) }

func (r SessionRevoked) check() error {
	switch {
	case r.UserID == uuid.Nil || r.SessionID == uuid.Nil:
		return malformed("userId or sessionId is missing")
	case r.Reason == "":
		return malformed("reason is missing")
	}
	return nil
}

// EncodeSessionRevoked returns the record of a session's end on a control topic of so many
// partitions. Its key is the user.
func EncodeSessionRevoked(topic string, partitions int, r SessionRevoked) (Record, error) {
	if err := r.check(); err != nil {
		return Record{}, fmt.Errorf("encode end of session %s: %w", r.SessionID, err)
	}
	data := sessionRevokedJSON{
		EventID: r.ID().String(), Type: SessionRevokedType, Version: Version,
		UserID: r.UserID.String(), SessionID: r.SessionID.String(), Reason: r.Reason, Time: formatTime(r.Time),
	}
	value, err := json.Marshal(data)
	if err != nil {
		return Record{}, fmt.Errorf("encode end of session %s: %w", r.SessionID, err)
	}
	key := []byte(data.UserID)
	return Record{
		Topic: topic, Partition: PartitionOf(key, partitions), Time: Instant(r.Time), Key: key, Value: value,
		Headers: attributes{id: data.EventID, kind: data.Type, source: sourceIngest, time: data.Time, subject: data.UserID}.headers(),
	}, nil
}

// DecodeSessionRevoked reads a record of the control topic. One of another type is ErrUnknown.
func DecodeSessionRevoked(rec Record) (SessionRevoked, error) {
	var data sessionRevokedJSON
	if err := unmarshal(rec.Value, &data); err != nil {
		return SessionRevoked{}, fmt.Errorf("decode control record: %w", err)
	}
	if data.Type != SessionRevokedType && data.Type != "" {
		return SessionRevoked{}, fmt.Errorf("decode control record: %w", ErrUnknown)
	}
	r, err := sessionRevokedOf(rec, data)
	if err != nil {
		return SessionRevoked{}, fmt.Errorf("decode control record: %w", err)
	}
	return r, nil
}

func sessionRevokedOf(rec Record, data sessionRevokedJSON) (r SessionRevoked, err error) {
	if data.Type == "" || data.Version < 1 {
		return r, malformed("type is missing or version is not positive")
	}
	if r.UserID, err = parseID("userId", data.UserID); err != nil {
		return r, err
	}
	if r.SessionID, err = parseID("sessionId", data.SessionID); err != nil {
		return r, err
	}
	if r.Time, err = parseTime("time", data.Time); err != nil {
		return r, err
	}
	if r.Reason = data.Reason; data.EventID != r.ID().String() {
		return r, malformed("eventId is not that of the session's end")
	}
	if err := r.check(); err != nil {
		return r, err
	}
	return r, checkRecord(rec, data.EventID, data.Type, data.UserID)
}
