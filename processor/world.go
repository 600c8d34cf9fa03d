package processor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/pkg/poison"
)

// world is what a batch knows and changes: the loaded aggregates, and what has become of
// them. Each command is decided on what the commands before it left.
type world struct {
	streams  map[uuid.UUID]int64 // of the users whose stream row is locked: the last sequence
	reads    map[uuid.UUID]int64 // of the same users: the read mark
	users    map[uuid.UUID]partner.User
	pairs    map[partner.Pair]*pair
	pending  map[uuid.UUID][]pendingRef
	commands map[uuid.UUID]string   // fingerprints of the commands that have an outcome
	lookedUp map[uuid.UUID]struct{} // the ids that were looked for
	parked   map[partner.Pair]struct{}
	// wasActive holds the slots that partnerships take in the table.
	wasActive map[uuid.UUID][2]int16
	// What timers publish, and whose records an erasure makes due.
	userStates   map[uuid.UUID]userState
	coupleStates map[partner.Pair]coupleState
	couplesOf    []partner.Pair

	changes changes
}

// pair is the state of a pair with its requests at hand by id.
type pair struct {
	state partner.PairState
}

func (p *pair) put(r partner.Request) {
	for i := range p.state.Requests {
		if p.state.Requests[i].ID == r.ID {
			p.state.Requests[i] = r
			return
		}
	}
	p.state.Requests = append(p.state.Requests, r)
}

type pendingRef struct {
	partner.PendingRef
	created time.Time
}

// changes are the rows to write.
type changes struct {
	requests     map[uuid.UUID]partner.Request
	partnerships map[uuid.UUID]partner.Partnership
	breakups     map[uuid.UUID]partner.Breakup
	sides        map[sideKey]partner.Side
	nicknames    map[sideKey]partner.Nickname
	profiles     map[uuid.UUID]partner.ProfilePatch
	accounts     map[uuid.UUID]partner.AccountChange
	reads        map[uuid.UUID]int64 // read marks that moved
	timers       map[timerKey]timerRow
	announced    map[timerKey]timerRow // of those that publish, perhaps on others' partitions
	publications []partner.Timer       // done
	cuts         map[cutRow]struct{}
	activity     []activityRow
	streams      map[uuid.UUID]struct{} // those that moved
	commands     []commandRow
	rows         []row
	inbox        []inboxRow
	parked       []parkedRow
	unparked     []parkedKey
	reparked     []parkedRow // with another reason than before
	actions      []actionRow
	dead         []deadRow
	eventSeqs    map[int]int64 // the last sequence given, by partition

	tallies []tally // counted once the transaction has committed
}

type commandRow struct {
	id          uuid.UUID
	issuer      uuid.UUID
	kind        partner.CommandType
	fingerprint [16]byte
	code        partner.Code
	result      string
	seq         int64
	acceptedAt  time.Time
	appliedAt   time.Time
}

type inboxRow struct {
	user      uuid.UUID
	seq       int64
	partition int
	eventSeq  int64
	origin    uuid.UUID
}

// Kinds of tallies that are not command types.
const (
	tallyParked = "parked"
	tallyDead   = "dead"
	tallyTimer  = "timer"
	tallyAction = "action"
)

// tally is one thing to count.
type tally struct {
	kind       string
	action     string // of a tallyAction
	outcome    string
	acceptedAt time.Time
}

// restart is the error of a decision that concerns more than was locked or looked up: the
// transaction starts again with it. Absent rows cannot be locked, so streams that do not
// exist are made first.
type restart struct {
	streams    []uuid.UUID
	commandIDs []uuid.UUID
}

func (r *restart) Error() string {
	return fmt.Sprintf("%d streams and %d commands more are concerned", len(r.streams), len(r.commandIDs))
}

func newWorld() *world {
	return &world{
		streams: map[uuid.UUID]int64{}, reads: map[uuid.UUID]int64{}, users: map[uuid.UUID]partner.User{}, pairs: map[partner.Pair]*pair{},
		pending: map[uuid.UUID][]pendingRef{}, commands: map[uuid.UUID]string{}, lookedUp: map[uuid.UUID]struct{}{},
		parked: map[partner.Pair]struct{}{}, wasActive: map[uuid.UUID][2]int16{},
		userStates: map[uuid.UUID]userState{}, coupleStates: map[partner.Pair]coupleState{},
		changes: changes{
			requests: map[uuid.UUID]partner.Request{}, partnerships: map[uuid.UUID]partner.Partnership{},
			breakups: map[uuid.UUID]partner.Breakup{}, sides: map[sideKey]partner.Side{}, nicknames: map[sideKey]partner.Nickname{},
			profiles: map[uuid.UUID]partner.ProfilePatch{}, accounts: map[uuid.UUID]partner.AccountChange{}, timers: map[timerKey]timerRow{},
			announced: map[timerKey]timerRow{}, reads: map[uuid.UUID]int64{}, cuts: map[cutRow]struct{}{},
			streams: map[uuid.UUID]struct{}{}, eventSeqs: map[int]int64{},
		},
	}
}

func (w *world) pair(p partner.Pair) *pair {
	if found, ok := w.pairs[p]; ok {
		return found
	}
	made := &pair{state: partner.PairState{Pair: p}}
	w.pairs[p] = made
	return made
}

// sortPending puts what the two branches of the load found in the order of the core:
// oldest first.
func (w *world) sortPending(users []uuid.UUID) {
	for _, u := range users {
		slices.SortFunc(w.pending[u], func(a, b pendingRef) int {
			if c := a.created.Compare(b.created); c != 0 {
				return c
			}
			return bytes.Compare(a.RequestID[:], b.RequestID[:])
		})
	}
}

// user returns the aggregate as a decision needs it. Pending is kept here and not taken
// from the core's next state: it may know of more than the limit of one decision.
func (w *world) user(id uuid.UUID) partner.User {
	u := w.users[id]
	u.ID, u.LastSeq, u.ReadSeq = id, w.streams[id], w.reads[id]
	refs := w.pending[id]
	u.Pending = make([]partner.PendingRef, 0, min(len(refs), partner.PendingLimit))
	u.PendingCut = len(refs) > partner.PendingLimit
	for _, ref := range refs[:min(len(refs), partner.PendingLimit)] {
		u.Pending = append(u.Pending, ref.PendingRef)
	}
	return u
}

func (w *world) state(cmd partner.Command) partner.State {
	st := partner.State{Pair: w.pair(cmd.Pair).state, Users: make(map[uuid.UUID]partner.User, 2)}
	for _, id := range []uuid.UUID{cmd.Pair.Low, cmd.Pair.High, cmd.Issuer} {
		if id != uuid.Nil { // a timer has no issuer
			st.Users[id] = w.user(id)
		}
	}
	return st
}

// decide takes one record through the rules and keeps what comes of it in changes. A
// *restart is returned when more has to be locked first.
func (w *world) decide(b *batch, it *item) error {
	switch {
	case it.turn != nil:
		return w.takeTurn(b, it)
	case errors.Is(it.err, contract.ErrUnknown):
		return w.parkUnknown(b, it)
	case it.err != nil:
		return w.setAside(b, it)
	}
	if it.timer != nil {
		return w.fire(b, it)
	}
	cmd := it.cmd
	if fingerprint, seen := w.commands[cmd.ID]; seen {
		if fingerprint == string(cmd.Fingerprint[:]) {
			w.changes.tallies = append(w.changes.tallies, tally{kind: cmd.Type.String(), outcome: "duplicate"})
			return nil
		}
		return w.mismatch(b, it)
	}
	if it.stale {
		return w.settle(b, it, partner.RejectStale(cmd))
	}
	_, parked := w.parked[cmd.Pair]
	switch {
	case it.park != "":
		why, cause := poison.Failed, it.park
		if parked {
			why = poison.Behind
		}
		w.park(b, it, why, cause)
		return nil
	case parked && leaves(cmd.Type):
		return w.leaveParked(b, it)
	case parked:
		w.park(b, it, poison.Behind, "")
		return nil
	}
	return w.apply(b, it)
}

// apply decides on a command and keeps the decision.
func (w *world) apply(b *batch, it *item) error {
	d, err := b.rules.decide(b.limits, w.state(it.cmd), it.cmd)
	if err != nil {
		return err
	}
	return w.settle(b, it, d)
}

// mismatch rejects a command whose id belongs to another one. The other's outcome stays as
// it is; this rejection is kept under an id of its own, so that it too happens once.
func (w *world) mismatch(b *batch, it *item) error {
	cmd := it.cmd
	id := partner.MismatchEventID(cmd.ID, cmd.Fingerprint)
	if _, ok := w.lookedUp[id]; !ok {
		return &restart{commandIDs: []uuid.UUID{id}}
	}
	if _, seen := w.commands[id]; seen {
		w.changes.tallies = append(w.changes.tallies, tally{kind: cmd.Type.String(), outcome: "duplicate"})
		return nil
	}
	d := partner.RejectMismatch(cmd)
	seq, err := w.emit(b, it, d)
	if err != nil {
		return err
	}
	w.record(b, commandRow{
		id: id, issuer: cmd.Issuer, kind: cmd.Type, fingerprint: cmd.Fingerprint, code: d.Outcome.Code, seq: seq,
		acceptedAt: cmd.AcceptedAt,
	})
	return nil
}

// settle keeps a decision.
func (w *world) settle(b *batch, it *item, d partner.Decision) error {
	seq, err := w.emit(b, it, d)
	if err != nil {
		return err
	}
	cmd := it.cmd
	out := commandRow{
		id: cmd.ID, issuer: cmd.Issuer, kind: cmd.Type, fingerprint: cmd.Fingerprint, code: d.Outcome.Code, seq: seq,
		acceptedAt: cmd.AcceptedAt,
	}
	if d.Outcome.Applied() {
		result, err := json.Marshal(d.Outcome.Result)
		if err != nil {
			return fmt.Errorf("encode result of %s: %w", cmd.ID, err)
		}
		out.result = string(result)
	}
	w.record(b, out)
	w.keep(cmd.Pair, d)
	w.announce(b, it, d)
	for _, a := range d.Activity {
		entry := activityRow{Activity: a, command: cmd.ID, at: b.now, address: cmd.Address, device: cmd.Device}
		if a.Code == partner.CodeAccountDeleting {
			entry.address, entry.device = "", "" // the erasure may have been by already
		}
		w.changes.activity = append(w.changes.activity, entry)
	}
	return nil
}

// keep takes over what a decision changes: rows to write, and the state that the next
// decision of the batch starts from.
func (w *world) keep(of partner.Pair, d partner.Decision) {
	for _, r := range d.Requests {
		w.changes.requests[r.ID] = r
		w.pair(partner.PairOf(r.Sender, r.Target)).put(r)
		w.keepPending(r)
	}
	for _, p := range d.Partners {
		w.changes.partnerships[p.ID] = p
	}
	for _, b := range d.Breakups {
		w.changes.breakups[b.ID] = b
		w.pair(b.Pair).putBreakup(b)
	}
	for _, s := range d.Sides {
		w.changes.sides[sideKey{s.Owner, s.Other}] = s.Side
	}
	for _, n := range d.Nicknames {
		w.changes.nicknames[sideKey{n.Owner, n.Target}] = n
	}
	for _, p := range d.Profiles {
		w.changes.profiles[p.UserID] = patch(w.changes.profiles[p.UserID], p.Patch)
	}
	for _, a := range d.Accounts {
		w.changes.accounts[a.UserID] = a
	}
	for _, r := range d.Reads {
		w.reads[r.UserID], w.changes.reads[r.UserID] = r.Seq, r.Seq
	}
	if d.Next.Users == nil {
		return // made without a state
	}
	next := w.pair(of)
	next.state.Partnership, next.state.Low, next.state.High = d.Next.Pair.Partnership, d.Next.Pair.Low, d.Next.Pair.High
	for id, u := range d.Next.Users {
		if u.Status != partner.UserUnknown {
			u.Pending, u.PendingCut = nil, false // see user
			w.users[id] = u
		}
	}
}

// record keeps the outcome of a command and remembers its id for the rest of the batch.
func (w *world) record(b *batch, c commandRow) {
	c.appliedAt = b.now
	w.changes.commands = append(w.changes.commands, c)
	w.commands[c.id] = string(c.fingerprint[:])
	outcome := "applied"
	if c.code != "" {
		outcome = string(c.code)
	}
	w.changes.tallies = append(w.changes.tallies, tally{kind: c.kind.String(), outcome: outcome, acceptedAt: c.acceptedAt})
}

// keepPending follows a request into or out of the lists of its two users.
func (w *world) keepPending(r partner.Request) {
	for _, u := range []uuid.UUID{r.Sender, r.Target} {
		at := slices.IndexFunc(w.pending[u], func(p pendingRef) bool { return p.RequestID == r.ID })
		switch {
		case r.Status == partner.RequestPending && at < 0:
			w.pending[u] = append(w.pending[u], pendingRef{
				partner.PendingRef{RequestID: r.ID, Pair: partner.PairOf(r.Sender, r.Target)}, r.CreatedAt,
			})
		case r.Status != partner.RequestPending && at >= 0:
			w.pending[u] = slices.Delete(w.pending[u], at, at+1)
		}
	}
}

// emit gives the decision's events and follow-ups their sequences. It returns the issuer's
// inbox sequence of the last event addressed to the issuer, or zero.
func (w *world) emit(b *batch, it *item, d partner.Decision) (int64, error) {
	var missing []uuid.UUID
	need := func(u uuid.UUID) {
		if _, locked := w.streams[u]; !locked {
			missing = append(missing, u)
		}
	}
	for _, ev := range d.Events {
		for _, u := range ev.Recipients {
			need(u)
		}
	}
	for _, c := range d.Cuts {
		need(c.Recipient)
		need(c.Origin)
	}
	if len(missing) > 0 {
		return 0, &restart{streams: missing}
	}
	b.rehearsal.saw(d)
	w.cut(d.Cuts)
	if err := w.setTimers(it, d.Timers); err != nil {
		return 0, err
	}
	var issuerSeq int64
	for _, ev := range d.Events {
		data, err := json.Marshal(ev.Data)
		if err != nil {
			return 0, fmt.Errorf("encode event %s: %w", ev.ID, err)
		}
		r := row{
			topic: toEvents, id: ev.ID, kind: int16(ev.Type), commandID: ev.CommandID, pair: ev.Pair,
			acceptedAt: it.cmd.AcceptedAt, data: string(data),
		}
		seq := w.append(b, it, &r)
		for _, u := range ev.Recipients {
			w.streams[u]++
			w.changes.streams[u] = struct{}{}
			n := w.streams[u]
			switch u {
			case ev.Pair.Low:
				r.lowSeq = n
			case ev.Pair.High:
				r.highSeq = n
			default:
				if r.otherSeq != 0 {
					return 0, fmt.Errorf("event %s has two recipients outside its pair", ev.ID)
				}
				r.other, r.otherSeq = u, n
			}
			if u == it.cmd.Issuer {
				issuerSeq = n
			}
			w.changes.inbox = append(w.changes.inbox, inboxRow{u, n, it.part.id, seq, ev.Origin})
		}
		w.changes.rows[len(w.changes.rows)-1] = r
	}
	for _, cmd := range d.FollowUps {
		r, err := newFollowUp(cmd, it.cmd.ID)
		if err != nil {
			return 0, err
		}
		w.append(b, it, &r)
	}
	return issuerSeq, nil
}

// append gives a row the next sequence of its partition.
func (w *world) append(b *batch, it *item, r *row) int64 {
	last, ok := w.changes.eventSeqs[it.part.id]
	if !ok {
		last = it.part.eventSeq
	}
	last++
	w.changes.eventSeqs[it.part.id] = last
	r.partition, r.seq, r.appliedAt, r.traceparent = it.part.id, last, b.now, it.traceparent
	w.changes.rows = append(w.changes.rows, *r)
	return last
}
