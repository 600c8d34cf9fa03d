package processor

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/pkg/poison"
)

// partition is one assigned partition of the commands topic for one generation. All but
// the atomics belong to its worker.
type partition struct {
	id       int
	epoch    int64 // what proves the ownership
	version  int64 // of the row; one up for each transaction of this partition
	next     int64 // the offset after the last one applied
	lastID   string
	eventSeq int64 // the last sequence given to an event
	relayed  int64 // relayed_seq as it is in the table
	fenced   bool
	stale    staleCache

	published atomic.Int64 // by the relay: all rows up to it are on their topics
	seen      atomic.Int64 // when the table last showed our epoch, in nanoseconds
	applied   atomic.Int64 // next, for the watchdog and the lag
	horizon   atomic.Int64 // by observe, in microseconds: what was in the log by this wall time is applied
	awaited   atomic.Bool  // a timer waits for the horizon to pass it
	lost      atomic.Bool  // fenced, for others than the worker
	stopPump  context.CancelFunc
}

// item is one record, or one due timer, or one parked command whose turn an operator has
// called, on its way through a batch.
type item struct {
	part        *partition
	timer       *timer // nil for a record
	turn        *turn  // nil but for a parked command
	rec         contract.Record
	cmd         partner.Command
	env         contract.Envelope
	err         error // of decoding
	stale       bool
	park        string // why the command failed deterministically; it parks its pair
	traceparent string
}

func decode(part *partition, rec contract.Record, partitions int) *item {
	it := &item{part: part, rec: rec, traceparent: rec.Header("traceparent")}
	it.cmd, it.env, it.err = contract.DecodeCommand(rec)
	if it.err == nil || errors.Is(it.err, contract.ErrUnknown) {
		if want := contract.PartitionOf(rec.Key, partitions); want != part.id {
			it.err = fmt.Errorf("%w: its key belongs on partition %d of %d", contract.ErrMalformed, want, partitions)
		}
	}
	return it
}

// recordID tells a record from any other: its ce_id, or a hash when it has none.
func recordID(rec contract.Record) string {
	if id := rec.Header("ce_id"); id != "" {
		return storable(id)
	}
	h := sha256.New()
	h.Write(rec.Key)
	h.Write([]byte{0})
	h.Write(rec.Value)
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// step is how far a batch takes one partition.
type step struct {
	part     *partition
	next     int64
	lastID   string
	eventSeq int64
	relayed  int64
}

// step is where the item leaves its partition. A timer has no record, and that of a parked
// command was passed long ago: they move the version alone.
func (it *item) step() step {
	if it.timer != nil || it.turn != nil {
		return step{part: it.part, next: it.part.next, lastID: it.part.lastID, eventSeq: it.part.eventSeq}
	}
	return step{part: it.part, next: it.rec.Offset + 1, lastID: recordID(it.rec), eventSeq: it.part.eventSeq}
}

// batch is the records of one transaction and the keys of what they concern.
type batch struct {
	items      []*item
	steps      []step // by partition, ascending
	limits     partner.Limits
	rules      rules
	now        time.Time // applied_at
	partitions int       // of the commands topic
	begun      time.Time // by the machine's clock: nobody had claimed the partitions by then
	eraseRows  int       // of one table in one round of an erasure

	users       []uuid.UUID // ascending
	pairs       []partner.Pair
	lows        []uuid.UUID // of pairs
	highs       []uuid.UUID
	sideKeys    []sideKey // of pairs of two, both ways
	requestIDs  []uuid.UUID
	breakupIDs  []uuid.UUID
	commandIDs  []uuid.UUID
	missing     []uuid.UUID // streams that an attempt before did not find
	leavers     []uuid.UUID // whose accounts are deleted or erased
	erasing     []uuid.UUID // of them those who are erased
	userStates  []uuid.UUID // whose records timers publish
	coupleLows  []uuid.UUID // as userStates, of pairs
	coupleHighs []uuid.UUID
	fillers     []uuid.UUID // users whose last slot a command of the batch could fill

	rehearsal *rehearsal // not nil: nothing is to be committed, this is to be told instead

	// Of the transaction in hand.
	ctx       context.Context //nolint:containedctx // only for the rare reads while deciding
	conn      *pgx.Conn
	streams   map[uuid.UUID]int64
	wasActive map[uuid.UUID][2]int16
	changes   *changes // once decided
}

// newBatch takes the records of a transaction. more are streams and ids that an attempt
// before found to be concerned too.
func newBatch(items []*item, limits partner.Limits, more restart) *batch {
	b := &batch{items: items, limits: limits, missing: more.streams}
	users, fillers := map[uuid.UUID]struct{}{}, map[uuid.UUID]struct{}{}
	pairs := map[partner.Pair]struct{}{}
	commands, requests, breakups := map[uuid.UUID]struct{}{}, map[uuid.UUID]struct{}{}, map[uuid.UUID]struct{}{}
	for _, u := range more.streams {
		users[u] = struct{}{}
	}
	for _, id := range more.commandIDs {
		commands[id] = struct{}{}
	}
	steps := map[int]step{}
	for _, it := range items {
		steps[it.part.id] = it.step()
		switch {
		case it.turn != nil && it.turn.parked == nil:
			continue
		case it.turn != nil && it.err != nil:
			pairs[it.turn.parked.pair], commands[it.turn.parked.id] = struct{}{}, struct{}{}
			users[it.turn.parked.pair.Low], users[it.turn.parked.pair.High] = struct{}{}, struct{}{}
			continue
		case errors.Is(it.err, contract.ErrUnknown):
			pairs[it.env.Pair], commands[it.env.ID] = struct{}{}, struct{}{}
			continue
		case it.err != nil:
			continue
		}
		cmd := it.cmd
		pairs[cmd.Pair] = struct{}{}
		if it.timer != nil && it.timer.Kind.Publishes() {
			b.publishes(it.timer)
			continue
		}
		if it.timer != nil {
			users[cmd.Pair.Low], users[cmd.Pair.High] = struct{}{}, struct{}{}
			if it.timer.Kind == partner.TimerAllowance {
				fillers[cmd.Pair.Low] = struct{}{}
			}
			continue
		}
		commands[cmd.ID] = struct{}{}
		for _, u := range []uuid.UUID{cmd.Issuer, cmd.Pair.Low, cmd.Pair.High} {
			users[u] = struct{}{}
		}
		if cmd.RequestID != uuid.Nil {
			requests[cmd.RequestID] = struct{}{}
		}
		if cmd.BreakupID != uuid.Nil {
			breakups[cmd.BreakupID] = struct{}{}
		}
		switch cmd.Type {
		case partner.Send, partner.Accept, partner.Sweep, partner.Supersede:
			fillers[cmd.Pair.Low], fillers[cmd.Pair.High] = struct{}{}, struct{}{}
		case partner.Decline, partner.Cancel, partner.Remove,
			partner.AskBreakup, partner.AcceptBreakup, partner.DeclineBreakup, partner.WithdrawBreakup,
			partner.Block, partner.Unblock, partner.Forfeit, partner.SetNickname, partner.ClearNickname,
			partner.UpdateProfile, partner.ChangeCode, partner.ClosePair, partner.ReadInbox:
		case partner.EraseAccount:
			b.leavers, b.erasing = append(b.leavers, cmd.Issuer), append(b.erasing, cmd.Issuer)
		case partner.DeleteAccount:
			b.leavers = append(b.leavers, cmd.Issuer)
		}
	}
	b.steps = slices.SortedFunc(maps.Values(steps), func(x, y step) int { return cmp.Compare(x.part.id, y.part.id) })
	b.users, b.fillers = sortedIDs(users), sortedIDs(fillers)
	b.commandIDs, b.requestIDs, b.breakupIDs = sortedIDs(commands), sortedIDs(requests), sortedIDs(breakups)
	for p := range pairs {
		b.pairs = append(b.pairs, p)
		b.lows, b.highs = append(b.lows, p.Low), append(b.highs, p.High)
		if !p.Solo() {
			b.sideKeys = append(b.sideKeys, sideKey{p.Low, p.High}, sideKey{p.High, p.Low})
		}
	}
	return b
}

// publishes adds what a timer that publishes needs to have loaded.
func (b *batch) publishes(t *timer) {
	if t.Pair.Solo() {
		b.userStates = append(b.userStates, t.Pair.Low)
		return
	}
	b.coupleLows, b.coupleHighs = append(b.coupleLows, t.Pair.Low), append(b.coupleHighs, t.Pair.High)
}

func sortedIDs(set map[uuid.UUID]struct{}) []uuid.UUID {
	out := make([]uuid.UUID, 0, len(set))
	for id := range set {
		out = append(out, id)
	}
	slices.SortFunc(out, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	return out
}

func (b *batch) partitionIDs() []int16 {
	ids := make([]int16, len(b.steps))
	for i, s := range b.steps {
		ids[i] = int16(s.part.id)
	}
	return ids
}

// fencedError lists the partitions of a batch that have another owner by now. Nothing of
// the batch was written.
type fencedError struct{ parts []*partition }

func (e *fencedError) Error() string { return fmt.Sprintf("fenced on %d partitions", len(e.parts)) }

// attempt applies the batch in one transaction. It returns what was committed; with an
// error nothing was, unless judge says that the outcome is unknown.
func (p *Processor) attempt(ctx context.Context, conn *pgx.Conn, b *batch) (*changes, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.TxDeadline)
	defer cancel()
	b.begun = time.Now()
	b.ctx, b.conn, b.rules, b.partitions, b.eraseRows = ctx, conn, p.cfg.rules, p.cfg.Partitions, p.cfg.EraseRows
	w, fences, err := b.load(ctx, conn)
	if err != nil {
		return nil, err
	}
	if err := b.checkFence(fences); err != nil {
		return nil, err
	}
	if err := p.cfg.Hook(ctx, BeforeDecide); err != nil {
		return nil, &hookError{err}
	}
	b.now = contract.Instant(p.cfg.Clock())
	for _, it := range b.items {
		if err := w.decide(b, it); err != nil {
			return nil, err
		}
		if it.turn != nil && it.turn.ended == poison.Stopped {
			break // what is behind it keeps waiting
		}
	}
	b.streams, b.wasActive = w.streams, w.wasActive
	for i := range b.steps {
		b.steps[i].relayed = max(b.steps[i].part.relayed, b.steps[i].part.published.Load())
	}
	if err := p.cfg.Hook(ctx, BeforeWrite); err != nil {
		return nil, &hookError{err}
	}
	b.changes = &w.changes
	if err := b.write(ctx, conn, &w.changes); err != nil {
		return nil, err
	}
	return &w.changes, nil
}

// checkFence compares the rows under lock with what the claim returned (G7). It comes
// before the first write: were it a condition of an UPDATE in the same pipeline as
// COMMIT, it would not stop the COMMIT.
func (b *batch) checkFence(fences []fence) error {
	found := make(map[int]fence, len(fences))
	for _, f := range fences {
		found[f.partition] = f
	}
	var lost []*partition
	for _, s := range b.steps {
		f, ok := found[s.part.id]
		switch {
		case !ok || f.epoch != s.part.epoch:
			lost = append(lost, s.part)
		case f.version != s.part.version || f.next != s.part.next:
			return fatalf("partition %d is at version %d and offset %d under our epoch, not %d and %d: someone wrote its row without claiming it",
				s.part.id, f.version, f.next, s.part.version, s.part.next)
		}
	}
	if len(lost) > 0 {
		return &fencedError{lost}
	}
	return nil
}

// hookError is a fault test's.
type hookError struct{ err error }

func (e *hookError) Error() string { return e.err.Error() }
func (e *hookError) Unwrap() error { return e.err }
