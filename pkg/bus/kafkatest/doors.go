package kafkatest

import (
	"context"
	"crypto/tls"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest/apache"
)

// Door is a way into a broker that lets in nobody who does not show what Security says.
type Door struct {
	Name     string
	Broker   string // host:port
	Security bus.Security
	// Says is true when the broker tells a wrong login apart from a lost connection.
	Says bool
}

// The user that may pass the doors.
const (
	doorUser     = "bondmate-roles"
	doorPassword = "correct-horse-battery"
)

// logins are the doors at an address that wants a login.
func logins(at, suffix string, over bus.Security, says bool) []Door {
	var doors []Door
	for _, mechanism := range []string{bus.Plain, bus.ScramSHA256, bus.ScramSHA512} {
		s := over
		s.Mechanism, s.Username, s.Password = mechanism, doorUser, doorPassword
		doors = append(doors, Door{Name: mechanism + suffix, Broker: at, Security: s, Says: says})
	}
	return doors
}

// EmbeddedDoors starts embedded brokers with a door for each login, in the clear and
// within TLS. Both know the certificates.
func EmbeddedDoors(tb testing.TB, certs Certificates) []Door {
	tb.Helper()
	pair, err := tls.LoadX509KeyPair(certs.Server.Cert, certs.Server.Key)
	if err != nil {
		tb.Fatal(err)
	}
	start := func(opts ...kfake.Opt) string {
		cluster, err := kfake.NewCluster(append(opts,
			kfake.NumBrokers(1), kfake.EnableSASL(),
			kfake.Superuser(bus.Plain, doorUser, doorPassword),
			kfake.Superuser(bus.ScramSHA256, doorUser, doorPassword),
			kfake.Superuser(bus.ScramSHA512, doorUser, doorPassword),
			kfake.GroupMinSessionTimeout(0),
			kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}))...)
		if err != nil {
			tb.Fatalf("start embedded broker: %v", err)
		}
		tb.Cleanup(cluster.Close)
		return cluster.ListenAddrs()[0]
	}
	doors := logins(start(), "", bus.Security{}, false)
	within := start(kfake.TLS(&tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}))
	return append(doors, logins(within, " within TLS", bus.Security{TLS: true, CAFile: certs.CAFile}, false)...)
}

// ApacheDoors starts an Apache Kafka of this test's own with a door for each login, in the
// clear and within TLS, and one for a certificate. Without jars or java it skips the test,
// and fails it when CI is set.
func ApacheDoors(tb testing.TB, certs Certificates) []Door {
	tb.Helper()
	at := &apache.Doors{Users: map[string]string{doorUser: doorPassword}, StoreFile: certs.ServerStore, TrustFile: certs.CAFile}
	startDoors(tb, at)
	over := bus.Security{TLS: true, CAFile: certs.CAFile}
	doors := append(logins(at.SASL, "", bus.Security{}, true), logins(at.SASLTLS, " within TLS", over, true)...)
	over.CertFile, over.KeyFile = certs.Client.Cert, certs.Client.Key
	return append(doors, Door{Name: "certificate", Broker: at.TLS, Security: over, Says: true})
}

func startDoors(tb testing.TB, doors *apache.Doors) {
	tb.Helper()
	require(tb)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	server, err := apache.NewWithDoors(ctx, tb.TempDir(), doors)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(server.Kill)
	if err := server.Start(ctx); err != nil {
		tb.Fatal(err)
	}
}
