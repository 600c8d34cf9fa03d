package processor

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// What events.topic says: where the relay writes the row.
const (
	toEvents     int16 = 1
	toCommands   int16 = 2 // a follow-up command
	toDeadLetter int16 = 3
)

// row is one row of events: a record that is due on a topic.
type row struct {
	partition   int
	seq         int64
	topic       int16
	id          uuid.UUID
	kind        int16
	commandID   uuid.UUID
	pair        partner.Pair
	lowSeq      int64 // zero: low is not a recipient
	highSeq     int64
	other       uuid.UUID
	otherSeq    int64
	acceptedAt  time.Time
	appliedAt   time.Time
	data        string
	traceparent string
}

// followUp is the data of a row that is a follow-up command: what the row's columns do
// not say. A follow-up has no texts.
type followUp struct {
	Issuer        uuid.UUID `json:"issuer"`
	Cause         uuid.UUID `json:"cause"`
	Fingerprint   []byte    `json:"fingerprint"`
	RequestID     uuid.UUID `json:"requestId"`
	PartnershipID uuid.UUID `json:"partnershipId"`
	Fresh         bool      `json:"fresh,omitempty"`
	Quiet         bool      `json:"quiet,omitempty"`
	More          bool      `json:"more,omitempty"`
}

// deadLetter is the data of a row that is a dead letter; the bytes of the record itself
// are in dead_letters.
type deadLetter struct {
	Topic     string `json:"topic"`
	Partition int    `json:"partition"`
	Offset    int64  `json:"offset"`
	Error     string `json:"error"`
	Key       []byte `json:"key,omitempty"`
}

func newFollowUp(cmd partner.Command, causedBy uuid.UUID) (row, error) {
	data, err := json.Marshal(followUp{
		Issuer: cmd.Issuer, Cause: cmd.Cause, Fingerprint: cmd.Fingerprint[:],
		RequestID: cmd.RequestID, PartnershipID: cmd.PartnershipID, Fresh: cmd.Fresh, Quiet: cmd.Quiet, More: cmd.More,
	})
	if err != nil {
		return row{}, fmt.Errorf("encode follow-up %s: %w", cmd.ID, err)
	}
	return row{
		topic: toCommands, id: cmd.ID, kind: int16(cmd.Type), commandID: causedBy, pair: cmd.Pair,
		acceptedAt: contract.Instant(cmd.AcceptedAt), data: string(data),
	}, nil
}

func newDeadLetter(d contract.DeadLetter) (row, error) {
	data, err := json.Marshal(deadLetter{d.Topic, d.Partition, d.Offset, d.Error, d.Key})
	if err != nil {
		return row{}, fmt.Errorf("encode dead letter of %s/%d/%d: %w", d.Topic, d.Partition, d.Offset, err)
	}
	return row{topic: toDeadLetter, id: d.ID(), commandID: d.ID(), acceptedAt: contract.Instant(d.Time), data: string(data)}, nil
}

// record builds what goes onto the topic. It depends on the row and the epoch alone, so
// that what is published from memory and what is read from the table are the same bytes.
func (r row) record(t contract.Topics, partitions int, epoch string) (contract.Record, error) {
	switch r.topic {
	case toEvents:
		ev := contract.Event{
			EventID: r.id, Type: partner.EventType(r.kind).String(), CommandID: r.commandID,
			Pair: r.pair.String(), Epoch: epoch, Seq: r.seq, AcceptedAt: r.acceptedAt, AppliedAt: r.appliedAt,
			Recipients: make([]contract.Recipient, 0, 2), Data: json.RawMessage(r.data), Traceparent: r.traceparent,
		}
		for _, to := range []contract.Recipient{{UserID: r.pair.Low, InboxSeq: r.lowSeq}, {UserID: r.pair.High, InboxSeq: r.highSeq}, {UserID: r.other, InboxSeq: r.otherSeq}} {
			if to.InboxSeq > 0 {
				ev.Recipients = append(ev.Recipients, to)
			}
		}
		return contract.EncodeEvent(t.Events, r.partition, ev)
	case toCommands:
		var f followUp
		if err := json.Unmarshal([]byte(r.data), &f); err != nil {
			return contract.Record{}, fmt.Errorf("read follow-up %s: %w", r.id, err)
		}
		cmd := partner.Command{
			ID: r.id, Type: partner.CommandType(r.kind), Issuer: f.Issuer, Pair: r.pair, AcceptedAt: r.acceptedAt,
			Cause: f.Cause, RequestID: f.RequestID, PartnershipID: f.PartnershipID, Fresh: f.Fresh, Quiet: f.Quiet, More: f.More,
		}
		copy(cmd.Fingerprint[:], f.Fingerprint)
		return contract.EncodeCommand(t, partitions, cmd, r.traceparent)
	case toDeadLetter:
		var d deadLetter
		if err := json.Unmarshal([]byte(r.data), &d); err != nil {
			return contract.Record{}, fmt.Errorf("read dead letter %s: %w", r.id, err)
		}
		return contract.EncodeDeadLetter(t.DeadLetter, r.partition, contract.DeadLetter{
			Topic: d.Topic, Partition: d.Partition, Offset: d.Offset, Error: d.Error, Key: d.Key, Time: r.acceptedAt,
		})
	default:
		return contract.Record{}, fmt.Errorf("event %d/%d is for topic number %d", r.partition, r.seq, r.topic)
	}
}
