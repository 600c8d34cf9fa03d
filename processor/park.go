package processor

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// Why a command waits in parked_commands.
const (
	reasonUnknownType  = "unknown_type"
	reasonNewerVersion = "newer_version"
	reasonFailed       = "failed"
	reasonBehind       = "behind"
)

// codeSupersededByLeave rejects what was parked on a pair before one of the two left.
const codeSupersededByLeave partner.Code = "superseded_by_leave"

type parkedRow struct {
	partition int
	offset    int64
	pair      partner.Pair
	id        uuid.UUID
	reason    string
	err       string
	headers   string
	value     []byte
	at        time.Time
}

type parkedKey struct {
	partition int
	offset    int64
}

type deadRow struct {
	topic     string
	partition int
	offset    int64
	err       string
	key       []byte
	headers   string
	value     []byte
	at        time.Time
}

// park sets the pair of a command aside, or queues the command behind what is parked.
func (w *world) park(b *batch, it *item, why, cause string) {
	w.parked[it.env.Pair] = struct{}{}
	w.changes.parked = append(w.changes.parked, parkedRow{
		partition: it.part.id, offset: it.rec.Offset, pair: it.env.Pair, id: it.env.ID, reason: why, err: cause,
		headers: headersJSON(it.rec.Headers), value: it.rec.Value, at: b.now,
	})
	w.changes.tallies = append(w.changes.tallies, tally{kind: tallyParked, outcome: why})
}

// parkUnknown keeps a command that a newer program wrote for that newer program.
func (w *world) parkUnknown(b *batch, it *item) error {
	why := reasonUnknownType
	if it.env.Version > contract.Version {
		why = reasonNewerVersion
	}
	if _, parked := w.parked[it.env.Pair]; parked {
		why = reasonBehind
	}
	w.park(b, it, why, it.err.Error())
	return nil
}

// setAside turns a record that nothing can ever read into a dead letter.
func (w *world) setAside(b *batch, it *item) error {
	r, err := newDeadLetter(contract.DeadLetter{
		Topic: it.rec.Topic, Partition: it.rec.Partition, Offset: it.rec.Offset, Error: it.err.Error(),
		Key: it.rec.Key, Time: b.now,
	})
	if err != nil {
		return err
	}
	w.append(b, it, &r)
	w.changes.dead = append(w.changes.dead, deadRow{
		topic: it.rec.Topic, partition: it.rec.Partition, offset: it.rec.Offset, err: it.err.Error(),
		key: it.rec.Key, headers: headersJSON(it.rec.Headers), value: it.rec.Value, at: b.now,
	})
	w.changes.tallies = append(w.changes.tallies, tally{kind: tallyDead})
	return nil
}

// leaves says which commands are not held up by a parked pair (G8): a leave, a block, a
// deletion.
func leaves(t partner.CommandType) bool {
	switch t {
	case partner.Remove, partner.Block, partner.DeleteAccount, partner.ClosePair, partner.EraseAccount:
		return true
	default:
		return false
	}
}

// leaveParked tries a leave at once although its pair is parked (G8): nobody is held in a
// partnership by a poison record. Applied, it rejects what was parked before it; rejected,
// it queues with the rest, for one of them may be what it should end.
func (w *world) leaveParked(b *batch, it *item) error {
	d := partner.Decide(b.limits, w.state(it.cmd), it.cmd)
	if !d.Outcome.Applied() {
		w.park(b, it, reasonBehind, "")
		return nil
	}
	if err := w.settle(b, it, d); err != nil {
		return err
	}
	waiting, err := b.loadWaiting(it.cmd.Pair)
	if err != nil {
		return err
	}
	for _, p := range w.changes.parked {
		if p.pair == it.cmd.Pair {
			waiting = append(waiting, p)
		}
	}
	w.changes.parked = slices.DeleteFunc(w.changes.parked, func(p parkedRow) bool { return p.pair == it.cmd.Pair })
	for _, p := range waiting {
		if err := w.rejectParked(b, it, p); err != nil {
			return err
		}
	}
	delete(w.parked, it.cmd.Pair)
	return nil
}

func (w *world) rejectParked(b *batch, it *item, p parkedRow) error {
	w.changes.unparked = append(w.changes.unparked, parkedKey{p.partition, p.offset})
	cmd, env, err := contract.DecodeCommand(contract.Record{Key: []byte(p.pair.String()), Value: p.value})
	if err != nil && !errors.Is(err, contract.ErrUnknown) {
		return fmt.Errorf("read parked command %s: %w", p.id, err)
	}
	if _, settled := w.commands[p.id]; settled {
		return nil // parked twice, as Kafka held it twice
	}
	if err != nil {
		// Of a newer program's command only the envelope can be told. Its type has no number.
		cmd = partner.Command{ID: env.ID, Issuer: env.Issuer, Pair: env.Pair, AcceptedAt: p.at.UTC()}
	}
	name := env.Type
	d := partner.Decision{
		Now:     cmd.AcceptedAt,
		Outcome: partner.Outcome{Code: codeSupersededByLeave},
		Events: []partner.Event{{
			ID: partner.EventID(cmd.ID, 0), Type: partner.EventCommandRejected, CommandID: cmd.ID, Pair: cmd.Pair,
			Recipients: []uuid.UUID{cmd.Issuer}, Origin: cmd.Issuer, At: cmd.AcceptedAt,
			Data: partner.EventData{Code: codeSupersededByLeave, Command: name},
		}},
	}
	if cmd.FollowUp() {
		d.Events[0].Recipients = nil
	}
	as := item{part: it.part, cmd: cmd, env: env, traceparent: it.traceparent}
	return w.settle(b, &as, d)
}

// Waiting commands of one pair, in their order. Rare, so not among the prepared ones.
const loadWaitingSQL = `
SELECT p.partition, p.log_offset, p.id, p.value, p.parked_at
FROM parked_commands p
WHERE p.low = $1 AND p.high = $2
ORDER BY p.log_offset`

func (b *batch) loadWaiting(pair partner.Pair) ([]parkedRow, error) {
	rows, err := b.conn.Query(b.ctx, loadWaitingSQL, pair.Low, pair.High)
	if err != nil {
		return nil, fmt.Errorf("load parked commands of %s: %w", pair, err)
	}
	out, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (p parkedRow, err error) {
		p.pair = pair
		err = r.Scan(&p.partition, &p.offset, &p.id, &p.value, &p.at)
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("load parked commands of %s: %w", pair, err)
	}
	return out, nil
}

type storedHeader struct {
	Key   string `json:"key"`
	Text  string `json:"text,omitempty"`
	Bytes []byte `json:"bytes,omitempty"` // what is not text that jsonb can hold
}

// headersJSON keeps headers in their order, and whatever bytes a stranger put into them.
func headersJSON(hs []contract.Header) string {
	out := make([]storedHeader, 0, len(hs))
	for _, h := range hs {
		s := storedHeader{Key: storable(h.Key)}
		if text := string(h.Value); storable(text) == text {
			s.Text = text
		} else {
			s.Bytes = h.Value
		}
		out = append(out, s)
	}
	data, err := json.Marshal(out)
	if err != nil {
		return "[]" // strings and bytes always encode
	}
	return string(data)
}

// storable drops what a Postgres text cannot hold.
func storable(s string) string {
	if !utf8.ValidString(s) || slices.Contains([]byte(s), 0) {
		return fmt.Sprintf("%q", s)
	}
	return s
}
