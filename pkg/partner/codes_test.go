package partner_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

// anns and bobs change what Ann and Bob have decided about each other.
func anns(edit func(*partner.Side)) func(*partner.State) {
	return func(st *partner.State) { edit(&st.Pair.Low) }
}

func bobs(edit func(*partner.Side)) func(*partner.State) {
	return func(st *partner.State) { edit(&st.Pair.High) }
}

func blocks(s *partner.Side)     { s.BlockedAt, s.DoorClosedAt = start(), start() }
func doorClosed(s *partner.Side) { s.DoorClosedAt = start() }
func named(s *partner.Side)      { s.Named = true }
func forfeits(p uuid.UUID) func(*partner.Side) {
	return func(s *partner.Side) { s.Forfeited = p }
}

func declined(n int) func(*partner.Side) {
	return func(s *partner.Side) { s.Declines, s.LastDeclined = n, start() }
}

func sent(times ...time.Time) func(*partner.Side) { return func(s *partner.Side) { s.Sends = times } }

// breakup is one that asker asked for at the start.
func breakup(id, asker uuid.UUID, edits ...func(*partner.Breakup)) func(*partner.State) {
	return func(st *partner.State) {
		b := partner.Breakup{
			ID: id, Pair: st.Pair.Pair, Asker: asker, Reason: "a reason", Status: partner.BreakupPending,
			CreatedAt: start(), ExpiresAt: start().Add(7 * day),
		}
		if p := st.Pair.Partnership; p != nil {
			b.PartnershipID = p.ID
		}
		for _, edit := range edits {
			edit(&b)
		}
		st.Pair.Breakups = append(st.Pair.Breakups, b)
	}
}

func closed(s partner.BreakupStatus) func(*partner.Breakup) {
	return func(b *partner.Breakup) { b.Status, b.ResolvedAt, b.Reason = s, start().Add(time.Hour), "" }
}

func answers(b uuid.UUID) func(*partner.Command) {
	return func(c *partner.Command) { c.BreakupID = b }
}

func of(p uuid.UUID) func(*partner.Command) { return func(c *partner.Command) { c.PartnershipID = p } }

func alone(c *partner.Command) { c.Pair = partner.PairOf(c.Issuer, c.Issuer) }

func aloneState(edits ...func(*partner.User)) partner.State {
	return partner.State{Pair: partner.PairState{Pair: partner.PairOf(ann(), ann())}, Users: map[uuid.UUID]partner.User{ann(): user(ann(), edits...)}}
}

// TestCodesInOrder holds every code of the later commands to its place: in each case those
// that come after it would apply as well.
func TestCodesInOrder(t *testing.T) {
	t.Parallel()
	req, current, asked := id(20), id(30), id(40)
	full := with(user(ann(), occupied(1, id(99))))
	targetFull := with(user(bob(), occupied(1, id(99))))
	never, tooSoon := bobs(declined(4)), bobs(declined(1))
	tests := map[string]struct {
		state   partner.State
		command partner.Command
		want    partner.Code
	}{
		"send: no slot, before blocked by you":        {state(full, anns(blocks), bobs(blocks), never), command(partner.Send, ann()), partner.CodeNoVacantSlot},
		"send: blocked by you, before unavailable":    {state(anns(blocks), bobs(blocks), targetFull, never), command(partner.Send, ann()), partner.CodeBlockedByYou},
		"send: target blocks, before cooldown":        {state(bobs(blocks), never), command(partner.Send, ann()), partner.CodeTargetUnavailable},
		"send: door closed, before cooldown":          {state(bobs(doorClosed), never), command(partner.Send, ann()), partner.CodeTargetUnavailable},
		"send: target full, before cooldown":          {state(targetFull, never), command(partner.Send, ann()), partner.CodeTargetUnavailable},
		"send: own door does not matter":              {state(anns(doorClosed)), command(partner.Send, ann()), ""},
		"send: declined a moment ago":                 {state(tooSoon), command(partner.Send, ann()), partner.CodeCooldown},
		"send: declined, a microsecond short of 24 h": {state(tooSoon), command(partner.Send, ann(), at(start().Add(day-time.Microsecond))), partner.CodeCooldown},
		"send: declined 24 h ago":                     {state(tooSoon), command(partner.Send, ann(), at(start().Add(day))), ""},
		"send: declined twice, a day ago":             {state(bobs(declined(2))), command(partner.Send, ann(), at(start().Add(7*day-1000))), partner.CodeCooldown},
		"send: declined twice, a week ago":            {state(bobs(declined(2))), command(partner.Send, ann(), at(start().Add(7*day))), ""},
		"send: declined thrice, 30 days less a bit":   {state(bobs(declined(3))), command(partner.Send, ann(), at(start().Add(30*day-1000))), partner.CodeCooldown},
		"send: declined thrice, 30 days ago":          {state(bobs(declined(3))), command(partner.Send, ann(), at(start().Add(30*day))), ""},
		"send: declined four times, years ago":        {state(never), command(partner.Send, ann(), at(start().Add(3000*day))), partner.CodeCooldown},
		"send: own declines do not matter":            {state(anns(declined(4))), command(partner.Send, ann()), ""},
		"send: crossing knows no cooldown": {
			state(request(req, bob()), bobs(declined(4)), anns(sent(start(), start(), start()))), command(partner.Send, ann()), "",
		},
		"send: the fourth in a day": {state(anns(sent(start(), start(), start()))), command(partner.Send, ann()), partner.CodeCooldown},
		"send: the fourth, as the first is a day old": {
			state(anns(sent(start(), start().Add(1000), start().Add(2000)))), command(partner.Send, ann(), at(start().Add(day))), "",
		},
		"send: the other's sends do not matter": {state(bobs(sent(start(), start(), start()))), command(partner.Send, ann()), ""},

		"accept: sender full": {state(with(user(ann(), occupied(1, id(99)))), request(req, ann())), command(partner.Accept, bob(), names(req)), partner.CodeTargetUnavailable},

		"breakup: not partners":             {state(), command(partner.AskBreakup, ann()), partner.CodeNotCurrent},
		"breakup: another partnership":      {state(active(current), breakup(asked, ann())), command(partner.AskBreakup, ann(), of(id(31))), partner.CodeNotCurrent},
		"breakup: asked already":            {state(active(current), breakup(asked, ann())), command(partner.AskBreakup, ann()), partner.CodeRequestPending},
		"breakup: declined before":          {state(active(current), breakup(asked, ann(), closed(partner.BreakupDeclined))), command(partner.AskBreakup, ann()), ""},
		"breakup accept: none":              {state(active(current)), command(partner.AcceptBreakup, bob(), answers(asked)), partner.CodeNotFound},
		"breakup accept: own":               {state(active(current), breakup(asked, ann())), command(partner.AcceptBreakup, ann(), answers(asked)), partner.CodeNotFound},
		"breakup accept: own, withdrawn":    {state(active(current), breakup(asked, ann(), closed(partner.BreakupWithdrawn))), command(partner.AcceptBreakup, ann(), answers(asked)), partner.CodeNotFound},
		"breakup accept: withdrawn":         {state(active(current), breakup(asked, ann(), closed(partner.BreakupWithdrawn))), command(partner.AcceptBreakup, bob(), answers(asked)), partner.CodeNotPending},
		"breakup accept: in the last":       {state(active(current), breakup(asked, ann())), command(partner.AcceptBreakup, bob(), answers(asked), at(start().Add(7*day))), ""},
		"breakup accept: too late":          {state(active(current), breakup(asked, ann())), command(partner.AcceptBreakup, bob(), answers(asked), at(start().Add(7*day+1000))), partner.CodeNotPending},
		"breakup decline: own":              {state(active(current), breakup(asked, ann())), command(partner.DeclineBreakup, ann(), answers(asked)), partner.CodeNotFound},
		"breakup decline: too late":         {state(active(current), breakup(asked, ann())), command(partner.DeclineBreakup, bob(), answers(asked), at(start().Add(7*day+1000))), partner.CodeNotPending},
		"breakup withdraw: not the asker":   {state(active(current), breakup(asked, ann())), command(partner.WithdrawBreakup, bob(), answers(asked)), partner.CodeNotFound},
		"breakup withdraw: declined":        {state(active(current), breakup(asked, ann(), closed(partner.BreakupDeclined))), command(partner.WithdrawBreakup, ann(), answers(asked)), partner.CodeNotPending},
		"remove: while a breakup waits":     {state(active(current), breakup(asked, bob())), command(partner.Remove, bob()), ""},
		"remove: with a suspended partner":  {state(active(current), with(user(ann(), status(partner.UserSuspended), occupied(1, current, bob())))), command(partner.Remove, bob()), ""},
		"breakup: with a suspended partner": {state(active(current), with(user(ann(), status(partner.UserSuspended), occupied(1, current, bob())))), command(partner.AskBreakup, bob()), ""},

		"block: oneself":     {aloneState(), command(partner.Block, ann(), alone), partner.CodeSelfRequest},
		"block: nobody":      {state(without(bob())), command(partner.Block, ann()), partner.CodeUserNotFound},
		"block: again":       {state(anns(blocks)), command(partner.Block, ann()), ""},
		"block: the blocker": {state(bobs(blocks)), command(partner.Block, ann()), ""},
		"block: suspended":   {state(with(user(ann(), status(partner.UserSuspended)))), command(partner.Block, ann()), ""},
		"unblock: nobody":    {state(bobs(blocks)), command(partner.Unblock, ann()), partner.CodeNotFound},

		"nickname: oneself":      {aloneState(), command(partner.SetNickname, ann(), alone), partner.CodeSelfRequest},
		"nickname: nobody":       {state(without(bob())), command(partner.SetNickname, ann()), partner.CodeUserNotFound},
		"nickname: not partners": {state(), command(partner.SetNickname, ann()), partner.CodeNotCurrent},
		"nickname: former":       {state(ended(current)), command(partner.SetNickname, ann()), partner.CodeNotCurrent},
		"nickname clear: none":   {state(active(current), bobs(named)), command(partner.ClearNickname, ann()), partner.CodeNotFound},
		"nickname clear: former": {state(ended(current), anns(named)), command(partner.ClearNickname, ann()), ""},
		"nickname clear: archived by time": {
			state(ended(current), anns(named)), command(partner.ClearNickname, ann(), at(start().Add(window+1000))), partner.CodeNotFound,
		},

		"forfeit: never partners": {state(), command(partner.Forfeit, ann(), of(current)), partner.CodeNotFound},
		"forfeit: active":         {state(active(current)), command(partner.Forfeit, ann(), of(current)), partner.CodeNotFound},
		"forfeit: another":        {state(ended(current)), command(partner.Forfeit, ann(), of(id(31))), partner.CodeNotFound},
		"forfeit: again":          {state(ended(current), anns(forfeits(current))), command(partner.Forfeit, ann(), of(current)), partner.CodeNotFound},
		"forfeit: as the other":   {state(ended(current), bobs(forfeits(current))), command(partner.Forfeit, ann(), of(current)), ""},
		"forfeit: in the last":    {state(ended(current)), command(partner.Forfeit, ann(), of(current), at(start().Add(window))), ""},
		"forfeit: archived":       {state(ended(current)), command(partner.Forfeit, ann(), of(current), at(start().Add(window+1000))), partner.CodeNotFound},

		"send: a suspended issuer, to oneself":    {aloneState(status(partner.UserSuspended)), command(partner.Send, ann(), alone), partner.CodeForbidden},
		"accept: a suspended target":              {state(with(user(bob(), status(partner.UserSuspended))), request(req, ann())), command(partner.Accept, bob(), names(req)), partner.CodeForbidden},
		"accept: of a suspended sender":           {state(with(user(ann(), status(partner.UserSuspended))), request(req, ann())), command(partner.Accept, bob(), names(req)), partner.CodeTargetUnavailable},
		"cancel: a suspended sender":              {state(with(user(ann(), status(partner.UserSuspended))), request(req, ann())), command(partner.Cancel, ann(), names(req)), partner.CodeForbidden},
		"breakup accept: a suspended partner":     {state(active(current), with(user(bob(), status(partner.UserSuspended), occupied(1, current, ann()))), breakup(asked, ann())), command(partner.AcceptBreakup, bob(), answers(asked)), partner.CodeForbidden},
		"profile: a suspended issuer":             {aloneState(status(partner.UserSuspended)), command(partner.UpdateProfile, ann(), alone), partner.CodeForbidden},
		"remove: a suspended issuer":              {state(active(current), with(user(ann(), status(partner.UserSuspended), occupied(1, current, bob())))), command(partner.Remove, ann()), ""},
		"delete: a suspended issuer":              {aloneState(status(partner.UserSuspended)), command(partner.DeleteAccount, ann(), alone), ""},
		"unblock: a suspended issuer":             {state(anns(blocks), with(user(ann(), status(partner.UserSuspended)))), command(partner.Unblock, ann()), partner.CodeForbidden},
		"send: to somebody suspended, as if full": {state(with(user(bob(), status(partner.UserSuspended)))), command(partner.Send, ann()), partner.CodeTargetUnavailable},

		"delete: again":              {aloneState(status(partner.UserDeleting)), command(partner.DeleteAccount, ann(), alone), partner.CodeAccountDeleting},
		"block: a deleting issuer":   {state(with(user(ann(), status(partner.UserDeleting)))), command(partner.Block, ann()), partner.CodeAccountDeleting},
		"profile: a deleting issuer": {aloneState(status(partner.UserDeleting)), command(partner.UpdateProfile, ann(), alone), partner.CodeAccountDeleting},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.command.Nickname = "Bear"
			d := partner.Decide(partner.DefaultLimits(), tt.state, tt.command)
			if d.Outcome.Code != tt.want {
				t.Fatalf("code %q, want %q", d.Outcome.Code, tt.want)
			}
			last := d.Events[len(d.Events)-1]
			if rejected := last.Type == partner.EventCommandRejected; rejected != (tt.want != "") || rejected && last.Data.Code != tt.want {
				t.Errorf("last event %+v", last)
			}
			want := partner.SeverityInfo
			switch {
			case tt.want == partner.CodeCooldown:
				want = partner.SeverityWarning
			case tt.want != "":
			default:
				want = d.Activity[0].Severity
			}
			if a := d.Activity[0]; len(d.Activity) != 1 || a.Actor != tt.command.Issuer || a.Action != tt.command.Type.String() || a.Code != tt.want || a.Severity != want {
				t.Errorf("activity %+v", d.Activity)
			}
		})
	}
}

func TestSendWithoutLimitPerTarget(t *testing.T) {
	t.Parallel()
	limits := partner.DefaultLimits()
	limits.SendsPerTarget = 0
	d := partner.Decide(limits, state(anns(sent(start(), start(), start()))), command(partner.Send, ann()))
	if !d.Outcome.Applied() {
		t.Errorf("code %q though there is no limit", d.Outcome.Code)
	}
	if d := partner.Decide(limits, state(bobs(declined(1))), command(partner.Send, ann())); d.Outcome.Code != partner.CodeCooldown {
		t.Errorf("code %q: a decline counts without the limit too", d.Outcome.Code)
	}
}

// A send opens the sender's own door, also when the other's is closed: two who closed
// theirs could never meet again otherwise.
func TestSendOpensTheOwnDoor(t *testing.T) {
	t.Parallel()
	st := state(anns(doorClosed), anns(declined(2)), bobs(doorClosed))
	d := partner.Decide(partner.DefaultLimits(), st, command(partner.Send, ann()))
	if d.Outcome.Code != partner.CodeTargetUnavailable {
		t.Fatalf("code %q", d.Outcome.Code)
	}
	if diff := cmp.Diff([]partner.SideChange{{Owner: ann(), Other: bob()}}, d.Sides); diff != "" {
		t.Errorf("sides (-want +got):\n%s", diff)
	}
	answer := command(partner.Send, bob())
	answer.ID = id(101)
	if d = partner.Decide(partner.DefaultLimits(), d.Next, answer); !d.Outcome.Applied() {
		t.Errorf("code %q after the other sent", d.Outcome.Code)
	}
}
