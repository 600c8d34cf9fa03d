package certificate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

const (
	// askWithin bounds one call of the authority.
	askWithin = 30 * time.Second
	// Failed orders count at the authority, which then refuses for hours: after each failure
	// the next try waits longer, between these.
	retryFirst = time.Minute
	retryMost  = 6 * time.Hour
	// lookEvery is how often the certificates in use are looked at once all are there.
	lookEvery = time.Hour
)

// ACMEConfig says for which names, and from whom. The fields from Log on are required.
type ACMEConfig struct {
	Domains   []string
	Email     string // told to the authority; may be empty
	Dir       string // keeps the account, keys and certificates, readable by their owner only
	Directory string // of the authority; empty: Let's Encrypt
	CAFile    string // who signed the authority's own certificate (PEM); empty: the system's

	Log        *slog.Logger
	Registerer prometheus.Registerer
	Clock      func() time.Time
}

// ACME serves certificates that an authority issues to who holds the names, and renews them
// 30 days before they expire.
type ACME struct {
	cfg     ACMEConfig
	manager *autocert.Manager
	expiry  expiry
	mu      sync.Mutex
	expires map[string]time.Time // by name, of what was served last
	failed  map[string]bool      // names whose last order failed and that have no certificate
}

// NewACME returns a source. It asks nobody for anything yet. To use it is to accept the
// authority's terms.
func NewACME(cfg ACMEConfig) (*ACME, error) {
	if len(cfg.Domains) == 0 || cfg.Dir == "" || cfg.Log == nil || cfg.Registerer == nil || cfg.Clock == nil {
		return nil, errors.New("certificate: a required field of the configuration is missing")
	}
	client := &acme.Client{DirectoryURL: cfg.Directory, UserAgent: "bondmate", HTTPClient: &http.Client{Timeout: askWithin}}
	if cfg.Directory == "" {
		client.DirectoryURL = acme.LetsEncryptURL
	}
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the authority's certificate: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", cfg.CAFile)
		}
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
		client.HTTPClient.Transport = transport
	}
	a := &ACME{cfg: cfg, expires: map[string]time.Time{}, failed: map[string]bool{}, manager: &autocert.Manager{
		Prompt: autocert.AcceptTOS, Cache: autocert.DirCache(cfg.Dir), Email: cfg.Email, Client: client,
		// Without it anybody could have certificates issued for any name that they point here.
		HostPolicy: autocert.HostWhitelist(cfg.Domains...),
	}}
	if err := a.expiry.register(cfg.Registerer); err != nil {
		return nil, err
	}
	return a, nil
}

// TLS returns the settings of a server, which also answers the authority's tls-alpn-01
// challenges.
func (a *ACME) TLS() *tls.Config { return serverTLS(a.serve, acme.ALPNProto) }

// Challenges returns a handler for plain HTTP that answers the authority's http-01
// challenges and leaves all else to next. With it these are tried where tls-alpn-01 fails.
func (a *ACME) Challenges(next http.Handler) http.Handler {
	answer := a.manager.HTTPHandler(nil)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/.well-known/acme-challenge/") {
			next.ServeHTTP(w, r)
			return
		}
		bare := *r // names are compared as they are configured: without a port
		if host, _, err := net.SplitHostPort(r.Host); err == nil {
			bare.Host = host
		}
		answer.ServeHTTP(w, &bare)
	})
}

// errNotIssued is for clients that come while there is no certificate: if each of them made
// an order, the authority would soon take none.
var errNotIssued = errors.New("certificate: not issued yet")

func (a *ACME) serve(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if slices.Equal(hello.SupportedProtos, []string{acme.ALPNProto}) {
		return a.manager.GetCertificate(hello) // the authority looks for what it asked for
	}
	a.mu.Lock()
	failed := a.failed[hello.ServerName]
	a.mu.Unlock()
	if failed {
		return nil, errNotIssued
	}
	return a.get(hello)
}

func (a *ACME) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	pair, err := a.manager.GetCertificate(hello)
	if err != nil {
		return nil, err
	}
	if parsed, err := leaf(pair); err == nil {
		a.note(hello.ServerName, parsed.NotAfter)
	}
	return pair, nil
}

// note keeps the earliest end of the certificates in use.
func (a *ACME) note(name string, expires time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.expires[name].Equal(expires) {
		return
	}
	a.expires[name] = expires
	earliest := expires
	for _, at := range a.expires {
		if at.Before(earliest) {
			earliest = at
		}
	}
	a.expiry.at.Store(earliest.Unix())
}

// Run obtains what is missing, so that no client has to wait for it, and looks after what
// is there until ctx ends. The server must be listening by then, for the authority's calls.
func (a *ACME) Run(ctx context.Context) error {
	retry := retryFirst
	for {
		wait := lookEvery
		if err := a.obtain(ctx); err != nil {
			a.cfg.Log.ErrorContext(ctx, "no certificate from the authority", "error", err, "again_in", retry.String())
			wait, retry = retry, min(retry*2, retryMost)
		} else {
			retry = retryFirst
		}
		a.expiry.warn(a.cfg.Log, a.cfg.Clock())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// obtain asks for each name as a modern client does; what is in memory or in the folder
// takes no call.
func (a *ACME) obtain(ctx context.Context) error {
	var faults []error
	for _, name := range a.cfg.Domains {
		if ctx.Err() != nil {
			break
		}
		_, err := a.get(&tls.ClientHelloInfo{
			ServerName: name, SupportedVersions: []uint16{tls.VersionTLS13},
			CipherSuites:     []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
			SupportedCurves:  []tls.CurveID{tls.CurveP256},
			SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		})
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
		}
		a.mu.Lock()
		a.failed[name] = err != nil
		a.mu.Unlock()
	}
	return errors.Join(faults...)
}
