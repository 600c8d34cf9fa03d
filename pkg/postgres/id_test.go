package postgres_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/postgres"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

// Not parallel: it counts allocations.
func TestIDArrays(t *testing.T) {
	url := postgrestest.URL(t, postgrestest.New(t))
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	for name, ids := range map[string][]uuid.UUID{
		"none": {}, "one": {uuid.New()}, "the nil id too": {uuid.Nil, uuid.New(), uuid.New()},
	} {
		rows, err := pool.Query(t.Context(), `SELECT id FROM unnest($1::uuid[]) WITH ORDINALITY AS n (id, at) ORDER BY at`, ids)
		if err != nil {
			t.Fatal(err)
		}
		got, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(ids, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	var null bool
	if err := pool.QueryRow(t.Context(), `SELECT $1::uuid[] IS NULL`, []uuid.UUID(nil)).Scan(&null); err != nil || !null {
		t.Errorf("no array is not NULL: %v", err)
	}
	// What gives each element's Value: the plan must be ours.
	if allocs := testing.AllocsPerRun(10, func() {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
		if _, err := conn.Conn().TypeMap().Encode(2951, pgx.BinaryFormatCode, make([]uuid.UUID, 1000), nil); err != nil {
			t.Fatal(err)
		}
	}); allocs > 200 {
		t.Errorf("%v allocations for 1000 ids", allocs)
	}
}
