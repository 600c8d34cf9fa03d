// Package firebasetest is a Firebase project for tests: it signs ID tokens, and serves the
// certificates of their keys where Google would.
//
// The SDK takes neither an address nor a client for the certificates. It copies
// http.DefaultTransport when it is set up, so Serve puts one there that leads Google's host
// to a server of its own, with a certificate that it trusts, for the rest of the test binary.
package firebasetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// host is where the SDK looks for certificates.
const host = "www.googleapis.com"

// Project is the id of the project whose tokens Issuer makes.
const Project = "bondmate-test"

// KeyID names the key that signs.
const KeyID = "key-of-the-project"

// Issuer signs tokens and serves the certificates.
type Issuer struct {
	Key     *rsa.PrivateKey
	fetches atomic.Int64
	away    atomic.Bool
	hang    atomic.Bool
	maxAge  atomic.Int64
}

// Fetches returns how often the certificates were asked for.
func (i *Issuer) Fetches() int { return int(i.fetches.Load()) }

// Away makes the certificates unavailable, or available again.
func (i *Issuer) Away(away bool) { i.away.Store(away) }

// Hang makes the server answer nothing, until it is told otherwise or the caller leaves.
func (i *Issuer) Hang(hang bool) { i.hang.Store(hang) }

// KeepFor says how long the certificates may be kept from the next fetch on; an hour at first.
func (i *Issuer) KeepFor(d time.Duration) { i.maxAge.Store(int64(d / time.Second)) }

// Serve starts the server and leads the connections of clients that are made from
// http.DefaultTransport from then on to it. Call it once, before anything else runs.
func Serve() (*Issuer, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("make the project's key: %w", err)
	}
	i := &Issuer{Key: key}
	i.KeepFor(time.Hour)
	cert, err := selfSigned(&key.PublicKey, key, "securetoken.system.gserviceaccount.com")
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(map[string]string{KeyID: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))})
	if err != nil {
		return nil, fmt.Errorf("write the certificates: %w", err)
	}
	hostKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the host's key: %w", err)
	}
	hostCert, err := selfSigned(&hostKey.PublicKey, hostKey, host)
	if err != nil {
		return nil, err
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.fetches.Add(1)
		for i.hang.Load() {
			select {
			case <-r.Context().Done():
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
		if i.away.Load() || r.URL.Path != "/robot/v1/metadata/x509/securetoken@system.gserviceaccount.com" {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Cache-Control", fmt.Sprintf("public, max-age=%d", i.maxAge.Load()))
		_, _ = w.Write(body)
	}))
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{hostCert}, PrivateKey: hostKey}}}
	server.StartTLS()
	trusted, err := x509.ParseCertificate(hostCert)
	if err != nil {
		return nil, fmt.Errorf("read the host's certificate: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("load the system's authorities: %w", err)
	}
	roots.AddCert(trusted)
	before, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return nil, fmt.Errorf("http.DefaultTransport is a %T", http.DefaultTransport)
	}
	transport := before.Clone()
	transport.Proxy = func(r *http.Request) (*url.URL, error) {
		if r.URL.Hostname() == host || before.Proxy == nil {
			return nil, nil
		}
		return before.Proxy(r)
	}
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		var dialer net.Dialer
		if address == net.JoinHostPort(host, "443") {
			address = server.Listener.Addr().String()
		}
		return dialer.DialContext(ctx, network, address)
	}
	http.DefaultTransport = transport
	return i, nil
}

func selfSigned(public, private any, name string) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		return nil, fmt.Errorf("certify %s: %w", name, err)
	}
	return cert, nil
}

// Claims are those of a good token of a person who signed in with Google just now.
func Claims(subject string) jwt.MapClaims {
	now := time.Now()
	return jwt.MapClaims{
		"iss": "https://securetoken.google.com/" + Project, "aud": Project, "sub": subject, "user_id": subject,
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "auth_time": now.Unix(),
		"firebase": map[string]any{"sign_in_provider": "google.com", "identities": map[string]any{}},
	}
}

// With returns the claims with those of more in their place; nil takes one away.
func With(claims, more jwt.MapClaims) jwt.MapClaims {
	for name, value := range more {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	return claims
}

// Sign returns a token with the claims, by the project's key.
func (i *Issuer) Sign(claims jwt.MapClaims) string {
	return Token(jwt.SigningMethodRS256, i.Key, KeyID, claims)
}

// Token returns any token; an empty kid is none.
func Token(method jwt.SigningMethod, key any, kid string, claims jwt.MapClaims) string {
	t := jwt.NewWithClaims(method, claims)
	if kid != "" {
		t.Header["kid"] = kid
	}
	signed, err := t.SignedString(key)
	if err != nil {
		panic("firebasetest: sign: " + err.Error()) // a defect in the test
	}
	return signed
}
