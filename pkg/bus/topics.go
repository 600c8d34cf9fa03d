package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/bondmate/backend/pkg/contract"
)

// Difference is one way in which the cluster is not as specified.
type Difference struct {
	Topic string
	// Setting is "topic" when it does not exist, "partitions", or the name of a
	// configuration entry.
	Setting    string
	Have, Want string
	// Fixable is false for a partition count: another one gives keys other partitions, so
	// the order of pairs would be lost.
	Fixable bool
}

// String describes the difference for operators.
func (d Difference) String() string {
	if d.Setting == settingTopic {
		return fmt.Sprintf("%s: does not exist, want %s", d.Topic, d.Want)
	}
	return fmt.Sprintf("%s: %s is %q, want %q", d.Topic, d.Setting, d.Have, d.Want)
}

// ErrPartitionCount says that a topic exists with another number of partitions.
var ErrPartitionCount = errors.New("topic has another partition count")

const (
	settingTopic      = "topic"
	settingPartitions = "partitions"
)

// PlanTopics compares the cluster with the specifications and returns the differences in
// the order of the specs, configuration entries by name. It changes nothing.
func (c *Client) PlanTopics(ctx context.Context, specs []contract.Spec) ([]Difference, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	names := make([]string, len(specs))
	for i, s := range specs {
		names[i] = s.Name
	}
	counts, err := c.counts(ctx, names)
	if err != nil {
		return nil, err
	}
	var existing []string
	for _, s := range specs {
		if counts[s.Name] > 0 {
			existing = append(existing, s.Name)
		}
	}
	have, err := c.configs(ctx, existing)
	if err != nil {
		return nil, err
	}
	var diffs []Difference
	for _, s := range specs {
		n := counts[s.Name]
		if n == 0 {
			diffs = append(diffs, Difference{Topic: s.Name, Setting: settingTopic, Want: fmt.Sprintf("%d partitions", s.Partitions), Fixable: true})
			continue
		}
		if n != s.Partitions {
			diffs = append(diffs, Difference{Topic: s.Name, Setting: settingPartitions, Have: strconv.Itoa(n), Want: strconv.Itoa(s.Partitions)})
		}
		for _, key := range slices.Sorted(maps.Keys(s.Configs)) {
			if got := have[s.Name][key]; got != s.Configs[key] {
				diffs = append(diffs, Difference{Topic: s.Name, Setting: key, Have: got, Want: s.Configs[key], Fixable: true})
			}
		}
	}
	return diffs, nil
}

// EnsureTopics creates what is missing and sets the configuration entries that differ.
// It is safe to call from several processes at once. A topic with another partition
// count is an error that wraps ErrPartitionCount; nothing is changed then.
func (c *Client) EnsureTopics(ctx context.Context, specs []contract.Spec) error {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	diffs, err := c.PlanTopics(ctx, specs)
	if err != nil {
		return err
	}
	bySpec := map[string]contract.Spec{}
	for _, s := range specs {
		bySpec[s.Name] = s
	}
	var create []kafka.TopicConfig
	alter := map[string][]kafka.IncrementalAlterConfigsRequestConfig{}
	for _, d := range diffs {
		switch d.Setting {
		case settingTopic:
			create = append(create, c.topicConfig(bySpec[d.Topic]))
		case settingPartitions:
			return fmt.Errorf("%s has %s partitions, configured are %s: %w", d.Topic, d.Have, d.Want, ErrPartitionCount)
		default:
			alter[d.Topic] = append(alter[d.Topic], kafka.IncrementalAlterConfigsRequestConfig{
				Name: d.Setting, Value: d.Want, ConfigOperation: kafka.ConfigOperationSet,
			})
		}
	}
	if err := c.createTopics(ctx, create); err != nil {
		return err
	}
	if err := c.alterConfigs(ctx, alter); err != nil {
		return err
	}
	return c.awaitLeaders(ctx, specs)
}

// awaitLeaders returns once every partition's leader answers for it, so that the caller
// can write at once: metadata names a leader before that has heard of its new partition.
func (c *Client) awaitLeaders(ctx context.Context, specs []contract.Spec) error {
	b := backoff{low: 5 * time.Millisecond, high: 100 * time.Millisecond}
	for _, s := range specs {
		for {
			_, end, err := c.Offsets(ctx, s.Name)
			if err == nil && len(end) == s.Partitions {
				break
			}
			if err == nil {
				err = ErrPartitionCount
			}
			if !Retriable(err) {
				return err
			}
			if !b.wait(ctx) {
				return fmt.Errorf("wait for leaders of %s: %w: %w", s.Name, ctx.Err(), err)
			}
		}
	}
	return nil
}

func (c *Client) topicConfig(s contract.Spec) kafka.TopicConfig {
	t := kafka.TopicConfig{Topic: s.Name, NumPartitions: s.Partitions, ReplicationFactor: -1}
	if c.cfg.Replication > 0 {
		t.ReplicationFactor = c.cfg.Replication
	}
	for _, key := range slices.Sorted(maps.Keys(s.Configs)) {
		t.ConfigEntries = append(t.ConfigEntries, kafka.ConfigEntry{ConfigName: key, ConfigValue: s.Configs[key]})
	}
	return t
}

func (c *Client) createTopics(ctx context.Context, topics []kafka.TopicConfig) error {
	if len(topics) == 0 {
		return nil
	}
	res, err := c.admin.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: topics})
	if err != nil {
		return fmt.Errorf("create topics: %w", err)
	}
	for name, err := range res.Errors {
		// Another process may have been faster.
		if err != nil && !errors.Is(err, kafka.TopicAlreadyExists) {
			return fmt.Errorf("create topic %s: %w", name, err)
		}
	}
	return nil
}

func (c *Client) alterConfigs(ctx context.Context, changes map[string][]kafka.IncrementalAlterConfigsRequestConfig) error {
	if len(changes) == 0 {
		return nil
	}
	req := &kafka.IncrementalAlterConfigsRequest{}
	for _, topic := range slices.Sorted(maps.Keys(changes)) {
		req.Resources = append(req.Resources, kafka.IncrementalAlterConfigsRequestResource{
			ResourceType: kafka.ResourceTypeTopic, ResourceName: topic, Configs: changes[topic],
		})
	}
	res, err := c.admin.IncrementalAlterConfigs(ctx, req)
	if err != nil {
		return fmt.Errorf("alter topics: %w", err)
	}
	for _, r := range res.Resources {
		if r.Error != nil {
			return fmt.Errorf("alter topic %s: %w", r.ResourceName, r.Error)
		}
	}
	return nil
}

// counts returns the partition count of each topic, 0 when it does not exist.
func (c *Client) counts(ctx context.Context, names []string) (map[string]int, error) {
	counts := make(map[string]int, len(names))
	for _, name := range names {
		leaders, err := c.leaders(ctx, name)
		if errors.Is(err, kafka.UnknownTopicOrPartition) {
			continue
		}
		if err != nil {
			return nil, err
		}
		counts[name] = len(leaders[name])
	}
	return counts, nil
}

// configs returns all configuration entries of existing topics, defaults included.
func (c *Client) configs(ctx context.Context, names []string) (map[string]map[string]string, error) {
	if len(names) == 0 {
		return nil, nil
	}
	req := &kafka.DescribeConfigsRequest{}
	for _, name := range names {
		req.Resources = append(req.Resources, kafka.DescribeConfigRequestResource{ResourceType: kafka.ResourceTypeTopic, ResourceName: name})
	}
	res, err := c.admin.DescribeConfigs(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("describe topics: %w", err)
	}
	out := make(map[string]map[string]string, len(names))
	for _, r := range res.Resources {
		if r.Error != nil {
			return nil, fmt.Errorf("describe topic %s: %w", r.ResourceName, r.Error)
		}
		entries := make(map[string]string, len(r.ConfigEntries))
		for _, e := range r.ConfigEntries {
			entries[e.ConfigName] = e.ConfigValue
		}
		out[r.ResourceName] = entries
	}
	return out, nil
}
