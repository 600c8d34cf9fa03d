package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/identity"
)

func writePEM(t *testing.T, kind string, der ...[]byte) string {
	t.Helper()
	var text []byte
	for _, d := range der {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: d})...)
	}
	file := filepath.Join(t.TempDir(), "keys.pem")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func generate(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func pkcs8(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// The example of RFC 7638, section 3.1.
func TestThumbprintIsRFC7638(t *testing.T) {
	t.Parallel()
	const modulus = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
	n, err := base64.RawURLEncoding.DecodeString(modulus)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	signing := generate(t, 2048)
	file := writePEM(t, "PRIVATE KEY", pkcs8(t, signing))
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})...)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := identity.LoadKeys(file)
	if err != nil {
		t.Fatal(err)
	}
	want := identity.JWK{KeyType: "RSA", Use: "sig", Algorithm: "RS256", ID: "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs", Modulus: modulus, Exponent: "AQAB"}
	if diff := cmp.Diff(want, keys.JWKS().Keys[1]); diff != "" {
		t.Errorf("JWK (-want +got):\n%s", diff)
	}
}

func TestLoadKeysRefuses(t *testing.T) {
	t.Parallel()
	key := generate(t, 2048)
	elliptical, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{
		"no such file":  filepath.Join(t.TempDir(), "none.pem"),
		"empty":         writePEM(t, "PRIVATE KEY"),
		"garbage":       writePEM(t, "PRIVATE KEY", []byte("garbage")),
		"1024 bits":     writePEM(t, "PRIVATE KEY", pkcs8(t, generate(t, 1024))),
		"not RSA":       writePEM(t, "PRIVATE KEY", pkcs8(t, elliptical)),
		"public only":   writePEM(t, "PUBLIC KEY", public),
		"twice":         writePEM(t, "PRIVATE KEY", pkcs8(t, key), pkcs8(t, key)),
		"a certificate": writePEM(t, "CERTIFICATE", public),
	}
	for name, file := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := identity.LoadKeys(file); err == nil {
				t.Error("LoadKeys accepted it")
			}
		})
	}
}

func TestRotationKeepsOldTokensValid(t *testing.T) {
	t.Parallel()
	before, after := generate(t, 2048), generate(t, 2048)
	old, err := identity.LoadKeys(writePEM(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(before)))
	if err != nil {
		t.Fatal(err)
	}
	file := writePEM(t, "PRIVATE KEY", pkcs8(t, after), pkcs8(t, before))
	written(t, file, testNow.Add(-time.Hour)) // long enough ago for the new key to sign
	both, err := identity.LoadKeys(file)
	if err != nil {
		t.Fatal(err)
	}
	oldIssuer, oldVerifier := newPair(t, old, fixed(testNow))
	newIssuer, newVerifier := newPair(t, both, fixed(testNow))
	claims := identity.Claims{UserID: uuid.New(), SessionID: uuid.New(), Role: identity.RoleUser}
	oldToken, _, err := oldIssuer.Issue(claims)
	if err != nil {
		t.Fatal(err)
	}
	newToken, _, err := newIssuer.Issue(claims)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newVerifier.Verify(t.Context(), oldToken); err != nil {
		t.Errorf("after the rotation the old token: %v", err)
	}
	if _, err := newVerifier.Verify(t.Context(), newToken); err != nil {
		t.Errorf("after the rotation the new token: %v", err)
	}
	if _, err := oldVerifier.Verify(t.Context(), newToken); err == nil {
		t.Error("the old keys verify a token of the new key")
	}
}

func TestDevelopmentKeysAreMadeOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ids := make([]string, 4)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			keys, err := identity.LoadOrCreateDevelopmentKeys(dir)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = keys.SigningID(testNow)
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Errorf("concurrent starts use the keys %q, want one", ids)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "jwt.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %o, want 600", info.Mode().Perm())
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("the directory holds %d files, want jwt.pem alone", len(entries))
	}
}
