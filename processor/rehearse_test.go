package processor

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/pkg/poison"
)

// TestDryRunChangesNothing rehearses a retry that would work, one that would stop, and a
// drop, and compares every table before and after.
func TestDryRunChangesNothing(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	cure := r.poisonous()
	a, b, c, d := r.user(1), r.user(1), r.user(1), r.user(1)
	cmds := story(a, b)
	hug := send(c, d)
	r.start(quickly)
	r.post(cmds...)
	m.append(time.Now(), r.unknown(hug))
	r.settled()
	before := r.contents()
	steps := func(id uuid.UUID) []poison.Step {
		t.Helper()
		r.executed(id)
		return one[poison.Report](r, `SELECT report FROM parked_actions WHERE id = $1`, id).Steps
	}
	outcomes := func(steps []poison.Step) string {
		var out []string
		for _, s := range steps {
			out = append(out, s.Outcome)
		}
		return strings.Join(out, ",")
	}
	stops := steps(r.ask(cmds[0].Pair, order{action: poison.Retry, dryRun: true}))
	if got, want := outcomes(stops), "parked"; got != want {
		t.Errorf("dry retry before the cure: %s, want %s", got, want)
	} else if !strings.Contains(stops[0].Error, "poison") {
		t.Errorf("the report's error is %q", stops[0].Error)
	}
	if got, want := outcomes(steps(r.ask(cmds[0].Pair, order{action: poison.Drop, command: cmds[0].ID, dryRun: true}))),
		"dropped,not_found,not_current,not_current"; got != want {
		t.Errorf("dry drop: %s, want %s", got, want)
	}
	if got, want := outcomes(steps(r.ask(hug.Pair, order{action: poison.Retry, dryRun: true}))), "parked"; got != want {
		t.Errorf("dry retry of an unknown type: %s, want %s", got, want)
	}
	cure()
	works := steps(r.ask(cmds[0].Pair, order{action: poison.Retry, dryRun: true}))
	if got, want := outcomes(works), "applied,applied,applied,applied"; got != want {
		t.Errorf("dry retry after the cure: %s, want %s", got, want)
	}
	request := partner.RequestIDOf(cmds[0].ID)
	want := poison.Change{What: "request " + request.String(), Before: "pending", After: "accepted"}
	found := false
	for _, ch := range works[1].Changes {
		found = found || ch == want
	}
	if !found {
		t.Errorf("the acceptance's changes %v lack %v", works[1].Changes, want)
	}
	if diff := cmp.Diff(before, r.contents()); diff != "" {
		t.Errorf("a dry run changed tables (-before +after):\n%s", diff)
	}
	if text := one[string](r, `SELECT string_agg(report::text, '') FROM parked_actions`); strings.Contains(text, "Fish") {
		t.Errorf("a report holds what somebody wrote: %s", text)
	}
	// And the real one does what was said.
	r.executed(r.ask(cmds[0].Pair, order{action: poison.Retry}))
	if diff := cmp.Diff([]string{"applied", "applied", "applied", "applied"}, r.outcomes(cmds)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	r.settled()
	r.gapless()
}

// contents are all rows of all tables that an action could touch.
func (r *rig) contents() map[string]string {
	r.t.Helper()
	out := map[string]string{}
	for _, table := range []string{
		"users", "user_slots", "user_streams", "requests", "partnerships", "partnership_members", "pair_sides", "breakups", "nicknames",
		"commands", "events", "inbox", "timers", "cuts", "activity_log", "parked_commands", "dead_letters", "processor_partitions",
	} {
		out[table] = one[string](r, `SELECT COALESCE(string_agg(t::text, E'\n' ORDER BY t::text), '') FROM `+table+` t`)
	}
	return out
}
