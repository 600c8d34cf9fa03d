// Package cursor is the text form of a place in a list: a time, with an id to tell equals
// apart. It is opaque to clients, and no secret.
package cursor

import (
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/google/uuid"
)

const size = 8 + 16

// Encode returns the text of a place. Times count in microseconds.
func Encode(at time.Time, id uuid.UUID) string {
	raw := binary.BigEndian.AppendUint64(make([]byte, 0, size), uint64(at.UnixMicro()))
	return base64.RawURLEncoding.EncodeToString(append(raw, id[:]...))
}

// Decode reads the text of a place; false for one that Encode does not make.
func Decode(text string) (at time.Time, id uuid.UUID, ok bool) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) != size || len(text) != base64.RawURLEncoding.EncodedLen(size) { // the decoder passes over line ends
		return time.Time{}, uuid.Nil, false
	}
	at = time.UnixMicro(int64(binary.BigEndian.Uint64(raw))).UTC()
	if at.Year() < 1 || at.Year() > 9999 { // Postgres has no such time
		return time.Time{}, uuid.Nil, false
	}
	return at, uuid.UUID(raw[8:]), true
}
