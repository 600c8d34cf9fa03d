package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/bondmate/backend/migrations"
	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/embedded"
	"github.com/bondmate/backend/pkg/postgres"
	"github.com/bondmate/backend/pkg/service"
)

func allCommand(term terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "all",
		Short: "Run every role in one process, on servers of its own unless DATABASE_URL or KAFKA_BROKERS name others",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runAll(cmd.Context(), term)
		},
	}
}

func runAll(ctx context.Context, term terminal) error {
	cfg, err := term.loadFor(config.All)
	if err != nil {
		return err
	}
	p, err := newProcess(cfg, term)
	if err != nil {
		return err
	}
	defer p.close()
	lock, err := embedded.LockDir(cfg.DataDir)
	if err != nil {
		return err
	}
	p.onClose(func() { _ = lock.Close() }) // the end of the process lets go anyway
	admin, err := p.addAdmin(ctx, "127.0.0.1", 0)
	if err != nil {
		return err
	}
	on, brokers, err := p.startServers(ctx)
	if err != nil {
		return err
	}
	keys, err := p.loadKeys()
	if err != nil {
		return err
	}
	to, err := p.pushProvider()
	if err != nil {
		return err
	}
	from := hearing{p.addEventTail(on), p.addControlTail(on)}
	if err := p.addProcessor(on); err != nil {
		return fmt.Errorf("set up processor: %w", err)
	}
	if err := p.addNotifier(ctx, on, to); err != nil {
		return fmt.Errorf("set up notifier: %w", err)
	}
	sockets, err := p.addRealtime(on, keys, from)
	if err != nil {
		return fmt.Errorf("set up realtime: %w", err)
	}
	with := beside{hearing: from, realtime: sockets}
	if to.standIn != nil {
		with.pushes = to.standIn
	}
	handler, err := p.addIngest(on, keys, with)
	if err != nil {
		return fmt.Errorf("set up ingest: %w", err)
	}
	url, err := p.addHTTP(ctx, handler)
	if err != nil {
		return err
	}
	if err := p.writeAddresses(admin, on, brokers); err != nil {
		return err
	}
	p.announce(url,
		"API       "+url+"/api",
		"demo      "+url+"/demo",
		"console   "+url+"/ops",
		"metrics   "+loopbackURL(admin)+"/metrics",
		"Kafka     "+strings.Join(brokers, ","),
		"Postgres  "+p.databaseHint(),
	)
	return p.group.Run(ctx)
}

// startServers opens Postgres and Kafka, starting what is not configured. The two come up
// side by side.
func (p *process) startServers(ctx context.Context) (on servers, brokers []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, startWithin+startWithin)
	defer cancel()
	both, ctx := errgroup.WithContext(ctx)
	var pg *embedded.Postgres
	var broker *embedded.Broker
	var client *bus.Client
	both.Go(func() (err error) {
		url := p.cfg.DatabaseURL
		if url == "" {
			if pg, err = p.startPostgres(ctx); err != nil {
				return err
			}
			url = pg.DSN
		}
		if err := postgres.Migrate(ctx, url, migrations.FS, p.log); err != nil {
			return err
		}
		on.databaseURL = url
		on.pool, err = p.openPool(ctx, url)
		return err
	})
	both.Go(func() (err error) {
		brokers = p.cfg.KafkaBrokers
		if len(brokers) == 0 {
			if broker, err = p.startBroker(); err != nil {
				return err
			}
			brokers = []string{broker.Addr}
		}
		client = newBus(p.cfg, brokers, p.log)
		if err := awaitBroker(ctx, client); err != nil {
			return err
		}
		return client.EnsureTopics(ctx, topicSpecs(p.cfg))
	})
	err = both.Wait()
	// Registered here, not in the goroutines, and whatever came of the other one: the
	// servers close after those who use them.
	if pg != nil {
		p.onClose(func() {
			if err := pg.Close(); err != nil {
				p.log.Error("stop PostgreSQL", "error", err)
			}
		})
		p.group.Add(service.Member{Name: "PostgreSQL", Phase: service.Support, Run: func(ctx context.Context) error {
			select {
			case <-ctx.Done():
				return nil
			case <-pg.Done():
				return errors.New("the server ended; its log is in " + filepath.Join(p.cfg.DataDir, "postgres", "server.log"))
			}
		}})
	}
	if broker != nil {
		p.onClose(broker.Close)
	}
	if on.pool != nil {
		p.onClose(on.pool.Close)
	}
	if client != nil {
		p.onClose(client.Close)
	}
	on.bus = client
	return on, brokers, err
}

func (p *process) startPostgres(ctx context.Context) (*embedded.Postgres, error) {
	return embedded.StartPostgres(ctx, embedded.PostgresConfig{
		Dir: filepath.Join(p.cfg.DataDir, "postgres"), BinDir: p.cfg.PostgresBinDir,
		Repository: p.cfg.PostgresRepository, Log: p.log.With("part", "postgres"),
	})
}

func (p *process) startBroker() (*embedded.Broker, error) {
	return embedded.StartBroker(embedded.BrokerConfig{
		Dir: filepath.Join(p.cfg.DataDir, "kafka"), Port: p.cfg.KafkaPort, Sync: bool(p.cfg.KafkaSync),
		Topics: topicSpecs(p.cfg), Log: p.log.With("part", "broker"),
	})
}

// writeAddresses leaves for scripts where things are. The connection string holds the
// password, so only the owner may read it.
func (p *process) writeAddresses(admin *net.TCPAddr, on servers, brokers []string) error {
	files := map[string]string{"admin.addr": net.JoinHostPort("127.0.0.1", fmt.Sprint(admin.Port))}
	if len(p.cfg.KafkaBrokers) == 0 {
		files["kafka.addr"] = brokers[0]
	}
	if p.cfg.DatabaseURL == "" {
		files["postgres.dsn"] = on.databaseURL
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(p.cfg.DataDir, name), []byte(content+"\n"), 0o600); err != nil {
			return fmt.Errorf("write address: %w", err)
		}
	}
	return nil
}

// databaseHint says how to look into the database without printing its password.
func (p *process) databaseHint() string {
	if p.cfg.DatabaseURL != "" {
		return "as DATABASE_URL says"
	}
	return fmt.Sprintf("psql \"$(cat %s)\"", filepath.Join(p.cfg.DataDir, "postgres.dsn"))
}
