package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/bondmate/backend/pkg/config"
)

func configCommand(term terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "config",
		Short: "Print every variable with its value, its default and its meaning; secrets stay hidden",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			// Faults or not, the table helps to correct them.
			cfg, fault := config.Load(term.environ)
			return errors.Join(cfg.Print(term.stdout), fault)
		},
	}
}
