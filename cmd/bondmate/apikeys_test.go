package main

import (
	"bytes"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// A server's key on a running system, from the command that makes it to the one that ends it.
func TestAPIKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	clock := &standing{at: time.Now().UTC().Truncate(time.Microsecond)}
	w := &town{url: startRole(t, "all", clock.now, []string{"DATA_DIR=" + dir, "ADMIN_HOST=127.0.0.1"}).url, dir: dir, router: operations(t)}
	db, err := pgxpool.New(t.Context(), address(t, dir, "postgres.dsn"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	count := func(sql string, args ...any) (n int) {
		t.Helper()
		if err := db.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	console := func(args ...string) (stdout, stderr string) {
		t.Helper()
		var out, said bytes.Buffer
		err := run(t.Context(), args, terminal{
			environ: []string{"DATABASE_URL=" + address(t, dir, "postgres.dsn"), "LOG_LEVEL=info"}, stdout: &out, stderr: &said, clock: clock.now,
		})
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return out.String(), said.String()
	}

	// Nothing comes with the program: no account, no password, no key.
	if n := count(`SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM credentials) + (SELECT count(*) FROM api_keys)`); n != 0 {
		t.Errorf("a new database has %d accounts, passwords and keys", n)
	}
	boss, ana := w.person(t, "Boss"), w.person(t, "Ana")
	boss.get("/api/ops/api-keys").refused(403, "forbidden")
	console("users", "promote", boss.email, "--role", "admin")
	boss.get("/api/ops/api-keys").want(200)

	one := regexp.MustCompile(`^bmk_[0-9a-f]{32}_[0-9a-f]{72}\n$`)
	printed, said := console("api-keys", "create", "billing", "--scope", "users:read,users:write", "--expires-in", "2160h")
	if !one.MatchString(printed) || strings.Contains(said, printed[36:]) || !strings.Contains(said, "billing  live    users:read,users:write") {
		t.Fatalf("standard output has %d bytes, standard error %q", len(printed), said)
	}
	path := "/api/ops/users/" + ana.id.String()
	call := func(key string) reply {
		return (&person{t: t, in: w, name: "server"}).callWith("GET", path, nil, http.Header{"X-Api-Key": {strings.TrimSpace(key)}})
	}
	call(printed).want(200)
	var id, device string
	err = db.QueryRow(t.Context(), `
		SELECT k.id, a.device FROM activity_log a JOIN api_keys k ON k.id = a.actor
		WHERE a.action = 'ops.user.show' AND a.target = $1 AND a.address IS NOT NULL`, ana.id).Scan(&id, &device)
	if err != nil || device != "api key: billing" {
		t.Errorf("the use is in the activity log as %q: %v", device, err)
	}
	if list, _ := console("api-keys", "list"); !strings.Contains(list, id) || strings.Contains(list, "never\n") || strings.Contains(list, "bmk_") {
		t.Errorf("%s", list)
	}

	rotated, _ := console("api-keys", "rotate", "billing")
	if !one.MatchString(rotated) || rotated == printed {
		t.Fatalf("standard output has %q", rotated)
	}
	day := clock.now().Add(24 * time.Hour)
	clock.set(day.Add(-time.Microsecond))
	call(printed).want(200)
	call(rotated).want(200)
	clock.set(day)
	call(printed).refused(401, "unauthenticated")
	call(rotated).want(200)

	// Without the database nobody is known.
	clock.set(day.Add(time.Second))
	without(t, db, func() { call(rotated).refused(503, "database_unavailable") })
	db.Reset() // its connections were cut as well
	until(t, "the database to be back", func() bool { return call(rotated).status == 200 })

	console("api-keys", "revoke", id)
	clock.set(clock.now().Add(time.Second))
	call(rotated).refused(401, "unauthenticated")

	// An administrator is one until the next call.
	boss.login()
	made := boss.call("POST", "/api/ops/api-keys", map[string]any{"name": "mine", "scopes": []string{"users:read"}}).want(201)
	console("users", "promote", boss.email, "--role", "user")
	boss.get("/api/ops/api-keys").refused(403, "forbidden")
	call(made.text("key")).want(200) // a key is the service's, not whoever's has made it

	if n := count(`SELECT count(*) FROM activity_log WHERE action LIKE 'ops.key.%' AND device LIKE 'console: %'`); n != 4 {
		t.Errorf("%d lines of the console", n)
	}
	if n := count(`SELECT count(*) FROM activity_log WHERE action = 'ops.key.refused' AND metadata->>'reason' IN ('replaced', 'revoked') AND actor = $1`, id); n != 2 {
		t.Errorf("%d lines of refusals", n)
	}
}

func TestAPIKeysCommandRefuses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"no scope":      {[]string{"create", "billing"}, `"scope" not set`},
		"unknown scope": {[]string{"create", "billing", "--scope", "all"}, `scope "all" is unknown`},
		"no name":       {[]string{"create", "--scope", "users:read"}, "accepts 1 arg"},
	} {
		err := run(t.Context(), append([]string{"api-keys"}, tt.args...), terminal{stdout: new(bytes.Buffer), stderr: new(bytes.Buffer)})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q in it", name, err, tt.want)
		}
	}
}
