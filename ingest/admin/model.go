package admin

import (
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/ingest/api"
)

// How the API and the operator's commands show what waits and what nobody could read.

// Model is the pair in the API's words.
func (p ParkedPair) Model() api.ParkedPair {
	return api.ParkedPair{
		Pair: p.Pair.String(), Partition: p.Partition, Commands: p.Commands, Since: p.Since.UTC(), First: p.Head,
		Reason: api.ParkedReason(p.Reason), Error: p.Error,
	}
}

// Model is the command in the API's words.
func (c ParkedCommand) Model() api.ParkedCommand {
	return api.ParkedCommand{
		Id: c.ID, Reason: api.ParkedReason(c.Reason), Error: c.Error, ParkedAt: c.ParkedAt.UTC(),
		Partition: c.Place.Partition, Offset: c.Place.Offset, Shape: c.Shape.model(),
	}
}

func (s Shape) model() api.RecordShape {
	shown := api.RecordShape{Bytes: s.Bytes, Fields: append([]string{}, s.Fields...), Readable: s.Readable}
	if s.Type != "" {
		shown.Type, shown.Version = &s.Type, &s.Version
	}
	if s.Issuer != uuid.Nil {
		shown.Issuer = &s.Issuer
	}
	return shown
}

// Model is the action in the API's words.
func (a *ParkedAction) Model() api.ParkedAction {
	shown := api.ParkedAction{
		Id: a.ID, Pair: a.Pair.String(), Action: api.ParkedActionAction(a.Action), DryRun: a.DryRun, RequestedBy: a.By,
		RequestedAt: a.RequestedAt.UTC(), Settled: a.Settled, Waiting: a.Waiting, ExecutedAt: told(a.ExecutedAt), Error: given(a.Error),
	}
	if a.Command != uuid.Nil {
		shown.CommandId = &a.Command
	}
	if a.Outcome != "" {
		outcome := api.ParkedActionOutcome(a.Outcome)
		shown.Outcome = &outcome
	}
	if a.Report == nil {
		return shown
	}
	report := api.ParkedReport{More: a.Report.More, Steps: make([]api.ParkedStep, len(a.Report.Steps))}
	for i, s := range a.Report.Steps {
		step := api.ParkedStep{
			CommandId: s.CommandID, Type: s.Type, Issuer: s.Issuer, Outcome: s.Outcome, Error: given(s.Error),
			Changes: make([]api.ParkedChange, len(s.Changes)),
			Events:  append([]string{}, s.Events...), FollowUps: append([]string{}, s.FollowUps...),
		}
		for j, c := range s.Changes {
			step.Changes[j] = api.ParkedChange{What: c.What, Before: c.Before, After: c.After}
		}
		report.Steps[i] = step
	}
	shown.Report = &report
	return shown
}

// Model is the dead letter in the API's words.
func (l DeadLetter) Model() api.DeadLetter {
	return api.DeadLetter{
		Id: l.ref().ID(), Topic: l.Topic, Partition: l.Place.Partition, Offset: l.Place.Offset, Error: l.Error, CreatedAt: l.CreatedAt.UTC(),
		Key: l.Key, Headers: append([]string{}, l.Headers...), Shape: l.Shape.model(), ReplayedAt: told(l.ReplayedAt), ReplayedBy: given(l.ReplayedBy),
	}
}

func (l DeadLetter) ref() LetterRef { return LetterRef{l.Topic, l.Place} }

func told(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func given(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
