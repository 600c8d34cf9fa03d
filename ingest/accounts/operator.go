package accounts

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/partner"
)

// operatorSession is how long a session at the operators' page lasts at the most. The page
// gets no refresh token, so nothing makes it longer.
const operatorSession = 8 * time.Hour

// Operator is a session at the operators' page.
type Operator struct {
	UserID, SessionID uuid.UUID
	Role              identity.Role
}

// TurnedAwayError is the fault of a login at the operators' page with the right password of an
// account that is no operator's: something to take down. Its text and fault are those of a
// wrong password.
type TurnedAwayError struct {
	UserID uuid.UUID
	err    error
}

func (e *TurnedAwayError) Error() string { return e.err.Error() }

// Unwrap returns the fault.
func (e *TurnedAwayError) Unwrap() error { return e.err }

// OperatorLogin is Login for the operators' page: the same bounds on attempts, and one more
// thing that has to be right, the role. Whoever is no operator, or whose account is not
// active, has tried a wrong password as far as they are told and as it is counted. The
// session ends 8 hours later at the latest.
func (s *Service) OperatorLogin(ctx context.Context, in LoginInput) (Operator, error) {
	in.least, in.lasts = identity.RoleSupport, operatorSession
	o, started, err := s.login(ctx, in)
	if err != nil {
		return Operator{}, err
	}
	return Operator{UserID: o.ID, SessionID: started.id, Role: o.role}, nil
}

const isOperatorSQL = `
SELECT EXISTS (SELECT 1 FROM users WHERE id = $1 AND role >= $2 AND status = $3)`

func (s *Service) isOperator(ctx context.Context, userID uuid.UUID, least identity.Role) (bool, error) {
	var yes bool
	if err := s.pool.QueryRow(ctx, isOperatorSQL, userID, least, partner.UserActive).Scan(&yes); err != nil {
		return false, fmt.Errorf("look up role of %s: %w", userID, err)
	}
	return yes, nil
}
