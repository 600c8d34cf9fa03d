package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

// shelves are all the places where something is stored: every table and every topic, those
// too that are made after this test.
type shelves struct {
	db     *pgxpool.Pool
	bus    *bus.Client
	topics []contract.Spec
}

// tables returns which tables hold a text, in whatever column, as it is or as bytes.
func (s shelves) tables(t *testing.T, text string) []string {
	t.Helper()
	rows, err := s.db.Query(t.Context(), `SELECT table_name::text FROM information_schema.tables
		WHERE table_schema = 'public' AND table_type = 'BASE TABLE' ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if len(tables) < 30 {
		t.Fatalf("only %v", tables)
	}
	found := []string{}
	for _, table := range tables {
		var n int
		sql := fmt.Sprintf(`SELECT count(*) FROM %s x WHERE strpos(x::text, $1) > 0 OR strpos(x::text, $2) > 0`, pgx.Identifier{table}.Sanitize())
		if err := s.db.QueryRow(t.Context(), sql, text, fmt.Sprintf("%x", text)).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			found = append(found, table)
		}
	}
	return found
}

// records returns all that a topic holds by now; of a compacted one what compaction leaves:
// the last record of each key.
func (s shelves) records(t *testing.T, topic contract.Spec) []contract.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	start, end, err := s.bus.Offsets(ctx, topic.Name)
	if err != nil {
		t.Fatal(err)
	}
	var all []contract.Record
	for p := range end {
		reader := s.bus.OpenPartition(topic.Name, p, start[p])
		for o := start[p]; o < end[p]; {
			rec, err := reader.Read(ctx)
			if err != nil {
				t.Fatalf("read %s/%d: %v", topic.Name, p, err)
			}
			o = rec.Offset + 1
			all = append(all, rec)
		}
		reader.Close()
	}
	if topic.Configs["cleanup.policy"] != "compact" {
		return all
	}
	last := map[string]contract.Record{}
	for _, rec := range all {
		last[string(rec.Key)] = rec
	}
	kept := make([]contract.Record, 0, len(last))
	for _, rec := range last {
		kept = append(kept, rec)
	}
	return kept
}

// holds says whether a record holds a text.
func holds(rec contract.Record, text string) bool {
	whole := string(rec.Key) + "\n" + string(rec.Value)
	for _, h := range rec.Headers {
		whole += "\n" + h.Key + ": " + string(h.Value)
	}
	return strings.Contains(whole, text)
}

// After an account is deleted nothing that tells who it was, and nothing that the person
// wrote, is in any table or compacted topic; what is kept for a time holds what
// docs/privacy.md says, for as long as it says.
func TestNothingIsLeftOfADeletedAccount(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, broker *kafkatest.Broker) {
		prefix := kafkatest.Prefix(t)
		w := newTown(t, "KAFKA_BROKERS="+strings.Join(broker.Brokers(), ","), "KAFKA_TOPIC_PREFIX="+prefix)
		db, err := pgxpool.New(t.Context(), address(t, w.dir, "postgres.dsn"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(db.Close)
		everywhere := shelves{db: db, bus: broker.Client(t), topics: contract.NewTopics(prefix).Specs(contract.DefaultPartitions)}
		if named := reflect.TypeFor[contract.Topics]().NumField(); named != len(everywhere.topics) {
			t.Fatalf("%d topics are named and %d set up", named, len(everywhere.topics))
		}

		ana, planted := plantAll(t, w)
		for what, text := range planted {
			if found := everywhere.tables(t, text); len(found) == 0 {
				t.Errorf("%s was not stored, so its absence would say nothing", what)
			}
		}
		ana.call("POST", "/api/auth/login", map[string]any{"email": ana.email, "password": secret}).want(200)
		places := func() (n int) { // hashes, so no text finds them
			if err := db.QueryRow(t.Context(), `SELECT count(*) FROM login_attempts WHERE user_id = $1`, ana.id).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		if n := places(); n != 1 {
			t.Errorf("%d places of logins are kept, so their absence would say nothing", n)
		}
		ana.call("DELETE", "/api/account", map[string]any{"password": secret}).want(200)
		until(t, "erasure", func() bool {
			var erased bool
			if err := db.QueryRow(t.Context(), `SELECT erased_at IS NOT NULL FROM users WHERE id = $1`, ana.id).Scan(&erased); err != nil {
				t.Fatal(err)
			}
			return erased
		})
		if n := places(); n != 0 {
			t.Errorf("%d places of logins are left", n)
		}
		for what, text := range planted {
			if found := everywhere.tables(t, text); len(found) > 0 {
				t.Errorf("%s is left in %v", what, found)
			}
		}
		for _, topic := range everywhere.topics {
			t.Run(strings.TrimPrefix(topic.Name, prefix+"."), func(t *testing.T) {
				everywhere.checkTopic(t, topic, ana, planted)
			})
		}
	})
}

func (s shelves) checkTopic(t *testing.T, topic contract.Spec, ana *person, planted map[string]string) {
	const day = 24 * time.Hour
	kept := map[string]time.Duration{"commands": 7 * day, "events": 30 * day, "deadletter": 30 * day, "control": day, "presence": time.Hour, "pushes": 30 * day}
	kind := strings.Split(topic.Name, ".")[1]
	if topic.Configs["cleanup.policy"] == "compact" {
		// Tombstones come with timers, which wait for the queue.
		deadline := time.Now().Add(time.Minute)
		for open := true; open; <-time.After(100 * time.Millisecond) {
			open = slices.ContainsFunc(s.records(t, topic), func(rec contract.Record) bool {
				return holds(rec, ana.id.String()) && len(rec.Value) > 0
			})
			if open && time.Now().After(deadline) {
				t.Fatal("a record of the user is left, want tombstones")
			}
			if !open {
				break
			}
		}
	} else if got := topic.Configs["retention.ms"]; kept[kind] == 0 || got != fmt.Sprint(kept[kind].Milliseconds()) {
		t.Errorf("kept for %s ms, and docs/privacy.md says %v", got, kept[kind])
	}
	records := s.records(t, topic)
	for what, text := range planted {
		found := slices.ContainsFunc(records, func(rec contract.Record) bool { return holds(rec, text) })
		// What commands carry is what processors need to carry them out, and no more.
		may := kind == "commands" && slices.Contains([]string{
			"new name", "message", "reason", "breakup reason", "nickname", "nickname by the partner", "new partner code",
		}, what)
		if found && !may {
			t.Errorf("%s is on the topic", what)
		}
		if !found && may {
			t.Errorf("%s is not on the topic: docs/privacy.md says it is", what)
		}
	}
}

// plantAll makes a person with something of everything that a person can give.
func plantAll(t *testing.T, w *town) (*person, map[string]string) {
	t.Helper()
	unique := strings.ReplaceAll(uuid.NewString(), "-", "")
	mark := func(what string) string { return what + "-" + unique }
	ana := &person{t: t, in: w, name: mark("first"), email: mark("ana") + "@example.org"}
	got := ana.call("POST", "/api/auth/register", map[string]any{
		"email": ana.email, "password": secret, "displayName": ana.name, "device": map[string]any{"name": mark("phone"), "platform": "ios"},
	}).want(http.StatusCreated)
	ana.id, ana.token, ana.code = uuid.MustParse(got.text("user", "id")), got.text("accessToken"), got.text("user", "partnerCode")
	ben, eve, dan := w.person(t, "Ben"), w.person(t, "Eve"), w.person(t, "Dan")

	first := ana.code
	ana.call("POST", "/api/profile/partner-code", nil).want(200)
	ana.code = ana.get("/api/profile").text("partnerCode")
	ana.call("POST", "/api/devices", map[string]any{"kind": "fcm", "token": mark("token"), "platform": "ios"}).want(201)
	ana.call("POST", partners+"/request", map[string]any{"toUserId": dan.id, "message": mark("message")}).want(200)
	ana.marry(ben)
	ana.call("PATCH", "/api/profile", map[string]any{"displayName": mark("name")}).want(200)
	ana.call("POST", partners+"/remove", map[string]any{"reason": mark("reason")}).want(200)
	eve.marry(ana)
	ana.call("POST", "/api/nicknames", map[string]any{"targetUserId": eve.id, "nickname": mark("nick")}).want(200)
	eve.call("POST", "/api/nicknames", map[string]any{"targetUserId": ana.id, "nickname": mark("about")}).want(200)
	ana.call("POST", partners+"/breakup", map[string]any{"reason": mark("breakup")}).want(200)
	ana.call("POST", "/api/reports", map[string]any{"targetUserId": ben.id, "reason": "other", "detail": mark("detail")}).want(201)
	if first == ana.code {
		t.Fatal("the partner code is the old one")
	}
	return ana, map[string]string{
		"e-mail": ana.email, "new name": mark("name"), "device name": mark("phone"), "new partner code": ana.code, "push token": mark("token"),
		"message": mark("message"), "reason": mark("reason"), "nickname": mark("nick"), "nickname by the partner": mark("about"),
		"breakup reason": mark("breakup"), "report": mark("detail"),
	}
}

// docs/privacy.md names every column of every table: who adds one says what it is for,
// how long it is kept and what erasure does with it.
func TestPrivacyListsEveryColumn(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/privacy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, ok := strings.Cut(string(text), "\n## Every column\n")
	if !ok {
		t.Fatal("docs/privacy.md has no section Every column")
	}
	quoted := regexp.MustCompile("`([a-z_]+)`")
	listed := map[string][]string{}
	for line := range strings.Lines(list) {
		names := quoted.FindAllStringSubmatch(line, -1)
		if !strings.HasPrefix(line, "| `") || len(names) == 0 {
			continue
		}
		for _, name := range names[1:] {
			listed[names[0][1]] = append(listed[names[0][1]], name[1])
		}
		slices.Sort(listed[names[0][1]])
	}
	rows, err := postgrestest.New(t).Query(t.Context(), `
		SELECT c.table_name::text, array_agg(c.column_name::text ORDER BY c.column_name::text COLLATE "C")
		FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name)
		WHERE c.table_schema = 'public' AND t.table_type = 'BASE TABLE' AND c.table_name <> 'goose_db_version'
		  AND c.table_name NOT IN (SELECT inhrelid::regclass::text FROM pg_inherits)
		GROUP BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	stored := map[string][]string{}
	var table string
	var columns []string
	if _, err := pgx.ForEachRow(rows, []any{&table, &columns}, func() error {
		stored[table] = slices.Clone(columns)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(stored, listed); diff != "" {
		t.Errorf("docs/privacy.md, Every column (-stored +listed):\n%s", diff)
	}
}
