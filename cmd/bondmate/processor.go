package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/pkg/service"
	"github.com/bondmate/backend/processor"
	"github.com/bondmate/backend/processor/retention"
)

func processorCommand(term terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "processor",
		Short: "Apply commands: Kafka to one Postgres transaction to events",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runRole(cmd.Context(), term, config.Processor, func(_ context.Context, p *process, on servers) (string, error) {
				return "", p.addProcessor(on)
			})
		},
	}
}

func (p *process) addProcessor(on servers) error {
	admitted := newJoined()
	p.ready.Add("processor", service.Closed(admitted.ready))
	proc, err := processor.New(processor.Config{
		Bus:            processorBus{processor.Kafka(on.bus), admitted},
		Connect:        p.connectAs(on.databaseURL, "processor "+p.owner),
		Topics:         p.topics,
		Partitions:     p.cfg.KafkaPartitions,
		GroupID:        contract.NewGroups(p.cfg.KafkaTopicPrefix).Processor,
		Owner:          p.owner,
		Limits:         limits(p.cfg),
		Deadline:       p.cfg.IngestDeadline,
		Skew:           p.cfg.ClockSkew,
		Workers:        p.cfg.Workers,
		MaxBatch:       p.cfg.BatchMax,
		SessionTimeout: p.cfg.KafkaSessionTimeout,
		Log:            p.log.With("role", "processor"),
		Registerer:     p.registry,
		Clock:          p.clock,
	})
	if err != nil {
		return err
	}
	sweeper, err := retention.New(retention.Config{
		Pool: on.pool,
		Keep: retention.Keep{
			Events: p.cfg.RetentionEvents, Commands: p.cfg.RetentionCommands, Pushes: p.cfg.RetentionPushes, Reports: p.cfg.RetentionReports,
		},
		Interval: p.cfg.RetentionInterval, Clock: time.Now, Log: p.log.With("role", "processor"), Registerer: p.registry,
	})
	if err != nil {
		return err
	}
	p.group.Add(service.Member{Name: "processor", Phase: service.Work, Run: proc.Run})
	p.group.Add(service.Member{Name: "retention", Phase: service.Work, Run: sweeper.Run})
	return nil
}

func limits(cfg config.Config) partner.Limits {
	limits := partner.DefaultLimits()
	limits.RequestTTL = cfg.RequestTTL
	limits.RestoreWindow = cfg.RestoreWindow
	limits.MessageMaxLen = cfg.MessageMaxLength
	limits.BreakupTTL = cfg.BreakupTTL
	limits.SendsPerTarget = cfg.SendsPerTarget
	if !cfg.RateLimits {
		limits.SendsPerTarget = 0 // no limit
	}
	return limits
}
