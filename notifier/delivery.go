package notifier

import (
	"bytes"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// push is an event as it concerns one user, before it is known on which devices.
type push struct {
	user    uuid.UUID
	event   uuid.UUID
	seq     int64
	kind    partner.EventType
	expires time.Time
	payload payload
}

// payload is what a row keeps for its message. It is decided once, when the event is
// read: a later release sends what this one decided.
type payload struct {
	Data       map[string]string `json:"data"`
	Text       textKey           `json:"text"`
	Category   string            `json:"category"`
	CollapseID string            `json:"collapseId"`
	High       bool              `json:"high,omitempty"`
	Quietly    bool              `json:"quietly,omitempty"` // the statements look whether it is there
	AppliedAt  time.Time         `json:"appliedAt"`
}

// delivery is a row of push_deliveries to insert.
type delivery struct {
	id     uuid.UUID
	device uuid.UUID
	push
}

// deliveryID derives from event and device, so that an event that is read again makes no
// second delivery (G6).
func deliveryID(event, device uuid.UUID) uuid.UUID { return uuid.NewSHA1(event, device[:]) }

// fate says what became of an event at the consumer; the values are metric labels.
type fate string

const (
	fatePushed    fate = "pushed"     // at least one recipient is to get a push, on whatever devices they have
	fateNotPushed fate = "not_pushed" // by the rules, or everyone's own doing
	fateSilent    fate = "silent"
	fateExpired   fate = "expired" // read too late for anyone to care
	fateUnknown   fate = "unknown" // a type or version of a newer program
	fateMalformed fate = "malformed"
)

// pushesOf returns the pushes that an event asks for.
func pushesOf(rules map[partner.EventType]rule, ev contract.Event, now time.Time) ([]push, fate, error) {
	kind, ok := partner.ParseEventType(ev.Type)
	if !ok {
		return nil, fateUnknown, nil
	}
	r := rules[kind]
	if !r.pushed {
		return nil, fateNotPushed, nil
	}
	data, err := ev.Details()
	if err != nil {
		return nil, fateMalformed, err
	}
	if data.Silent {
		return nil, fateSilent, nil
	}
	expires := ev.AppliedAt.Add(r.ttl)
	if !now.Before(expires) {
		return nil, fateExpired, nil
	}
	var out []push
	for _, to := range ev.Recipients {
		if own(data, to.UserID) {
			continue
		}
		out = append(out, push{
			user: to.UserID, event: ev.EventID, seq: to.InboxSeq, kind: kind, expires: expires,
			payload: payload{
				Data: map[string]string{
					"v": "1", "eventId": ev.EventID.String(), "seq": strconv.FormatInt(to.InboxSeq, 10),
					"epoch": ev.Epoch, "type": ev.Type, "link": linkOf(kind, data),
				},
				Text: r.text, Category: string(kind.Category()), CollapseID: r.collapseID(ev.EventID, data), High: r.high, Quietly: r.quietly,
				AppliedAt: ev.AppliedAt,
			},
		})
	}
	if len(out) == 0 {
		return nil, fateNotPushed, nil
	}
	return out, fatePushed, nil
}

// sorted returns the deliveries of pushes on the devices of their users, in the order of
// their ids and each once: two notifiers that insert the same rows after a takeover then
// wait for each other in one order.
func sorted(pushes []push, devices map[uuid.UUID][]uuid.UUID) []delivery {
	var out []delivery
	for _, p := range pushes {
		for _, device := range devices[p.user] {
			out = append(out, delivery{id: deliveryID(p.event, device), device: device, push: p})
		}
	}
	slices.SortFunc(out, func(a, b delivery) int { return bytes.Compare(a.id[:], b.id[:]) })
	return slices.CompactFunc(out, func(a, b delivery) bool { return a.id == b.id })
}
