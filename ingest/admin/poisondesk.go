package admin

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/ingest/api"
	"github.com/bondmate/backend/pkg/poison"
)

// ownerWait is how long a call waits for the owner of a partition unless it says otherwise.
const ownerWait = 5 * time.Second

// ListParked implements GET /api/ops/parked.
func (d *Desk) ListParked(ctx context.Context, _ api.ListParkedRequestObject) (api.ListParkedResponseObject, error) {
	pairs, err := d.service.ParkedPairs(ctx, actorOf(ctx), listLimit)
	if err != nil {
		return nil, err
	}
	list := api.ListParked200JSONResponse{Pairs: make([]api.ParkedPair, len(pairs))}
	for i, p := range pairs {
		list.Pairs[i] = p.Model()
	}
	return list, nil
}

// ShowParked implements GET /api/ops/parked/{id}.
func (d *Desk) ShowParked(ctx context.Context, req api.ShowParkedRequestObject) (api.ShowParkedResponseObject, error) {
	pair, commands, actions, err := d.service.ParkedOf(ctx, actorOf(ctx), req.Id)
	if err != nil {
		return nil, err
	}
	return api.ShowParked200JSONResponse(Detail(pair.String(), commands, actions)), nil
}

// Detail is a parked pair in the API's words.
func Detail(pair string, commands []ParkedCommand, actions []ParkedAction) api.ParkedDetail {
	detail := api.ParkedDetail{
		Pair: pair, Commands: make([]api.ParkedCommand, len(commands)), Actions: make([]api.ParkedAction, len(actions)),
	}
	for i, c := range commands {
		detail.Commands[i] = c.Model()
	}
	for i := range actions {
		detail.Actions[i] = actions[i].Model()
	}
	return detail
}

// ReadParkedPayload implements GET /api/ops/parked/{id}/payload.
func (d *Desk) ReadParkedPayload(ctx context.Context, req api.ReadParkedPayloadRequestObject) (api.ReadParkedPayloadResponseObject, error) {
	value, err := d.service.ParkedPayload(ctx, actorOf(ctx), req.Id)
	if err != nil {
		return nil, err
	}
	return api.ReadParkedPayload200JSONResponse{Value: value}, nil
}

// RetryParked implements POST /api/ops/parked/{id}/retry.
func (d *Desk) RetryParked(ctx context.Context, req api.RetryParkedRequestObject) (api.RetryParkedResponseObject, error) {
	var body api.ParkedRetry
	if req.Body != nil {
		body = *req.Body
	}
	done, err := d.order(ctx, req.Id, ordered{action: poison.Retry, dryRun: body.DryRun, wait: body.WaitSeconds})
	if err != nil {
		return nil, err
	}
	return api.RetryParked200JSONResponse(done), nil
}

// DropParked implements POST /api/ops/parked/{id}/drop.
func (d *Desk) DropParked(ctx context.Context, req api.DropParkedRequestObject) (api.DropParkedResponseObject, error) {
	var body api.ParkedDrop
	if req.Body != nil {
		body = *req.Body
	}
	done, err := d.order(ctx, req.Id, ordered{
		action: poison.Drop, alone: body.WholePair == nil || !*body.WholePair, dryRun: body.DryRun, wait: body.WaitSeconds,
	})
	if err != nil {
		return nil, err
	}
	return api.DropParked200JSONResponse(done), nil
}

// ordered is a call's order.
type ordered struct {
	action poison.Action
	alone  bool // this command, not its pair
	dryRun *bool
	wait   *int
}

func (d *Desk) order(ctx context.Context, command uuid.UUID, o ordered) (api.ParkedAction, error) {
	pair, _, err := d.service.FindParked(ctx, command.String())
	if err != nil {
		return api.ParkedAction{}, err
	}
	order := ParkedOrder{Action: o.action, Pair: pair, DryRun: o.dryRun != nil && *o.dryRun}
	if o.alone {
		order.Command = command
	}
	id, err := d.service.AskParked(ctx, actorOf(ctx), order)
	if err != nil {
		return api.ParkedAction{}, err
	}
	wait := ownerWait
	if o.wait != nil {
		wait = time.Duration(*o.wait) * time.Second
	}
	done, err := d.service.AwaitParked(ctx, id, wait)
	if err != nil {
		return api.ParkedAction{}, err
	}
	return done.Model(), nil
}

// ShowParkedAction implements GET /api/ops/parked-actions/{id}.
func (d *Desk) ShowParkedAction(ctx context.Context, req api.ShowParkedActionRequestObject) (api.ShowParkedActionResponseObject, error) {
	a, err := d.service.ParkedAction(ctx, req.Id)
	if err != nil {
		return nil, err
	}
	return api.ShowParkedAction200JSONResponse(a.Model()), nil
}

// ListDeadLetters implements GET /api/ops/dead-letters.
func (d *Desk) ListDeadLetters(ctx context.Context, _ api.ListDeadLettersRequestObject) (api.ListDeadLettersResponseObject, error) {
	letters, err := d.service.DeadLetters(ctx, actorOf(ctx), listLimit)
	if err != nil {
		return nil, err
	}
	list := api.ListDeadLetters200JSONResponse{DeadLetters: make([]api.DeadLetter, len(letters))}
	for i, l := range letters {
		list.DeadLetters[i] = l.Model()
	}
	return list, nil
}

// ShowDeadLetter implements GET /api/ops/dead-letters/{id}.
func (d *Desk) ShowDeadLetter(ctx context.Context, req api.ShowDeadLetterRequestObject) (api.ShowDeadLetterResponseObject, error) {
	l, err := d.service.DeadLetter(ctx, actorOf(ctx), req.Id)
	if err != nil {
		return nil, err
	}
	return api.ShowDeadLetter200JSONResponse(l.Model()), nil
}

// ReadDeadLetterPayload implements GET /api/ops/dead-letters/{id}/payload.
func (d *Desk) ReadDeadLetterPayload(ctx context.Context, req api.ReadDeadLetterPayloadRequestObject) (api.ReadDeadLetterPayloadResponseObject, error) {
	value, err := d.service.DeadLetterPayload(ctx, actorOf(ctx), req.Id)
	if err != nil {
		return nil, err
	}
	return api.ReadDeadLetterPayload200JSONResponse{Value: value}, nil
}

// ReplayDeadLetter implements POST /api/ops/dead-letters/{id}/replay.
func (d *Desk) ReplayDeadLetter(ctx context.Context, req api.ReplayDeadLetterRequestObject) (api.ReplayDeadLetterResponseObject, error) {
	force := req.Body != nil && req.Body.Force != nil && *req.Body.Force
	partition, err := d.service.Replay(ctx, actorOf(ctx), ReplayOrder{Letter: req.Id, Force: force}, d.replayer)
	if err != nil {
		return nil, err
	}
	return api.ReplayDeadLetter200JSONResponse{Topic: d.replayer.Topics.Commands, Partition: partition}, nil
}
