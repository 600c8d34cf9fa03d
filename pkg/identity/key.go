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
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

const (
	keyBits = 2048
	// keyFile is the development key's name inside the data directory.
	keyFile = "jwt.pem"
	// maxKeyFile bounds what is read of a file, in bytes; two keys are under 4 KiB.
	maxKeyFile = 1 << 20
)

// settleFor is how long a key that was put first in the file is known before it signs: all
// instances have read the file again by then (watchEvery), and whoever keeps the JWKS
// document has asked for it again (JWKSMaxAge).
const settleFor = 2 * time.Minute

// JWKSMaxAge is how long the JWKS document may be kept.
const JWKSMaxAge = time.Minute

// Keys are the signing key and every key whose tokens are still accepted, as the file has
// them. They are safe for concurrent use.
type Keys struct {
	file string
	set  atomic.Pointer[keySet]
}

// keySet is what a file held at one time.
type keySet struct {
	private   []signer
	verifying map[string]*rsa.PublicKey // by kid
	jwks      JWKS
	written   time.Time // of the file
	size      int64
}

type signer struct {
	id  string // kid
	key *rsa.PrivateKey
}

// signer returns the first private key, or the second one while the first is new: a key
// that other instances don't know yet would have its tokens refused there.
func (k *Keys) signer(now time.Time) signer {
	set := k.set.Load()
	if len(set.private) > 1 && now.Before(set.written.Add(settleFor)) {
		return set.private[1]
	}
	return set.private[0]
}

// verifying returns the key of a token's kid.
func (k *Keys) verifying(kid string) (*rsa.PublicKey, bool) {
	key, ok := k.set.Load().verifying[kid]
	return key, ok
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
// (PKCS #8 or PKCS #1) signs; the others, private or public, only verify. A rotation
// puts a new key first and keeps the old one behind it until its last token has expired
// (Rotate does so); the old one goes on signing for two minutes. Watch reads the file again
// when it changes.
func LoadKeys(file string) (*Keys, error) {
	set, err := readKeys(file)
	if err != nil {
		return nil, err
	}
	k := &Keys{file: file}
	k.set.Store(set)
	return k, nil
}

func readKeys(file string) (*keySet, error) {
	f, err := os.Open(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("read signing keys: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read signing keys: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("read signing keys: %w", err)
	}
	set, err := parseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("signing keys in %s: %w", file, err)
	}
	set.written, set.size = info.ModTime(), info.Size()
	return set, nil
}

// DevelopmentKeyFile is where LoadOrCreateDevelopmentKeys keeps the keys of a data directory.
func DevelopmentKeyFile(dir string) string { return filepath.Join(dir, keyFile) }

// LoadOrCreateDevelopmentKeys reads dir/jwt.pem, or makes it with a new key, readable
// by its owner only. Of two processes that start at once both use the same key.
func LoadOrCreateDevelopmentKeys(dir string) (*Keys, error) {
	file := DevelopmentKeyFile(dir)
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

func parseKeys(text []byte) (*keySet, error) {
	k := &keySet{verifying: map[string]*rsa.PublicKey{}, jwks: JWKS{Keys: []JWK{}}}
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
			k.private = append(k.private, signer{thumbprint(&key.PublicKey), key})
		case *rsa.PublicKey:
			if err := k.add(key); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("a %T is not an RSA key", key)
		}
	}
	if len(k.private) == 0 {
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

func (k *keySet) add(pub *rsa.PublicKey) error {
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

// SigningID returns the kid of the key that signs at a time.
func (k *Keys) SigningID(now time.Time) string { return k.signer(now).id }

// JWKS returns the document for /.well-known/jwks.json. The caller must not change it.
func (k *Keys) JWKS() JWKS { return k.set.Load().jwks }

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
