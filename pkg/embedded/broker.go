package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/embedded/appendtime"
)

// BrokerConfig says how to run the broker.
type BrokerConfig struct {
	// Dir holds topics, records and offsets. It must be held by the caller (LockDir): the
	// broker takes no lock of its own.
	Dir string
	// Port on the loopback interface; 0 means any free one.
	Port int
	// Sync makes each write durable against a power loss before it is acknowledged.
	// Without it a write survives the death of the process, kill -9 included.
	Sync bool
	// Topics are created when missing. No topic is ever created by being asked for.
	Topics []contract.Spec
	Log    *slog.Logger
}

// Broker is a Kafka-protocol broker inside this process.
type Broker struct {
	Addr    string // host:port on the loopback interface
	cluster *kfake.Cluster
}

// minSessionTimeout admits consumer groups that notice a lost member sooner than Kafka's
// broker default of 6 s allows.
const minSessionTimeout = time.Second

// StartBroker starts the broker and returns when it serves.
func StartBroker(cfg BrokerConfig) (*Broker, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create broker directory: %w", err)
	}
	// A clean stop keeps the members of consumer groups, to hide the restart from clients
	// that outlive the broker. Ours ended with it: the next start would wait for them
	// until their sessions time out. Offsets are kept elsewhere.
	err := os.Remove(filepath.Join(cfg.Dir, "session_state.json"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("forget consumer group members: %w", err)
	}
	opts := []kfake.Opt{
		kfake.Ports(cfg.Port),
		kfake.ClusterID("bondmate-embedded"),
		kfake.DataDir(cfg.Dir),
		kfake.GroupMinSessionTimeout(minSessionTimeout),
		kfake.WithLogger(brokerLog{cfg.Log}),
	}
	if cfg.Sync {
		opts = append(opts, kfake.SyncWrites())
	}
	cluster, err := kfake.NewCluster(opts...)
	if err != nil {
		return nil, fmt.Errorf("start broker: %w", err)
	}
	broker := &Broker{Addr: cluster.ListenAddrs()[0], cluster: cluster}
	stamped := map[string]bool{}
	for _, spec := range cfg.Topics {
		stamped[spec.Name] = spec.Configs["message.timestamp.type"] == "LogAppendTime"
	}
	appendtime.Install(cluster, func(topic string) bool { return stamped[topic] })
	refuseRights(cluster)
	for _, spec := range cfg.Topics {
		if err := broker.ensure(spec); err != nil {
			broker.Close()
			return nil, err
		}
	}
	return broker, nil
}

// ensure creates the topic, or checks that the one that exists can serve as it. A topic
// with another partition count cannot: keys would change their partition.
func (b *Broker) ensure(spec contract.Spec) error {
	err := b.cluster.CreateTopic(spec.Name, int32(spec.Partitions), spec.Configs) // #nosec G115 -- validated by pkg/config
	if err == nil {
		return nil
	}
	if !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create topic %s: %w", spec.Name, err)
	}
	if have := len(b.cluster.PartitionInfos(spec.Name)); have != spec.Partitions {
		return fmt.Errorf("topic %s has %d partitions in this data directory, and %d are configured (KAFKA_PARTITIONS)",
			spec.Name, have, spec.Partitions)
	}
	return nil
}

// Close stops the broker and writes its state to disk.
func (b *Broker) Close() { b.cluster.Close() }

// brokerLog passes on what an operator should see. What the broker calls informational
// is one line a request.
type brokerLog struct{ log *slog.Logger }

func (l brokerLog) Logf(level kfake.LogLevel, format string, args ...any) {
	to := slog.LevelDebug
	switch level {
	case kfake.LogLevelError:
		to = slog.LevelError
	case kfake.LogLevelWarn:
		to = slog.LevelWarn
	case kfake.LogLevelNone, kfake.LogLevelInfo, kfake.LogLevelDebug:
		return
	}
	l.log.Log(context.Background(), to, "broker", "says", fmt.Sprintf(format, args...))
}
