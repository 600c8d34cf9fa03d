package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/bondmate/backend/ingest/admin"
)

func apiKeysCommand(term terminal) *cobra.Command {
	root := &cobra.Command{
		Use:   "api-keys",
		Short: "Make, list, rotate and revoke the keys with which servers call /api/ops",
		Long: "Make, list, rotate and revoke the keys with which servers call what is under /api/ops, as X-API-Key. A key is named by its\n" +
			"name or id. It is stored as a hash, so create and rotate print it once, alone on standard output. What is done here is in\n" +
			"the activity log, with the machine and the login; what is done with a key is there under the key's id.",
		Args: cobra.NoArgs,
	}
	root.AddCommand(createAPIKeyCommand(term), listAPIKeysCommand(term), rotateAPIKeyCommand(term), revokeAPIKeyCommand(term))
	return root
}

func createAPIKeyCommand(term terminal) *cobra.Command {
	var names []string
	var expires time.Duration
	var known []string
	for _, s := range admin.Scopes() {
		known = append(known, string(s))
	}
	cmd := &cobra.Command{
		Use:   "create <name> --scope <scope>…",
		Short: "Make a key and print it, alone on standard output",
		Long:  "Make a key and print it, alone on standard output: it cannot be shown again. Scopes: " + strings.Join(known, ", ") + ".",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			order := admin.KeyOrder{Name: args[0]}
			for _, name := range names {
				scope, err := admin.ParseScope(name)
				if err != nil {
					return fmt.Errorf("--scope: %w", err)
				}
				order.Scopes = append(order.Scopes, scope)
			}
			if cmd.Flags().Changed("expires-in") {
				at := term.now().Add(expires).UTC()
				order.ExpiresAt = &at
			}
			return console(cmd.Context(), term, func(ctx context.Context, s *admin.Service, actor admin.Actor) error {
				k, secret, err := s.CreateKey(ctx, actor, order)
				if err != nil {
					return err
				}
				return printSecret(term, k, secret)
			})
		},
	}
	cmd.Flags().StringSliceVar(&names, "scope", nil, "what the key may do; several: again, or with commas")
	cmd.Flags().DurationVar(&expires, "expires-in", 0, "such as 2160h; without it the key is good until it is revoked")
	_ = cmd.MarkFlagRequired("scope") // the flag is there
	return cmd
}

// printSecret prints a key where a script can take it from, and all else where people see it.
func printSecret(term terminal, k admin.APIKey, secret string) error {
	if err := printAPIKeys(term.stderr, term.now(), []admin.APIKey{k}); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(term.stdout, secret); err != nil {
		return fmt.Errorf("print the key %s, which is lost: revoke it: %w", k.ID, err)
	}
	return nil
}

func listAPIKeysCommand(term terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the keys: what they may do, since when, until when, and when they were used last",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return console(cmd.Context(), term, func(ctx context.Context, s *admin.Service, actor admin.Actor) error {
				list, err := s.APIKeys(ctx, actor)
				if err != nil {
					return err
				}
				if len(list) == 0 {
					fmt.Fprintln(term.stdout, "no keys")
					return nil
				}
				return printAPIKeys(term.stdout, term.now(), list)
			})
		},
	}
}

// onAPIKey is a command about one key.
func onAPIKey(term terminal, do func(context.Context, *admin.Service, admin.Actor, uuid.UUID) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return console(cmd.Context(), term, func(ctx context.Context, s *admin.Service, actor admin.Actor) error {
			id, err := s.FindKey(ctx, args[0])
			if err != nil {
				return err
			}
			return do(ctx, s, actor, id)
		})
	}
}

func rotateAPIKeyCommand(term terminal) *cobra.Command {
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "rotate <name|id>",
		Short: "Give a key another secret and print it, alone on standard output; the old one is good for a day more",
		Long: "Give a key another secret and print it, alone on standard output: it cannot be shown again. The one before is good for --grace\n" +
			"longer, so that servers can be given the new one in turn. `--grace 0` ends it at once: for a key that somebody else has.",
		Args: cobra.ExactArgs(1),
		RunE: onAPIKey(term, func(ctx context.Context, s *admin.Service, actor admin.Actor, id uuid.UUID) error {
			k, secret, err := s.RotateKey(ctx, actor, id, grace)
			if err != nil {
				return err
			}
			return printSecret(term, k, secret)
		}),
	}
	cmd.Flags().DurationVar(&grace, "grace", admin.KeyGrace, "how long the secret before is good, at most 168h")
	return cmd
}

func revokeAPIKeyCommand(term terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke <name|id>",
		Short: "End a key: within a second everywhere",
		Args:  cobra.ExactArgs(1),
		RunE: onAPIKey(term, func(ctx context.Context, s *admin.Service, actor admin.Actor, id uuid.UUID) error {
			k, err := s.RevokeKey(ctx, actor, id)
			if err != nil {
				return err
			}
			return printAPIKeys(term.stdout, term.now(), []admin.APIKey{k})
		}),
	}
}

func printAPIKeys(to io.Writer, now time.Time, list []admin.APIKey) error {
	at := func(t *time.Time) string {
		if t == nil {
			return "never"
		}
		return t.UTC().Format(time.RFC3339)
	}
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "ID\tNAME\tSTATUS\tSCOPES\tSINCE\tBY\tROTATED\tEXPIRES\tLAST USED")
	for _, k := range list {
		rotated := at(k.RotatedAt)
		if k.OldUntil != nil && now.Before(*k.OldUntil) {
			rotated += " (before: good until " + at(k.OldUntil) + ")"
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, k.Name, k.Status(now), strings.Join(k.Scopes, ","),
			at(&k.CreatedAt), k.CreatedBy, rotated, at(k.ExpiresAt), at(k.LastUsedAt))
	}
	return out.Flush()
}
