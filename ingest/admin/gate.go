package admin

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/partner"
)

// The role of a live session's user. An account that is not active administers nothing.
const sessionRoleSQL = `
SELECT u.role
FROM sessions s
JOIN users u ON u.id = s.user_id
WHERE s.id = $1 AND s.user_id = $2 AND s.revoked_at IS NULL AND s.expires_at > $3 AND u.status = $4`

// Admit lets a session into an operation, or not. It asks the database each time: neither
// the token's claim nor an answer from before counts. The context that it returns carries
// the actor to the operation. Who is turned away gets forbidden and a line in the log.
func (s *Service) Admit(ctx context.Context, p *Permission, session uuid.UUID, actor Actor) (context.Context, error) {
	within, cancel := context.WithTimeout(ctx, s.cfg.Within)
	defer cancel()
	var role identity.Role
	err := s.pool.QueryRow(within, sessionRoleSQL, session, actor.UserID, s.now(), partner.UserActive).Scan(&role)
	if errors.Is(err, pgx.ErrNoRows) {
		return ctx, fault.New(fault.Unauthenticated, "unauthenticated", "The session has ended.")
	}
	if err != nil {
		return ctx, fmt.Errorf("look up role of session %s: %w", session, err)
	}
	if role < p.Least {
		refusal := entry{actor: actor, action: p.Action, severity: partner.SeverityWarning, code: "forbidden"}
		if err := s.note(within, s.pool, refusal); err != nil {
			return ctx, err
		}
		s.say(ctx, refusal)
		return ctx, fault.New(fault.Forbidden, "forbidden", fmt.Sprintf("This takes the role %s.", p.Least))
	}
	return context.WithValue(context.WithValue(ctx, actorKey{}, actor), roleKey{}, role), nil
}

type roleKey struct{}

// RoleOf returns the role of whom Admit has let in.
func RoleOf(ctx context.Context) identity.Role {
	role, _ := ctx.Value(roleKey{}).(identity.Role)
	return role
}

// Page is what the page at /ops demands. It is no operation: all that it shows and does are
// calls of operations.
func Page() *Permission { return &Permission{Least: identity.RoleSupport, Action: "ops.console"} }

// TakeDown writes the line of a look-up that is about to run, with the path's parameters,
// which have been validated. It does nothing for an operation that takes itself down.
func (s *Service) TakeDown(ctx context.Context, p *Permission, vars map[string]string) error {
	if !p.LookUp {
		return nil
	}
	within, cancel := context.WithTimeout(ctx, s.cfg.Within)
	defer cancel()
	line := entry{actor: actorOf(ctx), action: p.Action, severity: partner.SeverityInfo}
	for name, id := range map[string]*uuid.UUID{p.Target: &line.target, p.Subject: &line.subject} {
		if name == "" {
			continue
		}
		var err error
		if *id, err = uuid.Parse(vars[name]); err != nil {
			return fmt.Errorf("take down %s: parameter %s: %w", p.Action, name, err)
		}
	}
	if err := s.note(within, s.pool, line); err != nil {
		return err
	}
	s.say(ctx, line)
	return nil
}
