package certificate

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	watchEvery = 2 * time.Second
	maxFile    = 1 << 20
)

// FilesConfig says which files. All fields are required.
type FilesConfig struct {
	CertFile   string // the certificate and those that lead to an authority (PEM)
	KeyFile    string // its key (PEM, not encrypted)
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Clock      func() time.Time
}

// Files serves a certificate from two files.
type Files struct {
	cfg    FilesConfig
	pair   atomic.Pointer[pair]
	expiry expiry
}

// pair is what was read, and the bytes that it was read from.
type pair struct {
	tls       tls.Certificate
	cert, key []byte
}

// LoadFiles reads the pair. One that has expired is served all the same, and logged: some
// clients are better off with it than with nothing.
func LoadFiles(cfg FilesConfig) (*Files, error) {
	if cfg.Log == nil || cfg.Registerer == nil || cfg.Clock == nil {
		return nil, errors.New("certificate: a required field of the configuration is missing")
	}
	f := &Files{cfg: cfg}
	read, err := readPair(cfg.CertFile, cfg.KeyFile)
	if err != nil {
		return nil, err
	}
	f.use(read)
	if err := f.expiry.register(cfg.Registerer); err != nil {
		return nil, err
	}
	return f, nil
}

// Expires reads the pair of two files and returns when its certificate expires.
func Expires(certFile, keyFile string) (time.Time, error) {
	read, err := readPair(certFile, keyFile)
	if err != nil {
		return time.Time{}, err
	}
	return read.tls.Leaf.NotAfter, nil
}

func readPair(certFile, keyFile string) (*pair, error) {
	cert, err := readFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	key, err := readFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	return parsePair(cert, key)
}

func parsePair(cert, key []byte) (*pair, error) {
	parsed, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("certificate and key: %w", err)
	}
	if parsed.Leaf, err = leaf(&parsed); err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	return &pair{parsed, cert, key}, nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name) //nolint:gosec // the operator names it
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

func (f *Files) use(p *pair) {
	f.expiry.at.Store(p.tls.Leaf.NotAfter.Unix())
	f.pair.Store(p)
}

// TLS returns the settings of a server.
func (f *Files) TLS() *tls.Config {
	return serverTLS(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &f.pair.Load().tls, nil })
}

// Run reads the files again whenever they change, until ctx ends. It compares what is in
// them: a volume that is swapped as a whole may keep sizes and times.
func (f *Files) Run(ctx context.Context) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	told := ""
	for {
		f.expiry.warn(f.cfg.Log, f.cfg.Clock())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		changed, err := f.reload()
		switch {
		case err != nil && err.Error() != told:
			told = err.Error()
			f.cfg.Log.ErrorContext(ctx, "the certificate was not read again, the one from before stays", "error", err)
		case err == nil:
			told = ""
		}
		if changed {
			f.cfg.Log.InfoContext(ctx, "the certificate was read again", "expires", f.pair.Load().tls.Leaf.NotAfter.UTC().Format(time.RFC3339))
		}
	}
}

// reload reads the files, and uses them if they are others than before and no worse.
func (f *Files) reload() (changed bool, err error) {
	cert, err := readFile(f.cfg.CertFile)
	if err != nil {
		return false, fmt.Errorf("read certificate: %w", err)
	}
	key, err := readFile(f.cfg.KeyFile)
	if err != nil {
		return false, fmt.Errorf("read key: %w", err)
	}
	now := f.pair.Load()
	if bytes.Equal(cert, now.cert) && bytes.Equal(key, now.key) {
		return false, nil
	}
	next, err := parsePair(cert, key)
	if err != nil {
		return false, err // half written, maybe: the next look tells
	}
	if at := f.cfg.Clock(); !valid(next, at) && valid(now, at) {
		return false, fmt.Errorf("the new certificate is valid from %s to %s, not now",
			next.tls.Leaf.NotBefore.UTC().Format(time.RFC3339), next.tls.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	f.use(next)
	return true, nil
}

func valid(p *pair, at time.Time) bool {
	return !at.Before(p.tls.Leaf.NotBefore) && !at.After(p.tls.Leaf.NotAfter)
}
