package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/bondmate/backend/migrations"
	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/postgres"
)

// migrateWithin is generous: an index over a large table takes long, and a second
// migrator waits for the first.
const migrateWithin = time.Hour

func migrateCommand(term terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database at DATABASE_URL to this binary's schema; safe to run twice and at once",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := term.load()
			if err != nil {
				return err
			}
			if cfg.DatabaseURL == "" {
				return &config.Fault{Variable: "DATABASE_URL", Problem: "is needed; all migrates its own database"}
			}
			log, err := newLogger(cfg, term)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), migrateWithin)
			defer cancel()
			return postgres.Migrate(ctx, cfg.DatabaseURL, migrations.FS, log)
		},
	}
}
