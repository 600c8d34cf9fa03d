package partner

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// Stored is what the tables hold of a pair, without any text.
type Stored struct {
	Requests     []Request
	Partnerships []Partnership
	Breakups     []Breakup
	Low, High    Side
	// Deleting says that one of the two has deleted the account.
	Deleting bool
}

// Horizon says which events there still are.
type Horizon struct {
	// Complete: every event of the pair. Since does not count then.
	Complete bool
	// Since is a time by which whatever began may have had its event removed. The event of
	// what began later is there.
	Since time.Time
	// Skew is by how much a decision's time may be later than its command's, because of a
	// change of the pair whose event was removed: clocks differ, and calls overtake each other.
	Skew time.Duration
}

// Difference is one thing that events and tables tell differently.
type Difference struct {
	What   string `json:"what"`  // such as "partnership 0190…"
	Field  string `json:"field"` // "row" when one of the two does not know it at all
	Events string `json:"events"`
	Tables string `json:"tables"`
}

func (d Difference) String() string {
	return fmt.Sprintf("%s: %s is %s by the events and %s in the tables", d.What, d.Field, d.Events, d.Tables)
}

// Compare returns where a history and the tables differ, and of what the events were
// removed so far that they cannot be compared: no difference is claimed there.
func Compare(h History, stored Stored, horizon Horizon) (differences []Difference, dropped []string) {
	c := comparison{horizon: horizon}
	for _, r := range h.Requests {
		c.request(r, find(stored.Requests, func(o Request) bool { return o.ID == r.ID }))
	}
	for _, r := range stored.Requests {
		c.untold("request "+r.ID.String(), r.CreatedAt, r.Status.String(),
			slices.ContainsFunc(h.Requests, func(o PastRequest) bool { return o.ID == r.ID }))
	}
	for _, p := range h.Partnerships {
		c.partnership(p, find(stored.Partnerships, func(o Partnership) bool { return o.ID == p.ID }))
	}
	for _, p := range stored.Partnerships {
		c.untold("partnership "+p.ID.String(), p.StartedAt, p.Status.String(),
			slices.ContainsFunc(h.Partnerships, func(o PastPartnership) bool { return o.ID == p.ID }))
	}
	for _, b := range h.Breakups {
		c.breakup(b, find(stored.Breakups, func(o Breakup) bool { return o.ID == b.ID }))
	}
	for _, b := range stored.Breakups {
		c.untold("breakup "+b.ID.String(), b.CreatedAt, b.Status.String(),
			slices.ContainsFunc(h.Breakups, func(o PastBreakup) bool { return o.ID == b.ID }))
	}
	before := len(c.differences)
	c.side(h.Pair.Low, h.Low, stored.Low)
	c.side(h.Pair.High, h.High, stored.High)
	// That a deleted user's pair was closed, and all sides forgotten, was not always told.
	if stored.Deleting && !h.Closed && len(c.differences) > before {
		c.differences, c.dropped = c.differences[:before], append(c.dropped, "sides")
	}
	return c.differences, c.dropped
}

func find[T any](all []T, is func(T) bool) *T {
	if i := slices.IndexFunc(all, is); i >= 0 {
		return &all[i]
	}
	return nil
}

type comparison struct {
	horizon     Horizon
	differences []Difference
	dropped     []string
}

// gone reports whether the event of what began at that time may have been removed.
func (c *comparison) gone(begun time.Time) bool {
	return !c.horizon.Complete && !begun.After(c.horizon.Since)
}

// untold takes a row that no event tells of.
func (c *comparison) untold(what string, begun time.Time, status string, told bool) {
	switch {
	case told:
	case c.gone(begun):
		c.dropped = append(c.dropped, what)
	default:
		c.differences = append(c.differences, Difference{What: what, Field: "row", Events: "nothing", Tables: status})
	}
}

// matched reports whether all fields of what events and tables both know can be compared;
// when they do not know the same things, that is the difference.
func (c *comparison) matched(what string, status string, told, stored bool, begun time.Time) bool {
	switch {
	case !stored:
		c.differences = append(c.differences, Difference{What: what, Field: "row", Events: status, Tables: "nothing"})
	case told:
		return true
	case c.gone(begun):
		c.dropped = append(c.dropped, what)
	default:
		c.differences = append(c.differences, Difference{What: what, Field: "beginning", Events: "nothing", Tables: show(begun)})
	}
	return false
}

func (c *comparison) request(told PastRequest, stored *Request) {
	what := "request " + told.ID.String()
	var o Request
	if stored != nil {
		o = *stored
	}
	all := c.matched(what, told.Status.String(), told.Begun, stored != nil, o.CreatedAt)
	if stored == nil {
		return
	}
	c.field(what, "status", told.Status.String(), o.Status.String())
	if !all {
		return
	}
	c.field(what, "sender", told.Sender.String(), o.Sender.String())
	c.field(what, "target", told.Target.String(), o.Target.String())
	c.decided(what, "createdAt", told.CreatedAt, o.CreatedAt)
	c.field(what, "expiresAt", show(told.ExpiresAt), show(o.ExpiresAt))
	c.decided(what, "resolvedAt", told.ResolvedAt, o.ResolvedAt)
}

func (c *comparison) partnership(told PastPartnership, stored *Partnership) {
	what := "partnership " + told.ID.String()
	var o Partnership
	if stored != nil {
		o = *stored
	}
	all := c.matched(what, told.Status.String(), told.Begun, stored != nil, o.StartedAt)
	if stored == nil {
		return
	}
	c.field(what, "status", told.Status.String(), o.Status.String())
	if !told.EndedAt.IsZero() || all {
		c.field(what, "endedAt", show(told.EndedAt), show(o.EndedAt))
		c.field(what, "restorableUntil", show(told.RestorableUntil), show(o.RestorableUntil))
		c.field(what, "quiet", strconv.FormatBool(told.Quiet), strconv.FormatBool(o.Quiet))
	}
	if !all {
		return
	}
	c.field(what, "startedAt", show(told.StartedAt), show(o.StartedAt))
	c.field(what, "restoredCount", strconv.Itoa(told.RestoredCount), strconv.Itoa(o.RestoredCount))
	c.field(what, "endedBy", showID(told.EndedBy), showID(o.EndedBy))
	if told.Status != PartnershipActive {
		c.field(what, "lowSlot", strconv.Itoa(int(told.LowSlot)), strconv.Itoa(int(o.LowSlot)))
		c.field(what, "highSlot", strconv.Itoa(int(told.HighSlot)), strconv.Itoa(int(o.HighSlot)))
	}
}

func (c *comparison) breakup(told PastBreakup, stored *Breakup) {
	what := "breakup " + told.ID.String()
	var o Breakup
	if stored != nil {
		o = *stored
	}
	all := c.matched(what, told.Status.String(), told.Begun, stored != nil, o.CreatedAt)
	if stored == nil {
		return
	}
	c.field(what, "status", told.Status.String(), o.Status.String())
	if !all {
		return
	}
	c.field(what, "partnershipId", showID(told.PartnershipID), showID(o.PartnershipID))
	c.field(what, "asker", showID(told.Asker), showID(o.Asker))
	c.decided(what, "createdAt", told.CreatedAt, o.CreatedAt)
	c.field(what, "expiresAt", show(told.ExpiresAt), show(o.ExpiresAt))
	c.decided(what, "resolvedAt", told.ResolvedAt, o.ResolvedAt)
}

func (c *comparison) side(owner uuid.UUID, told PastSide, stored Side) {
	what := "side of " + owner.String()
	part := func(name string, certain bool, compare func()) {
		if certain {
			compare()
		} else {
			c.dropped = append(c.dropped, what+": "+name)
		}
	}
	part("block", told.Told.Blocked, func() { c.decided(what, "blockedAt", told.BlockedAt, stored.BlockedAt) })
	part("door", told.Told.Door, func() { c.decided(what, "doorClosedAt", told.DoorClosedAt, stored.DoorClosedAt) })
	part("forfeit", told.Told.Forfeited, func() { c.field(what, "forfeited", showID(told.Forfeited), showID(stored.Forfeited)) })
	part("declines", told.Told.Declines, func() {
		c.field(what, "declines", strconv.Itoa(told.Declines), strconv.Itoa(stored.Declines))
		c.decided(what, "lastDeclinedAt", told.LastDeclined, stored.LastDeclined)
	})
}

// decided compares a decision's time, which events do not carry.
func (c *comparison) decided(what, field string, told, stored time.Time) {
	if late := stored.Sub(told); !c.horizon.Complete && !told.IsZero() && late >= 0 && late <= c.horizon.Skew {
		return
	}
	c.field(what, field, show(told), show(stored))
}

func (c *comparison) field(what, field, events, tables string) {
	if events != tables {
		c.differences = append(c.differences, Difference{What: what, Field: field, Events: events, Tables: tables})
	}
}

func show(t time.Time) string {
	if t.IsZero() {
		return "none"
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func showID(id uuid.UUID) string {
	if id == uuid.Nil {
		return "none"
	}
	return id.String()
}
