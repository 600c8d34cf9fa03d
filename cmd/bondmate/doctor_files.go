package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/bondmate/backend/pkg/certificate"
	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/identity"
)

// renewBy is when a certificate should have been renewed.
const renewBy = 14 * 24 * time.Hour

// files looks at what the environment names on disk.
func (d doctor) files() []config.Finding {
	var found []config.Finding
	for _, secret := range []struct{ variable, file string }{
		{"JWT_PRIVATE_KEY_FILE", keyFile(d.cfg)}, {"TLS_KEY_FILE", d.cfg.TLSKeyFile}, {"FIREBASE_CREDENTIALS_FILE", d.cfg.FirebaseCredentialsFile},
		{"KAFKA_TLS_KEY_FILE", d.cfg.KafkaTLSKeyFile}, {"KAFKA_SASL_PASSWORD_FILE", d.cfg.KafkaSASLPasswordFile},
		{"REDIS_PASSWORD_FILE", d.cfg.RedisPasswordFile}, {"SMTP_PASSWORD_FILE", d.cfg.SMTPPasswordFile},
	} {
		if secret.file == "" || secret.variable == "JWT_PRIVATE_KEY_FILE" && d.cfg.JWTPrivateKeyFile == "" && !exists(secret.file) {
			continue // none is named, and the development key is not made yet
		}
		found = append(found, secretFile(secret.variable, secret.file))
	}
	if file := d.cfg.JWTPrivateKeyFile; file != "" {
		found = append(found, signingKeys(file))
	}
	return append(found, d.certificates()...)
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// secretFile holds a file with a secret to its owner.
func secretFile(variable, file string) config.Finding {
	const name = "secret file"
	info, err := os.Stat(file)
	if err != nil {
		return bad(name, variable, err, "put the file there, readable by the user that the program runs as")
	}
	mode := info.Mode().Perm()
	mend := fmt.Sprintf("chmod 0600 %s", file)
	switch {
	case mode&0o007 != 0:
		return config.Finding{Name: name, Level: config.Fail, Variable: variable, Why: fmt.Sprintf("is open to everybody on this machine (%04o)", mode), Mend: mend}
	case mode&0o070 != 0:
		return config.Finding{Name: name, Level: config.Warn, Variable: variable, Why: fmt.Sprintf("is open to its group (%04o)", mode), Mend: mend}
	default:
		return fine(name, variable, fmt.Sprintf("is its owner's alone (%04o)", mode))
	}
}

func signingKeys(file string) config.Finding {
	const name, variable = "signing keys", "JWT_PRIVATE_KEY_FILE"
	keys, err := identity.LoadKeys(file)
	if err != nil {
		return bad(name, variable, err, "an RSA key in PEM: openssl genrsa 3072")
	}
	return fine(name, variable, fmt.Sprintf("%d can be used", len(keys.List(time.Now()))))
}

// certificates looks when those of the public port expire.
func (d doctor) certificates() []config.Finding {
	if d.cfg.TLSCertFile != "" {
		until, err := certificate.Expires(d.cfg.TLSCertFile, d.cfg.TLSKeyFile)
		return []config.Finding{d.expiry("TLS_CERT_FILE", "", until, err)}
	}
	var found []config.Finding
	for _, name := range d.cfg.TLSACMEDomains {
		file := filepath.Join(d.cfg.ACMEDir(), name) // the key and the certificate are in one
		until, err := certificate.Expires(file, file)
		if errors.Is(err, fs.ErrNotExist) {
			found = append(found, config.Finding{
				Name: "certificate", Level: config.Warn, Variable: "TLS_ACME_DOMAINS", Why: "none has been obtained for " + name + " yet",
				Mend: "start it where the authority reaches the name on port 443, or 80 with HTTP_PORT",
			})
			continue
		}
		found = append(found, d.expiry("TLS_ACME_DOMAINS", " for "+name, until, err))
	}
	return found
}

func (d doctor) expiry(variable, of string, until time.Time, err error) config.Finding {
	const name, mend = "certificate", "renew it; the files are read again by themselves"
	if err != nil {
		return bad(name, variable, err, "a certificate and its key in PEM")
	}
	left, day := until.Sub(d.now()), until.UTC().Format(time.DateOnly)
	switch {
	case left <= 0:
		return config.Finding{Name: name, Level: config.Fail, Variable: variable, Why: "the one" + of + " expired on " + day, Mend: mend}
	case left < renewBy:
		return config.Finding{Name: name, Level: config.Warn, Variable: variable, Why: "the one" + of + " expires on " + day, Mend: mend}
	default:
		return fine(name, variable, "the one"+of+" is good until "+day)
	}
}

// openFiles holds MAX_CONNECTIONS against what the system allows the process.
func (d doctor) openFiles() config.Finding {
	const name, variable = "open files", "MAX_CONNECTIONS"
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return bad(name, variable, err, "-")
	}
	if room := int(min(files.Cur, 1<<30)) - reservedFiles; d.cfg.MaxConnections == 0 || d.cfg.MaxConnections > room {
		return config.Finding{
			Name: name, Level: config.Warn, Variable: variable, Why: fmt.Sprintf("the system allows %d: connections end at %d", files.Cur, max(room, 1)),
			Mend: "raise the limit (LimitNOFILE, ulimits), or lower the variable",
		}
	}
	return fine(name, variable, fmt.Sprintf("%d are allowed", files.Cur))
}
