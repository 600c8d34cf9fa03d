package partner

import "github.com/google/uuid"

// reject ends the decision with a code that the issuer, and nobody else, is told.
func (t *turn) reject(code Code) Outcome {
	t.emit(EventCommandRejected, t.cmd.Issuer, rejectionData(t.cmd, code), t.cmd.Issuer)
	return Outcome{Code: code}
}

// RejectStale is the decision on a user's command that came into the log so late that its
// issuer was never told that it was accepted. It needs no state and changes none.
func RejectStale(cmd Command) Decision {
	return rejection(cmd, CodeStale, EventID(cmd.ID, 0))
}

// RejectMismatch is the decision on a command whose id was used before with another
// fingerprint. The outcome of the first stays as it is: this one only appends an event.
// It needs no state and changes none.
func RejectMismatch(cmd Command) Decision {
	return rejection(cmd, CodeIdempotencyMismatch, MismatchEventID(cmd.ID, cmd.Fingerprint))
}

func rejection(cmd Command, code Code, eventID uuid.UUID) Decision {
	return Decision{
		Now:     cmd.AcceptedAt,
		Outcome: Outcome{Code: code},
		Events: []Event{{
			ID: eventID, Type: EventCommandRejected, CommandID: cmd.ID, Pair: cmd.Pair,
			Recipients: []uuid.UUID{cmd.Issuer}, Origin: cmd.Issuer, At: cmd.AcceptedAt,
			Data: rejectionData(cmd, code),
		}},
	}
}

// rejectionData names the request too, also the one that a Send would have made: its id
// was told at once, and an app may already show it.
func rejectionData(cmd Command, code Code) EventData {
	data := EventData{Code: code, Command: cmd.Type.String()}
	switch {
	case cmd.Type == Send:
		id := RequestIDOf(cmd.ID)
		data.RequestID = &id
	case cmd.RequestID != uuid.Nil:
		id := cmd.RequestID
		data.RequestID = &id
	}
	return data
}

// RejectWaiting is the decision on a command that waited on a parked pair and will not be
// decided on: an operator dropped it, or one of the two left. A follow-up is rejected for
// nobody, and one that brings the next round of its kind brings it all the same: what it
// is part of must not end with it. It needs no state and changes none.
func RejectWaiting(cmd Command, code Code) Decision {
	d := rejection(cmd, code, EventID(cmd.ID, 0))
	if !cmd.FollowUp() {
		return d
	}
	d.Events[0].Recipients = nil
	if cmd.More {
		t := turn{cmd: cmd, now: cmd.AcceptedAt}
		switch cmd.Type {
		case ClosePair:
			t.followUpErase(d.Events[0].ID)
		default:
			t.followUpSweep(cmd.Issuer, d.Events[0].ID)
		}
		d.FollowUps = t.decision.FollowUps
	}
	return d
}
