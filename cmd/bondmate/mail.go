package main

import (
	"path/filepath"
	"strings"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/mail"
)

// mailer takes the mails: the server of the environment or, outside production, a file in
// DATA_DIR. It is nil in production without a server.
func (p *process) mailer() (accounts.Mailer, error) {
	if server, ok := p.cfg.Mail(); ok {
		return mail.NewSMTP(server)
	}
	if p.cfg.Env == config.Production {
		p.log.Warn("no mails are sent: without SMTP_URL or SMTP_HOST nobody who has forgotten a password gets a link to a new one")
		return nil, nil
	}
	return mail.NewFile(filepath.Join(p.cfg.DataDir, mail.FileName), p.clock), nil
}

// frontendURL is where links in mails lead: to this process where nothing else is said,
// which is for development.
func (p *process) frontendURL() string {
	if p.cfg.FrontendURL != "" {
		return strings.TrimRight(p.cfg.FrontendURL, "/")
	}
	return p.ownURL
}
