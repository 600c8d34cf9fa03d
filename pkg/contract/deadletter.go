package contract

import (
	"cmp"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// DeadLetterType is the ce_type of every dead-letter record.
const DeadLetterType = "record.deadlettered"

// DeadLetter says which record could not be read and why. The record's bytes are not
// part of it: they may hold what people wrote to each other, and stay in the database.
type DeadLetter struct {
	Topic     string
	Partition int
	Offset    int64
	Error     string
	Time      time.Time // when it was set aside
	Key       []byte    // the source record's key: not in the data, only the record's own key
	By        string    // who could not read it; empty is ByProcessor
}

// Who sets records aside, as ce_source names them.
const (
	ByProcessor = sourceProcessor
	ByNotifier  = sourceNotifier
)

type deadLetterJSON struct {
	DeadLetterID string `json:"deadLetterId"`
	Type         string `json:"type"`
	Version      int    `json:"version"`
	Topic        string `json:"topic"`
	Partition    int    `json:"partition"`
	Offset       int64  `json:"offset"`
	Error        string `json:"error"`
	Time         string `json:"time"`
}

// ID returns the dead letter's id. It derives from the record's place, so setting one
// record aside twice gives one dead letter.
func (d DeadLetter) ID() uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceURL, fmt.Appendf(nil, "%s/%d/%d", d.Topic, d.Partition, d.Offset))
}

// EncodeDeadLetter returns the record of a dead letter for a partition of the dead-letter
// topic.
func EncodeDeadLetter(topic string, partition int, d DeadLetter) (Record, error) {
	data := deadLetterJSON{
		DeadLetterID: d.ID().String(), Type: DeadLetterType, Version: Version,
		Topic: d.Topic, Partition: d.Partition, Offset: d.Offset, Error: d.Error, Time: formatTime(d.Time),
	}
	value, err := json.Marshal(data)
	if err != nil {
		return Record{}, fmt.Errorf("encode dead letter of %s/%d/%d: %w", d.Topic, d.Partition, d.Offset, err)
	}
	return Record{
		Topic: topic, Partition: partition, Time: Instant(d.Time), Key: d.Key, Value: value,
		Headers: attributes{id: data.DeadLetterID, kind: data.Type, source: cmp.Or(d.By, ByProcessor), time: data.Time}.headers(),
	}, nil
}

// DecodeDeadLetter reads a record of the dead-letter topic.
func DecodeDeadLetter(rec Record) (DeadLetter, error) {
	var data deadLetterJSON
	if err := unmarshal(rec.Value, &data); err != nil {
		return DeadLetter{}, fmt.Errorf("decode dead letter: %w", err)
	}
	at, err := parseTime("time", data.Time)
	if err != nil {
		return DeadLetter{}, fmt.Errorf("decode dead letter: %w", err)
	}
	if data.Topic == "" || data.Partition < 0 || data.Offset < 0 {
		return DeadLetter{}, fmt.Errorf("decode dead letter: %w", malformed("topic, partition or offset is missing"))
	}
	return DeadLetter{
		Topic: data.Topic, Partition: data.Partition, Offset: data.Offset, Error: data.Error, Time: at, Key: rec.Key,
		By: rec.Header("ce_source"),
	}, nil
}
