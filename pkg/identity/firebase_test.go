package identity_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/identity/firebasetest"
)

// project is the Firebase project of all tests here; TestMain serves it.
var project *firebasetest.Issuer

func TestMain(m *testing.M) {
	var err error
	if project, err = firebasetest.Serve(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func newFirebase(t *testing.T) *identity.Firebase {
	t.Helper()
	f, err := identity.NewFirebase(t.Context(), identity.FirebaseConfig{ProjectID: firebasetest.Project})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFirebaseTellsWhoATokenIsAbout(t *testing.T) {
	f := newFirebase(t)
	signedIn := time.Now().Add(-30 * 24 * time.Hour).Unix()
	for name, test := range map[string]struct {
		claims jwt.MapClaims
		want   identity.FirebaseUser
	}{
		"with a verified e-mail": {
			jwt.MapClaims{"email": "ana@example.org", "email_verified": true, "name": "Ana", "auth_time": signedIn},
			identity.FirebaseUser{Subject: "s1", Email: "ana@example.org", Name: "Ana", Provider: "google.com", AuthenticatedAt: time.Unix(signedIn, 0).UTC()},
		},
		"an e-mail that is not verified is nobody's": {
			jwt.MapClaims{"email": "ana@example.org", "email_verified": false, "auth_time": signedIn},
			identity.FirebaseUser{Subject: "s1", Provider: "google.com", AuthenticatedAt: time.Unix(signedIn, 0).UTC()},
		},
		"nor is one of which that is not said": {
			jwt.MapClaims{"email": "ana@example.org", "auth_time": signedIn},
			identity.FirebaseUser{Subject: "s1", Provider: "google.com", AuthenticatedAt: time.Unix(signedIn, 0).UTC()},
		},
		"nor one of which a text says so": {
			jwt.MapClaims{"email": "ana@example.org", "email_verified": "true", "auth_time": signedIn},
			identity.FirebaseUser{Subject: "s1", Provider: "google.com", AuthenticatedAt: time.Unix(signedIn, 0).UTC()},
		},
		"claims of other types": {
			jwt.MapClaims{"email": 7, "email_verified": true, "name": []string{"Ana"}, "auth_time": signedIn},
			identity.FirebaseUser{Subject: "s1", Provider: "google.com", AuthenticatedAt: time.Unix(signedIn, 0).UTC()},
		},
		"the longest subject": {
			jwt.MapClaims{"sub": strings.Repeat("s", 128), "auth_time": signedIn},
			identity.FirebaseUser{Subject: strings.Repeat("s", 128), Provider: "google.com", AuthenticatedAt: time.Unix(signedIn, 0).UTC()},
		},
	} {
		got, err := f.Verify(t.Context(), project.Sign(firebasetest.With(firebasetest.Claims("s1"), test.claims)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// The attack table: none of these is anybody.
func TestFirebaseRefuses(t *testing.T) {
	f := newFirebase(t)
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&project.Key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	good := func() jwt.MapClaims { return firebasetest.Claims("s1") }
	with := func(more jwt.MapClaims) string { return project.Sign(firebasetest.With(good(), more)) }
	now := time.Now()
	sound := project.Sign(good())
	parts := strings.Split(sound, ".")
	tokens := map[string]string{
		"empty":                         "",
		"no token":                      "a.b.c",
		"truncated":                     sound[:len(sound)-10],
		"without a signature":           parts[0] + "." + parts[1] + ".",
		"claims of another":             parts[0] + "." + strings.Split(with(jwt.MapClaims{"sub": "s2"}), ".")[1] + "." + parts[2],
		"huge":                          strings.Repeat("A", 1<<20),
		"alg none":                      firebasetest.Token(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, firebasetest.KeyID, good()),
		"HS256 with the public key":     firebasetest.Token(jwt.SigningMethodHS256, publicPEM, firebasetest.KeyID, good()),
		"RS512":                         firebasetest.Token(jwt.SigningMethodRS512, project.Key, firebasetest.KeyID, good()),
		"another key":                   firebasetest.Token(jwt.SigningMethodRS256, other, firebasetest.KeyID, good()),
		"an unknown kid":                firebasetest.Token(jwt.SigningMethodRS256, project.Key, "unknown", good()),
		"another key under its own kid": firebasetest.Token(jwt.SigningMethodRS256, other, "mine", good()),
		"no kid":                        firebasetest.Token(jwt.SigningMethodRS256, project.Key, "", good()),
		"another project":               with(jwt.MapClaims{"aud": "other-project", "iss": "https://securetoken.google.com/other-project"}),
		"wrong aud":                     with(jwt.MapClaims{"aud": "other-project"}),
		"no aud":                        with(jwt.MapClaims{"aud": nil}),
		"wrong iss":                     with(jwt.MapClaims{"iss": "https://accounts.google.com"}),
		"iss of session cookies":        with(jwt.MapClaims{"iss": "https://session.firebase.google.com/" + firebasetest.Project}),
		"no iss":                        with(jwt.MapClaims{"iss": nil}),
		"expired":                       with(jwt.MapClaims{"iat": now.Add(-2 * time.Hour).Unix(), "exp": now.Add(-time.Hour).Unix()}),
		"no exp":                        with(jwt.MapClaims{"exp": nil}),
		"issued in an hour":             with(jwt.MapClaims{"iat": now.Add(time.Hour).Unix(), "exp": now.Add(2 * time.Hour).Unix()}),
		"no sub":                        with(jwt.MapClaims{"sub": nil}),
		"empty sub":                     with(jwt.MapClaims{"sub": ""}),
		"sub too long":                  with(jwt.MapClaims{"sub": strings.Repeat("s", 129)}),
		"sub that is a number":          with(jwt.MapClaims{"sub": 1}),
		"anonymous":                     with(jwt.MapClaims{"firebase": map[string]any{"sign_in_provider": "anonymous"}}),
		"of a tenant":                   with(jwt.MapClaims{"firebase": map[string]any{"sign_in_provider": "google.com", "tenant": "t1"}}),
	}
	for name, token := range tokens {
		u, err := f.Verify(t.Context(), token)
		if fault.KindOf(err) != fault.Unauthenticated || fault.CodeOf(err) != "unauthenticated" || u != (identity.FirebaseUser{}) {
			t.Errorf("%s: %+v, %v; want unauthenticated", name, u, err)
		}
	}
	if _, err := f.Verify(t.Context(), sound); err != nil {
		t.Errorf("the token that the others are made from: %v", err)
	}
}

// A flood of unknown keys fetches nothing: the certificates are asked for when they are old.
func TestUnknownKeysFetchNothing(t *testing.T) {
	f := newFirebase(t)
	token := func(kid string) string {
		return firebasetest.Token(jwt.SigningMethodRS256, project.Key, kid, firebasetest.Claims("s1"))
	}
	if _, err := f.Verify(t.Context(), token(firebasetest.KeyID)); err != nil {
		t.Fatal(err)
	}
	before := project.Fetches()
	for i := range 200 {
		if _, err := f.Verify(t.Context(), token(fmt.Sprint("unknown-", i))); fault.KindOf(err) != fault.Unauthenticated {
			t.Fatalf("an unknown key: %v", err)
		}
	}
	if n := project.Fetches() - before; n != 0 {
		t.Errorf("%d fetches", n)
	}
}

// Without Google's keys nobody is let in and nobody is said to be wrong; and whoever waits for
// somebody else's fetch waits no longer than their own time.
func TestFirebaseKeysAway(t *testing.T) {
	f := newFirebase(t)
	token := project.Sign(firebasetest.Claims("s1"))
	project.Away(true)
	defer project.Away(false)
	_, err := f.Verify(t.Context(), token)
	if fault.KindOf(err) != fault.Unavailable || fault.CodeOf(err) != "overloaded" {
		t.Errorf("keys away: %v, want overloaded", err)
	}
	project.Hang(true)
	defer project.Hang(false)
	before := project.Fetches()
	patient, release := context.WithCancel(t.Context())
	defer release()
	fetching := make(chan struct{})
	go func() {
		defer close(fetching)
		_, _ = f.Verify(patient, token)
	}()
	for end := time.Now().Add(20 * time.Second); project.Fetches() == before; <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the keys are not asked for")
		}
	}
	hurried := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := f.Verify(ctx, token)
		hurried <- err
	}()
	select {
	case err := <-hurried:
		if fault.KindOf(err) != fault.Unavailable {
			t.Errorf("keys that do not come: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("a caller with 50 ms waits for another one's fetch")
	}
	release()
	<-fetching
	project.Hang(false)
	project.Away(false)
	if _, err := f.Verify(t.Context(), token); err != nil {
		t.Errorf("keys back: %v", err)
	}
}

// With the emulator's variable the SDK looks at no signature: that is never by accident.
func TestFirebaseEmulatorIsRefused(t *testing.T) {
	t.Setenv("FIREBASE_AUTH_EMULATOR_HOST", "127.0.0.1:9")
	if _, err := identity.NewFirebase(t.Context(), identity.FirebaseConfig{ProjectID: firebasetest.Project}); err == nil {
		t.Error("the emulator is admitted")
	}
	if _, err := identity.NewFirebase(t.Context(), identity.FirebaseConfig{ProjectID: firebasetest.Project, Emulator: true}); err != nil {
		t.Errorf("in development: %v", err)
	}
	if _, err := identity.NewFirebase(t.Context(), identity.FirebaseConfig{Emulator: true}); err == nil {
		t.Error("no project is one")
	}
}

func TestFirebaseErrorsHoldNoToken(t *testing.T) {
	f := newFirebase(t)
	token := project.Sign(firebasetest.With(firebasetest.Claims("s1"), jwt.MapClaims{"aud": "other"}))
	_, err := f.Verify(t.Context(), token)
	if err == nil || bytes.Contains([]byte(fmt.Sprintf("%+v", err)), []byte(strings.Split(token, ".")[2])) {
		t.Errorf("error %v", err)
	}
}
