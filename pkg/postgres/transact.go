package postgres

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	txAttempts  = 3
	txRetryBase = 10 * time.Millisecond
)

// Transact runs fn in a transaction of the pool, again when Postgres broke it off for a
// deadlock or a serialisation failure; fn must be fit to run twice.
func Transact(ctx context.Context, pool *pgxpool.Pool, fn func(pgx.Tx) error) error {
	for attempt := 1; ; attempt++ {
		err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{}, fn)
		if attempt == txAttempts || !brokenOff(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(rand.N(txRetryBase << attempt)): // #nosec G404 -- jitter
		}
	}
}

func brokenOff(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pgErr.Code == "40P01" || pgErr.Code == "40001")
}
