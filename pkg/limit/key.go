package limit

import (
	"bytes"
	"crypto/sha256"
	"net/netip"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/edge"
)

// kind is what a key counts. Rows are locked in the order of their keys, so of their kinds.
type kind byte

const (
	byAccount kind = 1 // an e-mail address, known or not, or who is signed in
	byAddress kind = 2
	byPlace   kind = 3 // an e-mail address at an address from which its owner has logged in
)

func (k kind) String() string {
	if k == byAddress {
		return "address"
	}
	return "account"
}

// key names a row: its kind, and a hash, so that rows are small and of one size, whatever
// is sent.
type key []byte

const hashBytes = 16

func newKey(k kind, parts ...[]byte) key {
	sum := sha256.Sum256(bytes.Join(parts, []byte{0}))
	return append(key{byte(k)}, sum[:hashBytes]...)
}

func (k key) kind() kind { return kind(k[0]) }

// network is what counts as one client.
func network(a netip.Addr) []byte { return edge.Network(a).AsSlice() }

// Try is an attempt at a password, or at another proof of who one is.
type Try struct {
	Email   string    // as it is stored; of a login
	UserID  uuid.UUID // instead of Email: of who is signed in
	Address netip.Addr
	// Unnamed says that the attempt is at nobody's account in particular, as with a token that
	// names whom it is about only once it has been verified: it counts for the address alone.
	Unnamed bool
}

// account is nil for an unnamed try.
func (t Try) account() key {
	if t.Unnamed {
		return nil
	}
	if t.Email == "" && t.UserID != uuid.Nil {
		return newKey(byAccount, []byte("user"), t.UserID[:])
	}
	return newKey(byAccount, []byte("email"), []byte(t.Email))
}

func (t Try) address() key { return newKey(byAddress, network(t.Address)) }

// place is nil for who is signed in: what they try counts for them alone already. So it is for
// an unnamed try.
func (t Try) place() key {
	if t.UserID != uuid.Nil || t.Unnamed {
		return nil
	}
	return newKey(byPlace, []byte(t.Email), network(t.Address))
}
