package cache

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// sealLabel separates the sealing keys from every other use of the signing key.
const sealLabel = "bondmate cache v1"

// sealer encrypts what goes to Redis: names and nicknames are in it, and an answer that
// somebody else wrote must not be served. Every entry has a key of its own, made of the
// signing key, which all instances have and Redis has not, and of the entry's name, so an
// entry under another's name does not open.
type sealer struct {
	keys  Keys
	clock func() time.Time
}

var errGarbled = errors.New("not an entry")

// rowBytes is the length of Version.Row before the body.
const rowBytes = 4

func (s sealer) id() string { return s.keys.SigningID(s.clock()) }

// seal returns the value of an entry. The sequence is readable, for the script, and cannot
// be changed; the epoch is in the entry's name.
func (s sealer) seal(name string, v Version, body []byte) ([]byte, error) {
	aead, err := s.aead(name)
	if err != nil {
		return nil, err
	}
	head := header(v.Seq)
	plain := append(binary.BigEndian.AppendUint32(make([]byte, 0, rowBytes+len(body)), v.Row), body...)
	return aead.Seal(head, nil, plain, head), nil //nolint:gosec // this AEAD draws its nonces itself and must be given none
}

// open returns what seal was given, but for the epoch.
func (s sealer) open(name string, value []byte) (Version, []byte, error) {
	seq, sealed, ok := cutHeader(value)
	if !ok {
		return Version{}, nil, errGarbled
	}
	aead, err := s.aead(name)
	if err != nil {
		return Version{}, nil, err
	}
	plain, err := aead.Open(nil, nil, sealed, header(seq))
	if err != nil || len(plain) < rowBytes {
		return Version{}, nil, errGarbled
	}
	return Version{Seq: seq, Row: binary.BigEndian.Uint32(plain)}, plain[rowBytes:], nil
}

func (s sealer) aead(name string) (cipher.AEAD, error) {
	key, err := s.keys.Derive(sealLabel, name, s.clock())
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}
