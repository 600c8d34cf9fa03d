package admin

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/partner"
)

// errKey says nothing of what is wrong with a key, except to its owner, in the activity log.
var errKey = fault.New(fault.Unauthenticated, "unauthenticated", "The API key is not, or no longer, good.")

// AdmitKey lets an API key into an operation, or not: it is unauthenticated when it is not
// good, and forbidden when it does not hold the operation's scope, which most operations do
// not have. The context that it returns carries the actor to the operation; from has the
// address. Who is turned away leaves a line in the log, once in a while.
func (s *Service) AdmitKey(ctx context.Context, p *Permission, text string, from Actor) (context.Context, Actor, error) {
	within, cancel := context.WithTimeout(ctx, s.cfg.Within)
	defer cancel()
	actor := Actor{Address: from.Address}
	id, hash, ok := identity.ParseAPIKey(text)
	if !ok {
		s.keys.worthALine(refusal{reason: keyMalformed})
		return ctx, actor, errKey
	}
	held, err := s.keys.find(within, id)
	if err != nil {
		return ctx, actor, err
	}
	if reason := held.refusedAt(s.now(), hash); reason != "" {
		line := entry{actor: actor, code: "unauthenticated"}
		if reason != keyUnknown {
			line.actor = held.actor(from)
		} else if held != nil {
			line.subject = held.id // whose secret somebody does not have
		}
		if err := s.refuseKey(within, line, refusal{line.actor.KeyID, reason}); err != nil {
			return ctx, actor, err
		}
		return ctx, actor, errKey
	}
	actor = held.actor(from)
	if p.Scope == NoScope || !slices.Contains(held.scopes, string(p.Scope)) {
		line := entry{actor: actor, code: "forbidden", metadata: map[string]string{}}
		detail := "No API key may do this."
		if p.Scope != NoScope {
			line.metadata["scope"] = string(p.Scope)
			detail = fmt.Sprintf("This takes the scope %s.", p.Scope)
		}
		if err := s.refuseKey(within, line, refusal{held.id, keyScope}); err != nil {
			return ctx, actor, err
		}
		return ctx, actor, fault.New(fault.Forbidden, "forbidden", detail)
	}
	if err := s.keys.use(within, held, hash); err != nil {
		return ctx, actor, err
	}
	return context.WithValue(ctx, actorKey{}, actor), actor, nil
}

func (h *heldKey) actor(from Actor) Actor {
	return Actor{KeyID: h.id, Address: from.Address, Device: "api key: " + h.name}
}

// refuseKey takes a refusal down, unless one like it was a moment ago.
func (s *Service) refuseKey(ctx context.Context, line entry, r refusal) error {
	if !s.keys.worthALine(r) {
		return nil
	}
	line.action, line.severity = "ops.key.refused", partner.SeverityWarning
	if line.metadata == nil {
		line.metadata = map[string]string{}
	}
	line.metadata["reason"] = r.reason
	if line.actor.id() == uuid.Nil {
		line.actor.Device = "api key: unknown"
	}
	if err := s.note(ctx, s.pool, line); err != nil {
		return err
	}
	s.say(ctx, line)
	return nil
}
