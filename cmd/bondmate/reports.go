package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/bondmate/backend/ingest/admin"
)

func reportsCommand(term terminal) *cobra.Command {
	root := &cobra.Command{
		Use:   "reports",
		Short: "The queue of reports: list, show, resolve",
		Long:  "The queue of reports. What is looked at or decided here is in the activity log, with the machine and the login.",
		Args:  cobra.NoArgs,
	}
	root.AddCommand(listReportsCommand(term), showReportCommand(term), resolveReportCommand(term))
	return root
}

func listReportsCommand(term terminal) *cobra.Command {
	var filter admin.ReportFilter
	var status string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List reports, the oldest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if status != "all" {
				var err error
				if filter.Status, err = admin.ParseReportStatus(status); err != nil {
					return fmt.Errorf("--status: %w", err)
				}
			}
			return console(cmd.Context(), term, func(ctx context.Context, s *admin.Service, actor admin.Actor) error {
				list, next, err := s.ListReports(ctx, actor, filter)
				if err != nil {
					return err
				}
				return printReports(term.stdout, list, next)
			})
		},
	}
	cmd.Flags().StringVar(&status, "status", "open", "open, resolved or all")
	cmd.Flags().StringVar(&filter.Cursor, "cursor", "", "go on where the list before ended")
	cmd.Flags().IntVar(&filter.Limit, "limit", 50, "at most so many")
	return cmd
}

func printReports(to io.Writer, list []admin.Report, next string) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(to, "no reports")
		return err
	}
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "ID\tSINCE\tABOUT\tOTHERS\tSTATUS\tREASON")
	for _, r := range list {
		status := r.Status.String()
		if r.Status == admin.ReportResolved {
			status = r.Resolution.String()
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%d\t%s\t%s\n", r.ID, r.CreatedAt.Format(time.RFC3339), r.Target.ID, r.Others, status, r.Reason)
	}
	if next != "" {
		fmt.Fprintf(out, "more: --cursor %s\n", next)
	}
	return out.Flush()
}

// onReport is a command about one report.
func onReport(term terminal, do func(context.Context, *admin.Service, admin.Actor, uuid.UUID) (admin.Report, error)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		id, err := uuid.Parse(args[0])
		if err != nil {
			return fmt.Errorf("report %q: %w", args[0], err)
		}
		return console(cmd.Context(), term, func(ctx context.Context, s *admin.Service, actor admin.Actor) error {
			r, err := do(ctx, s, actor, id)
			if err != nil {
				return err
			}
			return printReport(term.stdout, r)
		})
	}
}

func showReportCommand(term terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "show <id>",
		Short: "Show a report with all that it says",
		Args:  cobra.ExactArgs(1),
		RunE: onReport(term, func(ctx context.Context, s *admin.Service, actor admin.Actor, id uuid.UUID) (admin.Report, error) {
			return s.ShowReport(ctx, actor, id)
		}),
	}
}

func resolveReportCommand(term terminal) *cobra.Command {
	var resolution, note string
	cmd := &cobra.Command{
		Use:   "resolve <id> --as dismissed|warned|suspended",
		Short: "Decide on a report; `suspended` suspends the user in the same transaction",
		Args:  cobra.ExactArgs(1),
		RunE: onReport(term, func(ctx context.Context, s *admin.Service, actor admin.Actor, id uuid.UUID) (admin.Report, error) {
			r, err := admin.ParseResolution(resolution)
			if err != nil {
				return admin.Report{}, fmt.Errorf("--as: %w", err)
			}
			return s.Resolve(ctx, actor, id, admin.Verdict{Resolution: r, Note: note})
		}),
	}
	cmd.Flags().StringVar(&resolution, "as", "", "dismissed, warned or suspended")
	cmd.Flags().StringVar(&note, "note", "", "for other operators")
	_ = cmd.MarkFlagRequired("as") // the flag is there
	return cmd
}

func printReport(to io.Writer, r admin.Report) error {
	person := func(p admin.Person) string { return fmt.Sprintf("%s %s (%s)", p.ID, p.DisplayName, p.Status) }
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintf(out, "id\t%s\n", r.ID)
	fmt.Fprintf(out, "since\t%s\n", r.CreatedAt.Format(time.RFC3339))
	fmt.Fprintf(out, "by\t%s\n", person(r.Reporter))
	fmt.Fprintf(out, "about\t%s, %d further reports\n", person(r.Target), r.Others)
	fmt.Fprintf(out, "reason\t%s\n", r.Reason)
	fmt.Fprintf(out, "detail\t%q\n", r.Detail)
	fmt.Fprintf(out, "status\t%s\n", r.Status)
	if r.Status == admin.ReportResolved {
		fmt.Fprintf(out, "resolution\t%s at %s by %s\n", r.Resolution, r.ResolvedAt.Format(time.RFC3339), r.ResolvedBy)
		fmt.Fprintf(out, "note\t%q\n", r.Note)
	}
	return out.Flush()
}
