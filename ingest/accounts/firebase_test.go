package accounts_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/limit"
	"github.com/bondmate/backend/pkg/partner"
)

// provider is a Firebase project whose tokens are what a test says of them.
type provider struct {
	mu    sync.Mutex
	users map[string]identity.FirebaseUser
	away  bool
}

func (p *provider) Project() string { return "project" }

func (p *provider) Verify(_ context.Context, token string) (identity.FirebaseUser, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away {
		return identity.FirebaseUser{}, fault.New(fault.Unavailable, "overloaded", "no keys")
	}
	u, ok := p.users[token]
	if !ok {
		return identity.FirebaseUser{}, fault.New(fault.Unauthenticated, "unauthenticated", "a bad token")
	}
	return u, nil
}

// knows makes a token of a user's.
func (p *provider) knows(u identity.FirebaseUser) (token string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	token = fmt.Sprint("token-", len(p.users))
	p.users[token] = u
	return token
}

func newFirebaseWorld(t *testing.T, change ...func(*accounts.Config)) (*world, *provider) {
	t.Helper()
	p := &provider{users: map[string]identity.FirebaseUser{}}
	return newWorld(t, append(change, func(c *accounts.Config) { c.Firebase = p })...), p
}

func (w *world) firebase(t *testing.T, token string) accounts.FirebaseLogin {
	t.Helper()
	res, err := w.LoginFirebase(t.Context(), accounts.FirebaseInput{IDToken: token})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func (w *world) links(t *testing.T) int {
	t.Helper()
	return w.count(t, `SELECT count(*) FROM firebase_links`)
}

func (w *world) verify(t *testing.T, email string) {
	t.Helper()
	w.exec(t, `UPDATE credentials SET verified_at = now() WHERE email = $1`, email)
}

func TestFirebaseMakesAnAccountOnce(t *testing.T) {
	t.Parallel()
	w, p := newFirebaseWorld(t)
	token := p.knows(identity.FirebaseUser{Subject: "s1", Email: "Ada@Example.test", Name: " Ada\u202e ", Provider: "google.com", AuthenticatedAt: w.clock()})
	first := w.firebase(t, token)
	if !first.Created || first.Linked || first.Provider != "google.com" || first.User.DisplayName != "Ada" {
		t.Errorf("first login %+v, want a new account", first)
	}
	who, err := w.verifier.Verify(t.Context(), first.AccessToken)
	if err != nil || who.UserID != first.User.ID || who.SessionID != first.SessionID || who.Role != identity.RoleUser {
		t.Errorf("access token of %+v, %v", who, err)
	}
	profile, err := w.Profile(t.Context(), first.User.ID)
	if err != nil || profile.Slots.Total != 1 || profile.PartnerCode != first.User.PartnerCode {
		t.Errorf("profile %+v, %v", profile, err)
	}
	if n := w.count(t, `SELECT count(*) FROM user_streams JOIN timers ON low = user_id`); n != 1 {
		t.Errorf("%d inboxes that are announced, want 1", n)
	}
	w.pass(time.Hour)
	again := w.firebase(t, token)
	if again.Created || again.Linked || again.User != first.User || again.SessionID == first.SessionID {
		t.Errorf("second login %+v, want another session of %+v", again, first.User)
	}
	w.refresh(t, again.RefreshToken)
	record, err := w.RecordIn(t.Context(), w.pool, first.User.ID)
	if err != nil {
		t.Fatal(err)
	}
	want := []accounts.FirebaseLink{{Subject: "s1", LinkedAt: w.clock().Add(-time.Hour)}}
	if record.Email != "ada@example.test" || !record.Verified || !cmp.Equal(want, record.Firebase) {
		t.Errorf("record %+v, want the e-mail address verified and the link", record)
	}
}

// The subject decides, not what the token says of e-mail addresses.
func TestFirebaseLinksBySubject(t *testing.T) {
	t.Parallel()
	w, p := newFirebaseWorld(t)
	one := w.firebase(t, p.knows(identity.FirebaseUser{Subject: "s1", Email: "ada@example.test"}))
	moved := w.firebase(t, p.knows(identity.FirebaseUser{Subject: "s1", Email: "ada@new.test"}))
	if moved.User.ID != one.User.ID {
		t.Error("a subject with another e-mail address is somebody else")
	}
	// Two people without addresses are two.
	a, b := w.firebase(t, p.knows(identity.FirebaseUser{Subject: "s2"})), w.firebase(t, p.knows(identity.FirebaseUser{Subject: "s3"}))
	if a.User.ID == b.User.ID || !a.Created || !b.Created {
		t.Errorf("%+v and %+v", a, b)
	}
	// Another project's subject of that name is another person.
	w.exec(t, `UPDATE firebase_links SET project = 'elsewhere' WHERE subject = 's2'`)
	if c := w.firebase(t, p.knows(identity.FirebaseUser{Subject: "s2"})); c.User.ID == a.User.ID {
		t.Error("another project's subject logs in")
	}
}

// Who may become the owner of an account that is there.
func TestFirebaseLinksOnlyWhatIsVerifiedOnBothSides(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		verifiedHere, verifiedThere bool
		linked                      bool
		code                        string
	}{
		"both":         {true, true, true, ""},
		"only here":    {true, false, false, ""},            // the token names nobody's address: a new account
		"only there":   {false, true, false, "email_taken"}, // a stranger may have registered it, and would share the account
		"neither side": {false, false, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, p := newFirebaseWorld(t)
			ada := w.register(t, "ada@example.test")
			if test.verifiedHere {
				w.verify(t, "ada@example.test")
			}
			u := identity.FirebaseUser{Subject: "s1"}
			if test.verifiedThere { // of others the verifier tells no address
				u.Email = "ADA@example.test"
			}
			res, err := w.LoginFirebase(t.Context(), accounts.FirebaseInput{IDToken: p.knows(u)})
			if test.code != "" {
				wantCode(t, "login", err, fault.Conflict, test.code)
				if n := w.links(t) + w.count(t, `SELECT count(*) FROM users`); n != 1 {
					t.Errorf("%d users and links, want the one user", n)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if (res.User.ID == ada.User.ID) != test.linked || res.Linked != test.linked || res.Created == test.linked {
				t.Errorf("login %+v, want Ada's account: %t", res, test.linked)
			}
			if test.linked {
				w.login(t, "ada@example.test") // the password goes on to be good
			}
		})
	}
}

// The way out of email_taken: a password reset shows whose the address is and ends the
// sessions of whoever registered it; then the login links.
func TestFirebaseAfterAReset(t *testing.T) {
	t.Parallel()
	box := &mailbox{}
	w, p := newFirebaseWorld(t, func(c *accounts.Config) {
		c.Mailer, c.FrontendURL = box, func() string { return "https://app.test" }
	})
	w.run(t)
	squatter := w.register(t, "ada@example.test")
	box.mails(t, 1)
	idToken := p.knows(identity.FirebaseUser{Subject: "s1", Email: "ada@example.test"})
	_, err := w.LoginFirebase(t.Context(), accounts.FirebaseInput{IDToken: idToken})
	wantCode(t, "before", err, fault.Conflict, "email_taken")
	if err := w.Forgot("ada@example.test"); err != nil {
		t.Fatal(err)
	}
	if err := reset(w, token(t, box.mails(t, 2)[1], "/reset-password")); err != nil {
		t.Fatal(err)
	}
	if res := w.firebase(t, idToken); res.User.ID != squatter.User.ID || !res.Linked {
		t.Errorf("login %+v, want the account", res)
	}
	if w.active(t, squatter.SessionID) {
		t.Error("who registered the address is still there")
	}
}

func TestFirstFirebaseLoginsAtOnce(t *testing.T) {
	t.Parallel()
	w, p := newFirebaseWorld(t)
	idToken := p.knows(identity.FirebaseUser{Subject: "s1", Email: "ada@example.test"})
	got := make([]accounts.FirebaseLogin, 12)
	for i, err := range together(t.Context(), len(got), func(ctx context.Context, i int) (err error) {
		got[i], err = w.LoginFirebase(ctx, accounts.FirebaseInput{IDToken: idToken})
		return err
	}) {
		if err != nil {
			t.Fatalf("login %d: %v", i, err)
		}
	}
	created := 0
	for _, res := range got {
		if res.Created {
			created++
		}
		if res.User.ID != got[0].User.ID {
			t.Error("one subject has two accounts")
		}
	}
	if users := w.count(t, `SELECT count(*) FROM users`); created != 1 || users != 1 || w.links(t) != 1 {
		t.Errorf("%d created, %d users, %d links, want one each", created, users, w.links(t))
	}
}

// A registration with an address that Firebase has verified for somebody is refused as ever,
// and a login with a password is: there is none.
func TestFirebaseAccountHasNoPassword(t *testing.T) {
	t.Parallel()
	w, p := newFirebaseWorld(t)
	res := w.firebase(t, p.knows(identity.FirebaseUser{Subject: "s1", Email: "ada@example.test", AuthenticatedAt: w.clock()}))
	_, err := w.Register(t.Context(), accounts.RegisterInput{Email: "ada@example.test", Password: goodPassword, DisplayName: "Eve"})
	wantCode(t, "register", err, fault.Conflict, "email_taken")
	for _, password := range []string{"", goodPassword} {
		_, err = w.Login(t.Context(), accounts.LoginInput{Email: "ada@example.test", Password: password})
		wantCode(t, "login", err, fault.Unauthenticated, "unauthenticated")
		err = w.ChangePassword(t.Context(), accounts.PasswordChange{UserID: res.User.ID, SessionID: res.SessionID, Current: password, Next: nextPassword})
		wantCode(t, "change", err, fault.Invalid, "invalid_request")
		err = w.ConfirmOwner(t.Context(), accounts.Confirmation{UserID: res.User.ID, SessionID: res.SessionID, Password: &password})
		wantCode(t, "confirm", err, fault.Invalid, "invalid_request")
	}
}

// What cannot be taken back needs its owner here, not an ID token that was had without them.
func TestOwnerOfAFirebaseAccountIsConfirmed(t *testing.T) {
	t.Parallel()
	w, p := newFirebaseWorld(t)
	user := identity.FirebaseUser{Subject: "s1"}
	for name, test := range map[string]struct {
		ago, wait time.Duration // between signing in to Firebase, the login and the question
		ok        bool
	}{
		"signed in just now":           {0, 0, true},
		"in the last moment":           {4 * time.Minute, time.Minute - time.Second, true},
		"five minutes ago":             {4 * time.Minute, time.Minute, false},
		"a month ago":                  {30 * 24 * time.Hour, 0, false},
		"a clock that is ahead":        {-time.Minute, 5*time.Minute - time.Second, true},
		"and no longer for that":       {-time.Minute, 5 * time.Minute, false},
		"logged in longer ago as well": {0, time.Hour, false},
	} {
		user.AuthenticatedAt = w.clock().Add(-test.ago)
		res := w.firebase(t, p.knows(user))
		w.pass(test.wait)
		err := w.ConfirmOwner(t.Context(), accounts.Confirmation{UserID: res.User.ID, SessionID: res.SessionID})
		if test.ok && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !test.ok {
			wantCode(t, name, err, fault.Forbidden, "forbidden")
		}
	}
}

func TestFirebaseRefuses(t *testing.T) {
	t.Parallel()
	w, p := newFirebaseWorld(t)
	_, err := newWorld(t).LoginFirebase(t.Context(), accounts.FirebaseInput{IDToken: "any"})
	wantCode(t, "without a project", err, fault.NotFound, "not_found")
	_, err = w.LoginFirebase(t.Context(), accounts.FirebaseInput{IDToken: "bad"})
	wantCode(t, "a bad token", err, fault.Unauthenticated, "unauthenticated")
	good := p.knows(identity.FirebaseUser{Subject: "s1"})
	_, err = w.LoginFirebase(t.Context(), accounts.FirebaseInput{IDToken: good, DisplayName: " \u202e "})
	wantCode(t, "an invisible name", err, fault.Invalid, "invalid_request")
	_, err = w.LoginFirebase(t.Context(), accounts.FirebaseInput{IDToken: good, Device: &accounts.Device{Name: strings.Repeat("x", 101)}})
	wantCode(t, "a long device name", err, fault.Invalid, "invalid_request")
	p.away = true
	_, err = w.LoginFirebase(t.Context(), accounts.FirebaseInput{IDToken: good})
	wantCode(t, "keys away", err, fault.Unavailable, "overloaded")
	p.away = false
	if n := w.count(t, `SELECT count(*) FROM users`); n != 0 {
		t.Errorf("%d accounts were made", n)
	}
	res := w.firebase(t, good)
	for status, code := range map[partner.UserStatus]string{partner.UserSuspended: "forbidden", partner.UserDeleting: "account_deleting"} {
		w.exec(t, `UPDATE users SET status = $1`, status)
		_, err = w.LoginFirebase(t.Context(), accounts.FirebaseInput{IDToken: good})
		wantCode(t, status.String(), err, fault.Forbidden, code)
	}
	w.exec(t, `UPDATE users SET status = $1`, partner.UserDeactivated)
	if back := w.firebase(t, good); back.User.ID != res.User.ID {
		t.Error("a deactivated account does not come back")
	}
	// Suspended accounts are linked to nobody.
	ada := w.register(t, "ada@example.test")
	w.verify(t, "ada@example.test")
	w.exec(t, `UPDATE users SET status = $1 WHERE id = $2`, partner.UserSuspended, ada.User.ID)
	before := w.links(t)
	_, err = w.LoginFirebase(t.Context(), accounts.FirebaseInput{IDToken: p.knows(identity.FirebaseUser{Subject: "s9", Email: "ada@example.test"})})
	wantCode(t, "a suspended account", err, fault.Forbidden, "forbidden")
	if w.links(t) != before {
		t.Error("it was linked")
	}
}

func TestFirebaseNames(t *testing.T) {
	t.Parallel()
	w, p := newFirebaseWorld(t)
	for i, test := range []struct{ given, provided, want string }{
		{"", "Ana", "Ana"},
		{"Ana here", "Ana there", "Ana here"},
		{"", "", "Bond Mate"},
		{"", "\u200d\u202e", "Bond Mate"},
		{"", strings.Repeat("é", 150), strings.Repeat("é", 100)},
		{"", "A\xffna", "Ana"},
	} {
		token := p.knows(identity.FirebaseUser{Subject: fmt.Sprint(i), Name: test.provided})
		res, err := w.LoginFirebase(t.Context(), accounts.FirebaseInput{IDToken: token, DisplayName: test.given})
		if err != nil || res.User.DisplayName != test.want {
			t.Errorf("%q given, %q provided: %q, %v; want %q", test.given, test.provided, res.User.DisplayName, err, test.want)
		}
	}
}

// What is demanded of everybody who registers is demanded here, once.
func TestFirebaseMinimumAgeAndConsent(t *testing.T) {
	t.Parallel()
	w, p := newFirebaseWorld(t, func(c *accounts.Config) { c.MinAge, c.ConsentVersion = 16, "2026-03" })
	token := p.knows(identity.FirebaseUser{Subject: "s1"})
	born := w.clock().AddDate(-16, 0, 1)
	_, err := w.LoginFirebase(t.Context(), accounts.FirebaseInput{IDToken: token, BirthDate: &born})
	wantCode(t, "too young, no consent", err, fault.Invalid, "invalid_request")
	f, _ := errors.AsType[*fault.Error](err)
	var got []string
	for _, field := range f.Fields {
		got = append(got, field.Pointer+" "+field.Code)
	}
	if diff := cmp.Diff([]string{"/birthDate too_young", "/consent required"}, got); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	if n := w.links(t) + w.count(t, `SELECT count(*) FROM users`); n != 0 {
		t.Fatal("an account was made")
	}
	born = born.AddDate(0, 0, -1)
	res, err := w.LoginFirebase(t.Context(), accounts.FirebaseInput{IDToken: token, BirthDate: &born, Consent: "2026-03"})
	if err != nil || !res.Created {
		t.Fatalf("old enough and consenting: %+v, %v", res, err)
	}
	if again := w.firebase(t, token); again.User.ID != res.User.ID {
		t.Error("the second login is asked again")
	}
}

// Bad tokens from an address have to wait; good ones, whatever becomes of them, never.
func TestBadIDTokensHaveToWait(t *testing.T) {
	t.Parallel()
	var w *world
	w, p := newFirebaseWorld(t, func(c *accounts.Config) {
		attempts, err := limit.New(limit.Config{Pool: c.Pool, Clock: func() time.Time { return w.clock() }, Registerer: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		c.Attempts = attempts
	})
	try := func(token, address string) error {
		_, err := w.LoginFirebase(t.Context(), accounts.FirebaseInput{IDToken: token, Address: netip.MustParseAddr(address)})
		return err
	}
	w.register(t, "eve@example.test")
	taken := p.knows(identity.FirebaseUser{Subject: "s1", Email: "eve@example.test"})
	good := p.knows(identity.FirebaseUser{Subject: "s2"})
	for i := range 30 { // the same right token, or a right one that is of no use
		if err := try(good, "192.0.2.1"); err != nil {
			t.Fatalf("good token %d: %v", i, err)
		}
		wantCode(t, "a taken address", try(taken, "192.0.2.1"), fault.Conflict, "email_taken")
	}
	p.away = true
	for range 30 {
		wantCode(t, "keys away", try("bad", "192.0.2.1"), fault.Unavailable, "overloaded")
	}
	p.away = false
	for i := range 20 {
		err := try("bad", "192.0.2.1")
		wantCode(t, fmt.Sprint("bad token ", i), err, fault.Unauthenticated, "unauthenticated")
		if _, last := errors.AsType[*accounts.LastFreeError](err); last != (i == 19) {
			t.Errorf("bad token %d: the last free one: %t", i, last)
		}
	}
	wantCode(t, "the next one", try("bad", "192.0.2.1"), fault.Limited, "rate_limited")
	wantCode(t, "a good one from there", try(good, "192.0.2.1"), fault.Limited, "rate_limited")
	if err := try(good, "192.0.2.2"); err != nil {
		t.Errorf("from elsewhere: %v", err)
	}
	w.pass(time.Second)
	if err := try(good, "192.0.2.1"); err != nil {
		t.Errorf("after the wait: %v", err)
	}
}

func TestFirebaseLinksAreBounded(t *testing.T) {
	t.Parallel()
	w, p := newFirebaseWorld(t)
	var owner uuid.UUID
	for i := range 15 {
		res := w.firebase(t, p.knows(identity.FirebaseUser{Subject: fmt.Sprint("s", i), Email: "ada@example.test"}))
		if owner == uuid.Nil {
			owner = res.User.ID
		}
		if res.User.ID != owner {
			t.Fatalf("subject %d is somebody else", i)
		}
		w.pass(time.Hour)
	}
	if n := w.links(t); n != 10 {
		t.Errorf("%d links, want 10", n)
	}
	if n := w.count(t, `SELECT count(*) FROM firebase_links WHERE subject IN ('s5', 's14')`); n != 2 {
		t.Error("the last ones are not those that stay")
	}
}

// A link that is made while an account goes is made for nobody.
func TestFirebaseLinkAgainstErasure(t *testing.T) {
	t.Parallel()
	w, p := newFirebaseWorld(t)
	ada := w.register(t, "ada@example.test")
	w.verify(t, "ada@example.test")
	idToken := p.knows(identity.FirebaseUser{Subject: "s1", Email: "ada@example.test"})
	done := make(chan error, 1)
	err := pgx.BeginFunc(t.Context(), w.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), `UPDATE users SET status = $1 WHERE id = $2`, partner.UserDeleting, ada.User.ID); err != nil {
			return err
		}
		if _, err := tx.Exec(t.Context(), `DELETE FROM credentials WHERE user_id = $1`, ada.User.ID); err != nil {
			return err
		}
		go func() {
			_, err := w.LoginFirebase(context.Background(), accounts.FirebaseInput{IDToken: idToken})
			done <- err
		}()
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); <-time.After(time.Millisecond) {
			var waiting bool
			err := w.pool.QueryRow(t.Context(), `SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting)
			if err != nil || waiting {
				return err
			}
		}
		return errors.New("the login does not wait for the deletion")
	})
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, "login", <-done, fault.Forbidden, "account_deleting")
	if n := w.links(t); n != 0 {
		t.Errorf("%d links", n)
	}
}
