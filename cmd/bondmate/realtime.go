package main

import (
	"context"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/service"
	"github.com/bondmate/backend/realtime"
)

// drainWithin is for closing the sockets of a stopping gateway.
const drainWithin = 6 * time.Second

func realtimeCommand(term terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "realtime",
		Short: "Serve WebSockets: events to phones",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runRole(cmd.Context(), term, config.Realtime, func(ctx context.Context, p *process, on servers) (string, error) {
				keys, err := p.loadKeys()
				if err != nil {
					return "", err
				}
				handler, err := p.addRealtime(on, keys, hearing{p.addEventTail(on), p.addControlTail(on)})
				if err != nil {
					return "", err
				}
				front, err := p.newEdge()
				if err != nil {
					return "", err
				}
				return p.addHTTP(ctx, front.Wrap(handler))
			})
		},
	}
}

// The claims that tokens of this installation carry.
const (
	tokenIssuer   = "bondmate"
	tokenAudience = "bondmate-api"
)

// loadKeys loads the keys that sign access tokens, or makes some in DATA_DIR, and reads
// them again when they are rotated.
func (p *process) loadKeys() (keys *identity.Keys, err error) {
	if p.cfg.JWTPrivateKeyFile != "" {
		keys, err = identity.LoadKeys(p.cfg.JWTPrivateKeyFile)
	} else {
		keys, err = identity.LoadOrCreateDevelopmentKeys(p.cfg.DataDir)
	}
	if err != nil {
		return nil, err
	}
	p.group.Add(service.Member{Name: "signing keys", Phase: service.Support, Run: func(ctx context.Context) error {
		return keys.Watch(ctx, p.log)
	}})
	return keys, nil
}

// addEventTail follows the events topic once for all roles of this process.
func (p *process) addEventTail(on servers) *bus.EventTail {
	tail := bus.NewEventTail(on.bus, p.topics.Events, p.cfg.KafkaPartitions, p.registry)
	p.group.Add(service.Member{Name: "event tail", Phase: service.Support, Run: tail.Run})
	p.ready.Add("event tail", service.Closed(tail.Ready()))
	return tail
}

// addControlTail hears once for all roles of this process which sessions have ended. It is no
// part of being ready: whoever misses a record finds it in the database.
func (p *process) addControlTail(on servers) *bus.ControlTail {
	tail := bus.NewControlTail(on.bus, p.topics.Control, p.registry)
	p.group.Add(service.Member{Name: "control tail", Phase: service.Support, Run: tail.Run})
	return tail
}

// hearing is what a role follows on Kafka.
type hearing struct {
	events  *bus.EventTail
	control *bus.ControlTail
}

// addRealtime returns the handler of GET /api/realtime.
func (p *process) addRealtime(on servers, keys *identity.Keys, from hearing) (http.Handler, error) {
	verifier, err := p.newVerifier(keys)
	if err != nil {
		return nil, err
	}
	allowed, err := origins(p.cfg)
	if err != nil {
		return nil, err
	}
	handshakes, err := p.handshakes()
	if err != nil {
		return nil, err
	}
	// No part of being ready: without it partners at this instance still see each other.
	peers := bus.NewPresenceTail(on.bus, p.topics.Presence, p.registry)
	p.group.Add(service.Member{Name: "presence tail", Phase: service.Support, Run: peers.Run})
	gateway, err := realtime.New(realtime.Config{
		Pool:       on.pool,
		Verifier:   verifier,
		Events:     from.events,
		Control:    from.control,
		Peers:      peers,
		Announcer:  on.bus,
		Log:        p.log.With("role", "realtime"),
		Registerer: p.registry,
		Clock:      p.clock,
		Origins:    allowed,
		SameOrigin: p.cfg.Env != config.Production,
		Admit:      handshakes,

		PresenceTopic: p.topics.Presence, PresencePartitions: p.cfg.KafkaPartitions,
	})
	if err != nil {
		return nil, err
	}
	p.group.Add(service.Member{Name: "realtime", Phase: service.Delivery, Run: func(ctx context.Context) error {
		return runGateway(ctx, gateway)
	}})
	return gateway.Handler(), nil
}

// runGateway runs the gateway until ctx ends, and then until its sockets are closed.
func runGateway(ctx context.Context, gateway *realtime.Gateway) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- gateway.Run(running) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	draining, cancel := context.WithTimeout(running, drainWithin)
	defer cancel()
	drained := gateway.Drain(draining)
	stop()
	if err := <-ended; err != nil {
		return err
	}
	return drained
}

func (p *process) newVerifier(keys *identity.Keys) (*identity.Verifier, error) {
	return identity.NewVerifier(identity.VerifierConfig{Keys: keys, Issuer: tokenIssuer, Audience: tokenAudience, Clock: p.clock})
}
