package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

// without runs do while nobody gets a connection to the database.
func without(t *testing.T, db *pgxpool.Pool, do func()) {
	t.Helper()
	config := db.Config().ConnConfig.Copy()
	name := config.Database
	config.Database = "postgres"
	other, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close(context.Background()) }()
	allow := func(allowed string) {
		if _, err := other.Exec(t.Context(), `ALTER DATABASE `+pgx.Identifier{name}.Sanitize()+` ALLOW_CONNECTIONS `+allowed); err != nil {
			t.Fatal(err)
		}
	}
	allow("false")
	defer allow("true")
	if _, err := other.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1`, name); err != nil {
		t.Fatal(err)
	}
	do()
}

// guesser is somebody who tries passwords at two instances in turn, each time with another
// forged address before the real one.
type guesser struct {
	one, other *person
	tried      int
}

func (g *guesser) tries(email, password string) reply {
	g.one.t.Helper()
	g.tried++
	p, header := g.one, http.Header{"X-Forwarded-For": {fmt.Sprintf("10.0.0.%d", g.tried)}}
	if g.tried%2 == 0 {
		p = g.other
	}
	return p.callWith("POST", "/api/auth/login", map[string]any{"email": email, "password": password}, header)
}

// Wrong passwords have to wait, at two instances that share nothing but the database.
func TestThrottle(t *testing.T) {
	t.Parallel()
	dsn, prefix := postgrestest.NewURL(t), kafkatest.Prefix(t)
	environ := []string{
		"KAFKA_BROKERS=" + strings.Join(kafkatest.Embedded(t).Brokers(), ","), "KAFKA_TOPIC_PREFIX=" + prefix,
		"DATABASE_URL=" + dsn, "DATABASE_MAX_CONNS=5", "DATABASE_MIN_CONNS=1", "DATA_DIR=" + t.TempDir(), "ADMIN_PORT=0", "ADMIN_HOST=127.0.0.1",
	}
	if err := run(t.Context(), []string{"topics", "apply"}, terminal{environ: environ, stdout: io.Discard, stderr: io.Discard}); err != nil {
		t.Fatal(err)
	}
	clock := &standing{at: time.Now().UTC().Truncate(time.Microsecond)}
	instance := func() *town { return &town{url: startRole(t, "ingest", clock.now, environ).url, router: operations(t)} }
	w := instance()
	db, err := pgxpool.New(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	ana, eve := w.person(t, "Ana"), &guesser{one: &person{t: t, in: w, name: "Eve"}, other: &person{t: t, in: instance(), name: "Eve"}}

	// The same for an account that there is and one that there is not, also with the right password.
	nobody := "nobody-" + uuid.NewString() + "@example.org"
	guess := func(email string) (shapes []string) {
		for range 5 {
			shapes = append(shapes, eve.tries(email, "a wrong one").shape())
		}
		last := eve.tries(email, secret)
		if last.refused(429, "rate_limited").header.Get("Retry-After") != "1" {
			t.Errorf("%s: Retry-After %q", last, last.header.Get("Retry-After"))
		}
		return append(shapes, last.shape())
	}
	if diff := cmp.Diff(guess(nobody), guess(ana.email)); diff != "" {
		t.Errorf("(-unknown +known):\n%s", diff)
	}
	clock.set(clock.now().Add(time.Second)) // what was refused has added nothing to the wait
	login := eve.tries(ana.email, secret).want(200)
	eve.tries(ana.email, "a wrong one").refused(401, "unauthenticated") // nothing is left of the five

	// Who is signed in counts apart from who logs in, over both routes.
	change := map[string]any{"current": "a wrong one", "next": "another pass phrase"}
	for range 4 {
		ana.call("POST", "/api/auth/password", change).refused(400, "invalid_request")
	}
	ana.call("DELETE", "/api/account", map[string]any{"password": "a wrong one"}).refused(400, "invalid_request")
	ana.call("DELETE", "/api/account", map[string]any{"password": secret}).refused(429, "rate_limited")
	ana.call("POST", "/api/auth/password", change).refused(429, "rate_limited")
	ana.get("/api/profile").want(200)
	eve.one.call("POST", "/api/auth/refresh", map[string]any{"refreshToken": login.text("refreshToken")}).want(200)

	// From here 16 have failed: the address is next, however many accounts it is spread over.
	var refused reply
	for i := 0; i < 30 && refused.status != 429; i++ {
		refused = eve.tries(fmt.Sprintf("%d-%s", i, nobody), "a wrong one")
	}
	refused.refused(429, "rate_limited")
	w.person(t, "Ben") // registrations are not slowed down by that

	rows, err := db.Query(t.Context(), `SELECT CASE actor WHEN $1 THEN 'Ana' WHEN $2 THEN 'nobody' END || ' ' || severity || ' ' || (address IS NOT NULL)
		FROM activity_log WHERE action = 'auth.refused' ORDER BY at`, ana.id, uuid.Nil)
	if err != nil {
		t.Fatal(err)
	}
	taken, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	// One for each wait that began: two accounts, Ana's own, the address.
	same(t, "activity", "nobody 3 true, nobody 3 true, Ana 3 true, nobody 3 true", strings.Join(taken, ", "))

	without(t, db, func() { eve.tries(nobody, "a wrong one").refused(503, "database_unavailable") })
}

func TestNoThrottleWhereLimitsAreOff(t *testing.T) {
	t.Parallel()
	w := newTown(t, "RATE_LIMITS=off")
	eve := &guesser{one: &person{t: t, in: w, name: "Eve"}}
	eve.other = eve.one
	for range 25 {
		eve.tries("nobody@example.org", "a wrong one").refused(401, "unauthenticated")
	}
}
