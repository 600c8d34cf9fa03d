package kafkatest

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/bondmate/backend/pkg/bus/kafkatest/apache"
)

// startTimeout is ample: a start takes 3 s on two cores that have nothing else to do.
const startTimeout = 2 * time.Minute

// shared is the process's Apache Kafka while any test uses it. It is global because tests
// that know nothing of each other share it: a start costs seconds.
var shared struct { //nolint:gochecknoglobals // see above
	mu     sync.Mutex
	users  int
	server *apache.Server
	dir    string
}

// Apache returns an Apache Kafka that all tests share: the one that TEST_KAFKA_BROKERS
// names, or one that lives as long as a test of this process uses it. Without jars or java it
// skips the test, and fails it when CI is set.
func Apache(tb testing.TB) *Broker {
	tb.Helper()
	if addr := os.Getenv("TEST_KAFKA_BROKERS"); addr != "" {
		return &Broker{tb: tb, addr: addr}
	}
	require(tb)
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.server == nil {
		dir, err := os.MkdirTemp("", "bondmate-kafka-")
		if err != nil {
			tb.Fatal(err)
		}
		server, err := newServer(dir)
		if err != nil {
			_ = os.RemoveAll(dir)
			tb.Fatal(err)
		}
		shared.server, shared.dir = server, dir
	}
	shared.users++
	tb.Cleanup(func() {
		shared.mu.Lock()
		defer shared.mu.Unlock()
		shared.users--
		if shared.users == 0 {
			shared.server.Kill()
			_ = os.RemoveAll(shared.dir)
			shared.server = nil
		}
	})
	return &Broker{tb: tb, addr: shared.server.Addr}
}

// StartApache starts an Apache Kafka for this test alone, which may stop and start it.
// Without jars or java it skips the test, and fails it when CI is set.
func StartApache(tb testing.TB) *Broker {
	tb.Helper()
	require(tb)
	server, err := newServer(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(server.Kill)
	return &Broker{tb: tb, addr: server.Addr, server: server}
}

func newServer(dir string) (*apache.Server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	server, err := apache.New(ctx, dir)
	if err != nil {
		return nil, err
	}
	return server, server.Start(ctx)
}

func require(tb testing.TB) {
	tb.Helper()
	if err := apache.Available(); err != nil {
		if os.Getenv("CI") != "" {
			tb.Fatalf("CI demands the tests against Apache Kafka: %v", err)
		}
		tb.Skipf("!!! SKIPPED, NOT TESTED AGAINST APACHE KAFKA: %v", err)
	}
}
