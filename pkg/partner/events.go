package partner

import (
	"bytes"
	"slices"
	"strconv"

	"github.com/google/uuid"
)

// RequestIDOf returns the id of the request that a Send with this id makes, unless the
// Send crosses another request.
func RequestIDOf(commandID uuid.UUID) uuid.UUID { return uuid.NewSHA1(commandID, []byte("request")) }

// PartnershipIDOf returns the id of the partnership that a command with this id starts,
// unless it restores one.
func PartnershipIDOf(commandID uuid.UUID) uuid.UUID {
	return uuid.NewSHA1(commandID, []byte("partnership"))
}

// BreakupIDOf returns the id of the breakup that an AskBreakup with this id makes, unless
// the other has asked already.
func BreakupIDOf(commandID uuid.UUID) uuid.UUID { return uuid.NewSHA1(commandID, []byte("breakup")) }

// EventID returns the id of a command's event by its index among the command's events.
func EventID(commandID uuid.UUID, index int) uuid.UUID {
	return uuid.NewSHA1(commandID, strconv.AppendInt([]byte("event/"), int64(index), 10))
}

// MismatchEventID returns the id of the event that says that a command's id was used
// again with another fingerprint.
func MismatchEventID(commandID uuid.UUID, fingerprint [16]byte) uuid.UUID {
	return uuid.NewSHA1(commandID, append([]byte("mismatch/"), fingerprint[:]...))
}

// FollowUpID returns the id of the follow-up that an event causes for a target, the
// request or the user that it concerns.
func FollowUpID(event, target uuid.UUID) uuid.UUID { return uuid.NewSHA1(event, target[:]) }

// emit appends an event for an audience and returns its id. A user who does not exist has
// no inbox and is left out.
func (t *turn) emit(kind EventType, origin uuid.UUID, data EventData, audience ...uuid.UUID) uuid.UUID {
	recipients := make([]uuid.UUID, 0, len(audience))
	for _, id := range audience {
		if t.users[id].Status != UserUnknown && !slices.Contains(recipients, id) {
			recipients = append(recipients, id)
		}
	}
	slices.SortFunc(recipients, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	return t.append(kind, origin, data, recipients)
}

// append is emit for recipients who are known to exist, in order.
func (t *turn) append(kind EventType, origin uuid.UUID, data EventData, recipients []uuid.UUID) uuid.UUID {
	id := EventID(t.cmd.ID, len(t.decision.Events))
	t.decision.Events = append(t.decision.Events, Event{
		ID: id, Type: kind, CommandID: t.cmd.ID, Pair: t.cmd.Pair,
		Recipients: recipients, Origin: origin, At: t.now, Data: data,
	})
	return id
}
