package realtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/sony/gobreaker/v2"

	"github.com/bondmate/backend/pkg/partner"
)

// reads answers where sockets stand and what comes next, for hellos and fills. The primary
// always says the first: epoch, head, whether the session lives, whether a cut may apply.
// The events come from the window when it has them all, else from the inbox.
//
// Reads are made together: whatever has gathered while the statements before were on their
// way goes as one. So a lone socket waits for nobody, and a mass reconnect becomes a few
// statements in flight of up to maxGathered sockets each. All share one breaker.
//
// Who waits for a read is a goroutine of a socket, and a socket has one such at a time:
// that bounds the queue. A goroutine of reads lives while there is something to send.
type reads struct {
	pool    *pgxpool.Pool
	clock   func() time.Time
	window  *window
	breaker *gobreaker.CircuitBreaker[struct{}]
	within  time.Duration
	page    int // events
	m       *metrics
	life    context.Context // ends when the gateway gives up on what is still open
	running *sync.WaitGroup // the gateway's

	mu     sync.Mutex
	queue  []*ask
	flying int // goroutines that send
	most   int // of them
}

const (
	// maxGathered bounds the sockets in one statement.
	maxGathered = 500
	// maxRows bounds the events that one statement brings: the more sockets ask together, the
	// shorter their pages, though none is shorter than minPage. Who needs more reads on.
	maxRows = 3200
	minPage = 8
)

func newReads(g *Gateway) *reads {
	return &reads{
		pool: g.cfg.Pool, clock: g.cfg.Clock, window: g.window, within: g.cfg.ReadWithin,
		page: g.cfg.PageSize, m: g.m, life: g.life, running: &g.running, most: g.cfg.MaxReads,
		breaker: gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
			Name:        "inbox",
			Timeout:     time.Second,
			MaxRequests: 2,
			ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= 5 },
			// A gateway that stops says nothing about the database.
			IsExcluded:    func(err error) bool { return errors.Is(err, context.Canceled) },
			OnStateChange: g.m.breakerChanged,
		}),
	}
}

// page is one read of a user's inbox.
type page struct {
	epoch  string
	head   int64 // of the inbox, read before the rows: whatever is up to it is among them or gone
	live   bool  // the session exists, and is neither revoked nor expired
	rows   []row
	readAt time.Time // before the read: what is true at it is in the page
	full   bool      // there may be more rows
	via    string    // where the rows come from
}

// row is one event of an inbox.
type row struct {
	seq       int64
	id        uuid.UUID
	kind      string // what it is sent as
	appliedAt time.Time
	data      json.RawMessage
}

// kindWithdrawn is the type of a placeholder: a cut took the event back, and only its place
// is left (G9). It is no event type: nothing of it is stored.
const kindWithdrawn = "withdrawn"

// Where an event came from, as metrics name it.
const (
	viaTopic  = "topic"
	viaWindow = "window"
	viaInbox  = "inbox"
)

// ask is one socket's read, on its way to a statement.
type ask struct {
	ctx           context.Context // of who waits
	user, session uuid.UUID
	after         int64
	rows          bool // read the events after it as well

	done chan struct{} // closed when what follows is set
	page page
	cut  bool       // a cut takes something back after it, or may
	next *uuid.UUID // the event that follows it, nil when it is gone
	err  error
}

// read returns the head of the user's inbox and, unless after is negative, events after
// it: to the head or as many as fit a page.
//
// The window is asked only when the primary has just said that no cut applies to anything
// after that place (G9), so what it holds is what the inbox would give at readAt; who sends
// it is held to that time as with any page. The event that comes first must be the one that
// the inbox has: retention takes the oldest first, so then it has not come this far.
func (r *reads) read(ctx context.Context, user, session uuid.UUID, after int64) (page, error) {
	if after >= 0 && r.window.has(user, after+1) {
		a, err := r.ask(ctx, ask{user: user, session: session, after: after})
		if err != nil {
			return page{}, err
		}
		if !a.page.live || a.page.head <= after {
			return a.page, nil // there is nothing to send
		}
		if p, ok := r.fromWindow(a); ok {
			return p, nil
		}
	}
	a, err := r.ask(ctx, ask{user: user, session: session, after: after, rows: after >= 0})
	if err != nil {
		return page{}, err
	}
	if len(a.page.rows) > 0 {
		r.m.replays.WithLabelValues(viaInbox).Inc()
	}
	return a.page, nil
}

// fromWindow completes an answer with the events of the window, if they may be sent and it has them.
func (r *reads) fromWindow(a *ask) (page, bool) {
	p := a.page
	if a.cut || a.next == nil {
		return page{}, false
	}
	to := min(p.head, a.after+int64(r.page))
	p.rows = r.window.rows(a.user, p.epoch, a.after+1, to)
	if len(p.rows) == 0 || p.rows[0].id != *a.next {
		return page{}, false
	}
	p.via, p.full = viaWindow, to < p.head
	r.m.replays.WithLabelValues(viaWindow).Inc()
	return p, true
}

// ask queues a read and waits for its answer, until ctx ends.
func (r *reads) ask(ctx context.Context, a ask) (*ask, error) {
	a.ctx, a.done = ctx, make(chan struct{})
	r.mu.Lock()
	r.queue = append(r.queue, &a)
	if r.flying < r.most {
		r.flying++
		r.running.Go(r.fly) // who asks is counted there too, so the count is not zero
	}
	r.mu.Unlock()
	select {
	case <-a.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait to read inbox of %s: %w", a.user, ctx.Err())
	}
	if a.err != nil {
		return nil, fmt.Errorf("read inbox of %s after %d: %w", a.user, a.after, a.err)
	}
	return &a, nil
}

// fly sends what has gathered until nothing has.
func (r *reads) fly() {
	for {
		batch := r.gather()
		if len(batch) == 0 {
			return
		}
		r.send(batch)
	}
}

// gather takes what one statement asks for, or ends the goroutine.
func (r *reads) gather() []*ask {
	r.mu.Lock()
	defer r.mu.Unlock()
	var batch []*ask
	taken := 0
	for _, a := range r.queue {
		if len(batch) == maxGathered {
			break
		}
		if a.ctx.Err() == nil { // else nobody waits for it any more
			batch = append(batch, a)
		}
		taken++
	}
	clear(r.queue[:taken])
	if r.queue = r.queue[taken:]; len(r.queue) == 0 {
		r.queue = nil
	}
	if len(batch) == 0 {
		r.flying--
	}
	return batch
}

func (r *reads) send(batch []*ask) {
	start := time.Now()
	_, err := r.breaker.Execute(func() (struct{}, error) {
		r.m.reads.Add(float64(len(batch)))
		r.m.gathered.Observe(float64(len(batch)))
		ctx, cancel := context.WithTimeout(r.life, r.within)
		defer cancel()
		return struct{}{}, r.query(ctx, batch)
	})
	outcome := "ok"
	switch {
	case errors.Is(err, gobreaker.ErrOpenState), errors.Is(err, gobreaker.ErrTooManyRequests):
		outcome = "refused"
	case err != nil:
		outcome = "error"
	}
	r.m.readTime.WithLabelValues(outcome).Observe(seconds(time.Since(start)))
	for _, a := range batch {
		a.err = err
		close(a.done)
	}
}

// One statement, so one snapshot: a cut that is committed before it is seen by it, together
// with the head that the cut speaks of. Every look-up is a row or a range of an index,
// whatever the statistics say: a subquery with LIMIT is never turned into a join or a hash.
// Where the rows are read anyway, or none are wanted, $3 is null, and with it the last two.
const placesSQL = `
SELECT e.epoch,
       COALESCE((SELECT u.last_seq FROM user_streams u WHERE u.user_id = k.user_id LIMIT 1), 0),
       COALESCE((SELECT true FROM sessions s WHERE s.id = k.session_id AND s.user_id = k.user_id
                 AND s.revoked_at IS NULL AND s.expires_at > $4 LIMIT 1), false),
       COALESCE((SELECT true FROM cuts c WHERE c.recipient = k.user_id AND c.last_seq > k.after LIMIT 1), false),
       (SELECT v.id FROM inbox i
        CROSS JOIN LATERAL (SELECT y.id FROM events y WHERE y.partition = i.partition AND y.seq = i.event_seq LIMIT 1) v
        WHERE i.user_id = k.user_id AND i.seq = k.after + 1 LIMIT 1)
FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) WITH ORDINALITY AS k (user_id, session_id, after, n)
CROSS JOIN stream_epoch e
ORDER BY k.n`

// One index range on the inbox for each socket and one look-up per row and table. The view
// says what cuts took back; the data of such a row does not leave the table. It is a
// statement after that of the heads, so with READ COMMITTED the rows can be newer than
// those but never older.
const pagesSQL = `
SELECT k.n, i.seq, e.id, e.type, e.applied_at, CASE WHEN i.withdrawn THEN '{}'::json ELSE e.data END, i.withdrawn
FROM unnest($1::integer[], $2::uuid[], $3::bigint[]) AS k (n, user_id, after)
CROSS JOIN LATERAL (SELECT x.seq, x.partition, x.event_seq, x.withdrawn FROM inbox_entries x
      WHERE x.user_id = k.user_id AND x.seq > k.after ORDER BY x.seq LIMIT $4) i
CROSS JOIN LATERAL (SELECT y.id, y.type, y.applied_at, y.data FROM events y
      WHERE y.partition = i.partition AND y.seq = i.event_seq LIMIT 1) e
ORDER BY k.n, i.seq`

// query fills in the answers, in one round trip.
func (r *reads) query(ctx context.Context, batch []*ask) error {
	n := len(batch)
	users, sessions, afters := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]*int64, n)
	var (
		reading    []int32
		readers    []uuid.UUID
		readAfters []int64
	)
	readAt := r.clock()
	for i, a := range batch {
		a.page = page{readAt: readAt, via: viaInbox}
		users[i], sessions[i] = a.user, a.session
		switch {
		case a.rows:
			reading, readers, readAfters = append(reading, int32(i)), append(readers, a.user), append(readAfters, a.after)
		case a.after >= 0:
			afters[i] = &a.after
		}
	}
	q := &pgx.Batch{}
	q.Queue(placesSQL, users, sessions, afters, readAt).Query(func(rows pgx.Rows) error {
		return scanPlaces(rows, batch)
	})
	limit := min(r.page, max(minPage, maxRows/max(1, len(reading))))
	if len(reading) > 0 {
		q.Queue(pagesSQL, reading, readers, readAfters, limit).Query(func(rows pgx.Rows) error {
			return scanRows(rows, batch)
		})
	}
	if err := r.pool.SendBatch(ctx, q).Close(); err != nil {
		return err
	}
	for _, a := range batch {
		a.page.full = len(a.page.rows) == limit
	}
	return nil
}

func scanPlaces(rows pgx.Rows, batch []*ask) error {
	var (
		epoch     string
		head      int64
		live, cut bool
		next      *uuid.UUID
		n         int
	)
	_, err := pgx.ForEachRow(rows, []any{&epoch, &head, &live, &cut, &next}, func() error {
		a := batch[n]
		a.page.epoch, a.page.head, a.page.live, a.cut, a.next = epoch, head, live, cut, next
		n++
		return nil
	})
	if err == nil && n < len(batch) {
		return errors.New("there is no stream epoch")
	}
	return err
}

func scanRows(rows pgx.Rows, batch []*ask) error {
	var (
		n         int
		e         row
		kind      partner.EventType
		withdrawn bool
	)
	_, err := pgx.ForEachRow(rows, []any{&n, &e.seq, &e.id, &kind, &e.appliedAt, &e.data, &withdrawn}, func() error {
		if e.kind = kind.String(); withdrawn {
			e.kind = kindWithdrawn
		}
		batch[n].page.rows = append(batch[n].page.rows, e)
		e.data = nil // the next scan must not write over it
		return nil
	})
	return err
}
