package partner_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/bondmate/backend/pkg/partner"
)

// step is one thing that happens in a history. It names users, requests and follow-ups by
// numbers that are taken modulo what there is, so that every list of steps is a history.
type step struct {
	Kind  string
	A, B  int
	Pick  int
	Wait  time.Duration
	Skew  time.Duration // of the clock of the ingest that accepts it
	Fresh bool
	Quiet bool
	Named bool // Remove: names the partnership
	Flush bool // a new batch begins
}

type history struct {
	Slots []int16
	Steps []step
}

func histories() *rapid.Generator[history] {
	steps := rapid.Custom(func(t *rapid.T) step {
		return step{
			// Kinds that lead on are drawn more often, so that histories get somewhere.
			Kind: rapid.SampledFrom([]string{
				"send", "send", "send", "send again", "send again", "accept", "accept", "accept", "decline", "cancel", "remove", "remove",
				"follow up", "follow up", "status", "self",
			}).Draw(t, "kind"),
			A: rapid.IntRange(0, 5).Draw(t, "a"), B: rapid.IntRange(0, 5).Draw(t, "b"), Pick: rapid.IntRange(0, 7).Draw(t, "pick"),
			Wait: rapid.SampledFrom([]time.Duration{
				0, 0, 0, 0, 0, 0, time.Microsecond, time.Second, time.Hour, day, 3 * day, 6 * day, 7 * day,
				7*day + time.Microsecond, 20 * day, 26 * day, 26 * day, window - day, window - day, window, window + time.Microsecond,
			}).Draw(t, "wait"),
			Skew:  rapid.SampledFrom([]time.Duration{0, 0, -2 * time.Second, 2 * time.Second}).Draw(t, "skew"),
			Fresh: rapid.IntRange(0, 4).Draw(t, "fresh") == 0,
			Quiet: rapid.Bool().Draw(t, "quiet"), Named: rapid.Bool().Draw(t, "named"), Flush: rapid.Bool().Draw(t, "flush"),
		}
	})
	return rapid.Custom(func(t *rapid.T) history {
		return history{
			Slots: rapid.SliceOfN(rapid.Int16Range(1, 3), 2, 6).Draw(t, "slots"),
			Steps: rapid.SliceOfN(steps, 40, 80).Draw(t, "steps"),
		}
	})
}

type decider func(partner.Limits, partner.State, partner.Command) partner.Decision

// happen runs a history and then its follow-ups until none is left, in an order that the
// history's own numbers give, and returns the first broken rule.
func happen(h history, decide decider) error {
	w := newWorld(h.Slots)
	w.decide = decide
	for i, s := range h.Steps {
		w.clock = w.clock.Add(s.Wait)
		if s.Flush {
			w.flush()
		}
		if err := w.step(s, numbered(i)); err != nil {
			return fmt.Errorf("step %d, %+v: %w", i, s, err)
		}
	}
	for n := 0; len(w.followUps) > 0; n++ {
		if n > 10_000 {
			return fmt.Errorf("follow-ups never end")
		}
		if err := w.followUp(n + len(h.Steps)); err != nil {
			return fmt.Errorf("draining: %w", err)
		}
	}
	return w.drained()
}

func (w *world) step(s step, commandID uuid.UUID) error {
	n := len(w.accounts)
	a, b := id(byte(s.A%n+1)), id(byte((s.A+1+s.B%(n-1))%n+1))
	cmd := partner.Command{
		ID: commandID, Issuer: a, Pair: partner.PairOf(a, b), AcceptedAt: w.clock.Add(s.Skew),
		Fresh: s.Fresh, Quiet: s.Quiet, Message: "a message", Reason: "a reason",
	}
	switch s.Kind {
	case "send":
		cmd.Type = partner.Send
	case "send again": // a pair with a past
		if cmd.Type = partner.Send; len(w.order) > 0 {
			r := w.requests[w.order[max(0, len(w.order)-1-s.Pick)]]
			cmd.Issuer, cmd.Pair = r.Sender, partner.PairOf(r.Sender, r.Target)
			if s.Quiet {
				cmd.Issuer = r.Target
			}
		}
	case "self":
		cmd.Type, cmd.Pair = partner.Send, partner.PairOf(a, a)
	case "accept", "decline", "cancel":
		if len(w.order) == 0 {
			return nil
		}
		// The newest requests, by whoever: mostly the right person, sometimes not.
		r := w.requests[w.order[max(0, len(w.order)-1-s.Pick)]]
		cmd.RequestID, cmd.Pair, cmd.Issuer = r.ID, partner.PairOf(r.Sender, r.Target), r.Target
		if cmd.Type = partner.Accept; s.Kind == "decline" {
			cmd.Type = partner.Decline
		}
		if s.Kind == "cancel" {
			cmd.Type, cmd.Issuer = partner.Cancel, r.Sender
		}
		if s.A == 0 {
			cmd.Issuer = cmd.Pair.Other(cmd.Issuer)
		}
	case "remove":
		cmd.Type = partner.Remove
		if len(w.order) > 0 { // a pair that may be partners
			r := w.requests[w.order[max(0, len(w.order)-1-s.Pick)]]
			cmd.Pair, cmd.Issuer = partner.PairOf(r.Sender, r.Target), r.Sender
		}
		if p := w.loadPair(cmd.Pair, uuid.Nil).Partnership; p != nil && s.Named {
			cmd.PartnershipID = p.ID
		}
	case "follow up":
		return w.followUp(s.Pick)
	case "status":
		u := w.accounts[a]
		u.Status = []partner.UserStatus{
			partner.UserActive, partner.UserActive, partner.UserActive, partner.UserDeactivated, partner.UserSuspended, partner.UserDeleting,
		}[s.Pick%6]
		w.accounts[a] = u
		w.flush()
		return nil
	}
	_, err := w.run(cmd)
	return err
}

// followUp runs one of the waiting follow-ups: the first of some pair, since a pair's own
// order is the log's.
func (w *world) followUp(pick int) error {
	if len(w.followUps) == 0 {
		return nil
	}
	chosen := w.followUps[pick%len(w.followUps)]
	i := slices.IndexFunc(w.followUps, func(c partner.Command) bool { return c.Pair == chosen.Pair })
	cmd := w.followUps[i]
	w.followUps = slices.Delete(w.followUps, i, i+1)
	_, err := w.run(cmd)
	return err
}

func TestHistories(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		if err := happen(histories().Draw(t, "history"), partner.Decide); err != nil {
			t.Fatal(err)
		}
	})
}

// TestHistoriesGetSomewhere holds the generator to making every event and every code: a
// property over histories in which nothing happens would prove nothing.
func TestHistoriesGetSomewhere(t *testing.T) {
	t.Parallel()
	seen := map[string]int{}
	record := func(l partner.Limits, st partner.State, c partner.Command) partner.Decision {
		d := partner.Decide(l, st, c)
		for _, e := range d.Events {
			seen[e.Type.String()]++
			if e.Type == partner.EventPartnershipStarted && *e.Data.Restored {
				seen["restored"]++
			}
			if e.Data.Crossed {
				seen["crossed"]++
			}
			if e.Data.Silent {
				seen["silent"]++
			}
		}
		seen[string(d.Outcome.Code)]++
		return d
	}
	want := []string{
		"restored", "crossed", "silent", "self_request", "already_partners", "request_pending", "no_vacant_slot",
		"target_unavailable", "not_found", "not_pending", "not_current", "account_deleting",
	}
	for _, e := range partner.EventTypes() {
		if e != partner.EventSlotVacated { // comes with slots that are granted or taken away
			want = append(want, e.String())
		}
	}
	missing := func(name string) bool { return seen[name] == 0 }
	for seed := 0; seed < 300 && slices.ContainsFunc(want, missing); seed++ {
		if err := happen(histories().Example(seed), record); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range want {
		if missing(name) {
			t.Errorf("no history has %s: %v", name, seen)
		}
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
	after := func(change func(partner.State, partner.Command, *partner.Decision)) decider {
		return func(l partner.Limits, st partner.State, c partner.Command) partner.Decision {
			d := partner.Decide(l, st, c)
			change(st, c, &d)
			return d
		}
	}
	calls := 0
	broken := map[string]struct {
		want   string
		decide decider
	}{
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
			if !d.Outcome.Applied() && st.Pair.Partnership != nil {
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
	for name, tt := range broken {
		t.Run(name, func(t *testing.T) {
			for seed := range 2000 {
				if err := happen(histories().Example(seed), tt.decide); err != nil && strings.Contains(err.Error(), tt.want) {
					return
				}
			}
			t.Errorf("no history of 2000 found that %s", tt.want)
		})
	}
}
