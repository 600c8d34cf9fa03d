package identity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	firebase "firebase.google.com/go/v4"
	"firebase.google.com/go/v4/auth"
	"google.golang.org/api/option"

	"github.com/bondmate/backend/pkg/fault"
)

// firebaseEmulator is the variable that makes the SDK take tokens that nobody has signed.
const firebaseEmulator = "FIREBASE_AUTH_EMULATOR_HOST"

// FirebaseConfig configures a Firebase. ProjectID is required.
type FirebaseConfig struct {
	ProjectID string
	// Emulator admits FIREBASE_AUTH_EMULATOR_HOST, with which no signature is looked at: for
	// development alone.
	Emulator bool
}

// Firebase verifies ID tokens of a Firebase project, by the keys that Google publishes and
// the SDK keeps as long as they say. It is safe for concurrent use.
type Firebase struct {
	project string
	client  *auth.Client
	turn    chan struct{} // holds one: see Verify
}

// FirebaseUser is who a Firebase ID token is about.
type FirebaseUser struct {
	Subject string // within the project; at most 128 bytes
	// Email is empty unless Firebase says that it has been verified. What is not verified may
	// be anybody's and is of no use here.
	Email    string
	Name     string // as the provider has it; may be empty
	Provider string // by which the person signed in to Firebase, such as google.com
	// AuthenticatedAt is when they did: an ID token can be had without them for months after.
	AuthenticatedAt time.Time
}

// NewFirebase returns a verifier. It opens no connection.
func NewFirebase(ctx context.Context, cfg FirebaseConfig) (*Firebase, error) {
	switch {
	case cfg.ProjectID == "":
		return nil, errors.New("firebase: a project is required")
	case os.Getenv(firebaseEmulator) != "" && !cfg.Emulator:
		return nil, fmt.Errorf("firebase: %s is set: signatures would not be looked at", firebaseEmulator)
	}
	// Whoever only verifies needs no account at Google.
	app, err := firebase.NewApp(ctx, &firebase.Config{ProjectID: cfg.ProjectID}, option.WithoutAuthentication())
	if err != nil {
		return nil, fmt.Errorf("set up Firebase: %w", err)
	}
	client, err := app.Auth(ctx)
	if err != nil {
		return nil, fmt.Errorf("set up Firebase Auth: %w", err)
	}
	return &Firebase{project: cfg.ProjectID, client: client, turn: make(chan struct{}, 1)}, nil
}

// Project returns the project whose tokens are taken.
func (f *Firebase) Project() string { return f.project }

// Verify returns who a token is about. A token that is not a good one of the project, or of
// somebody who did not sign in anywhere (Firebase calls such anonymous) or in a tenant, whose
// subjects are not the project's, is the fault unauthenticated. When Google's keys cannot be
// had by the end of ctx it is overloaded: nothing was said of the token.
func (f *Firebase) Verify(ctx context.Context, token string) (FirebaseUser, error) {
	// One at a time: whoever fetches the keys does so under a lock of the SDK that nobody
	// leaves when their time is up. Verifying takes a fraction of a millisecond.
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return FirebaseUser{}, firebaseAway(ctx.Err())
	}
	t, err := f.client.VerifyIDToken(ctx, token)
	switch {
	case err == nil:
	case auth.IsIDTokenInvalid(err): // asked of the bare error: the SDK's predicates do not unwrap
		return FirebaseUser{}, fault.Wrap(err, fault.Unauthenticated, "unauthenticated", errFirebase)
	default:
		return FirebaseUser{}, firebaseAway(err)
	}
	if t.Firebase.SignInProvider == "anonymous" || t.Firebase.Tenant != "" {
		return FirebaseUser{}, fault.New(fault.Unauthenticated, "unauthenticated", errFirebase)
	}
	u := FirebaseUser{Subject: t.Subject, Provider: t.Firebase.SignInProvider, AuthenticatedAt: time.Unix(t.AuthTime, 0).UTC()}
	u.Name, _ = t.Claims["name"].(string)
	if verified, _ := t.Claims["email_verified"].(bool); verified {
		u.Email, _ = t.Claims["email"].(string)
	}
	return u, nil
}

// errFirebase tells nothing of why.
const errFirebase = "Sign in with Firebase again."

func firebaseAway(cause error) error {
	e := fault.Wrap(cause, fault.Unavailable, "overloaded", "Google's keys cannot be had just now.")
	e.RetryAfter = 5 * time.Second
	return e
}
