package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What is only warned of keeps nothing from starting, and has a way to mend it.
func TestSecurityWarns(t *testing.T) {
	t.Parallel()
	good := []string{
		"APP_ENV=production", "TRUSTED_PROXIES=10.0.0.0/8", "HTTPS_REDIRECT=on", "JWT_PRIVATE_KEY_FILE=/dev/null", "FIREBASE_CREDENTIALS_FILE=/dev/null",
		"DATABASE_URL=postgres://u:a-long-password@db.example/d?sslmode=verify-full", "KAFKA_BROKERS=h:9092", "KAFKA_TLS=on",
		"KAFKA_SASL_MECHANISM=SCRAM-SHA-512", "KAFKA_SASL_USERNAME=u", "KAFKA_SASL_PASSWORD=p", "REDIS_URL=rediss://:hunter2@h",
	}
	for name, tt := range map[string]struct {
		environ []string
		want    []string // names of what is warned of
	}{
		"as it should be":           {nil, nil},
		"no redirect":               {[]string{"HTTPS_REDIRECT=off"}, []string{"redirect to HTTPS"}},
		"a database in the clear":   {[]string{"DATABASE_URL=postgres://u:a-long-password@db.example/d?sslmode=disable"}, []string{"way to the database"}},
		"a database, maybe clear":   {[]string{"DATABASE_URL=postgres://u:a-long-password@db.example/d"}, []string{"way to the database"}},
		"any database":              {[]string{"DATABASE_URL=postgres://u:a-long-password@db.example/d?sslmode=require"}, []string{"way to the database"}},
		"a database of this host":   {[]string{"DATABASE_URL=postgres://u:a-long-password@127.0.0.1/d?sslmode=disable"}, nil},
		"a short password":          {[]string{"DATABASE_URL=postgres://u:x7-pq@db.example/d?sslmode=verify-full"}, []string{"database password"}},
		"no password":               {[]string{"DATABASE_URL=postgres://u@db.example/d?sslmode=verify-full"}, []string{"database password"}},
		"Kafka in the clear":        {[]string{"KAFKA_TLS=off"}, []string{"way to Kafka"}},
		"Kafka of this host":        {[]string{"KAFKA_TLS=off", "KAFKA_BROKERS=[::1]:9092,localhost:9093"}, nil},
		"nobody to Kafka":           {[]string{"KAFKA_SASL_MECHANISM=", "KAFKA_SASL_USERNAME=", "KAFKA_SASL_PASSWORD="}, []string{"way to Kafka"}},
		"Redis in the clear":        {[]string{"REDIS_URL=redis://:hunter2@h"}, []string{"way to Redis"}},
		"Redis for everybody":       {[]string{"REDIS_URL=rediss://h"}, []string{"way to Redis"}},
		"any number of connections": {[]string{"MAX_CONNECTIONS_PER_CLIENT=0"}, []string{"connections of one client"}},
		"links in the clear":        {[]string{"FRONTEND_URL=http://app.example.com"}, []string{"links in mails"}},
		"pushes elsewhere":          {[]string{"FCM_ENDPOINT=https://fcm.example"}, []string{"pushes"}},
		"metrics for everybody":     {[]string{"ADMIN_HOST=0.0.0.0"}, []string{"admin port"}},
		"data on this machine":      {[]string{"DATABASE_URL=", "KAFKA_BROKERS=", "KAFKA_TLS=off", "KAFKA_SASL_MECHANISM=", "KAFKA_SASL_USERNAME=", "KAFKA_SASL_PASSWORD="}, []string{"way to the database", "way to Kafka"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, err := LoadFor(append(append([]string(nil), good...), tt.environ...), All)
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			var got []string
			for _, f := range cfg.Security(All) {
				if f.Level == Warn {
					got = append(got, f.Name)
				}
				if f.Level != OK && f.Mend == "" || f.Why == "" || f.Variable == "" {
					t.Errorf("a finding without a way to mend it: %+v", f)
				}
				if strings.Contains(f.Why+f.Mend, "hunter2") || strings.Contains(f.Why+f.Mend, "a-long-password") {
					t.Errorf("a secret is repeated: %+v", f)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("warned of (-want +got):\n%s", diff)
			}
		})
	}
}

// The judgement is production's in development too, and the start is not refused there.
func TestSecurityInDevelopment(t *testing.T) {
	t.Parallel()
	cfg, err := LoadFor([]string{"CORS_ORIGIN=*", "RATE_LIMITS=off", "FIREBASE_AUTH_EMULATOR_HOST=localhost:9099"}, All)
	if err != nil {
		t.Fatal(err)
	}
	var failed []string
	for _, f := range cfg.Security(All) {
		if f.Level == Fail {
			failed = append(failed, f.Variable)
		}
	}
	want := []string{"TLS_CERT_FILE", "CORS_ORIGIN", "JWT_PRIVATE_KEY_FILE", "RATE_LIMITS", "FIREBASE_AUTH_EMULATOR_HOST", "FIREBASE_CREDENTIALS_FILE"}
	if diff := cmp.Diff(want, failed); diff != "" {
		t.Errorf("failed (-want +got):\n%s", diff)
	}
	if cfg.ConnectionsPerClient() != 0 {
		t.Error("a developer's machine is bounded")
	}
}
