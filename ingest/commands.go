package ingest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"

	"github.com/bondmate/backend/ingest/api"
	"github.com/bondmate/backend/pkg/edge"
	"github.com/bondmate/backend/pkg/partner"
)

// SendRequest implements POST …/request. A request to oneself or to an id that nobody
// has is the core's to reject; a partner code is looked up here, since codes are made
// at registration and never queued.
func (s *Server) SendRequest(ctx context.Context, req api.SendRequestRequestObject) (api.SendRequestResponseObject, error) {
	body := req.Body
	if (body.ToUserId == nil) == (body.PartnerCode == nil) {
		return nil, invalid("", "one_of", "Give exactly one of toUserId and partnerCode.")
	}
	message, err := s.sanitised("/message", body.Message)
	if err != nil {
		return nil, err
	}
	return s.carryOut(ctx, call{
		kind: partner.Send, prefer: req.Params.Prefer, key: req.Params.IdempotencyKey,
		resolve: func(ctx context.Context, in *intent, cmd *partner.Command) (time.Duration, error) {
			target, err := s.target(ctx, in, body)
			if err != nil {
				return 0, err
			}
			cmd.Pair = partner.PairOf(in.issuer, target)
			cmd.Message, cmd.Fresh = message, isTrue(body.Fresh)
			return 0, nil
		},
	})
}

// target is whom a request is for. A search by code counts against the command's deadline.
func (s *Server) target(ctx context.Context, in *intent, body *api.SendRequest) (uuid.UUID, error) {
	if body.ToUserId != nil {
		return *body.ToUserId, nil
	}
	ctx, cancel := context.WithDeadline(ctx, in.arrived.Add(s.commander.deadline))
	defer cancel()
	person, err := s.accounts.FindByPartnerCode(ctx, *body.PartnerCode)
	return person.ID, err
}

// AcceptRequest implements PUT …/request/{requestId}/accept.
func (s *Server) AcceptRequest(ctx context.Context, req api.AcceptRequestRequestObject) (api.AcceptRequestResponseObject, error) {
	fresh := req.Body != nil && isTrue(req.Body.Fresh)
	return s.carryOut(ctx, call{
		kind: partner.Accept, prefer: req.Params.Prefer, key: req.Params.IdempotencyKey,
		resolve: s.onRequest(req.RequestId, fresh),
	})
}

// RejectRequest implements PUT …/request/{requestId}/reject.
func (s *Server) RejectRequest(ctx context.Context, req api.RejectRequestRequestObject) (api.RejectRequestResponseObject, error) {
	return s.carryOut(ctx, call{
		kind: partner.Decline, prefer: req.Params.Prefer, key: req.Params.IdempotencyKey,
		resolve: s.onRequest(req.RequestId, false),
	})
}

// CancelRequest implements DELETE …/request/{requestId}.
func (s *Server) CancelRequest(ctx context.Context, req api.CancelRequestRequestObject) (api.CancelRequestResponseObject, error) {
	return s.carryOut(ctx, call{
		kind: partner.Cancel, prefer: req.Params.Prefer, key: req.Params.IdempotencyKey,
		resolve: s.onRequest(req.RequestId, false),
	})
}

// Remove implements POST …/remove.
func (s *Server) Remove(ctx context.Context, req api.RemoveRequestObject) (api.RemoveResponseObject, error) {
	var body api.Remove
	if req.Body != nil {
		body = *req.Body
	}
	answer, err := s.remove(ctx, body, req.Params.Prefer, req.Params.IdempotencyKey)
	return answer, err
}

// RemoveByDelete implements DELETE …/remove. What the body says goes before the query.
func (s *Server) RemoveByDelete(ctx context.Context, req api.RemoveByDeleteRequestObject) (api.RemoveByDeleteResponseObject, error) {
	body := api.Remove{PartnershipId: req.Params.PartnershipId, Quiet: req.Params.Quiet}
	if b := req.Body; b != nil {
		body.Reason = b.Reason
		if b.PartnershipId != nil {
			body.PartnershipId = b.PartnershipId
		}
		if b.Quiet != nil {
			body.Quiet = b.Quiet
		}
	}
	return s.remove(ctx, body, req.Params.Prefer, req.Params.IdempotencyKey)
}

func (s *Server) remove(ctx context.Context, body api.Remove, prefer, key *string) (commandAnswer, error) {
	reason, err := s.sanitised("/reason", body.Reason)
	if err != nil {
		return commandAnswer{}, err
	}
	return s.carryOut(ctx, call{
		kind: partner.Remove, prefer: prefer, key: key,
		resolve: func(ctx context.Context, in *intent, cmd *partner.Command) (time.Duration, error) {
			pair, waited, err := s.pairToPart(ctx, in, body.PartnershipId)
			if err != nil {
				return waited, err
			}
			cmd.Pair, cmd.Reason, cmd.Quiet = pair, reason, isTrue(body.Quiet)
			if body.PartnershipId != nil {
				cmd.PartnershipID = *body.PartnershipId
			}
			return waited, nil
		},
	})
}

// call is what an operation says about its command.
type call struct {
	kind        partner.CommandType
	prefer, key *string
	secret      bool // the body is a secret: it stays out of the fingerprint
	resolve     completion
}

// carryOut makes an intent of the call and answers it.
func (s *Server) carryOut(ctx context.Context, c call) (commandAnswer, error) {
	x := exchangeOf(ctx)
	in := &intent{
		kind: c.kind, issuer: x.caller.UserID, arrived: x.arrived, wait: preferredWait(c.prefer),
		gone: x.request.Context().Done(), traceparent: traceparent(x.request),
		address: edge.ClientOf(x.request).String(), device: userAgent(x.request),
	}
	in.resolve = func(ctx context.Context, cmd *partner.Command) (time.Duration, error) {
		return c.resolve(ctx, in, cmd)
	}
	key := ""
	if c.key != nil {
		key = *c.key
	}
	body := x.body
	if c.secret {
		body = nil
	}
	if err := in.identify(key, x.request.Method, x.request.URL, body); err != nil {
		return commandAnswer{}, err
	}
	v, err := s.commander.issue(ctx, in)
	if err != nil {
		if rejected, ok := errors.AsType[*rejection](err); ok && rejected.headers == nil {
			rejected.headers = answerHeaders(in, false)
		}
		return commandAnswer{}, err
	}
	return answerTo(in, v)
}

// maxUserAgent is how much of a User-Agent is kept, in bytes.
const maxUserAgent = 200

// userAgent is the head of what the client says of itself, which can be anything.
func userAgent(r *http.Request) string {
	agent := r.UserAgent()
	clean, err := partner.SanitizeText(agent[:min(len(agent), maxUserAgent)], maxUserAgent)
	if err != nil {
		return "" // not longer than its bytes, so this does not happen
	}
	return clean
}

// completion makes a command of an intent; see intent.resolve.
type completion func(ctx context.Context, in *intent, cmd *partner.Command) (waited time.Duration, err error)

// about completes a command about another user who is named by id. It looks at nothing:
// that a call was accepted must not tell how the other one stands to the caller.
func about(other uuid.UUID, fill func(*partner.Command)) completion {
	return func(_ context.Context, in *intent, cmd *partner.Command) (time.Duration, error) {
		cmd.Pair = partner.PairOf(in.issuer, other)
		if fill != nil {
			fill(cmd)
		}
		return 0, nil
	}
}

// alone completes a command about the caller.
func alone(fill func(*partner.Command)) completion {
	return func(_ context.Context, in *intent, cmd *partner.Command) (time.Duration, error) {
		cmd.Pair = partner.PairOf(in.issuer, in.issuer)
		if fill != nil {
			fill(cmd)
		}
		return 0, nil
	}
}

// onRequest completes a command about a request: in memory when it was sent here lately,
// else from the primary, else once the pipe has passed what was queued. To anyone but its
// two parties a request does not exist.
func (s *Server) onRequest(id uuid.UUID, fresh bool) completion {
	return func(ctx context.Context, in *intent, cmd *partner.Command) (time.Duration, error) {
		pair, waited, err := s.pairOfRequest(ctx, in, id)
		if err != nil {
			return waited, err
		}
		if !pair.Has(in.issuer) {
			return waited, notFound("There is no such request.")
		}
		cmd.Pair, cmd.RequestID, cmd.Fresh = pair, id, fresh
		return waited, nil
	}
}

func (s *Server) pairOfRequest(ctx context.Context, in *intent, id uuid.UUID) (partner.Pair, time.Duration, error) {
	if pair, ok := s.commander.pairs.get(id); ok {
		return pair, 0, nil
	}
	var pair partner.Pair
	waited, found, err := s.lookTwice(ctx, in.wait, func(ctx context.Context) (bool, error) {
		var err error
		var ok bool
		pair, ok, err = s.store.requestPair(ctx, id)
		return ok, err
	})
	if err != nil {
		return pair, waited, err
	}
	if !found {
		return pair, waited, notFound("There is no such request.")
	}
	s.commander.pairs.put(id, pair)
	return pair, waited, nil
}

// pairToPart finds whom a removal concerns: the members of the named partnership, or of
// the caller's only one.
func (s *Server) pairToPart(ctx context.Context, in *intent, id *uuid.UUID) (partner.Pair, time.Duration, error) {
	var pairs []partner.Pair
	waited, found, err := s.lookTwice(ctx, in.wait, func(ctx context.Context) (bool, error) {
		var err error
		if id != nil {
			pairs, err = s.store.partnershipPair(ctx, *id, in.issuer)
		} else {
			pairs, err = s.store.activePairs(ctx, in.issuer)
		}
		return len(pairs) > 0, err
	})
	switch {
	case err != nil:
		return partner.Pair{}, waited, err
	case !found:
		return partner.Pair{}, waited, rejectedAs(string(partner.CodeNotCurrent))
	case len(pairs) > 1:
		return partner.Pair{}, waited, invalid("/partnershipId", "required", "You have several partners; say which partnership ends.")
	}
	return pairs[0], waited, nil
}

// lookTwice looks, and when that misses waits until everything queued before has been
// applied and looks again: only then is a miss final.
func (s *Server) lookTwice(ctx context.Context, wait time.Duration, look func(context.Context) (bool, error)) (waited time.Duration, found bool, err error) {
	if found, err = look(ctx); found || err != nil {
		return 0, found, err
	}
	if wait == 0 {
		wait = pipeWait
	}
	began := time.Now()
	err = s.pipe.drained(ctx, wait)
	waited = time.Since(began)
	if err != nil {
		return waited, false, err
	}
	found, err = look(ctx)
	return waited, found, err
}

// GetCommand implements GET /api/commands/{id}. To anyone but its issuer a command does
// not exist.
func (s *Server) GetCommand(ctx context.Context, req api.GetCommandRequestObject) (api.GetCommandResponseObject, error) {
	caller := exchangeOf(ctx).caller.UserID
	out, err := s.outcomes.look(ctx, req.Id)
	if err != nil {
		return nil, err
	}
	if out == nil {
		if e, ok := s.commander.ledger.accepted(req.Id); ok && e.issuer == caller {
			return api.GetCommand200JSONResponse{
				Id: e.id, Type: e.kind.String(), Status: api.CommandStatusAccepted, AcceptedAt: e.acceptedAt,
			}, nil
		}
		if err = s.pipe.drained(ctx, pipeWait); err != nil {
			return nil, err
		}
		if out, err = s.outcomes.look(ctx, req.Id); err != nil {
			return nil, err
		}
	}
	if out == nil || out.Issuer != caller {
		return nil, notFound("There is no such command.")
	}
	return commandOf(out), nil
}

func commandOf(out *outcome) api.GetCommand200JSONResponse {
	appliedAt := out.AppliedAt.UTC()
	answer := api.GetCommand200JSONResponse{
		Id: out.ID, Type: out.typeName(), Status: api.CommandStatusRejected,
		AcceptedAt: out.AcceptedAt.UTC(), AppliedAt: &appliedAt,
	}
	if out.applied() {
		result := out.result()
		answer.Status, answer.Result = api.CommandStatusApplied, &result
		return answer
	}
	code := api.ErrorCode(out.code())
	answer.Code = &code
	return answer
}

// sanitised returns an optional message or reason as it is stored: it may have several lines.
func (s *Server) sanitised(pointer string, text *string) (string, error) {
	if text == nil {
		return "", nil
	}
	clean, err := partner.SanitizeLines(*text, s.limits.MessageMaxLen)
	if err != nil {
		return "", tooLong(pointer, s.limits.MessageMaxLen, err)
	}
	return clean, nil
}

// name returns a text that stands for somebody as it is stored: it must show something.
func name(pointer, text string, limit int) (string, error) {
	clean, err := partner.SanitizeText(text, limit)
	if err != nil {
		return "", tooLong(pointer, limit, err)
	}
	if !strings.ContainsFunc(clean, unicode.IsPrint) {
		return "", invalid(pointer, "too_short", "Nothing of it can be seen.")
	}
	return clean, nil
}

func tooLong(pointer string, limit int, cause error) error {
	f := invalid(pointer, "too_long", fmt.Sprintf("At most %d characters of text.", limit))
	f.Cause = cause
	return f
}

func isTrue(b *bool) bool { return b != nil && *b }
