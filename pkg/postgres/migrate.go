package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

const (
	// migrationLock is the advisory lock that admits one migrator; an arbitrary constant.
	migrationLock = 0x626f6e64_6d617465
	// migrationLockTimeout is how long an ALTER may wait for a table: everything that
	// comes after it on that table waits behind it, so it gives up soon and tries again.
	migrationLockTimeout = 3 * time.Second
	migrationAttempts    = 5
)

// Migrate brings the database at url to the newest of the migrations in files, and then
// runs what is in their directory always. Any number of processes may do so at once: one
// migrates, the others wait for it and find nothing to do.
func Migrate(ctx context.Context, url string, files fs.FS, log *slog.Logger) error {
	conn, err := pgx.ParseConfig(url)
	if err != nil {
		return fmt.Errorf("read postgres connection string: %w", err)
	}
	setSession(conn, Config{AppName: "bondmate-migrate", LockTimeout: migrationLockTimeout})
	conn.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) {
		if notice.Severity == "WARNING" {
			log.WarnContext(ctx, "migration warns", "warning", notice.Message)
		}
	}
	db := stdlib.OpenDB(*conn)
	defer db.Close()
	if err := await(ctx, db.PingContext); err != nil {
		return fmt.Errorf("connect to postgres at %s:%d: %w", conn.Host, conn.Port, err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithSessionLocker(advisoryLock{}))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	for attempt := 1; ; attempt++ {
		done, err := provider.Up(ctx)
		for _, m := range done {
			log.InfoContext(ctx, "migrated", "version", m.Source.Version, "took", m.Duration)
		}
		if err == nil {
			return runAlways(ctx, db, files)
		}
		pgErr, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || pgErr.Code != "55P03" || attempt == migrationAttempts { // lock_not_available
			return fmt.Errorf("migrate: %w", err)
		}
	}
}

// runAlways runs the files in always, in order. They are for what must hold after every
// migration and so is no migration itself.
func runAlways(ctx context.Context, db *sql.DB, files fs.FS) error {
	names, err := fs.Glob(files, "always/*.sql")
	if err != nil {
		return fmt.Errorf("list what is always run: %w", err)
	}
	for _, name := range names {
		statement, err := fs.ReadFile(files, name)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if _, err := db.ExecContext(ctx, string(statement)); err != nil {
			return fmt.Errorf("run %s: %w", name, err)
		}
	}
	return nil
}

// advisoryLock is goose's session lock. It polls: a session that sits in
// pg_advisory_lock holds a snapshot, and CREATE INDEX CONCURRENTLY in the session that
// has the lock would wait for it forever.
type advisoryLock struct{}

func (advisoryLock) SessionLock(ctx context.Context, conn *sql.Conn) error {
	for {
		var got bool
		err := conn.QueryRowContext(ctx, "SELECT pg_try_advisory_lock($1)", int64(migrationLock)).Scan(&got)
		if err != nil {
			return fmt.Errorf("take migration lock: %w", err)
		}
		if got {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for another migrator: %w", ctx.Err())
		case <-time.After(50*time.Millisecond + rand.N(50*time.Millisecond)): // #nosec G404 -- jitter
		}
	}
}

func (advisoryLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_unlock($1)", int64(migrationLock)); err != nil {
		return fmt.Errorf("release migration lock: %w", err)
	}
	return nil
}
