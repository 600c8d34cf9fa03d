package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/partner"
)

const (
	exportWithin = 12 * time.Hour
	// settleWithin is how old an event's time is at most when it is committed: a transaction
	// has a few seconds, and clocks differ less than that. What is older is complete.
	settleWithin = time.Minute
)

// exportTerms say what to export, as typed.
type exportTerms struct {
	from, to string
	types    []string
	output   string
}

func exportCommand(term terminal) *cobra.Command {
	export := &cobra.Command{Use: "export", Short: "Write what analysts read from the topics, from the database: for backfill"}
	var terms exportTerms
	events := &cobra.Command{
		Use:   "events --from T [--to T] [--type NAME…] [--output FILE]",
		Short: "Write the events applied in a span of time as JSON lines",
		Long: "Write the events that were applied from --from until before --to, one CloudEvent in JSON format a line: what\n" +
			"is on the events topic, with the headers as attributes and the partition as one more. No text that anybody wrote.\n\n" +
			"The order is by partition and, within it, by seq: each pair's events are in order. Events are never changed, so\n" +
			"the same span gives the same lines; a reader of the topic as well drops repeats by id, or by (epoch, partition,\n" +
			"seq). --to is at most a minute ago, so that all of the span is there; without it, it is that.\n\n" +
			"It reads from DATABASE_READ_URL when that is set, once the replica holds what the primary at DATABASE_URL did at the\n" +
			"start. Where events of the span have been removed since, it says history_dropped on stderr.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := term.loadDatabase()
			if err != nil {
				return err
			}
			span, err := terms.span(time.Now())
			if err != nil {
				return err
			}
			return exportEvents(cmd.Context(), term, cfg, span, terms.output)
		},
	}
	events.Flags().StringVar(&terms.from, "from", "", "the first time, RFC 3339 or a date (UTC, its beginning)")
	events.Flags().StringVar(&terms.to, "to", "", "the time before which it ends, likewise; without it: a minute ago")
	events.Flags().StringSliceVar(&terms.types, "type", nil, "only these types, such as partnership.started; again, or with commas")
	events.Flags().StringVar(&terms.output, "output", "", "a file to write, which must not be there yet; without it: stdout")
	_ = events.MarkFlagRequired("from")
	export.AddCommand(events)
	return export
}

// span is what to export.
type span struct {
	from, to time.Time
	types    []int16 // empty: all
}

func (t exportTerms) span(now time.Time) (s span, err error) {
	if s.from, err = parseInstant("--from", t.from); err != nil {
		return s, err
	}
	settled := now.Add(-settleWithin).UTC()
	if s.to = settled; t.to != "" {
		if s.to, err = parseInstant("--to", t.to); err != nil {
			return s, err
		}
	}
	if s.to.After(settled) {
		return s, fault.New(fault.Invalid, "not_settled", fmt.Sprintf("--to %s is not a minute ago yet: events of the span may still come", t.to))
	}
	if !s.from.Before(s.to) {
		return s, fault.New(fault.Invalid, "empty_span", fmt.Sprintf("--from %s is not before --to %s", s.from.Format(time.RFC3339), s.to.Format(time.RFC3339)))
	}
	for _, name := range t.types {
		kind, ok := partner.ParseEventType(strings.TrimSpace(name))
		if !ok {
			return s, fault.New(fault.Invalid, "unknown_type", fmt.Sprintf("there is no event type %q", name))
		}
		s.types = append(s.types, int16(kind))
	}
	return s, nil
}

func exportEvents(ctx context.Context, term terminal, cfg config.Config, s span, output string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, exportWithin)
	defer cancel()
	source, err := openEventSource(ctx, cfg, replicaWithin)
	if err != nil {
		return err
	}
	defer source.close()
	to, finish, err := openOutput(term.stdout, output)
	if err != nil {
		return err
	}
	n, err := source.export(ctx, s, to)
	if err := errors.Join(err, finish(err == nil)); err != nil {
		return err
	}
	for _, gap := range source.gaps {
		if _, err := fmt.Fprintln(term.stderr, gap); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(term.stderr, "%d events from %s until before %s\n", n, s.from.Format(time.RFC3339), s.to.Format(time.RFC3339))
	return err
}

// openOutput returns where to write. A file takes its name only when all is in it: half an
// export is never taken for a whole one.
func openOutput(stdout io.Writer, name string) (to *bufio.Writer, finish func(whole bool) error, err error) {
	if name == "" {
		to = bufio.NewWriterSize(stdout, 1<<16)
		return to, func(bool) error { return to.Flush() }, nil
	}
	exists := fault.New(fault.Conflict, "output_exists", fmt.Sprintf("--output %s is there already", name))
	if _, err := os.Lstat(name); err == nil {
		return nil, nil, exists
	}
	file, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".part-*")
	if err != nil {
		return nil, nil, fault.Wrap(err, fault.Invalid, "output_unwritable", fmt.Sprintf("--output %s cannot be written", name))
	}
	to = bufio.NewWriterSize(file, 1<<16)
	return to, func(whole bool) error {
		defer func() { _ = os.Remove(file.Name()) }()
		if err := errors.Join(to.Flush(), file.Sync(), file.Close()); err != nil || !whole {
			return err
		}
		// A link, unlike a rename, does not replace what somebody else made meanwhile.
		if err := os.Link(file.Name(), name); errors.Is(err, os.ErrExist) {
			return exists
		} else if err != nil {
			return fmt.Errorf("name the export: %w", err)
		}
		return nil
	}, nil
}
