package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bondmate/backend/ingest"
	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/mail"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

// box takes mails.
type box struct {
	mu   sync.Mutex
	sent []mail.Message
}

func (b *box) Send(_ context.Context, m mail.Message) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sent = append(b.sent, m)
	return nil
}

// link waits for the mail to somebody and takes the token out of its link.
func (b *box) link(t *testing.T, to, path string) (token string) {
	t.Helper()
	eventually(t, "a mail to "+to, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, m := range b.sent {
			for line := range strings.Lines(m.Text) {
				if u, err := url.Parse(strings.TrimSpace(line)); err == nil && u.Path == path && m.To == to {
					token = strings.TrimPrefix(u.Fragment, "token=")
				}
			}
		}
		return token != ""
	})
	return token
}

// mailing gives an instance accounts that send mails; Run sends them.
func mailing(t *testing.T, w *world, to *box, run bool) option {
	return func(c *ingest.Config) {
		keys, err := devKeys()
		must(t, err)
		issuer, err := identity.NewIssuer(identity.IssuerConfig{Keys: keys, Issuer: "test", Audience: "test", Clock: time.Now})
		must(t, err)
		passwords, err := identity.NewPasswords(identity.PasswordConfig{Memory: 64, Iterations: 1})
		must(t, err)
		c.Accounts, err = accounts.New(accounts.Config{
			Pool: w.pool, Issuer: issuer, Passwords: passwords, Clock: time.Now, Log: slog.New(slog.DiscardHandler),
			Mailer: to, FrontendURL: func() string { return "https://app.test" },
		})
		must(t, err)
		if !run {
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- c.Accounts.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if runErr := <-done; !errors.Is(runErr, context.Canceled) {
				t.Errorf("run: %v", runErr)
			}
		})
	}
}

func newMailWorlds(t *testing.T, run bool) (one, two *world, to *box) {
	t.Helper()
	to = &box{}
	w := &world{pool: postgrestest.New(t)}
	q := newQueue(t, w.pool)
	one = newInstance(t, w.pool, q, mailing(t, w, to, run))
	two = newInstance(t, w.pool, q, mailing(t, w, to, run))
	q.start()
	return one, two, to
}

// What one instance mails another one takes, once; every session ends on both.
func TestPasswordResetOverTwoInstances(t *testing.T) {
	t.Parallel()
	one, two, to := newMailWorlds(t, true)
	ana := one.register("Ana")
	var email string
	must(t, one.pool.QueryRow(t.Context(), `SELECT email FROM credentials WHERE user_id = $1`, ana.id).Scan(&email))
	if got := ana.on(two).get("/api/profile"); got.status != 200 {
		t.Fatal(got.status)
	}
	if got := one.do("POST", "/api/auth/password/forgot", "", nil, map[string]any{"email": email}); got.status != 202 || len(got.raw) != 0 {
		t.Fatalf("forgot: %d %s", got.status, got.raw)
	}
	reset := map[string]any{"token": to.link(t, email, "/reset-password"), "next": "a quite new horse"}
	if got := two.do("POST", "/api/auth/password/reset", "", nil, reset); got.status != 204 {
		t.Fatalf("reset: %d %s", got.status, got.raw)
	}
	again := one.do("POST", "/api/auth/password/reset", "", nil, reset)
	wantProblem(t, again, 400, "invalid_request")
	if errs, _ := again.body["errors"].([]any); len(errs) != 1 || errs[0].(map[string]any)["pointer"] != "/token" {
		t.Errorf("again: %s", again.raw)
	}
	wantProblem(t, ana.on(two).get("/api/profile"), 401, "unauthenticated")
	eventually(t, "the other instance hears of it", func() bool { return ana.get("/api/profile").status == 401 })
	var actions []string
	must(t, one.pool.QueryRow(t.Context(), `SELECT array_agg(action ORDER BY at) FROM activity_log WHERE actor = $1 AND address IS NOT NULL`, ana.id).Scan(&actions))
	if diff := cmp.Diff([]string{"auth.password.reset"}, actions); diff != "" {
		t.Errorf("activity (-want +got):\n%s", diff)
	}
}

func TestVerifyEmailOverHTTP(t *testing.T) {
	t.Parallel()
	one, two, to := newMailWorlds(t, true)
	ana := one.register("Ana")
	exported := func() any {
		account, _ := ana.get("/api/account/export").body["account"].(map[string]any)
		return account["emailVerified"]
	}
	if got := exported(); got != false {
		t.Errorf("emailVerified is %v before", got)
	}
	var email string
	must(t, one.pool.QueryRow(t.Context(), `SELECT email FROM credentials WHERE user_id = $1`, ana.id).Scan(&email))
	body := map[string]any{"token": to.link(t, email, "/verify-email")}
	if got := two.do("POST", "/api/auth/email/verify", "", nil, body); got.status != 204 {
		t.Fatalf("verify: %d %s", got.status, got.raw)
	}
	wantProblem(t, one.do("POST", "/api/auth/email/verify", "", nil, body), 400, "invalid_request")
	if got := exported(); got != true {
		t.Errorf("emailVerified is %v after", got)
	}
}

// The answer to a forgotten password is one and the same for an account, for none, and for
// what is no address; with a full queue too.
func TestForgotTellsNothing(t *testing.T) {
	t.Parallel()
	one, _, _ := newMailWorlds(t, false)
	ana := one.register("Ana")
	var email string
	must(t, one.pool.QueryRow(t.Context(), `SELECT email FROM credentials WHERE user_id = $1`, ana.id).Scan(&email))
	ask := func(email string) string {
		got := one.do("POST", "/api/auth/password/forgot", "", nil, map[string]any{"email": email})
		got.header.Del("X-Request-Id")
		got.header.Del("Date")
		if id := got.text("requestId"); id != "" {
			got.raw = []byte(strings.ReplaceAll(string(got.raw), id, "…"))
		}
		header := map[string][]string(got.header)
		return fmt.Sprint(got.status, header, string(got.raw))
	}
	want := ask(email)
	if !strings.Contains(want, "202") {
		t.Errorf("answer %s", want)
	}
	for _, other := range []string{"nobody@example.org", "ana", email} {
		if got := ask(other); got != want {
			t.Errorf("%q is answered\n%s\nand an account's\n%s", other, got, want)
		}
	}
	for range 300 { // nobody takes anything out of the queue
		want = ask(email)
	}
	if !strings.Contains(want, "503") || !strings.Contains(want, "overloaded") || !strings.Contains(want, "Retry-After") {
		t.Errorf("answer of a full queue %s", want)
	}
	if got := ask("nobody@example.org"); got != want {
		t.Errorf("with a full queue nobody is answered\n%s\nand an account\n%s", got, want)
	}
}
