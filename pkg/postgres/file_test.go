package postgres_test

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/postgres"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

// A password that is replaced, in the database and in the file that the connection string
// names, holds from the next connection on.
func TestPasswordFileIsReadAgain(t *testing.T) {
	t.Parallel()
	owner := postgrestest.New(t)
	role := "files_" + strings.ReplaceAll(uuid.NewString(), "-", "")[:12]
	exec := func(sql string) {
		t.Helper()
		if _, err := owner.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	quoted := pgx.Identifier{role}.Sanitize()
	exec("CREATE ROLE " + quoted + " LOGIN PASSWORD 'first'")
	file := filepath.Join(t.TempDir(), "passwords")
	write := func(password string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("*:*:*:"+role+":"+password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	at, err := url.Parse(postgrestest.URL(t, owner))
	if err != nil {
		t.Fatal(err)
	}
	at.User = url.User(role)
	query := at.Query()
	query.Set("passfile", file)
	at.RawQuery = query.Encode()
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: at.String(), MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)

	exec("ALTER ROLE " + quoted + " PASSWORD 'second'")
	write("second")
	pool.Reset() // what is open stays good; only new connections log in
	if err := pool.Ping(t.Context()); err != nil {
		t.Errorf("with the new password in the file: %v", err)
	}
	pool.Close()
	exec("DROP ROLE " + quoted)
}
