package partner_test

import (
	"bytes"
	"fmt"
	"slices"
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
	Once  bool // decide each command once only: cheap, for many histories
}

// chance returns a number from 0 to n-1.
type chance func(label string, n int) int

func oneOf[T any](draw chance, label string, from []T) T { return from[draw(label, len(from))] }

// drawStep draws one step, whoever throws the dice.
func drawStep(draw chance) step {
	return step{
		// Kinds that lead on are drawn more often, so that histories get somewhere.
		Kind: oneOf(draw, "kind", []string{
			"send", "send", "send", "send again", "send again", "accept", "accept", "accept", "decline", "cancel", "remove", "remove",
			"follow up", "follow up", "status", "self", "stranger", "unite", "unite", "unite",
			"ask", "ask", "accept breakup", "decline breakup", "withdraw", "withdraw", "block", "unblock", "nickname", "nickname", "clear",
			"profile", "code", "forfeit", "delete", "timer", "timer", "slots", "slots", "decline", "decline", "cancel", "pester", "read",
		}),
		A: draw("a", 6), B: draw("b", 6), Pick: draw("pick", 8),
		Wait: oneOf(draw, "wait", []time.Duration{
			0, 0, 0, 0, 0, 0, 0, 0, 0, 0, time.Second, time.Second, time.Hour, time.Hour, day, day, time.Microsecond, time.Second, time.Hour, day, 3 * day, 6 * day, 7 * day,
			7*day + time.Microsecond, 20 * day, 26 * day, 26 * day, window - day, window - day, window, window + time.Microsecond,
		}),
		Skew:  oneOf(draw, "skew", []time.Duration{0, 0, -2 * time.Second, 2 * time.Second}),
		Fresh: draw("fresh", 5) == 0,
		Quiet: draw("quiet", 2) == 0, Named: draw("named", 2) == 0, Flush: draw("flush", 2) == 0,
	}
}

func histories() *rapid.Generator[history] {
	steps := rapid.Custom(func(t *rapid.T) step {
		return drawStep(func(label string, n int) int { return rapid.IntRange(0, n-1).Draw(t, label) })
	})
	return rapid.Custom(func(t *rapid.T) history {
		return history{
			Slots: rapid.SliceOfN(rapid.Int16Range(1, 3), 2, 6).Draw(t, "slots"),
			Steps: rapid.SliceOfN(steps, 50, 100).Draw(t, "steps"),
		}
	})
}

type decider func(partner.Limits, partner.State, partner.Command) partner.Decision

// happen runs a history and then its follow-ups until none is left, in an order that the
// history's own numbers give, and returns the first broken rule.
func happen(h history, decide decider) error {
	_, err := run(h, decide)
	return err
}

func run(h history, decide decider) (*world, error) {
	w := newWorld(h.Slots)
	w.decide, w.once = decide, h.Once
	for i, s := range h.Steps {
		w.clock = w.clock.Add(s.Wait)
		if s.Flush {
			w.flush()
		}
		if err := w.step(s, numbered(i)); err != nil {
			return w, fmt.Errorf("step %d, %+v: %w", i, s, err)
		}
	}
	for n := 0; len(w.followUps) > 0; n++ {
		if n > 10_000 {
			return w, fmt.Errorf("follow-ups never end")
		}
		if err := w.followUp(n + len(h.Steps)); err != nil {
			return w, fmt.Errorf("draining: %w", err)
		}
	}
	if err := w.drained(); err != nil {
		return w, err
	}
	return w, w.checkTold()
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
		cmd.Type = partner.Send
		w.alongRequest(&cmd, s)
	case "self":
		cmd.Type, cmd.Pair = partner.Send, partner.PairOf(a, a)
	case "stranger": // whom nobody has ever heard of
		cmd.Type = []partner.CommandType{partner.Send, partner.Block, partner.SetNickname}[s.Pick%3]
		cmd.Pair, cmd.Nickname = partner.PairOf(a, id(255)), "a nickname"
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
		w.alongPartnership(&cmd, s)
		if p := w.loadPair(cmd.Pair, uuid.Nil).Partnership; p != nil && s.Named {
			cmd.PartnershipID = p.ID
		}
	case "ask", "block", "nickname", "clear", "forfeit", "unblock":
		cmd.Type = map[string]partner.CommandType{
			"ask": partner.AskBreakup, "block": partner.Block, "unblock": partner.Unblock, "nickname": partner.SetNickname,
			"clear": partner.ClearNickname, "forfeit": partner.Forfeit,
		}[s.Kind]
		cmd.Nickname = "a nickname"
		w.alongPartnership(&cmd, s)
		if p := w.loadPair(cmd.Pair, uuid.Nil).Partnership; p != nil && (s.Named || s.Kind == "forfeit") {
			cmd.PartnershipID = p.ID
		}
	case "accept breakup", "decline breakup", "withdraw":
		if len(w.asked) == 0 {
			return nil
		}
		b := w.breakups[w.asked[max(0, len(w.asked)-1-s.Pick/2)]]
		cmd.BreakupID, cmd.Pair, cmd.Issuer = b.ID, b.Pair, b.Pair.Other(b.Asker)
		switch cmd.Type = partner.AcceptBreakup; s.Kind {
		case "decline breakup":
			cmd.Type = partner.DeclineBreakup
		case "withdraw":
			cmd.Type, cmd.Issuer = partner.WithdrawBreakup, b.Asker
		}
		if s.A == 0 {
			cmd.Issuer = cmd.Pair.Other(cmd.Issuer)
		}
	case "profile":
		cmd.Type, cmd.Pair, cmd.Profile = partner.UpdateProfile, partner.PairOf(a, a), &partner.ProfilePatch{Locale: new("en")}
		if s.Named {
			cmd.Profile.DisplayName = new("A name")
		}
	case "code":
		cmd.Type, cmd.Pair, cmd.Profile = partner.ChangeCode, partner.PairOf(a, a), &partner.ProfilePatch{PartnerCode: new("0123456789")}
	case "read":
		cmd.Type, cmd.Pair, cmd.ReadSeq = partner.ReadInbox, partner.PairOf(a, a), int64(s.Pick*3)
	case "delete":
		if s.Pick > 0 { // seldom: it leads nowhere
			return nil
		}
		cmd.Type, cmd.Pair = partner.DeleteAccount, partner.PairOf(a, a)
	case "pester":
		w.alongRequest(&cmd, s)
		return w.pester(cmd, s)
	case "unite":
		if s.B%2 == 0 {
			w.alongPartnership(&cmd, s)
		}
		return w.unite(cmd)
	case "flood":
		return w.flood(cmd)
	case "timer":
		return w.fire(s.Pick)
	case "slots":
		return w.allow(a, int16(1+s.Pick%4), commandID)
	case "follow up":
		return w.followUp(s.Pick)
	case "status":
		u := w.accounts[a]
		if w.past.deleted[a] || u.Status == partner.UserDeleting {
			return nil // nobody comes back from it
		}
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

// allow gives a user another number of slots, as far as those that go are vacant, and lets
// follow what does.
func (w *world) allow(user uuid.UUID, n int16, ref uuid.UUID) error {
	u, _ := w.loadUser(user)
	account := w.accounts[user]
	account.Slots = nil
	for slot := int16(1); slot <= max(n, 4); slot++ {
		if slot <= n || slices.ContainsFunc(u.Occupied, func(o partner.Occupied) bool { return o.Slot == slot }) {
			account.Slots = append(account.Slots, slot)
		}
	}
	w.accounts[user] = account
	w.flush()
	t := partner.Timer{Kind: partner.TimerAllowance, Pair: partner.PairOf(user, user), Ref: ref, Due: w.clock}
	c := partner.Command{ID: partner.TimerID(t), Pair: t.Pair, AcceptedAt: t.Due, Cause: t.Ref}
	d := partner.DecideDue(w.limits, w.load(c), t)
	if account.Status == partner.UserDeleting {
		if len(d.Events)+len(d.FollowUps) > 0 {
			return fmt.Errorf("a deleted user is told of slots: %+v", d)
		}
		return nil
	}
	if err := w.checkShape(c, d); err != nil {
		return fmt.Errorf("slots: %w", err)
	}
	if told := d.Events[0]; len(d.Events) != 1 || told.Type != partner.EventProfileUpdated || !slices.Equal(told.Recipients, []uuid.UUID{user}) {
		return fmt.Errorf("slots: told %+v", d.Events)
	}
	closing := 0
	if len(u.Occupied) >= len(account.Slots) {
		closing = len(u.Pending)
	}
	if len(d.FollowUps) != closing {
		return fmt.Errorf("slots: %d requests are closed, want %d", len(d.FollowUps), closing)
	}
	w.write(d)
	return w.checkInvariants()
}

// pester sends to the same target a few times, each declined or taken back.
func (w *world) pester(send partner.Command, s step) error {
	send.Type = partner.Send
	for n := range 1 + s.Pick%4 {
		send.ID, send.AcceptedAt = uuid.NewSHA1(send.ID, []byte("again")), w.clock
		d, err := w.run(send)
		if err != nil {
			return err
		}
		if !d.Outcome.Applied() || d.Outcome.Result.Crossed {
			continue
		}
		answer := partner.Command{
			ID: uuid.NewSHA1(send.ID, []byte("answer")), Type: partner.Cancel, Issuer: send.Issuer, Pair: send.Pair,
			AcceptedAt: w.clock, RequestID: *d.Outcome.Result.RequestID,
		}
		if s.Named != (n == 2) {
			answer.Type, answer.Issuer = partner.Decline, send.Pair.Other(send.Issuer)
		}
		if _, err := w.run(answer); err != nil {
			return err
		}
		w.clock = w.clock.Add(s.Wait)
	}
	return nil
}

// unite sends and accepts at once, as most people do most of the time.
func (w *world) unite(send partner.Command) error {
	send.Type = partner.Send
	d, err := w.run(send)
	if err != nil || !d.Outcome.Applied() || d.Outcome.Result.Crossed {
		return err
	}
	_, err = w.run(partner.Command{
		ID: uuid.NewSHA1(send.ID, []byte("yes")), Type: partner.Accept, Issuer: send.Pair.Other(send.Issuer), Pair: send.Pair,
		AcceptedAt: w.clock, RequestID: *d.Outcome.Result.RequestID,
	})
	return err
}

// flood has everybody send to one person.
func (w *world) flood(send partner.Command) error {
	send.Type = partner.Send
	to, first := send.Issuer, send.ID
	for i := range len(w.accounts) {
		if send.Issuer = id(byte(i + 1)); send.Issuer == to {
			continue
		}
		send.ID, send.Pair = uuid.NewSHA1(first, send.Issuer[:]), partner.PairOf(send.Issuer, to)
		if _, err := w.run(send); err != nil {
			return err
		}
	}
	return nil
}

// alongRequest picks a pair with a past, and one of the two as the issuer.
func (w *world) alongRequest(cmd *partner.Command, s step) {
	if len(w.order) == 0 {
		return
	}
	r := w.requests[w.order[max(0, len(w.order)-1-s.Pick)]]
	cmd.Pair, cmd.Issuer = partner.PairOf(r.Sender, r.Target), r.Sender
	if s.Quiet {
		cmd.Issuer = r.Target
	}
}

// alongPartnership picks a pair that is, or was until lately, a couple.
func (w *world) alongPartnership(cmd *partner.Command, s step) {
	w.alongRequest(cmd, s)
	var open []partner.Partnership
	for _, p := range w.partnerships {
		if p.Status != partner.PartnershipArchived {
			open = append(open, p)
		}
	}
	if len(open) == 0 || s.B == 0 {
		return
	}
	slices.SortFunc(open, func(a, b partner.Partnership) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	cmd.Pair = open[s.Pick%len(open)].Pair
	if cmd.Issuer = cmd.Pair.Low; s.Quiet {
		cmd.Issuer = cmd.Pair.High
	}
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

// FuzzHistories is TestHistories for a fuzzer that looks for new ways through the code.
func FuzzHistories(f *testing.F) {
	f.Fuzz(rapid.MakeFuzz(func(t *rapid.T) {
		if err := happen(histories().Draw(t, "history"), partner.Decide); err != nil {
			t.Fatal(err)
		}
	}))
}

// decidedCodes are the codes that Decide itself gives.
func decidedCodes() []string {
	return []string{
		"self_request", "user_not_found", "already_partners", "request_pending", "no_vacant_slot", "target_unavailable",
		"not_found", "not_pending", "not_current", "account_deleting", "forbidden", "blocked_by_you", "cooldown",
	}
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
	want := append([]string{"restored", "crossed", "silent"}, decidedCodes()...)
	for _, e := range partner.EventTypes() {
		want = append(want, e.String())
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
