package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/bondmate/backend/ingest/admin"
	"github.com/bondmate/backend/ingest/api"
)

func deliveriesCommand(term terminal) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "deliveries <event id>",
		Short: "Show what became of an event's pushes, device by device",
		Long: "Show what became of an event's pushes, device by device: due, sending or settled, and with which outcome. A delivery\n" +
			"is kept for 45 days. Looking at it is in the activity log.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			event, err := uuid.Parse(args[0])
			if err != nil {
				return fmt.Errorf("%q is no event id: %w", args[0], err)
			}
			return console(cmd.Context(), term, func(ctx context.Context, s *admin.Service, actor admin.Actor) error {
				found, err := s.Deliveries(ctx, actor, event)
				if err != nil {
					return err
				}
				list := api.DeliveryList{Deliveries: []api.Delivery{}}
				for _, d := range found {
					list.Deliveries = append(list.Deliveries, d.Model())
				}
				if asJSON {
					return printJSON(term.stdout, list)
				}
				if len(found) == 0 {
					_, err = fmt.Fprintln(term.stdout, "no push of this event was due to anybody's device, or it is over 45 days ago")
					return err
				}
				out := tabwriter.NewWriter(term.stdout, 0, 0, 2, ' ', 0)
				fmt.Fprintln(out, "USER\tDEVICE\tTYPE\tSTATUS\tOUTCOME\tATTEMPTS\tDUE\tSETTLED\tTOLD\tERROR")
				for _, d := range list.Deliveries {
					outcome, settled, failure := "-", "-", "-"
					if d.Outcome != nil {
						outcome = string(*d.Outcome)
					}
					if d.Replaced {
						outcome += " (replaced)"
					}
					if d.SettledAt != nil {
						settled = instant(*d.SettledAt)
					}
					if d.Error != nil {
						failure = *d.Error
					}
					fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%t\t%s\n",
						d.UserId, d.DeviceId, d.Type, d.Status, outcome, d.Attempts, instant(d.DueAt), settled, d.Told, failure)
				}
				return out.Flush()
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}
