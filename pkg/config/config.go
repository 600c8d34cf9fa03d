// Package config is the environment of the program: every variable that something reads,
// with its default, its meaning and its rules, in one struct.
//
// Load reports all faults at once, each with its variable's name, so that an operator
// corrects a deployment in one go. Values that are secret are never printed.
package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
)

// Config is the environment after reading and checking. The tags: env is the variable,
// envDefault what it is when unset, about what it means, secret whether it is hidden
// ("url" hides the password alone).
type Config struct {
	Env       Env       `env:"APP_ENV" envDefault:"development" about:"development, test or production; production refuses generated keys and hides the demo"`
	LogLevel  LogLevel  `env:"LOG_LEVEL" envDefault:"info" about:"debug, info, warn or error"`
	LogFormat LogFormat `env:"LOG_FORMAT" envDefault:"auto" about:"text, json, or auto: text on a terminal in development, else json"`

	Port             int      `env:"PORT" envDefault:"3000" about:"HTTP and WebSocket; 0 takes any free port"`
	AdminPort        *int     `env:"ADMIN_PORT" about:"metrics, health and profiles; unset: any free port in all, 9090 in a single role"`
	AdminHost        string   `env:"ADMIN_HOST" about:"interface of the admin port; unset: 127.0.0.1 in all, every interface in a single role"`
	DataDir          string   `env:"DATA_DIR" envDefault:".bondmate" about:"state of the embedded servers and generated keys"`
	CORSOrigins      []string `env:"CORS_ORIGIN" about:"comma list of the web origins that may call the API and open WebSockets; https://*.example.com stands for its subdomains"`
	Proxies          []string `env:"TRUSTED_PROXIES" about:"comma list of the addresses or networks of the proxies before this server, or how many they are; only they tell who a client is"`
	MinAppVersion    string   `env:"MIN_APP_VERSION" about:"apps that send an older X-App-Version get 426; unset: none is too old"`
	HTTPSRedirect    Switch   `env:"HTTPS_REDIRECT" envDefault:"off" about:"on: send plain requests to HTTPS, as trusted proxies tell them apart"`
	TLSCertFile      string   `env:"TLS_CERT_FILE" about:"certificate of PORT with those that lead to its authority (PEM), read again when it changes; unset: PORT speaks plain HTTP"`
	TLSKeyFile       string   `env:"TLS_KEY_FILE" about:"the key of TLS_CERT_FILE (PEM, not encrypted)"`
	TLSACMEDomains   []string `env:"TLS_ACME_DOMAINS" about:"instead of files: comma list of names for which certificates are obtained from an authority, whose terms are thereby accepted, and kept in DATA_DIR"`
	TLSACMEEmail     string   `env:"TLS_ACME_EMAIL" about:"whom that authority writes to"`
	TLSACMEDirectory string   `env:"TLS_ACME_DIRECTORY" about:"URL of the authority's ACME directory; unset: Let's Encrypt"`
	TLSACMECAFile    string   `env:"TLS_ACME_CA_FILE" about:"who signed the authority's own certificate (PEM); unset: the system's"`
	HTTPPort         *int     `env:"HTTP_PORT" about:"plain HTTP beside TLS of its own: sends all to HTTPS and answers ACME challenges; unset: none"`

	MaxConnections          int  `env:"MAX_CONNECTIONS" envDefault:"16000" about:"most connections of PORT at once, WebSockets included; 0: any number"`
	MaxConnectionsPerClient *int `env:"MAX_CONNECTIONS_PER_CLIENT" about:"most of one IPv4 address or IPv6 /64, trusted proxies excepted; 0: any number; unset: 1000 in production, else any"`

	ShutdownDelay time.Duration `env:"SHUTDOWN_DELAY" envDefault:"0s" about:"how long a stopping process goes on serving after it reports unready; 5s behind a load balancer"`

	DatabaseURL      string `env:"DATABASE_URL" secret:"url" about:"PostgreSQL 15 or newer, as libpq reads it: passfile= and the files of TLS are read again for each connection; unset: all starts one in DATA_DIR"`
	DatabaseReadURL  string `env:"DATABASE_READ_URL" secret:"url" about:"a replica that export reads from; unset: DATABASE_URL"`
	DatabaseMaxConns int    `env:"DATABASE_MAX_CONNS" envDefault:"50" about:"most connections of this process"`
	DatabaseMinConns int    `env:"DATABASE_MIN_CONNS" envDefault:"5" about:"connections kept open while idle"`
	PostgresBinDir   string `env:"POSTGRES_BIN_DIR" about:"directory of initdb and postgres for the embedded server; unset: searched, else fetched"`

	PostgresRepository string `env:"POSTGRES_REPOSITORY" envDefault:"https://repo1.maven.org/maven2" about:"Maven repository from which a server is fetched when none is found"`

	KafkaBrokers        []string      `env:"KAFKA_BROKERS" about:"comma list of host:port; unset: all runs a broker inside the process"`
	KafkaPort           int           `env:"KAFKA_PORT" envDefault:"0" about:"loopback port of the embedded broker; 0 takes any free port"`
	KafkaSync           Switch        `env:"KAFKA_SYNC" envDefault:"off" about:"on: the embedded broker makes each write durable against power loss"`
	KafkaTopicPrefix    string        `env:"KAFKA_TOPIC_PREFIX" envDefault:"bondmate" about:"first part of the names of topics and consumer groups"`
	KafkaPartitions     int           `env:"KAFKA_PARTITIONS" envDefault:"12" about:"partitions of commands and events; fixed once there is data"`
	KafkaReplication    int           `env:"KAFKA_REPLICATION" envDefault:"1" about:"replicas of topics that are created; 3 in production"`
	KafkaSessionTimeout time.Duration `env:"KAFKA_SESSION_TIMEOUT" envDefault:"10s" about:"how long a consumer may be silent before another takes its partitions"`

	KafkaTLS              Switch        `env:"KAFKA_TLS" envDefault:"off" about:"on: TLS to every broker, whose certificate must name it as it is advertised"`
	KafkaTLSCAFile        string        `env:"KAFKA_TLS_CA_FILE" about:"authorities that sign the brokers' certificates (PEM); unset: the system's"`
	KafkaTLSCertFile      string        `env:"KAFKA_TLS_CERT_FILE" about:"this client's certificate (PEM), for brokers that ask for one"`
	KafkaTLSKeyFile       string        `env:"KAFKA_TLS_KEY_FILE" about:"the key of KAFKA_TLS_CERT_FILE (PEM, not encrypted)"`
	KafkaSASLMechanism    SASLMechanism `env:"KAFKA_SASL_MECHANISM" about:"PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; unset: no login; production refuses PLAIN without TLS"`
	KafkaSASLUsername     string        `env:"KAFKA_SASL_USERNAME" about:"who this is to the brokers"`
	KafkaSASLPassword     string        `env:"KAFKA_SASL_PASSWORD" secret:"all" about:"its password"`
	KafkaSASLPasswordFile string        `env:"KAFKA_SASL_PASSWORD_FILE" about:"a file with the password instead; like the files of TLS it is read for each new connection"`

	RedisURL          string `env:"REDIS_URL" secret:"url" about:"Redis for what instances share: redis://user:password@host:6379/0, or rediss://; unset: REDIS_HOST, else each instance for itself"`
	RedisHost         string `env:"REDIS_HOST" about:"Redis, in the place of REDIS_URL"`
	RedisPort         int    `env:"REDIS_PORT" envDefault:"6379" about:"port at REDIS_HOST"`
	RedisPassword     string `env:"REDIS_PASSWORD" secret:"value" about:"password at REDIS_HOST"`
	RedisPasswordFile string `env:"REDIS_PASSWORD_FILE" about:"file with the password of Redis instead, read for each new connection"`

	Cache            Switch `env:"CACHE" envDefault:"on" about:"off: read profile, partner and slots from the database each time"`
	CacheMemoryBytes int    `env:"CACHE_MEMORY_BYTES" envDefault:"33554432" about:"what the cache of these reads takes of an instance's memory at most; Redis is used beside it"`

	JWTPrivateKeyFile string `env:"JWT_PRIVATE_KEY_FILE" about:"RSA key that signs access tokens (PEM); unset outside production: generated in DATA_DIR"`

	SessionTTL    time.Duration `env:"SESSION_TTL" envDefault:"1440h" about:"a session ends when it was not refreshed for so long"`
	SessionMaxAge time.Duration `env:"SESSION_MAX_AGE" envDefault:"8760h" about:"a session ends so long after its login, however often it is refreshed"`

	FirebaseCredentialsFile string        `env:"FIREBASE_CREDENTIALS_FILE" about:"service account for FCM, read again for each access token; unset outside production: a stand-in records pushes in DATA_DIR"`
	FirebaseProjectID       string        `env:"FIREBASE_PROJECT_ID" about:"project whose ID tokens log in; unset: that of FIREBASE_CREDENTIALS_FILE, without which nobody logs in by Firebase"`
	FirebaseEmulator        string        `env:"FIREBASE_AUTH_EMULATOR_HOST" about:"host:port of Firebase's emulator, whose ID tokens nobody signs: for development; production refuses it"`
	FCMEndpoint             string        `env:"FCM_ENDPOINT" about:"base URL of FCM HTTP v1, for tests; unset: Google's"`
	PushGrace               time.Duration `env:"PUSH_GRACE" envDefault:"1.5s" about:"how long a push waits for a visible socket to acknowledge its event"`
	PushInFlight            int           `env:"PUSH_IN_FLIGHT" envDefault:"256" about:"calls to FCM at once, of one notifier"`
	PushPerMinute           int           `env:"PUSH_PER_MINUTE" envDefault:"600000" about:"calls to FCM a minute, of one notifier: the project's quota, divided by how many notifiers there are"`

	SMTPURL          string `env:"SMTP_URL" secret:"url" about:"mail server: smtp://user:password@host:587 (STARTTLS) or smtps://…:465; unset: SMTP_HOST, or else, outside production, a file in DATA_DIR"`
	SMTPHost         string `env:"SMTP_HOST" about:"mail server, in the place of SMTP_URL; it must offer STARTTLS unless it is on loopback"`
	SMTPPort         int    `env:"SMTP_PORT" envDefault:"0" about:"port at SMTP_HOST; 0: 587; 465 is TLS from the first byte"`
	SMTPUsername     string `env:"SMTP_USERNAME" about:"login at SMTP_HOST; unset: none"`
	SMTPPassword     string `env:"SMTP_PASSWORD" secret:"value" about:"password at SMTP_HOST"`
	SMTPPasswordFile string `env:"SMTP_PASSWORD_FILE" about:"file with the mail server's password, read again for each mail"`
	SMTPFrom         string `env:"SMTP_FROM" about:"whom mails are from, such as Bond Mate <no-reply@example.com>; needed with a mail server"`
	FrontendURL      string `env:"FRONTEND_URL" about:"where links in mails lead (/reset-password, /verify-email); unset outside production: this server"`

	Workers        int           `env:"WORKERS" envDefault:"0" about:"workers of one processor; 0: the cores, at most 3"`
	BatchMax       int           `env:"BATCH_MAX" envDefault:"256" about:"most commands in one transaction"`
	IngestDeadline time.Duration `env:"INGEST_DEADLINE" envDefault:"2.5s" about:"within which a command is on the queue or refused; the same in every role"`
	ClockSkew      time.Duration `env:"CLOCK_SKEW" envDefault:"1s" about:"most by which clocks differ; a command appended later than deadline and skew is stale"`

	SlotsFree    int `env:"SLOTS_FREE" envDefault:"1" about:"slots of a new account, and of one that goes back to the tier free"`
	SlotsPremium int `env:"SLOTS_PREMIUM" envDefault:"3" about:"slots of the tier premium"`

	RequestTTL     time.Duration `env:"REQUEST_TTL" envDefault:"168h" about:"after which a pending request expires"`
	RestoreWindow  time.Duration `env:"RESTORE_WINDOW" envDefault:"720h" about:"within which an ended partnership can be restored"`
	BreakupTTL     time.Duration `env:"BREAKUP_TTL" envDefault:"168h" about:"after which a breakup that nobody answered ends the partnership"`
	SendsPerTarget int           `env:"SENDS_PER_TARGET" envDefault:"3" about:"requests that a user can send to one other user within 24 h"`
	RateLimits     Switch        `env:"RATE_LIMITS" envDefault:"on" about:"off: no limits on how often, also per target and of wrong passwords; for load tests, refused in production"`

	RateLimitWindow         time.Duration `env:"RATE_LIMIT_WINDOW" envDefault:"15m" about:"the time in which the limits below count, but those of requests; it slides"`
	RateLimitFree           int           `env:"RATE_LIMIT_FREE" envDefault:"100" about:"calls of a user of the tier free"`
	RateLimitPremium        int           `env:"RATE_LIMIT_PREMIUM" envDefault:"500" about:"calls of a user of the tier premium"`
	RateLimitAdmin          int           `env:"RATE_LIMIT_ADMIN" envDefault:"1000" about:"calls of a user of the role support or admin"`
	RateLimitAnonymous      int           `env:"RATE_LIMIT_ANONYMOUS" envDefault:"100" about:"calls without a user, and with tokens that are not good, from an address (of IPv6: its /64), as all that follow"`
	RateLimitRegister       int           `env:"RATE_LIMIT_REGISTER" envDefault:"100" about:"registrations"`
	RateLimitLogin          int           `env:"RATE_LIMIT_LOGIN" envDefault:"3000" about:"logins and refreshed tokens: many phones may share an address; wrong passwords wait far earlier"`
	RateLimitMail           int           `env:"RATE_LIMIT_MAIL" envDefault:"30" about:"calls for a mail"`
	RateLimitSockets        int           `env:"RATE_LIMIT_SOCKETS" envDefault:"3000" about:"handshakes of WebSockets"`
	RateLimitProbe          int           `env:"RATE_LIMIT_PROBE" envDefault:"1000" about:"calls of /health/detailed"`
	RateLimitRequestsMinute int           `env:"RATE_LIMIT_REQUESTS_MINUTE" envDefault:"5" about:"requests to become partners that a user sends within a minute"`
	RateLimitRequestsHour   int           `env:"RATE_LIMIT_REQUESTS_HOUR" envDefault:"20" about:"within an hour"`
	RateLimitRequestsDay    int           `env:"RATE_LIMIT_REQUESTS_DAY" envDefault:"100" about:"within 24 hours"`
	RateLimitInstances      int           `env:"RATE_LIMIT_INSTANCES" envDefault:"1" about:"instances of ingest among which these limits are divided while there is no Redis; more than there are is the safe side"`

	RetentionEvents   time.Duration `env:"RETENTION_EVENTS" envDefault:"2160h" about:"how long events and inboxes are kept in the database; beyond it clients are told resync"`
	RetentionCommands time.Duration `env:"RETENTION_COMMANDS" envDefault:"720h" about:"how long outcomes of commands are kept; longer than the commands topic keeps records"`
	RetentionPushes   time.Duration `env:"RETENTION_PUSHES" envDefault:"1080h" about:"how long settled push deliveries are kept"`
	RetentionReports  time.Duration `env:"RETENTION_REPORTS" envDefault:"2160h" about:"how long a report's texts are kept after it was resolved, or one of its two was erased"`
	RetentionInterval time.Duration `env:"RETENTION_INTERVAL" envDefault:"1h" about:"time between two rounds of the clean-up"`

	MinAge           int    `env:"MIN_AGE" envDefault:"0" about:"age in years from which one may register, told by birthDate, which is demanded then; 0: any"`
	ConsentVersion   string `env:"CONSENT_VERSION" about:"version of the terms that a registration has to agree to (consent.version); unset: none is asked"`
	MessageMaxLength int    `env:"MESSAGE_MAX_LENGTH" envDefault:"500" about:"most characters of a request's message"`
}

// Load reads and checks an environment, a list of NAME=value as os.Environ returns it.
// The error joins one *Fault for each variable that is wrong.
func Load(environ []string) (Config, error) { return load(environ, Config.check) }

// LoadFor is Load for a role that is about to run, or for All: what it needs and does not
// have, and what production refuses, is in the same list.
func LoadFor(environ []string, role Role) (Config, error) {
	return load(environ, func(c Config) []*Fault { return append(c.check(), c.missing(role)...) })
}

func load(environ []string, check func(Config) []*Fault) (Config, error) {
	// A variable that is set to nothing counts as unset: compose files write
	// DATABASE_URL=${DATABASE_URL:-}.
	values := env.ToMap(environ)
	for name, value := range values {
		if strings.TrimSpace(value) == "" {
			delete(values, name)
		}
	}
	var cfg Config
	var faults []error
	bad := map[string]bool{}
	if err := env.ParseWithOptions(&cfg, env.Options{Environment: values}); err != nil {
		for _, fault := range parseFaults(err, values) {
			faults = append(faults, fault)
			bad[fault.Variable] = true
		}
	}
	said := map[Fault]bool{}
	for _, fault := range check(cfg) {
		if !bad[fault.Variable] && !said[*fault] { // an unreadable value has been reported already
			said[*fault] = true
			faults = append(faults, fault)
		}
	}
	slices.SortStableFunc(faults, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return cfg, errors.Join(faults...)
}

// Fault is one variable with a value that cannot be used.
type Fault struct {
	Variable string
	Problem  string
}

func (f *Fault) Error() string { return f.Variable + ": " + f.Problem }

// parseFaults gives each fault of the parser its variable's name and a text for people.
func parseFaults(err error, values map[string]string) []*Fault {
	var all env.AggregateError
	if !errors.As(err, &all) {
		return []*Fault{{Variable: "environment", Problem: err.Error()}}
	}
	byField := map[string]reflect.StructField{}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
		byField[field.Name] = field
	}
	var faults []*Fault
	for _, err := range all.Errors {
		var parse env.ParseError
		field, known := reflect.StructField{}, false
		if errors.As(err, &parse) {
			field, known = byField[parse.Name]
		}
		if !known {
			faults = append(faults, &Fault{Variable: "environment", Problem: err.Error()})
			continue
		}
		name := field.Tag.Get("env")
		problem := "is not " + expected(field.Type)
		if field.Tag.Get("secret") == "" {
			problem = fmt.Sprintf("%q %s", values[name], problem)
		}
		faults = append(faults, &Fault{Variable: name, Problem: problem})
	}
	return faults
}

// expected says what a type's values look like.
func expected(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case reflect.TypeFor[Switch]():
		return "on or off"
	case reflect.TypeFor[Env]():
		return oneOf(environments)
	case reflect.TypeFor[SASLMechanism]():
		return oneOf(saslMechanisms)
	case reflect.TypeFor[LogLevel]():
		return oneOf(logLevels)
	case reflect.TypeFor[LogFormat]():
		return oneOf(logFormats)
	case reflect.TypeFor[time.Duration]():
		return "a duration such as 2.5s or 168h"
	case reflect.TypeFor[int]():
		return "a whole number"
	default:
		return "a " + t.String()
	}
}
