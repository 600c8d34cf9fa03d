package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/partner"
)

const replayWithin = 30 * time.Minute

// replayTerms say what to rebuild, as typed.
type replayTerms struct {
	couple string
	asOf   string
	asJSON bool
}

func replayCommand(term terminal) *cobra.Command {
	var terms replayTerms
	cmd := &cobra.Command{
		Use:   "replay --couple A:B",
		Short: "Rebuild a couple from its events, as of any time, and compare it with the tables",
		Long: "Rebuild a couple from its events with the rules of the core: requests, partnerships, breakups, and what each\n" +
			"side has decided. A and B are user ids or partner codes, in any order.\n\n" +
			"Without --as-of the result is compared with the tables, at one moment, and any difference ends the command with\n" +
			"an error. With --as-of it is the state by the events applied until then, as the tables showed it at that time:\n" +
			"a request whose time was over counts as pending until it was applied that it expired.\n\n" +
			"Events are kept for a while only. What began before the oldest one that is left is marked history_dropped and\n" +
			"not compared further than the events reach. Texts and nicknames are in no event, and never shown.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := term.loadDatabase()
			if err != nil {
				return err
			}
			return replay(cmd.Context(), term, cfg, terms)
		},
	}
	cmd.Flags().StringVar(&terms.couple, "couple", "", "the two users, A:B")
	cmd.Flags().StringVar(&terms.asOf, "as-of", "", "an RFC 3339 time or a date (UTC, its beginning); without it: now, and compared with the tables")
	cmd.Flags().BoolVar(&terms.asJSON, "json", false, "print one JSON object")
	_ = cmd.MarkFlagRequired("couple")
	return cmd
}

func replay(ctx context.Context, term terminal, cfg config.Config, terms replayTerms) error {
	now := time.Now()
	asOf := now
	if terms.asOf != "" {
		var err error
		if asOf, err = parseInstant("--as-of", terms.asOf); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, replayWithin)
	defer cancel()
	conn, err := connect(cfg.DatabaseURL, "replay")(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	pair, err := resolveCouple(ctx, conn, terms.couple)
	if err != nil {
		return err
	}
	if err := checkPartitions(ctx, conn, cfg.KafkaPartitions); err != nil {
		return err
	}
	past := &pairPast{pair: pair, partition: contract.PartitionOf([]byte(pair.String()), cfg.KafkaPartitions)}
	if err := past.read(ctx, conn); err != nil {
		return err
	}
	report := past.report(replayScope{
		asOf: asOf, compare: !asOf.Before(now),
		// By how much times of two machines, and of two calls that overtake each other, differ.
		skew: 2*cfg.ClockSkew + cfg.IngestDeadline,
	})
	if terms.asJSON {
		err = json.NewEncoder(term.stdout).Encode(report)
	} else {
		err = report.print(term.stdout)
	}
	if err != nil {
		return fmt.Errorf("print the replay: %w", err)
	}
	if n := len(report.Differences); n > 0 {
		return fault.New(fault.Conflict, "replay_differs", fmt.Sprintf("events and tables differ in %d places", n))
	}
	return nil
}

// parseInstant reads a time as an operator types it.
func parseInstant(flag, text string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fault.New(fault.Invalid, "invalid_time",
		fmt.Sprintf("%s %q is neither an RFC 3339 time such as 2026-01-31T09:00:00Z nor a date such as 2026-01-31", flag, text))
}

func resolveCouple(ctx context.Context, conn *pgx.Conn, couple string) (partner.Pair, error) {
	a, b, ok := strings.Cut(couple, ":")
	if !ok {
		return partner.Pair{}, fault.New(fault.Invalid, "invalid_couple", fmt.Sprintf("--couple %q is not A:B", couple))
	}
	var ids [2]uuid.UUID
	for i, text := range []string{a, b} {
		var err error
		if ids[i], err = resolveUser(ctx, conn, text); err != nil {
			return partner.Pair{}, err
		}
	}
	if ids[0] == ids[1] {
		return partner.Pair{}, fault.New(fault.Invalid, "invalid_couple", fmt.Sprintf("--couple %q is one user twice", couple))
	}
	return partner.PairOf(ids[0], ids[1]), nil
}

// replayScope says until when to fold, and whether to compare.
type replayScope struct {
	asOf    time.Time
	compare bool
	skew    time.Duration
}

// report folds what was read.
func (p *pairPast) report(scope replayScope) replayReport {
	// In order, up to the first that was applied later: the tables went through exactly
	// these states.
	events := p.events
	if i := slices.IndexFunc(events, func(e pastEvent) bool { return e.appliedAt.After(scope.asOf) }); i >= 0 && !scope.compare {
		events = events[:i]
	}
	horizon := partner.Horizon{Complete: p.oldestSeq == 1, Since: p.oldestAt.Add(scope.skew), Skew: scope.skew}
	h := partner.NewHistory(p.pair, horizon.Complete)
	r := replayReport{
		Pair: p.pair.String(), Partition: p.partition, AsOf: scope.asOf.UTC(), Compared: scope.compare,
		History: historyComplete, Differences: []partner.Difference{}, Dropped: []string{}, Timeline: []replayStep{},
	}
	if !horizon.Complete {
		r.History, r.OldestEvent = historyDropped, &p.oldestAt
	}
	for _, e := range events {
		h = partner.Evolve(h, e.Event)
		r.Timeline = append(r.Timeline, newReplayStep(e))
	}
	r.fill(h)
	if scope.compare {
		differences, dropped := partner.Compare(h, p.stored, horizon)
		r.Differences, r.Dropped = append(r.Differences, differences...), append(r.Dropped, dropped...)
	}
	return r
}
