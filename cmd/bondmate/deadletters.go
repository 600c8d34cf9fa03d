package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/bondmate/backend/ingest/admin"
	"github.com/bondmate/backend/ingest/api"
	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/contract"
)

// letterTerms are the flags of the commands below.
type letterTerms struct {
	json    bool
	limit   int
	payload bool
	force   bool
}

func deadLettersCommand(term terminal) *cobra.Command {
	root := &cobra.Command{
		Use:   "dead-letters",
		Short: "Look at records that nothing could read, and write them to their topic again",
		Long: "Look at records that nothing could read, and write them to their topic again. A dead letter is named by where\n" +
			"its record lay, topic/partition/offset, or by its id on the dead-letter topic. It is kept for 30 days, its bytes for 7. What is done or looked at here is in\n" +
			"the activity log.",
		Args: cobra.NoArgs,
	}
	root.AddCommand(lettersListCommand(term), letterShowCommand(term), letterReplayCommand(term))
	return root
}

func lettersListCommand(term terminal) *cobra.Command {
	var terms letterTerms
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List dead letters, the newest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return console(cmd.Context(), term, func(ctx context.Context, s *admin.Service, actor admin.Actor) error {
				letters, err := s.DeadLetters(ctx, actor, terms.limit)
				if err != nil {
					return err
				}
				if terms.json {
					shown := api.DeadLetterList{DeadLetters: []api.DeadLetter{}}
					for _, l := range letters {
						shown.DeadLetters = append(shown.DeadLetters, l.Model())
					}
					return printJSON(term.stdout, shown)
				}
				if len(letters) == 0 {
					_, err = fmt.Fprintln(term.stdout, "there are no dead letters")
					return err
				}
				out := tabwriter.NewWriter(term.stdout, 0, 0, 2, ' ', 0)
				fmt.Fprintln(out, "SINCE\tRECORD\tBYTES\tREPLAYED\tERROR")
				for _, l := range letters {
					replayed := "-"
					if !l.ReplayedAt.IsZero() {
						replayed = instant(l.ReplayedAt)
					}
					fmt.Fprintf(out, "%s\t%s\t%d\t%s\t%s\n", instant(l.CreatedAt), admin.LetterRef{Topic: l.Topic, Place: l.Place}, l.Shape.Bytes, replayed, l.Error)
				}
				return out.Flush()
			})
		},
	}
	cmd.Flags().IntVar(&terms.limit, "limit", 100, "at most so many")
	cmd.Flags().BoolVar(&terms.json, "json", false, "as JSON")
	return cmd
}

// onLetter is a command about one dead letter.
func onLetter(term terminal, do func(context.Context, *admin.Service, admin.Actor, uuid.UUID) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		id, err := admin.LetterID(args[0])
		if err != nil {
			return err
		}
		return console(cmd.Context(), term, func(ctx context.Context, s *admin.Service, actor admin.Actor) error {
			return do(ctx, s, actor, id)
		})
	}
}

func letterShowCommand(term terminal) *cobra.Command {
	var terms letterTerms
	cmd := &cobra.Command{
		Use:   "show <topic/partition/offset|id>",
		Short: "Show the shape of a dead letter",
		Long:  "Show the shape of a dead letter. Its bytes may hold what people wrote: --payload prints them, and is taken down as such.",
		Args:  cobra.ExactArgs(1),
		RunE: onLetter(term, func(ctx context.Context, s *admin.Service, actor admin.Actor, id uuid.UUID) error {
			if terms.payload {
				value, err := s.DeadLetterPayload(ctx, actor, id)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(term.stdout, "%s\n", value)
				return err
			}
			l, err := s.DeadLetter(ctx, actor, id)
			if err != nil {
				return err
			}
			if terms.json {
				return printJSON(term.stdout, l.Model())
			}
			out := tabwriter.NewWriter(term.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintf(out, "record\t%s/%d/%d\n", l.Topic, l.Place.Partition, l.Place.Offset)
			fmt.Fprintf(out, "set aside\t%s: %s\n", instant(l.CreatedAt), l.Error)
			if !l.ReplayedAt.IsZero() {
				fmt.Fprintf(out, "replayed\t%s by %s\n", instant(l.ReplayedAt), l.ReplayedBy)
			}
			fmt.Fprintf(out, "key\t%s\n", l.Key)
			for _, h := range l.Headers {
				fmt.Fprintf(out, "header\t%s\n", h)
			}
			fmt.Fprintf(out, "value\t%d bytes\n", l.Shape.Bytes)
			fmt.Fprintf(out, "readable\t%s\n", l.Shape.Readable)
			if l.Shape.Type != "" {
				fmt.Fprintf(out, "type\t%s version %d\n", l.Shape.Type, l.Shape.Version)
			}
			for _, f := range l.Shape.Fields {
				fmt.Fprintf(out, "\t%s\n", f)
			}
			return out.Flush()
		}),
	}
	cmd.Flags().BoolVar(&terms.payload, "payload", false, "print the bytes, as they are")
	cmd.Flags().BoolVar(&terms.json, "json", false, "as JSON")
	return cmd
}

func letterReplayCommand(term terminal) *cobra.Command {
	var terms letterTerms
	cmd := &cobra.Command{
		Use:   "replay <topic/partition/offset|id>",
		Short: "Write a dead letter's bytes to the commands topic again",
		Long: "Write a dead letter's bytes to the commands topic again, to the partition that its key belongs on. It then has\n" +
			"its place behind all that its pair has done meanwhile, and its id sees to it that it takes effect once. Refused\n" +
			"is what this program cannot read either.",
		Args: cobra.ExactArgs(1),
		RunE: onLetter(term, func(ctx context.Context, s *admin.Service, actor admin.Actor, id uuid.UUID) error {
			cfg, err := term.load()
			if err != nil {
				return err
			}
			if len(cfg.KafkaBrokers) == 0 {
				return &config.Fault{Variable: "KAFKA_BROKERS", Problem: "is needed; all writes its own to DATA_DIR/kafka.addr"}
			}
			log, err := newLogger(cfg, term)
			if err != nil {
				return err
			}
			client := newBus(cfg, cfg.KafkaBrokers, log)
			defer client.Close()
			topics := contract.NewTopics(cfg.KafkaTopicPrefix)
			partition, err := s.Replay(ctx, actor, admin.ReplayOrder{Letter: id, Force: terms.force}, admin.Replayer{
				Topics: topics, Partitions: cfg.KafkaPartitions,
				Publish: func(ctx context.Context, rec contract.Record) error { return client.Write(ctx, []contract.Record{rec}) },
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(term.stdout, "it is on %s/%d again\n", topics.Commands, partition)
			return err
		}),
	}
	cmd.Flags().BoolVar(&terms.force, "force", false, "also what this program cannot read")
	return cmd
}
