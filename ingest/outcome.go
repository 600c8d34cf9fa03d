package ingest

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

const (
	// lookQueue bounds the look-ups that wait for a worker; more than that wait for room,
	// each until its own deadline.
	lookQueue = 1024
	// lookBatch bounds one query.
	lookBatch = 256
	// lookWorkers is how many queries are under way at most. What gathers while they are is
	// the next batch, so the rate of queries adapts to the server.
	lookWorkers = 2
)

// Statuses of commands.status.
const statusApplied = 1

// outcome is a row of the table commands: what became of a command.
type outcome struct {
	ID          uuid.UUID
	Issuer      uuid.UUID
	Type        int16
	Fingerprint []byte
	Status      int16
	Code        *string
	Result      json.RawMessage
	Seq         *int64
	AcceptedAt  time.Time
	AppliedAt   time.Time
}

func (o *outcome) applied() bool { return o.Status == statusApplied }

func (o *outcome) typeName() string { return partner.CommandType(o.Type).String() }

func (o *outcome) code() string {
	if o.Code == nil {
		return "internal"
	}
	return *o.Code
}

// outcomes reads outcomes from the primary and wakes those who wait for one.
//
// Reading is group commit in reverse: look-ups that arrive while a query is under way
// share the next one. The channel belongs to the workers in run, which end with its
// context; a look-up is answered through a channel of its own that has room for the
// answer, so a worker never waits for a caller who left.
//
// No wake-up is lost: a caller registers before it looks, and only then writes, so an
// event is either seen by its waiter or came before the look, which then finds the row.
// An event comes after its command's row is committed, always.
type outcomes struct {
	db    *database
	looks chan look

	mu      sync.Mutex
	waiters map[uuid.UUID][]*waiter
}

type look struct {
	id    uuid.UUID
	reply chan<- found
}

type found struct {
	outcome *outcome // nil when there is no row
	err     error
}

// waiter is one call that waits for a command's outcome.
type waiter struct {
	id   uuid.UUID
	wake chan struct{} // has room for one
}

func newOutcomes(db *database) *outcomes {
	return &outcomes{db: db, looks: make(chan look, lookQueue), waiters: map[uuid.UUID][]*waiter{}}
}

// run answers look-ups until ctx ends.
func (o *outcomes) run(ctx context.Context) {
	var wg sync.WaitGroup
	for range lookWorkers {
		wg.Go(func() { o.work(ctx) })
	}
	wg.Wait()
}

func (o *outcomes) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case first := <-o.looks:
			batch := []look{first}
			for more := true; more && len(batch) < lookBatch; {
				select {
				case next := <-o.looks:
					batch = append(batch, next)
				default:
					more = false
				}
			}
			o.answer(ctx, batch)
		}
	}
}

func (o *outcomes) answer(ctx context.Context, batch []look) {
	ids := make([]uuid.UUID, len(batch))
	for i, l := range batch {
		ids[i] = l.id
	}
	rows, err := o.load(ctx, ids)
	for _, l := range batch {
		l.reply <- found{outcome: rows[l.id], err: err}
	}
}

const selectOutcomes = `
SELECT id, issuer, type, fingerprint, status, code, result, seq, accepted_at, applied_at
FROM commands WHERE id = ANY($1)`

func (o *outcomes) load(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]*outcome, error) {
	var rows []*outcome
	err := o.db.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		result, err := conn.Query(ctx, selectOutcomes, ids)
		if err != nil {
			return err
		}
		rows, err = pgx.CollectRows(result, func(row pgx.CollectableRow) (*outcome, error) {
			var out outcome
			scanErr := row.Scan(&out.ID, &out.Issuer, &out.Type, &out.Fingerprint, &out.Status, &out.Code,
				(*[]byte)(&out.Result), &out.Seq, &out.AcceptedAt, &out.AppliedAt)
			return &out, scanErr
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load %d outcomes: %w", len(ids), err)
	}
	byID := make(map[uuid.UUID]*outcome, len(rows))
	for _, row := range rows {
		byID[row.ID] = row
	}
	return byID, nil
}

// look returns the outcome of a command, or nil when it has none yet.
func (o *outcomes) look(ctx context.Context, id uuid.UUID) (*outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, acquireTimeout+queryTimeout)
	defer cancel()
	reply := make(chan found, 1)
	select {
	case o.looks <- look{id: id, reply: reply}:
	case <-ctx.Done():
		return nil, fmt.Errorf("look up command %s: %w", id, ctx.Err())
	}
	select {
	case f := <-reply:
		return f.outcome, f.err
	case <-ctx.Done():
		return nil, fmt.Errorf("look up command %s: %w", id, ctx.Err())
	}
}

// register returns a waiter for a command; the caller must unregister it.
func (o *outcomes) register(id uuid.UUID) *waiter {
	w := &waiter{id: id, wake: make(chan struct{}, 1)}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiters[id] = append(o.waiters[id], w)
	return w
}

func (o *outcomes) unregister(w *waiter) {
	o.mu.Lock()
	defer o.mu.Unlock()
	rest := o.waiters[w.id]
	for i, other := range rest {
		if other == w {
			rest = append(rest[:i:i], rest[i+1:]...)
			break
		}
	}
	if len(rest) == 0 {
		delete(o.waiters, w.id)
		return
	}
	o.waiters[w.id] = rest
}

// onEvent wakes the waiters of the event's command. It never blocks: it is called from
// the tail that feeds everybody else too.
func (o *outcomes) onEvent(ev contract.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, w := range o.waiters[ev.CommandID] {
		select {
		case w.wake <- struct{}{}:
		default: // already awake
		}
	}
}

// result is what the issuer is told, as the core wrote it.
func (o *outcome) result() json.RawMessage {
	if len(o.Result) == 0 {
		return json.RawMessage("{}")
	}
	return o.Result
}
