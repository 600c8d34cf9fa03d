package processor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/pkg/poison"
)

// rehearsal finds out what an action would do by doing it: fence, locks, decisions and
// writes are the real ones, and then the transaction is rolled back. So a failure that
// only the database knows of is in the report too. Its methods do nothing on nil.
type rehearsal struct {
	steps    []poison.Step
	before   map[string]string
	decision *partner.Decision // of the step in hand
}

// rehearsed is how many commands a dry run goes through.
const rehearsed = 20

const rollbackSQL = `rollback`

func (r *rehearsal) begin(w *world, it *item) {
	if r != nil && it.turn.parked != nil {
		r.before, r.decision = facts(w, it.turn.parked.pair), nil
	}
}

func (r *rehearsal) saw(d partner.Decision) {
	if r != nil {
		r.decision = &d
	}
}

func (r *rehearsal) end(w *world, it *item) {
	if r == nil || it.turn.parked == nil {
		return
	}
	step := newStep(it)
	switch d := r.decision; {
	case it.turn.ended == poison.Stopped:
		step.Outcome, step.Error = poison.StepParked, it.turn.cause
	case d == nil && it.turn.drop:
		step.Outcome = string(codeDropped)
	case d == nil:
		step.Outcome = poison.StepDuplicate
	default:
		step.Outcome = poison.StepApplied
		if !d.Outcome.Applied() {
			step.Outcome = string(d.Outcome.Code)
		}
		after := facts(w, it.turn.parked.pair)
		alsoChanged(after, d)
		step.Changes = diff(r.before, after)
		for _, ev := range d.Events {
			to := "nobody"
			if len(ev.Recipients) > 0 {
				to = joinIDs(ev.Recipients)
			}
			step.Events = append(step.Events, ev.Type.String()+" to "+to)
		}
		for _, c := range d.FollowUps {
			step.FollowUps = append(step.FollowUps, c.Type.String()+" on "+c.Pair.String())
		}
	}
	r.steps = append(r.steps, step)
}

func newStep(it *item) poison.Step {
	return poison.Step{
		CommandID: it.turn.parked.id, Type: it.env.Type, Issuer: it.env.Issuer,
		Changes: []poison.Change{}, Events: []string{}, FollowUps: []string{},
	}
}

func joinIDs(ids []uuid.UUID) string {
	var out []byte
	for i, id := range ids {
		if i > 0 {
			out = append(out, ", "...)
		}
		out = append(out, id.String()...)
	}
	return string(out)
}

// facts are what the state says of a pair and its two users, line by line, without what
// anybody wrote.
func facts(w *world, pair partner.Pair) map[string]string {
	out := map[string]string{}
	at := func(name string, t time.Time) {
		if !t.IsZero() {
			out[name] = t.UTC().Format(time.RFC3339Nano)
		}
	}
	st := w.pair(pair).state
	for _, r := range st.Requests {
		name := "request " + r.ID.String()
		out[name] = r.Status.String()
		out[name+" from"] = r.Sender.String()
		at(name+" expires", r.ExpiresAt)
		at(name+" resolved", r.ResolvedAt)
	}
	if p := st.Partnership; p != nil {
		name := "partnership " + p.ID.String()
		out[name] = p.Status.String()
		at(name+" ended", p.EndedAt)
		at(name+" restorable until", p.RestorableUntil)
		out[name+" restored"] = strconv.Itoa(p.RestoredCount)
	}
	for _, b := range st.Breakups {
		name := "breakup " + b.ID.String()
		out[name] = b.Status.String()
		at(name+" resolved", b.ResolvedAt)
	}
	for owner, side := range map[uuid.UUID]partner.Side{pair.Low: st.Low, pair.High: st.High} {
		name := "user " + owner.String()
		at(name+" blocks since", side.BlockedAt)
		at(name+" door closed since", side.DoorClosedAt)
		at(name+" last declined", side.LastDeclined)
		if side.Named {
			out[name+" nickname for the other"] = "set"
		}
		if side.Forfeited != uuid.Nil {
			out[name+" forfeits"] = side.Forfeited.String()
		}
		if len(side.Sends) > 0 {
			out[name+" recent sends"] = strconv.Itoa(len(side.Sends))
		}
		user := w.users[owner]
		if user.Status != partner.UserUnknown {
			out[name+" status"] = userStatus(user.Status)
			out[name+" slots taken"] = fmt.Sprintf("%d of %d", len(user.Occupied), len(user.Slots))
		}
	}
	return out
}

// alsoChanged adds what a decision writes that no later one reads.
func alsoChanged(after map[string]string, d *partner.Decision) {
	for _, p := range d.Profiles {
		// The names of the fields; the values are the user's.
		var fields map[string]json.RawMessage
		data, err := json.Marshal(p.Patch)
		if err != nil || json.Unmarshal(data, &fields) != nil {
			continue
		}
		names := slices.Sorted(maps.Keys(fields))
		after["user "+p.UserID.String()+" profile"] = fmt.Sprintf("new %v", names)
	}
	for _, a := range d.Accounts {
		name := "user " + a.UserID.String()
		after[name+" status"] = userStatus(a.Status)
		if a.Erase {
			after[name+" personal data"] = "erased"
		}
	}
}

func userStatus(s partner.UserStatus) string {
	switch s {
	case partner.UserActive:
		return "active"
	case partner.UserDeactivated:
		return "deactivated"
	case partner.UserSuspended:
		return "suspended"
	case partner.UserDeleting:
		return "deleting"
	default:
		return strconv.Itoa(int(s))
	}
}

func diff(before, after map[string]string) []poison.Change {
	names := map[string]struct{}{}
	for _, facts := range []map[string]string{before, after} {
		for name := range facts {
			names[name] = struct{}{}
		}
	}
	out := []poison.Change{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if before[name] != after[name] {
			out = append(out, poison.Change{What: name, Before: before[name], After: after[name]})
		}
	}
	return out
}

// The commands that a dry run goes through, in the order in which the action would.
const rehearsedSQL = `
SELECT p.partition, p.log_offset, p.low, p.high, p.id, p.reason, p.headers, p.value, p.parked_at, count(*) OVER ()
FROM parked_commands p
WHERE p.low = $1 AND p.high = $2
ORDER BY p.id IS NOT DISTINCT FROM $3 DESC, p.log_offset LIMIT $4`

func (w *worker) rehearsalOf(ctx context.Context, a *action) (items []*item, waiting int, err error) {
	var named *uuid.UUID
	if a.command != uuid.Nil {
		named = &a.command
	}
	tctx, cancel := context.WithTimeout(ctx, w.p.cfg.TxDeadline)
	defer cancel()
	rows, err := w.conn.Query(tctx, rehearsedSQL, a.pair.Low, a.pair.High, named, rehearsed)
	if err != nil {
		return nil, 0, &waitError{fmt.Errorf("load parked commands of %s: %w", a.pair, err)}
	}
	parked, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (p parkedRow, err error) {
		err = r.Scan(&p.partition, &p.offset, raw(&p.pair.Low), raw(&p.pair.High), raw(&p.id), &p.reason, &p.headers, &p.value, &p.at, &waiting)
		return p, err
	})
	if err != nil {
		return nil, 0, &waitError{fmt.Errorf("load parked commands of %s: %w", a.pair, err)}
	}
	if a.command != uuid.Nil && (len(parked) == 0 || parked[0].id != a.command) {
		return nil, 0, nil // it is parked no more, and nothing else was asked for
	}
	var judged []*item
	for i := range parked {
		t := &turn{act: a, parked: &parked[i], last: i == waiting-1}
		if a.kind == poison.Drop {
			t.drop = parked[i].id == a.command || (a.command == uuid.Nil && parked[i].offset <= a.last)
		}
		it := t.item(a.part, w.p.cfg.Topics.Commands, w.p.cfg.Partitions)
		items = append(items, it)
		if !t.drop && it.err == nil {
			judged = append(judged, it)
		}
	}
	if err := w.p.markStale(ctx, judged); err != nil {
		return nil, 0, &waitError{err}
	}
	return items[:run(items)], waiting, nil
}

// rehearse carries out a dry run and writes its report.
func (w *worker) rehearse(working context.Context, a *action) error {
	items, waiting, err := w.rehearsalOf(working, a)
	if err != nil {
		return err
	}
	outcome, cause := poison.NothingParked, ""
	steps := []poison.Step{}
	if len(items) > 0 {
		if steps, err = w.rehearseAll(working, items); err != nil {
			return err
		}
		outcome = poison.Done
		if last := steps[len(steps)-1]; last.Outcome == poison.StepParked {
			outcome, cause = poison.Stopped, fmt.Sprintf("command %s: %s", last.CommandID, last.Error)
		}
	}
	if a.part.fenced {
		return nil
	}
	report, err := json.Marshal(poison.Report{Steps: steps, More: waiting - len(steps)})
	if err != nil {
		return fmt.Errorf("encode report of action %s: %w", a.id, err)
	}
	return w.report(working, a, reportRow{outcome: outcome, err: cause, report: report})
}

// rehearseAll tries the commands together. When that fails for good, it looks for the one
// to blame from the front: what is before it is the report, and it would park again.
func (w *worker) rehearseAll(ctx context.Context, items []*item) ([]poison.Step, error) {
	steps, failure, err := w.rehearseSome(ctx, items)
	if failure == nil || err != nil {
		return steps, err
	}
	var sound []poison.Step
	for n := 1; n <= len(items); n++ {
		steps, failure, err = w.rehearseSome(ctx, items[:n])
		if err != nil {
			return nil, err
		}
		if failure != nil {
			step := newStep(items[n-1])
			step.Outcome, step.Error = poison.StepParked, storable(failure.Error())
			return append(sound, step), nil
		}
		sound = steps
	}
	return sound, nil
}

// rehearseSome tries the commands in one transaction that is rolled back.
func (w *worker) rehearseSome(ctx context.Context, items []*item) (steps []poison.Step, failure, err error) {
	var more restart
	for restarts := 0; restarts < 2*len(items)+10; restarts++ {
		b := newBatch(items, w.p.cfg.Limits, more)
		b.rehearsal = &rehearsal{}
		_, err := w.p.attempt(ctx, w.conn, b)
		if err == nil {
			return b.rehearsal.steps, nil, nil
		}
		if errors.As(err, new(*hookError)) || errors.As(err, new(*fatalError)) {
			w.rollback(ctx)
			return nil, nil, err
		}
		if again, ok := errors.AsType[*restart](err); ok {
			w.rollback(ctx)
			more.streams = append(more.streams, again.streams...)
			more.commandIDs = append(more.commandIDs, again.commandIDs...)
			continue
		}
		if lost, ok := errors.AsType[*fencedError](err); ok {
			w.rollback(ctx)
			w.fence(lost.parts)
			return nil, nil, &waitError{err}
		}
		switch judge(w.conn, err) {
		case deterministic:
			w.rollback(ctx)
			return nil, err, nil
		case unknownOutcome: // nothing was to be committed
			closeConn(w.conn)
		case tryAgain:
			w.rollback(ctx)
		}
		return nil, nil, &waitError{err}
	}
	return nil, nil, &waitError{errors.New("a dry run concerns more with every attempt")}
}

type reportRow struct {
	outcome poison.Outcome
	err     string
	report  []byte
}

// The row lock is the fence of this write too (G7): who lost the partition finds no row.
const reportSQL = `
UPDATE parked_actions SET executed_at = $2, outcome = $3, error = NULLIF($4, ''), report = $5
WHERE id = $1 AND EXISTS (SELECT FROM processor_partitions p WHERE p.partition = $6 AND p.epoch = $7 FOR UPDATE)`

func (w *worker) report(ctx context.Context, a *action, row reportRow) error {
	ctx, cancel := context.WithTimeout(ctx, w.p.cfg.TxDeadline)
	defer cancel()
	tag, err := w.conn.Exec(ctx, reportSQL, a.id, w.p.cfg.Clock(), string(row.outcome), storable(row.err), row.report, a.part.id, a.part.epoch)
	if err != nil {
		return &waitError{fmt.Errorf("write report of action %s: %w", a.id, err)}
	}
	if tag.RowsAffected() == 0 {
		w.fence([]*partition{a.part})
	}
	return nil
}
