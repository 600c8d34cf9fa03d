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
	"github.com/bondmate/backend/pkg/poison"
)

// Codes that reject what was parked on a pair: one of the two left, or an operator dropped it.
const (
	codeSupersededByLeave partner.Code = "superseded_by_leave"
	codeDropped           partner.Code = "dropped"
)

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
	if _, seen := w.commands[it.env.ID]; seen {
		// It was dropped, or rejected by a leave, and Kafka holds it twice.
		w.changes.tallies = append(w.changes.tallies, tally{kind: tallyParked, outcome: "duplicate"})
		return nil
	}
	why := notYet(it.env)
	if _, parked := w.parked[it.env.Pair]; parked {
		why = poison.Behind
	}
	w.park(b, it, why, it.err.Error())
	return nil
}

// notYet says why a command waits for a newer program.
func notYet(env contract.Envelope) string {
	if env.Version > contract.Version {
		return poison.NewerVersion
	}
	return poison.UnknownType
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
	d, err := b.rules.decide(b.limits, w.state(it.cmd), it.cmd)
	if err != nil {
		return err
	}
	if !d.Outcome.Applied() {
		w.park(b, it, poison.Behind, "")
		return nil
	}
	waiting, err := b.loadWaiting(it.cmd.Pair)
	if err != nil {
		return err
	}
	var more restart
	for _, p := range waiting {
		if _, ok := w.lookedUp[p.id]; !ok {
			more.commandIDs = append(more.commandIDs, p.id)
		}
	}
	if len(more.commandIDs) > 0 {
		return &more
	}
	if err := w.settle(b, it, d); err != nil {
		return err
	}
	for _, p := range w.changes.parked {
		if p.pair == it.cmd.Pair {
			waiting = append(waiting, p)
		}
	}
	w.changes.parked = slices.DeleteFunc(w.changes.parked, func(p parkedRow) bool { return p.pair == it.cmd.Pair })
	for _, p := range waiting {
		if err := w.rejectParked(b, it, p, codeSupersededByLeave); err != nil {
			return err
		}
	}
	delete(w.parked, it.cmd.Pair)
	return nil
}

// rejectParked gives a parked command the outcome that it will not be decided on.
func (w *world) rejectParked(b *batch, it *item, p parkedRow, code partner.Code) error {
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
	d := partner.RejectWaiting(cmd, code)
	d.Events[0].Data.Command = env.Type
	as := item{part: it.part, cmd: cmd, env: env, traceparent: it.traceparent}
	return w.settle(b, &as, d)
}

// Waiting commands of one pair, in their order. Rare, so not among the prepared ones.
const loadWaitingSQL = `
SELECT p.partition, p.log_offset, p.low, p.high, p.id, p.reason, p.headers, p.value, p.parked_at
FROM parked_commands p
WHERE p.low = $1 AND p.high = $2
ORDER BY p.log_offset`

func (b *batch) loadWaiting(pair partner.Pair) ([]parkedRow, error) {
	rows, err := b.conn.Query(b.ctx, loadWaitingSQL, pair.Low, pair.High)
	if err != nil {
		return nil, fmt.Errorf("load parked commands of %s: %w", pair, err)
	}
	out, err := pgx.CollectRows(rows, scanParkedRow)
	if err != nil {
		return nil, fmt.Errorf("load parked commands of %s: %w", pair, err)
	}
	return out, nil
}

func scanParkedRow(row pgx.CollectableRow) (p parkedRow, err error) {
	err = row.Scan(&p.partition, &p.offset, raw(&p.pair.Low), raw(&p.pair.High), raw(&p.id), &p.reason, &p.headers, &p.value, &p.at)
	return p, err
}

// record is the record that was parked.
func (p parkedRow) record(topic string) contract.Record {
	var stored []storedHeader
	_ = json.Unmarshal([]byte(p.headers), &stored) // headersJSON made it; a header less is no fault of the command
	rec := contract.Record{Topic: topic, Partition: p.partition, Offset: p.offset, Key: []byte(p.pair.String()), Value: p.value}
	for _, h := range stored {
		value := h.Bytes
		if value == nil {
			value = []byte(h.Text)
		}
		rec.Headers = append(rec.Headers, contract.Header{Key: h.Key, Value: value})
	}
	return rec
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
