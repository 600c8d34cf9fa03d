// Package kafkatest gives tests a Kafka: the embedded broker (kfake) inside the process,
// or Apache Kafka on the loopback interface. Everything that it starts ends with the
// test, and Apache Kafka with the process that started it.
package kafkatest

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest/apache"
	"github.com/bondmate/backend/pkg/embedded/appendtime"
)

// Broker is one running Kafka.
type Broker struct {
	tb     testing.TB
	addr   string
	fake   *fake          // nil for Apache Kafka
	server *apache.Server // nil for kfake and for the shared Apache Kafka
}

// Brokers returns the bootstrap addresses.
func (b *Broker) Brokers() []string { return strings.Split(b.addr, ",") }

// Client returns a client for the broker that is closed when the test ends. It believes
// metadata for a short time only, so that tests of a moved leader are quick.
func (b *Broker) Client(tb testing.TB) *bus.Client {
	tb.Helper()
	c := bus.New(bus.Config{
		Brokers: b.Brokers(), ClientID: "test", MetadataTTL: time.Second, DialTimeout: time.Second,
	}, slog.New(slog.DiscardHandler))
	tb.Cleanup(c.Close)
	return c
}

// Fake returns the embedded broker's cluster for fault injection, or nil.
func (b *Broker) Fake() *kfake.Cluster {
	if b.fake == nil {
		return nil
	}
	b.fake.mu.Lock()
	defer b.fake.mu.Unlock()
	return b.fake.cluster
}

// Stop stops a broker of this test (embedded, or from StartApache) in an orderly way.
func (b *Broker) Stop() {
	b.tb.Helper()
	if b.fake != nil {
		b.fake.stop()
		return
	}
	b.own().Stop()
}

// Start starts a stopped broker of this test again, with its data and on its port.
func (b *Broker) Start() {
	b.tb.Helper()
	if b.fake != nil {
		b.fake.start(b.tb)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := b.own().Start(ctx); err != nil {
		b.tb.Fatal(err)
	}
}

// Kill ends a broker from StartApache as a crash does.
func (b *Broker) Kill() {
	b.tb.Helper()
	b.own().Kill()
}

// Pause makes a broker from StartApache hang, with its connections open, until Resume.
func (b *Broker) Pause() {
	b.tb.Helper()
	if err := b.own().Pause(); err != nil {
		b.tb.Fatal(err)
	}
}

// Resume ends a Pause.
func (b *Broker) Resume() {
	b.tb.Helper()
	if err := b.own().Resume(); err != nil {
		b.tb.Fatal(err)
	}
}

func (b *Broker) own() *apache.Server {
	b.tb.Helper()
	if b.server == nil {
		b.tb.Fatal("not an Apache Kafka of this test's own")
	}
	return b.server
}

// prefixes makes prefixes unique within the process, started within the machine.
var (
	prefixes atomic.Int64
	started  = time.Now().UnixNano()
)

// Prefix returns a prefix for topics and groups that no other test uses, whatever broker
// they share.
func Prefix(tb testing.TB) string {
	tb.Helper()
	return fmt.Sprintf("t%x-%d", started, prefixes.Add(1))
}

// Both runs a test against the embedded broker and against Apache Kafka.
func Both(t *testing.T, test func(t *testing.T, b *Broker)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		test(t, Embedded(t))
	})
	t.Run("apache", func(t *testing.T) {
		t.Parallel()
		test(t, Apache(t))
	})
}

// Embedded starts a kfake broker with one node. Topics must be created.
func Embedded(tb testing.TB) *Broker {
	tb.Helper()
	return EmbeddedNodes(tb, 1)
}

// EmbeddedNodes starts a kfake cluster with several nodes, for tests that move leaders.
func EmbeddedNodes(tb testing.TB, nodes int) *Broker {
	tb.Helper()
	f := &fake{nodes: nodes, dir: tb.TempDir()}
	f.start(tb)
	tb.Cleanup(f.stop)
	return &Broker{tb: tb, addr: strings.Join(f.addrs, ","), fake: f}
}

// fake is a kfake cluster that can be stopped and started with its data.
type fake struct {
	nodes int
	dir   string

	mu      sync.Mutex
	addrs   []string
	cluster *kfake.Cluster
	stamped map[string]bool // topics with LogAppendTime
}

func (f *fake) start(tb testing.TB) {
	tb.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	opts := []kfake.Opt{
		kfake.NumBrokers(f.nodes), kfake.DataDir(f.dir),
		kfake.GroupMinSessionTimeout(100 * time.Millisecond),
		kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}),
	}
	if f.addrs != nil {
		var ports []int
		for _, addr := range f.addrs {
			var port int
			if _, err := fmt.Sscanf(addr[strings.LastIndex(addr, ":")+1:], "%d", &port); err != nil {
				tb.Fatalf("parse %s: %v", addr, err)
			}
			ports = append(ports, port)
		}
		opts = append(opts, kfake.Ports(ports...))
	}
	cluster, err := kfake.NewCluster(opts...)
	if err != nil {
		tb.Fatalf("start embedded broker: %v", err)
	}
	f.cluster, f.addrs = cluster, cluster.ListenAddrs()
	f.stampAppends()
}

// stampAppends gives topics with message.timestamp.type=LogAppendTime what they ask for.
func (f *fake) stampAppends() {
	if f.stamped == nil {
		f.stamped = map[string]bool{}
	}
	// Both controls run on the cluster's goroutine; it ends before another start.
	f.cluster.ControlKey(int16(kmsg.CreateTopics), func(req kmsg.Request) (kmsg.Response, error, bool) {
		for _, t := range req.(*kmsg.CreateTopicsRequest).Topics {
			f.stamped[t.Topic] = slices.ContainsFunc(t.Configs, func(c kmsg.CreateTopicsRequestTopicConfig) bool {
				return c.Name == "message.timestamp.type" && c.Value != nil && *c.Value == "LogAppendTime"
			})
		}
		return nil, nil, false
	})
	appendtime.Install(f.cluster, func(topic string) bool { return f.stamped[topic] })
}

func (f *fake) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cluster != nil {
		f.cluster.Close()
		f.cluster = nil
	}
}
