package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/migrations"
	"github.com/bondmate/backend/pkg/postgres"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

// emptyDatabase returns the URL of a database without any table.
func emptyDatabase(t *testing.T) string {
	t.Helper()
	at := postgrestest.NewURL(t)
	conn, err := pgx.Connect(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	name := "empty_" + conn.Config().Database
	if _, err := conn.Exec(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := conn.Exec(context.Background(), "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

func TestMigrateAtOnce(t *testing.T) {
	t.Parallel()
	at := emptyDatabase(t)
	var wait sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		wait.Go(func() {
			errs[i] = postgres.Migrate(t.Context(), at, migrations.FS, slog.New(slog.DiscardHandler))
		})
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var twice, tables int
	err = conn.QueryRow(t.Context(), `
		SELECT (SELECT count(*) FROM (SELECT FROM goose_db_version GROUP BY version_id HAVING count(*) > 1) v),
		       (SELECT count(*) FROM pg_tables WHERE tablename IN ('users', 'events', 'inbox'))`).Scan(&twice, &tables)
	if err != nil || twice != 0 || tables != 3 {
		t.Errorf("migrations that ran twice %d, tables %d of 3, %v", twice, tables, err)
	}
}

// Each migration can be undone and done again, so that a release can be taken back.
func TestMigrationsUpDownUp(t *testing.T) {
	t.Parallel()
	config, err := pgx.ParseConfig(emptyDatabase(t))
	if err != nil {
		t.Fatal(err)
	}
	db := stdlib.OpenDB(*config)
	defer db.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.Up(t.Context()); err != nil {
		t.Fatalf("up: %v", err)
	}
	if _, err := provider.DownTo(t.Context(), 0); err != nil {
		t.Fatalf("down: %v", err)
	}
	var left int
	const relations = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'goose_db_version'"
	if err := db.QueryRowContext(t.Context(), relations).Scan(&left); err != nil || left != 0 {
		t.Errorf("tables left after down: %d, %v", left, err)
	}
	if _, err := provider.Up(t.Context()); err != nil {
		t.Fatalf("up again: %v", err)
	}
}

func TestOpenSetsTheSession(t *testing.T) {
	t.Parallel()
	cfg := postgres.Config{
		AppName: "a test", MaxConns: 3, StatementTimeout: 1500 * time.Millisecond,
		LockTimeout: time.Second, IdleInTxTimeout: 2 * time.Second, Params: map[string]string{"jit": "off"},
	}
	pool := postgrestest.Open(t, cfg)
	got := map[string]string{}
	want := map[string]string{
		"application_name": "a test", "statement_timeout": "1500ms", "lock_timeout": "1s",
		"idle_in_transaction_session_timeout": "2s", "jit": "off", "TimeZone": "UTC",
	}
	for name := range want {
		var value string
		if err := pool.QueryRow(t.Context(), "SELECT current_setting($1)", name).Scan(&value); err != nil {
			t.Fatal(err)
		}
		got[name] = value
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pool (-want +got):\n%s", diff)
	}
	if got := pool.Config().MaxConns; got != 3 {
		t.Errorf("MaxConns: got %d, want 3", got)
	}
	cfg.URL = postgrestest.URL(t, pool)
	conn, err := postgres.Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), "SELECT pg_sleep(10)")
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != "57014" {
		t.Errorf("a statement beyond its timeout: got %v, want it cancelled by the server", err)
	}
}

func TestOpenFailsAtOnceOrWaits(t *testing.T) {
	t.Parallel()
	good, err := url.Parse(postgrestest.NewURL(t))
	if err != nil {
		t.Fatal(err)
	}
	wrongPassword, wrongDatabase, nobodyThere := *good, *good, *good
	wrongPassword.User = url.UserPassword(good.User.Username(), "wrong")
	wrongDatabase.Path = "/none"
	nobodyThere.Host = "127.0.0.1:1"
	for name, test := range map[string]struct {
		url   string
		waits bool
	}{
		"a wrong password":  {wrongPassword.String(), false},
		"no such database":  {wrongDatabase.String(), false},
		"a server not up":   {nobodyThere.String(), true},
		"not a URL, either": {"postgres://%zz", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const patience = time.Second
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			pool, err := postgres.Open(ctx, postgres.Config{URL: test.url})
			if err == nil {
				pool.Close()
				t.Fatal("opened")
			}
			if waited := ctx.Err() != nil; waited != test.waits {
				t.Errorf("waited until the deadline: got %v, want %v (%v)", waited, test.waits, err)
			}
			if strings.Contains(err.Error(), "wrong") && name == "a wrong password" {
				t.Errorf("the error repeats the password: %v", err)
			}
		})
	}
}

func TestCollector(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(postgres.NewCollector(pool))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			name := family.GetName()
			for _, label := range metric.GetLabel() {
				name += fmt.Sprintf("{%s}", label.GetValue())
			}
			got[name] = metric.GetGauge().GetValue() + metric.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"bondmate_postgres_pool_connections{in_use}": 1,
		"bondmate_postgres_pool_limit":               10,
	} {
		if got[name] != want {
			t.Errorf("%s: got %v, want %v", name, got[name], want)
		}
	}
}
