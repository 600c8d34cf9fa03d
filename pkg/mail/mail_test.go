package mail_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net"
	netmail "net/mail"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/google/go-cmp/cmp"

	"github.com/bondmate/backend/pkg/mail"
)

// taken is a mail as a server took it.
type taken struct {
	User string
	TLS  bool
	From string
	To   []string
	Data string
}

// postOffice is an SMTP server in this process.
type postOffice struct {
	mu     sync.Mutex
	mails  []taken
	logins int
	refuse error // of each recipient
	host   string
	port   int
	roots  *x509.CertPool
}

func (o *postOffice) NewSession(c *smtp.Conn) (smtp.Session, error) {
	return &visit{office: o, conn: c}, nil
}

func (o *postOffice) all() []taken {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]taken{}, o.mails...)
}

type visit struct {
	office *postOffice
	conn   *smtp.Conn
	mail   taken
}

func (v *visit) AuthMechanisms() []string { return []string{sasl.Plain} }

func (v *visit) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		v.office.mu.Lock()
		defer v.office.mu.Unlock()
		v.office.logins++
		if user != "bond" || password != "s3cret" {
			return smtp.ErrAuthFailed
		}
		v.mail.User = user
		return nil
	}), nil
}

func (v *visit) Mail(from string, _ *smtp.MailOptions) error { v.mail.From = from; return nil }

func (v *visit) Rcpt(to string, _ *smtp.RcptOptions) error {
	v.mail.To = append(v.mail.To, to)
	return v.office.refuse
}

func (v *visit) Data(r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	v.mail.Data = string(data)
	_, v.mail.TLS = v.conn.TLSConnectionState()
	v.office.mu.Lock()
	defer v.office.mu.Unlock()
	v.office.mails = append(v.office.mails, v.mail)
	return nil
}

func (v *visit) Reset()        {}
func (v *visit) Logout() error { return nil }

// open starts a post office at a loopback address; what change does to it decides whether
// it offers STARTTLS, or expects TLS from the first byte.
func open(t *testing.T, implicit, starttls bool) *postOffice {
	t.Helper()
	o := &postOffice{}
	certificate := selfSigned(t)
	o.roots = x509.NewCertPool()
	o.roots.AddCert(certificate.Leaf)
	server := smtp.NewServer(o)
	server.Domain = "post.test"
	server.AllowInsecureAuth = true
	server.ErrorLog = quiet{}
	settings := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	if starttls {
		server.TLSConfig = settings
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().(*net.TCPAddr)
	o.host, o.port = addr.IP.String(), addr.Port
	if implicit {
		listener = tls.NewListener(listener, settings)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // ends with the test
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return o
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}
func (quiet) Println(...any)        {}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"post.test"}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

var letter = mail.Message{To: "ana@example.org", Subject: "Grüße", Text: "Hello,\n\nhttps://app.test/reset-password#token=abc_-1\n.\nend\n"}

func TestSMTP(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		implicit, starttls bool
		change             func(*mail.SMTPConfig)
		want               taken // User and TLS
		refused            bool
	}{
		"STARTTLS and a login":        {starttls: true, want: taken{User: "bond", TLS: true}},
		"TLS from the first byte":     {implicit: true, want: taken{User: "bond", TLS: true}},
		"a password from a file":      {starttls: true, change: func(c *mail.SMTPConfig) { c.Password, c.PasswordFile = "", file }, want: taken{User: "bond", TLS: true}},
		"no login":                    {starttls: true, change: func(c *mail.SMTPConfig) { c.Username, c.Password = "", "" }, want: taken{TLS: true}},
		"no TLS on loopback":          {want: taken{User: "bond"}},
		"a wrong password":            {starttls: true, change: func(c *mail.SMTPConfig) { c.Password = "wrong" }, refused: true},
		"nobody vouches for it":       {starttls: true, change: func(c *mail.SMTPConfig) { c.RootCAs = x509.NewCertPool() }, refused: true},
		"nobody vouches for implicit": {implicit: true, change: func(c *mail.SMTPConfig) { c.RootCAs = x509.NewCertPool() }, refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			office := open(t, test.implicit, test.starttls)
			cfg := mail.SMTPConfig{
				Host: office.host, Port: office.port, Implicit: test.implicit, Username: "bond", Password: "s3cret",
				From: "Bond Mate <no-reply@example.com>", RootCAs: office.roots,
			}
			if test.change != nil {
				test.change(&cfg)
			}
			sender, err := mail.NewSMTP(cfg)
			if err != nil {
				t.Fatal(err)
			}
			err = sender.Send(t.Context(), letter)
			got := office.all()
			if test.refused {
				if err == nil || len(got) != 0 {
					t.Errorf("error %v, %d mails taken, want a refusal", err, len(got))
				}
				return
			}
			if err != nil || len(got) != 1 {
				t.Fatalf("error %v, %d mails taken", err, len(got))
			}
			if got[0].User != test.want.User || got[0].TLS != test.want.TLS || got[0].From != "no-reply@example.com" || len(got[0].To) != 1 || got[0].To[0] != letter.To {
				t.Errorf("taken %+v, want %+v", got[0], test.want)
			}
			checkText(t, got[0].Data)
		})
	}
}

func checkText(t *testing.T, data string) {
	t.Helper()
	m, err := netmail.ReadMessage(strings.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for header, want := range map[string]string{
		"To": "<ana@example.org>", "From": `"Bond Mate" <no-reply@example.com>`, "Auto-Submitted": "auto-generated", "User-Agent": "", "X-Mailer": "",
	} {
		if got := m.Header.Get(header); got != want {
			t.Errorf("%s is %q, want %q", header, got, want)
		}
	}
	if !strings.Contains(data, "text/plain") || !strings.Contains(data, "#token=3Dabc_-1") && !strings.Contains(data, "#token=abc_-1") {
		t.Errorf("text: %s", data)
	}
}

// A server that is not on loopback and offers no STARTTLS gets neither password nor mail.
func TestNothingIsSentInTheClear(t *testing.T) {
	t.Parallel()
	office := open(t, false, false)
	// The unspecified address reaches this machine without being a loopback address.
	sender, err := mail.NewSMTP(mail.SMTPConfig{Host: "0.0.0.0", Port: office.port, Username: "bond", Password: "s3cret", From: "a@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	if err := sender.Send(t.Context(), letter); err == nil || !strings.Contains(err.Error(), "STARTTLS") {
		t.Errorf("error %v, want one about STARTTLS", err)
	}
	office.mu.Lock()
	defer office.mu.Unlock()
	if office.logins != 0 || len(office.mails) != 0 {
		t.Errorf("%d logins, %d mails, want none", office.logins, len(office.mails))
	}
}

func TestRefusalsAreToldApart(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		refuse    error
		permanent bool
	}{
		"no such mailbox": {&smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "unknown"}, true},
		"come back later": {&smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 7, 1}, Message: "greylisted"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			office := open(t, false, true)
			office.refuse = test.refuse
			sender, err := mail.NewSMTP(mail.SMTPConfig{Host: office.host, Port: office.port, From: "a@example.com", RootCAs: office.roots})
			if err != nil {
				t.Fatal(err)
			}
			err = sender.Send(t.Context(), letter)
			if err == nil || mail.Permanent(err) != test.permanent {
				t.Errorf("error %v, permanent %v, want %v", err, mail.Permanent(err), test.permanent)
			}
		})
	}
}

// A server that says nothing holds nobody longer than the context.
func TestSendEndsWithItsContext(t *testing.T) {
	t.Parallel()
	var lc net.ListenConfig
	listener, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	greeted := make(chan net.Conn, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_, _ = conn.Write([]byte("220 post.test ESMTP\r\n"))
		_, _ = bufio.NewReader(conn).ReadString('\n') // EHLO, and never an answer
		greeted <- conn
	}()
	t.Cleanup(func() { _ = listener.Close() })
	addr := listener.Addr().(*net.TCPAddr)
	sender, err := mail.NewSMTP(mail.SMTPConfig{Host: "127.0.0.1", Port: addr.Port, From: "a@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		conn := <-greeted
		cancel(errors.New("enough"))
		t.Cleanup(func() { _ = conn.Close() })
	}()
	start := time.Now()
	if err := sender.Send(ctx, letter); err == nil || time.Since(start) > 5*time.Second {
		t.Errorf("error %v after %s", err, time.Since(start))
	}
}

func TestFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "data", mail.FileName)
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	f := mail.NewFile(path, func() time.Time { return now })
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if err := f.Send(t.Context(), letter); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		var got map[string]string
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		want := map[string]string{"time": "2026-03-01T12:00:00Z", "to": letter.To, "subject": letter.Subject, "text": letter.Text}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("line (-want +got):\n%s", diff)
		}
		n++
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || n != 20 {
		t.Errorf("%d lines, %v, %v", n, info.Mode(), err)
	}
}

func TestParseSMTPURL(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]*mail.SMTPConfig{
		"smtp://user:p%40ss@mail.test:2525": {Host: "mail.test", Port: 2525, Username: "user", Password: "p@ss"},
		"smtps://mail.test":                 {Host: "mail.test", Implicit: true},
		"smtp://[::1]:25/":                  {Host: "::1", Port: 25},
		"mail.test:25":                      nil,
		"http://mail.test":                  nil,
		"smtp://u:hunter2@:25":              nil,
		"smtp://u:hunter2@mail.test:99999":  nil,
		"smtp://u:hunter2@mail.test?tls=no": nil,
	} {
		got, err := mail.ParseSMTPURL(text)
		if want == nil {
			if err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: %+v, %v", text, got, err)
			}
			continue
		}
		if diff := cmp.Diff(*want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", text, err, diff)
		}
	}
}
