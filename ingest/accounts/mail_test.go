package accounts_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/mail"
)

// mailbox takes mails as a server would, after answering errors as often as it is told.
type mailbox struct {
	mu     sync.Mutex
	fail   []error
	hold   chan struct{} // until it is closed, nothing is taken
	sent   []mail.Message
	called int
}

func (b *mailbox) Send(ctx context.Context, m mail.Message) error {
	b.mu.Lock()
	hold := b.hold
	b.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.called++
	if len(b.fail) > 0 {
		err := b.fail[0]
		b.fail = b.fail[1:]
		return err
	}
	b.sent = append(b.sent, m)
	return nil
}

func (b *mailbox) all() []mail.Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]mail.Message{}, b.sent...)
}

// mails waits until so many mails have been taken and returns them.
func (b *mailbox) mails(t *testing.T, n int) []mail.Message {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if got := b.all(); len(got) >= n {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d mails after 15 s, want %d", len(b.all()), n)
		}
	}
}

// token takes the token out of the link in a mail.
func token(t *testing.T, m mail.Message, path string) string {
	t.Helper()
	for line := range strings.Lines(m.Text) {
		if u, err := url.Parse(strings.TrimSpace(line)); err == nil && u.Scheme != "" {
			if u.Host != "app.test" || u.Path != path {
				t.Fatalf("link %s, want one to %s", u, path)
			}
			return strings.TrimPrefix(u.Fragment, "token=")
		}
	}
	t.Fatalf("no link in %q", m.Text)
	return ""
}

// newMailWorld is a world that sends mails into box.
func newMailWorld(t *testing.T, box *mailbox) *world {
	t.Helper()
	w := newWorld(t, func(c *accounts.Config) {
		c.Mailer, c.FrontendURL = box, func() string { return "https://app.test" }
	})
	w.run(t)
	return w
}

func (w *world) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

const nextPassword = "a quite new horse"

func reset(w *world, token string) error {
	return w.ResetPassword(context.Background(), accounts.ResetInput{Token: token, Next: nextPassword})
}

func wantTokenRefused(t *testing.T, what string, err error) {
	t.Helper()
	wantCode(t, what, err, fault.Invalid, "invalid_request")
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || len(f.Fields) != 1 || f.Fields[0].Pointer != "/token" {
		t.Errorf("%s: %v, want a fault at /token", what, err)
	}
}

func TestResetByMail(t *testing.T) {
	t.Parallel()
	box := &mailbox{}
	w := newMailWorld(t, box)
	ana := w.register(t, "ana@example.test")
	other := w.login(t, "ana@example.test")
	w.device(t, other, "phone")
	welcome := box.mails(t, 1)[0]

	if err := w.Forgot(" ANA@example.test"); err != nil {
		t.Fatal(err)
	}
	m := box.mails(t, 2)[1]
	if m.To != "ana@example.test" || strings.Contains(m.Text+m.Subject, "Ada") {
		t.Errorf("mail %+v", m)
	}
	link := token(t, m, "/reset-password")
	if n := w.count(t, `SELECT count(*) FROM mail_tokens x WHERE strpos(x::text, $1) > 0 OR strpos(x::text, encode(convert_to($1, 'UTF8'), 'hex')) > 0`, link); n != 0 {
		t.Error("the token itself is in the table")
	}
	wantTokenRefused(t, "another's guess", reset(w, link[:len(link)-1]))
	wantTokenRefused(t, "a token for something else", reset(w, token(t, welcome, "/verify-email")))
	wantCode(t, "a short password", w.ResetPassword(t.Context(), accounts.ResetInput{Token: link, Next: "short"}), fault.Invalid, "invalid_request")

	var noted uuid.UUID
	note := func(_ context.Context, _ pgx.Tx, user uuid.UUID) error { noted = user; return nil }
	boom := errors.New("boom")
	err := w.ResetPassword(t.Context(), accounts.ResetInput{Token: link, Next: nextPassword, Note: func(context.Context, pgx.Tx, uuid.UUID) error { return boom }})
	if !errors.Is(err, boom) || !w.active(t, ana.SessionID) {
		t.Errorf("a reset that could not be taken down: %v", err)
	}
	if err := w.ResetPassword(t.Context(), accounts.ResetInput{Token: link, Next: nextPassword, Note: note}); err != nil || noted != ana.User.ID {
		t.Fatalf("reset: %v, noted of %s", err, noted)
	}
	for _, s := range []accounts.AuthResult{ana, other} {
		if w.active(t, s.SessionID) {
			t.Error("a session goes on")
		}
		if _, err := w.Refresh(t.Context(), s.RefreshToken, nil); err == nil {
			t.Error("a session is refreshed")
		}
	}
	if n := w.count(t, `SELECT (SELECT count(*) FROM devices) + (SELECT count(*) FROM mail_tokens)`); n != 0 {
		t.Errorf("%d devices and tokens are left", n)
	}
	if n := w.count(t, `SELECT count(*) FROM credentials WHERE verified_at = $1`, w.clock()); n != 1 {
		t.Error("the address is not verified")
	}
	wantTokenRefused(t, "the token again", reset(w, link))
	wantTokenRefused(t, "the verification that was withdrawn", w.VerifyEmail(t.Context(), token(t, welcome, "/verify-email"), nil))
	if _, err := w.Login(t.Context(), accounts.LoginInput{Email: "ana@example.test", Password: goodPassword}); err == nil {
		t.Error("the old password is good")
	}
	if _, err := w.Login(t.Context(), accounts.LoginInput{Email: "ana@example.test", Password: nextPassword}); err != nil {
		t.Error(err)
	}
}

func TestVerifyByMail(t *testing.T) {
	t.Parallel()
	box := &mailbox{}
	w := newMailWorld(t, box)
	ana := w.register(t, "ana@example.test")
	link := token(t, box.mails(t, 1)[0], "/verify-email")
	verified := func() bool {
		rec, err := w.RecordIn(t.Context(), w.pool, ana.User.ID)
		if err != nil {
			t.Fatal(err)
		}
		return rec.Verified
	}
	if verified() {
		t.Error("verified before the link was opened")
	}
	wantTokenRefused(t, "as a reset", reset(w, link))
	if err := w.VerifyEmail(t.Context(), link, nil); err != nil || !verified() || !w.active(t, ana.SessionID) {
		t.Errorf("verify: %v, verified %v", err, verified())
	}
	wantTokenRefused(t, "again", w.VerifyEmail(t.Context(), link, nil))
}

func TestMailTokensEnd(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		before func(*testing.T, *world, accounts.AuthResult)
		kind   fault.Kind
		code   string // empty: refused at /token
	}{
		"just before its time": {func(_ *testing.T, w *world, _ accounts.AuthResult) { w.pass(time.Hour - time.Second) }, 0, "ok"},
		"after an hour":        {func(_ *testing.T, w *world, _ accounts.AuthResult) { w.pass(time.Hour) }, 0, ""},
		"another address by now": {func(t *testing.T, w *world, _ accounts.AuthResult) {
			w.exec(t, `UPDATE credentials SET email = 'other@example.test'`)
		}, 0, ""},
		"suspended":     {func(t *testing.T, w *world, _ accounts.AuthResult) { w.exec(t, `UPDATE users SET status = 3`) }, fault.Forbidden, "forbidden"},
		"being deleted": {func(t *testing.T, w *world, _ accounts.AuthResult) { w.exec(t, `UPDATE users SET status = 4`) }, fault.Forbidden, "account_deleting"},
		"after a password change": {func(t *testing.T, w *world, ana accounts.AuthResult) {
			if err := w.ChangePassword(t.Context(), accounts.PasswordChange{UserID: ana.User.ID, SessionID: ana.SessionID, Current: goodPassword, Next: "yet another horse"}); err != nil {
				t.Fatal(err)
			}
		}, 0, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			box := &mailbox{}
			w := newMailWorld(t, box)
			ana := w.register(t, "ana@example.test")
			box.mails(t, 1)
			if err := w.Forgot("ana@example.test"); err != nil {
				t.Fatal(err)
			}
			link := token(t, box.mails(t, 2)[1], "/reset-password")
			test.before(t, w, ana)
			err := reset(w, link)
			switch test.code {
			case "ok":
				if err != nil {
					t.Error(err)
				}
			case "":
				wantTokenRefused(t, name, err)
			default:
				wantCode(t, name, err, test.kind, test.code)
			}
		})
	}
}

// Of many who use one token at once, on two instances, one succeeds.
func TestMailTokenIsGoodOnce(t *testing.T) {
	t.Parallel()
	box := &mailbox{}
	w := newMailWorld(t, box)
	second := newWorld(t, func(c *accounts.Config) { c.Pool = w.pool })
	for round := range 5 {
		email := address(round)
		w.register(t, email)
		box.mails(t, 2*round+1)
		if err := w.Forgot(email); err != nil {
			t.Fatal(err)
		}
		link := token(t, box.mails(t, 2*round+2)[2*round+1], "/reset-password")
		good := 0
		for _, err := range together(t.Context(), 12, func(ctx context.Context, i int) error {
			at := []*world{w, second}[i%2]
			return at.ResetPassword(ctx, accounts.ResetInput{Token: link, Next: nextPassword})
		}) {
			if err == nil {
				good++
				continue
			}
			wantTokenRefused(t, "one of many", err)
		}
		if good != 1 {
			t.Errorf("%d of 12 succeeded, want 1", good)
		}
	}
}

// However often somebody asks, an address gets three mails within a token's life; one that
// could not be sent does not count, and is tried again unless it was refused for good.
func TestMailsAreBounded(t *testing.T) {
	t.Parallel()
	box := &mailbox{}
	w := newMailWorld(t, box)
	w.register(t, "ana@example.test")
	box.mails(t, 1)
	box.mu.Lock()
	box.fail = []error{errors.New("busy"), errors.New("busy")}
	box.mu.Unlock()
	ask := func(n int) {
		t.Helper()
		for range n {
			if err := w.Forgot("ana@example.test"); err != nil {
				t.Fatal(err)
			}
			if err := w.Forgot("nobody@example.test"); err != nil {
				t.Fatal(err)
			}
		}
	}
	ask(10)
	box.mails(t, 1+3)
	w.settled(t, box, "eve@example.test")
	resets := 0
	for _, m := range box.all() {
		if m.To == "ana@example.test" {
			resets++
		}
		if m.To == "nobody@example.test" {
			t.Error("a mail to who has no account")
		}
	}
	if resets != 1+3 {
		t.Errorf("%d mails to one person, want the first and 3", resets)
	}
	if n := w.count(t, `SELECT count(*) FROM mail_tokens WHERE purpose = 1`); n != 3 {
		t.Errorf("%d tokens, want 3", n)
	}
	w.pass(time.Hour)
	before := len(box.all())
	ask(1)
	box.mails(t, before+1)
}

// settled lets everything that was queued go through, by being last in the queue.
func (w *world) settled(t *testing.T, box *mailbox, email string) {
	t.Helper()
	for i := range 4 { // as many as may be in hand at once
		w.register(t, fmt.Sprintf("late%d-%s", i, email))
	}
	deadline := time.Now().Add(15 * time.Second)
	for n := 0; n < 4; time.Sleep(5 * time.Millisecond) {
		n = 0
		for _, m := range box.all() {
			if strings.HasSuffix(m.To, email) {
				n++
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the queue does not get empty")
		}
	}
}

func TestMailThatIsNotSentLeavesNoToken(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fail  []error
		calls int
	}{
		"refused for good": {[]error{permanent(t)}, 1},
		"always busy":      {[]error{errors.New("1"), errors.New("2"), errors.New("3"), errors.New("4")}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			box := &mailbox{fail: test.fail}
			w := newMailWorld(t, box)
			w.register(t, "ana@example.test")
			deadline := time.Now().Add(20 * time.Second)
			for !strings.Contains(w.log.String(), "mail not sent") || w.count(t, `SELECT count(*) FROM mail_tokens`) > 0 {
				if time.Now().After(deadline) {
					t.Fatalf("a token is left; log: %s", w.log)
				}
				time.Sleep(10 * time.Millisecond)
			}
			box.mu.Lock()
			defer box.mu.Unlock()
			if box.called != test.calls {
				t.Errorf("%d attempts, want %d", box.called, test.calls)
			}
			if strings.Contains(w.log.String(), "ana@") {
				t.Errorf("the address is in the log: %s", w.log)
			}
		})
	}
}

// permanent is an error as pkg/mail gives it for what no attempt would change.
func permanent(t *testing.T) error {
	t.Helper()
	sender, err := mail.NewSMTP(mail.SMTPConfig{Host: "127.0.0.1", From: "a@example.test"})
	if err != nil {
		t.Fatal(err)
	}
	err = sender.Send(t.Context(), mail.Message{To: "not an address"})
	if !mail.Permanent(err) {
		t.Fatalf("%v is not permanent", err)
	}
	return err
}

// With a full queue all alike are told overloaded, at once; nobody else waits for it.
func TestFullPost(t *testing.T) {
	t.Parallel()
	box := &mailbox{hold: make(chan struct{})}
	w := newWorld(t, func(c *accounts.Config) {
		c.Mailer, c.FrontendURL = box, func() string { return "https://app.test" }
	})
	w.register(t, "ana@example.test") // nobody sends yet: this is the first that waits
	full := 0
	for full < 10_000 && w.Forgot("nobody@example.test") == nil {
		full++
	}
	if diff := cmp.Diff(255, full); diff != "" {
		t.Errorf("room in the queue (-want +got):\n%s", diff)
	}
	for _, email := range []string{"ana@example.test", "nobody@example.test", "ana"} {
		err := w.Forgot(email)
		wantCode(t, email, err, fault.Unavailable, "overloaded")
		if f, ok := errors.AsType[*fault.Error](err); !ok || f.RetryAfter <= 0 {
			t.Errorf("%s: no time to come back in %v", email, err)
		}
	}
	w.register(t, "ben@example.test")
	close(box.hold)
	stop := w.run(t)
	box.mails(t, 1)
	stop()
	if err := w.Forgot("ana@example.test"); err != nil {
		t.Errorf("what waited was not looked at before the end: %v", err)
	}
}

func TestNoMailerNoMails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.register(t, "ana@example.test")
	if err := w.Forgot("ana@example.test"); err != nil {
		t.Error(err)
	}
	if n := w.count(t, `SELECT count(*) FROM mail_tokens`); n != 0 {
		t.Errorf("%d tokens, want none", n)
	}
}
