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
	accounts     map[uuid.UUID]partner.User // status, slots and the inbox's two ends
	requests     map[uuid.UUID]partner.Request
	partnerships map[uuid.UUID]partner.Partnership
	order        []uuid.UUID // of the requests, as they were made
	breakups     map[uuid.UUID]partner.Breakup
	asked        []uuid.UUID // the breakups, as they were made
	sides        map[way]partner.Side
	nicknames    map[way]string
	profiles     map[uuid.UUID]partner.ProfilePatch
	timers       map[timerKey]partner.Timer
	erased       map[uuid.UUID]bool
	past         past
	events       map[uuid.UUID]bool
	told         []partner.Event // of all pairs, as the tables hold them: At is when the command was accepted
	toldAt       []time.Time     // by the clock
	commands     map[uuid.UUID]bool
	followUps    []partner.Command
	clock        time.Time
	once         bool // decide each command once only, not thrice

	// What the processor keeps in memory during a batch.
	batchUsers map[uuid.UUID]partner.User
	batchPairs map[partner.Pair]partner.PairState
}

// way is from one user to another.
type way struct{ from, to uuid.UUID }

type timerKey struct {
	pair partner.Pair
	kind partner.TimerKind
}

func newWorld(slotCounts []int16) *world {
	w := &world{
		decide: partner.Decide, limits: partner.DefaultLimits(), clock: start(),
		accounts: map[uuid.UUID]partner.User{}, requests: map[uuid.UUID]partner.Request{},
		partnerships: map[uuid.UUID]partner.Partnership{}, events: map[uuid.UUID]bool{}, commands: map[uuid.UUID]bool{},
		breakups: map[uuid.UUID]partner.Breakup{}, sides: map[way]partner.Side{}, nicknames: map[way]string{},
		profiles: map[uuid.UUID]partner.ProfilePatch{}, timers: map[timerKey]partner.Timer{}, erased: map[uuid.UUID]bool{},
		past: newPast(),
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
			u.Occupied = append(u.Occupied, partner.Occupied{Slot: slot, PartnershipID: p.ID, Partner: p.Pair.Other(id)})
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
	for _, bid := range w.asked {
		if b := w.breakups[bid]; b.Pair == pair && (b.Status == partner.BreakupPending || bid == named) {
			ps.Breakups = append(ps.Breakups, b)
		}
	}
	side := func(from, to uuid.UUID) partner.Side {
		s := w.sides[way{from, to}]
		_, s.Named = w.nicknames[way{from, to}]
		return s
	}
	if !pair.Solo() {
		ps.Low, ps.High = side(pair.Low, pair.High), side(pair.High, pair.Low)
	}
	return ps
}

// counterparts are those with whom the user has anything that deletion must close.
func (w *world) counterparts(id uuid.UUID) []uuid.UUID {
	open := map[uuid.UUID]bool{}
	add := func(pair partner.Pair) {
		if pair.Has(id) {
			open[pair.Other(id)] = true
		}
	}
	for _, r := range w.requests {
		if r.Status == partner.RequestPending {
			add(partner.PairOf(r.Sender, r.Target))
		}
	}
	for _, p := range w.partnerships {
		if p.Status != partner.PartnershipArchived {
			add(p.Pair)
		}
	}
	for s := range w.sides {
		add(partner.PairOf(s.from, s.to))
	}
	for n := range w.nicknames {
		add(partner.PairOf(n.from, n.to))
	}
	ids := slices.SortedFunc(maps.Keys(open), func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	return ids[:min(len(ids), 2)] // fewer than PendingLimit, so that a deletion takes several rounds
}

func (w *world) load(c partner.Command) partner.State {
	named := c.RequestID
	if c.BreakupID != uuid.Nil {
		named = c.BreakupID
	}
	st := partner.State{Pair: w.loadPair(c.Pair, named), Users: map[uuid.UUID]partner.User{}}
	for _, id := range []uuid.UUID{c.Pair.Low, c.Pair.High, c.Issuer} {
		if u, ok := w.loadUser(id); ok {
			if id != uuid.Nil && (c.Type == partner.DeleteAccount || c.Type == partner.EraseAccount) {
				u.Counterparts = w.counterparts(id)
			}
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
			kept.Counterparts, kept.LastSeq = u.Counterparts, u.LastSeq
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
		if b, ok := w.breakups[c.BreakupID]; ok && b.Pair == c.Pair &&
			!slices.ContainsFunc(kept.Breakups, func(o partner.Breakup) bool { return o.ID == b.ID }) {
			st.Pair.Breakups = append(slices.Clone(kept.Breakups), b)
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
	st := w.load(c)
	var d partner.Decision
	if w.once {
		d = w.decide(w.limits, st, c)
	} else {
		var err error
		if d, err = w.decideThrice(st, c); err != nil {
			return d, err
		}
	}

	if err := w.checkShape(c, d); err != nil {
		return d, err
	}
	if err := w.checkChanges(c, d); err != nil {
		return d, err
	}
	if err := w.checkStart(c, d); err != nil {
		return d, err
	}
	if err := w.checkRules(st, c, d); err != nil {
		return d, err
	}
	if err := w.checkReads(c, d); err != nil {
		return d, err
	}
	w.write(d)
	w.tell(c, d)
	w.past.note(c, d)
	if err := w.checkInvariants(); err != nil {
		return d, err
	}
	return d, w.checkNext(c, d)
}

// decideThrice decides from the same state again and from what the batch kept: all is one.
func (w *world) decideThrice(st partner.State, c partner.Command) (partner.Decision, error) {
	untouched := w.load(c)
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
	return d, nil
}

func (w *world) write(d partner.Decision) {
	for _, r := range d.Requests {
		if _, ok := w.requests[r.ID]; !ok {
			w.order = append(w.order, r.ID)
		}
		w.requests[r.ID] = r
	}
	for _, p := range d.Partners {
		w.partnerships[p.ID] = p
	}
	for _, b := range d.Breakups {
		if _, ok := w.breakups[b.ID]; !ok {
			w.asked = append(w.asked, b.ID)
		}
		w.breakups[b.ID] = b
	}
	for _, s := range d.Sides {
		if w.sides[way{s.Owner, s.Other}] = s.Side; s.Side.Empty() {
			delete(w.sides, way{s.Owner, s.Other})
		}
	}
	for _, n := range d.Nicknames {
		if w.nicknames[way{n.Owner, n.Target}] = n.Text; n.Text == "" {
			delete(w.nicknames, way{n.Owner, n.Target})
		}
	}
	for _, p := range d.Profiles {
		w.profiles[p.UserID] = p.Patch
	}
	for _, a := range d.Accounts {
		u := w.accounts[a.UserID]
		u.Status = a.Status
		w.accounts[a.UserID] = u
		w.erased[a.UserID] = w.erased[a.UserID] || a.Erase
	}
	for _, e := range d.Events {
		for _, to := range e.Recipients {
			u := w.accounts[to]
			u.LastSeq++
			w.accounts[to] = u
		}
	}
	for _, r := range d.Reads {
		u := w.accounts[r.UserID]
		u.ReadSeq = r.Seq
		w.accounts[r.UserID] = u
	}
	for _, t := range d.Timers {
		if w.timers[timerKey{t.Pair, t.Kind}] = t; t.Due.IsZero() {
			delete(w.timers, timerKey{t.Pair, t.Kind})
		}
	}
	w.followUps = append(w.followUps, d.FollowUps...)
}

// fire lets one of the timers go off that are due, as the partition's owner does: no
// sooner than nothing accepted before can still come.
func (w *world) fire(pick int) error {
	var due []partner.Timer
	for _, t := range w.timers {
		if w.clock.Sub(t.Due) > 4*time.Second {
			due = append(due, t)
		}
	}
	if len(due) == 0 {
		return nil
	}
	slices.SortFunc(due, func(a, b partner.Timer) int {
		return cmp.Or(a.Due.Compare(b.Due), bytes.Compare(a.Ref[:], b.Ref[:]), cmp.Compare(a.Kind, b.Kind))
	})
	t := due[pick%len(due)]
	c := partner.Command{ID: partner.TimerID(t), Pair: t.Pair, AcceptedAt: t.Due, Cause: t.Ref}
	d := partner.DecideDue(w.limits, w.load(c), t)
	if len(d.Events) == 0 {
		return fmt.Errorf("timer %+v was due and nothing happened", t)
	}
	if err := w.checkShape(c, d); err != nil {
		return fmt.Errorf("timer: %w", err)
	}
	if err := w.checkChanges(c, d); err != nil {
		return fmt.Errorf("timer: %w", err)
	}
	delete(w.timers, timerKey{t.Pair, t.Kind})
	w.write(d)
	w.tell(c, d)
	w.past.note(c, d)
	w.flush()
	if err := w.checkInvariants(); err != nil {
		return fmt.Errorf("timer: %w", err)
	}
	if again := partner.DecideDue(w.limits, w.load(c), t); len(again.Events)+len(again.Timers) > 0 {
		return fmt.Errorf("a timer that went off did something again: %+v", again)
	}
	return nil
}

// written is what of a decision reaches the database.
func written(d partner.Decision) []any {
	return []any{
		d.Now, d.Outcome, d.Events, d.FollowUps, d.Requests, d.Partners, d.Breakups, d.Sides, d.Nicknames, d.Profiles, d.Accounts,
		d.Timers, d.Cuts, d.Activity, d.Reads,
	}
}
