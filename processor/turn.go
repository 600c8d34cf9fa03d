package processor

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/pkg/poison"
)

// turn is what an action does to one parked command, in a transaction of its own.
type turn struct {
	act    *action
	parked *parkedRow // nil: there is none left, the action only ends
	drop   bool
	last   bool // nothing waits behind it

	// Of the last attempt: that the action ends with this turn, and why it stops there.
	ended poison.Outcome
	cause string
}

// actionRow is how far a turn takes its action.
type actionRow struct {
	id       uuid.UUID
	settled  int
	executed time.Time // zero: it goes on
	outcome  string
	err      string
}

// The row moves with what it did, in one transaction: an action that a crash interrupts
// goes on where it was.
const writeActionSQL = `
UPDATE parked_actions
SET settled = settled + $2, executed_at = $3, outcome = NULLIF($4, ''), error = NULLIF($5, '')
WHERE id = $1`

const reparkSQL = `UPDATE parked_commands SET reason = $3, error = $4 WHERE partition = $1 AND log_offset = $2`

// item takes a turn through a batch.
func (t *turn) item(part *partition, topic string, partitions int) *item {
	if t.parked == nil {
		return &item{part: part, turn: t}
	}
	it := decode(part, t.parked.record(topic), partitions)
	it.turn = t
	return it
}

// takeTurn applies or rejects one parked command; the pair's other commands keep waiting
// for theirs. One that cannot be applied stays parked and ends the action.
func (w *world) takeTurn(b *batch, it *item) error {
	it.turn.ended = ""
	b.rehearsal.begin(w, it)
	if err := w.settleTurn(b, it); err != nil {
		return err
	}
	b.rehearsal.end(w, it)
	return nil
}

func (w *world) settleTurn(b *batch, it *item) error {
	t, p := it.turn, it.turn.parked
	if p == nil {
		outcome := poison.Done
		if t.act.settled == 0 {
			outcome = poison.NothingParked
		}
		w.endAction(b, t, actionRow{}, outcome)
		return nil
	}
	switch {
	case it.park != "":
		w.stayParked(b, it, poison.Failed, it.park)
		return nil
	case t.drop:
		if err := w.dropParked(b, it); err != nil {
			return err
		}
	case errors.Is(it.err, contract.ErrUnknown):
		w.stayParked(b, it, notYet(it.env), it.err.Error())
		return nil
	case it.err != nil:
		w.stayParked(b, it, poison.Failed, it.err.Error())
		return nil
	default:
		w.changes.unparked = append(w.changes.unparked, parkedKey{p.partition, p.offset})
		if err := w.applyParked(b, it); err != nil {
			return err
		}
	}
	step := actionRow{settled: 1}
	if t.last {
		w.endAction(b, t, step, poison.Done)
		return nil
	}
	step.id = t.act.id
	w.changes.actions = append(w.changes.actions, step)
	return nil
}

func (w *world) applyParked(b *batch, it *item) error {
	fingerprint, seen := w.commands[it.cmd.ID]
	switch {
	case seen && fingerprint == string(it.cmd.Fingerprint[:]):
		w.changes.tallies = append(w.changes.tallies, tally{kind: it.cmd.Type.String(), outcome: "duplicate"})
		return nil
	case seen:
		return w.mismatch(b, it)
	case it.stale:
		return w.settle(b, it, partner.RejectStale(it.cmd))
	default:
		return w.apply(b, it)
	}
}

// dropParked rejects a command. What is no command any more, in a damaged row, just goes:
// nobody can be told.
func (w *world) dropParked(b *batch, it *item) error {
	if it.err != nil && !errors.Is(it.err, contract.ErrUnknown) {
		p := it.turn.parked
		w.changes.unparked = append(w.changes.unparked, parkedKey{p.partition, p.offset})
		return nil
	}
	return w.rejectParked(b, it, *it.turn.parked, codeDropped)
}

func (w *world) stayParked(b *batch, it *item, why, cause string) {
	p := *it.turn.parked
	p.reason, p.err = why, cause
	it.turn.cause = cause
	w.changes.reparked = append(w.changes.reparked, p)
	w.endAction(b, it.turn, actionRow{err: fmt.Sprintf("command %s: %s", p.id, cause)}, poison.Stopped)
}

func (w *world) endAction(b *batch, t *turn, row actionRow, outcome poison.Outcome) {
	t.ended = outcome
	row.id, row.executed, row.outcome = t.act.id, b.now, string(outcome)
	w.changes.actions = append(w.changes.actions, row)
	w.changes.tallies = append(w.changes.tallies, tally{kind: tallyAction, action: string(t.act.kind), outcome: string(outcome)})
}
