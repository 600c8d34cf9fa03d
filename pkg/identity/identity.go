// Package identity proves who is calling: RS256 access tokens and their keys,
// argon2id password hashes, opaque refresh tokens and tickets, and partner codes.
//
// It owns no storage and starts no goroutine. What it guarantees:
//
//   - A token that Verify accepts was signed by one of Keys with RS256, for this
//     issuer, this audience and this purpose, and has not expired. Verify never says
//     that the session still exists: that changes without the token changing, so
//     whoever serves a request asks for it apart.
//   - A Secret is kept only as its SHA-256; no reader of the database can present it.
//   - Passwords bounds how much memory and CPU strangers can make hashing take.
//
// Everything here is safe for concurrent use.
package identity

import (
	"fmt"
	"time"

	"github.com/google/uuid"
)

// Role is what an account may do. The numbers are stored in users.role.
type Role uint8

// The roles.
const (
	RoleUser    Role = 1
	RoleSupport Role = 2 // reads the consoles
	RoleAdmin   Role = 3
)

// String returns the role's name on the wire.
func (r Role) String() string {
	switch r {
	case RoleUser:
		return "user"
	case RoleSupport:
		return "support"
	case RoleAdmin:
		return "admin"
	default:
		return fmt.Sprintf("role(%d)", uint8(r))
	}
}

// ParseRole reads the name of a role.
func ParseRole(s string) (Role, error) {
	for _, r := range []Role{RoleUser, RoleSupport, RoleAdmin} {
		if r.String() == s {
			return r, nil
		}
	}
	return 0, fmt.Errorf("role %q is unknown", s)
}

// Identity is who a verified access token speaks for.
type Identity struct {
	UserID    uuid.UUID
	SessionID uuid.UUID
	Role      Role
	ExpiresAt time.Time // the token's exp; a socket opened with it must not outlive it
}
