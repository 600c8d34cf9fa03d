package config

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bondmate/backend/pkg/certificate/certificatetest"
	"github.com/bondmate/backend/pkg/identity"
)

func TestLoadDefaults(t *testing.T) {
	t.Parallel()
	got, err := Load(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Env: Development, LogLevel: "info", LogFormat: "auto", Port: 3000, DataDir: ".bondmate", MaxConnections: 16000,
		DatabaseMaxConns: 50, DatabaseMinConns: 5, PostgresRepository: "https://repo1.maven.org/maven2",
		KafkaTopicPrefix: "bondmate", KafkaPartitions: 12, KafkaReplication: 1, RedisPort: 6379, KafkaSessionTimeout: 10 * time.Second,
		SessionTTL: 60 * 24 * time.Hour, SessionMaxAge: 365 * 24 * time.Hour, PushGrace: 1500 * time.Millisecond, PushInFlight: 256, PushPerMinute: 600_000, BatchMax: 256, IngestDeadline: 2500 * time.Millisecond, ClockSkew: time.Second,
		RequestTTL: 7 * 24 * time.Hour, RestoreWindow: 720 * time.Hour, RetentionEvents: 2160 * time.Hour, RetentionCommands: 720 * time.Hour, RetentionPushes: 1080 * time.Hour,
		RetentionReports: 2160 * time.Hour, SlotsFree: 1, SlotsPremium: 3, RetentionInterval: time.Hour, MessageMaxLength: 500,
		BreakupTTL: 7 * 24 * time.Hour, SendsPerTarget: 3, RateLimits: true, Cache: true, CacheMemoryBytes: 32 << 20,
		RateLimitWindow: 15 * time.Minute, RateLimitFree: 100, RateLimitPremium: 500, RateLimitAdmin: 1000, RateLimitAnonymous: 100,
		RateLimitRegister: 100, RateLimitLogin: 3000, RateLimitMail: 30, RateLimitSockets: 3000, RateLimitProbe: 1000,
		RateLimitRequestsMinute: 5, RateLimitRequestsHour: 20, RateLimitRequestsDay: 100, RateLimitInstances: 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
}

func TestLoadFaults(t *testing.T) {
	t.Parallel()
	cert, key := certificatetest.NewAuthority(t).Issue(t, certificatetest.Pair{})
	certFile, keyFile := certificatetest.Write(t, t.TempDir(), cert, key)
	for name, test := range map[string]struct {
		environ []string
		want    []string // whole lines
	}{
		"a word that is no environment": {
			[]string{"APP_ENV=prod"}, []string{`APP_ENV: "prod" is not development, test or production`},
		},
		"a switch with a typo": {
			[]string{"KAFKA_SYNC=ture"}, []string{`KAFKA_SYNC: "ture" is not on or off`},
		},
		"a duration without a unit": {
			[]string{"INGEST_DEADLINE=2500"}, []string{`INGEST_DEADLINE: "2500" is not a duration such as 2.5s or 168h`},
		},
		"a port that is no number": {
			[]string{"ADMIN_PORT=http"}, []string{`ADMIN_PORT: "http" is not a whole number`},
		},
		"a port out of range": {
			[]string{"PORT=70000"}, []string{`PORT: 70000 is not between 0 and 65535`},
		},
		"two servers on one port": {
			[]string{"PORT=8080", "ADMIN_PORT=8080"}, []string{`ADMIN_PORT: 8080 is the same as PORT`},
		},
		"a broker without a port": {
			[]string{"KAFKA_BROKERS=one:9092,two"}, []string{`KAFKA_BROKERS: "two" is not host:port`},
		},
		"tokens that nobody signs in production": {
			[]string{"APP_ENV=production", "FIREBASE_AUTH_EMULATOR_HOST=127.0.0.1:9099"},
			[]string{"FIREBASE_AUTH_EMULATOR_HOST: is not allowed in production: anybody could log in as anybody"},
		},
		"Firebase's emulator in development": {[]string{"FIREBASE_PROJECT_ID=bond-mate", "FIREBASE_AUTH_EMULATOR_HOST=127.0.0.1:9099"}, nil},
		"a Firebase project that is none": {
			[]string{"FIREBASE_PROJECT_ID=https://bond.mate/x"}, []string{`FIREBASE_PROJECT_ID: "https://bond.mate/x" is not the id of a Google project`},
		},
		"a session that would outlive its greatest age": {
			[]string{"SESSION_TTL=48h", "SESSION_MAX_AGE=24h"}, []string{"SESSION_MAX_AGE: 24h0m0s is not between 48h0m0s and 87840h0m0s"},
		},
		"a session shorter than an access token": {
			[]string{"SESSION_TTL=1m"}, []string{"SESSION_TTL: 1m0s is not between 15m0s and 87840h0m0s"},
		},
		"a wildcard origin in production": {
			[]string{"APP_ENV=production", "CORS_ORIGIN=*"},
			[]string{"CORS_ORIGIN: * is not allowed in production: list the origins"},
		},
		"a cache of next to nothing": {
			[]string{"CACHE_MEMORY_BYTES=1000"}, []string{"CACHE_MEMORY_BYTES: 1000 is not between 1048576 and 2147483647"},
		},
		"no limits in production": {
			[]string{"APP_ENV=production", "RATE_LIMITS=off"}, []string{"RATE_LIMITS: is not allowed to be off in production"},
		},
		"limits that admit nobody": {
			[]string{"RATE_LIMIT_FREE=0", "RATE_LIMIT_WINDOW=15", "RATE_LIMIT_REQUESTS_MINUTE=-5", "RATE_LIMIT_INSTANCES=0"},
			[]string{
				"RATE_LIMIT_FREE: 0 is not between 1 and 1000000",
				"RATE_LIMIT_INSTANCES: 0 is not between 1 and 1000",
				"RATE_LIMIT_REQUESTS_MINUTE: -5 is not between 1 and 1000000",
				`RATE_LIMIT_WINDOW: "15" is not a duration such as 2.5s or 168h`,
			},
		},
		"premium users below free ones": {
			[]string{"RATE_LIMIT_FREE=600"}, []string{"RATE_LIMIT_PREMIUM: 500 is not between 600 and 1000000"},
		},
		"an origin with a path": {
			[]string{"CORS_ORIGIN=https://app.example.com/login"},
			[]string{`CORS_ORIGIN: "https://app.example.com/login" is not an origin such as https://app.example.com`},
		},
		"TLS and a login on the broker inside the process": {
			[]string{"KAFKA_TLS=on", "KAFKA_SASL_MECHANISM=PLAIN", "KAFKA_SASL_USERNAME=u", "KAFKA_SASL_PASSWORD=hunter2"},
			[]string{
				"KAFKA_SASL_MECHANISM: needs KAFKA_BROKERS: the broker inside the process listens on the loopback interface, without TLS or logins",
				"KAFKA_TLS: needs KAFKA_BROKERS: the broker inside the process listens on the loopback interface, without TLS or logins",
			},
		},
		"all that a login lacks": {
			[]string{"KAFKA_BROKERS=h:9092", "KAFKA_SASL_MECHANISM=scram-sha-256"},
			[]string{
				"KAFKA_SASL_PASSWORD: or KAFKA_SASL_PASSWORD_FILE is needed with KAFKA_SASL_MECHANISM",
				"KAFKA_SASL_USERNAME: is needed with KAFKA_SASL_MECHANISM",
			},
		},
		"a login without its mechanism": {
			[]string{"KAFKA_BROKERS=h:9092", "KAFKA_SASL_USERNAME=u", "KAFKA_SASL_PASSWORD=hunter2"},
			[]string{"KAFKA_SASL_PASSWORD: needs KAFKA_SASL_MECHANISM", "KAFKA_SASL_USERNAME: needs KAFKA_SASL_MECHANISM"},
		},
		"a mechanism that is none": {
			[]string{"KAFKA_BROKERS=h:9092", "KAFKA_SASL_MECHANISM=SCRAM"},
			[]string{
				`KAFKA_SASL_MECHANISM: "SCRAM" is not PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512`,
			},
		},
		"two passwords": {
			[]string{"KAFKA_BROKERS=h:9092", "KAFKA_SASL_MECHANISM=PLAIN", "KAFKA_SASL_USERNAME=u", "KAFKA_SASL_PASSWORD=hunter2", "KAFKA_SASL_PASSWORD_FILE=/nowhere"},
			[]string{"KAFKA_SASL_PASSWORD_FILE: is set together with KAFKA_SASL_PASSWORD: only one can hold"},
		},
		"a password file that is not there": {
			[]string{"KAFKA_BROKERS=h:9092", "KAFKA_SASL_MECHANISM=PLAIN", "KAFKA_SASL_USERNAME=u", "KAFKA_SASL_PASSWORD_FILE=/nowhere"},
			[]string{"KAFKA_SASL_PASSWORD_FILE: cannot be read: open /nowhere: no such file or directory"},
		},
		"a password in the clear in production": {
			[]string{"APP_ENV=production", "KAFKA_BROKERS=h:9092", "KAFKA_SASL_MECHANISM=PLAIN", "KAFKA_SASL_USERNAME=u", "KAFKA_SASL_PASSWORD=hunter2"},
			[]string{"KAFKA_SASL_MECHANISM: PLAIN sends the password as it is: production needs KAFKA_TLS=on with it"},
		},
		"a password within TLS in production": {
			[]string{"APP_ENV=production", "KAFKA_BROKERS=h:9092", "KAFKA_TLS=on", "KAFKA_SASL_MECHANISM=PLAIN", "KAFKA_SASL_USERNAME=u", "KAFKA_SASL_PASSWORD=hunter2"},
			nil,
		},
		"files of TLS without TLS": {
			[]string{"KAFKA_BROKERS=h:9092", "KAFKA_TLS_CA_FILE=/nowhere", "KAFKA_TLS_CERT_FILE=/nowhere", "KAFKA_TLS_KEY_FILE=/nowhere"},
			[]string{"KAFKA_TLS_CA_FILE: needs KAFKA_TLS=on", "KAFKA_TLS_CERT_FILE: needs KAFKA_TLS=on", "KAFKA_TLS_KEY_FILE: needs KAFKA_TLS=on"},
		},
		"files of TLS that are of no use": {
			[]string{"KAFKA_BROKERS=h:9092", "KAFKA_TLS=on", "KAFKA_TLS_CA_FILE=/dev/null", "KAFKA_TLS_CERT_FILE=/dev/null", "KAFKA_TLS_KEY_FILE=/dev/null"},
			[]string{
				"KAFKA_TLS_CA_FILE: /dev/null holds no certificate in PEM",
				"KAFKA_TLS_CERT_FILE: makes no pair with KAFKA_TLS_KEY_FILE: tls: failed to find any PEM data in certificate input",
			},
		},
		"a certificate without its key": {
			[]string{"KAFKA_BROKERS=h:9092", "KAFKA_TLS=on", "KAFKA_TLS_CERT_FILE=/dev/null"},
			[]string{"KAFKA_TLS_KEY_FILE: is needed with KAFKA_TLS_CERT_FILE"},
		},
		"a pair of TLS": {[]string{"TLS_CERT_FILE=" + certFile, "TLS_KEY_FILE=" + keyFile, "HTTP_PORT=8080"}, nil},
		"half a pair of TLS": {
			[]string{"TLS_CERT_FILE=" + certFile}, []string{"TLS_KEY_FILE: is needed with TLS_CERT_FILE"},
		},
		"a key that is none": {
			[]string{"TLS_CERT_FILE=" + certFile, "TLS_KEY_FILE=/dev/null"},
			[]string{"TLS_CERT_FILE: makes no pair with TLS_KEY_FILE: certificate and key: tls: failed to find any PEM data in key input"},
		},
		"two sources of certificates": {
			[]string{"TLS_CERT_FILE=" + certFile, "TLS_KEY_FILE=" + keyFile, "TLS_ACME_DOMAINS=api.example.com"},
			[]string{"TLS_ACME_DOMAINS: is set beside TLS_CERT_FILE: only one can hold"},
		},
		"names that no authority can be shown": {
			[]string{"TLS_ACME_DOMAINS=*.example.com,localhost,10.0.0.1"},
			[]string{
				`TLS_ACME_DOMAINS: "*.example.com" is not a name such as api.example.com, in lower case`,
				`TLS_ACME_DOMAINS: "10.0.0.1" is not a name such as api.example.com, in lower case`,
				`TLS_ACME_DOMAINS: "localhost" is not a name such as api.example.com, in lower case`,
			},
		},
		"an authority for no names": {
			[]string{"TLS_ACME_DIRECTORY=https://a.example", "TLS_ACME_EMAIL=a@example.com", "TLS_ACME_CA_FILE=/dev/null"},
			[]string{"TLS_ACME_CA_FILE: needs TLS_ACME_DOMAINS", "TLS_ACME_DIRECTORY: needs TLS_ACME_DOMAINS", "TLS_ACME_EMAIL: needs TLS_ACME_DOMAINS"},
		},
		"an authority that cannot be asked": {
			[]string{"TLS_ACME_DOMAINS=api.example.com", "TLS_ACME_DIRECTORY=http://a.example", "TLS_ACME_EMAIL=nobody", "TLS_ACME_CA_FILE=/dev/null"},
			[]string{
				"TLS_ACME_CA_FILE: /dev/null holds no certificate in PEM",
				`TLS_ACME_DIRECTORY: "http://a.example" is not an https URL`,
				`TLS_ACME_EMAIL: "nobody" is not an address`,
			},
		},
		"plain HTTP twice": {
			[]string{"HTTP_PORT=80"}, []string{"HTTP_PORT: needs TLS_CERT_FILE or TLS_ACME_DOMAINS: PORT speaks plain HTTP already"},
		},
		"one port for both": {
			[]string{"HTTP_PORT=443", "PORT=443", "TLS_ACME_DOMAINS=api.example.com"}, []string{"HTTP_PORT: 443 is the same as PORT"},
		},
		"fewer than no connections": {
			[]string{"MAX_CONNECTIONS=-1", "MAX_CONNECTIONS_PER_CLIENT=-1"},
			[]string{"MAX_CONNECTIONS: -1 is not between 0 and 1000000", "MAX_CONNECTIONS_PER_CLIENT: -1 is not between 0 and 1000000"},
		},
		"all at once": {
			[]string{"PORT=x", "BATCH_MAX=0", "KAFKA_PARTITIONS=-1"},
			[]string{
				"BATCH_MAX: 0 is not between 1 and 5000",
				"KAFKA_PARTITIONS: -1 is not between 1 and 1000",
				`PORT: "x" is not a whole number`,
			},
		},
		"a password is not repeated": {
			[]string{"DATABASE_URL=postgres://me:hunter2@host:badport/db"},
			[]string{"DATABASE_URL: is not a PostgreSQL connection string (postgres://user:password@host:port/database)"},
		},
		"two mail servers": {
			[]string{"SMTP_URL=smtp://u:p@mail.test", "SMTP_HOST=mail.test", "SMTP_FROM=a@example.com"},
			[]string{"SMTP_HOST: is not read beside SMTP_URL: set one of the two"},
		},
		"mails from nobody": {
			[]string{"SMTP_HOST=mail.test"}, []string{`SMTP_FROM: "" is not an address such as Bond Mate <no-reply@example.com>`},
		},
		"a mail server's password is not repeated": {
			[]string{"SMTP_URL=http://me:hunter2@mail.test", "SMTP_FROM=a@example.com"},
			[]string{"SMTP_URL: is not smtp://user:password@host:port or smtps://user:password@host:port"},
		},
		"a mail server's password alone": {[]string{"SMTP_PASSWORD=x"}, []string{"SMTP_PASSWORD: needs SMTP_HOST"}},
		"links that lead nowhere": {
			[]string{"APP_ENV=production", "SMTP_URL=smtps://mail.test", "SMTP_FROM=a@example.com"},
			[]string{"FRONTEND_URL: is needed in production beside a mail server: links in mails lead there"},
		},
		"a front end with a fragment": {
			[]string{"FRONTEND_URL=https://app.test/#/"}, []string{`FRONTEND_URL: "https://app.test/#/" has a query or a fragment`},
		},
		"a mail server in parts": {
			[]string{"APP_ENV=production", "SMTP_HOST=mail.test", "SMTP_PORT=465", "SMTP_USERNAME=u", "SMTP_PASSWORD=p",
				"SMTP_FROM=Bond Mate <a@example.com>", "FRONTEND_URL=https://app.test"}, nil,
		},
		"Redis said twice": {
			[]string{"REDIS_URL=redis://h:6379/1", "REDIS_HOST=h", "REDIS_PASSWORD=hunter2"},
			[]string{"REDIS_HOST: is not read beside REDIS_URL: set one of the two", "REDIS_PASSWORD: is not read beside REDIS_URL: set one of the two"},
		},
		"a URL of Redis is not repeated": {
			[]string{"REDIS_URL=http://:hunter2@h"}, []string{"REDIS_URL: is not redis://user:password@host:port/db, or rediss:// for TLS"},
		},
		"a database of Redis that is none": {
			[]string{"REDIS_URL=redis://h/cache"}, []string{"REDIS_URL: the path is not the number of a database"},
		},
		"two passwords of Redis": {
			[]string{"REDIS_URL=redis://:hunter2@h", "REDIS_PASSWORD_FILE=/dev/null"},
			[]string{"REDIS_PASSWORD_FILE: is set beside a password in REDIS_URL: set one of the two"},
		},
		"a password of Redis alone":      {[]string{"REDIS_PASSWORD=x"}, []string{"REDIS_PASSWORD: needs REDIS_URL or REDIS_HOST"}},
		"set to nothing counts as unset": {[]string{"PORT=", "DATABASE_URL= "}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Load(test.environ)
			var got []string
			if err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLoadFor(t *testing.T) {
	t.Parallel()
	key := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(key, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	servers := []string{"DATABASE_URL=postgres://u:a-long-password@h/d", "KAFKA_BROKERS=h:9092"}
	with := func(more ...string) []string { return append(slices.Clone(servers), more...) }
	production := func(more ...string) []string {
		return with(append([]string{"APP_ENV=production", "TRUSTED_PROXIES=10.0.0.0/8", "JWT_PRIVATE_KEY_FILE=" + key, "FIREBASE_CREDENTIALS_FILE=" + key}, more...)...)
	}
	for name, test := range map[string]struct {
		role    Role
		environ []string
		want    []string // variables at fault
	}{
		"processor without servers":             {Processor, nil, []string{"DATABASE_URL", "KAFKA_BROKERS"}},
		"processor":                             {Processor, servers, nil},
		"ingest in development makes its key":   {Ingest, servers, nil},
		"notifier in development":               {Notifier, servers, nil},
		"all in development":                    {All, nil, nil},
		"ingest in production, as it should be": {Ingest, production(), nil},
		"all in production, as it should be":    {All, production(), nil},
		"a processor has neither port nor key":  {Processor, with("APP_ENV=production"), nil},
		"a notifier in production":              {Notifier, with("APP_ENV=production"), []string{"FIREBASE_CREDENTIALS_FILE"}},
		"ingest in production with nothing":     {Ingest, with("APP_ENV=production"), []string{"JWT_PRIVATE_KEY_FILE", "TLS_CERT_FILE"}},
		"the key that development made":         {Realtime, production("DATA_DIR="+filepath.Dir(key), "JWT_PRIVATE_KEY_FILE="+developmentKey(t, filepath.Dir(key))), []string{"JWT_PRIVATE_KEY_FILE"}},
		"names from an authority are TLS":       {Ingest, production("TRUSTED_PROXIES=", "TLS_ACME_DOMAINS=api.example.com"), nil},
		"no proxy is no TLS":                    {Ingest, production("TRUSTED_PROXIES=0"), []string{"TLS_CERT_FILE"}},
		"pages that came in the clear":          {Ingest, production("CORS_ORIGIN=https://a.example.com,http://b.example.com"), []string{"CORS_ORIGIN"}},
		"a native shell's page":                 {Ingest, production("CORS_ORIGIN=http://localhost,capacitor://localhost"), nil},
		"every page":                            {Ingest, production("CORS_ORIGIN=*"), []string{"CORS_ORIGIN"}},
		"no limits":                             {Ingest, production("RATE_LIMITS=off"), []string{"RATE_LIMITS"}},
		"tokens that nobody signed":             {All, production("FIREBASE_AUTH_EMULATOR_HOST=localhost:9099"), []string{"FIREBASE_AUTH_EMULATOR_HOST"}},
		"pushes in the clear":                   {Notifier, production("FCM_ENDPOINT=http://fcm.example"), []string{"FCM_ENDPOINT"}},
		"pushes to this machine":                {Notifier, production("FCM_ENDPOINT=http://127.0.0.1:9"), nil},
		"a password that everybody tries":       {Processor, production("DATABASE_URL=postgres://u:postgres@h/d"), []string{"DATABASE_URL"}},
		"a password that is the user's name":    {Processor, production("DATABASE_URL=postgres://maren:Maren@h/d"), []string{"DATABASE_URL"}},
		"no password on this machine":           {Processor, production("DATABASE_URL=postgres://u@localhost/d"), nil},
		"everything at once, and each once only": {
			All, []string{"APP_ENV=production", "CORS_ORIGIN=*", "RATE_LIMITS=off", "PORT=x", "FIREBASE_AUTH_EMULATOR_HOST=h:1", "DATABASE_URL=postgres://u:password@h/d"},
			[]string{"CORS_ORIGIN", "DATABASE_URL", "FIREBASE_AUTH_EMULATOR_HOST", "FIREBASE_CREDENTIALS_FILE", "JWT_PRIVATE_KEY_FILE", "PORT", "RATE_LIMITS", "TLS_CERT_FILE"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := LoadFor(test.environ, test.role)
			var got []string
			if err != nil {
				for line := range strings.SplitSeq(err.Error(), "\n") {
					variable, _, _ := strings.Cut(line, ":")
					got = append(got, variable)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
			if err != nil && strings.Contains(err.Error(), "password@") {
				t.Errorf("a password is repeated: %v", err)
			}
		})
	}
}

func developmentKey(t *testing.T, dir string) string {
	t.Helper()
	file := identity.DevelopmentKeyFile(dir)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestRedis(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		environ []string
		want    Redis
		ok      bool
	}{
		"none":  {nil, Redis{}, false},
		"a URL": {[]string{"REDIS_URL=rediss://u:p@h:1/2"}, Redis{URL: "rediss://u:p@h:1/2"}, true},
		"a host, with what a URL must escape": {
			[]string{"REDIS_HOST=::1", "REDIS_PASSWORD=a/b@c"}, Redis{URL: "redis://:a%2Fb%40c@[::1]:6379"}, true,
		},
		"a password in a file": {
			[]string{"REDIS_HOST=h", "REDIS_PORT=1", "REDIS_PASSWORD_FILE=/dev/null"}, Redis{"redis://h:1", "/dev/null"}, true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, err := Load(test.environ)
			if err != nil {
				t.Fatal(err)
			}
			got, ok := cfg.Redis()
			if got != test.want || ok != test.ok {
				t.Errorf("got %+v, %t, want %+v, %t", got, ok, test.want, test.ok)
			}
		})
	}
}

func TestPrintHidesTheBrokersPassword(t *testing.T) {
	t.Parallel()
	cfg, err := Load([]string{"KAFKA_BROKERS=h:9092", "KAFKA_SASL_MECHANISM=SCRAM-SHA-512", "KAFKA_SASL_USERNAME=u", "KAFKA_SASL_PASSWORD=hunter2"})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := cfg.Print(&out); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "hunter2") || !strings.Contains(out.String(), "(set)") {
		t.Errorf("want the password hidden:\n%s", out.String())
	}
}

func TestPrintHidesSecrets(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{
		"in the user part": "postgres://me:hunter2@db.example:5432/app?sslmode=require",
		"in the query":     "postgres://db.example:5432/app?user=me&password=hunter2",
		"in key=value":     "host=db.example user=me password=hunter2 dbname=app",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, err := Load([]string{"DATABASE_URL=" + url, "SMTP_HOST=mail.test", "SMTP_USERNAME=u", "SMTP_PASSWORD=hunter2", "SMTP_FROM=a@example.com",
				"REDIS_URL=redis://:hunter2@h"})
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := cfg.Print(&out); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(out.String(), "hunter2") {
				t.Errorf("the password is printed:\n%s", out.String())
			}
			if !strings.Contains(out.String(), "KAFKA_PARTITIONS") {
				t.Errorf("the table lacks variables:\n%s", out.String())
			}
		})
	}
}
