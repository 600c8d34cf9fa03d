package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"time"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/ingest/admin"
	"github.com/bondmate/backend/ingest/revocation"
	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/contract"
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
	revocations, flush, err := consoleRevocations(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer flush()
	administration, err := newAdministration(cfg, admin.Config{Pool: pool, Clock: term.now, Log: log, Revocations: revocations})
	if err != nil {
		return err
	}
	return do(ctx, administration, admin.Actor{Device: "console: " + login()})
}

// consoleRevocations tells the control topic of sessions that a command ends, where the
// environment says which brokers have it. Elsewhere, and when they do not answer, the
// gateways find out by themselves within half a second. flush writes what waits, for 2 s at
// most.
func consoleRevocations(ctx context.Context, cfg config.Config, log *slog.Logger) (to accounts.Revocations, flush func(), err error) {
	if len(cfg.KafkaBrokers) == 0 {
		return nil, func() {}, nil
	}
	client := newBus(cfg, cfg.KafkaBrokers, log)
	notices, err := revocation.New(revocation.Config{
		Publisher: once{client}, Topic: contract.NewTopics(cfg.KafkaTopicPrefix).Control, Partitions: cfg.KafkaPartitions, Clock: time.Now, Log: log,
	})
	if err != nil {
		client.Close()
		return nil, nil, err
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = notices.Run(running) // it ends with running, and has nothing else to say
	}()
	return notices, func() {
		stop()
		<-done
		client.Close()
	}, nil
}

// once is a publisher that tries once.
type once struct{ client *bus.Client }

func (o once) Produce(ctx context.Context, rec contract.Record) error {
	return o.client.Write(ctx, []contract.Record{rec})
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
