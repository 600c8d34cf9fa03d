package accounts_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
)

func TestRegisterMakesAWholeAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *accounts.Config) { c.Slots = 2 })
	birth := time.Date(1990, 5, 17, 0, 0, 0, 0, time.UTC)
	res, err := w.Register(t.Context(), accounts.RegisterInput{
		Email: " Ada@Example.TEST ", Password: goodPassword, DisplayName: "  A\u0301da\u202e ", BirthDate: &birth,
		Device: &accounts.Device{Name: "Ada's phone", Platform: "ios"},
	})
	if err != nil {
		t.Fatal(err)
	}
	who, err := w.verifier.Verify(t.Context(), res.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(identity.Identity{UserID: res.User.ID, SessionID: res.SessionID, Role: identity.RoleUser, ExpiresAt: res.ExpiresAt}, who); diff != "" {
		t.Errorf("identity (-want +got):\n%s", diff)
	}
	if !w.active(t, res.SessionID) {
		t.Error("the new session is not active")
	}
	got, err := w.Profile(t.Context(), res.User.ID)
	if err != nil {
		t.Fatal(err)
	}
	want := accounts.Profile{
		ID: res.User.ID, DisplayName: "\u00c1da", PartnerCode: res.User.PartnerCode, Theme: "light", Timezone: "UTC", Locale: "en",
		Tier: "free", Slots: accounts.Slots{Total: 2, Vacant: 2}, Privacy: accounts.Privacy{Preview: "discreet"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("profile (-want +got):\n%s", diff)
	}
	sessions, err := w.Sessions(t.Context(), res.User.ID, res.SessionID)
	if err != nil {
		t.Fatal(err)
	}
	wantSessions := []accounts.Session{{
		ID: res.SessionID, Device: &accounts.Device{Name: "Ada's phone", Platform: "ios"},
		CreatedAt: w.clock(), LastUsedAt: w.clock(), Current: true,
	}}
	if diff := cmp.Diff(wantSessions, sessions, cmpopts.EquateApproxTime(0)); diff != "" {
		t.Errorf("sessions (-want +got):\n%s", diff)
	}
	if n := w.count(t, `SELECT count(*) FROM users JOIN credentials ON user_id = id JOIN user_streams USING (user_id)
		WHERE email = 'ada@example.test' AND birth_date = '1990-05-17' AND password_hash LIKE '$argon2id$%'`); n != 1 {
		t.Errorf("%d complete rows, want 1", n)
	}
	again, err := w.Login(t.Context(), accounts.LoginInput{Email: "ADA@example.test", Password: goodPassword})
	if err != nil || again.User != res.User || again.SessionID == res.SessionID {
		t.Errorf("login = %+v, %v, want another session of %+v", again, err, res.User)
	}
}

func TestRegisterRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	future := w.clock().Add(48 * time.Hour)
	good := accounts.RegisterInput{Email: "a@example.test", Password: goodPassword, DisplayName: "Ada"}
	tests := map[string]struct {
		change   func(*accounts.RegisterInput)
		pointers []string
	}{
		"no e-mail":              {func(in *accounts.RegisterInput) { in.Email = "" }, []string{"/email"}},
		"no domain":              {func(in *accounts.RegisterInput) { in.Email = "ada@" }, []string{"/email"}},
		"display name in e-mail": {func(in *accounts.RegisterInput) { in.Email = "Ada <a@example.test>" }, []string{"/email"}},
		"two addresses":          {func(in *accounts.RegisterInput) { in.Email = "a@example.test,b@example.test" }, []string{"/email"}},
		"line break in e-mail":   {func(in *accounts.RegisterInput) { in.Email = "a@example.test\r\nBcc: b@example.test" }, []string{"/email"}},
		"invisible in e-mail":    {func(in *accounts.RegisterInput) { in.Email = "a\u200bda@example.test" }, []string{"/email"}},
		"NUL in e-mail":          {func(in *accounts.RegisterInput) { in.Email = "a\x00@example.test" }, []string{"/email"}},
		"long e-mail":            {func(in *accounts.RegisterInput) { in.Email = "a@" + strings.Repeat("b.", 130) + "test" }, []string{"/email"}},
		"7 characters":           {func(in *accounts.RegisterInput) { in.Password = "pässwör" }, []string{"/password"}},
		"7 characters composed":  {func(in *accounts.RegisterInput) { in.Password = "pa\u0308sswo\u0308r" }, []string{"/password"}},
		"257 characters":         {func(in *accounts.RegisterInput) { in.Password = strings.Repeat("x", 257) }, []string{"/password"}},
		"huge password":          {func(in *accounts.RegisterInput) { in.Password = "a" + strings.Repeat("\u0301", 10_000) }, []string{"/password"}},
		"no name":                {func(in *accounts.RegisterInput) { in.DisplayName = "" }, []string{"/displayName"}},
		"invisible name":         {func(in *accounts.RegisterInput) { in.DisplayName = " \u202e\u0007 " }, []string{"/displayName"}},
		"name of joiners":        {func(in *accounts.RegisterInput) { in.DisplayName = "\u200d\u200d" }, []string{"/displayName"}},
		"long name":              {func(in *accounts.RegisterInput) { in.DisplayName = strings.Repeat("x", 101) }, []string{"/displayName"}},
		"not born yet":           {func(in *accounts.RegisterInput) { in.BirthDate = &future }, []string{"/birthDate"}},
		"long device name":       {func(in *accounts.RegisterInput) { in.Device = &accounts.Device{Name: strings.Repeat("x", 101)} }, []string{"/device/name"}},
		"all at once":            {func(in *accounts.RegisterInput) { *in = accounts.RegisterInput{} }, []string{"/email", "/password", "/displayName"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := good
			tc.change(&in)
			_, err := w.Register(t.Context(), in)
			wantCode(t, "register", err, fault.Invalid, "invalid_request")
			var pointers []string
			if e, ok := err.(*fault.Error); ok { //nolint:errorlint // returned as it is
				for _, f := range e.Fields {
					pointers = append(pointers, f.Pointer)
				}
			}
			if diff := cmp.Diff(tc.pointers, pointers); diff != "" {
				t.Errorf("pointers (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("the limits themselves pass", func(t *testing.T) {
		t.Parallel()
		in := good
		in.Email, in.Password, in.DisplayName = "limits@example.test", strings.Repeat("\u20ac", 256), strings.Repeat("\u00e9", 100)
		if _, err := w.Register(t.Context(), in); err != nil {
			t.Error(err)
		}
	})
}

func TestConcurrentRegistrationsOfOneAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	errs := together(t.Context(), 12, func(ctx context.Context, _ int) error {
		_, err := w.Register(ctx, accounts.RegisterInput{Email: "one@example.test", Password: goodPassword, DisplayName: "Ada"})
		return err
	})
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
			continue
		}
		wantCode(t, "a later registration", err, fault.Conflict, "email_taken")
	}
	if made != 1 {
		t.Errorf("%d registrations succeeded, want 1", made)
	}
	for _, table := range []string{"users", "credentials", "user_slots", "user_streams", "sessions"} {
		if n := w.count(t, "SELECT count(*) FROM "+table); n != 1 {
			t.Errorf("%s holds %d rows, want 1: a refused registration left something", table, n)
		}
	}
}

func TestLoginTellsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	res := w.register(t, "ada@example.test")
	tests := map[string]accounts.LoginInput{
		"wrong password":        {Email: "ada@example.test", Password: "wrong horse"},
		"unknown account":       {Email: "eve@example.test", Password: goodPassword},
		"not an address":        {Email: "ada", Password: goodPassword},
		"empty":                 {},
		"other case":            {Email: "ada@example.test", Password: strings.ToUpper(goodPassword)},
		"password with a space": {Email: "ada@example.test", Password: goodPassword + " "},
	}
	var first error
	for name, in := range tests {
		_, err := w.Login(t.Context(), in)
		wantCode(t, name, err, fault.Unauthenticated, "unauthenticated")
		if first == nil {
			first = err
		}
		if err != nil && err.Error() != first.Error() {
			t.Errorf("%s: %q, another failure says %q", name, err, first)
		}
	}

	for status, code := range map[int]string{3: "forbidden", 4: "account_deleting"} {
		w.exec(t, `UPDATE users SET status = $2 WHERE id = $1`, res.User.ID, status)
		_, err := w.Login(t.Context(), accounts.LoginInput{Email: "ada@example.test", Password: goodPassword})
		wantCode(t, "right password", err, fault.Forbidden, code)
		_, err = w.Login(t.Context(), accounts.LoginInput{Email: "ada@example.test", Password: "wrong horse"})
		if err == nil || err.Error() != first.Error() {
			t.Errorf("status %d, wrong password: %v, want %v", status, err, first)
		}
		_, err = w.Refresh(t.Context(), res.RefreshToken, nil)
		wantCode(t, "refresh", err, fault.Forbidden, code)
		w.pass(time.Minute)
		if w.active(t, res.SessionID) {
			t.Errorf("status %d: the session is active", status)
		}
	}
}

func TestLoginRenewsAnOldHash(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	res := w.register(t, "ada@example.test")
	older, err := identity.NewPasswords(identity.PasswordConfig{Memory: 32, Iterations: 1})
	if err != nil {
		t.Fatal(err)
	}
	hash, err := older.Hash(t.Context(), goodPassword)
	if err != nil {
		t.Fatal(err)
	}
	w.exec(t, `UPDATE credentials SET password_hash = $2 WHERE user_id = $1`, res.User.ID, hash)
	w.login(t, "ada@example.test")
	if n := w.count(t, `SELECT count(*) FROM credentials WHERE password_hash LIKE '%m=64,t=1%'`); n != 1 {
		t.Error("the hash has still the old parameters")
	}
	w.login(t, "ada@example.test")
}

func TestSessionsAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *accounts.Config) { c.MaxSessions = 3 })
	first := w.register(t, "ada@example.test")
	w.device(t, first, "first-phone")
	for range 4 {
		w.pass(time.Second)
		w.login(t, "ada@example.test")
	}
	sessions, err := w.Sessions(t.Context(), first.User.ID, uuid.Nil)
	if err != nil || len(sessions) != 3 {
		t.Errorf("%d sessions, %v, want 3", len(sessions), err)
	}
	if w.active(t, first.SessionID) {
		t.Error("the oldest session is still active")
	}
	if n := w.count(t, `SELECT count(*) FROM devices`); n != 0 {
		t.Error("the oldest session's device is still there")
	}
}

func TestChangePasswordEndsOtherSessions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	here := w.register(t, "ada@example.test")
	there := w.login(t, "ada@example.test")
	w.device(t, here, "here")
	w.device(t, there, "there")
	const next = "battery staple"

	wantCode(t, "wrong current", w.ChangePassword(t.Context(), accounts.PasswordChange{UserID: here.User.ID, SessionID: here.SessionID, Current: "wrong horse", Next: next}), fault.Invalid, "invalid_request")
	wantCode(t, "short next", w.ChangePassword(t.Context(), accounts.PasswordChange{UserID: here.User.ID, SessionID: here.SessionID, Current: goodPassword, Next: "short"}), fault.Invalid, "invalid_request")
	if !w.active(t, there.SessionID) {
		t.Fatal("a refused change ended a session")
	}
	if err := w.ChangePassword(t.Context(), accounts.PasswordChange{UserID: here.User.ID, SessionID: here.SessionID, Current: goodPassword, Next: next}); err != nil {
		t.Fatal(err)
	}
	if !w.active(t, here.SessionID) || w.active(t, there.SessionID) {
		t.Error("want the asking session alone to go on")
	}
	if n := w.count(t, `SELECT count(*) FROM devices WHERE value = 'here'`); n != 1 || w.count(t, `SELECT count(*) FROM devices`) != 1 {
		t.Error("want the asking session's device alone to stay")
	}
	_, err := w.Refresh(t.Context(), there.RefreshToken, nil)
	wantCode(t, "refresh of the other session", err, fault.Unauthenticated, "unauthenticated")
	_, err = w.Login(t.Context(), accounts.LoginInput{Email: "ada@example.test", Password: goodPassword})
	wantCode(t, "login with the old password", err, fault.Unauthenticated, "unauthenticated")
	if _, err = w.Login(t.Context(), accounts.LoginInput{Email: "ada@example.test", Password: next}); err != nil {
		t.Errorf("login with the new password: %v", err)
	}
	wantCode(t, "a session that ended", w.ChangePassword(t.Context(), accounts.PasswordChange{UserID: here.User.ID, SessionID: there.SessionID, Current: next, Next: goodPassword}), fault.Unauthenticated, "unauthenticated")
}

// Logins with the old password race its change: whichever way each goes, none of their
// sessions outlives the change.
func TestNoLoginSlipsPastAPasswordChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	here := w.register(t, "ada@example.test")
	started := make([]accounts.AuthResult, 16)
	errs := together(t.Context(), len(started)+1, func(ctx context.Context, i int) error {
		if i == len(started)/2 {
			return w.ChangePassword(ctx, accounts.PasswordChange{UserID: here.User.ID, SessionID: here.SessionID, Current: goodPassword, Next: "battery staple"})
		}
		if i > len(started)/2 {
			i--
		}
		var err error
		started[i], err = w.Login(ctx, accounts.LoginInput{Email: "ada@example.test", Password: goodPassword})
		if fault.CodeOf(err) == "unauthenticated" {
			return nil
		}
		return err
	})
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	sessions, err := w.Sessions(t.Context(), here.User.ID, here.SessionID)
	if err != nil || len(sessions) != 1 || !sessions[0].Current {
		t.Errorf("sessions = %+v, %v, want the changing one alone", sessions, err)
	}
}

// Where an age and agreement are demanded, nobody registers without.
func TestMinimumAgeAndConsent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *accounts.Config) { c.MinAge, c.ConsentVersion = 16, "2026-05" })
	today := w.clock().UTC()
	born := func(years, days int) *time.Time {
		d := time.Date(today.Year()-years, today.Month(), today.Day()+days, 0, 0, 0, 0, time.UTC)
		return &d
	}
	tests := map[string]struct {
		born    *time.Time
		consent string
		want    string // pointers and codes
	}{
		"sixteen today":          {born(16, 0), "2026-05", ""},
		"older":                  {born(40, 3), "2026-05", ""},
		"sixteen tomorrow":       {born(16, 1), "2026-05", "/birthDate too_young"},
		"a child":                {born(3, 0), "2026-05", "/birthDate too_young"},
		"no birth date":          {nil, "2026-05", "/birthDate required"},
		"no consent":             {born(20, 0), "", "/consent required"},
		"to older terms":         {born(20, 0), "2025-01", "/consent/version outdated"},
		"neither":                {nil, "", "/birthDate required /consent required"},
		"not born yet, agreeing": {born(0, 2), "2026-05", "/birthDate invalid /birthDate too_young"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			email := uuid.NewString() + "@example.test"
			res, err := w.Register(t.Context(), accounts.RegisterInput{
				Email: email, Password: goodPassword, DisplayName: "Ada", BirthDate: tt.born, Consent: tt.consent,
			})
			var got []string
			if e, ok := err.(*fault.Error); ok { //nolint:errorlint // returned as it is
				wantCode(t, "register", err, fault.Invalid, "invalid_request")
				for _, f := range e.Fields {
					got = append(got, f.Pointer+" "+f.Code)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
			if tt.want != "" {
				return
			}
			record, err := w.RecordIn(t.Context(), w.pool, res.User.ID)
			if err != nil || record.Consent != "2026-05" || record.ConsentedAt == nil || !record.ConsentedAt.Equal(w.clock()) || record.BirthDate == nil {
				t.Errorf("record: %+v, %v", record, err)
			}
		})
	}
	lax := newWorld(t)
	res, err := lax.Register(t.Context(), accounts.RegisterInput{
		Email: "a@example.test", Password: goodPassword, DisplayName: "Ada", Consent: "whatever",
	})
	if err != nil {
		t.Fatalf("where nothing is demanded: %v", err)
	}
	if record, err := lax.RecordIn(t.Context(), lax.pool, res.User.ID); err != nil || record.Consent != "" || record.ConsentedAt != nil {
		t.Errorf("what nobody asked for is kept: %+v, %v", record, err)
	}
}
