package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/contract"
)

// rightsTerms are the flags of topics plan and apply that concern who may do what.
type rightsTerms struct {
	acls       bool
	principals []string
	prune      bool
}

func (t *rightsTerms) flags(cmd *cobra.Command, apply bool) {
	flags := cmd.Flags()
	flags.BoolVar(&t.acls, "acls", false, "also who may do what: the rights (ACLs) of each role, of analysts and of operators")
	// Not a comma list: a certificate's principal has commas in it.
	flags.StringArrayVar(&t.principals, "principal", nil,
		"whose rights these are, as `role=principal`, such as ingest=User:ingest; repeat it for others and for several of one kind (default User:<prefix>-<role>)")
	if apply {
		flags.BoolVar(&t.prune, "prune", false, "with --acls: take away superfluous rights too")
	}
}

// rights reads the flags; nil when they do not ask for rights.
func (t *rightsTerms) rights(prefix string) (*bus.Rights, error) {
	if !t.acls {
		if len(t.principals) > 0 || t.prune {
			return nil, errors.New("--principal and --prune go with --acls")
		}
		return nil, nil
	}
	rights := &bus.Rights{Prefix: prefix, Principals: map[contract.Party][]string{}}
	for _, given := range t.principals {
		name, principal, _ := strings.Cut(given, "=")
		party := contract.Party(name)
		if !slices.Contains(contract.Parties(), party) {
			return nil, fmt.Errorf("--principal %s: want one of %v, = and a principal", given, contract.Parties())
		}
		rights.Principals[party] = append(rights.Principals[party], principal)
	}
	for _, party := range contract.Parties() {
		if len(rights.Principals[party]) == 0 {
			rights.Principals[party] = []string{bus.DefaultPrincipal(prefix, party)}
		}
	}
	if _, err := rights.ACLs(); err != nil {
		return nil, fmt.Errorf("--principal: %w", err)
	}
	return rights, nil
}

func planRights(ctx context.Context, client *bus.Client, rights bus.Rights, term terminal) error {
	plan, err := client.PlanACLs(ctx, rights)
	if err != nil {
		return err
	}
	return printRights(plan, term)
}

// apply prints what it is about to do, as plan does, and does it.
func (t *rightsTerms) apply(ctx context.Context, client *bus.Client, rights bus.Rights, term terminal) error {
	if err := planRights(ctx, client, rights, term); err != nil {
		return err
	}
	found, err := client.EnsureACLs(ctx, rights, t.prune)
	if err != nil {
		return err
	}
	gone := 0
	if t.prune {
		gone = len(found.Superfluous)
	}
	if len(found.Missing)+gone == 0 {
		return nil
	}
	_, err = fmt.Fprintf(term.stdout, "%d rights granted, %d taken away\n", len(found.Missing), gone)
	return err
}

func printRights(plan bus.RightsPlan, term terminal) error {
	var failed error
	line := func(format string, args ...any) {
		_, err := fmt.Fprintf(term.stdout, format+"\n", args...)
		failed = errors.Join(failed, err)
	}
	for _, a := range plan.Missing {
		line("missing: %s", a)
	}
	for _, a := range plan.Superfluous {
		line("superfluous: %s (apply --acls --prune takes it away)", a)
	}
	for _, a := range plan.Wider {
		line("wider: %s (it reaches beyond this installation, so it is left to you)", a)
	}
	if plan.AsWanted() {
		line("rights are as they should be")
	}
	return failed
}

// onTopics is a command about the topics and, if asked to, about the rights on them.
func (t *rightsTerms) onTopics(term terminal, do func(context.Context, *bus.Client, config.Config, *bus.Rights) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		cfg, err := term.load()
		if err != nil {
			return err
		}
		rights, err := t.rights(cfg.KafkaTopicPrefix)
		if err != nil {
			return err
		}
		return withBus(cmd.Context(), term, func(ctx context.Context, client *bus.Client, cfg config.Config) error {
			return do(ctx, client, cfg, rights)
		})
	}
}
