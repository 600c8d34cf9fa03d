package identity

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
)

const (
	familyBytes = 16
	// sealLabel separates the sealing key from every other use of the token's bytes.
	sealLabel = "bondmate refresh child v1"
)

// RefreshToken is one link of a session's chain of single-use tokens: a part that all
// tokens of the session share and a 256-bit part of its own. Whoever holds any token of
// a family, however old, can prove that he once had one: so a replayed ancestor is
// recognised without a list of all ancestors, and a stranger's guess never is.
type RefreshToken struct {
	family [familyBytes]byte
	secret [secretBytes]byte
}

// NewRefreshToken returns the first token of a new family.
func NewRefreshToken() RefreshToken {
	var t RefreshToken
	_, _ = rand.Read(t.family[:]) // never fails: the runtime ends the process instead
	_, _ = rand.Read(t.secret[:])
	return t
}

// ParseRefreshToken reads a token's text. It reports false for what never was one.
func ParseRefreshToken(s string) (RefreshToken, bool) {
	var t RefreshToken
	if len(s) != base64.RawURLEncoding.EncodedLen(familyBytes+secretBytes) {
		return t, false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(raw) != familyBytes+secretBytes { // the decoder passes over line ends
		return t, false
	}
	copy(t.family[:], raw)
	copy(t.secret[:], raw[familyBytes:])
	return t, true
}

// String returns the text that a client keeps. It is a credential: never log it.
func (t RefreshToken) String() string {
	return base64.RawURLEncoding.EncodeToString(append(t.family[:], t.secret[:]...))
}

// Next returns the token that replaces t: same family, new secret.
func (t RefreshToken) Next() RefreshToken {
	_, _ = rand.Read(t.secret[:])
	return t
}

// Hash is what is stored of a token.
func (t RefreshToken) Hash() []byte { return HashSecret(t.String()) }

// FamilyHash is what is stored of the token's family.
func (t RefreshToken) FamilyHash() []byte {
	sum := sha256.Sum256(t.family[:])
	return sum[:]
}

// Seal encrypts t's child so that only a holder of t can read it: what is stored then
// answers a repeated refresh whose first answer was lost, and is of no use to a reader
// of the database, who has only t's hash.
func (t RefreshToken) Seal(child RefreshToken) ([]byte, error) {
	aead, err := t.aead()
	if err != nil {
		return nil, fmt.Errorf("seal refresh token: %w", err)
	}
	return aead.Seal(nil, nil, child.secret[:], t.family[:]), nil //nolint:gosec // this AEAD draws its nonces itself and must be given none
}

// Open returns the child that t sealed.
func (t RefreshToken) Open(sealed []byte) (RefreshToken, error) {
	aead, err := t.aead()
	if err != nil {
		return RefreshToken{}, fmt.Errorf("open refresh token: %w", err)
	}
	secret, err := aead.Open(nil, nil, sealed, t.family[:])
	if err != nil {
		return RefreshToken{}, fmt.Errorf("open refresh token: %w", err)
	}
	if len(secret) != secretBytes {
		return RefreshToken{}, errors.New("open refresh token: wrong length")
	}
	child := RefreshToken{family: t.family}
	copy(child.secret[:], secret)
	return child, nil
}

func (t RefreshToken) aead() (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, t.secret[:], t.family[:], sealLabel, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
