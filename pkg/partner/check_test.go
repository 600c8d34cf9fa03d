package partner_test

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

// checkShape: one outcome, at least one event, all of them the command's own and new.
func (w *world) checkShape(c partner.Command, d partner.Decision) error {
	if len(d.Events) == 0 {
		return fmt.Errorf("no event")
	}
	if d.Now.Before(c.AcceptedAt) {
		return fmt.Errorf("decided at %s, before it was accepted", d.Now)
	}
	rejections := 0
	for _, e := range d.Events {
		if e.CommandID != c.ID || e.Pair != c.Pair || e.At != d.Now {
			return fmt.Errorf("event is not the command's: %+v", e)
		}
		if w.events[e.ID] {
			return fmt.Errorf("event id %s is used twice", e.ID)
		}
		w.events[e.ID] = true
		if !slices.IsSortedFunc(e.Recipients, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) }) {
			return fmt.Errorf("recipients are not in order: %v", e.Recipients)
		}
		if e.Type == partner.EventCommandRejected {
			rejections++
		}
	}
	if (rejections == 1) == d.Outcome.Applied() || rejections > 1 {
		return fmt.Errorf("outcome %q with %d rejections", d.Outcome.Code, rejections)
	}
	if c.FollowUp() && !d.Outcome.Applied() {
		return fmt.Errorf("a follow-up was rejected: %s", d.Outcome.Code)
	}
	return nil
}

// checkChanges: rows only go where their states may go, and a rejection changes nothing
// but what was due.
func (w *world) checkChanges(c partner.Command, d partner.Decision) error {
	for _, r := range d.Requests {
		old, exists := w.requests[r.ID]
		due := exists && r.Status == partner.RequestExpired && d.Now.After(old.ExpiresAt)
		switch {
		case !exists && (r.Status != partner.RequestPending || c.Type != partner.Send):
			return fmt.Errorf("request begins as %s", r.Status)
		case exists && old.Status != partner.RequestPending:
			return fmt.Errorf("request goes from %s to %s", old.Status, r.Status)
		case exists && r.Status == partner.RequestExpired && !due:
			return fmt.Errorf("request expired before its time")
		case exists && !due && d.Now.After(old.ExpiresAt):
			return fmt.Errorf("request became %s after its time", r.Status)
		case !d.Outcome.Applied() && !due:
			return fmt.Errorf("a rejection (%s) changed request %+v", d.Outcome.Code, r)
		}
	}
	versions := map[uuid.UUID]int64{}
	for _, p := range d.Partners {
		old, exists := w.partnerships[p.ID]
		due := exists && old.Status == partner.PartnershipEnded && p.Status == partner.PartnershipArchived &&
			d.Now.Sub(old.EndedAt) > 720*time.Hour
		switch {
		case exists && old.Status == partner.PartnershipArchived:
			return fmt.Errorf("an archived partnership changed")
		case exists && old.Status == partner.PartnershipActive && p.Status == partner.PartnershipArchived && d.Partners[0].ID != p.ID:
			return fmt.Errorf("an active partnership was archived")
		case !d.Outcome.Applied() && !due && !w.past.overdue(w, c.Pair, d.Now):
			return fmt.Errorf("a rejection (%s) changed partnership %+v", d.Outcome.Code, p)
		}
		for _, o := range w.partnerships {
			if o.Pair == p.Pair && max(o.Version, versions[o.ID]) >= p.Version {
				return fmt.Errorf("version %d does not rise above %d", p.Version, o.Version)
			}
		}
		versions[p.ID] = p.Version
	}
	if !d.Outcome.Applied() && len(d.FollowUps) > 0 {
		return fmt.Errorf("a rejection has follow-ups")
	}
	return nil
}

// checkStart: who become partners may, and an older partnership of theirs goes on exactly
// when it ended within 720 hours and nobody asked for a fresh start.
func (w *world) checkStart(c partner.Command, d partner.Decision) error {
	i := slices.IndexFunc(d.Partners, func(p partner.Partnership) bool { return p.Status == partner.PartnershipActive })
	if i < 0 {
		return nil
	}
	p := d.Partners[i]
	if i != len(d.Partners)-1 {
		return fmt.Errorf("the active partnership is not written last")
	}
	for _, id := range []uuid.UUID{c.Pair.Low, c.Pair.High} {
		u, _ := w.loadUser(id)
		if id == c.Issuer && u.Status != partner.UserActive && u.Status != partner.UserDeactivated || id != c.Issuer && u.Status != partner.UserActive {
			return fmt.Errorf("user with status %d became a partner", u.Status)
		}
	}
	accepted := d.Requests[len(d.Requests)-1]
	if accepted.Status != partner.RequestAccepted {
		return fmt.Errorf("partners without an accepted request")
	}
	target := accepted.Target == c.Issuer
	if !target {
		return fmt.Errorf("the sender accepted")
	}
	var restorable *partner.Partnership
	for _, o := range w.partnerships {
		o = w.past.now(w, o, d.Now)
		if o.Pair == c.Pair && o.Status == partner.PartnershipEnded && d.Now.Sub(o.EndedAt) <= 720*time.Hour &&
			!w.past.forfeited[o.ID] {
			restorable = &o
		}
	}
	want := restorable != nil && !accepted.Fresh && !c.Fresh
	_, got := w.partnerships[p.ID]
	if got != want {
		return fmt.Errorf("restored %v, want %v", got, want)
	}
	if got && (p.ID != restorable.ID || p.StartedAt != restorable.StartedAt || p.RestoredCount != restorable.RestoredCount+1) {
		return fmt.Errorf("restored %+v as %+v", *restorable, p)
	}
	return nil
}

// checkInvariants is G3, from the rows.
func (w *world) checkInvariants() error {
	type taken struct {
		user uuid.UUID
		slot int16
	}
	slotsTaken := map[taken]bool{}
	open := map[partner.Pair]int{}
	for _, p := range w.partnerships {
		if p.Status != partner.PartnershipArchived {
			if open[p.Pair]++; open[p.Pair] > 1 {
				return fmt.Errorf("pair %s has two partnerships", p.Pair)
			}
		}
		if p.Status != partner.PartnershipActive {
			if p.EndedAt.IsZero() || p.RestorableUntil.Sub(p.EndedAt) != 720*time.Hour {
				return fmt.Errorf("partnership without a proper end: %+v", p)
			}
			continue
		}
		for _, t := range []taken{{p.Pair.Low, p.LowSlot}, {p.Pair.High, p.HighSlot}} {
			if slotsTaken[t] {
				return fmt.Errorf("slot %d of %s is taken twice", t.slot, t.user)
			}
			if slotsTaken[t] = true; !slices.Contains(w.accounts[t.user].Slots, t.slot) {
				return fmt.Errorf("%s has no slot %d", t.user, t.slot)
			}
		}
	}
	pending := map[partner.Pair]bool{}
	for _, r := range w.requests {
		if r.Status == partner.RequestPending {
			pair := partner.PairOf(r.Sender, r.Target)
			if pending[pair] {
				return fmt.Errorf("pair %s has two pending requests", pair)
			}
			pending[pair] = true
		}
	}
	for _, p := range w.partnerships {
		if p.Status == partner.PartnershipActive && pending[p.Pair] {
			return fmt.Errorf("partners %s have a pending request", p.Pair)
		}
	}
	if err := w.checkBreakups(); err != nil {
		return err
	}
	if err := w.checkTexts(open); err != nil {
		return err
	}
	return w.checkTimers()
}

// checkBreakups: only partners part, and one thing at a time.
func (w *world) checkBreakups() error {
	asked := map[partner.Pair]bool{}
	for _, b := range w.breakups {
		if b.Status != partner.BreakupPending {
			if b.Reason != "" || b.ResolvedAt.IsZero() {
				return fmt.Errorf("resolved breakup %+v", b)
			}
			continue
		}
		if asked[b.Pair] {
			return fmt.Errorf("pair %s has two pending breakups", b.Pair)
		}
		asked[b.Pair] = true
		if b.ExpiresAt.Sub(b.CreatedAt) != 7*day {
			return fmt.Errorf("breakup is to last %s", b.ExpiresAt.Sub(b.CreatedAt))
		}
		if p := w.partnerships[b.PartnershipID]; p.Status != partner.PartnershipActive || p.Pair != b.Pair {
			return fmt.Errorf("breakup of %+v, which is not active", p)
		}
	}
	return nil
}

// checkTexts: what people wrote does not outlive what it was about.
func (w *world) checkTexts(open map[partner.Pair]int) error {
	for n := range w.nicknames {
		if open[partner.PairOf(n.from, n.to)] == 0 {
			return fmt.Errorf("a nickname outlived the partnership")
		}
	}
	for _, p := range w.partnerships {
		if p.Reason != "" && p.Status != partner.PartnershipEnded {
			return fmt.Errorf("a reason outlived the ended partnership: %+v", p)
		}
	}
	return nil
}

// checkTimers: whatever time will change has a timer, and nothing else has.
func (w *world) checkTimers() error {
	want := map[timerKey]partner.Timer{}
	add := func(kind partner.TimerKind, pair partner.Pair, ref uuid.UUID, due time.Time) {
		want[timerKey{pair, kind}] = partner.Timer{Kind: kind, Pair: pair, Ref: ref, Due: due}
	}
	for _, r := range w.requests {
		if r.Status == partner.RequestPending {
			add(partner.TimerRequest, partner.PairOf(r.Sender, r.Target), r.ID, r.ExpiresAt)
		}
	}
	for _, b := range w.breakups {
		if b.Status == partner.BreakupPending {
			add(partner.TimerBreakup, b.Pair, b.ID, b.ExpiresAt)
		}
	}
	for _, p := range w.partnerships {
		if p.Status == partner.PartnershipEnded {
			add(partner.TimerArchive, p.Pair, p.ID, p.RestorableUntil)
		}
	}
	if !maps.Equal(want, w.timers) {
		return fmt.Errorf("the timers are %v, want %v", w.timers, want)
	}
	return nil
}

// checkNext: the state after is what a load after writing brings.
func (w *world) checkNext(c partner.Command, d partner.Decision) error {
	loaded := w.load(c)
	for id, u := range loaded.Users {
		n := d.Next.Users[id]
		if !slices.Equal(n.Occupied, u.Occupied) || !w.isPendingOf(n, u) || n.Status != u.Status ||
			n.ReadSeq != u.ReadSeq {
			return fmt.Errorf("next of %s is %+v, loading it gives %+v", id, n, u)
		}
	}
	if len(d.Next.Users) != len(loaded.Users) {
		return fmt.Errorf("next has %d users, loading gives %d", len(d.Next.Users), len(loaded.Users))
	}
	if !reflect.DeepEqual(d.Next.Pair.Partnership, loaded.Pair.Partnership) {
		return fmt.Errorf("next partnership %+v, loading it gives %+v", d.Next.Pair.Partnership, loaded.Pair.Partnership)
	}
	if !reflect.DeepEqual(sidesOf(d.Next.Pair), sidesOf(loaded.Pair)) {
		return fmt.Errorf("next sides %+v, loading them gives %+v", sidesOf(d.Next.Pair), sidesOf(loaded.Pair))
	}
	for _, b := range loaded.Pair.Breakups {
		if !slices.Contains(d.Next.Pair.Breakups, b) {
			return fmt.Errorf("next breakups %+v lack %+v", d.Next.Pair.Breakups, b)
		}
	}
	for _, r := range loaded.Pair.Requests {
		if !slices.Contains(d.Next.Pair.Requests, r) {
			return fmt.Errorf("next requests %+v lack %+v", d.Next.Pair.Requests, r)
		}
	}
	return nil
}

// isPendingOf: a user's pending requests are those that loading brings, and some of those
// that there are where there may be more.
func (w *world) isPendingOf(n, loaded partner.User) bool {
	if !n.PendingCut {
		return slices.Equal(n.Pending, loaded.Pending)
	}
	return !slices.ContainsFunc(n.Pending, func(ref partner.PendingRef) bool {
		return w.requests[ref.RequestID].Status != partner.RequestPending
	})
}

func sidesOf(p partner.PairState) [2]partner.Side {
	sides := [2]partner.Side{p.Low, p.High}
	for i := range sides {
		if len(sides[i].Sends) == 0 {
			sides[i].Sends = nil
		}
	}
	return sides
}

// checkReads: only its owner moves a read mark, never down and never beyond what there is.
func (w *world) checkReads(c partner.Command, d partner.Decision) error {
	for _, r := range d.Reads {
		u := w.accounts[r.UserID]
		if r.UserID != c.Issuer || c.Type != partner.ReadInbox || r.Seq <= u.ReadSeq || r.Seq > u.LastSeq || r.Seq > c.ReadSeq {
			return fmt.Errorf("%s moved a read mark from %d to %d of %d: %+v", c.Type, u.ReadSeq, r.Seq, u.LastSeq, r)
		}
	}
	return nil
}

// drained: with all follow-ups done, nobody without a vacant slot has a pending request.
func (w *world) drained() error {
	for id := range w.accounts {
		u, _ := w.loadUser(id)
		if u.Status == partner.UserDeleting && !w.past.deleted[id] {
			continue // a state that was set without the deletion, which would close them
		}
		if len(u.Occupied) >= len(u.Slots) && len(u.Pending) > 0 {
			return fmt.Errorf("%s has no vacant slot but %d pending requests", id, len(u.Pending))
		}
		if w.past.deleted[id] && !w.erased[id] {
			return fmt.Errorf("%s is deleted and not erased", id)
		}
		if w.past.deleted[id] && len(u.Occupied)+len(u.Pending) > 0 {
			return fmt.Errorf("%s is deleted and has %+v", id, u)
		}
	}
	return nil
}
