package mail

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"
)

const (
	submissionPort = 587 // RFC 6409, with STARTTLS
	implicitPort   = 465 // RFC 8314, TLS from the first byte
	// sendWithin bounds one mail where the context has no earlier deadline.
	sendWithin = 15 * time.Second
)

// SMTPConfig says which server takes mails. Host and From are required.
type SMTPConfig struct {
	Host     string
	Port     int    // default 587, or 465 with Implicit
	Implicit bool   // TLS from the first byte (smtps); otherwise by STARTTLS
	Username string // empty: without a login
	Password string
	// PasswordFile holds the password in the place of Password; read for each mail, so a
	// changed one needs no restart.
	PasswordFile string
	From         string         // what mails are from: an address, with a name or without
	RootCAs      *x509.CertPool // who may vouch for the server; nil: as the system says
}

// ParseSMTPURL reads smtp://user:password@host:port, or smtps:// for TLS from the first
// byte. Its errors do not repeat the text, which holds a password.
func ParseSMTPURL(text string) (SMTPConfig, error) {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "smtp" && u.Scheme != "smtps") || u.Hostname() == "" || u.RawQuery != "" || strings.Trim(u.Path, "/") != "" {
		return SMTPConfig{}, errors.New("is not smtp://user:password@host:port or smtps://user:password@host:port")
	}
	cfg := SMTPConfig{Host: u.Hostname(), Implicit: u.Scheme == "smtps", Username: u.User.Username()}
	cfg.Password, _ = u.User.Password()
	if u.Port() != "" {
		if cfg.Port, err = strconv.Atoi(u.Port()); err != nil || cfg.Port < 1 || cfg.Port > 65535 {
			return SMTPConfig{}, errors.New("has no port between 1 and 65535")
		}
	}
	return cfg, nil
}

// SMTP sends over a connection a mail. The connection is encrypted and the server's
// certificate checked, or nothing is sent: neither the password nor the mail; on loopback
// alone a server without STARTTLS will do. It is safe for concurrent use.
type SMTP struct {
	cfg     SMTPConfig
	options []gomail.Option
	tls     *tls.Config
}

// NewSMTP checks the configuration; it connects to nothing.
func NewSMTP(cfg SMTPConfig) (*SMTP, error) {
	if cfg.Host == "" {
		return nil, errors.New("mail server: no host")
	}
	if err := gomail.NewMsg().From(cfg.From); err != nil {
		return nil, fmt.Errorf("sender of mails: %w", err)
	}
	if cfg.Port == 0 {
		cfg.Port = submissionPort
		if cfg.Implicit {
			cfg.Port = implicitPort
		}
	}
	s := &SMTP{cfg: cfg, tls: &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cfg.Host, RootCAs: cfg.RootCAs}}
	policy := gomail.TLSMandatory
	switch {
	case cfg.Implicit:
		policy = gomail.NoTLS // on top of what is encrypted already
	case loopback(cfg.Host):
		policy = gomail.TLSOpportunistic
	}
	s.options = []gomail.Option{
		gomail.WithPort(cfg.Port), gomail.WithTimeout(sendWithin), gomail.WithTLSConfig(s.tls), gomail.WithTLSPolicy(policy),
	}
	return s, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Send hands a mail over. An error for which Permanent is true will be the same next time.
func (s *SMTP) Send(ctx context.Context, m Message) error {
	ctx, cancel := context.WithTimeout(ctx, sendWithin)
	defer cancel()
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	if err := errors.Join(msg.From(s.cfg.From), msg.To(m.To)); err != nil {
		return &refusal{fmt.Errorf("address mail: %w", err)}
	}
	msg.Subject(m.Subject)
	msg.SetDate()
	msg.SetMessageID()
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: no out-of-office notes, please
	msg.SetBodyString(gomail.TypeTextPlain, m.Text)

	options := append([]gomail.Option{gomail.WithDialContextFunc(s.dial(ctx))}, s.options...)
	if s.cfg.Username != "" {
		password, err := s.password()
		if err != nil {
			return err
		}
		// The last two only over TLS, or on loopback: the library sees to that.
		options = append(options, gomail.WithUsername(s.cfg.Username), gomail.WithPassword(password),
			gomail.WithOpportunisticSMTPAuth(gomail.SMTPAuthSCRAMSHA256, gomail.SMTPAuthSCRAMSHA1, gomail.SMTPAuthPlain, gomail.SMTPAuthLogin))
	}
	client, err := gomail.NewClient(s.cfg.Host, options...)
	if err != nil {
		return fmt.Errorf("set up mail client: %w", err)
	}
	if err := client.DialAndSendWithContext(ctx, msg); err != nil {
		if msg.IsDelivered() { // it was accepted, and the goodbye went wrong: again would be twice
			return nil
		}
		err = fmt.Errorf("send mail by %s: %w", s.cfg.Host, err)
		if refused, ok := errors.AsType[*gomail.SendError](err); ok && refused.ErrorCode() >= 500 && !refused.IsTemp() {
			return &refusal{err}
		}
		return err
	}
	return nil
}

// dial connects, and lets go of the connection when ctx ends: the library's own deadline
// starts anew with each part of the conversation.
func (s *SMTP) dial(ctx context.Context) gomail.DialContextFunc {
	return func(dialing context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(dialing, network, address)
		if err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { _ = conn.Close() })
		if !s.cfg.Implicit {
			return conn, nil
		}
		encrypted := tls.Client(conn, s.tls)
		if err := encrypted.HandshakeContext(dialing); err != nil {
			_ = conn.Close()
			return nil, err
		}
		return encrypted, nil
	}
}

func (s *SMTP) password() (string, error) {
	if s.cfg.PasswordFile == "" {
		return s.cfg.Password, nil
	}
	text, err := os.ReadFile(s.cfg.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("read the mail server's password: %w", err)
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}

// refusal is an error that another attempt would not change.
type refusal struct{ error }

func (r *refusal) Unwrap() error { return r.error }

// Permanent says whether a mail was refused for good.
func Permanent(err error) bool {
	_, ok := errors.AsType[*refusal](err)
	return ok
}
