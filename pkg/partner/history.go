package partner

import (
	"iter"
	"slices"
	"time"

	"github.com/google/uuid"
)

// History is what a pair's events tell of it, and nothing that they do not: no text, no
// nickname, and of an active partnership not the slots that it takes, which only its end
// tells. Evolve adds one event; Compare holds the whole against what is stored.
//
// An event's row carries the time at which its command was accepted, not the decision's.
// A History knows the pair's last change, so it finds the decision's time as Decide did.
type History struct {
	Pair         Pair
	Requests     []PastRequest     // as they were made
	Partnerships []PastPartnership // as they started
	Breakups     []PastBreakup     // as they were asked for
	Low, High    PastSide          // what each has decided about the other
	Closed       bool              // one of the two deleted the account, and all of the pair was ended
	Events       int               // how many it is made of

	command uuid.UUID // whose events come now
	now     time.Time // that command's decision time
}

// PastRequest is a request as events tell it. Begun says that its beginning is among them:
// else only its end is known.
type PastRequest struct {
	Request
	Begun bool
}

// PastPartnership is a partnership as events tell it. Begun says that a start of it, the
// first or a restoration, is among them: else only its end is known.
type PastPartnership struct {
	Partnership
	Begun bool
}

// PastBreakup is a breakup as events tell it; Begun as with PastRequest.
type PastBreakup struct {
	Breakup
	Begun bool
}

// PastSide is a Side as events tell it. They do not tell of nicknames and of each time of
// a send but the last.
type PastSide struct {
	Side
	Told SideFields // which of it is certain
}

// SideFields says of each part of a Side whether the events at hand tell it.
type SideFields struct{ Blocked, Door, Forfeited, Declines bool }

// NewHistory returns the history of a pair before its first event. It is complete when no
// event of the pair was removed before that: then what has not been told has not been.
func NewHistory(pair Pair, complete bool) History {
	told := SideFields{Blocked: complete, Door: complete, Forfeited: complete, Declines: complete}
	return History{Pair: pair, Low: PastSide{Told: told}, High: PastSide{Told: told}}
}

// Replay folds a pair's events, in the order of their partition's sequence and each once.
func Replay(h History, events iter.Seq[Event]) History {
	for e := range events {
		h = Evolve(h, e)
	}
	return h
}

// Evolve returns the history with one more event, whose At is when its command was
// accepted. It is pure: h is not changed. Types that it does not know change nothing.
func Evolve(h History, e Event) History {
	h.Events++
	if e.CommandID != h.command {
		h.command, h.now = e.CommandID, decisionTime(h.state(), Command{AcceptedAt: e.At})
	}
	switch e.Type {
	case EventRequestSent, EventRequestReceived, EventRequestAccepted, EventRequestDeclined, EventRequestCancelled,
		EventRequestExpired, EventRequestSuperseded:
		h.evolveRequest(e)
	case EventPartnershipStarted, EventPartnershipEnded, EventPartnershipArchived, EventSlotVacated:
		h.evolvePartnership(e)
	case EventBreakupRequested, EventBreakupDeclined, EventBreakupWithdrawn:
		h.evolveBreakup(e)
	case EventBlockChanged:
		h.evolveBlock(e)
	case EventCommandApplied, EventCommandRejected:
		h.evolveAnswer(e)
	case EventNicknameChanged, EventProfileUpdated, EventAccountDeleted, EventInboxRead:
	}
	return h
}

// state is the pair as Decide would have loaded it, as far as it is known.
func (h *History) state() PairState {
	st := PairState{Pair: h.Pair, Low: h.Low.Side, High: h.High.Side}
	for _, r := range h.Requests {
		if r.Status == RequestPending {
			st.Requests = append(st.Requests, r.Request)
		}
	}
	for _, b := range h.Breakups {
		if b.Status == BreakupPending {
			st.Breakups = append(st.Breakups, b.Breakup)
		}
	}
	if i := h.current(); i >= 0 {
		st.Partnership = &h.Partnerships[i].Partnership
	}
	return st
}

// current returns the index of the partnership that is not archived, or -1.
func (h *History) current() int {
	return slices.IndexFunc(h.Partnerships, func(p PastPartnership) bool { return p.Status != PartnershipArchived })
}

func (h *History) evolveRequest(e Event) {
	if e.Data.RequestID == nil {
		return
	}
	id := *e.Data.RequestID
	// The slices may be shared with the history before.
	h.Requests = slices.Clone(h.Requests)
	i := slices.IndexFunc(h.Requests, func(r PastRequest) bool { return r.ID == id })
	if i < 0 {
		h.Requests = append(h.Requests, PastRequest{Request: Request{ID: id}})
		i = len(h.Requests) - 1
	}
	r := &h.Requests[i]
	resolve := func(status RequestStatus, at time.Time) { r.Status, r.ResolvedAt = status, at }
	switch e.Type {
	case EventRequestSent, EventRequestReceived:
		if r.Begun { // sent and received tell the same
			return
		}
		if e.Type == EventRequestSent && e.Data.ToUserID != nil {
			r.Sender, r.Target = h.Pair.Other(*e.Data.ToUserID), *e.Data.ToUserID
		}
		if e.Type == EventRequestReceived && e.Data.FromUserID != nil {
			r.Sender, r.Target = *e.Data.FromUserID, h.Pair.Other(*e.Data.FromUserID)
		}
		r.Begun, r.Status, r.CreatedAt, r.ExpiresAt = true, RequestPending, h.now, timeOf(e.Data.ExpiresAt)
		h.welcome(r.Sender)
		h.changeSide(r.Sender, func(s *PastSide) { s.Sends = []time.Time{h.now} })
	case EventRequestAccepted:
		resolve(RequestAccepted, h.now)
	case EventRequestDeclined:
		resolve(RequestDeclined, h.now)
		if e.Data.ByUserID != nil {
			h.changeSide(*e.Data.ByUserID, func(s *PastSide) { s.Declines, s.LastDeclined = s.Declines+1, h.now })
		}
	case EventRequestCancelled:
		resolve(RequestCancelled, h.now)
	case EventRequestExpired:
		resolve(RequestExpired, r.ExpiresAt)
	default:
		resolve(RequestSuperseded, h.now)
	}
}

func (h *History) evolvePartnership(e Event) {
	if e.Type == EventSlotVacated {
		h.vacate(e)
		return
	}
	if e.Data.PartnershipID == nil {
		return
	}
	id := *e.Data.PartnershipID
	h.Partnerships = slices.Clone(h.Partnerships)
	i := slices.IndexFunc(h.Partnerships, func(p PastPartnership) bool { return p.ID == id })
	if i < 0 {
		h.Partnerships = append(h.Partnerships, PastPartnership{Partnership: Partnership{ID: id, Pair: h.Pair}})
		i = len(h.Partnerships) - 1
	}
	p := &h.Partnerships[i]
	switch e.Type {
	case EventPartnershipStarted:
		*p = PastPartnership{Begun: true, Partnership: Partnership{
			ID: id, Pair: h.Pair, Status: PartnershipActive, StartedAt: timeOf(e.Data.StartedAt),
		}}
		if e.Data.RestoredCount != nil {
			p.RestoredCount = *e.Data.RestoredCount
		}
		h.welcome(h.Pair.Low)
		h.welcome(h.Pair.High)
	case EventPartnershipEnded:
		h.end(p, e)
	case EventPartnershipArchived:
		p.Status = PartnershipArchived
		for _, user := range [...]uuid.UUID{h.Pair.Low, h.Pair.High} {
			h.changeSide(user, func(s *PastSide) { s.Forfeited, s.Told.Forfeited = uuid.Nil, true })
		}
	default:
	}
}

// end follows an ending, of which a quiet one tells each of the two apart.
func (h *History) end(p *PastPartnership, e Event) {
	p.Status, p.EndedAt, p.RestorableUntil = PartnershipEnded, timeOf(e.Data.EndedAt), timeOf(e.Data.RestorableUntil)
	by := uuid.Nil
	if e.Data.ByUserID != nil {
		by = *e.Data.ByUserID
	}
	p.EndedBy = by
	status := BreakupSuperseded
	if e.Data.BreakupID != nil {
		if status = BreakupExpired; h.agreed(e, by, p.EndedAt) {
			status, p.EndedBy = BreakupAccepted, h.Pair.Other(by)
		}
	}
	h.Breakups = slices.Clone(h.Breakups)
	for i := range h.Breakups {
		if b := &h.Breakups[i]; b.Status == BreakupPending {
			b.Status, b.ResolvedAt = status, p.EndedAt
		}
	}
	if e.Data.Silent {
		p.Quiet = true
		h.changeSide(by, func(s *PastSide) { s.DoorClosedAt, s.Told.Door = h.now, true })
	}
}

// agreed reports whether it ended because somebody agreed to the breakup that the other had
// asked for; else its time was over, and it is told as the asker's doing. When nothing is
// known of the asking, the times tell: what was over ended before the command that noticed,
// or by the timer of that very time.
func (h *History) agreed(e Event, by uuid.UUID, endedAt time.Time) bool {
	if i := slices.IndexFunc(h.Breakups, func(b PastBreakup) bool { return b.ID == *e.Data.BreakupID && b.Begun }); i >= 0 {
		return h.Breakups[i].Asker != by
	}
	return !endedAt.Before(h.now) && e.CommandID != TimerID(Timer{Kind: TimerBreakup, Ref: *e.Data.BreakupID, Due: endedAt})
}

// vacate learns which slots the partnership that has just ended had.
func (h *History) vacate(e Event) {
	i := h.current()
	if i < 0 || e.Data.Slot == nil {
		return
	}
	h.Partnerships = slices.Clone(h.Partnerships)
	p := &h.Partnerships[i]
	for _, user := range e.Recipients {
		if user == h.Pair.Low {
			p.LowSlot = *e.Data.Slot
		}
		if user == h.Pair.High {
			p.HighSlot = *e.Data.Slot
		}
	}
}

func (h *History) evolveBreakup(e Event) {
	if e.Data.BreakupID == nil {
		return
	}
	id := *e.Data.BreakupID
	h.Breakups = slices.Clone(h.Breakups)
	i := slices.IndexFunc(h.Breakups, func(b PastBreakup) bool { return b.ID == id })
	if i < 0 {
		h.Breakups = append(h.Breakups, PastBreakup{Breakup: Breakup{ID: id, Pair: h.Pair}})
		i = len(h.Breakups) - 1
	}
	b := &h.Breakups[i]
	if e.Data.PartnershipID != nil {
		b.PartnershipID = *e.Data.PartnershipID
	}
	switch e.Type {
	case EventBreakupRequested:
		b.Begun, b.Status, b.CreatedAt, b.ExpiresAt = true, BreakupPending, h.now, timeOf(e.Data.ExpiresAt)
		if e.Data.ByUserID != nil {
			b.Asker = *e.Data.ByUserID
		}
	case EventBreakupDeclined:
		b.Status, b.ResolvedAt = BreakupDeclined, h.now
	default:
		b.Status, b.ResolvedAt = BreakupWithdrawn, h.now
	}
}

func (h *History) evolveBlock(e Event) {
	if e.Data.UserID == nil || e.Data.Blocked == nil {
		return
	}
	current := h.current()
	h.changeSide(h.Pair.Other(*e.Data.UserID), func(s *PastSide) {
		if !*e.Data.Blocked {
			s.BlockedAt, s.Told.Blocked = time.Time{}, true
			return
		}
		// What was so before keeps its time, so an untold part stays untold.
		if s.BlockedAt.IsZero() {
			s.BlockedAt = h.now
		}
		if s.DoorClosedAt.IsZero() {
			s.DoorClosedAt = h.now
		}
		if current >= 0 {
			s.Forfeited, s.Told.Forfeited = h.Partnerships[current].ID, true
		}
	})
}

// evolveAnswer follows the events of commands that have none of their own.
func (h *History) evolveAnswer(e Event) {
	switch {
	case e.Type == EventCommandApplied && e.Data.Command == ClosePair.String():
		h.Closed = true
		all := SideFields{Blocked: true, Door: true, Forfeited: true, Declines: true}
		h.Low, h.High = PastSide{Told: all}, PastSide{Told: all}
	case e.Type == EventCommandApplied && e.Data.Command == Forfeit.String() && e.Data.PartnershipID != nil:
		for _, user := range e.Recipients {
			h.changeSide(user, func(s *PastSide) { s.Forfeited, s.Told.Forfeited = *e.Data.PartnershipID, true })
		}
	case e.Data.Command == Send.String() && (e.Data.Code == CodeTargetUnavailable || e.Data.Code == CodeCooldown):
		// A refused send counts as the wish to be in touch once it gets as far as its target.
		for _, user := range e.Recipients {
			h.welcome(user)
		}
	}
}

// welcome follows turn.welcome.
func (h *History) welcome(user uuid.UUID) {
	h.changeSide(user, func(s *PastSide) {
		s.DoorClosedAt, s.Declines, s.LastDeclined = time.Time{}, 0, time.Time{}
		s.Told.Door, s.Told.Declines = true, true
	})
}

func (h *History) changeSide(user uuid.UUID, change func(*PastSide)) {
	switch user {
	case h.Pair.Low:
		change(&h.Low)
	case h.Pair.High:
		change(&h.High)
	}
}

func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}
