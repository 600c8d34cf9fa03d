package identity_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/bondmate/backend/pkg/identity"
)

// A derived key is the same for all who have the file, and another one for every label, salt
// and signing key.
func TestDerive(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keys, err := identity.LoadOrCreateDevelopmentKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	same, err := identity.LoadOrCreateDevelopmentKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	other, err := identity.LoadOrCreateDevelopmentKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	derive := func(k *identity.Keys, label, salt string) []byte {
		t.Helper()
		key, err := k.Derive(label, salt, now)
		if err != nil || len(key) != 32 {
			t.Fatalf("got %d bytes, %v", len(key), err)
		}
		return key
	}
	want := derive(keys, "a", "b")
	if !bytes.Equal(want, derive(same, "a", "b")) {
		t.Error("another instance derives another key")
	}
	for name, key := range map[string][]byte{
		"label": derive(keys, "x", "b"), "salt": derive(keys, "a", "x"), "signing key": derive(other, "a", "b"),
	} {
		if bytes.Equal(want, key) {
			t.Errorf("another %s derives the same key", name)
		}
	}
}
