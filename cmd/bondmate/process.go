package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/postgres"
	"github.com/bondmate/backend/pkg/quota"
	"github.com/bondmate/backend/pkg/service"
	"github.com/bondmate/backend/pkg/telemetry"
)

const (
	defaultAdminPort = 9090
	// startWithin bounds the wait for servers that are starting up themselves.
	startWithin = 60 * time.Second
	// stopWithin and closeWithin together stay under the 30 s that a process gets.
	stopWithin  = 25 * time.Second
	closeWithin = 4 * time.Second

	// What the database enforces on a pooled connection, shorter than the deadlines of
	// its callers (2 to 5 s): the server gives up before they do.
	statementTimeout = 1800 * time.Millisecond
	lockTimeout      = time.Second
	idleInTxTimeout  = 5 * time.Second

	// gcPercent trades memory for a fifth of the CPU: the live heap is tens of megabytes.
	gcPercent = 400
)

// process is what every role of one process shares.
type process struct {
	cfg      config.Config
	term     terminal
	log      *slog.Logger
	registry *prometheus.Registry
	ready    *service.Readiness
	group    *service.Group
	topics   contract.Topics
	owner    string // names this process to operators, in tables and in Kafka
	clock    func() time.Time
	dbRole   string // that its connections assume; empty where the database user cannot. Set by openPool

	ownURL string // where this process serves; set by addHTTP

	redis *redis.Client  // set by openRedis
	quota *quota.Limiter // set by limiter

	closers []func()
}

// servers are what the roles stand on.
type servers struct {
	databaseURL string
	pool        *pgxpool.Pool
	bus         *bus.Client
}

func newLogger(cfg config.Config, term terminal) (*slog.Logger, error) {
	return telemetry.NewLogger(telemetry.LogConfig{
		Level: string(cfg.LogLevel), Format: string(cfg.LogFormat), Development: cfg.Env == config.Development, To: term.stderr,
	})
}

func newProcess(cfg config.Config, term terminal) (*process, error) {
	log, err := newLogger(cfg, term)
	if err != nil {
		return nil, err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	p := &process{
		cfg: cfg, term: term, log: log, registry: telemetry.NewRegistry(version),
		ready: new(service.Readiness), topics: contract.NewTopics(cfg.KafkaTopicPrefix), owner: processName(), clock: term.clock,
	}
	if p.clock == nil {
		p.clock = time.Now
	}
	p.group = service.NewGroup(service.GroupConfig{
		Log: log, Registerer: p.registry, Unready: p.ready.Stop, Delay: cfg.ShutdownDelay, StopWithin: stopWithin,
	})
	return p, nil
}

func processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s-%d", host, os.Getpid())
}

// onClose registers what to close after the group has stopped; the last one goes first.
func (p *process) onClose(do func()) { p.closers = append(p.closers, do) }

// close closes what was opened, but does not wait forever: a connection that a part left
// behind would keep the pool open.
func (p *process) close() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, do := range slices.Backward(p.closers) {
			do()
		}
	}()
	select {
	case <-done:
	case <-time.After(closeWithin):
		p.log.Warn("left something open at the end")
	}
}

// openPool opens the pool that everything in this process shares. A database that goes
// away later does not make the process unready: what needs no database goes on, and no
// other instance would do better.
func (p *process) openPool(ctx context.Context, url string) (*pgxpool.Pool, error) {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	ok, why, err := postgres.Assumable(ctx, postgres.Config{URL: url, AppName: "bondmate " + p.owner}, postgres.AppRole)
	if err != nil {
		return nil, err
	}
	if ok {
		p.dbRole = postgres.AppRole
	} else {
		p.log.Warn("the activity log is not append-only: this process works with all rights of its database user",
			"role", postgres.AppRole, "reason", why)
	}
	pool, err := postgres.Open(ctx, postgres.Config{
		URL: url, AppName: "bondmate " + p.owner, MaxConns: p.cfg.DatabaseMaxConns, MinConns: p.cfg.DatabaseMinConns,
		StatementTimeout: statementTimeout, LockTimeout: lockTimeout, IdleInTxTimeout: idleInTxTimeout, Role: p.dbRole,
	})
	if err != nil {
		return nil, err
	}
	p.registry.MustRegister(postgres.NewCollector(pool))
	return pool, nil
}

// connectAs returns a function that opens connections apart from the pool, with its rights.
func (p *process) connectAs(url, name string) func(context.Context) (*pgx.Conn, error) {
	return func(ctx context.Context) (*pgx.Conn, error) {
		return postgres.Connect(ctx, postgres.Config{URL: url, AppName: "bondmate " + name, Role: p.dbRole})
	}
}

// connect returns a function that opens connections for an operator's command.
func connect(url, name string) func(context.Context) (*pgx.Conn, error) {
	return func(ctx context.Context) (*pgx.Conn, error) {
		return postgres.Connect(ctx, postgres.Config{URL: url, AppName: "bondmate " + name})
	}
}

// openServers opens the servers that the environment names, for a role that runs alone.
func (p *process) openServers(ctx context.Context) (servers, error) {
	pool, err := p.openPool(ctx, p.cfg.DatabaseURL)
	if err != nil {
		return servers{}, err
	}
	p.onClose(pool.Close)
	client := newBus(p.cfg, p.cfg.KafkaBrokers, p.log)
	p.onClose(client.Close)
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	if err := awaitBroker(ctx, client); err != nil {
		return servers{}, err
	}
	return servers{p.cfg.DatabaseURL, pool, client}, nil
}

func adminPort(cfg config.Config, unset int) int {
	if cfg.AdminPort != nil {
		return *cfg.AdminPort
	}
	return unset
}

// addAdmin serves the operators' endpoints and returns their address. They stop last.
func (p *process) addAdmin(ctx context.Context, host string, unset int) (*net.TCPAddr, error) {
	if p.cfg.AdminHost != "" {
		host = p.cfg.AdminHost
	}
	addr := net.JoinHostPort(host, strconv.Itoa(adminPort(p.cfg, unset)))
	server, err := service.Listen(ctx, addr, service.AdminHandler(p.registry, p.ready), p.log)
	if err != nil {
		return nil, fmt.Errorf("admin server (ADMIN_PORT): %w", err)
	}
	p.onClose(func() { _ = server.Close() }) // closed already once it has run
	p.group.Add(service.Member{Name: "admin server", Phase: service.Support, Run: server.Run})
	return server.Addr(), nil
}

// announce prints the lines and then `ready` with the address once every part serves.
func (p *process) announce(url string, lines ...string) {
	p.group.Add(service.Member{Name: "announcement", Phase: service.Intake, Run: func(ctx context.Context) error {
		if err := p.ready.Await(ctx); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
		var failed error
		for _, line := range append(lines, "ready "+url) {
			_, err := fmt.Fprintln(p.term.stdout, line)
			failed = errors.Join(failed, err)
		}
		if failed != nil {
			return fmt.Errorf("say where it serves: %w", failed)
		}
		<-ctx.Done()
		return ctx.Err()
	}})
}

// runRole runs a single role: it opens the servers, lets add wire the role, and runs until
// ctx ends.
func runRole(ctx context.Context, term terminal, role config.Role, add func(context.Context, *process, servers) (url string, err error)) error {
	cfg, err := term.loadFor(role)
	if err != nil {
		return err
	}
	p, err := newProcess(cfg, term)
	if err != nil {
		return err
	}
	defer p.close()
	admin, err := p.addAdmin(ctx, "", defaultAdminPort)
	if err != nil {
		return err
	}
	on, err := p.openServers(ctx)
	if err != nil {
		return err
	}
	url, err := add(ctx, p, on)
	if err != nil {
		return fmt.Errorf("set up %s: %w", role, err)
	}
	adminURL := loopbackURL(admin)
	if url == "" {
		url = adminURL
	}
	p.announce(url, "metrics   "+adminURL+"/metrics")
	return p.group.Run(ctx)
}

// loopbackURL is where this machine reaches a listener of this process.
func loopbackURL(addr *net.TCPAddr) string {
	return "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(addr.Port))
}
