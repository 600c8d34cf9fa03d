package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bondmate/backend/pkg/fault"
)

const (
	// acquireTimeout bounds the wait for a pooled connection: a full pool or a dead server
	// is a 503 soon, not a queue.
	acquireTimeout = 1500 * time.Millisecond
	// queryTimeout is longer than the server's own statement_timeout, so the server gives
	// up first and the connection survives.
	queryTimeout = 5 * time.Second
)

// database lends connections of the pool for a bounded time.
type database struct {
	pool *pgxpool.Pool
	line line // callers in acquire now, and those whose session is being looked up
}

// with runs do on a connection. It never holds one while it waits for another, so do must
// not call it again.
func (d *database) with(ctx context.Context, do func(context.Context, *pgx.Conn) error) error {
	conn, err := d.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	return do(ctx, conn.Conn())
}

// snapshot runs do in one REPEATABLE READ transaction that only reads: all its statements
// see the same moment.
func (d *database) snapshot(ctx context.Context, do func(context.Context, pgx.Tx) error) error {
	return d.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly},
			func(tx pgx.Tx) error { return do(ctx, tx) })
	})
}

func (d *database) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, acquireTimeout)
	defer cancel()
	defer d.line.join()()
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		return nil, fault.Wrap(fmt.Errorf("acquire connection: %w", err), fault.Unavailable,
			"database_unavailable", "The database does not answer or is busy; try again.")
	}
	return conn, nil
}

// databaseAway tells an error of a server that is gone, full or too slow from one of the
// statement itself.
func databaseAway(err error) bool {
	// Before the server's own codes: whatever it says, it has let nobody in.
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pgErr.Code[:2] {
		case "08", "53", "57", "58": // connection, resources, intervention (with timeouts), system
			return true
		}
		return pgErr.Code == "55P03" || pgErr.Code == "25P03" // lock and idle-in-transaction timeouts
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || pgconn.SafeToRetry(err)
}
