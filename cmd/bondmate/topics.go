package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/contract"
)

const topicsWithin = time.Minute

func topicsCommand(term terminal) *cobra.Command {
	topics := &cobra.Command{
		Use:   "topics",
		Short: "Compare the topics at KAFKA_BROKERS with what the guarantees need, or set them up",
	}
	topics.AddCommand(topicsPlanCommand(term), topicsApplyCommand(term))
	return topics
}

func topicsPlanCommand(term terminal) *cobra.Command {
	var terms rightsTerms
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Print what apply would change; change nothing",
		Args:  cobra.NoArgs,
		RunE: terms.onTopics(term, func(ctx context.Context, client *bus.Client, cfg config.Config, rights *bus.Rights) error {
			if err := planTopics(ctx, client, cfg, term); err != nil || rights == nil {
				return err
			}
			return planRights(ctx, client, *rights, term)
		}),
	}
	terms.flags(cmd, false)
	return cmd
}

func topicsApplyCommand(term terminal) *cobra.Command {
	var terms rightsTerms
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Create what is missing and correct settings; never a partition count",
		Args:  cobra.NoArgs,
		RunE: terms.onTopics(term, func(ctx context.Context, client *bus.Client, cfg config.Config, rights *bus.Rights) error {
			if err := planTopics(ctx, client, cfg, term); err != nil {
				return err
			}
			if err := client.EnsureTopics(ctx, topicSpecs(cfg)); err != nil || rights == nil {
				return err
			}
			return terms.apply(ctx, client, *rights, term)
		}),
	}
	terms.flags(cmd, true)
	return cmd
}

func planTopics(ctx context.Context, client *bus.Client, cfg config.Config, term terminal) error {
	differences, err := client.PlanTopics(ctx, topicSpecs(cfg))
	if err != nil {
		return err
	}
	if len(differences) == 0 {
		_, err = fmt.Fprintln(term.stdout, "topics are as they should be")
		return err
	}
	for _, d := range differences {
		if _, err := fmt.Fprintln(term.stdout, d); err != nil {
			return err
		}
	}
	return nil
}

// topicSpecs is the contract's topics with what depends on the size of the cluster: with
// three replicas a write needs two, so that it survives the loss of one.
func topicSpecs(cfg config.Config) []contract.Spec {
	specs := contract.NewTopics(cfg.KafkaTopicPrefix).Specs(cfg.KafkaPartitions)
	if cfg.KafkaReplication >= 3 {
		for _, spec := range specs {
			spec.Configs["min.insync.replicas"] = "2"
			spec.Configs["unclean.leader.election.enable"] = "false"
		}
	}
	return specs
}

func withBus(ctx context.Context, term terminal, do func(context.Context, *bus.Client, config.Config) error) error {
	cfg, err := term.load()
	if err != nil {
		return err
	}
	if len(cfg.KafkaBrokers) == 0 {
		return &config.Fault{Variable: "KAFKA_BROKERS", Problem: "is needed; all sets up its own broker"}
	}
	log, err := newLogger(cfg, term)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, topicsWithin)
	defer cancel()
	client := newBus(cfg, cfg.KafkaBrokers, log)
	defer client.Close()
	if err := awaitBroker(ctx, client); err != nil {
		return err
	}
	return do(ctx, client, cfg)
}
