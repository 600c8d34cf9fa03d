package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/bondmate/backend/ingest/admin"
	"github.com/bondmate/backend/ingest/api"
	"github.com/bondmate/backend/pkg/poison"
)

// parkedWait is how long retry and drop wait for the partition's owner, and the most that
// --wait takes: an operator's command as a whole ends after consoleWithin.
const (
	parkedWait     = 10 * time.Second
	parkedWaitMost = 25 * time.Second
)

// parkedTerms are the flags of the commands below.
type parkedTerms struct {
	json    bool
	limit   int
	payload bool
	dryRun  bool
	wait    time.Duration
}

func parkedCommand(term terminal) *cobra.Command {
	root := &cobra.Command{
		Use:   "parked",
		Short: "Look at pairs whose commands wait because one could not be applied, and retry or drop them",
		Long: "Look at pairs whose commands wait because one could not be applied, and retry or drop them. A pair is named\n" +
			"as low:high, or by the id of one of its parked commands. The owner of the pair's partition carries out a\n" +
			"retry or a drop. What is asked for or looked at here is in the activity log.",
		Args: cobra.NoArgs,
	}
	root.AddCommand(parkedListCommand(term), parkedShowCommand(term),
		parkedActCommand(term, poison.Retry, "retry <pair|command>", "Apply what is parked on a pair, in order, until one fails again",
			"Apply what is parked on a pair, in order, until one fails again: that one stays parked with its new error, and\n"+
				"so does what is behind it. A command of a newer program stays parked until that program runs, and then goes on\n"+
				"by itself."),
		parkedActCommand(term, poison.Drop, "drop <pair|command>", "Reject a parked command, or all that wait on a pair; the rest goes on",
			"Reject a parked command with the code dropped, which its issuer is told; named by its pair: all that wait now.\n"+
				"What is parked besides goes on as by a retry."))
	return root
}

func parkedListCommand(term terminal) *cobra.Command {
	var terms parkedTerms
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the parked pairs, the longest parked first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return console(cmd.Context(), term, func(ctx context.Context, s *admin.Service, actor admin.Actor) error {
				pairs, err := s.ParkedPairs(ctx, actor, terms.limit)
				if err != nil {
					return err
				}
				if terms.json {
					shown := api.ParkedList{Pairs: []api.ParkedPair{}}
					for _, p := range pairs {
						shown.Pairs = append(shown.Pairs, p.Model())
					}
					return printJSON(term.stdout, shown)
				}
				if len(pairs) == 0 {
					_, err = fmt.Fprintln(term.stdout, "nothing is parked")
					return err
				}
				out := tabwriter.NewWriter(term.stdout, 0, 0, 2, ' ', 0)
				fmt.Fprintln(out, "SINCE\tPAIR\tPARTITION\tCOMMANDS\tFIRST\tREASON\tERROR")
				for _, p := range pairs {
					fmt.Fprintf(out, "%s\t%s\t%d\t%d\t%s\t%s\t%s\n", instant(p.Since), p.Pair, p.Partition, p.Commands, p.Head, p.Reason, p.Error)
				}
				return out.Flush()
			})
		},
	}
	cmd.Flags().IntVar(&terms.limit, "limit", 100, "at most so many")
	cmd.Flags().BoolVar(&terms.json, "json", false, "as JSON")
	return cmd
}

func parkedShowCommand(term terminal) *cobra.Command {
	var terms parkedTerms
	cmd := &cobra.Command{
		Use:   "show <pair|command>",
		Short: "Show the shape of what is parked on a pair, and what was asked for",
		Long: "Show the shape of what is parked on a pair, and what was asked for. What people wrote is not shown, save with\n" +
			"--payload, which takes one command's id and is taken down as such.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return console(cmd.Context(), term, func(ctx context.Context, s *admin.Service, actor admin.Actor) error {
				pair, command, err := s.FindParked(ctx, args[0])
				if err != nil {
					return err
				}
				if terms.payload {
					if command == uuid.Nil {
						return errors.New("--payload shows one command: name it by its id")
					}
					value, err := s.ParkedPayload(ctx, actor, command)
					if err != nil {
						return err
					}
					_, err = fmt.Fprintf(term.stdout, "%s\n", value)
					return err
				}
				commands, actions, err := s.Parked(ctx, actor, pair)
				if err != nil {
					return err
				}
				if terms.json {
					return printJSON(term.stdout, admin.Detail(pair.String(), commands, actions))
				}
				return printParked(term.stdout, commands, actions)
			})
		},
	}
	cmd.Flags().BoolVar(&terms.payload, "payload", false, "print what the command holds, as it is")
	cmd.Flags().BoolVar(&terms.json, "json", false, "as JSON")
	return cmd
}

func printParked(to io.Writer, commands []admin.ParkedCommand, actions []admin.ParkedAction) error {
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, c := range commands {
		fmt.Fprintf(out, "command\t%s\n", c.ID)
		fmt.Fprintf(out, "parked\t%s: %s %s\n", instant(c.ParkedAt), c.Reason, c.Error)
		fmt.Fprintf(out, "place\t%d/%d\n", c.Place.Partition, c.Place.Offset)
		fmt.Fprintf(out, "readable\t%s\n", c.Shape.Readable)
		fmt.Fprintf(out, "type\t%s version %d\n", c.Shape.Type, c.Shape.Version)
		for _, f := range c.Shape.Fields {
			fmt.Fprintf(out, "\t%s\n", f)
		}
		fmt.Fprintln(out)
	}
	for i := range actions {
		a := &actions[i]
		fmt.Fprintf(out, "asked\t%s by %s: %s\n", instant(a.RequestedAt), a.By, said(a))
	}
	return out.Flush()
}

// said is an action in a line.
func said(a *admin.ParkedAction) string {
	what := string(a.Action)
	if a.Command != uuid.Nil {
		what += " of command " + a.Command.String()
	}
	if a.DryRun {
		what = "dry run of a " + what
	}
	switch {
	case a.ExecutedAt.IsZero():
		return what + fmt.Sprintf(": waits for the partition's owner, %d settled so far", a.Settled)
	case a.DryRun:
		return what + ": " + string(a.Outcome)
	case a.Outcome == poison.Stopped:
		return what + fmt.Sprintf(": %d settled, then stopped at %s", a.Settled, a.Error)
	case a.Outcome == poison.NothingParked:
		return what + ": nothing of it was parked any more"
	default:
		return what + fmt.Sprintf(": %d settled", a.Settled)
	}
}

// errStillParked makes the program's exit status say that the pair waits on.
var errStillParked = errors.New("the pair is still parked")

func parkedActCommand(term terminal, action poison.Action, use, short, long string) *cobra.Command {
	var terms parkedTerms
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if terms.wait > parkedWaitMost {
				return fmt.Errorf("--wait: at most %s", parkedWaitMost)
			}
			return console(cmd.Context(), term, func(ctx context.Context, s *admin.Service, actor admin.Actor) error {
				pair, command, err := s.FindParked(ctx, args[0])
				if err != nil {
					return err
				}
				order := admin.ParkedOrder{Action: action, Pair: pair, DryRun: terms.dryRun}
				if action == poison.Drop {
					order.Command = command
				}
				id, err := s.AskParked(ctx, actor, order)
				if err != nil {
					return err
				}
				done, err := s.AwaitParked(ctx, id, terms.wait)
				if err != nil {
					return err
				}
				return printOutcome(term, terms, &done)
			})
		},
	}
	cmd.Flags().BoolVar(&terms.dryRun, "dry-run", false, "print what would happen, and change nothing")
	cmd.Flags().DurationVar(&terms.wait, "wait", parkedWait, "how long to wait for the partition's owner; it carries out what was asked for also later")
	cmd.Flags().BoolVar(&terms.json, "json", false, "as JSON")
	return cmd
}

func printOutcome(term terminal, terms parkedTerms, a *admin.ParkedAction) error {
	if terms.json {
		if err := printJSON(term.stdout, a.Model()); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(term.stdout, "%s, %d parked on %s now\n", said(a), a.Waiting, a.Pair)
		if a.Report != nil {
			printRehearsal(term.stdout, a.Report)
		}
	}
	switch {
	case a.ExecutedAt.IsZero():
		return fmt.Errorf("no owner of the partition has taken it up within %s; it will be carried out once there is one", terms.wait)
	case a.Outcome == poison.Stopped:
		return errStillParked
	default:
		return nil
	}
}

func printRehearsal(to io.Writer, r *poison.Report) {
	for _, s := range r.Steps {
		fmt.Fprintf(to, "\n%s %s of %s: %s\n", s.Type, s.CommandID, s.Issuer, strings.TrimSpace(s.Outcome+" "+s.Error))
		for _, c := range s.Changes {
			if c.Before != "" {
				fmt.Fprintf(to, "- %s: %s\n", c.What, c.Before)
			}
			if c.After != "" {
				fmt.Fprintf(to, "+ %s: %s\n", c.What, c.After)
			}
		}
		for _, e := range s.Events {
			fmt.Fprintf(to, "  event %s\n", e)
		}
		for _, f := range s.FollowUps {
			fmt.Fprintf(to, "  follow-up %s\n", f)
		}
	}
	if r.More > 0 {
		fmt.Fprintf(to, "\n%d more wait behind\n", r.More)
	}
}

func printJSON(to io.Writer, v any) error {
	enc := json.NewEncoder(to)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("print as JSON: %w", err)
	}
	return nil
}

func instant(t time.Time) string { return t.UTC().Format(time.RFC3339) }
