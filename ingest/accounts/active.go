package accounts

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bondmate/backend/pkg/identity"
)

const (
	// activeQueries is how many look-ups of sessions are under way at most, each on one
	// connection. What gathers meanwhile is the next one's, so however many calls arrive at
	// once they take a few connections of the pool and never all of it.
	activeQueries = 2
	// activeBatch bounds the sessions of one look-up.
	activeBatch = 512
	// activeWithin bounds a look-up, the wait for its connection included. It does not end
	// with the callers: a query that is cut costs its connection.
	activeWithin = 3 * time.Second
)

// Standing is a session with what its user is, as of one moment. The zero Standing is a
// session that is not active.
type Standing struct {
	Active  bool
	UserID  uuid.UUID
	Role    identity.Role
	Premium bool
	// Epoch, Seq and Row say how far the user's state is; whatever changes what users see of
	// themselves changes one of them in the same transaction. Events move Seq, the head of the
	// inbox, in the history that Epoch names; Row is the version of the user's own row, which
	// operators and settings change without an event.
	Epoch string
	Seq   int64
	Row   uint32
}

// verdict is an answer of Standing and when the question was put.
type verdict struct {
	Standing
	asOf time.Time
}

// activity looks sessions up for Standing. Calls about one session that come
// together share a question, and questions that come together share a query. Its
// goroutines are started by a question and end with the last one; none outlives its
// last question by more than activeWithin.
type activity struct {
	pool   *pgxpool.Pool
	clock  func() time.Time
	maxAge time.Duration

	mu      sync.Mutex
	waiting map[uuid.UUID]*question // not yet in a query; bounded by the calls under way
	queries int
}

// question is one session's. The fields are set before done is closed.
type question struct {
	done    chan struct{}
	verdict verdict
	err     error
}

// ask returns the answer of a look-up that began after the call.
func (a *activity) ask(ctx context.Context, session uuid.UUID) (verdict, error) {
	q := a.join(ctx, session)
	select {
	case <-q.done:
		return q.verdict, q.err
	case <-ctx.Done():
		return verdict{}, ctx.Err()
	}
}

func (a *activity) join(ctx context.Context, session uuid.UUID) *question {
	a.mu.Lock()
	defer a.mu.Unlock()
	q, ok := a.waiting[session]
	if !ok {
		q = &question{done: make(chan struct{})}
		a.waiting[session] = q
	}
	if a.queries < activeQueries {
		a.queries++
		go a.answer(context.WithoutCancel(ctx))
	}
	return q
}

// answer looks up what waits until nothing does.
func (a *activity) answer(ctx context.Context) {
	for {
		batch := a.take()
		if len(batch) == 0 {
			return
		}
		asOf := a.clock() // before the query: an answer ages from when it was asked for
		active, err := a.load(ctx, batch, asOf)
		for id, q := range batch {
			q.verdict, q.err = verdict{Standing: active[id], asOf: asOf}, err
			close(q.done)
		}
	}
}

// take returns what waits, up to a bound; with nothing it ends the goroutine's turn.
func (a *activity) take() map[uuid.UUID]*question {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.waiting) <= activeBatch {
		batch := a.waiting
		a.waiting = map[uuid.UUID]*question{}
		if len(batch) == 0 {
			a.queries--
		}
		return batch
	}
	batch := make(map[uuid.UUID]*question, activeBatch)
	for id, q := range a.waiting {
		if len(batch) == activeBatch {
			break
		}
		batch[id] = q
		delete(a.waiting, id)
	}
	return batch
}

// The state of the user comes with the session: a look-up by primary key more in a query that
// is made anyway. xmin is the transaction that wrote the row: it is another one after every
// UPDATE, and a lock leaves it alone.
const activeSessionsSQL = `
SELECT s.id, s.user_id, u.role, u.tier = 2, e.epoch, COALESCE(h.last_seq, 0), u.xmin
FROM sessions s
JOIN users u ON u.id = s.user_id
LEFT JOIN user_streams h ON h.user_id = s.user_id
CROSS JOIN stream_epoch e
WHERE s.id = ANY ($1) AND s.revoked_at IS NULL AND s.expires_at > $2 AND s.created_at > $4 AND u.status = ANY ($3)`

// load returns the sessions that are active.
func (a *activity) load(ctx context.Context, batch map[uuid.UUID]*question, now time.Time) (map[uuid.UUID]Standing, error) {
	ctx, cancel := context.WithTimeout(ctx, activeWithin)
	defer cancel()
	ids := make([]uuid.UUID, 0, len(batch))
	for id := range batch {
		ids = append(ids, id)
	}
	rows, err := a.pool.Query(ctx, activeSessionsSQL, ids, now, admitted, now.Add(-a.maxAge))
	if err != nil {
		return nil, fmt.Errorf("look up %d sessions: %w", len(ids), err)
	}
	active := make(map[uuid.UUID]Standing, len(ids))
	var id uuid.UUID
	found := Standing{Active: true}
	into := []any{&id, &found.UserID, &found.Role, &found.Premium, &found.Epoch, &found.Seq, &found.Row}
	if _, err := pgx.ForEachRow(rows, into, func() error {
		active[id] = found
		return nil
	}); err != nil {
		return nil, fmt.Errorf("look up %d sessions: %w", len(ids), err)
	}
	return active, nil
}

// Standing tells what a session is worth: it is active when it has neither ended nor expired
// and its account may have one. An answer is reused for Config.SessionCacheTTL; a session
// that this instance ended is inactive at once. It waits until ctx ends at the latest. With
// the database away it fails: who cannot be shown to be admitted is not.
func (s *Service) Standing(ctx context.Context, sessionID uuid.UUID) (Standing, error) {
	if v, ok := s.active.GetIfPresent(sessionID); ok && s.now().Sub(v.asOf) < s.cfg.SessionCacheTTL {
		return v.Standing, nil
	}
	return s.StandingNow(ctx, sessionID)
}

// StandingNow is Standing as of after the call: no answer is reused, but calls that come
// together share one.
func (s *Service) StandingNow(ctx context.Context, sessionID uuid.UUID) (Standing, error) {
	v, err := s.activity.ask(ctx, sessionID)
	if err != nil {
		return Standing{}, fmt.Errorf("look up session %s: %w", sessionID, err)
	}
	s.active.Set(sessionID, v)
	return v.Standing, nil
}

// Forget drops what Standing remembers of a session: another instance has ended it. A
// query under way may put an older answer back; that one ages from before the end.
func (s *Service) Forget(session uuid.UUID) { s.active.Invalidate(session) }

// ended follows the commit that ended sessions of a user.
func (s *Service) ended(user uuid.UUID, reason string, sessions []uuid.UUID) {
	for _, id := range sessions {
		s.Forget(id)
	}
	if s.cfg.Revocations != nil && len(sessions) > 0 {
		s.cfg.Revocations.Ended(user, reason, sessions)
	}
}
