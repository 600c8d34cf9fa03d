package config

import (
	netmail "net/mail"
	"strings"

	"github.com/bondmate/backend/pkg/mail"
)

// Mail returns the server that takes mails, and false when none is configured.
func (c Config) Mail() (mail.SMTPConfig, bool) {
	var server mail.SMTPConfig
	switch {
	case c.SMTPURL != "":
		server, _ = mail.ParseSMTPURL(c.SMTPURL) // checked
	case c.SMTPHost != "":
		server = mail.SMTPConfig{
			Host: c.SMTPHost, Port: c.SMTPPort, Implicit: c.SMTPPort == 465, // RFC 8314
			Username: c.SMTPUsername, Password: c.SMTPPassword,
		}
	default:
		return mail.SMTPConfig{}, false
	}
	server.PasswordFile, server.From = c.SMTPPasswordFile, c.SMTPFrom
	return server, true
}

func (c *checker) mail(cfg Config) {
	if cfg.SMTPURL != "" {
		if _, err := mail.ParseSMTPURL(cfg.SMTPURL); err != nil {
			c.fault("SMTP_URL", "%v", err)
		}
		for variable, set := range map[string]bool{
			"SMTP_HOST": cfg.SMTPHost != "", "SMTP_PORT": cfg.SMTPPort != 0,
			"SMTP_USERNAME": cfg.SMTPUsername != "", "SMTP_PASSWORD": cfg.SMTPPassword != "",
		} {
			if set {
				c.fault(variable, "is not read beside SMTP_URL: set one of the two")
			}
		}
	}
	c.within("SMTP_PORT", cfg.SMTPPort, 0, 65535)
	c.readable("SMTP_PASSWORD_FILE", cfg.SMTPPasswordFile)
	if cfg.FrontendURL != "" {
		c.httpURL("FRONTEND_URL", cfg.FrontendURL)
		if strings.ContainsAny(cfg.FrontendURL, "?#") {
			c.fault("FRONTEND_URL", "%q has a query or a fragment", cfg.FrontendURL)
		}
	}
	server, ok := cfg.Mail()
	if !ok {
		for variable, set := range map[string]bool{
			"SMTP_PORT": cfg.SMTPPort != 0, "SMTP_USERNAME": cfg.SMTPUsername != "", "SMTP_PASSWORD": cfg.SMTPPassword != "",
			"SMTP_PASSWORD_FILE": cfg.SMTPPasswordFile != "",
		} {
			if set {
				c.fault(variable, "needs SMTP_HOST")
			}
		}
		return
	}
	if server.Username == "" && (server.Password != "" || server.PasswordFile != "") {
		c.fault("SMTP_USERNAME", "is needed beside a password")
	}
	if server.Password != "" && server.PasswordFile != "" {
		c.fault("SMTP_PASSWORD_FILE", "is set beside a password: set one of the two")
	}
	if _, err := netmail.ParseAddress(server.From); err != nil {
		c.fault("SMTP_FROM", "%q is not an address such as Bond Mate <no-reply@example.com>", server.From)
	}
	if cfg.Env == Production && cfg.FrontendURL == "" {
		c.fault("FRONTEND_URL", "is needed in production beside a mail server: links in mails lead there")
	}
}
