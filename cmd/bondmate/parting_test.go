package main

import (
	"log/slog"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bondmate/backend/cmd/bondmate/partingtest"
	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/pkg/embedded/fcm"
)

// What two people see of each other when one leaves (G9), on `bondmate all` with its
// embedded servers.
func TestParting(t *testing.T) {
	t.Parallel()
	dir, pushes := t.TempDir(), partingtest.StandIn(t, fcm.Config{Log: slog.New(slog.DiscardHandler)})
	url := startAll(t, dir, append(partingtest.PushSettings(pushes), "RATE_LIMITS=off")...).url
	pool, err := pgxpool.New(t.Context(), address(t, dir, "postgres.dsn"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	partingtest.Run(t, partingtest.Deployment{API: phone.NewServer(url), Pushes: pushes, Pool: pool})
}
