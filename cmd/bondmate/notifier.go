package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/bondmate/backend/notifier"
	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/embedded/fcm"
	"github.com/bondmate/backend/pkg/service"
)

func notifierCommand(term terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "notifier",
		Short: "Send pushes: events to due deliveries to FCM",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runRole(cmd.Context(), term, config.Notifier, func(ctx context.Context, p *process, on servers) (string, error) {
				push, err := p.pushProvider()
				if err != nil {
					return "", err
				}
				return "", p.addNotifier(ctx, on, push)
			})
		},
	}
}

// push says where pushes go.
type push struct {
	credentials, endpoint string
	standIn               *fcm.Server // nil with real credentials
}

// pushProvider names FCM, or starts the stand-in where there are no credentials.
func (p *process) pushProvider() (push, error) {
	if p.cfg.FirebaseCredentialsFile != "" {
		return push{credentials: p.cfg.FirebaseCredentialsFile, endpoint: p.cfg.FCMEndpoint}, nil
	}
	server, err := fcm.New(fcm.Config{Dir: p.cfg.DataDir, Log: p.log.With("part", "fcm stand-in")})
	if err != nil {
		return push{}, fmt.Errorf("start FCM stand-in: %w", err)
	}
	p.onClose(func() { _ = server.Close() }) // closed already once it has run
	p.group.Add(service.Member{Name: "fcm stand-in", Phase: service.Support, Run: server.Run})
	return push{server.CredentialsFile(), server.Endpoint(), server}, nil
}

func (p *process) addNotifier(ctx context.Context, on servers, to push) error {
	provider, err := notifier.NewFirebase(ctx, notifier.FirebaseConfig{CredentialsFile: to.credentials, Endpoint: to.endpoint, InFlight: p.cfg.PushInFlight})
	if err != nil {
		return err
	}
	p.onClose(provider.Close)
	admitted := newJoined()
	p.ready.Add("notifier", service.Closed(admitted.ready))
	n, err := notifier.New(notifier.Config{
		Bus:        notifierBus{on.bus, admitted},
		Group:      bus.GroupConfig{ID: contract.NewGroups(p.cfg.KafkaTopicPrefix).Notifier, Topic: p.topics.Events, SessionTimeout: p.cfg.KafkaSessionTimeout},
		DeadLetter: p.topics.DeadLetter,
		Outcomes:   p.topics.Pushes,
		Partitions: p.cfg.KafkaPartitions,
		Pool:       on.pool,
		Provider:   provider,
		Log:        p.log.With("role", "notifier"),
		Registerer: p.registry,
		Clock:      p.clock,
		Grace:      pushGrace(p.cfg.PushGrace),
		InFlight:   p.cfg.PushInFlight,
		PerMinute:  p.cfg.PushPerMinute,
	})
	if err != nil {
		return err
	}
	p.group.Add(service.Member{Name: "notifier", Phase: service.Work, Run: n.Run})
	return nil
}

// pushGrace says none the way the notifier understands it: its zero is the default.
func pushGrace(configured time.Duration) time.Duration {
	if configured == 0 {
		return -1
	}
	return configured
}
