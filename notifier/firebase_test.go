package notifier

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bondmate/backend/pkg/embedded/fcm"
)

// A key that is replaced in its file holds from the next access token on, without a restart.
func TestCredentialsAreReadAgain(t *testing.T) {
	t.Parallel()
	stand := func() *fcm.Server {
		s, err := fcm.New(fcm.Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	here, elsewhere := stand(), stand()
	t.Cleanup(func() { _ = elsewhere.Close() })
	w := &world{t: t, fcm: here}
	w.background(here.Run)
	right, err := os.ReadFile(here.CredentialsFile())
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := os.ReadFile(elsewhere.CredentialsFile())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "account.json")
	// Somebody else's key, presented here.
	wrong = bytes.ReplaceAll(wrong, []byte(elsewhere.Endpoint()), []byte(here.Endpoint()))
	if err := os.WriteFile(file, wrong, 0o600); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	f, err := NewFirebase(t.Context(), FirebaseConfig{CredentialsFile: file, Endpoint: here.Endpoint(), Clock: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	send := func() error {
		return f.Send(t.Context(), Message{Token: "phone", Title: "a", TTL: time.Minute, ExpiresAt: now})
	}
	if got := verdictOf(send()); got != Denied {
		t.Errorf("with another's key: %s, want denied", got)
	}
	if err := os.WriteFile(file, right, 0o600); err != nil {
		t.Fatal(err)
	}
	now = now.Add(tokenFailureHold) // so long everybody shares the refusal
	if err := send(); err != nil {
		t.Errorf("with the right key in the file: %v", err)
	}
	if got := len(here.Recent("phone")); got != 1 {
		t.Errorf("%d pushes arrived, want 1", got)
	}
}
