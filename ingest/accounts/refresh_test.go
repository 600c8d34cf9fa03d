package accounts_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
)

func (w *world) refresh(t *testing.T, token string) accounts.AuthResult {
	t.Helper()
	res, err := w.Refresh(t.Context(), token, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestConcurrentRefreshesGiveOneChild(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.register(t, "ada@example.test")
	got := make([]accounts.AuthResult, 50)
	errs := together(t.Context(), len(got), func(ctx context.Context, i int) error {
		var err error
		got[i], err = w.Refresh(ctx, first.RefreshToken, nil)
		return err
	})
	children := map[string]bool{}
	for i, res := range got {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		if res.User != first.User || res.SessionID != first.SessionID {
			t.Errorf("refresh = %+v, want the session of %+v", res, first)
		}
		if _, err := w.verifier.Verify(t.Context(), res.AccessToken); err != nil {
			t.Error(err)
		}
		children[res.RefreshToken] = true
	}
	if len(children) != 1 || children[first.RefreshToken] {
		t.Errorf("%d different children, want 1 new token", len(children))
	}
	if next := w.refresh(t, got[0].RefreshToken); children[next.RefreshToken] {
		t.Error("the child was not rotated")
	}
}

func TestLostAnswerLocksNobodyOut(t *testing.T) {
	t.Parallel()
	for _, later := range []time.Duration{0, time.Minute, 30 * 24 * time.Hour} {
		t.Run(later.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			first := w.register(t, "ada@example.test")
			lost := w.refresh(t, first.RefreshToken)
			w.pass(later)
			found := w.refresh(t, first.RefreshToken)
			if found.RefreshToken != lost.RefreshToken {
				t.Fatal("the repeated refresh gave another child")
			}
			next := w.refresh(t, found.RefreshToken)
			w.refresh(t, next.RefreshToken)
		})
	}
}

func TestReplayedAncestorEndsTheSession(t *testing.T) {
	t.Parallel()
	for generations := 2; generations <= 4; generations++ {
		w := newWorld(t)
		other := w.register(t, "ada@example.test")
		stolen := w.login(t, "ada@example.test")
		w.device(t, stolen, "phone")
		latest := stolen
		for range generations {
			latest = w.refresh(t, latest.RefreshToken)
		}
		if !w.active(t, stolen.SessionID) {
			t.Fatal("the session is not active to begin with")
		}
		_, err := w.Refresh(t.Context(), stolen.RefreshToken, nil)
		wantCode(t, "the ancestor", err, fault.Unauthenticated, "unauthenticated")
		_, err = w.Refresh(t.Context(), latest.RefreshToken, nil)
		wantCode(t, "the latest after the replay", err, fault.Unauthenticated, "unauthenticated")
		if w.active(t, stolen.SessionID) || w.count(t, `SELECT count(*) FROM devices`) != 0 {
			t.Error("the session goes on")
		}
		if !w.active(t, other.SessionID) {
			t.Error("the account's other session ended")
		}
		if log := w.log.String(); !strings.Contains(log, "level=WARN") || strings.Contains(log, stolen.RefreshToken) {
			t.Errorf("log = %q, want a warning without the token", log)
		}
	}
}

func TestRefreshRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	res := w.register(t, "ada@example.test")
	for name, token := range map[string]string{
		"empty":                  "",
		"access token":           res.AccessToken,
		"a stranger's token":     identity.NewRefreshToken().String(),
		"same family, long form": res.RefreshToken + "=",
		"huge":                   strings.Repeat("A", 1<<20),
	} {
		_, err := w.Refresh(t.Context(), token, nil)
		wantCode(t, name, err, fault.Unauthenticated, "unauthenticated")
	}
	if !w.active(t, res.SessionID) {
		t.Error("a stranger's guess ended the session")
	}
	w.pass(60 * 24 * time.Hour)
	_, err := w.Refresh(t.Context(), res.RefreshToken, nil)
	wantCode(t, "expired", err, fault.Unauthenticated, "unauthenticated")
	if w.active(t, res.SessionID) {
		t.Error("an expired session is active")
	}
}

func TestUseKeepsASessionAlive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	res := w.register(t, "ada@example.test")
	for range 3 {
		w.pass(40 * 24 * time.Hour)
		res = w.refresh(t, res.RefreshToken)
	}
}

func TestDatabaseHoldsNoSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.register(t, "ada@example.test")
	second := w.refresh(t, first.RefreshToken)
	ticket, err := w.CreateTicket(t.Context(), first.User.ID, first.SessionID)
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"sessions", "credentials", "realtime_tickets"} {
		var dump string
		if err := w.pool.QueryRow(t.Context(), `SELECT string_agg(t::text, E'\n') FROM `+table+` t`).Scan(&dump); err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{first.RefreshToken, second.RefreshToken, ticket.Ticket, goodPassword} {
			// bytea shows as hex, so look for the hex of the text and of its decoded form.
			if strings.Contains(dump, secret) || strings.Contains(dump, hexOf(secret)) || strings.Contains(dump, hexOfDecoded(secret)) {
				t.Errorf("%s holds a secret", table)
			}
		}
	}
}

func TestEndingSessions(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		end  func(ctx context.Context, w *world, a, b accounts.AuthResult) error
		a, b bool // which of the account's sessions go on
	}{
		"logout": {func(ctx context.Context, w *world, a, _ accounts.AuthResult) error {
			return w.Logout(ctx, a.User.ID, a.SessionID)
		}, false, true},
		"revoke other": {func(ctx context.Context, w *world, a, b accounts.AuthResult) error {
			return w.RevokeSession(ctx, a.User.ID, b.SessionID)
		}, true, false},
		"logout all": {func(ctx context.Context, w *world, a, _ accounts.AuthResult) error {
			return w.LogoutAll(ctx, a.User.ID)
		}, false, false},
		"logout twice": {func(ctx context.Context, w *world, a, _ accounts.AuthResult) error {
			if err := w.Logout(ctx, a.User.ID, a.SessionID); err != nil {
				return err
			}
			return w.Logout(ctx, a.User.ID, a.SessionID)
		}, false, true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			a := w.register(t, "ada@example.test")
			b := w.login(t, "ada@example.test")
			stranger := w.register(t, "eve@example.test")
			for i, res := range []accounts.AuthResult{a, b, stranger} {
				w.device(t, res, address(i))
				if _, err := w.CreateTicket(t.Context(), res.User.ID, res.SessionID); err != nil {
					t.Fatal(err)
				}
				w.active(t, res.SessionID) // remembered: the end must be seen at once all the same
			}
			if err := tc.end(t.Context(), w, a, b); err != nil {
				t.Fatal(err)
			}
			for _, s := range []struct {
				res  accounts.AuthResult
				want bool
			}{{a, tc.a}, {b, tc.b}, {stranger, true}} {
				rows := w.count(t, `SELECT (SELECT count(*) FROM devices WHERE session_id = $1) + (SELECT count(*) FROM realtime_tickets WHERE session_id = $1)`, s.res.SessionID)
				if got := w.active(t, s.res.SessionID); got != s.want || (rows == 2) != s.want || (rows == 0) == s.want {
					t.Errorf("session of %s: active %t, %d devices and tickets, want active %t", s.res.User.DisplayName, got, rows, s.want)
				}
				_, err := w.Refresh(t.Context(), s.res.RefreshToken, nil)
				if (err == nil) != s.want {
					t.Errorf("refresh: %v, want active %t", err, s.want)
				}
			}
		})
	}
}

func TestRevokeSessionOfAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada, eve := w.register(t, "ada@example.test"), w.register(t, "eve@example.test")
	wantCode(t, "another's session", w.RevokeSession(t.Context(), eve.User.ID, ada.SessionID), fault.NotFound, "not_found")
	wantCode(t, "no session", w.RevokeSession(t.Context(), eve.User.ID, uuid.New()), fault.NotFound, "not_found")
	if err := w.Logout(t.Context(), eve.User.ID, ada.SessionID); err != nil {
		t.Error(err)
	}
	if !w.active(t, ada.SessionID) {
		t.Error("another user ended the session")
	}
}

// Another instance ends a session: this one notices within the cache's time.
func TestRevocationElsewhereIsSeenWithinASecond(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	res := w.register(t, "ada@example.test")
	if !w.active(t, res.SessionID) {
		t.Fatal("not active to begin with")
	}
	w.exec(t, `UPDATE sessions SET revoked_at = now()`)
	w.pass(999 * time.Millisecond)
	if !w.active(t, res.SessionID) {
		t.Error("the answer was not reused")
	}
	w.pass(time.Millisecond)
	if w.active(t, res.SessionID) {
		t.Error("active a second after the end")
	}
	if w.active(t, uuid.New()) {
		t.Error("an unknown session is active")
	}
}
