package partner_test

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

// world is what the database is to Decide: all rows of all pairs, from which a command's
// state is loaded, and into which a decision is written. Its checks know the rules by
// themselves, from the rows alone, and not by asking the package.
type world struct {
	decide       func(partner.Limits, partner.State, partner.Command) partner.Decision
	limits       partner.Limits
	accounts     map[uuid.UUID]partner.User // status and slots only
	requests     map[uuid.UUID]partner.Request
	partnerships map[uuid.UUID]partner.Partnership
	order        []uuid.UUID // of the requests, as they were made
	events       map[uuid.UUID]bool
	commands     map[uuid.UUID]bool
	followUps    []partner.Command
	clock        time.Time

	// What the processor keeps in memory during a batch.
	batchUsers map[uuid.UUID]partner.User
	batchPairs map[partner.Pair]partner.PairState
}

func newWorld(slotCounts []int16) *world {
	w := &world{
		decide: partner.Decide, limits: partner.DefaultLimits(), clock: start(),
		accounts: map[uuid.UUID]partner.User{}, requests: map[uuid.UUID]partner.Request{},
		partnerships: map[uuid.UUID]partner.Partnership{}, events: map[uuid.UUID]bool{}, commands: map[uuid.UUID]bool{},
	}
	for i, n := range slotCounts {
		w.accounts[id(byte(i+1))] = user(id(byte(i+1)), slots(n))
	}
	w.flush()
	return w
}

// flush ends the batch: what comes next is loaded again.
func (w *world) flush() {
	w.batchUsers, w.batchPairs = map[uuid.UUID]partner.User{}, map[partner.Pair]partner.PairState{}
}

func (w *world) loadUser(id uuid.UUID) (partner.User, bool) {
	u, ok := w.accounts[id]
	for _, p := range w.partnerships {
		if p.Status == partner.PartnershipActive && p.Pair.Has(id) {
			slot := p.LowSlot
			if p.Pair.High == id {
				slot = p.HighSlot
			}
			u.Occupied = append(u.Occupied, partner.Occupied{Slot: slot, PartnershipID: p.ID})
		}
	}
	slices.SortFunc(u.Occupied, func(a, b partner.Occupied) int { return cmp.Compare(a.Slot, b.Slot) })
	for _, rid := range w.order {
		r := w.requests[rid]
		if r.Status == partner.RequestPending && (r.Sender == id || r.Target == id) && len(u.Pending) < partner.PendingLimit {
			u.Pending = append(u.Pending, partner.PendingRef{RequestID: rid, Pair: partner.PairOf(r.Sender, r.Target)})
		}
	}
	return u, ok
}

func (w *world) loadPair(pair partner.Pair, named uuid.UUID) partner.PairState {
	ps := partner.PairState{Pair: pair}
	for _, rid := range w.order {
		r := w.requests[rid]
		if partner.PairOf(r.Sender, r.Target) == pair && (r.Status == partner.RequestPending || rid == named) {
			ps.Requests = append(ps.Requests, r)
		}
	}
	for _, p := range w.partnerships {
		if p.Pair == pair && p.Status != partner.PartnershipArchived {
			ps.Partnership = &p
		}
	}
	return ps
}

func (w *world) load(c partner.Command) partner.State {
	st := partner.State{Pair: w.loadPair(c.Pair, c.RequestID), Users: map[uuid.UUID]partner.User{}}
	for _, id := range []uuid.UUID{c.Pair.Low, c.Pair.High, c.Issuer} {
		if u, ok := w.loadUser(id); ok {
			st.Users[id] = u
		}
	}
	return st
}

// loadBatch is load, but of what the decisions before it in the batch left.
func (w *world) loadBatch(c partner.Command) partner.State {
	fresh := w.load(c)
	st := partner.State{Pair: fresh.Pair, Users: map[uuid.UUID]partner.User{}}
	for id, u := range fresh.Users {
		if kept, ok := w.batchUsers[id]; ok {
			u = kept
		}
		st.Users[id] = u
	}
	if kept, ok := w.batchPairs[c.Pair]; ok {
		st.Pair = kept
		if r, ok := w.requests[c.RequestID]; ok && partner.PairOf(r.Sender, r.Target) == c.Pair &&
			!slices.ContainsFunc(kept.Requests, func(o partner.Request) bool { return o.ID == r.ID }) {
			st.Pair.Requests = append(slices.Clone(kept.Requests), r)
		}
	}
	return st
}

// run decides one command, checks the decision and writes it.
func (w *world) run(c partner.Command) (partner.Decision, error) {
	if w.commands[c.ID] {
		return partner.Decision{}, fmt.Errorf("command %s is issued twice", c.ID)
	}
	w.commands[c.ID] = true
	st, untouched := w.load(c), w.load(c)
	d := w.decide(w.limits, st, c)
	if !reflect.DeepEqual(st, untouched) {
		return d, fmt.Errorf("the state that was given is changed")
	}
	if again := w.decide(w.limits, untouched, c); !reflect.DeepEqual(d, again) {
		return d, fmt.Errorf("the same state and command gave two decisions")
	}
	inBatch := w.decide(w.limits, w.loadBatch(c), c)
	if !reflect.DeepEqual(written(d), written(inBatch)) {
		return d, fmt.Errorf("the batch decides otherwise:\n%+v\n%+v", written(d), written(inBatch))
	}
	maps.Copy(w.batchUsers, inBatch.Next.Users)
	w.batchPairs[c.Pair] = inBatch.Next.Pair

	if err := w.checkShape(c, d); err != nil {
		return d, err
	}
	if err := w.checkChanges(c, d); err != nil {
		return d, err
	}
	if err := w.checkStart(c, d); err != nil {
		return d, err
	}
	for _, r := range d.Requests {
		if _, ok := w.requests[r.ID]; !ok {
			w.order = append(w.order, r.ID)
		}
		w.requests[r.ID] = r
	}
	for _, p := range d.Partners {
		w.partnerships[p.ID] = p
	}
	w.followUps = append(w.followUps, d.FollowUps...)
	if err := w.checkInvariants(); err != nil {
		return d, err
	}
	return d, w.checkNext(c, d)
}

// written is what of a decision reaches the database.
func written(d partner.Decision) []any {
	return []any{d.Now, d.Outcome, d.Events, d.FollowUps, d.Requests, d.Partners}
}

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
	for _, p := range d.Partners {
		old, exists := w.partnerships[p.ID]
		due := exists && old.Status == partner.PartnershipEnded && p.Status == partner.PartnershipArchived &&
			d.Now.Sub(old.EndedAt) > 720*time.Hour
		switch {
		case exists && old.Status == partner.PartnershipArchived:
			return fmt.Errorf("an archived partnership changed")
		case exists && old.Status == partner.PartnershipActive && p.Status == partner.PartnershipArchived:
			return fmt.Errorf("an active partnership was archived")
		case !d.Outcome.Applied() && !due:
			return fmt.Errorf("a rejection (%s) changed partnership %+v", d.Outcome.Code, p)
		}
		for _, o := range w.partnerships {
			if o.Pair == p.Pair && o.Version >= p.Version {
				return fmt.Errorf("version %d does not rise above %d", p.Version, o.Version)
			}
		}
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
		if id == c.Issuer && u.Status == partner.UserDeleting || id != c.Issuer && u.Status != partner.UserActive {
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
		if o.Pair == c.Pair && o.Status == partner.PartnershipEnded && d.Now.Sub(o.EndedAt) <= 720*time.Hour {
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
	return nil
}

// checkNext: the state after is what a load after writing brings.
func (w *world) checkNext(c partner.Command, d partner.Decision) error {
	loaded := w.load(c)
	for id, u := range loaded.Users {
		n := d.Next.Users[id]
		if !slices.Equal(n.Occupied, u.Occupied) || !slices.Equal(n.Pending, u.Pending) || n.Status != u.Status {
			return fmt.Errorf("next of %s is %+v, loading it gives %+v", id, n, u)
		}
	}
	if len(d.Next.Users) != len(loaded.Users) {
		return fmt.Errorf("next has %d users, loading gives %d", len(d.Next.Users), len(loaded.Users))
	}
	if !reflect.DeepEqual(d.Next.Pair.Partnership, loaded.Pair.Partnership) {
		return fmt.Errorf("next partnership %+v, loading it gives %+v", d.Next.Pair.Partnership, loaded.Pair.Partnership)
	}
	for _, r := range loaded.Pair.Requests {
		if !slices.Contains(d.Next.Pair.Requests, r) {
			return fmt.Errorf("next requests %+v lack %+v", d.Next.Pair.Requests, r)
		}
	}
	return nil
}

// drained: with all follow-ups done, nobody without a vacant slot has a pending request.
func (w *world) drained() error {
	for id := range w.accounts {
		u, _ := w.loadUser(id)
		if len(u.Occupied) >= len(u.Slots) && len(u.Pending) > 0 {
			return fmt.Errorf("%s has no vacant slot but %d pending requests", id, len(u.Pending))
		}
	}
	return nil
}
