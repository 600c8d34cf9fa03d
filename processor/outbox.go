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
	toUsers      int16 = 4
	toCouples    int16 = 5
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

// records adds what goes onto the topics. It depends on the row and the epoch alone, so
// that what is published from memory and what is read from the table are the same bytes.
func (r row) records(to []contract.Record, t contract.Topics, partitions int, epoch string) ([]contract.Record, error) {
	switch r.topic {
	case toUsers:
		rec, err := r.user(t, partitions, epoch)
		return append(to, rec), err
	case toCouples:
		rec, err := r.couple(t, epoch)
		return append(to, rec), err
	}
	rec, err := r.record(t, partitions, epoch)
	if err != nil {
		return to, err
	}
	to = append(to, rec)
	if !r.endsOrBegins() {
		return to, nil
	}
	if rec, err = r.couple(t, epoch); err != nil || rec.Key == nil {
		return to, err
	}
	return append(to, rec), nil
}

// endsOrBegins reports whether the row is an event that changes what is told of a couple.
func (r row) endsOrBegins() bool {
	if r.topic != toEvents {
		return false
	}
	switch partner.EventType(r.kind) {
	case partner.EventPartnershipStarted, partner.EventPartnershipEnded, partner.EventPartnershipArchived:
		return true
	default:
		return false
	}
}

// state is what the records of the compacted topics have in common. The version is the
// row's place in the partition's sequence, where all of a key's rows are.
func (r row) state(epoch string) contract.State {
	return contract.State{
		EventID: uuid.NewSHA1(r.id, []byte("state")), Version: r.seq, Epoch: epoch, AcceptedAt: r.acceptedAt, AppliedAt: r.appliedAt,
		Erased: r.data == "null",
	}
}

func (r row) user(t contract.Topics, partitions int, epoch string) (contract.Record, error) {
	var u userState
	if err := json.Unmarshal([]byte(r.data), &u); err != nil {
		return contract.Record{}, fmt.Errorf("read state of user %s: %w", r.pair.Low, err)
	}
	return contract.EncodeUser(t.Users, partitions, contract.User{
		State: r.state(epoch), UserID: r.pair.Low, CreatedDay: u.CreatedDay, Tier: u.Tier, Locale: u.Locale, Timezone: u.Timezone, Status: u.Status,
	})
}

// couple returns the couple's record, or none: of the two events of a quiet ending the
// first one speaks for both, and those of the program before do not say enough.
func (r row) couple(t contract.Topics, epoch string) (contract.Record, error) {
	var c coupleState
	if err := json.Unmarshal([]byte(r.data), &c); err != nil {
		return contract.Record{}, fmt.Errorf("read state of couple %s: %w", r.pair, err)
	}
	couple := contract.Couple{State: r.state(epoch), Pair: r.pair, PartnershipID: c.PartnershipID}
	if couple.Erased {
		return contract.EncodeCouple(t.Couples, r.partition, couple)
	}
	if c.Silent || c.StartedAt == nil || c.RestoredCount == nil {
		return contract.Record{}, nil
	}
	couple.StartedAt, couple.RestoredCount = *c.StartedAt, *c.RestoredCount
	if c.EndedAt != nil {
		couple.EndedAt = *c.EndedAt
	}
	var known bool
	if couple.Status, known = statusAfter(r, c.Status); !known {
		return contract.Record{}, fmt.Errorf("state of couple %s: status %q", r.pair, c.Status)
	}
	return contract.EncodeCouple(t.Couples, r.partition, couple)
}

func statusAfter(r row, named string) (partner.PartnershipStatus, bool) {
	if r.topic == toCouples {
		return partner.ParsePartnershipStatus(named)
	}
	switch partner.EventType(r.kind) {
	case partner.EventPartnershipStarted:
		return partner.PartnershipActive, true
	case partner.EventPartnershipEnded:
		return partner.PartnershipEnded, true
	default:
		return partner.PartnershipArchived, true
	}
}

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
