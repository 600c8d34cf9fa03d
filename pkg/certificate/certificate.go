// Package certificate is where the public port's TLS certificate comes from: two files that
// are read again when they change, or an authority that speaks ACME.
//
// What it guarantees, and on what that rests:
//
//   - A server that had a good certificate keeps one: files that cannot be used, or that are
//     expired while the ones in use are not, change nothing and are logged.
//   - A new certificate takes effect with the next handshake. Open connections are not
//     touched: each keeps what it has shaken hands with.
//   - Nobody speaks anything older than TLS 1.2, nor a cipher without forward secrecy or
//     authentication of what it encrypts.
//
// Files and ACME each start no goroutine but those that the ACME library renews with; Run
// watches, and returns when its context ends. All else is safe for concurrent use.
package certificate

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// warnBefore is half of what ACME renews ahead of: whoever is warned still has time, and
	// what renews itself never warns.
	warnBefore = 14 * 24 * time.Hour
	warnEvery  = 24 * time.Hour
)

// serverTLS is what a public port speaks. TLS 1.3 has no suites to choose; of TLS 1.2 it
// takes what HTTP/2 allows. Session tickets are on, with keys that the library rotates.
func serverTLS(get func(*tls.ClientHelloInfo) (*tls.Certificate, error), protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		GetCertificate: get,
		NextProtos:     append([]string{"h2", "http/1.1"}, protocols...),
	}
}

// leaf returns the certificate itself of a pair.
func leaf(pair *tls.Certificate) (*x509.Certificate, error) {
	if pair.Leaf != nil {
		return pair.Leaf, nil
	}
	if len(pair.Certificate) == 0 {
		return nil, errors.New("no certificate")
	}
	return x509.ParseCertificate(pair.Certificate[0])
}

// expiry knows when what is served expires, and tells.
type expiry struct {
	at     atomic.Int64 // Unix seconds; 0 before there is a certificate
	warned time.Time    // belongs to the goroutine that calls warn
}

func (e *expiry) register(r prometheus.Registerer) error {
	err := r.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bondmate_tls_certificate_expires_timestamp_seconds",
		Help: "When the public port's certificate expires, the earliest if there are several; 0 before there is one.",
	}, func() float64 { return float64(e.at.Load()) }))
	if err != nil {
		return fmt.Errorf("register metric: %w", err)
	}
	return nil
}

// warn logs once a day that the certificate expires soon, or has expired.
func (e *expiry) warn(log *slog.Logger, now time.Time) {
	at := time.Unix(e.at.Load(), 0)
	if at.Unix() == 0 || at.Sub(now) > warnBefore || now.Sub(e.warned) < warnEvery {
		return
	}
	e.warned = now
	log.Warn("the certificate expires", "at", at.UTC().Format(time.RFC3339), "in", at.Sub(now).Round(time.Minute).String())
}
