package accounts_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/ingest/accounts"
)

// However many calls come at once, the look-ups of their sessions leave the pool to the
// calls' own work.
func TestSessionLookUpsShareQueries(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.register(t, "ada@example.com")
	sessions := []uuid.UUID{ada.SessionID}
	for range 9 {
		sessions = append(sessions, w.login(t, "ada@example.com").SessionID)
	}
	ended := sessions[3]
	if err := w.Logout(t.Context(), ada.User.ID, ended); err != nil {
		t.Fatal(err)
	}

	// Nothing is answered before the lock goes.
	tx, err := w.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	const calls = 200
	active := make([]bool, calls)
	left, answered := context.WithTimeout(t.Context(), 10*time.Second)
	defer answered()
	errs := make(chan []error, 1)
	go func() {
		errs <- together(left, calls, func(ctx context.Context, i int) error {
			standing, err := w.Standing(ctx, sessions[i%len(sessions)])
			active[i] = standing.Active
			return err
		})
	}()
	for deadline := time.Now().Add(5 * time.Second); w.pool.Stat().AcquiredConns() < 2; {
		if time.Now().After(deadline) {
			t.Fatal("nobody asks")
		}
		<-time.After(time.Millisecond)
	}
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); {
		if got := w.pool.Stat().AcquiredConns(); got > 3 {
			t.Fatalf("%d connections are in use, want 3 at most: the lock's and two look-ups'", got)
		}
		<-time.After(time.Millisecond)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, err := range <-errs {
		if want := sessions[i%len(sessions)] != ended; err != nil || active[i] != want {
			t.Errorf("call %d: %v, %v, want %v", i, active[i], err, want)
		}
	}
}

// A caller that leaves takes nobody's answer with it, and no connection.
func TestSessionLookUpOutlivesItsCaller(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *accounts.Config) { c.SessionCacheTTL = time.Nanosecond })
	ada := w.register(t, "ada@example.com")
	tx, err := w.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	brief, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := w.Standing(brief, ada.SessionID); err == nil {
		t.Error("answered under the lock")
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !w.active(t, ada.SessionID) {
		t.Error("the session is active")
	}
	if stat := w.pool.Stat(); stat.NewConnsCount() != int64(stat.TotalConns()) {
		t.Errorf("of %d connections %d are left", stat.NewConnsCount(), stat.TotalConns())
	}
}
