package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/identity/firebasetest"
)

// project is the Firebase project of the tests here; TestMain serves its certificates.
var project *firebasetest.Issuer

func TestMain(m *testing.M) {
	var err error
	if project, err = firebasetest.Serve(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// arrive is somebody at the door with a Firebase ID token.
func (w *town) arrive(t *testing.T, body map[string]any, claims jwt.MapClaims) reply {
	t.Helper()
	p := &person{t: t, in: w, name: "somebody"}
	if body == nil {
		body = map[string]any{}
	}
	body["idToken"] = project.Sign(firebasetest.With(firebasetest.Claims("nobody"), claims))
	return p.call("POST", "/api/auth/firebase", body)
}

func (w *town) enters(t *testing.T, email string, got reply) *person {
	t.Helper()
	return &person{t: t, in: w, name: got.text("user", "displayName"), email: email, token: got.text("accessToken")}
}

// Firebase logins from end to end, through the SDK and Google's way to its keys.
func TestFirebaseLogin(t *testing.T) {
	t.Parallel()
	w := newTown(t, "FIREBASE_PROJECT_ID="+firebasetest.Project)
	google := func(subject, email string) jwt.MapClaims {
		return jwt.MapClaims{"sub": subject, "email": email, "email_verified": true, "name": "Ana from elsewhere"}
	}

	t.Run("a new account, its export and its end", func(t *testing.T) {
		t.Parallel()
		got := w.arrive(t, nil, google("s1", "s1@example.org")).want(200)
		if got.text("user", "displayName") != "Ana from elsewhere" || got.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %v", got, got.header)
		}
		ana := w.enters(t, "s1@example.org", got)
		ben := w.person(t, "Ben")
		ana.id = uuid.MustParse(got.text("user", "id"))
		ana.marry(ben)
		export := ana.get("/api/account/export").want(200)
		account, _ := export.body["account"].(map[string]any)
		links, _ := account["firebase"].([]any)
		if len(links) != 1 || account["email"] != "s1@example.org" || account["emailVerified"] != true || !strings.Contains(fmt.Sprint(links), "subject:s1") {
			t.Errorf("the export's account: %v", account)
		}
		again := w.enters(t, "", w.arrive(t, nil, google("s1", "s1@example.org")).want(200))
		if again.get("/api/profile").text("id") != ana.id.String() {
			t.Error("the second login is another account's")
		}
		lines := again.get("/api/activity?limit=100").want(200).list("activity")
		logins := 0
		for _, line := range lines {
			if line["action"] == "auth.login" {
				logins++
			}
		}
		if logins != 2 {
			t.Errorf("%d logins in the activity log, want 2: %v", logins, lines)
		}
		// The account has no password. Whoever signed in to Firebase long ago is not its owner here.
		stale := w.enters(t, "", w.arrive(t, nil, firebasetest.With(google("s1", ""), jwt.MapClaims{"auth_time": time.Now().Add(-time.Hour).Unix()})).want(200))
		stale.call("DELETE", "/api/account", nil).refused(403, "forbidden")
		stale.call("DELETE", "/api/account", map[string]any{"password": secret}).refused(400, "invalid_request")
		again.call("DELETE", "/api/account", nil).want(200)
		until(t, "the link to be erased", func() bool { return w.arrive(t, nil, google("s1", "s1@example.org")).status == 200 })
		back := w.arrive(t, nil, google("s1", "s1@example.org")).want(200)
		if back.text("user", "id") == ana.id.String() {
			t.Error("an erased account is back")
		}
	})

	t.Run("an account that is there", func(t *testing.T) {
		t.Parallel()
		ana := w.person(t, "Ana")
		w.arrive(t, nil, google("s2", ana.email)).refused(409, "email_taken")
		other := w.arrive(t, nil, jwt.MapClaims{"sub": "s2b", "email": ana.email, "email_verified": false}).want(200)
		if other.text("user", "id") == ana.id.String() {
			t.Fatal("an e-mail address that nobody has verified opens an account")
		}
		token := strings.TrimPrefix(ana.mailed("/verify-email").Fragment, "token=")
		ana.call("POST", "/api/auth/email/verify", map[string]any{"token": token}).want(204)
		if linked := w.arrive(t, nil, google("s2", ana.email)).want(200); linked.text("user", "id") != ana.id.String() {
			t.Errorf("%s, want Ana's account", linked)
		}
		ana.login()
	})

	t.Run("bad tokens", func(t *testing.T) {
		t.Parallel()
		p := &person{t: t, in: w, name: "somebody"}
		ana := w.person(t, "Ana")
		for name, token := range map[string]string{
			"another project's": project.Sign(firebasetest.With(firebasetest.Claims("s3"), jwt.MapClaims{"aud": "other", "iss": "https://securetoken.google.com/other"})),
			"alg none":          firebasetest.Token(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, firebasetest.KeyID, firebasetest.Claims("s3")),
			"our access token":  ana.token,
			"expired":           project.Sign(firebasetest.With(firebasetest.Claims("s3"), jwt.MapClaims{"exp": time.Now().Add(-time.Hour).Unix()})),
		} {
			if r := p.call("POST", "/api/auth/firebase", map[string]any{"idToken": token}); r.status != 401 || r.text("code") != "unauthenticated" {
				t.Errorf("%s: %s", name, r)
			}
		}
		for name, body := range map[string]any{
			"no token": map[string]any{}, "an empty one": map[string]any{"idToken": ""}, "a huge one": map[string]any{"idToken": strings.Repeat("A", 8193)},
			"a field too many": map[string]any{"idToken": "x", "password": "y"},
		} {
			if r := p.call("POST", "/api/auth/firebase", body); r.status != 400 || r.text("code") != "invalid_request" {
				t.Errorf("%s: %s", name, r)
			}
		}
		// A Firebase token is no access token.
		eve := &person{t: t, in: w, name: "Eve", token: project.Sign(firebasetest.Claims("s3"))}
		eve.get("/api/profile").refused(401, "unauthenticated")
	})
}

func TestFirebaseAsksWhatARegistrationDoes(t *testing.T) {
	t.Parallel()
	w := newTown(t, "FIREBASE_PROJECT_ID="+firebasetest.Project, "MIN_AGE=16", "CONSENT_VERSION=2026-03")
	claims := jwt.MapClaims{"sub": "s1"}
	refused := w.arrive(t, nil, claims).refused(400, "invalid_request")
	if !strings.Contains(string(refused.raw), `"/birthDate"`) || !strings.Contains(string(refused.raw), `"/consent"`) {
		t.Errorf("%s, want both pointers", refused)
	}
	body := map[string]any{"birthDate": "1990-05-17", "consent": map[string]any{"version": "2026-03"}, "displayName": "Ana"}
	got := w.arrive(t, body, claims).want(200)
	if got.text("user", "displayName") != "Ana" {
		t.Errorf("%s", got)
	}
	if again := w.arrive(t, nil, claims).want(200); again.text("user", "id") != got.text("user", "id") {
		t.Errorf("%s", again)
	}
}

// Tokens that nobody signs are for development: a production process does not start with them.
func TestNoFirebaseEmulatorInProduction(t *testing.T) {
	t.Parallel()
	err := run(t.Context(), []string{"ingest"}, terminal{
		environ: []string{"APP_ENV=production", "FIREBASE_AUTH_EMULATOR_HOST=127.0.0.1:9099"}, stdout: io.Discard, stderr: io.Discard,
	})
	if err == nil || !strings.Contains(err.Error(), "FIREBASE_AUTH_EMULATOR_HOST: is not allowed in production") {
		t.Errorf("error %v", err)
	}
}
