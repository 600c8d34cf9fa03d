package embedded

import (
	"log/slog"
	"path/filepath"
	"testing"
	"time"
)

func TestTry(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pg")
	for range 3 {
		t0 := time.Now()
		pg, err := StartPostgres(t.Context(), PostgresConfig{Dir: dir, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Log(time.Since(t0), pg.DSN)
		t0 = time.Now()
		if err := pg.Close(); err != nil {
			t.Fatal(err)
		}
		t.Log("stop", time.Since(t0))
	}
}
