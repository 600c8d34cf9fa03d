package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
)

// secretBytes is 256 bits: nobody guesses one, so it is stored under a plain hash.
const secretBytes = 32

// NewSecret returns a random opaque token (base64url) and the SHA-256 to store for it.
func NewSecret() (secret string, hash []byte) {
	raw := make([]byte, secretBytes)
	_, _ = rand.Read(raw) // never fails: the runtime ends the process instead
	secret = base64.RawURLEncoding.EncodeToString(raw)
	return secret, HashSecret(secret)
}

// HashSecret returns the SHA-256 under which a secret is stored: of its text, so that
// two spellings of the same bytes are two secrets.
func HashSecret(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}
