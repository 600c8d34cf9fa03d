package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/bondmate/backend/ingest"
	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/ingest/admin"
	"github.com/bondmate/backend/ingest/cache"
	"github.com/bondmate/backend/ingest/demo"
	"github.com/bondmate/backend/ingest/revocation"
	"github.com/bondmate/backend/ingest/webconsole"
	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/edge"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/limit"
	"github.com/bondmate/backend/pkg/service"
)

func ingestCommand(term terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "ingest",
		Short: "Serve the HTTP API: requests to commands, and the reads",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runRole(cmd.Context(), term, config.Ingest, func(ctx context.Context, p *process, on servers) (string, error) {
				keys, err := p.loadKeys()
				if err != nil {
					return "", err
				}
				handler, err := p.addIngest(on, keys, beside{hearing: hearing{p.addEventTail(on), p.addControlTail(on)}})
				if err != nil {
					return "", err
				}
				return p.addHTTP(ctx, handler)
			})
		},
	}
}

// beside is what ingest shares with the roles in its process.
type beside struct {
	hearing
	realtime http.Handler // nil when that role runs elsewhere
	pushes   http.Handler // what the push stand-in received, for the demo; nil without one
}

func (p *process) addIngest(on servers, keys *identity.Keys, with beside) (http.Handler, error) {
	issuer, err := identity.NewIssuer(identity.IssuerConfig{Keys: keys, Issuer: tokenIssuer, Audience: tokenAudience, Clock: p.clock})
	if err != nil {
		return nil, err
	}
	verifier, err := p.newVerifier(keys)
	if err != nil {
		return nil, err
	}
	passwords, err := identity.NewPasswords(identity.PasswordConfig{})
	if err != nil {
		return nil, err
	}
	log := p.log.With("role", "ingest")
	var attempts *limit.Attempts
	if p.cfg.RateLimits {
		if attempts, err = limit.New(limit.Config{Pool: on.pool, Clock: p.clock, Registerer: p.registry}); err != nil {
			return nil, err
		}
	}
	mailer, err := p.mailer()
	if err != nil {
		return nil, err
	}
	producer := on.bus.NewProducer(bus.ProducerConfig{
		// Two: the broker works on one write while the next one gathers.
		InFlight: 2, WriteTimeout: p.cfg.IngestDeadline, Registerer: p.registry,
	})
	revocations, err := p.newRevocations(producer, log)
	if err != nil {
		return nil, err
	}
	signIns, err := p.firebaseLogins()
	if err != nil {
		return nil, err
	}
	people, err := accounts.New(accounts.Config{
		Attempts: attempts,
		Pool:     on.pool, Issuer: issuer, Passwords: passwords, Clock: p.clock, Log: log, Partitions: p.cfg.KafkaPartitions, Slots: p.cfg.SlotsFree,
		SessionTTL: p.cfg.SessionTTL, SessionMaxAge: p.cfg.SessionMaxAge, Revocations: revocations, Firebase: signIns,
		MinAge: p.cfg.MinAge, ConsentVersion: p.cfg.ConsentVersion,
		Mailer: mailer, FrontendURL: p.frontendURL,
	})
	if err != nil {
		return nil, err
	}
	// What another instance ends is refused here at once, too.
	with.control.Subscribe(func(r contract.SessionRevoked) { people.Forget(r.SessionID) })
	administration, err := newAdministration(p.cfg, admin.Config{
		Pool: on.pool, Clock: p.clock, Log: log, Registerer: p.registry, Revocations: revocations,
	})
	if err != nil {
		return nil, err
	}
	var least edge.Version
	if p.cfg.MinAppVersion != "" {
		if least, err = edge.ParseVersion(p.cfg.MinAppVersion); err != nil {
			return nil, fmt.Errorf("MIN_APP_VERSION: %w", err)
		}
	}
	front, err := p.newEdge()
	if err != nil {
		return nil, err
	}
	shared, err := p.openRedis()
	if err != nil {
		return nil, err
	}
	page, err := webconsole.New(webconsole.Config{Keys: keys, Issuer: tokenIssuer, Clock: p.clock, Secure: p.cfg.Env == config.Production})
	if err != nil {
		return nil, err
	}
	rates, err := p.rates()
	if err != nil {
		return nil, err
	}
	cfg := ingest.Config{
		Pool: on.pool, Publisher: producer, Offsets: on.bus, Events: with.events,
		Topics: p.topics, Partitions: p.cfg.KafkaPartitions,
		Accounts: people, Admin: administration, Verifier: verifier, Keys: keys,
		Log: log, Registerer: p.registry, Clock: p.clock,
		Limits: limits(p.cfg), Rates: rates, Deadline: p.cfg.IngestDeadline, Edge: front, MinAppVersion: least,
		Realtime: with.realtime, Console: page,
	}
	if shared != nil {
		cfg.Redis = func(ctx context.Context) error { return shared.Ping(ctx).Err() }
	}
	if p.cfg.Cache {
		if cfg.Cache, err = cache.New(cache.Config{
			Shape: ingest.Shape(), MemoryBytes: p.cfg.CacheMemoryBytes, Redis: shared, Keys: keys,
			Log: log, Registerer: p.registry, Clock: p.clock,
		}); err != nil {
			return nil, err
		}
		p.group.Add(service.Member{Name: "cache", Phase: service.Delivery, Run: cfg.Cache.Run})
	}
	if p.cfg.Env != config.Production {
		cfg.Demo = demo.Handler(with.pushes)
	}
	server, err := ingest.New(cfg)
	if err != nil {
		return nil, err
	}
	// They outlive the HTTP server, whose requests in hand need them.
	p.group.Add(service.Member{Name: "producer", Phase: service.Delivery, Run: producer.Run})
	p.group.Add(service.Member{Name: "revocations", Phase: service.Delivery, Run: revocations.Run})
	p.group.Add(service.Member{Name: "ingest", Phase: service.Delivery, Run: server.Run})
	p.group.Add(service.Member{Name: "mails", Phase: service.Delivery, Run: people.Run})
	return server.Handler(), nil
}

// newRevocations tells the control topic of sessions that end in this process.
func (p *process) newRevocations(to revocation.Publisher, log *slog.Logger) (*revocation.Notices, error) {
	return revocation.New(revocation.Config{
		Publisher: to, Topic: p.topics.Control, Partitions: p.cfg.KafkaPartitions, Clock: p.clock, Log: log, Registerer: p.registry,
	})
}

// newAdministration is the same for /api/ops and for the operator's commands.
func newAdministration(cfg config.Config, with admin.Config) (*admin.Service, error) {
	with.Partitions, with.SlotsFree, with.SlotsPremium = cfg.KafkaPartitions, cfg.SlotsFree, cfg.SlotsPremium
	return admin.New(with)
}
