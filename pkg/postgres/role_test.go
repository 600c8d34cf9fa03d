package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/bondmate/backend/migrations"
	"github.com/bondmate/backend/pkg/postgres"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

// code is the SQLSTATE of an error, or its text.
func code(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// The activity log can be added to and read by the program, and by no statement of its own
// changed, whichever of its parts the statement names.
func TestActivityLogIsAppendOnly(t *testing.T) {
	t.Parallel()
	at := postgrestest.NewURL(t)
	if ok, why, err := postgres.Assumable(t.Context(), postgres.Config{URL: at}, postgres.AppRole); !ok || err != nil {
		t.Fatalf("the role cannot be assumed: %s, %v", why, err)
	}
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: at, Role: postgres.AppRole})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	const denied = "42501"
	actor := uuid.New()
	for _, step := range []struct{ sql, want string }{
		{`INSERT INTO activity_log (at, actor, action, severity, address) VALUES (now(), $1, 'x', 1, '192.0.2.1')`, ""},
		{`SELECT at, action FROM activity_log WHERE actor = $1`, ""},
		{`UPDATE activity_log SET action = 'y' WHERE actor = $1`, denied},
		{`UPDATE activity_log SET address = NULL WHERE actor = $1`, denied},
		{`DELETE FROM activity_log WHERE actor = $1`, denied},
		{`DELETE FROM activity_log_default WHERE actor = $1`, denied},
		{`TRUNCATE activity_log`, denied},
		{`TRUNCATE activity_log_default`, denied},
		{`DROP TABLE activity_log_default`, denied},
		{`ALTER TABLE activity_log DETACH PARTITION activity_log_default`, denied},
		{`CREATE TRIGGER t BEFORE INSERT ON activity_log FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()`, denied},
		// Not due: nobody is being deleted, nothing is old, whatever time is named.
		{`SELECT activity_log_erase($1, 10)`, ""},
		{`SELECT activity_log_expire_addresses(now() + interval '10 years', 10)`, ""},
		{`SELECT activity_log_rotate(now() + interval '10 years', now())`, ""},
	} {
		var args []any
		if strings.Contains(step.sql, "$1") {
			args = append(args, actor)
		}
		if _, err := pool.Exec(t.Context(), step.sql, args...); code(err) != step.want {
			t.Errorf("%s: %q, want %q", step.sql, code(err), step.want)
		}
	}
	var rows int
	if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM activity_log WHERE action = 'x' AND address IS NOT NULL`).Scan(&rows); err != nil || rows != 1 {
		t.Errorf("%d rows as written, %v", rows, err)
	}
	// Everything else the program works with: a new table must not be forgotten.
	const lacking = `
		SELECT COALESCE(string_agg(c.relname, ', '), '') FROM pg_class c
		WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname NOT LIKE 'activity\_log%' AND c.relname <> 'goose_db_version'
		  AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))`
	var tables string
	if err := pool.QueryRow(t.Context(), lacking).Scan(&tables); err != nil || tables != "" {
		t.Errorf("the program has no rights on %s, %v", tables, err)
	}
}

// login makes a user of the server with these rights, and returns how it connects to the
// database at.
func login(t *testing.T, at, name, rights string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	if _, err := conn.Exec(t.Context(), "CREATE ROLE "+name+" LOGIN PASSWORD 'secret' "+rights); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, sql := range []string{"DROP OWNED BY " + name, "DROP ROLE " + name} {
			if _, err := conn.Exec(context.Background(), sql); err != nil {
				t.Errorf("%s: %v", sql, err)
			}
		}
	})
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(name, "secret")
	return u.String()
}

// Whoever migrates without the right to make or to assume roles is told, and everything
// works but for the protection; once an administrator has granted the role, that does too.
func TestRoleThatCannotBeAssumed(t *testing.T) {
	t.Parallel()
	at := emptyDatabase(t)
	name := "plain_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	plain := login(t, at, name, "")
	admin, err := pgx.Connect(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	if _, err := admin.Exec(t.Context(), "ALTER DATABASE "+admin.Config().Database+" OWNER TO "+name); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_, _ = admin.Exec(context.Background(), "REASSIGN OWNED BY "+name+" TO CURRENT_USER")
	}()
	assumable := func() (bool, string) {
		ok, why, err := postgres.Assumable(t.Context(), postgres.Config{URL: plain}, postgres.AppRole)
		if err != nil {
			t.Fatal(err)
		}
		return ok, why
	}
	var log bytes.Buffer
	migrate := func() {
		t.Helper()
		if err := postgres.Migrate(t.Context(), plain, migrations.FS, slog.New(slog.NewTextHandler(&log, nil))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := admin.Exec(t.Context(), "GRANT ALL ON SCHEMA public TO "+name); err != nil {
		t.Fatal(err)
	}
	migrate()
	if ok, why := assumable(); ok || why == "" {
		t.Errorf("assumable: %v, %q", ok, why)
	}
	if !strings.Contains(log.String(), "append-only") {
		t.Errorf("no warning: %s", log.String())
	}
	for _, sql := range []string{"GRANT " + postgres.AppRole + " TO " + name} {
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	migrate()
	if ok, why := assumable(); !ok {
		t.Errorf("still not assumable: %s", why)
	}
	// A user who has the role and nothing else is enough to run on, and cannot leave it.
	member := login(t, at, "member_"+strings.ReplaceAll(uuid.NewString(), "-", ""), "IN ROLE "+postgres.AppRole)
	if ok, why, err := postgres.Assumable(t.Context(), postgres.Config{URL: member}, postgres.AppRole); !ok || err != nil {
		t.Errorf("a member: %s, %v", why, err)
	}
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: member, Role: postgres.AppRole})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(t.Context(), "RESET ROLE; SET ROLE NONE; DELETE FROM activity_log"); code(err) != "42501" {
		t.Errorf("a member deleted from the log: %v", err)
	}
}
