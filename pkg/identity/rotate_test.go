package identity_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
)

// written sets when a key file was last written.
func written(t *testing.T, file string, at time.Time) {
	t.Helper()
	if err := os.Chtimes(file, at, at); err != nil {
		t.Fatal(err)
	}
}

func rotate(t *testing.T, file string, now time.Time) {
	t.Helper()
	if _, err := identity.Rotate(file, now); err != nil {
		t.Fatal(err)
	}
	written(t, file, now)
}

// instance is a process with the keys of a file.
type instance struct {
	keys     *identity.Keys
	issuer   *identity.Issuer
	verifier *identity.Verifier
}

func newInstance(t *testing.T, file string, clock func() time.Time) instance {
	t.Helper()
	keys, err := identity.LoadKeys(file)
	if err != nil {
		t.Fatal(err)
	}
	issuer, verifier := newPair(t, keys, clock)
	return instance{keys, issuer, verifier}
}

func (i instance) issue(t *testing.T) string {
	t.Helper()
	token, _, err := i.issuer.Issue(identity.Claims{UserID: uuid.New(), SessionID: uuid.New(), Role: identity.RoleUser})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// Through a rotation every token is accepted by every instance, also by one that has not
// read the file again yet, and a key goes when its last token has expired.
func TestRotation(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := identity.LoadOrCreateDevelopmentKeys(dir); err != nil {
		t.Fatal(err)
	}
	file := identity.DevelopmentKeyFile(dir)
	written(t, file, testNow.Add(-time.Hour))
	now := testNow
	clock := func() time.Time { return now }
	quick, slow := newInstance(t, file, clock), newInstance(t, file, clock)
	first := quick.keys.SigningID(now)
	reload := func(i instance) {
		t.Helper()
		if changed, err := i.keys.Reload(); !changed || err != nil {
			t.Fatalf("read again: %v, %v", changed, err)
		}
	}
	accept := func(i instance, token, what string) {
		t.Helper()
		if _, err := i.verifier.Verify(t.Context(), token); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}

	rotate(t, file, now)
	reload(quick)
	fresh := newInstance(t, file, clock) // started in the middle of it
	for _, i := range []instance{quick, fresh} {
		if got := i.keys.SigningID(now); got != first {
			t.Errorf("a key signs that other instances don't know yet")
		}
		if n := len(i.keys.JWKS().Keys); n != 2 {
			t.Errorf("%d keys, want 2", n)
		}
		accept(slow, i.issue(t), "an instance that has not read the file again")
	}
	if _, err := identity.Rotate(file, now.Add(16*time.Minute)); !errors.Is(err, identity.ErrTooSoon) {
		t.Errorf("a rotation with tokens of the oldest key alive: %v", err)
	}

	reload(slow)
	now = now.Add(2 * time.Minute)
	second := quick.keys.SigningID(now)
	if second == first || fresh.keys.SigningID(now) != second {
		t.Error("the new key does not sign after two minutes")
	}
	now = now.Add(-time.Second)
	last := quick.issue(t) // with the first key
	now = now.Add(time.Second)
	accept(slow, quick.issue(t), "the new key's token")
	accept(slow, last, "the old key's last token")

	now = now.Add(15 * time.Minute)
	rotate(t, file, now)
	reload(slow)
	for _, k := range slow.keys.List(now) {
		if k.ID == first {
			t.Error("three keys live")
		}
		if k.Signs != (k.ID == second) {
			t.Errorf("key %s signs: %v", k.ID, k.Signs)
		}
	}
	now = now.Add(-2 * time.Second) // the token would be alive, and is remembered as good
	if _, err := slow.verifier.Verify(t.Context(), last); fault.CodeOf(err) != "unauthenticated" {
		t.Errorf("a token of a key that is gone: %v", err)
	}

	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 1 {
		t.Errorf("files left: %v, %v", left, err)
	}
}

// lines is a log that is read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A file that cannot be read leaves the keys as they are, and is told of once.
func TestWatch(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keys, err := identity.LoadOrCreateDevelopmentKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	file := identity.DevelopmentKeyFile(dir)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var log lines
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- keys.Watch(ctx, slog.New(slog.NewTextHandler(&log, nil))) }()
		later := func() {
			time.Sleep(6 * time.Second) // of the bubble's time
			synctest.Wait()
		}
		put := func(text []byte) {
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Error(err)
			}
		}
		signing := keys.SigningID(time.Now())
		put([]byte("nonsense"))
		later()
		later()
		if n := strings.Count(log.String(), "not read again"); n != 1 || keys.SigningID(time.Now()) != signing {
			t.Errorf("told %d times: %s", n, &log)
		}
		put(append(bytes.Clone(good), '\n'))
		later()
		if !strings.Contains(log.String(), "were read again") {
			t.Errorf("a right file is not read: %s", &log)
		}
		if err := os.Remove(file); err != nil {
			t.Error(err)
		}
		later()
		if n := strings.Count(log.String(), "not read again"); n != 2 || len(keys.JWKS().Keys) != 1 {
			t.Errorf("without a file: %s", &log)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ends with %v", err)
		}
	})
}
