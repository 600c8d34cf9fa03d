package processor

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

// model is the core alone: one command after the other, all state in maps.
type model struct {
	users     map[uuid.UUID]partner.User
	pairs     map[partner.Pair]partner.PairState
	requests  map[uuid.UUID]partner.Request
	breakups  map[uuid.UUID]partner.Breakup
	all       map[uuid.UUID]partner.Partnership
	outcomes  map[uuid.UUID]string
	inbox     map[uuid.UUID]int64
	nicknames map[way]string
	timers    map[timerKey]partner.Timer
	cuts      map[string]int
	names     map[uuid.UUID]string
	status    map[uuid.UUID]partner.UserStatus
	read      map[uuid.UUID]int64
	erased    map[uuid.UUID]int64 // the head of the inbox that went
	order     []uuid.UUID         // requests in the order of their making
}

type way struct{ from, to uuid.UUID }

func newModel() *model {
	return &model{
		users: map[uuid.UUID]partner.User{}, pairs: map[partner.Pair]partner.PairState{}, requests: map[uuid.UUID]partner.Request{},
		breakups: map[uuid.UUID]partner.Breakup{}, all: map[uuid.UUID]partner.Partnership{}, outcomes: map[uuid.UUID]string{},
		inbox: map[uuid.UUID]int64{}, nicknames: map[way]string{}, timers: map[timerKey]partner.Timer{}, cuts: map[string]int{},
		names: map[uuid.UUID]string{}, status: map[uuid.UUID]partner.UserStatus{}, read: map[uuid.UUID]int64{},
		erased: map[uuid.UUID]int64{},
	}
}

func (m *model) load(cmd partner.Command) partner.State {
	pair := m.pairs[cmd.Pair]
	st := partner.State{Users: map[uuid.UUID]partner.User{}, Pair: partner.PairState{
		Pair: cmd.Pair, Partnership: pair.Partnership, Low: pair.Low, High: pair.High,
	}}
	for _, id := range m.order {
		r := m.requests[id]
		if partner.PairOf(r.Sender, r.Target) == cmd.Pair && (r.Status == partner.RequestPending || r.ID == cmd.RequestID) {
			st.Pair.Requests = append(st.Pair.Requests, r)
		}
	}
	for _, b := range m.breakups {
		if b.Pair == cmd.Pair && (b.Status == partner.BreakupPending || b.ID == cmd.BreakupID) {
			st.Pair.Breakups = append(st.Pair.Breakups, b)
		}
	}
	for _, id := range []uuid.UUID{cmd.Pair.Low, cmd.Pair.High} {
		u := m.users[id]
		u.Pending, u.LastSeq = nil, m.inbox[id]
		if cmd.Type == partner.DeleteAccount || cmd.Type == partner.EraseAccount {
			u.Counterparts = m.counterparts(id)
		}
		for _, rid := range m.order {
			if r := m.requests[rid]; r.Status == partner.RequestPending && (r.Sender == id || r.Target == id) {
				u.Pending = append(u.Pending, partner.PendingRef{RequestID: rid, Pair: partner.PairOf(r.Sender, r.Target)})
			}
		}
		st.Users[id] = u
	}
	return st
}

// counterparts are those with whom the user has something that is not closed.
func (m *model) counterparts(id uuid.UUID) []uuid.UUID {
	open := map[uuid.UUID]bool{}
	for _, r := range m.requests {
		if pair := partner.PairOf(r.Sender, r.Target); pair.Has(id) && r.Status == partner.RequestPending {
			open[pair.Other(id)] = true
		}
	}
	for pair, st := range m.pairs {
		st.Low.Named, st.High.Named = false, false
		if pair.Has(id) && !pair.Solo() && (st.Partnership != nil || !st.Low.Empty() || !st.High.Empty()) {
			open[pair.Other(id)] = true
		}
	}
	for n := range m.nicknames {
		if pair := partner.PairOf(n.from, n.to); pair.Has(id) {
			open[pair.Other(id)] = true
		}
	}
	return slices.SortedFunc(maps.Keys(open), func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
}

func (m *model) apply(cmd partner.Command) {
	if _, seen := m.outcomes[cmd.ID]; seen {
		return
	}
	d := partner.Decide(partner.DefaultLimits(), m.load(cmd), cmd)
	m.outcomes[cmd.ID] = string(d.Outcome.Code)
	m.write(cmd.Pair, d)
}

// fire applies a timer.
func (m *model) fire(timer partner.Timer) {
	delete(m.timers, timerKey{timer.Pair, timer.Kind})
	m.write(timer.Pair, partner.DecideDue(partner.DefaultLimits(), m.load(partner.Command{Pair: timer.Pair}), timer))
}

func (m *model) write(pair partner.Pair, d partner.Decision) {
	for _, r := range d.Requests {
		if _, known := m.requests[r.ID]; !known {
			m.order = append(m.order, r.ID)
		}
		m.requests[r.ID] = r
	}
	for _, b := range d.Breakups {
		m.breakups[b.ID] = b
	}
	for _, p := range d.Partners {
		m.all[p.ID] = p
	}
	for _, n := range d.Nicknames {
		m.nicknames[way{n.Owner, n.Target}] = n.Text
	}
	maps.DeleteFunc(m.nicknames, func(_ way, text string) bool { return text == "" })
	for _, p := range d.Profiles {
		if p.Patch.DisplayName != nil {
			m.names[p.UserID] = *p.Patch.DisplayName
		}
	}
	for _, t := range d.Timers {
		key := timerKey{t.Pair, t.Kind}
		m.timers[key] = t
		if t.Due.IsZero() {
			delete(m.timers, key)
		}
	}
	for _, c := range d.Cuts {
		m.cut(c.Recipient, c.Origin)
	}
	for _, r := range d.Reads {
		m.read[r.UserID] = r.Seq
	}
	for _, a := range d.Accounts {
		m.status[a.UserID] = a.Status
		if a.Erase {
			m.erase(a.UserID)
			continue
		}
		for _, r := range m.requests {
			if pair := partner.PairOf(r.Sender, r.Target); pair.Has(a.UserID) {
				m.cut(pair.Other(a.UserID), a.UserID)
			}
		}
	}
	m.pairs[pair] = d.Next.Pair
	for id, u := range d.Next.Users {
		m.users[id] = u
	}
	for _, ev := range d.Events {
		for _, u := range ev.Recipients {
			m.inbox[u]++
		}
	}
}

func (m *model) cut(recipient, origin uuid.UUID) {
	if head := m.inbox[recipient]; head > 0 {
		m.cuts[fmt.Sprint(recipient, origin, head)] = 1
	}
}

// erase takes what a deleted user wrote and was told.
func (m *model) erase(user uuid.UUID) {
	m.names[user], m.erased[user] = "", m.inbox[user]
	delete(m.read, user)
	for id, r := range m.requests {
		if r.Sender == user {
			r.Message = ""
			m.requests[id] = r
		}
	}
	maps.DeleteFunc(m.cuts, func(cut string, _ int) bool { return strings.HasPrefix(cut, user.String()) })
}
