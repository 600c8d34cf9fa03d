package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pressly/goose/v3"
)

const selectSchema = `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`

// Schema returns the number of the newest migration that the database has had, 0 before the
// first, and of the newest in files.
func Schema(ctx context.Context, conn *pgx.Conn, files fs.FS) (have, want int64, err error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return 0, 0, fmt.Errorf("list migrations: %w", err)
	}
	for _, name := range names {
		number, err := goose.NumericComponent(name)
		if err != nil {
			return 0, 0, fmt.Errorf("list migrations: %w", err)
		}
		want = max(want, number)
	}
	err = conn.QueryRow(ctx, selectSchema).Scan(&have)
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "42P01" { // undefined_table
		return 0, want, nil
	}
	if err != nil {
		return 0, want, fmt.Errorf("look which migrations there were: %w", err)
	}
	return have, want, nil
}
