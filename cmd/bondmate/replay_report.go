package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

// What replayReport.History says.
const (
	historyComplete = "complete"
	historyDropped  = "history_dropped" // older events of the partition are removed
)

// replayReport is what --json prints.
type replayReport struct {
	Pair         string               `json:"pair"`
	Partition    int                  `json:"partition"`
	AsOf         time.Time            `json:"asOf"`
	History      string               `json:"history"`
	OldestEvent  *time.Time           `json:"oldestEvent,omitempty"` // of the partition, with history_dropped
	Partnerships []replayPartnership  `json:"partnerships"`
	Requests     []replayRequest      `json:"requests"`
	Breakups     []replayBreakup      `json:"breakups"`
	Sides        []replaySide         `json:"sides"`
	Timeline     []replayStep         `json:"timeline"`
	Compared     bool                 `json:"compared"` // false with an earlier --as-of
	Differences  []partner.Difference `json:"differences"`
	Dropped      []string             `json:"dropped"` // what could not be compared
}

type replayPartnership struct {
	ID              uuid.UUID  `json:"id"`
	Status          string     `json:"status"`
	StartedAt       *time.Time `json:"startedAt,omitempty"`
	EndedAt         *time.Time `json:"endedAt,omitempty"`
	EndedBy         *uuid.UUID `json:"endedBy,omitempty"`
	RestorableUntil *time.Time `json:"restorableUntil,omitempty"`
	Quiet           bool       `json:"quiet,omitempty"`
	RestoredCount   *int       `json:"restoredCount,omitempty"`
	LowSlot         int16      `json:"lowSlot,omitempty"`
	HighSlot        int16      `json:"highSlot,omitempty"`
	Dropped         bool       `json:"historyDropped,omitempty"` // its start is not among the events
}

type replayRequest struct {
	ID         uuid.UUID  `json:"id"`
	Status     string     `json:"status"`
	Sender     *uuid.UUID `json:"sender,omitempty"`
	Target     *uuid.UUID `json:"target,omitempty"`
	CreatedAt  *time.Time `json:"createdAt,omitempty"`
	ExpiresAt  *time.Time `json:"expiresAt,omitempty"`
	ResolvedAt *time.Time `json:"resolvedAt,omitempty"`
	Dropped    bool       `json:"historyDropped,omitempty"`
}

type replayBreakup struct {
	ID            uuid.UUID  `json:"id"`
	Status        string     `json:"status"`
	PartnershipID *uuid.UUID `json:"partnershipId,omitempty"`
	Asker         *uuid.UUID `json:"asker,omitempty"`
	CreatedAt     *time.Time `json:"createdAt,omitempty"`
	ExpiresAt     *time.Time `json:"expiresAt,omitempty"`
	ResolvedAt    *time.Time `json:"resolvedAt,omitempty"`
	Dropped       bool       `json:"historyDropped,omitempty"`
}

type replaySide struct {
	UserID       uuid.UUID  `json:"userId"`
	BlockedAt    *time.Time `json:"blockedAt,omitempty"`
	DoorClosedAt *time.Time `json:"doorClosedAt,omitempty"`
	Forfeited    *uuid.UUID `json:"forfeited,omitempty"`
	Declines     int        `json:"declines"`
	LastDeclined *time.Time `json:"lastDeclinedAt,omitempty"`
}

// replayStep is one event of the timeline.
type replayStep struct {
	Seq        int64             `json:"seq"`
	AppliedAt  time.Time         `json:"appliedAt"`
	AcceptedAt time.Time         `json:"acceptedAt"`
	EventID    uuid.UUID         `json:"eventId"`
	CommandID  uuid.UUID         `json:"commandId"`
	Type       string            `json:"type"`
	Data       partner.EventData `json:"data"`
}

func newReplayStep(e pastEvent) replayStep {
	return replayStep{
		Seq: e.seq, AppliedAt: e.appliedAt, AcceptedAt: e.At, EventID: e.ID, CommandID: e.CommandID, Type: e.Type.String(), Data: e.Data,
	}
}

// fill takes over the rebuilt state.
func (r *replayReport) fill(h partner.History) {
	r.Partnerships, r.Requests, r.Breakups = []replayPartnership{}, []replayRequest{}, []replayBreakup{}
	for _, p := range h.Partnerships {
		row := replayPartnership{
			ID: p.ID, Status: p.Status.String(), StartedAt: known(p.StartedAt), EndedAt: known(p.EndedAt), EndedBy: knownID(p.EndedBy),
			RestorableUntil: known(p.RestorableUntil), Quiet: p.Quiet, LowSlot: p.LowSlot, HighSlot: p.HighSlot, Dropped: !p.Begun,
		}
		if p.Begun {
			row.RestoredCount = &p.RestoredCount
		}
		r.Partnerships = append(r.Partnerships, row)
	}
	for _, q := range h.Requests {
		r.Requests = append(r.Requests, replayRequest{
			ID: q.ID, Status: q.Status.String(), Sender: knownID(q.Sender), Target: knownID(q.Target), CreatedAt: known(q.CreatedAt),
			ExpiresAt: known(q.ExpiresAt), ResolvedAt: known(q.ResolvedAt), Dropped: !q.Begun,
		})
	}
	for _, b := range h.Breakups {
		r.Breakups = append(r.Breakups, replayBreakup{
			ID: b.ID, Status: b.Status.String(), PartnershipID: knownID(b.PartnershipID), Asker: knownID(b.Asker), CreatedAt: known(b.CreatedAt),
			ExpiresAt: known(b.ExpiresAt), ResolvedAt: known(b.ResolvedAt), Dropped: !b.Begun,
		})
	}
	for i, s := range [...]partner.PastSide{h.Low, h.High} {
		r.Sides = append(r.Sides, replaySide{
			UserID: [...]uuid.UUID{h.Pair.Low, h.Pair.High}[i], BlockedAt: known(s.BlockedAt), DoorClosedAt: known(s.DoorClosedAt), Forfeited: knownID(s.Forfeited),
			Declines: s.Declines, LastDeclined: known(s.LastDeclined),
		})
	}
}

func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func knownID(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}

// print writes the report for people.
func (r replayReport) print(to io.Writer) error {
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	var failed error
	line := func(format string, args ...any) {
		_, err := fmt.Fprintf(out, format+"\n", args...)
		failed = errors.Join(failed, err)
	}
	line("couple %s, partition %d, %d events as of %s", r.Pair, r.Partition, len(r.Timeline), r.AsOf.Format(time.RFC3339))
	if r.OldestEvent != nil {
		line("%s: events of this partition before %s are removed", r.History, r.OldestEvent.Format(time.RFC3339))
	}
	line("\nSTATE")
	for _, p := range r.Partnerships {
		line("partnership\t%s\t%s\t%s", p.ID, p.Status, facts(
			"since", p.StartedAt, "restored", p.RestoredCount, "ended", p.EndedAt, "by", p.EndedBy, "restorable until", p.RestorableUntil,
			"quietly", p.Quiet, historyDropped, p.Dropped))
	}
	for _, q := range r.Requests {
		line("request\t%s\t%s\t%s", q.ID, q.Status, facts("from", q.Sender, "made", q.CreatedAt, "expires", q.ExpiresAt,
			"resolved", q.ResolvedAt, historyDropped, q.Dropped))
	}
	for _, b := range r.Breakups {
		line("breakup\t%s\t%s\t%s", b.ID, b.Status, facts("asked by", b.Asker, "made", b.CreatedAt, "expires", b.ExpiresAt,
			"resolved", b.ResolvedAt, historyDropped, b.Dropped))
	}
	for _, s := range r.Sides {
		if text := facts("blocks since", s.BlockedAt, "door closed since", s.DoorClosedAt, "forfeited", s.Forfeited, "declined last", s.LastDeclined); text != "" {
			line("side\t%s\t\t%s", s.UserID, text)
		}
	}
	line("\nTIMELINE\nAPPLIED\tSEQ\tEVENT\tCOMMAND\tWHAT")
	for _, e := range r.Timeline {
		line("%s\t%d\t%s\t%s\t%s", e.AppliedAt.Format("2006-01-02T15:04:05.000Z"), e.Seq, e.Type, e.CommandID, e.what())
	}
	line("\nDIFFERENCES")
	switch {
	case !r.Compared:
		line("not compared: the tables show now, not %s", r.AsOf.Format(time.RFC3339))
	case len(r.Differences) == 0:
		line("none")
	}
	for _, d := range r.Differences {
		line("%s", d)
	}
	for _, what := range r.Dropped {
		line("%s: %s cannot be compared in full", historyDropped, what)
	}
	return errors.Join(failed, out.Flush())
}

// what says what a step is about, by ids alone.
func (s replayStep) what() string {
	d := s.Data
	return facts("request", d.RequestID, "partnership", d.PartnershipID, "breakup", d.BreakupID, "by", d.ByUserID, "from", d.FromUserID,
		"to", d.ToUserID, "about", d.UserID, "restored", d.Restored, "blocked", d.Blocked, "crossed", d.Crossed, "silent", d.Silent,
		d.Command, d.Command != "", string(d.Code), d.Code != "")
}

// facts joins names and values, and leaves out what is not known or not so.
func facts(pairs ...any) string {
	var out []string
	for pair := range slices.Chunk(pairs, 2) {
		name := fmt.Sprint(pair[0])
		switch v := pair[1].(type) {
		case *time.Time:
			if v != nil {
				out = append(out, name+" "+v.Format(time.RFC3339))
			}
		case *uuid.UUID:
			if v != nil {
				out = append(out, name+" "+v.String())
			}
		case *int:
			if v != nil && *v > 0 {
				out = append(out, name+" "+strconv.Itoa(*v)+" times")
			}
		case *bool:
			if v != nil {
				out = append(out, name+" "+strconv.FormatBool(*v))
			}
		case bool:
			if v {
				out = append(out, name)
			}
		}
	}
	return strings.Join(out, ", ")
}
