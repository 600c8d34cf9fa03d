package identity

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/google/uuid"
)

// The form of an API key: a prefix by which scanners find one that was published by mistake,
// the key's id, the secret, and the CRC-32 (IEEE) of all before it, all but the prefix in
// lower-case hexadecimal:
//
//	bmk_<32 of the id>_<64 of the secret><8 of the checksum>
const (
	apiKeyPrefix   = "bmk_"
	apiKeyID       = len(apiKeyPrefix) + 32
	apiKeySecret   = apiKeyID + 1 + 2*secretBytes
	apiKeyLength   = apiKeySecret + 8
	lowerHexDigits = "0123456789abcdef"
)

// NewAPIKey returns a random key that names an id, and the hash to store for it.
func NewAPIKey(id uuid.UUID) (key string, hash []byte) {
	raw := make([]byte, secretBytes)
	_, _ = rand.Read(raw) // never fails: the runtime ends the process instead
	key = apiKeyPrefix + hex.EncodeToString(id[:]) + "_" + hex.EncodeToString(raw)
	key += checksum(key)
	return key, HashSecret(key)
}

// ParseAPIKey returns the id that a key names, and the hash of the whole key, by which to
// compare it. It reports false for what no NewAPIKey has made: cheaply, so that what is
// mistyped, cut off or invented is turned away before anything is looked up. A checksum is
// no secret: that a key is well formed says nothing of whether there is one.
func ParseAPIKey(text string) (id uuid.UUID, hash []byte, ok bool) {
	if len(text) != apiKeyLength || !strings.HasPrefix(text, apiKeyPrefix) || text[apiKeyID] != '_' ||
		checksum(text[:apiKeySecret]) != text[apiKeySecret:] {
		return uuid.Nil, nil, false
	}
	if strings.Trim(text[len(apiKeyPrefix):apiKeyID], lowerHexDigits) != "" || strings.Trim(text[apiKeyID+1:apiKeySecret], lowerHexDigits) != "" {
		return uuid.Nil, nil, false // one spelling a key
	}
	raw, err := hex.DecodeString(text[len(apiKeyPrefix):apiKeyID])
	if err != nil {
		return uuid.Nil, nil, false
	}
	return uuid.UUID(raw), HashSecret(text), true
}

func checksum(text string) string { return fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(text))) }
