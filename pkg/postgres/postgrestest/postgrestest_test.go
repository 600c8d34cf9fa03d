package postgrestest

import (
	"sync"
	"testing"
	"time"
)

func TestNewGivesEachTestItsOwnMigratedDatabase(t *testing.T) {
	t.Parallel()
	var names sync.Map
	for range 8 {
		t.Run("clone", func(t *testing.T) {
			t.Parallel()
			begin := time.Now()
			pool := New(t)
			t.Logf("ready after %v", time.Since(begin))
			var name string
			if err := pool.QueryRow(t.Context(), "SELECT current_database()").Scan(&name); err != nil {
				t.Fatal(err)
			}
			if _, seen := names.LoadOrStore(name, true); seen {
				t.Fatalf("database %s was given out twice", name)
			}
			var users int
			if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM users").Scan(&users); err != nil || users != 0 {
				t.Fatalf("users: got %d, %v; want 0, nil", users, err)
			}
			if _, err := pool.Exec(t.Context(), "INSERT INTO user_streams (user_id) VALUES (gen_random_uuid())"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestLeftBehind(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	for name, want := range map[string]bool{
		"test_1_0123456789abcdef":      true,
		"test_999999_0123456789abcdef": false,
		"postgres":                     false,
		"test_data":                    false,
		"bondmate_template_1":          false,
	} {
		if got := leftBehind(name, now); got != want {
			t.Errorf("leftBehind(%s): got %v, want %v", name, got, want)
		}
	}
}
