package identity

import (
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"time"
)

// derivedBytes is the length of a derived key: AES-256.
const derivedBytes = 32

// Derive returns a secret that all who share these keys can make at that time, and nobody
// else: for what instances leave each other where others can read. It comes of the key that
// SigningID names; after a rotation it is another one. The label separates it from every
// other use of the signing key, the salt one secret of a label from the next.
func (k *Keys) Derive(label, salt string, now time.Time) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, k.signer(now).key.D.Bytes(), []byte(salt), label, derivedBytes)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return key, nil
}
