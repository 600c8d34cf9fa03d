package admin

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bondmate/backend/pkg/identity"
)

// Permission says who may call an operation, and how the activity log names it.
type Permission struct {
	// Least is the least role that may call; zero: anybody, also who is not logged in.
	Least identity.Role
	// Scope is what an API key must hold to call; NoScope: no key can.
	Scope  Scope
	Action string // in the activity log; of operations for operators alone
	// LookUp: the operation only reads, and the gate takes it down before it runs. What
	// changes something takes itself down, in its own transaction (Service.act).
	LookUp bool
	// Target and Subject name the path parameters, if any, that are the user whom a look-up
	// is about, and another thing that it is about.
	Target, Subject string
}

// ForOperators reports whether it takes more than an account.
func (p *Permission) ForOperators() bool { return p.Least > identity.RoleUser }

// Scope is what an API key may do: `things:read` or `things:write`.
type Scope string

// The scopes. No key reads what people wrote to each other, acts as a user, or has to do
// with keys: no operation of that kind has a scope.
const (
	NoScope          Scope = ""
	ReadUsers        Scope = "users:read"
	WriteUsers       Scope = "users:write"
	ReadReports      Scope = "reports:read"
	WriteReports     Scope = "reports:write"
	ReadParked       Scope = "parked:read"
	WriteParked      Scope = "parked:write"
	ReadDeadLetters  Scope = "dead-letters:read"
	WriteDeadLetters Scope = "dead-letters:write"
	ReadDeliveries   Scope = "deliveries:read"
)

// Scopes returns all that a key can hold.
func Scopes() []Scope {
	return []Scope{ReadUsers, WriteUsers, ReadReports, WriteReports, ReadParked, WriteParked, ReadDeadLetters, WriteDeadLetters, ReadDeliveries}
}

// ParseScope reads the name of a scope.
func ParseScope(name string) (Scope, error) {
	if s := Scope(name); slices.Contains(Scopes(), s) {
		return s, nil
	}
	return NoScope, fmt.Errorf("scope %q is unknown", name)
}

// Tier is what an account has paid for. It says how much its user may have and do (slots,
// calls in a time), never which operations there are: so it is in no permission. The
// numbers are stored in users.tier.
type Tier uint8

// The tiers.
const (
	TierFree    Tier = 1
	TierPremium Tier = 2
)

// String returns the tier's name in the API.
func (t Tier) String() string {
	switch t {
	case TierFree:
		return "free"
	case TierPremium:
		return "premium"
	default:
		return fmt.Sprintf("tier(%d)", uint8(t))
	}
}

// ParseTier reads the name of a tier.
func ParseTier(name string) (Tier, error) {
	for _, t := range []Tier{TierFree, TierPremium} {
		if t.String() == name {
			return t, nil
		}
	}
	return 0, fmt.Errorf("tier %q is unknown", name)
}

// Guarded reports whether a path is for operators alone.
func Guarded(path string) bool {
	return strings.HasPrefix(path, "/api/ops/") || strings.HasPrefix(path, "/api/monitoring/")
}

// Declared is what the OpenAPI document says of who may call an operation.
type Declared struct {
	Path string
	// Public, Bearer and Key: without anything, with an access token, with an API key.
	Public, Bearer, Key bool
	Role, Scope         string // x-role and x-scope; empty without
}

// Permissions returns what each operation demands, by operationId, after holding the table
// against the document. Each operation that the table does not name, each name in it that is
// no operation, and each operation of which the two say different things is an error: who
// forgets one, or opens a route in one of the two places alone, finds out at the start.
func Permissions(operations map[string]Declared) (map[string]*Permission, error) {
	var wrong []error
	demanded := make(map[string]*Permission, len(permissions))
	for operation, d := range operations {
		p, named := permissions[operation]
		if !named {
			wrong = append(wrong, fmt.Errorf("operation %s of %s has no permission", operation, d.Path))
			continue
		}
		if err := p.agrees(d); err != nil {
			wrong = append(wrong, fmt.Errorf("operation %s of %s: %w", operation, d.Path, err))
		}
		demanded[operation] = &p
	}
	for operation := range permissions {
		if _, there := operations[operation]; !there {
			wrong = append(wrong, fmt.Errorf("permission of %s, which is no operation", operation))
		}
	}
	return demanded, errors.Join(wrong...)
}

// agrees holds a permission against itself and against the document.
func (p *Permission) agrees(d Declared) error {
	var role string
	if p.ForOperators() {
		role = p.Least.String()
	}
	switch {
	case p.ForOperators() != Guarded(d.Path):
		return fmt.Errorf("it takes the role %s, and its path says otherwise", p.Least)
	case p.ForOperators() != (p.Action != ""):
		return errors.New("operations for operators, and they alone, have a name in the activity log")
	case p.Scope != NoScope && !p.ForOperators():
		return errors.New("an API key calls nothing but operations for operators")
	case p.Scope != NoScope && !slices.Contains(Scopes(), p.Scope):
		return fmt.Errorf("its scope %q is unknown", p.Scope)
	case d.Public != (p.Least == 0):
		return fmt.Errorf("open to anybody: %t, in the document: %t", p.Least == 0, d.Public)
	case p.Least != 0 && !d.Bearer:
		return errors.New("it takes a role, and the document no access token")
	case d.Key != (p.Scope != NoScope):
		return fmt.Errorf("open to API keys: %t, in the document: %t", p.Scope != NoScope, d.Key)
	case d.Role != role:
		return fmt.Errorf("it takes the role %q, in the document: %q", role, d.Role)
	case d.Scope != string(p.Scope):
		return fmt.Errorf("it takes the scope %q, in the document: %q", p.Scope, d.Scope)
	}
	return nil
}
