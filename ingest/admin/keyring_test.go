package admin

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

// What was being loaded while a key was ended here is not used for anybody who comes later.
func TestKeysLoadedBeforeAChangeAreForgotten(t *testing.T) {
	t.Parallel()
	at := time.Now()
	s, err := New(Config{Pool: postgrestest.New(t), Partitions: 1, Clock: func() time.Time { return at }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	k, _, err := s.CreateKey(t.Context(), Actor{}, KeyOrder{Name: "billing", Scopes: []Scope{ReadUsers}})
	if err != nil {
		t.Fatal(err)
	}
	before, err := s.keys.load(t.Context())
	if err != nil || before.byID[k.ID] == nil {
		t.Fatalf("loaded %v: %v", before, err)
	}
	if _, err := s.RevokeKey(t.Context(), Actor{}, k.ID); err != nil {
		t.Fatal(err)
	}
	s.keys.loaded.Store(before) // it comes back after the revocation
	held, err := s.keys.find(t.Context(), k.ID)
	if err != nil || held == nil || held.revokedAt == nil {
		t.Errorf("the key is %+v: %v", held, err)
	}
}

// Who cannot be shown to have a key has none, and nobody waits longer than they may.
func TestKeysWithoutADatabase(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t)
	s, err := New(Config{Pool: pool, Partitions: 1, Clock: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	s.keys.loading <- struct{}{} // somebody is loading
	if _, err := s.keys.find(over, uuid.New()); err == nil {
		t.Error("nobody waited for what is being loaded")
	}
	<-s.keys.loading
	pool.Close()
	if _, err := s.keys.find(t.Context(), uuid.New()); err == nil {
		t.Error("an answer without a database")
	}
	if len(s.keys.loading) != 0 {
		t.Error("who failed keeps others from loading")
	}
}
