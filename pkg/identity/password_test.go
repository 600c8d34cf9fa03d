package identity_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
)

func newPasswords(t *testing.T, cfg identity.PasswordConfig) *identity.Passwords {
	t.Helper()
	p, err := identity.NewPasswords(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPasswordParametersAreOWASP(t *testing.T) {
	t.Parallel()
	hash, err := newPasswords(t, identity.PasswordConfig{}).Hash(t.Context(), "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	if want := "$argon2id$v=19$m=19456,t=2,p=1$"; !strings.HasPrefix(hash, want) {
		t.Errorf("hash = %s, want prefix %s", hash, want)
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	p := newPasswords(t, identity.PasswordConfig{Memory: 64, Iterations: 1})
	older := newPasswords(t, identity.PasswordConfig{Memory: 32, Iterations: 1})
	hash := func(p *identity.Passwords, s string) string {
		h, err := p.Hash(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	tests := map[string]struct {
		password, hash  string
		match, outdated bool
	}{
		"right":                 {"s\u00e9same ouvre", hash(p, "s\u00e9same ouvre"), true, false},
		"composed differently":  {"se\u0301same ouvre", hash(p, "s\u00e9same ouvre"), true, false},
		"wrong":                 {"sesame", hash(p, "other"), false, false},
		"unknown account":       {"sesame", "", false, false},
		"older parameters":      {"sesame", hash(older, "sesame"), true, true},
		"older, wrong":          {"sesame", hash(older, "other"), false, false},
		"case counts":           {"Sesame", hash(p, "sesame"), false, false},
		"trailing space counts": {"sesame ", hash(p, "sesame"), false, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			match, outdated, err := p.Compare(t.Context(), tc.password, tc.hash)
			if err != nil || match != tc.match || outdated != tc.outdated {
				t.Errorf("Compare = %t, %t, %v, want %t, %t", match, outdated, err, tc.match, tc.outdated)
			}
		})
	}
	if _, _, err := p.Compare(t.Context(), "sesame", "not a hash"); err == nil {
		t.Error("a broken hash compared without error")
	}
}

// An unknown account must cost what a known one does. The quickest of many comparisons,
// which a busy machine disturbs least, are alike; without the decoy they are a thousand
// times apart.
func TestUnknownAccountTakesAsLong(t *testing.T) {
	t.Parallel()
	p := newPasswords(t, identity.PasswordConfig{Memory: 4096, Iterations: 1, Concurrent: 1})
	known, err := p.Hash(t.Context(), "sesame")
	if err != nil {
		t.Fatal(err)
	}
	compare := func(hash string) time.Duration {
		start := time.Now()
		if _, _, err := p.Compare(t.Context(), "wrong", hash); err != nil {
			t.Fatal(err)
		}
		return time.Since(start)
	}
	with, without := time.Hour, time.Hour
	for range 21 {
		with, without = min(with, compare(known)), min(without, compare(""))
	}
	if without < with/10 || without > with*10 {
		t.Errorf("a known account takes %s, an unknown one %s", with, without)
	}
}

func TestHashingIsBounded(t *testing.T) {
	t.Parallel()
	p := newPasswords(t, identity.PasswordConfig{Memory: 64, Iterations: 1, Concurrent: 1, Waiting: 2})
	release := identity.Occupy(p)

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		wg.Go(func() { _, errs[i] = p.Hash(ctx, "sesame") })
	}
	for deadline := time.Now().Add(10 * time.Second); identity.Waiting(p) < 2; {
		if time.Now().After(deadline) {
			t.Fatal("the callers never queued")
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := p.Hash(t.Context(), "sesame"); fault.CodeOf(err) != "overloaded" || fault.KindOf(err) != fault.Unavailable {
		t.Errorf("a caller over the limit: %v, want overloaded at once", err)
	}
	cancel()
	wg.Wait()
	for _, err := range errs {
		if fault.CodeOf(err) != "overloaded" {
			t.Errorf("a caller whose time ran out: %v, want overloaded", err)
		}
	}
	release()
	if _, err := p.Hash(t.Context(), "sesame"); err != nil {
		t.Errorf("after the rush: %v", err)
	}
}
