// Package postgres opens connection pools and migrates the schema.
//
// A pool's connections carry server-side timeouts that are shorter than the deadlines of
// their callers: a context that ends makes pgx close the connection, and a storm of
// those exhausts the server, so the server has to give up first. The pool belongs to its
// opener, who closes it after the last user has returned.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Config says how to open a pool. Zero durations leave the server's own setting.
type Config struct {
	// URL is a connection string as libpq reads it: a postgres:// URL or key=value pairs. Files
	// that it names are read again for each connection.
	URL      string
	AppName  string // shown in pg_stat_activity; default "bondmate"
	MaxConns int    // default 50
	MinConns int    // kept open while idle

	StatementTimeout time.Duration
	LockTimeout      time.Duration
	IdleInTxTimeout  time.Duration
	// ConnectTimeout bounds one connection attempt; default 3 s.
	ConnectTimeout time.Duration

	// Role is assumed by each connection once it is made, if set; see Assumable.
	Role string
	// Params are further session settings, as in {"jit": "off"}.
	Params map[string]string
}

const (
	defaultMaxConns       = 50
	defaultConnectTimeout = 3 * time.Second
	retryBase             = 50 * time.Millisecond
	retryCap              = time.Second
)

// Open returns a pool that has answered once. While the server cannot be reached or is
// starting up it tries again until ctx ends, which must have a deadline; a server that
// answers and refuses (wrong password, no such database) is an error at once.
func Open(ctx context.Context, cfg Config) (*pgxpool.Pool, error) {
	poolConfig, err := cfg.pool()
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return nil, fmt.Errorf("create postgres pool: %w", err)
	}
	if err := await(ctx, pool.Ping); err != nil {
		pool.Close()
		return nil, fmt.Errorf("connect to postgres at %s:%d: %w",
			poolConfig.ConnConfig.Host, poolConfig.ConnConfig.Port, err)
	}
	return pool, nil
}

func (c Config) pool() (*pgxpool.Config, error) {
	cfg, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		return nil, fmt.Errorf("read postgres connection string: %w", err)
	}
	setSession(cfg.ConnConfig, c)
	cfg.MaxConns = int32(max(c.MaxConns, 0)) // #nosec G115 -- validated below 10,000 by pkg/config
	if cfg.MaxConns == 0 {
		cfg.MaxConns = defaultMaxConns
	}
	cfg.MinConns = min(int32(max(c.MinConns, 0)), cfg.MaxConns) // #nosec G115 -- as above
	cfg.BeforeConnect = func(_ context.Context, conn *pgx.ConnConfig) error { return c.readFiles(conn) }
	cfg.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		RegisterIDArrays(conn.TypeMap())
		return nil
	}
	cfg.MaxConnIdleTime = 5 * time.Minute
	cfg.MaxConnLifetime = time.Hour
	cfg.MaxConnLifetimeJitter = 10 * time.Minute
	cfg.HealthCheckPeriod = 15 * time.Second
	return cfg, nil
}

// readFiles reads again what the connection string says by the name of a file (passfile,
// sslcert, sslkey, sslrootcert): a password or a certificate that was replaced holds from the
// next connection on.
func (c Config) readFiles(conn *pgx.ConnConfig) error {
	now, err := pgx.ParseConfig(c.URL)
	if err != nil {
		return fmt.Errorf("read postgres connection string: %w", err)
	}
	conn.Password, conn.TLSConfig, conn.Fallbacks = now.Password, now.TLSConfig, now.Fallbacks
	return nil
}

func setSession(conn *pgx.ConnConfig, c Config) {
	if conn.RuntimeParams == nil {
		conn.RuntimeParams = map[string]string{}
	}
	params := conn.RuntimeParams
	if c.AppName == "" {
		c.AppName = "bondmate"
	}
	params["application_name"] = c.AppName
	params["timezone"] = "UTC"
	// On tables whose statistics are not there yet, a set-based look-up is thought so dear that
	// it is compiled: 0.3 s for what then takes 8 ms.
	params["jit"] = "off"
	for name, d := range map[string]time.Duration{
		"statement_timeout":                   c.StatementTimeout,
		"lock_timeout":                        c.LockTimeout,
		"idle_in_transaction_session_timeout": c.IdleInTxTimeout,
	} {
		if d > 0 {
			params[name] = strconv.FormatInt(d.Milliseconds(), 10)
		}
	}
	if c.Role != "" {
		params["role"] = c.Role
	}
	for name, value := range c.Params {
		params[name] = value
	}
	conn.ConnectTimeout = c.ConnectTimeout
	if conn.ConnectTimeout <= 0 {
		conn.ConnectTimeout = defaultConnectTimeout
	}
}

// await calls do until it succeeds, fails for good, or ctx ends.
func await(ctx context.Context, do func(context.Context) error) error {
	for attempt := 0; ; attempt++ {
		err := do(ctx)
		if err == nil || !startingUp(err) {
			return err
		}
		delay := min(retryCap, retryBase<<min(attempt, 10))
		select {
		case <-ctx.Done():
			return err
		case <-time.After(rand.N(delay) + retryBase/2): // #nosec G404 -- jitter
		}
	}
}

// startingUp tells a server that is not there yet from one that refuses.
func startingUp(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pgErr.Code {
		case "57P03", // cannot_connect_now: starting up, shutting down, in recovery
			"57P01", // admin_shutdown
			"53300": // too_many_connections
			return true
		}
		return false
	}
	return true
}

// Connect opens one connection outside of any pool, with the same settings as a pool's.
// The caller owns it.
func Connect(ctx context.Context, cfg Config) (*pgx.Conn, error) {
	conn, err := pgx.ParseConfig(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("read postgres connection string: %w", err)
	}
	setSession(conn, cfg)
	c, err := pgx.ConnectConfig(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("connect to postgres at %s:%d: %w", conn.Host, conn.Port, err)
	}
	RegisterIDArrays(c.TypeMap())
	return c, nil
}
