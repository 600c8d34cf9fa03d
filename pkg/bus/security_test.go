package bus_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
)

// At each door of the embedded broker and of Apache Kafka everything works for who may
// pass, and nothing for others.
func TestDoors(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB, kafkatest.Certificates) []kafkatest.Door{
		"embedded": kafkatest.EmbeddedDoors, "apache": kafkatest.ApacheDoors,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			certs := kafkatest.NewCertificates(t)
			for _, door := range start(t, certs) {
				t.Run(door.Name, func(t *testing.T) {
					t.Run("everything passes", func(t *testing.T) { everythingPasses(t, door) })
					t.Run("others are refused", func(t *testing.T) { othersAreRefused(t, door, certs) })
					if door.Says && door.Security.Mechanism != "" {
						t.Run("a refused group ends", func(t *testing.T) { refusedGroupEnds(t, door) })
					}
				})
			}
		})
	}
}

// through returns a client for a door.
func through(t *testing.T, broker string, s bus.Security) *bus.Client {
	t.Helper()
	c := bus.New(bus.Config{
		Brokers: []string{broker}, ClientID: "test", MetadataTTL: 200 * time.Millisecond, DialTimeout: 3 * time.Second, Security: s,
	}, slog.New(slog.DiscardHandler))
	t.Cleanup(c.Close)
	return c
}

// everythingPasses does all that the roles do through a door: the set-up of topics, writes, a
// partition's reader, a tail, and a group with its commits, which has connections of its own.
func everythingPasses(t *testing.T, door kafkatest.Door) {
	t.Helper()
	c := through(t, door.Broker, door.Security)
	if err := c.Ping(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	topic := newTopic(t, c, 2)
	tail := startTail(t, c, topic)
	p := c.NewProducer(bus.ProducerConfig{})
	running(t, p.Run)
	if err := p.Produce(within(t, 20*time.Second), record(topic, 0, "produced")); err != nil {
		t.Fatalf("produce: %v", err)
	}
	write(t, c, records(topic, 1, "written", "too")...)
	if diff := cmp.Diff([]string{"written", "too"}, readAll(t, c, topic, 1)); diff != "" {
		t.Errorf("partition 1 (-want +got):\n%s", diff)
	}
	tail.expect(t, map[int][]string{0: {"produced"}, 1: {"written", "too"}})

	group := kafkatest.Prefix(t) + ".group"
	joinAndCommit(t, c, group, topic)
	offsets, err := c.Committed(within(t, 20*time.Second), group, topic)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int64{1, 2}, offsets); diff != "" {
		t.Errorf("committed (-want +got):\n%s", diff)
	}
}

// othersAreRefused: who does not show what a door wants gets an error that says which step failed, soon, and
// learns that a repeat is in vain wherever the broker says so.
func othersAreRefused(t *testing.T, door kafkatest.Door, certs kafkatest.Certificates) {
	t.Helper()
	type refusal struct {
		alter func(*bus.Security)
		step  bus.Step // empty: the broker just hangs up
		final bool
	}
	refusals := map[string]refusal{}
	if door.Security.Mechanism != "" {
		refusals["wrong password"] = refusal{func(s *bus.Security) { s.Password = "hunter2-hunter2" }, bus.StepSASL, door.Says}
		refusals["unknown user"] = refusal{func(s *bus.Security) { s.Username = "nobody" }, bus.StepSASL, door.Says}
		refusals["no login"] = refusal{func(s *bus.Security) { s.Mechanism = "" }, "", false}
		refusals["unknown mechanism"] = refusal{func(s *bus.Security) { s.Mechanism = "GSSAPI" }, bus.StepSASL, true}
		refusals["password file missing"] = refusal{func(s *bus.Security) { s.Password, s.PasswordFile = "", "/nowhere" }, bus.StepPassword, false}
	}
	if door.Security.TLS {
		refusals["unknown authority"] = refusal{func(s *bus.Security) { s.CAFile = certs.Stranger.Cert }, bus.StepTLS, true}
		step := bus.StepSASL // the first thing that is tried then
		if door.Security.Mechanism == "" {
			step = ""
		}
		refusals["no TLS"] = refusal{func(s *bus.Security) { s.TLS = false }, step, false}
	} else {
		refusals["TLS where there is none"] = refusal{func(s *bus.Security) { s.TLS, s.CAFile = true, certs.CAFile }, bus.StepTLS, false}
	}
	if door.Security.CertFile != "" {
		refusals["no certificate"] = refusal{func(s *bus.Security) { s.CertFile, s.KeyFile = "", "" }, bus.StepTLS, true}
		refusals["a stranger's certificate"] = refusal{func(s *bus.Security) { s.CertFile, s.KeyFile = certs.Stranger.Cert, certs.Stranger.Key }, bus.StepTLS, true}
	}
	for name, want := range refusals {
		t.Run(name, func(t *testing.T) {
			s := door.Security
			want.alter(&s)
			begin := time.Now()
			err := through(t, door.Broker, s).Ping(within(t, 10*time.Second))
			if err == nil {
				t.Fatal("the door let it in")
			}
			t.Logf("after %v: %v", time.Since(begin).Round(time.Millisecond), err)
			refused, ok := errors.AsType[*bus.SecurityError](err)
			if ok != (want.step != "") || (ok && refused.Step != want.step) {
				t.Errorf("%v, want step %q", err, want.step)
			}
			if bus.Retriable(err) == want.final {
				t.Errorf("retriable: %v, want %v: %v", !want.final, want.final, err)
			}
			if s.Password != "" && strings.Contains(err.Error(), s.Password) {
				t.Errorf("the error holds the password: %v", err)
			}
		})
	}
}

// refusedGroupEnds: a group that may not log in ends with the error instead of trying for
// ever.
func refusedGroupEnds(t *testing.T, door kafkatest.Door) {
	t.Helper()
	topic := newTopic(t, through(t, door.Broker, door.Security), 1)
	door.Security.Password = "hunter2-hunter2"
	err := through(t, door.Broker, door.Security).RunGroup(within(t, 20*time.Second), bus.GroupConfig{ID: topic, Topic: topic},
		func(context.Context, bus.Generation) error { return nil })
	if refused, ok := errors.AsType[*bus.SecurityError](err); !ok || refused.Step != bus.StepSASL {
		t.Errorf("%v, want the login's refusal", err)
	}
}

// A broker that takes connections and says nothing holds up nobody beyond the deadline of
// a connection's set-up.
func TestSilentDoorIsBounded(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, s := range map[string]bus.Security{
		"SASL": {Mechanism: bus.ScramSHA256, Username: "u", Password: "p"},
		"TLS":  {TLS: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := bus.New(bus.Config{Brokers: []string{l.Addr().String()}, DialTimeout: 300 * time.Millisecond, Security: s}, slog.New(slog.DiscardHandler))
			defer c.Close()
			ctx := within(t, 10*time.Second)
			err := c.Ping(ctx)
			if _, ok := errors.AsType[*bus.SecurityError](err); !ok || ctx.Err() != nil {
				t.Errorf("%v (the caller's context: %v), want the set-up's own deadline", err, ctx.Err())
			}
		})
	}
}

// A password that is replaced in its file holds from the next connection on.
func TestPasswordFileIsReadAgain(t *testing.T) {
	t.Parallel()
	door := kafkatest.EmbeddedDoors(t, kafkatest.NewCertificates(t))[1]
	file := filepath.Join(t.TempDir(), "password")
	put := func(password string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	password := door.Security.Password
	door.Security.Password, door.Security.PasswordFile = "", file
	put("not yet right")
	c := through(t, door.Broker, door.Security)
	if err := c.Ping(within(t, 10*time.Second)); err == nil {
		t.Fatal("the wrong password was let in")
	}
	put(password)
	eventually(t, "the new password is let in", func() bool { return c.Ping(within(t, 10*time.Second)) == nil })
}

// A certificate of another server is not this server's, whoever signed it.
func TestCertificateMustNameTheBroker(t *testing.T) {
	t.Parallel()
	certs := kafkatest.NewCertificates(t)
	certs.Server = certs.Elsewhere
	doors := kafkatest.EmbeddedDoors(t, certs)
	door := doors[len(doors)-1]
	err := through(t, door.Broker, door.Security).Ping(within(t, 10*time.Second))
	if refused, ok := errors.AsType[*bus.SecurityError](err); !ok || refused.Step != bus.StepTLS || bus.Retriable(err) {
		t.Errorf("%v, want the certificate refused for good", err)
	}
}
