package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/anishathalye/porcupine"
)

// The rules of pairs once more, as one small sequential machine for a few users: what the
// HTTP API shows must be explained by some order of the calls in which each call takes
// effect at one moment between its start and its answer. It shares no code with the core.
//
// Things are named by the operation that made them: operation 7's request is request 7,
// and the partnership that operation 9 started is partnership 9, also once restored.

// crowd is how many users share their pairs with each other.
const crowd = 4

// maxOperations bounds a history: the state has a bit for each operation.
const maxOperations = 2048

type verb string

const (
	doSend            verb = "send"
	doAccept          verb = "accept"
	doDecline         verb = "decline"
	doCancel          verb = "cancel"
	doRemove          verb = "remove"
	doAskBreakup      verb = "ask to part"
	doAcceptBreakup   verb = "agree to part"
	doDeclineBreakup  verb = "refuse to part"
	doWithdrawBreakup verb = "withdraw"
	doBlock           verb = "block"
	doUnblock         verb = "unblock"
	doForfeit         verb = "forfeit"
	readPartners      verb = "partners"
	readRequests      verb = "requests"
	readSlots         verb = "slots"
	readBreakups      verb = "breakups"
)

// unnamed names nothing, or something of which nobody knows who made it.
const unnamed = -1

// asked is what a call asks for.
type asked struct {
	index        int // of the operation
	verb         verb
	user, other  int
	named        int // the request, partnership or breakup
	fresh, quiet bool
	settled      bool // a read after everything has been carried out, follow-ups too
}

// told is what came of a call.
type told struct {
	unknown                       bool   // nobody knows
	code                          string // empty when it was applied
	request, partnership, breakup int
	crossed, restored             bool
	list                          []int // reads: sorted names; for slots how many are occupied
}

func applied() told { return told{request: unnamed, partnership: unnamed, breakup: unnamed} }

func refused(code string) told { t := applied(); t.code = code; return t }

func (t told) same(o told) bool {
	return t.code == o.code && t.request == o.request && t.partnership == o.partnership && t.breakup == o.breakup &&
		t.crossed == o.crossed && t.restored == o.restored && slices.Equal(t.list, o.list)
}

// way is what one of a pair holds against the other.
type way struct {
	blocks, doorClosed, declined, forfeited bool
}

// bond is all that there is between two users. Nothing in a history takes days, so what
// ended can be restored and who was declined has to wait.
type bond struct {
	request     int // pending, or unnamed
	fresh       bool
	doomed      bool // to be superseded at any moment: a slot of one of the two was the last
	partnership int  // unnamed when they never were partners
	active      bool
	breakup     int // pending, or unnamed
	ways        [2]way
}

// town is a state. It is a value: == compares it and assignment copies it.
type town struct {
	bonds [crowd * (crowd - 1) / 2]bond
	made  [maxOperations / 64]uint64 // by operation: it made a request or asked to part
}

// pairModel is the machine for one history.
type pairModel struct {
	slots [crowd]int
	calls []asked // by index
}

func (m *pairModel) porcupine() porcupine.Model {
	nondeterministic := porcupine.NondeterministicModel{
		Init: func() []any {
			var s town
			for i := range s.bonds {
				s.bonds[i] = bond{request: unnamed, partnership: unnamed, breakup: unnamed}
			}
			return []any{s}
		},
		Step:              func(state, in, out any) []any { return m.step(state.(town), in.(asked), out.(told)) },
		DescribeOperation: func(in, out any) string { return describe(in.(asked), out.(told)) },
		DescribeState:     func(state any) string { return state.(town).String() },
	}
	return nondeterministic.ToModel()
}

// bondOf returns the place of a pair, and which of its ways is the first user's own.
func bondOf(a, b int) (place, own int) {
	if a > b {
		a, b, own = b, a, 1
	}
	return a*(2*crowd-a-1)/2 + b - a - 1, own
}

// step returns the states in which a call with this answer can leave the town.
func (m *pairModel) step(s town, in asked, out told) []any {
	if in.verb == readRequests {
		return m.seeRequests(s, in, out)
	}
	var after []any
	try := func(s town) {
		if next, got := m.carryOut(s, in); out.unknown || got.same(out) {
			after = append(after, next)
		}
	}
	try(s)
	// The follow-up may have come before.
	if in.user != in.other {
		if place, _ := bondOf(in.user, in.other); s.bonds[place].doomed {
			s.bonds[place].drop()
			try(s)
		}
	}
	return after
}

// seeRequests explains a list of pending requests: what is doomed may be missing from it,
// and is gone then for good.
func (m *pairModel) seeRequests(s town, in asked, out told) []any {
	if out.unknown {
		return []any{s}
	}
	seen := 0
	for other := range crowd {
		if other == in.user {
			continue
		}
		place, _ := bondOf(in.user, other)
		b := &s.bonds[place]
		if b.request == unnamed {
			continue
		}
		switch listed := slices.Contains(out.list, b.request); {
		case listed && b.doomed && in.settled:
			return nil // the follow-up never came
		case listed:
			seen++
		case b.doomed:
			b.drop()
		default:
			return nil
		}
	}
	if seen != len(out.list) {
		return nil
	}
	return []any{s}
}

func (b *bond) drop() { b.request, b.doomed, b.fresh = unnamed, false, false }

// end ends the partnership, and with it the question whether to.
func (b *bond) end() { b.active, b.breakup = false, unnamed }

func (m *pairModel) full(s *town, user int) bool { return m.occupied(s, user) >= m.slots[user] }

func (m *pairModel) occupied(s *town, user int) (n int) {
	for other := range crowd {
		if other != user {
			if place, _ := bondOf(user, other); s.bonds[place].active {
				n++
			}
		}
	}
	return n
}

// carryOut is the town after a call and what its caller is told.
func (m *pairModel) carryOut(s town, in asked) (town, told) {
	switch in.verb {
	case readPartners, readBreakups, readSlots:
		return s, m.look(&s, in)
	default:
	}
	place, own := bondOf(in.user, in.other)
	b := &s.bonds[place]
	me, them := &b.ways[own], &b.ways[1-own]
	got := applied()
	switch in.verb {
	case doSend:
		return m.send(s, in)
	case doAccept:
		if code := m.requestFor(&s, in, in.other); code != "" {
			return s, refused(code)
		}
		if m.full(&s, in.user) {
			return s, refused("no_vacant_slot")
		}
		if m.full(&s, in.other) || them.blocks || them.doorClosed {
			return s, refused("target_unavailable")
		}
		return m.start(s, in)
	case doDecline, doCancel:
		sender := in.other
		if in.verb == doCancel {
			sender = in.user
		}
		if code := m.requestFor(&s, in, sender); code != "" {
			return s, refused(code)
		}
		me.declined = me.declined || in.verb == doDecline
		b.drop()
		got.request = in.named
	case doRemove:
		if !b.active || b.partnership != in.named {
			return s, refused("not_current")
		}
		b.end()
		me.doorClosed = me.doorClosed || in.quiet
		got.partnership = in.named
	case doAskBreakup:
		switch {
		case !b.active || b.partnership != in.named:
			return s, refused("not_current")
		case b.breakup == unnamed:
			b.breakup, got.breakup = in.index, in.index
			s.made[in.index/64] |= 1 << (in.index % 64)
		case m.calls[b.breakup].user == in.user:
			return s, refused("request_pending")
		default: // both want it
			got.breakup, got.crossed = b.breakup, true
			b.end()
		}
		got.partnership = in.named
	case doAcceptBreakup, doDeclineBreakup, doWithdrawBreakup:
		if !s.has(in.named) || (m.calls[in.named].user == in.user) != (in.verb == doWithdrawBreakup) {
			return s, refused("not_found")
		}
		if b.breakup != in.named {
			return s, refused("not_pending")
		}
		b.breakup = unnamed
		if in.verb == doAcceptBreakup {
			b.end()
		}
		got.breakup, got.partnership = in.named, b.partnership
	case doBlock:
		if b.active {
			b.end()
		}
		b.drop()
		me.blocks, me.doorClosed = true, true
		me.forfeited = b.partnership != unnamed
	case doUnblock:
		if !me.blocks {
			return s, refused("not_found")
		}
		me.blocks = false
	case doForfeit:
		if in.named == unnamed || b.active || b.partnership != in.named || me.forfeited {
			return s, refused("not_found")
		}
		me.forfeited = true
		got.partnership = in.named
	default:
		panic("no rule for " + in.verb)
	}
	return s, got
}

// look is what a read shows.
func (m *pairModel) look(s *town, in asked) told {
	got := applied()
	if in.verb == readSlots {
		got.list = []int{m.occupied(s, in.user)}
		return got
	}
	for other := range crowd {
		if other == in.user {
			continue
		}
		place, _ := bondOf(in.user, other)
		switch b := s.bonds[place]; {
		case in.verb == readPartners && b.active:
			got.list = append(got.list, b.partnership)
		case in.verb == readBreakups && b.breakup != unnamed:
			got.list = append(got.list, b.breakup)
		}
	}
	slices.Sort(got.list)
	return got
}

func (s *town) has(made int) bool { return made != unnamed && s.made[made/64]&(1<<(made%64)) != 0 }

// requestFor says why the named request is not one that this sender sent and that waits.
func (m *pairModel) requestFor(s *town, in asked, sender int) string {
	if !s.has(in.named) || m.calls[in.named].user != sender {
		return "not_found"
	}
	place, _ := bondOf(in.user, in.other)
	if s.bonds[place].request != in.named {
		return "not_pending"
	}
	return ""
}

func (m *pairModel) send(s town, in asked) (town, told) {
	place, own := bondOf(in.user, in.other)
	b := &s.bonds[place]
	me, them := &b.ways[own], &b.ways[1-own]
	crosses := b.request != unnamed && m.calls[b.request].user == in.other
	switch {
	case b.active:
		return s, refused("already_partners")
	case b.request != unnamed && !crosses:
		return s, refused("request_pending")
	case m.full(&s, in.user):
		return s, refused("no_vacant_slot")
	case me.blocks:
		return s, refused("blocked_by_you")
	}
	me.doorClosed, me.declined = false, false // whoever asks is open to the other
	switch {
	case m.full(&s, in.other) || them.blocks || them.doorClosed:
		return s, refused("target_unavailable")
	case crosses:
		return m.start(s, in)
	case them.declined:
		return s, refused("cooldown")
	}
	b.request, b.fresh = in.index, in.fresh
	s.made[in.index/64] |= 1 << (in.index % 64)
	got := applied()
	got.request = in.index
	return s, got
}

// start makes the two partners, or partners again.
func (m *pairModel) start(s town, in asked) (town, told) {
	place, _ := bondOf(in.user, in.other)
	b := &s.bonds[place]
	got := applied()
	got.request, got.crossed = b.request, in.verb == doSend
	restored := b.partnership != unnamed && !b.fresh && !in.fresh && !b.ways[0].forfeited && !b.ways[1].forfeited
	if !restored {
		b.partnership = in.index
	}
	b.drop()
	b.active = true
	for i := range b.ways {
		b.ways[i].doorClosed, b.ways[i].declined, b.ways[i].forfeited = false, false, false
	}
	got.partnership = b.partnership
	got.restored = restored && !got.crossed // who crosses is not told
	for _, user := range [...]int{in.user, in.other} {
		if !m.full(&s, user) {
			continue
		}
		for other := range crowd {
			if other != user {
				place, _ := bondOf(user, other)
				s.bonds[place].doomed = s.bonds[place].request != unnamed
			}
		}
	}
	return s, got
}

func describe(in asked, out told) string {
	var b strings.Builder
	fmt.Fprintf(&b, "#%d user %d: %s", in.index, in.user, in.verb)
	if in.other != in.user {
		fmt.Fprintf(&b, " user %d", in.other)
	}
	if in.named != unnamed {
		fmt.Fprintf(&b, " of #%d", in.named)
	}
	if in.fresh {
		b.WriteString(" fresh")
	}
	if in.quiet {
		b.WriteString(" quiet")
	}
	switch {
	case out.unknown:
		b.WriteString(" → ?")
	case out.code != "":
		b.WriteString(" → " + out.code)
	case strings.Contains("partners requests slots breakups", string(in.verb)):
		fmt.Fprintf(&b, " → %v", out.list)
	default:
		fmt.Fprintf(&b, " → request %d, partnership %d, breakup %d, crossed %v, restored %v",
			out.request, out.partnership, out.breakup, out.crossed, out.restored)
	}
	return b.String()
}

func (s town) String() string {
	var b strings.Builder
	for low := range crowd {
		for high := low + 1; high < crowd; high++ {
			place, _ := bondOf(low, high)
			if bond := s.bonds[place]; bond != (bondless) {
				fmt.Fprintf(&b, "%d:%d %+v ", low, high, bond)
			}
		}
	}
	return b.String()
}

var bondless = bond{request: unnamed, partnership: unnamed, breakup: unnamed}

// TestPairModel holds the machine to histories of which everybody can say whether they
// can be: a checker that finds everything in order would prove nothing.
func TestPairModel(t *testing.T) {
	t.Parallel()
	type call struct {
		asked
		told
		from, to int64
	}
	result := func(edit func(*told)) told { r := applied(); edit(&r); return r }
	sent := func(op int) told { return result(func(r *told) { r.request = op }) }
	started := func(request, partnership int) told {
		return result(func(r *told) { r.request, r.partnership = request, partnership })
	}
	list := func(names ...int) told { return result(func(r *told) { r.list = names }) }
	ask := func(v verb, user, other, named int) asked {
		return asked{verb: v, user: user, other: other, named: named}
	}
	// Users 0 and 1 are partners by operations 0 and 1, one after the other.
	couple := []call{
		{ask(doSend, 0, 1, unnamed), sent(0), 0, 1},
		{ask(doAccept, 1, 0, 0), started(0, 1), 2, 3},
	}
	with := func(more ...call) []call { return append(slices.Clone(couple), more...) }
	for name, tt := range map[string]struct {
		calls []call
		want  porcupine.CheckResult
	}{
		"a request and its acceptance": {couple, porcupine.Ok},
		"accepted before it was sent": {[]call{
			{ask(doSend, 0, 1, unnamed), sent(0), 2, 3},
			{ask(doAccept, 1, 0, 0), started(0, 1), 0, 1},
		}, porcupine.Illegal},
		"accepted while it was sent": {[]call{
			{ask(doSend, 0, 1, unnamed), sent(0), 0, 3},
			{ask(doAccept, 1, 0, 0), started(0, 1), 1, 2},
		}, porcupine.Ok},
		"a read that is old": {with(call{ask(readPartners, 0, 0, unnamed), list(), 4, 5}), porcupine.Illegal},
		"a read meanwhile":   {append(couple[:1:1], call{couple[1].asked, couple[1].told, 2, 6}, call{ask(readPartners, 0, 0, unnamed), list(), 4, 5}), porcupine.Ok},
		"two reads, the second older": {append(couple[:1:1],
			call{couple[1].asked, couple[1].told, 2, 9},
			call{ask(readPartners, 0, 0, unnamed), list(1), 3, 4}, call{ask(readPartners, 1, 1, unnamed), list(), 5, 6}), porcupine.Illegal},
		"one slot, two acceptances at once": {[]call{
			{ask(doSend, 1, 0, unnamed), sent(0), 0, 1}, {ask(doSend, 2, 0, unnamed), sent(1), 0, 1},
			{ask(doAccept, 0, 1, 0), started(0, 2), 2, 5}, {ask(doAccept, 0, 2, 1), started(1, 3), 2, 5},
		}, porcupine.Illegal},
		"one slot, one of two acceptances": {[]call{
			{ask(doSend, 1, 0, unnamed), sent(0), 0, 1}, {ask(doSend, 2, 0, unnamed), sent(1), 0, 1},
			{ask(doAccept, 0, 1, 0), started(0, 2), 2, 5}, {ask(doAccept, 0, 2, 1), refused("no_vacant_slot"), 2, 5},
			{ask(readRequests, 0, 0, unnamed), list(1), 6, 7}, {ask(readRequests, 2, 2, unnamed), list(), 8, 9},
		}, porcupine.Ok},
		"superseded and pending again": {[]call{
			{ask(doSend, 1, 0, unnamed), sent(0), 0, 1}, {ask(doSend, 2, 0, unnamed), sent(1), 0, 1},
			{ask(doAccept, 0, 1, 0), started(0, 2), 2, 3},
			{ask(readRequests, 2, 2, unnamed), list(), 6, 7}, {ask(readRequests, 0, 0, unnamed), list(1), 8, 9},
		}, porcupine.Illegal},
		"never superseded": {[]call{
			{ask(doSend, 1, 0, unnamed), sent(0), 0, 1}, {ask(doSend, 2, 0, unnamed), sent(1), 0, 1},
			{ask(doAccept, 0, 1, 0), started(0, 2), 2, 3},
			{asked{verb: readRequests, user: 0, named: unnamed, settled: true}, list(1), 8, 9},
		}, porcupine.Illegal},
		"a request that vanished": {[]call{
			{ask(doSend, 0, 1, unnamed), sent(0), 0, 1}, {ask(readRequests, 1, 1, unnamed), list(), 2, 3},
		}, porcupine.Illegal},
		"both ask, both requests stand": {[]call{
			{ask(doSend, 0, 1, unnamed), sent(0), 0, 3}, {ask(doSend, 1, 0, unnamed), sent(1), 0, 3},
		}, porcupine.Illegal},
		"restored as another": {with(
			call{ask(doRemove, 0, 1, 1), result(func(r *told) { r.partnership = 1 }), 4, 5},
			call{ask(doSend, 0, 1, unnamed), sent(3), 6, 7}, call{ask(doAccept, 1, 0, 3), started(3, 4), 8, 9}), porcupine.Illegal},
		"restored": {with(
			call{ask(doRemove, 0, 1, 1), result(func(r *told) { r.partnership = 1 }), 4, 5},
			call{ask(doSend, 0, 1, unnamed), sent(3), 6, 7},
			call{ask(doAccept, 1, 0, 3), result(func(r *told) { r.request, r.partnership, r.restored = 3, 1, true }), 8, 9}), porcupine.Ok},
		"blocked, and told another code": {[]call{
			{ask(doBlock, 1, 0, unnamed), applied(), 0, 1}, {ask(doSend, 0, 1, unnamed), refused("cooldown"), 2, 3},
		}, porcupine.Illegal},
		"blocked": {[]call{
			{ask(doBlock, 1, 0, unnamed), applied(), 0, 1}, {ask(doSend, 0, 1, unnamed), refused("target_unavailable"), 2, 3},
		}, porcupine.Ok},
		"unknown, it has happened":       {with(call{ask(doRemove, 0, 1, 1), told{unknown: true}, 4, 99}, call{ask(readPartners, 1, 1, unnamed), list(), 6, 7}), porcupine.Ok},
		"unknown, it has not":            {with(call{ask(doRemove, 0, 1, 1), told{unknown: true}, 4, 99}, call{ask(readPartners, 1, 1, unnamed), list(1), 6, 7}), porcupine.Ok},
		"unknown, it cannot have: later": {with(call{ask(doRemove, 0, 1, 1), told{unknown: true}, 8, 99}, call{ask(readPartners, 1, 1, unnamed), list(), 6, 7}), porcupine.Illegal},
		"a leave and a breakup's end": {with(
			call{ask(doAskBreakup, 0, 1, 1), result(func(r *told) { r.breakup, r.partnership = 2, 1 }), 4, 5},
			call{ask(doRemove, 0, 1, 1), result(func(r *told) { r.partnership = 1 }), 6, 9},
			call{ask(doAcceptBreakup, 1, 0, 2), result(func(r *told) { r.breakup, r.partnership = 2, 1 }), 6, 9}), porcupine.Illegal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := &pairModel{slots: [crowd]int{1, 1, 1, 1}}
			var history []porcupine.Operation
			for i, c := range tt.calls {
				c.index = i
				m.calls = append(m.calls, c.asked)
				history = append(history, porcupine.Operation{ClientId: i, Input: c.asked, Output: c.told, Call: c.from, Return: c.to})
			}
			if got := porcupine.CheckOperationsTimeout(m.porcupine(), history, 0); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}
