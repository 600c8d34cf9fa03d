package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/realtime/realtimetest"
)

// mailed waits for the mail with a link to a path of the front end, and returns its link.
func (p *person) mailed(path string) (link *url.URL) {
	p.t.Helper()
	until(p.t, "a mail with a link to "+path, func() bool {
		text, err := os.ReadFile(filepath.Join(p.in.dir, "mails.jsonl"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			p.t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			var m struct{ To, Text string }
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				return false // it is being written
			}
			if found := linkIn(m.Text); m.To == p.email && found != nil && found.Path == path {
				link = found
			}
		}
		return link != nil
	})
	return link
}

func linkIn(text string) *url.URL {
	for line := range strings.Lines(text) {
		if u, err := url.Parse(strings.TrimSpace(line)); err == nil && u.Scheme != "" && u.Host != "" {
			return u
		}
	}
	return nil
}

func tokenIn(link *url.URL) string { return strings.TrimPrefix(link.Fragment, "token=") }

// Who has forgotten the password gets back in by what `bondmate all` mails, and whoever was
// in is out: sessions, sockets and the old password.
func TestForgottenPassword(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	ana := w.person(t, "Ana")
	same(t, "verified at first", "false", exportedVerified(ana))
	verify := ana.mailed("/verify-email")
	if !strings.HasPrefix(verify.String(), w.url+"/") {
		t.Errorf("the link is %s, want one to %s", verify, w.url)
	}
	ana.call("POST", "/api/auth/email/verify", map[string]any{"token": tokenIn(verify)}).want(204)
	same(t, "verified then", "true", exportedVerified(ana))

	socket, err := realtimetest.Dial(t.Context(), "ws"+strings.TrimPrefix(w.url, "http")+"/api/realtime", realtimetest.Options{Token: ana.token})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	stranger := &person{t: t, in: w, name: "a stranger"}
	known := stranger.call("POST", "/api/auth/password/forgot", map[string]any{"email": ana.email}).want(202)
	unknown := stranger.call("POST", "/api/auth/password/forgot", map[string]any{"email": "nobody-" + ana.email}).want(202)
	same(t, "the answers", known.shape(), unknown.shape())
	reset := map[string]any{"token": tokenIn(ana.mailed("/reset-password")), "next": "a longer pass phrase"}
	stranger.call("POST", "/api/auth/password/reset", reset).want(204)
	stranger.call("POST", "/api/auth/password/reset", reset).refused(400, "invalid_request")

	for err == nil {
		_, err = socket.Next(t.Context())
	}
	if closed, ok := errors.AsType[*realtimetest.CloseError](err); !ok || closed.Code/1000 != 4 {
		t.Errorf("the socket ends with %v", err)
	}
	until(t, "the session has ended", func() bool { return ana.get("/api/profile").status == 401 })
	stranger.call("POST", "/api/auth/login", map[string]any{"email": ana.email, "password": secret}).refused(401, "unauthenticated")
	login := stranger.call("POST", "/api/auth/login", map[string]any{"email": ana.email, "password": "a longer pass phrase"}).want(200)
	ana.token = login.text("accessToken")
	var actions []string
	for _, a := range ana.get("/api/activity").want(200).list("activity") {
		actions = append(actions, a["action"].(string))
	}
	same(t, "activity", "auth.login auth.password.reset account.export auth.email.verify account.export", strings.Join(actions, " "))
}

func exportedVerified(p *person) string {
	p.t.Helper()
	account, _ := p.get("/api/account/export").want(200).body["account"].(map[string]any)
	verified, ok := account["emailVerified"].(bool)
	switch {
	case !ok:
		return "not said"
	case verified:
		return "true"
	default:
		return "false"
	}
}

// letterBox is a mail server.
type letterBox struct {
	mu    sync.Mutex
	texts []string
}

func (b *letterBox) NewSession(*smtp.Conn) (smtp.Session, error) { return &visitor{b}, nil }

type visitor struct{ box *letterBox }

func (*visitor) Mail(string, *smtp.MailOptions) error { return nil }
func (*visitor) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (*visitor) Reset()                               {}
func (*visitor) Logout() error                        { return nil }
func (v *visitor) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	v.box.mu.Lock()
	defer v.box.mu.Unlock()
	v.box.texts = append(v.box.texts, string(text))
	return err
}

// With SMTP_URL mails go to that server, with links to FRONTEND_URL.
func TestMailsBySMTP(t *testing.T) {
	t.Parallel()
	box := &letterBox{}
	server := smtp.NewServer(box)
	server.Domain = "post.test"
	var lc net.ListenConfig
	listener, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // ends with the test
	}()
	t.Cleanup(func() { _ = server.Close(); <-done })
	w := newTown(t, "SMTP_URL=smtp://"+listener.Addr().String(), "SMTP_FROM=Bond Mate <no-reply@example.com>", "FRONTEND_URL=https://app.test/")
	ana := w.person(t, "Ana")
	until(t, "a mail", func() bool {
		box.mu.Lock()
		defer box.mu.Unlock()
		return len(box.texts) == 1
	})
	box.mu.Lock()
	defer box.mu.Unlock()
	text := strings.ReplaceAll(box.texts[0], "=\r\n", "") // quoted-printable
	if !strings.Contains(text, "https://app.test/verify-email#token=") || !strings.Contains(text, "To: <"+ana.email+">") {
		t.Errorf("mail: %s", text)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "mails.jsonl")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("mails are kept in a file as well: %v", err)
	}
}

// In production nothing stands in for a mail server: a start says so, once.
func TestNoMailsInProduction(t *testing.T) {
	t.Parallel()
	for env, warned := range map[config.Env]bool{config.Production: true, config.Development: false, config.Test: false} {
		var log bytes.Buffer
		p := &process{cfg: config.Config{Env: env, DataDir: t.TempDir()}, log: slog.New(slog.NewTextHandler(&log, nil)), clock: time.Now}
		to, err := p.mailer()
		if err != nil || (to == nil) != warned || strings.Count(log.String(), "level=WARN") == 1 != warned {
			t.Errorf("%s: mailer %v, error %v, log %q", env, to, err, &log)
		}
	}
}
