package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// AppRole is the role that the program assumes when it runs. It may read and write rows
// but only add to the activity log. Migrate makes it; a user who is a member of it and of
// nothing else cannot get around it, the owner of the tables could.
const AppRole = "bondmate_app"

// What the role must be able to do here, and must not: another database of the same server
// may have made it, and this one not granted it anything.
const roleWorksSQL = `
SELECT has_table_privilege(current_user, 'users', 'UPDATE') AND has_table_privilege(current_user, 'activity_log', 'INSERT'),
       has_table_privilege(current_user, 'activity_log', 'UPDATE') OR has_table_privilege(current_user, 'activity_log', 'DELETE')
       OR has_table_privilege(current_user, 'activity_log', 'TRUNCATE')`

// Assumable looks whether connections of cfg can assume the role. When they cannot it
// says why, for an operator; err is about the connection.
func Assumable(ctx context.Context, cfg Config, role string) (ok bool, why string, err error) {
	config, err := pgx.ParseConfig(cfg.URL)
	if err != nil {
		return false, "", fmt.Errorf("read postgres connection string: %w", err)
	}
	setSession(config, cfg)
	var conn *pgx.Conn
	err = await(ctx, func(ctx context.Context) (err error) {
		conn, err = pgx.ConnectConfig(ctx, config)
		return err
	})
	if err != nil {
		return false, "", fmt.Errorf("connect to postgres at %s:%d: %w", config.Host, config.Port, err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err = conn.Exec(ctx, "SET ROLE "+pgx.Identifier{role}.Sanitize()); err != nil {
		if pgErr, refused := errors.AsType[*pgconn.PgError](err); refused && (pgErr.Code == "22023" || pgErr.Code == "42501") {
			return false, pgErr.Message, nil
		}
		return false, "", fmt.Errorf("assume role %s: %w", role, err)
	}
	var may, mayNot bool
	err = conn.QueryRow(ctx, roleWorksSQL).Scan(&may, &mayNot)
	if pgErr, refused := errors.AsType[*pgconn.PgError](err); refused && pgErr.Code == "42P01" {
		return false, "the tables are not there yet: run bondmate migrate", nil
	}
	switch {
	case err != nil:
		return false, "", fmt.Errorf("look what role %s may do: %w", role, err)
	case !may:
		return false, "role " + role + " has no rights on the tables: run bondmate migrate", nil
	case mayNot:
		return false, "role " + role + " may change the activity log", nil
	}
	return true, "", nil
}
