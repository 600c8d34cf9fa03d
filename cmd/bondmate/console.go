package main

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"time"

	"github.com/bondmate/backend/ingest/admin"
	"github.com/bondmate/backend/pkg/postgres"
)

// consoleWithin bounds an operator's command.
const consoleWithin = 30 * time.Second

// console runs an operator's command on the administration: the same that /api/ops calls,
// with the right that the database's password gives. The activity log names the machine and
// the login there.
func console(ctx context.Context, term terminal, do func(context.Context, *admin.Service, admin.Actor) error) error {
	cfg, err := term.loadDatabase()
	if err != nil {
		return err
	}
	log, err := newLogger(cfg, term)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, consoleWithin)
	defer cancel()
	pool, err := postgres.Open(ctx, postgres.Config{
		URL: cfg.DatabaseURL, AppName: "bondmate console", MaxConns: 1,
		StatementTimeout: statementTimeout, LockTimeout: lockTimeout, IdleInTxTimeout: idleInTxTimeout,
	})
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := checkPartitions(ctx, pool, cfg.KafkaPartitions); err != nil {
		return err
	}
	administration, err := newAdministration(cfg, pool, log)
	if err != nil {
		return err
	}
	return do(ctx, administration, admin.Actor{Device: "console: " + login()})
}

// login says who is at the console, as far as the machine knows.
func login() string {
	who := "unknown"
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s@%s", who, host)
}
