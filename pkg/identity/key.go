package identity

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
)

const (
	keyBits = 2048
	// keyFile is the development key's name inside the data directory.
	keyFile = "jwt.pem"
)

// Keys are the signing key and every key whose tokens are still accepted.
type Keys struct {
	signing   *rsa.PrivateKey
	signingID string
	verifying map[string]*rsa.PublicKey // by kid
	jwks      JWKS
}

// JWKS is the JSON Web Key Set document (RFC 7517) of the keys that verify.
type JWKS struct {
	Keys []JWK `json:"keys"`
}

// JWK is the public part of one key.
type JWK struct {
	KeyType   string `json:"kty"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
	ID        string `json:"kid"`
	Modulus   string `json:"n"`
	Exponent  string `json:"e"`
}

// LoadKeys reads a PEM file of RSA keys of at least 2048 bits. The first private key
// (PKCS #8 or PKCS #1) signs; the others, private or public, only verify. So a
// rotation is: put the new key first and keep the old one behind it until its last
// token has expired.
func LoadKeys(file string) (*Keys, error) {
	text, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("read signing keys: %w", err)
	}
	k, err := parseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("signing keys in %s: %w", file, err)
	}
	return k, nil
}

// LoadOrCreateDevelopmentKeys reads dir/jwt.pem, or makes it with a new key, readable
// by its owner only. Of two processes that start at once both use the same key.
func LoadOrCreateDevelopmentKeys(dir string) (*Keys, error) {
	file := filepath.Join(dir, keyFile)
	k, err := LoadKeys(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, fmt.Errorf("generate signing key: %w", err)
	}
	if err := writeKey(dir, file, key); err != nil {
		return nil, fmt.Errorf("write signing key: %w", err)
	}
	return LoadKeys(file)
}

// writeKey makes the file appear whole or not at all. Link, unlike Rename, fails when
// another process was faster, and then that process's key is the one to use.
func writeKey(dir, file string, key *rsa.PrivateKey) (err error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, keyFile+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if rmErr := os.Remove(tmp.Name()); err == nil {
			err = rmErr
		}
	}()
	if err := errors.Join(
		pem.Encode(tmp, &pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		tmp.Sync(),
		tmp.Close(),
	); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), file); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func parseKeys(text []byte) (*Keys, error) {
	k := &Keys{verifying: map[string]*rsa.PublicKey{}, jwks: JWKS{Keys: []JWK{}}}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		key, err := parseBlock(block)
		if err != nil {
			return nil, err
		}
		switch key := key.(type) {
		case *rsa.PrivateKey:
			if err := k.add(&key.PublicKey); err != nil {
				return nil, err
			}
			if k.signing == nil {
				k.signing, k.signingID = key, thumbprint(&key.PublicKey)
			}
		case *rsa.PublicKey:
			if err := k.add(key); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("a %T is not an RSA key", key)
		}
	}
	if k.signing == nil {
		return nil, errors.New("no PEM block holds a private key")
	}
	return k, nil
}

func parseBlock(block *pem.Block) (any, error) {
	switch block.Type {
	case "PRIVATE KEY":
		return x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	default:
		return nil, fmt.Errorf("a PEM block %q is no key in PKCS #8, PKCS #1 or PKIX", block.Type)
	}
}

func (k *Keys) add(pub *rsa.PublicKey) error {
	if pub.N.BitLen() < keyBits {
		return fmt.Errorf("a key of %d bits is shorter than %d", pub.N.BitLen(), keyBits)
	}
	id := thumbprint(pub)
	if _, ok := k.verifying[id]; ok {
		return fmt.Errorf("key %s is there twice", id)
	}
	k.verifying[id] = pub
	n, e := coordinates(pub)
	k.jwks.Keys = append(k.jwks.Keys, JWK{KeyType: "RSA", Use: "sig", Algorithm: "RS256", ID: id, Modulus: n, Exponent: e})
	return nil
}

// SigningID returns the kid of the key that signs.
func (k *Keys) SigningID() string { return k.signingID }

// JWKS returns the document for /.well-known/jwks.json. The caller must not change it.
func (k *Keys) JWKS() JWKS { return k.jwks }

// thumbprint is the key id: RFC 7638, SHA-256 over the required members in
// lexical order, so that any instance and any tool computes the same.
func thumbprint(pub *rsa.PublicKey) string {
	n, e := coordinates(pub)
	sum := sha256.Sum256(fmt.Appendf(nil, `{"e":"%s","kty":"RSA","n":"%s"}`, e, n))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func coordinates(pub *rsa.PublicKey) (n, e string) {
	return base64.RawURLEncoding.EncodeToString(pub.N.Bytes()),
		base64.RawURLEncoding.EncodeToString(big.NewInt(int64(pub.E)).Bytes())
}
