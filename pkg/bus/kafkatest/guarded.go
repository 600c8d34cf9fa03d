package kafkatest

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest/apache"
)

// Guarded is a broker that wants a login and lets nobody do what no ACL allows.
type Guarded struct {
	Name   string
	Broker string // host:port
}

// Administrator may do everything on a Guarded broker.
const Administrator = "administrator"

// As returns the login of a user, of Administrator for example.
func (g Guarded) As(user string) bus.Security {
	return bus.Security{Mechanism: bus.ScramSHA256, Username: user, Password: passwordOf(user)}
}

func passwordOf(user string) string { return doorPassword + "-of-" + user }

// EmbeddedGuarded starts an embedded broker with an authorizer that knows the users.
func EmbeddedGuarded(tb testing.TB, users ...string) Guarded {
	tb.Helper()
	opts := []kfake.Opt{
		kfake.NumBrokers(1), kfake.EnableSASL(), kfake.EnableACLs(),
		kfake.Superuser(bus.ScramSHA256, Administrator, passwordOf(Administrator)),
		kfake.GroupMinSessionTimeout(0),
		kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}),
	}
	for _, user := range users {
		opts = append(opts, kfake.User(bus.ScramSHA256, user, passwordOf(user)))
	}
	cluster, err := kfake.NewCluster(opts...)
	if err != nil {
		tb.Fatalf("start embedded broker: %v", err)
	}
	tb.Cleanup(cluster.Close)
	return Guarded{Name: "embedded", Broker: cluster.ListenAddrs()[0]}
}

// ApacheGuarded starts an Apache Kafka of this test's own with an authorizer that knows the
// users. Without jars or java it skips the test, and fails it when CI is set.
func ApacheGuarded(tb testing.TB, users ...string) Guarded {
	tb.Helper()
	certs := NewCertificates(tb) // of the doors that are not used
	at := &apache.Doors{
		Users: map[string]string{Administrator: passwordOf(Administrator)}, SuperUsers: []string{Administrator},
		StoreFile: certs.ServerStore, TrustFile: certs.CAFile,
	}
	for _, user := range users {
		at.Users[user] = passwordOf(user)
	}
	startDoors(tb, at)
	return Guarded{Name: "apache", Broker: at.SASL}
}
