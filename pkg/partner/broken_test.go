package partner_test

import (
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

// brokenRule is a decider with one rule broken, and what finding it says.
type brokenRule struct {
	want   string
	decide decider
}

// enough is how many histories, always the same, have to find each broken rule.
const enough = 30_000

// rare is which of them it was last, where that takes long to find: it is tried first. When
// what is drawn changes it finds nothing and all are searched; put the new number here.
var rare = map[string]uint64{
	"fresh is ignored":            5_678,
	"the window is days longer":   26_502,
	"the batch's leftovers count": 1_586,
	"a fourth send in a day":      7_143,
	"forfeiting is ignored":       1_171,
}

func mustFind(t *testing.T, broken map[string]brokenRule) {
	t.Helper()
	for name, tt := range broken {
		t.Run(name, func(t *testing.T) {
			found := func(n uint64) bool {
				err := happen(drawHistory(rand.New(rand.NewPCG(1, n)), false), tt.decide)
				return err != nil && strings.Contains(err.Error(), tt.want)
			}
			if n, ok := rare[name]; ok && found(n) {
				return
			}
			for n := range uint64(enough) {
				if found(n) {
					t.Logf("found by history %d", n)
					return
				}
			}
			t.Errorf("no history of %d found that %s", enough, tt.want)
		})
	}
}

// after decides as it should be and then changes the decision.
func after(change func(partner.State, partner.Command, *partner.Decision)) decider {
	return func(l partner.Limits, st partner.State, c partner.Command) partner.Decision {
		d := partner.Decide(l, st, c)
		change(st, c, &d)
		return d
	}
}

// limited decides by other limits.
func limited(change func(*partner.Limits)) decider {
	return func(l partner.Limits, st partner.State, c partner.Command) partner.Decision {
		change(&l)
		return partner.Decide(l, st, c)
	}
}

// blind decides the commands of a type without what the change takes from both sides.
func blind(kind partner.CommandType, change func(*partner.Side)) decider {
	return func(l partner.Limits, st partner.State, c partner.Command) partner.Decision {
		if c.Type == kind {
			change(&st.Pair.Low)
			change(&st.Pair.High)
		}
		return partner.Decide(l, st, c)
	}
}

// TestHistoriesFindBrokenRules runs the property on deciders with one rule broken each.
// One that goes unnoticed means that the property does not guard that rule.
func TestHistoriesFindBrokenRules(t *testing.T) {
	t.Parallel()
	vacate := func(who func(partner.Command) uuid.UUID) decider {
		return func(l partner.Limits, st partner.State, c partner.Command) partner.Decision {
			users := maps.Clone(st.Users)
			if u, ok := users[who(c)]; ok {
				u.Occupied = nil
				users[u.ID] = u
			}
			d := partner.Decide(l, partner.State{Pair: st.Pair, Users: users}, c)
			if len(d.Partners) == 0 { // nothing came of it: all the rest is as it should be
				return partner.Decide(l, st, c)
			}
			return d
		}
	}
	window := func(by time.Duration) decider {
		return func(l partner.Limits, st partner.State, c partner.Command) partner.Decision {
			moved := st
			if p := st.Pair.Partnership; p != nil && p.Status == partner.PartnershipEnded {
				other := *p
				other.RestorableUntil = p.RestorableUntil.Add(by)
				moved.Pair.Partnership = &other
			}
			d := partner.Decide(l, moved, c)
			if p := d.Next.Pair.Partnership; p == nil || p.Status != partner.PartnershipActive {
				return partner.Decide(l, st, c)
			}
			return d
		}
	}
	issuer := func(c partner.Command) uuid.UUID { return c.Issuer }
	other := func(c partner.Command) uuid.UUID { return c.Pair.Other(c.Issuer) }
	calls := 0
	broken := map[string]brokenRule{
		"the issuer's full slots do not count": {"is taken twice", vacate(issuer)},
		"the other's full slots do not count":  {"is taken twice", vacate(other)},
		"a pending request does not count": {"has two pending requests", func(l partner.Limits, st partner.State, c partner.Command) partner.Decision {
			if c.Type == partner.Send {
				st.Pair.Requests = nil
			}
			return partner.Decide(l, st, c)
		}},
		"the window is days longer":  {"restored true, want false", window(6 * day)},
		"the window is days shorter": {"restored false, want true", window(-6 * day)},
		"fresh is ignored": {"restored true, want false", func(l partner.Limits, st partner.State, c partner.Command) partner.Decision {
			c.Fresh = false
			return partner.Decide(l, st, c)
		}},
		"follow-ups are lost": {"has no vacant slot but", after(func(_ partner.State, _ partner.Command, d *partner.Decision) { d.FollowUps = nil })},
		"the aggregates stay behind": {"loading it gives", after(func(st partner.State, _ partner.Command, d *partner.Decision) {
			d.Next.Users = st.Users
		})},
		"a command without event": {"no event", after(func(_ partner.State, _ partner.Command, d *partner.Decision) {
			if !d.Outcome.Applied() {
				d.Events = nil
			}
		})},
		"a rejection writes": {"changed partnership", after(func(st partner.State, _ partner.Command, d *partner.Decision) {
			if len(d.Partners) == 0 && !d.Outcome.Applied() && st.Pair.Partnership != nil {
				p := *st.Pair.Partnership
				p.Version++
				d.Partners = append(d.Partners, p)
			}
		})},
		"the input is written to": {"the state that was given is changed", after(func(st partner.State, _ partner.Command, _ *partner.Decision) {
			for _, r := range st.Pair.Requests {
				st.Pair.Requests[0] = partner.Request{ID: r.ID}
			}
		})},
		"ids are not derived": {"two decisions", after(func(_ partner.State, _ partner.Command, d *partner.Decision) {
			calls++
			d.Events[0].ID = numbered(1_000_000 + calls)
		})},
		"event ids repeat": {"is used twice", after(func(_ partner.State, c partner.Command, d *partner.Decision) { d.Events[0].ID = c.Pair.Low })},
		"the batch's leftovers count": {"the batch decides otherwise", func(l partner.Limits, st partner.State, c partner.Command) partner.Decision {
			for _, r := range st.Pair.Requests {
				if r.ResolvedAt.After(c.AcceptedAt) {
					c.AcceptedAt = r.ResolvedAt
				}
			}
			return partner.Decide(l, st, c)
		}},
	}
	mustFind(t, broken)
}

// TestHistoriesFindBrokenSafety is the same for the rules that keep people safe.
func TestHistoriesFindBrokenSafety(t *testing.T) {
	t.Parallel()
	blocked := func(st partner.State) bool {
		return !st.Pair.Low.BlockedAt.IsZero() || !st.Pair.High.BlockedAt.IsZero()
	}
	mustFind(t, map[string]brokenRule{
		"a block does not count": {`code "", want "target_unavailable"`, blind(partner.Send, func(s *partner.Side) {
			if !s.BlockedAt.IsZero() {
				s.BlockedAt, s.DoorClosedAt = time.Time{}, time.Time{}
			}
		})},
		"a closed door does not count": {`code "", want "target_unavailable"`, blind(partner.Send, func(s *partner.Side) { s.DoorClosedAt = time.Time{} })},
		"a blocker can send":           {`want "blocked_by_you"`, blind(partner.Send, func(s *partner.Side) { s.BlockedAt = time.Time{} })},
		"a blocked sender is told so": {`code "not_found", want "target_unavailable"`, after(func(st partner.State, _ partner.Command, d *partner.Decision) {
			if d.Outcome.Code == partner.CodeTargetUnavailable && blocked(st) {
				d.Outcome.Code = partner.CodeNotFound
			}
		})},
		"a blocked sender can tell": {"a sender can tell", after(func(st partner.State, _ partner.Command, d *partner.Decision) {
			if d.Outcome.Code == partner.CodeTargetUnavailable && blocked(st) {
				d.Events[len(d.Events)-1].Data.Silent = true
			}
		})},
		"a block is told": {"a block shows as", after(func(_ partner.State, c partner.Command, d *partner.Decision) {
			if c.Type == partner.Block && len(d.Partners) > 0 {
				d.Events[0].Recipients = []uuid.UUID{c.Pair.Low, c.Pair.High}
			}
		})},
		"a block empties what a filled slot leaves": {"a block takes", after(func(_ partner.State, c partner.Command, d *partner.Decision) {
			if other := c.Pair.Other(c.Issuer); c.Type == partner.Block && len(d.Partners) == 0 && len(d.Cuts) > 0 {
				d.Cuts = append(d.Cuts, partner.Cut{Recipient: other, Origin: c.Issuer})
			}
		})},
		"the first cooldown is short":           {`code "", want "cooldown"`, limited(func(l *partner.Limits) { l.Cooldowns[0] = time.Hour })},
		"the second cooldown is like the first": {`code "", want "cooldown"`, limited(func(l *partner.Limits) { l.Cooldowns[1] = l.Cooldowns[0] })},
		"cooldowns last too long":               {`code "cooldown", want ""`, limited(func(l *partner.Limits) { l.Cooldowns[0] += time.Microsecond })},
		"a fourth send in a day":                {`code "", want "cooldown"`, limited(func(l *partner.Limits) { l.SendsPerTarget++ })},
		"a third send in a day is too much":     {`code "cooldown", want ""`, limited(func(l *partner.Limits) { l.SendsPerTarget-- })},
		"forfeiting is ignored":                 {"restored true, want false", blind(partner.Accept, func(s *partner.Side) { s.Forfeited = uuid.Nil })},
		"an asker is held up":                   {"is to last", limited(func(l *partner.Limits) { l.BreakupTTL += day })},
		"a breakup outlives the partnership": {"which is not active", after(func(_ partner.State, c partner.Command, d *partner.Decision) {
			if c.Type == partner.Remove {
				d.Breakups = nil
			}
		})},
		"timers are not set": {"the timers are", after(func(_ partner.State, _ partner.Command, d *partner.Decision) { d.Timers = nil })},
		"nothing is cut":     {"no cut", after(func(_ partner.State, _ partner.Command, d *partner.Decision) { d.Cuts = nil })},
		"a cut takes the news away": {"a later cut would take away", after(func(_ partner.State, c partner.Command, d *partner.Decision) {
			for i := range d.Events {
				if d.Events[i].Type == partner.EventPartnershipEnded {
					d.Events[i].Origin = c.Issuer
				}
			}
		})},
		"nicknames outlive the partnership": {"a nickname outlived", after(func(_ partner.State, c partner.Command, d *partner.Decision) {
			if c.Type != partner.SetNickname && c.Type != partner.ClearNickname {
				d.Nicknames = nil
			}
		})},
		"a deleted user is forgotten": {"is deleted and", after(func(_ partner.State, c partner.Command, d *partner.Decision) {
			if c.Type == partner.DeleteAccount {
				d.FollowUps = nil
			}
		})},
		"only the first pairs of a deleted user are closed": {"is deleted and", after(func(_ partner.State, c partner.Command, d *partner.Decision) {
			if c.Type == partner.EraseAccount {
				d.FollowUps = nil
			}
		})},
		"an end is not told": {"the events tell otherwise", after(func(_ partner.State, c partner.Command, d *partner.Decision) {
			if c.Type == partner.Remove && d.Outcome.Applied() {
				d.Events = d.Events[len(d.Events)-1:]
			}
		})},
		"a restoration is not counted": {"restoredCount is", after(func(_ partner.State, _ partner.Command, d *partner.Decision) {
			for i := range d.Events {
				if e := &d.Events[i]; e.Type == partner.EventPartnershipStarted {
					e.Data.RestoredCount = new(0)
				}
			}
		})},
		"a door closes without a word": {"doorClosedAt is", after(func(_ partner.State, c partner.Command, d *partner.Decision) {
			for i := range d.Events {
				if c.Type == partner.Remove {
					d.Events[i].Data.Silent = false
				}
			}
		})},
		"time makes a difference": {"makes a difference", func(l partner.Limits, st partner.State, c partner.Command) partner.Decision {
			d := partner.Decide(l, st, c)
			for i, r := range st.Pair.Requests {
				if c.Type == partner.Send && r.Status == partner.RequestPending && d.Now.After(r.ExpiresAt) && d.Outcome.Applied() {
					st.Pair.Requests[i].Status = partner.RequestExpired
					d = partner.Decide(l, st, c)
					d.Outcome.Result.Status = "early"
					st.Pair.Requests[i].Status = partner.RequestPending
				}
			}
			return d
		}},
	})
}
