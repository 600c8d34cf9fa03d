package kafkatest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Pair is a certificate with its key, in files.
type Pair struct{ Cert, Key string }

// Certificates are those of one test, signed by an authority of its own.
type Certificates struct {
	CAFile      string
	Server      Pair   // of 127.0.0.1
	ServerStore string // key and certificate in one file, as Apache Kafka wants them
	Elsewhere   Pair   // of another server, signed by the same authority
	Client      Pair
	Stranger    Pair // a client's, signed by nobody
}

// NewCertificates makes them in the test's directory.
func NewCertificates(tb testing.TB) Certificates {
	tb.Helper()
	m := &mint{tb: tb, dir: tb.TempDir()}
	ca := x509.Certificate{
		Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	m.issue("ca", ca)
	server := x509.Certificate{
		Subject: pkix.Name{CommonName: "broker"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	elsewhere := server
	elsewhere.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 2)}
	client := x509.Certificate{
		Subject:  pkix.Name{CommonName: "bondmate"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	certs := Certificates{
		CAFile: filepath.Join(m.dir, "ca.pem"), Server: m.issue("server", server), Elsewhere: m.issue("elsewhere", elsewhere),
		Client: m.issue("client", client), ServerStore: filepath.Join(m.dir, "server.store.pem"),
	}
	m.ca, m.caKey = nil, nil
	certs.Stranger = m.issue("stranger", client)
	var store []byte
	for _, file := range []string{certs.Server.Key, certs.Server.Cert} {
		content, err := os.ReadFile(file) // #nosec G304 -- written above
		if err != nil {
			tb.Fatal(err)
		}
		store = append(store, content...)
	}
	m.write(certs.ServerStore, store)
	return certs
}

// mint issues certificates; the first one becomes the authority.
type mint struct {
	tb     testing.TB
	dir    string
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	serial int64
}

func (m *mint) issue(name string, cert x509.Certificate) Pair {
	m.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		m.tb.Fatal(err)
	}
	m.serial++
	cert.SerialNumber = big.NewInt(m.serial)
	cert.NotBefore, cert.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	by, byKey := m.ca, m.caKey
	if by == nil {
		by, byKey = &cert, key
	}
	der, err := x509.CreateCertificate(rand.Reader, &cert, by, &key.PublicKey, byKey)
	if err != nil {
		m.tb.Fatal(err)
	}
	if m.ca == nil && cert.IsCA {
		if m.ca, err = x509.ParseCertificate(der); err != nil {
			m.tb.Fatal(err)
		}
		m.caKey = key
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		m.tb.Fatal(err)
	}
	pair := Pair{filepath.Join(m.dir, name+".pem"), filepath.Join(m.dir, name+".key")}
	m.write(pair.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	m.write(pair.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	return pair
}

func (m *mint) write(file string, content []byte) {
	m.tb.Helper()
	if err := os.WriteFile(file, bytes.TrimLeft(content, "\n"), 0o600); err != nil { // #nosec G703 -- in the test's directory
		m.tb.Fatal(err)
	}
}
