package partner_test

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

// past is what the people of a world remember, kept from commands and outcomes alone: by
// it the rules are told a second time, in other words than the package's.
type past struct {
	blocked   map[way]bool
	closed    map[way]bool // doors
	declines  map[way][]time.Time
	sends     map[way][]time.Time
	forfeited map[uuid.UUID]bool // partnerships, by either
	gaveUp    map[[2]uuid.UUID]bool
	deleted   map[uuid.UUID]bool
}

func newPast() past {
	return past{
		blocked: map[way]bool{}, closed: map[way]bool{}, declines: map[way][]time.Time{}, sends: map[way][]time.Time{},
		forfeited: map[uuid.UUID]bool{}, gaveUp: map[[2]uuid.UUID]bool{}, deleted: map[uuid.UUID]bool{},
	}
}

func (p past) note(c partner.Command, d partner.Decision) {
	me, other := c.Issuer, c.Pair.Other(c.Issuer)
	there, back := way{me, other}, way{other, me}
	if slices.ContainsFunc(d.Events, func(e partner.Event) bool { return e.Type == partner.EventPartnershipStarted }) {
		p.closed[there], p.closed[back], p.declines[there], p.declines[back] = false, false, nil, nil
	}
	if c.Type == partner.Send && slices.Contains([]partner.Code{"", partner.CodeTargetUnavailable, partner.CodeCooldown}, d.Outcome.Code) {
		p.closed[there], p.declines[there] = false, nil
	}
	if !d.Outcome.Applied() {
		return
	}
	switch c.Type {
	case partner.Send:
		if !d.Outcome.Result.Crossed {
			p.sends[there] = append(p.sends[there], d.Now)
		}
	case partner.Decline:
		p.declines[there] = append(p.declines[there], d.Now)
	case partner.Remove:
		p.closed[there] = p.closed[there] || c.Quiet
	case partner.Block:
		p.blocked[there], p.closed[there] = true, true
		if o := d.Next.Pair.Partnership; o != nil {
			p.forfeited[o.ID], p.gaveUp[[2]uuid.UUID{me, o.ID}] = true, true
		}
	case partner.Unblock:
		p.blocked[there] = false
	case partner.Forfeit:
		p.forfeited[c.PartnershipID], p.gaveUp[[2]uuid.UUID{me, c.PartnershipID}] = true, true
	case partner.DeleteAccount:
		p.deleted[me] = true
	case partner.ClosePair:
		for _, w := range []way{there, back} {
			p.blocked[w], p.closed[w], p.declines[w], p.sends[w] = false, false, nil, nil
		}
	default:
	}
}

// now is a partnership as it is at a time by which nobody may have noticed yet.
func (past) now(w *world, o partner.Partnership, now time.Time) partner.Partnership {
	for _, b := range w.breakups {
		if b.PartnershipID == o.ID && b.Status == partner.BreakupPending && now.After(b.ExpiresAt) {
			o.Status, o.EndedAt, o.RestorableUntil = partner.PartnershipEnded, b.ExpiresAt, b.ExpiresAt.Add(720*time.Hour)
		}
	}
	if o.Status == partner.PartnershipEnded && now.After(o.RestorableUntil) {
		o.Status = partner.PartnershipArchived
	}
	return o
}

// overdue reports whether time has ended a partnership of the pair without anybody noticing.
func (past) overdue(w *world, pair partner.Pair, now time.Time) bool {
	for _, b := range w.breakups {
		if b.Pair == pair && b.Status == partner.BreakupPending && now.After(b.ExpiresAt) {
			return true
		}
	}
	return false
}

// full reports whether all slots of a user are taken, as the command's pair is at the time.
func (w *world) full(user uuid.UUID, pair partner.Pair, now time.Time) bool {
	n := 0
	for _, p := range w.partnerships {
		if p.Pair == pair {
			p = w.past.now(w, p, now)
		}
		if p.Status == partner.PartnershipActive && p.Pair.Has(user) {
			n++
		}
	}
	return n >= len(w.accounts[user].Slots)
}

// expect returns the code that a command deserves.
func (w *world) expect(c partner.Command, now time.Time) partner.Code {
	me, other := c.Issuer, c.Pair.Other(c.Issuer)
	there, back := way{me, other}, way{other, me}
	issuer, exists := w.accounts[me]
	target, known := w.accounts[other]
	open := partner.Partnership{Status: partner.PartnershipArchived}
	for _, p := range w.partnerships {
		if p = w.past.now(w, p, now); p.Pair == c.Pair && p.Status != partner.PartnershipArchived {
			open = p
		}
	}
	var pending partner.Request
	for _, r := range w.requests {
		if r.Status == partner.RequestPending && partner.PairOf(r.Sender, r.Target) == c.Pair && !now.After(r.ExpiresAt) {
			pending = r
		}
	}
	named := c.PartnershipID == uuid.Nil || c.PartnershipID == open.ID
	couple := open.Status == partner.PartnershipActive
	unavailable := target.Status != partner.UserActive || w.full(other, c.Pair, now) || w.past.blocked[back] || w.past.closed[back]
	first := func(codes ...partner.Code) partner.Code {
		for _, code := range codes {
			if code != "" {
				return code
			}
		}
		return ""
	}
	is := func(broken bool, code partner.Code) partner.Code {
		if broken {
			return code
		}
		return ""
	}
	switch {
	case c.FollowUp():
		return ""
	case !exists || issuer.Status == partner.UserDeleting:
		return partner.CodeAccountDeleting
	case issuer.Status == partner.UserSuspended:
		if c.Type != partner.Remove && c.Type != partner.Block && c.Type != partner.DeleteAccount {
			return partner.CodeForbidden
		}
	}
	switch c.Type {
	case partner.Send:
		return first(
			is(c.Pair.Solo(), partner.CodeSelfRequest), is(!known, partner.CodeUserNotFound), is(couple, partner.CodeAlreadyPartners),
			is(pending.Sender == me, partner.CodeRequestPending), is(w.full(me, c.Pair, now), partner.CodeNoVacantSlot),
			is(w.past.blocked[there], partner.CodeBlockedByYou), is(unavailable, partner.CodeTargetUnavailable),
			is(pending.Sender != other && w.past.cold(there, now), partner.CodeCooldown),
		)
	case partner.Accept, partner.Decline, partner.Cancel:
		r := w.requests[c.RequestID]
		mine := r.Target
		if c.Type == partner.Cancel {
			mine = r.Sender
		}
		return first(
			is(r.ID == uuid.Nil || mine != me || partner.PairOf(r.Sender, r.Target) != c.Pair, partner.CodeNotFound),
			is(pending.ID != r.ID, partner.CodeNotPending),
			is(c.Type == partner.Accept && w.full(me, c.Pair, now), partner.CodeNoVacantSlot),
			is(c.Type == partner.Accept && unavailable, partner.CodeTargetUnavailable),
		)
	case partner.Remove:
		return is(!couple || !named, partner.CodeNotCurrent)
	case partner.AskBreakup:
		asked := false
		for _, b := range w.breakups {
			asked = asked || b.PartnershipID == open.ID && b.Status == partner.BreakupPending && b.Asker == me
		}
		return first(is(!couple || !named, partner.CodeNotCurrent), is(asked, partner.CodeRequestPending))
	case partner.AcceptBreakup, partner.DeclineBreakup, partner.WithdrawBreakup:
		b := w.breakups[c.BreakupID]
		return first(
			is(b.ID == uuid.Nil || b.Pair != c.Pair || (b.Asker == me) != (c.Type == partner.WithdrawBreakup), partner.CodeNotFound),
			is(b.Status != partner.BreakupPending || now.After(b.ExpiresAt), partner.CodeNotPending),
		)
	case partner.Block:
		return first(is(c.Pair.Solo(), partner.CodeSelfRequest), is(!known, partner.CodeUserNotFound))
	case partner.Unblock:
		return is(!w.past.blocked[there], partner.CodeNotFound)
	case partner.SetNickname:
		return first(is(c.Pair.Solo(), partner.CodeSelfRequest), is(!known, partner.CodeUserNotFound), is(!couple, partner.CodeNotCurrent))
	case partner.ClearNickname:
		return is(w.nicknames[there] == "" || open.Status == partner.PartnershipArchived, partner.CodeNotFound)
	case partner.Forfeit:
		return is(open.Status != partner.PartnershipEnded || open.ID != c.PartnershipID || w.past.gaveUp[[2]uuid.UUID{me, open.ID}], partner.CodeNotFound)
	default:
		return ""
	}
}

// cold reports whether it is too early to send this way.
func (p past) cold(there way, now time.Time) bool {
	sent := 0
	for _, at := range p.sends[there] {
		if now.Sub(at) < day {
			sent++
		}
	}
	if sent >= 3 {
		return true
	}
	declines := p.declines[way{there.to, there.from}]
	if len(declines) == 0 {
		return false
	}
	waits := []time.Duration{day, 7 * day, 30 * day}
	return len(declines) > len(waits) || now.Sub(declines[len(declines)-1]) < waits[len(declines)-1]
}

// checkRules: the code, and what must hold of the decision beyond its rows.
func (w *world) checkRules(st partner.State, c partner.Command, d partner.Decision) error {
	if want := w.expect(c, d.Now); d.Outcome.Code != want {
		return fmt.Errorf("code %q, want %q", d.Outcome.Code, want)
	}
	if d.Outcome.Code == partner.CodeTargetUnavailable && c.Type == partner.Send {
		if err := w.checkSecrecy(st, c, d); err != nil {
			return err
		}
	}
	if p := st.Pair.Partnership; c.Type == partner.Block && p != nil && p.Status == partner.PartnershipActive {
		leave := c
		leave.Type, leave.Quiet = partner.Remove, true
		other := c.Pair.Other(c.Issuer)
		if got, want := seenBy(other, d), seenBy(other, w.decide(w.limits, st, leave)); !reflect.DeepEqual(got, want) {
			return fmt.Errorf("a block shows as %+v, a quiet leave as %+v", got, want)
		}
	}
	if err := w.checkBlock(st, c, d); err != nil {
		return err
	}
	if err := w.checkCuts(c, d); err != nil {
		return err
	}
	return w.checkTimersFirst(st, c, d)
}

// checkSecrecy: whatever makes a target unavailable, the sender is told what a full one's
// sender is told.
func (w *world) checkSecrecy(st partner.State, c partner.Command, d partner.Decision) error {
	other := c.Pair.Other(c.Issuer)
	full := partner.State{Pair: st.Pair, Users: map[uuid.UUID]partner.User{c.Issuer: st.Users[c.Issuer]}}
	full.Users[other] = user(other, occupied(1, numbered(99), numbered(98)))
	if other == c.Pair.Low {
		full.Pair.Low = partner.Side{}
	} else {
		full.Pair.High = partner.Side{}
	}
	asFull := w.decide(w.limits, full, c)
	asFull.Now, asFull.Next = d.Now, d.Next
	for i := range asFull.Events {
		asFull.Events[i].At = d.Now // a time on the target's side, to be sure that time goes on
	}
	got, want := seenBy(c.Issuer, d), seenBy(c.Issuer, asFull)
	if !reflect.DeepEqual(d.Outcome, asFull.Outcome) || !reflect.DeepEqual(got, want) || len(d.Events) != len(asFull.Events) {
		return fmt.Errorf("a sender can tell:\n%+v\n%+v", got, want)
	}
	return nil
}

// checkBlock: a block of somebody who is no partner shows, and empties, what the blocker's
// last slot does when it fills: the request that waits, or nothing at all.
func (w *world) checkBlock(st partner.State, c partner.Command, d partner.Decision) error {
	if p := st.Pair.Partnership; c.Type != partner.Block || !d.Outcome.Applied() || p != nil && p.Status == partner.PartnershipActive {
		return nil
	}
	other, filled := c.Pair.Other(c.Issuer), partner.Decision{}
	if i := slices.IndexFunc(st.Pair.Requests, func(r partner.Request) bool {
		return r.Status == partner.RequestPending && !d.Now.After(r.ExpiresAt)
	}); i >= 0 {
		supersede := c
		supersede.Type, supersede.RequestID, supersede.Cause = partner.Supersede, st.Pair.Requests[i].ID, c.ID
		filled = w.decide(w.limits, st, supersede)
	}
	got, want := seenBy(other, d), seenBy(other, filled)
	if len(want) > 0 && !reflect.DeepEqual(got, want) {
		return fmt.Errorf("a block shows as %+v, a filled slot as %+v", got, want)
	}
	if got, want := cutsOf(other, d), cutsOf(other, filled); !slices.Equal(got, want) {
		return fmt.Errorf("a block takes %+v back, a filled slot %+v", got, want)
	}
	return nil
}

func cutsOf(u uuid.UUID, d partner.Decision) []partner.Cut {
	return slices.DeleteFunc(slices.Clone(d.Cuts), func(c partner.Cut) bool { return c.Recipient != u })
}

func seenBy(u uuid.UUID, d partner.Decision) []partner.Event {
	return slices.DeleteFunc(slices.Clone(d.Events), func(e partner.Event) bool { return !slices.Contains(e.Recipients, u) })
}

// checkCuts: whoever is left or lost hears no more of the other, and the other no more of
// them; who blocks hears no more of the other. What tells of it cannot be taken away by a
// later cut.
func (w *world) checkCuts(c partner.Command, d partner.Decision) error {
	cut := false
	if mine := (partner.Cut{Recipient: c.Issuer, Origin: c.Pair.Other(c.Issuer)}); c.Type == partner.Block && d.Outcome.Applied() && !slices.Contains(d.Cuts, mine) {
		return fmt.Errorf("no cut %v among %v", mine, d.Cuts)
	}
	for _, e := range d.Events {
		if e.Type == partner.EventPartnershipEnded || e.Type == partner.EventRequestSuperseded {
			if e.Origin != uuid.Nil {
				return fmt.Errorf("a later cut would take away %+v", e)
			}
			cut = cut || e.Type == partner.EventPartnershipEnded
		}
	}
	for _, want := range []partner.Cut{{Recipient: c.Pair.Low, Origin: c.Pair.High}, {Recipient: c.Pair.High, Origin: c.Pair.Low}} {
		if cut && !slices.Contains(d.Cuts, want) {
			return fmt.Errorf("no cut %v among %v", want, d.Cuts)
		}
	}
	// Which cuts everybody off, and so needs none of them by name.
	deleting := partner.AccountChange{UserID: c.Issuer, Status: partner.UserDeleting}
	if c.Type == partner.DeleteAccount && d.Outcome.Applied() && !slices.Contains(d.Accounts, deleting) {
		return fmt.Errorf("deletion leaves the account as it is: %v", d.Accounts)
	}
	return nil
}

// checkTimersFirst: it is all one whether a timer that is due goes off before the command
// or the command lets it happen.
func (w *world) checkTimersFirst(st partner.State, c partner.Command, d partner.Decision) error {
	for _, timer := range w.timers {
		if timer.Pair != c.Pair || !d.Now.After(timer.Due) {
			continue
		}
		fired := partner.DecideDue(w.limits, st, timer)
		users := st.Users
		st := fired.Next
		for id, u := range st.Users {
			u.Counterparts = users[id].Counterparts
			st.Users[id] = u
		}
		after := w.decide(w.limits, st, c)
		if !reflect.DeepEqual(after.Outcome, d.Outcome) || !reflect.DeepEqual(after.Next.Pair.Partnership, d.Next.Pair.Partnership) ||
			!reflect.DeepEqual(sidesOf(after.Next.Pair), sidesOf(d.Next.Pair)) || !reflect.DeepEqual(after.FollowUps, d.FollowUps) {
			// Follow-ups name the event that caused them, and its index is another one then.
			if len(after.FollowUps) == len(d.FollowUps) && len(d.FollowUps) > 0 && reflect.DeepEqual(after.Outcome, d.Outcome) {
				continue
			}
			return fmt.Errorf("timer %+v makes a difference: %+v, %+v", timer, after, d)
		}
	}
	return nil
}
