package main

import (
	"context"
	"fmt"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/bondmate/backend/pkg/partner"
)

const timersWithin = 30 * time.Second

// timersTerms say which timers to list.
type timersTerms struct {
	within time.Duration
	limit  int
	failed bool
}

func timersCommand(term terminal) *cobra.Command {
	var terms timersTerms
	cmd := &cobra.Command{
		Use:   "timers",
		Short: "List the timers that are due: expiries, archivings and breakups that wait to happen",
		Long: "List the timers that are due, the longest overdue first. A timer fires once everything accepted before its\n" +
			"time has been applied, so one that is overdue by more than a few seconds means that its partition's queue is\n" +
			"late or has no owner, that its pair is parked, or that applying it fails.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := term.loadDatabase()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timersWithin)
			defer cancel()
			conn, err := connect(cfg.DatabaseURL, "timers")(ctx)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close(ctx) }()
			return listTimers(ctx, conn, term, terms)
		},
	}
	cmd.Flags().DurationVar(&terms.within, "within", 0, "also those due within this time, such as 24h")
	cmd.Flags().IntVar(&terms.limit, "limit", 100, "at most so many")
	cmd.Flags().BoolVar(&terms.failed, "failed", false, "only those that failed and were set aside")
	return cmd
}

const listTimersSQL = `
SELECT t.due_at, t.kind, t.low, t.high, t.partition, t.ref, t.due_at <= $1::timestamptz,
       EXISTS (SELECT FROM parked_commands p WHERE p.low = t.low AND p.high = t.high), COALESCE(t.error, '')
FROM timers t
WHERE t.due_at <= $2 AND (t.error IS NOT NULL OR NOT $3)
ORDER BY t.due_at, t.low, t.high LIMIT $4`

// dueTimer is a row of the list.
type dueTimer struct {
	Due       time.Time
	Kind      int16
	Low, High uuid.UUID
	Partition int
	Ref       uuid.UUID
	Overdue   bool
	Parked    bool
	Error     string
}

func (t dueTimer) state(now time.Time) string {
	switch {
	case t.Error != "":
		return "failed: " + t.Error
	case t.Overdue && t.Parked:
		return "parked"
	case t.Overdue:
		return "overdue by " + now.Sub(t.Due).Round(time.Second).String()
	default:
		return "in " + t.Due.Sub(now).Round(time.Second).String()
	}
}

// kindOf names what happens when the timer fires.
func kindOf(kind int16) string {
	switch partner.TimerKind(kind) {
	case partner.TimerRequest:
		return "request expires"
	case partner.TimerArchive:
		return "partnership is archived"
	case partner.TimerBreakup:
		return "breakup ends partnership"
	case partner.TimerUser:
		return "user is published"
	case partner.TimerCouple:
		return "couple is published"
	case partner.TimerUserAgain:
		return "user is published again"
	case partner.TimerCoupleAgain:
		return "couple is published again"
	case partner.TimerAllowance:
		return "user is told of tier and slots"
	default:
		return "kind " + strconv.Itoa(int(kind)) // of a newer program
	}
}

func listTimers(ctx context.Context, conn *pgx.Conn, term terminal, terms timersTerms) error {
	now := time.Now()
	rows, err := conn.Query(ctx, listTimersSQL, now, now.Add(terms.within), terms.failed, terms.limit)
	if err != nil {
		return fmt.Errorf("list timers: %w", err)
	}
	timers, err := pgx.CollectRows(rows, pgx.RowToStructByPos[dueTimer])
	if err != nil {
		return fmt.Errorf("list timers: %w", err)
	}
	if len(timers) == 0 {
		_, err = fmt.Fprintln(term.stdout, "no timer is due")
		return err
	}
	out := tabwriter.NewWriter(term.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "DUE\tKIND\tPAIR\tPARTITION\tREF\tSTATE")
	for _, t := range timers {
		fmt.Fprintf(out, "%s\t%s\t%s\t%d\t%s\t%s\n", t.Due.UTC().Format(time.RFC3339), kindOf(t.Kind),
			partner.Pair{Low: t.Low, High: t.High}, t.Partition, t.Ref, t.state(now))
	}
	return out.Flush()
}
