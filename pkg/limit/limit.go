// Package limit bounds how often passwords can be tried, by account and by address.
//
// What it guarantees, and on what that rests:
//
//   - An attempt is counted as a failure before its password is looked at, under the locks
//     of its rows in Postgres: however many come at once, over however many instances, no
//     more are admitted than are free. Only one that turns out right is taken off again.
//   - It never fails open: without Postgres nothing is admitted.
//   - It knows nothing of who has an account: it counts for addresses that nobody has, too.
//   - A stranger cannot keep an owner out of where the owner has logged in within 30 days:
//     what is tried there is counted apart. No wait is longer than 15 minutes, and who is
//     signed in is not touched by what others try.
//   - It keeps rows for attempts whose password was looked at alone, for hours; so their
//     number is bounded by what the processors' cores can hash in that time.
//
// Times come from the clock that is passed in. It starts no goroutine; rows that say nothing
// any more are removed by the clean-up. An Attempts is safe for concurrent use.
package limit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/postgres"
)

const (
	keepPlaces = 30 * 24 * time.Hour
	// takeBackWithin bounds how long the caller of what was not tried is kept for it.
	takeBackWithin = time.Second
)

// Config configures Attempts. Pool, Clock and Registerer are required.
type Config struct {
	Pool       *pgxpool.Pool
	Clock      func() time.Time
	Registerer prometheus.Registerer
	Account    Policy // default 5 free, one fades in 12 minutes: all of them in an hour
	Address    Policy // default 20 free, one fades in 3 minutes
}

// Attempts admits attempts and counts them.
type Attempts struct {
	cfg     Config
	refused *prometheus.CounterVec // by
	started *prometheus.CounterVec // by
}

// New returns Attempts.
func New(cfg Config) (*Attempts, error) {
	if cfg.Pool == nil || cfg.Clock == nil || cfg.Registerer == nil {
		return nil, errors.New("limit: pool, clock and registerer are required")
	}
	if cfg.Account == (Policy{}) {
		cfg.Account = Policy{Free: 5, Fades: 12 * time.Minute}
	}
	if cfg.Address == (Policy{}) {
		cfg.Address = Policy{Free: 20, Fades: 3 * time.Minute}
	}
	a := &Attempts{
		cfg: cfg,
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bondmate_login_refused_total", Help: "Attempts at a password that were not looked at, by what had failed too often: account, address.",
		}, []string{"by"}),
		started: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bondmate_login_throttled_total", Help: "Times that waits began, by what failed too often: account, address.",
		}, []string{"by"}),
	}
	for _, c := range []prometheus.Collector{a.refused, a.started} {
		if err := cfg.Registerer.Register(c); err != nil {
			return nil, fmt.Errorf("limit: %w", err)
		}
	}
	return a, nil
}

func (a *Attempts) policy(k kind) Policy {
	if k == byAddress {
		return a.cfg.Address
	}
	return a.cfg.Account
}

// Attempt is one that was admitted. It counts as a failure unless Passed or TakeBack say
// otherwise. A nil one counts nothing.
type Attempt struct {
	of      *Attempts
	try     Try
	who     key
	charged map[string]count
	began   []kind
}

// Started reports whether there is a wait from this attempt on, and was none before it.
func (t *Attempt) Started() bool { return t != nil && len(t.began) > 0 }

const waitsSQL = `
SELECT key, waits_until, user_id IS NOT NULL AND forget_at > $2
FROM login_attempts
WHERE key = ANY ($1)`

// The order is that in which everybody locks.
const lockCountsSQL = `
INSERT INTO login_attempts AS a (key, failures, counted_at, waits_until, forget_at)
SELECT k, 0, $2, $2, $2
FROM unnest($1::bytea[]) AS k
ORDER BY k
ON CONFLICT (key) DO UPDATE SET failures = a.failures
RETURNING key, failures, counted_at, waits_until`

const chargeSQL = `
UPDATE login_attempts
SET failures = $2, counted_at = $3, waits_until = $4, forget_at = GREATEST(forget_at, $5)
WHERE key = $1`

// Begin admits an attempt and counts it as failed, or refuses it as the fault rate_limited
// with the time to wait. What is refused is not counted. A nil receiver admits everything.
func (a *Attempts) Begin(ctx context.Context, try Try) (*Attempt, error) {
	if a == nil {
		return nil, nil
	}
	now := a.cfg.Clock().UTC().Truncate(time.Microsecond)
	t := &Attempt{of: a, try: try, who: try.account()}
	// Looked at without a lock first: what is refused shall cost as little as can be.
	waits, err := a.waits(ctx, t, now)
	if err != nil {
		return nil, err
	}
	if err := a.refuse(t, waits, now); err != nil {
		return nil, err
	}
	err = postgres.Transact(ctx, a.cfg.Pool, func(tx pgx.Tx) error {
		counts, err := lockCounts(ctx, tx, t.keys(), now)
		if err != nil {
			return err
		}
		for k, c := range counts {
			waits[k] = c.until
		}
		if err := a.refuse(t, waits, now); err != nil {
			return err
		}
		return a.charge(ctx, tx, t, counts, now)
	})
	if err != nil {
		return nil, fmt.Errorf("count an attempt: %w", err)
	}
	for _, k := range t.began {
		a.started.WithLabelValues(k.String()).Inc()
	}
	return t, nil
}

// waits returns until when each key has to wait, and settles whose count this attempt is.
func (a *Attempts) waits(ctx context.Context, t *Attempt, now time.Time) (map[string]time.Time, error) {
	place := t.try.place()
	keys := append(t.keys(), place)
	if place == nil {
		keys = t.keys()
	}
	rows, err := a.cfg.Pool.Query(ctx, waitsSQL, keys, now)
	if err != nil {
		return nil, fmt.Errorf("look for waits: %w", err)
	}
	waits := map[string]time.Time{}
	var (
		k     []byte
		until time.Time
		known bool
	)
	_, err = pgx.ForEachRow(rows, []any{&k, &until, &known}, func() error {
		waits[string(k)] = until
		if known {
			t.who = place
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for waits: %w", err)
	}
	return waits, nil
}

// keys are the one or two that an attempt counts for, in the order of locks.
func (t *Attempt) keys() [][]byte {
	keys := [][]byte{t.try.address()}
	if t.who != nil {
		keys = append(keys, t.who)
	}
	slices.SortFunc(keys, bytes.Compare)
	return keys
}

// refuse returns the fault of an attempt that one of its keys has to wait with.
func (a *Attempts) refuse(t *Attempt, waits map[string]time.Time, now time.Time) error {
	var longest time.Duration
	var by kind
	for _, k := range t.keys() {
		if left := waits[string(k)].Sub(now); left > longest {
			longest, by = left, key(k).kind()
		}
	}
	if longest == 0 {
		return nil
	}
	a.refused.WithLabelValues(by.String()).Inc()
	f := fault.New(fault.Limited, "rate_limited", "Too many attempts. Wait before the next one.")
	f.RetryAfter = longest
	return f
}

func lockCounts(ctx context.Context, tx pgx.Tx, keys [][]byte, now time.Time) (map[string]count, error) {
	rows, err := tx.Query(ctx, lockCountsSQL, keys, now)
	if err != nil {
		return nil, fmt.Errorf("lock counts: %w", err)
	}
	counts := map[string]count{}
	var (
		k []byte
		c count
	)
	_, err = pgx.ForEachRow(rows, []any{&k, &c.failures, &c.at, &c.until}, func() error {
		counts[string(k)] = c
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("lock counts: %w", err)
	}
	return counts, nil
}

func (a *Attempts) charge(ctx context.Context, tx pgx.Tx, t *Attempt, counts map[string]count, now time.Time) error {
	var batch pgx.Batch
	t.charged, t.began = map[string]count{}, nil
	for _, k := range t.keys() {
		policy := a.policy(key(k).kind())
		c, started := policy.charge(counts[string(k)], now)
		t.charged[string(k)] = c
		if started {
			t.began = append(t.began, key(k).kind())
		}
		batch.Queue(chargeSQL, k, c.failures, c.at, c.until, policy.forgotten(c))
	}
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("charge counts: %w", err)
	}
	return nil
}

const (
	clearSQL = `
DELETE FROM login_attempts
WHERE key = $1`

	// One failure less. Whoever came in between keeps the wait that they brought about.
	dischargeSQL = `
UPDATE login_attempts
SET failures = GREATEST(failures - 1, 0), waits_until = CASE WHEN waits_until = $2 THEN counted_at ELSE waits_until END
WHERE key = $1`

	// A row that counts nothing without this attempt, and remembers no place.
	dropSQL = `
DELETE FROM login_attempts
WHERE key = $1 AND failures <= 1 AND user_id IS NULL`

	rememberSQL = `
INSERT INTO login_attempts (key, user_id, failures, counted_at, waits_until, forget_at)
VALUES ($1, $2, 0, $3, $3, $4)
ON CONFLICT (key) DO UPDATE
SET user_id = excluded.user_id, failures = 0, counted_at = excluded.counted_at,
    waits_until = excluded.waits_until, forget_at = excluded.forget_at`
)

// Passed says, in the caller's transaction, that the password was right: the account's
// count is cleared, the address's is as if there had been no attempt, and a login's place is
// remembered. userID is whose place it is; the caller holds the account's lock.
func (t *Attempt) Passed(ctx context.Context, tx pgx.Tx, userID uuid.UUID) error {
	if t == nil {
		return nil
	}
	now := t.of.cfg.Clock().UTC().Truncate(time.Microsecond)
	var batch pgx.Batch // in the order of locks
	if t.who != nil && t.who.kind() == byAccount {
		batch.Queue(clearSQL, []byte(t.who))
	}
	address := t.try.address()
	batch.Queue(dischargeSQL, []byte(address), t.charged[string(address)].until)
	if place := t.try.place(); place != nil {
		batch.Queue(rememberSQL, []byte(place), userID, now, now.Add(keepPlaces))
	}
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("clear the count of %s: %w", userID, err)
	}
	return nil
}

// TakeBack says that the password was not looked at. It works when ctx has ended, too.
func (t *Attempt) TakeBack(ctx context.Context) error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBackWithin)
	defer cancel()
	err := postgres.Transact(ctx, t.of.cfg.Pool, func(tx pgx.Tx) error {
		var batch pgx.Batch
		for _, k := range t.keys() {
			batch.Queue(dropSQL, k)
			batch.Queue(dischargeSQL, k, t.charged[string(k)].until)
		}
		return tx.SendBatch(ctx, &batch).Close()
	})
	if err != nil {
		return fmt.Errorf("take back an attempt: %w", err)
	}
	return nil
}
