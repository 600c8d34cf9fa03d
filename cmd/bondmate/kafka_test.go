package main

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bondmate/backend/pkg/bus/kafkatest"
)

// environment is how the variables say what a door wants.
func environment(door kafkatest.Door) map[string]string {
	s := door.Security
	env := map[string]string{"KAFKA_BROKERS": door.Broker, "KAFKA_SESSION_TIMEOUT": "6s", "KAFKA_PARTITIONS": "3"}
	if s.TLS {
		env["KAFKA_TLS"], env["KAFKA_TLS_CA_FILE"] = "on", s.CAFile
		env["KAFKA_TLS_CERT_FILE"], env["KAFKA_TLS_KEY_FILE"] = s.CertFile, s.KeyFile
	}
	if s.Mechanism != "" {
		env["KAFKA_SASL_MECHANISM"], env["KAFKA_SASL_USERNAME"], env["KAFKA_SASL_PASSWORD"] = s.Mechanism, s.Username, s.Password
	}
	return env
}

func environ(variables map[string]string) []string {
	var list []string
	for name, value := range variables {
		list = append(list, name+"="+value)
	}
	return list
}

func doorNamed(t *testing.T, doors []kafkatest.Door, name string) kafkatest.Door {
	t.Helper()
	i := slices.IndexFunc(doors, func(d kafkatest.Door) bool { return d.Name == name })
	if i < 0 {
		t.Fatalf("no door %q", name)
	}
	return doors[i]
}

// Every role works on a broker that wants a login within TLS: a request that is asked and
// accepted goes through commands, events and the consumer groups.
func TestAllBehindTheDoors(t *testing.T) {
	t.Parallel()
	certs := kafkatest.NewCertificates(t)
	for name, start := range map[string]func(testing.TB, kafkatest.Certificates) []kafkatest.Door{
		"embedded": kafkatest.EmbeddedDoors, "apache": kafkatest.ApacheDoors,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTown(t, environ(environment(doorNamed(t, start(t, certs), "SCRAM-SHA-512 within TLS")))...)
			ana, ben := w.couple(t, "Ana", "Ben")
			if ana.partnershipID == "" || ana.partnershipID != ben.partnershipID {
				t.Errorf("partnerships %q and %q, want the same", ana.partnershipID, ben.partnershipID)
			}
		})
	}
}

// A program that the brokers refuse ends at its start, soon, with the variables' names and
// without the password.
func TestRefusedByKafkaAtTheStart(t *testing.T) {
	t.Parallel()
	certs := kafkatest.NewCertificates(t)
	doors := kafkatest.ApacheDoors(t, certs)
	for name, test := range map[string]struct {
		door   string
		wrong  map[string]string
		within time.Duration
		want   string
	}{
		"wrong password":    {"SCRAM-SHA-256", map[string]string{"KAFKA_SASL_PASSWORD": "hunter2-hunter2"}, 20 * time.Second, "KAFKA_SASL_PASSWORD"},
		"unknown authority": {"PLAIN within TLS", map[string]string{"KAFKA_TLS_CA_FILE": certs.Stranger.Cert}, 20 * time.Second, "KAFKA_TLS_CA_FILE"},
		"no certificate": {
			"certificate", map[string]string{"KAFKA_TLS_CERT_FILE": "", "KAFKA_TLS_KEY_FILE": ""}, 20 * time.Second, "KAFKA_TLS_CERT_FILE",
		},
		// The broker hangs up without a word: a broker that starts does the same, so this waits.
		"no login": {
			"PLAIN", map[string]string{"KAFKA_SASL_MECHANISM": "", "KAFKA_SASL_USERNAME": "", "KAFKA_SASL_PASSWORD": ""}, 3 * time.Second, "KAFKA_SASL_MECHANISM",
		},
		"no TLS": {
			"certificate", map[string]string{"KAFKA_TLS": "", "KAFKA_TLS_CA_FILE": "", "KAFKA_TLS_CERT_FILE": "", "KAFKA_TLS_KEY_FILE": ""}, 3 * time.Second, "KAFKA_TLS",
		},
	} {
		t.Run(name, func(t *testing.T) {
			variables := environment(doorNamed(t, doors, test.door))
			variables["DATA_DIR"] = t.TempDir()
			for variable, value := range test.wrong {
				variables[variable] = value
			}
			ctx, cancel := context.WithTimeout(t.Context(), test.within)
			defer cancel()
			var out output
			begin := time.Now()
			err := run(ctx, []string{"topics", "plan"}, terminal{environ: environ(variables), stdout: &out, stderr: &out})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want it to name %s", err, test.want)
			}
			t.Logf("after %v: %v", time.Since(begin).Round(time.Millisecond), err)
			if test.within > 5*time.Second && ctx.Err() != nil {
				t.Errorf("it went on for %v", test.within)
			}
			if strings.Contains(err.Error()+out.String(), "hunter2") {
				t.Errorf("the password is printed: %v\n%s", err, out.String())
			}
		})
	}
}
