package accounts_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/fault"
)

// told is a control topic that remembers what it was told.
type told struct {
	mu   sync.Mutex
	pool func() *world // who can look whether the end is committed
	got  map[uuid.UUID]string
	bad  []string
}

func (r *told) Ended(user uuid.UUID, reason string, sessions []uuid.UUID) {
	w := r.pool()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range sessions {
		var ended bool
		err := w.pool.QueryRow(context.Background(), `SELECT revoked_at IS NOT NULL FROM sessions WHERE id = $1 AND user_id = $2`, id, user).Scan(&ended)
		if err != nil || !ended {
			r.bad = append(r.bad, fmt.Sprintf("session %s of %s is told of before its end is committed: %v", id, user, err))
		}
		if before, twice := r.got[id]; twice {
			r.bad = append(r.bad, fmt.Sprintf("session %s is told of twice: %s, %s", id, before, reason))
		}
		r.got[id] = reason
	}
}

// newToldWorld is a world whose ended sessions are told of.
func newToldWorld(t *testing.T, change ...func(*accounts.Config)) (*world, *told) {
	t.Helper()
	r := &told{got: map[uuid.UUID]string{}}
	w := newWorld(t, append(change, func(c *accounts.Config) { c.Revocations = r })...)
	r.pool = func() *world { return w }
	return w, r
}

func (r *told) expect(t *testing.T, want map[uuid.UUID]string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if diff := cmp.Diff(want, r.got); diff != "" {
		t.Errorf("sessions that were told of (-want +got):\n%s", diff)
	}
	for _, bad := range r.bad {
		t.Error(bad)
	}
}

// Whoever ends sessions tells of each of them, once, after the commit, and why.
func TestEndedSessionsAreToldOf(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		end  func(ctx context.Context, w *world, a, b accounts.AuthResult) error
		a, b string // why they ended; empty: they did not
	}{
		"logout": {func(ctx context.Context, w *world, a, _ accounts.AuthResult) error {
			return errors.Join(w.Logout(ctx, a.User.ID, a.SessionID), w.Logout(ctx, a.User.ID, a.SessionID))
		}, contract.RevokedByLogout, ""},
		"logout everywhere": {func(ctx context.Context, w *world, a, _ accounts.AuthResult) error {
			return w.LogoutAll(ctx, a.User.ID)
		}, contract.RevokedByLogout, contract.RevokedByLogout},
		"another from the list": {func(ctx context.Context, w *world, a, b accounts.AuthResult) error {
			return w.RevokeSession(ctx, a.User.ID, b.SessionID)
		}, "", contract.RevokedByOwner},
		"a new password": {func(ctx context.Context, w *world, a, _ accounts.AuthResult) error {
			return w.ChangePassword(ctx, accounts.PasswordChange{UserID: a.User.ID, SessionID: a.SessionID, Current: goodPassword, Next: "another horse"})
		}, "", contract.RevokedByPassword},
		"an old refresh token": {func(ctx context.Context, w *world, a, _ accounts.AuthResult) error {
			latest := a
			for range 2 {
				var err error
				if latest, err = w.Refresh(ctx, latest.RefreshToken, nil); err != nil {
					return err
				}
			}
			if _, err := w.Refresh(ctx, a.RefreshToken, nil); err == nil {
				return errors.New("the grandparent was taken")
			}
			return nil
		}, contract.RevokedByReplay, ""},
		"one too many": {func(ctx context.Context, w *world, _, _ accounts.AuthResult) error {
			_, err := w.Login(ctx, accounts.LoginInput{Email: "ada@example.test", Password: goodPassword})
			return err
		}, contract.RevokedByLimit, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, told := newToldWorld(t, func(c *accounts.Config) { c.MaxSessions = 2 })
			a := w.register(t, "ada@example.test")
			w.pass(time.Second)
			b := w.login(t, "ada@example.test")
			if err := test.end(t.Context(), w, a, b); err != nil {
				t.Fatal(err)
			}
			want := map[uuid.UUID]string{}
			if test.a != "" {
				want[a.SessionID] = test.a
			}
			if test.b != "" {
				want[b.SessionID] = test.b
			}
			told.expect(t, want)
		})
	}
}

func TestSessionsOfAResetAreToldOf(t *testing.T) {
	t.Parallel()
	box := &mailbox{}
	w, told := newToldWorld(t, func(c *accounts.Config) {
		c.Mailer, c.FrontendURL = box, func() string { return "https://app.test" }
	})
	w.run(t)
	a := w.register(t, "ada@example.test")
	b := w.login(t, "ada@example.test")
	box.mails(t, 1) // to verify the address
	if err := w.Forgot("ada@example.test"); err != nil {
		t.Fatal(err)
	}
	if err := w.ResetPassword(t.Context(), accounts.ResetInput{Token: token(t, box.mails(t, 2)[1], "/reset-password"), Next: "another horse"}); err != nil {
		t.Fatal(err)
	}
	told.expect(t, map[uuid.UUID]string{a.SessionID: contract.RevokedByReset, b.SessionID: contract.RevokedByReset})
}

// An instance that hears of an end does not wait for its memory to age.
func TestForgottenSessionIsLookedUpAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	res := w.register(t, "ada@example.test")
	if !w.active(t, res.SessionID) {
		t.Fatal("not active to begin with")
	}
	w.exec(t, `UPDATE sessions SET revoked_at = now()`) // by another instance
	if !w.active(t, res.SessionID) {
		t.Fatal("the answer was not reused: the test shows nothing")
	}
	w.Forget(res.SessionID)
	if w.active(t, res.SessionID) {
		t.Error("a session is active after its end was heard of")
	}
}

// However often a session is refreshed, it ends; and it says so in time.
func TestSessionHasAGreatestAge(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	w := newWorld(t, func(c *accounts.Config) { c.SessionTTL, c.SessionMaxAge = 60*day, 100*day })
	expires := func(id uuid.UUID) time.Time {
		var at time.Time
		if err := w.pool.QueryRow(t.Context(), `SELECT expires_at FROM sessions WHERE id = $1`, id).Scan(&at); err != nil {
			t.Fatal(err)
		}
		return at.UTC()
	}
	began := w.clock()
	res := w.register(t, "ada@example.test")
	if got := expires(res.SessionID); !got.Equal(began.Add(60 * day)) {
		t.Errorf("at first it expires at %v, want day 60", got)
	}
	w.pass(50 * day)
	res = w.refresh(t, res.RefreshToken)
	parent := res
	if got := expires(res.SessionID); !got.Equal(began.Add(100 * day)) {
		t.Errorf("refreshed on day 50 it expires at %v, want day 100", got)
	}
	w.pass(50*day - time.Second)
	res = w.refresh(t, res.RefreshToken)
	if got := expires(res.SessionID); !got.Equal(began.Add(100 * day)) {
		t.Errorf("refreshed in its last second it expires at %v, want day 100", got)
	}
	if list, err := w.Sessions(t.Context(), res.User.ID, res.SessionID); err != nil || len(list) != 1 || !w.active(t, res.SessionID) {
		t.Errorf("in its last second it is not listed or not active: %v, %v", list, err)
	}
	w.pass(time.Second)
	for name, token := range map[string]string{"the current token": res.RefreshToken, "its parent": parent.RefreshToken} {
		_, err := w.Refresh(t.Context(), token, nil)
		wantCode(t, name, err, fault.Unauthenticated, "unauthenticated")
	}
	if list, err := w.Sessions(t.Context(), res.User.ID, res.SessionID); err != nil || len(list) != 0 || w.active(t, res.SessionID) {
		t.Errorf("after a hundred days it is still listed or active: %v, %v", list, err)
	}
}

// A greatest age that was lowered holds for sessions that began before.
func TestLoweredAgeHoldsForOldSessions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *accounts.Config) { c.SessionMaxAge = 365 * 24 * time.Hour })
	old, repeated := w.register(t, "ada@example.test"), w.register(t, "eve@example.test")
	w.refresh(t, repeated.RefreshToken)
	w.pass(40 * 24 * time.Hour)
	w.exec(t, `UPDATE sessions SET created_at = created_at - interval '340 days'`) // as if they were 380 days old
	for name, token := range map[string]string{"a refresh": old.RefreshToken, "a repeated one": repeated.RefreshToken} {
		_, err := w.Refresh(t.Context(), token, nil)
		wantCode(t, name, err, fault.Unauthenticated, "unauthenticated")
	}
	if list, err := w.Sessions(t.Context(), old.User.ID, old.SessionID); err != nil || len(list) != 0 || w.active(t, old.SessionID) {
		t.Errorf("it is still listed or active: %v, %v", list, err)
	}
}

// The theft of a token is taken down in the transaction that ends the session, once.
func TestReplayIsNotedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stolen := w.register(t, "ada@example.test")
	w.refresh(t, w.refresh(t, stolen.RefreshToken).RefreshToken)
	var mu sync.Mutex
	notes := 0
	note := func(ctx context.Context, tx pgx.Tx, userID, sessionID uuid.UUID) error {
		mu.Lock()
		defer mu.Unlock()
		notes++
		if userID != stolen.User.ID || sessionID != stolen.SessionID {
			t.Errorf("note about session %s of %s", sessionID, userID)
		}
		_, err := tx.Exec(ctx, `SELECT 1 FROM sessions`)
		return err
	}
	replays := 0
	for _, err := range together(t.Context(), 10, func(ctx context.Context, _ int) error {
		_, err := w.Refresh(ctx, stolen.RefreshToken, note)
		return err
	}) {
		wantCode(t, "the grandparent", err, fault.Unauthenticated, "unauthenticated")
		if replay, ok := errors.AsType[*accounts.ReplayError](err); ok {
			replays++
			if replay.SessionID != stolen.SessionID {
				t.Errorf("replay of session %s", replay.SessionID)
			}
		}
	}
	if notes != 1 || replays != 1 {
		t.Errorf("%d notes, %d replays, want one each", notes, replays)
	}
	// Without its note the session goes on: a theft is never handled unseen.
	second := w.login(t, "ada@example.test")
	w.refresh(t, w.refresh(t, second.RefreshToken).RefreshToken)
	failed := errors.New("no room in the log")
	if _, err := w.Refresh(t.Context(), second.RefreshToken, func(context.Context, pgx.Tx, uuid.UUID, uuid.UUID) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("a note that failed: %v", err)
	}
	if !w.active(t, second.SessionID) {
		t.Error("the session ended without its note")
	}
}
