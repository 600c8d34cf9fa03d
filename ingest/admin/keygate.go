package admin

import (
	"context"
	"fmt"
	"slices"

	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/partner"
)

// errKey says nothing of what is wrong with a key, except to its owner, in the activity log.
var errKey = fault.New(fault.Unauthenticated, "unauthenticated", "The API key is not, or no longer, good.")

// KeyHolder is a server that has shown a good key.
type KeyHolder struct {
	Actor Actor
	held  *heldKey
	hash  []byte // of what was shown
}

// IdentifyKey returns who has a key, or the fault unauthenticated when it is not good. from
// has the address. Who is turned away leaves a line in the log, once in a while.
func (s *Service) IdentifyKey(ctx context.Context, text string, from Actor) (*KeyHolder, error) {
	id, hash, ok := identity.ParseAPIKey(text)
	if !ok {
		s.keys.worthALine(refusal{reason: keyMalformed})
		return nil, errKey
	}
	within, cancel := context.WithTimeout(ctx, s.cfg.Within)
	defer cancel()
	held, err := s.keys.find(within, id)
	if err != nil {
		return nil, err
	}
	reason := held.refusedAt(s.now(), hash)
	if reason == "" {
		return &KeyHolder{Actor: held.actor(from), held: held, hash: hash}, nil
	}
	line := entry{actor: Actor{Address: from.Address, Device: "api key: unknown"}, code: "unauthenticated"}
	if reason != keyUnknown {
		line.actor = held.actor(from)
	} else if held != nil {
		line.subject = held.id // whose secret somebody does not have
	}
	if err := s.refuseKey(within, line, reason); err != nil {
		return nil, err
	}
	return nil, errKey
}

// AdmitKey lets a server into an operation, or not: it is forbidden when its key does not
// hold the operation's scope, which most operations do not have. The context that it returns
// carries the actor to the operation. Who is turned away leaves a line, once in a while.
func (s *Service) AdmitKey(ctx context.Context, p *Permission, h *KeyHolder) (context.Context, error) {
	within, cancel := context.WithTimeout(ctx, s.cfg.Within)
	defer cancel()
	if p.Scope == NoScope || !slices.Contains(h.held.scopes, string(p.Scope)) {
		line := entry{actor: h.Actor, code: "forbidden"}
		detail := "No API key may do this."
		if p.Scope != NoScope {
			line.metadata = map[string]string{"scope": string(p.Scope)}
			detail = fmt.Sprintf("This takes the scope %s.", p.Scope)
		}
		if err := s.refuseKey(within, line, keyScope); err != nil {
			return ctx, err
		}
		return ctx, fault.New(fault.Forbidden, "forbidden", detail)
	}
	if err := s.keys.use(within, h.held, h.hash); err != nil {
		return ctx, err
	}
	return context.WithValue(ctx, actorKey{}, h.Actor), nil
}

func (h *heldKey) actor(from Actor) Actor {
	return Actor{KeyID: h.id, Address: from.Address, Device: "api key: " + h.name}
}

// refuseKey takes a refusal down, unless one like it was a moment ago.
func (s *Service) refuseKey(ctx context.Context, line entry, reason string) error {
	if !s.keys.worthALine(refusal{line.actor.KeyID, reason}) {
		return nil
	}
	line.action, line.severity = "ops.key.refused", partner.SeverityWarning
	if line.metadata == nil {
		line.metadata = map[string]string{}
	}
	line.metadata["reason"] = reason
	if err := s.note(ctx, s.pool, line); err != nil {
		return err
	}
	s.say(ctx, line)
	return nil
}
