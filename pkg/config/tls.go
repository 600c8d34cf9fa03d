package config

import (
	"crypto/x509"
	netmail "net/mail"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/bondmate/backend/pkg/certificate"
)

// domain is a name for which an authority can be shown that it is ours: no wildcard, no
// address, two parts at least.
var domain = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]$`)

// OwnTLS reports whether the public port speaks TLS itself.
func (c Config) OwnTLS() bool { return c.TLSCertFile != "" || len(c.TLSACMEDomains) > 0 }

// ACMEDir is where what an authority issued is kept.
func (c Config) ACMEDir() string { return filepath.Join(c.DataDir, "acme") }

// perClientInProduction is far above what a phone holds (two), and a network that shares one
// address; it is what one machine of an attacker gets.
const perClientInProduction = 1000

// ConnectionsPerClient returns how many connections one client may hold; 0: any number.
func (c Config) ConnectionsPerClient() int {
	switch {
	case c.MaxConnectionsPerClient != nil:
		return *c.MaxConnectionsPerClient
	case c.Env == Production:
		return perClientInProduction
	default:
		return 0
	}
}

// tls checks what the public port is to speak, as far as that shows without an authority.
func (c *checker) tls(cfg Config) {
	acme := len(cfg.TLSACMEDomains) > 0
	switch cert, key := cfg.TLSCertFile, cfg.TLSKeyFile; {
	case cert == "" && key == "":
	case cert == "":
		c.fault("TLS_CERT_FILE", "is needed with TLS_KEY_FILE")
	case key == "":
		c.fault("TLS_KEY_FILE", "is needed with TLS_CERT_FILE")
	case acme:
		c.fault("TLS_ACME_DOMAINS", "is set beside TLS_CERT_FILE: only one can hold")
	default:
		if _, err := certificate.Expires(cert, key); err != nil {
			c.fault("TLS_CERT_FILE", "makes no pair with TLS_KEY_FILE: %v", err)
		}
	}
	for _, name := range cfg.TLSACMEDomains {
		if !domain.MatchString(name) {
			c.fault("TLS_ACME_DOMAINS", "%q is not a name such as api.example.com, in lower case", name)
		}
	}
	c.acme(cfg, acme)
	if cfg.HTTPPort == nil {
		return
	}
	c.within("HTTP_PORT", *cfg.HTTPPort, 0, 65535)
	switch port := *cfg.HTTPPort; {
	case !cfg.OwnTLS():
		c.fault("HTTP_PORT", "needs TLS_CERT_FILE or TLS_ACME_DOMAINS: PORT speaks plain HTTP already")
	case port != 0 && port == cfg.Port:
		c.fault("HTTP_PORT", "%d is the same as PORT", port)
	case port != 0 && cfg.AdminPort != nil && port == *cfg.AdminPort:
		c.fault("HTTP_PORT", "%d is the same as ADMIN_PORT", port)
	}
}

func (c *checker) acme(cfg Config, wanted bool) {
	for _, v := range []struct{ variable, value string }{
		{"TLS_ACME_EMAIL", cfg.TLSACMEEmail}, {"TLS_ACME_DIRECTORY", cfg.TLSACMEDirectory}, {"TLS_ACME_CA_FILE", cfg.TLSACMECAFile},
	} {
		if v.value != "" && !wanted {
			c.fault(v.variable, "needs TLS_ACME_DOMAINS")
		}
	}
	if !wanted {
		return
	}
	if cfg.TLSACMEEmail != "" {
		if _, err := netmail.ParseAddress(cfg.TLSACMEEmail); err != nil {
			c.fault("TLS_ACME_EMAIL", "%q is not an address", cfg.TLSACMEEmail)
		}
	}
	if url := cfg.TLSACMEDirectory; url != "" && !strings.HasPrefix(url, "https://") {
		c.fault("TLS_ACME_DIRECTORY", "%q is not an https URL", url)
	}
	if cfg.TLSACMECAFile != "" {
		pem, err := os.ReadFile(cfg.TLSACMECAFile)
		switch {
		case err != nil:
			c.fault("TLS_ACME_CA_FILE", "cannot be read: %v", err)
		case !x509.NewCertPool().AppendCertsFromPEM(pem):
			c.fault("TLS_ACME_CA_FILE", "%s holds no certificate in PEM", cfg.TLSACMECAFile)
		}
	}
}
