package config

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/bondmate/backend/pkg/edge"
)

// topicPrefix is what Kafka allows in a topic's name, short enough for what follows it.
var topicPrefix = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,100}$`)

// consentVersion is a name that goes into the database and an export as it is; empty: none.
var consentVersion = regexp.MustCompile(`^[a-zA-Z0-9._-]{0,100}$`)

// checker gathers faults.
type checker struct{ faults []*Fault }

func (c *checker) fault(variable, format string, args ...any) {
	c.faults = append(c.faults, &Fault{variable, fmt.Sprintf(format, args...)})
}

func (c *checker) within(variable string, value, low, high int) {
	if value < low || value > high {
		c.fault(variable, "%d is not between %d and %d", value, low, high)
	}
}

func (c *checker) lasts(variable string, value, low, high time.Duration) {
	if value < low || value > high {
		c.fault(variable, "%s is not between %s and %s", value, low, high)
	}
}

func (c *checker) readable(variable, file string) {
	if file == "" {
		return
	}
	f, err := os.Open(file) // #nosec G304 -- the operator names it
	if err != nil {
		c.fault(variable, "cannot be read: %v", err)
		return
	}
	_ = f.Close()
}

func (c Config) check() []*Fault {
	check := &checker{}
	check.within("PORT", c.Port, 0, 65535)
	if c.AdminPort != nil {
		check.within("ADMIN_PORT", *c.AdminPort, 0, 65535)
		if *c.AdminPort == c.Port && c.Port != 0 {
			check.fault("ADMIN_PORT", "%d is the same as PORT", c.Port)
		}
	}
	check.tls(c)
	check.within("MAX_CONNECTIONS", c.MaxConnections, 0, 1_000_000)
	if c.MaxConnectionsPerClient != nil {
		check.within("MAX_CONNECTIONS_PER_CLIENT", *c.MaxConnectionsPerClient, 0, 1_000_000)
	}
	check.within("KAFKA_PORT", c.KafkaPort, 0, 65535)
	check.origins(c.CORSOrigins, c.Env)
	if _, err := edge.ParseVersion(c.MinAppVersion); c.MinAppVersion != "" && err != nil {
		check.fault("MIN_APP_VERSION", "%v", err)
	}
	proxies, err := edge.ParseProxies(c.Proxies)
	switch {
	case err != nil:
		check.fault("TRUSTED_PROXIES", "%v", err)
	case bool(c.HTTPSRedirect) && !proxies.Any() && !c.OwnTLS():
		check.fault("HTTPS_REDIRECT", "needs TRUSTED_PROXIES: nobody else tells what came over HTTPS")
	}
	check.lasts("SHUTDOWN_DELAY", c.ShutdownDelay, 0, 15*time.Second)

	check.database("DATABASE_URL", c.DatabaseURL)
	check.database("DATABASE_READ_URL", c.DatabaseReadURL)
	check.within("DATABASE_MAX_CONNS", c.DatabaseMaxConns, 4, 1000)
	check.within("DATABASE_MIN_CONNS", c.DatabaseMinConns, 0, max(c.DatabaseMaxConns, 0))

	check.httpURL("POSTGRES_REPOSITORY", c.PostgresRepository)

	for _, broker := range c.KafkaBrokers {
		check.hostPort("KAFKA_BROKERS", broker)
	}
	if !topicPrefix.MatchString(c.KafkaTopicPrefix) {
		check.fault("KAFKA_TOPIC_PREFIX", "%q may hold only letters, digits, dot, underscore and hyphen", c.KafkaTopicPrefix)
	}
	check.within("KAFKA_PARTITIONS", c.KafkaPartitions, 1, 1000)
	check.within("KAFKA_REPLICATION", c.KafkaReplication, 1, 9)
	check.lasts("KAFKA_SESSION_TIMEOUT", c.KafkaSessionTimeout, time.Second, 5*time.Minute)

	check.kafkaSecurity(c)
	check.redis(c)
	check.within("CACHE_MEMORY_BYTES", c.CacheMemoryBytes, 1<<20, 1<<31-1)

	check.readable("JWT_PRIVATE_KEY_FILE", c.JWTPrivateKeyFile)
	check.sessions(c)
	check.readable("FIREBASE_CREDENTIALS_FILE", c.FirebaseCredentialsFile)
	check.firebase(c)
	if c.FCMEndpoint != "" {
		check.httpURL("FCM_ENDPOINT", c.FCMEndpoint)
	}
	check.lasts("PUSH_GRACE", c.PushGrace, 0, time.Minute)
	check.within("PUSH_IN_FLIGHT", c.PushInFlight, 1, 5_000)
	check.within("PUSH_PER_MINUTE", c.PushPerMinute, 1, 100_000_000)

	check.mail(c)

	check.within("WORKERS", c.Workers, 0, 64)
	check.within("BATCH_MAX", c.BatchMax, 1, 5000)
	check.lasts("INGEST_DEADLINE", c.IngestDeadline, 100*time.Millisecond, 30*time.Second)
	check.lasts("CLOCK_SKEW", c.ClockSkew, 0, time.Minute)

	const year = 366 * 24 * time.Hour
	check.lasts("REQUEST_TTL", c.RequestTTL, time.Second, year)
	check.lasts("RESTORE_WINDOW", c.RestoreWindow, time.Second, year)
	check.lasts("BREAKUP_TTL", c.BreakupTTL, time.Second, year)
	check.within("SENDS_PER_TARGET", c.SendsPerTarget, 1, 1000)
	check.rates(c)
	// The commands topic keeps 7 days: a record that comes again must meet its outcome.
	const day = 24 * time.Hour
	check.lasts("RETENTION_COMMANDS", c.RetentionCommands, 8*day, 10*year)
	check.lasts("RETENTION_EVENTS", c.RetentionEvents, max(c.RetentionCommands, 8*day), 10*year)
	check.lasts("RETENTION_PUSHES", c.RetentionPushes, 8*day, 10*year) // longer than any push lives
	check.lasts("RETENTION_REPORTS", c.RetentionReports, day, 10*year)
	check.lasts("RETENTION_INTERVAL", c.RetentionInterval, time.Second, 7*day)
	check.within("SLOTS_FREE", c.SlotsFree, 1, 50)
	check.within("SLOTS_PREMIUM", c.SlotsPremium, max(c.SlotsFree, 1), 50)
	check.within("MIN_AGE", c.MinAge, 0, 100)
	if !consentVersion.MatchString(c.ConsentVersion) {
		check.fault("CONSENT_VERSION", "%q may hold at most 100 letters, digits, dots, hyphens and underscores", c.ConsentVersion)
	}
	check.within("MESSAGE_MAX_LENGTH", c.MessageMaxLength, 0, 2000)
	return check.faults
}

// firebaseProject is how Google names projects; an older kind has a domain before a colon.
var firebaseProject = regexp.MustCompile(`^([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,29}$`)

// firebase never lets tokens that nobody has signed into production.
func (c *checker) firebase(cfg Config) {
	if cfg.FirebaseProjectID != "" && !firebaseProject.MatchString(cfg.FirebaseProjectID) {
		c.fault("FIREBASE_PROJECT_ID", "%q is not the id of a Google project", cfg.FirebaseProjectID)
	}
	if cfg.FirebaseEmulator == "" {
		return
	}
	c.hostPort("FIREBASE_AUTH_EMULATOR_HOST", cfg.FirebaseEmulator)
	if cfg.Env == Production {
		c.fault("FIREBASE_AUTH_EMULATOR_HOST", refusedEmulator)
	}
}

// sessions accepts what lasts at least as long as an access token does, which is good for a
// session alone.
func (c *checker) sessions(cfg Config) {
	const least, most = 15 * time.Minute, 10 * 366 * 24 * time.Hour
	c.lasts("SESSION_TTL", cfg.SessionTTL, least, most)
	c.lasts("SESSION_MAX_AGE", cfg.SessionMaxAge, min(max(cfg.SessionTTL, least), most), most)
}

func (c *checker) hostPort(variable, value string) {
	host, port, err := net.SplitHostPort(value)
	if err != nil || host == "" {
		c.fault(variable, "%q is not host:port", value)
		return
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		c.fault(variable, "%q has no port between 1 and 65535", value)
	}
}

func (c *checker) httpURL(variable, value string) {
	u, err := url.Parse(value)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		c.fault(variable, "%q is not an http or https URL", value)
	}
}

// origins accepts what the edge does. A wildcard for everything would let any page call,
// so it stays out of production.
func (c *checker) origins(values []string, in Env) {
	if _, err := edge.ParseOrigins(values); err != nil {
		c.fault("CORS_ORIGIN", "%v", err)
	}
	if in == Production && slices.Contains(values, "*") {
		c.fault("CORS_ORIGIN", refusedWildcard)
	}
}

// database reports a bad connection string without repeating it: it may hold a password.
func (c *checker) database(variable, value string) {
	if value == "" {
		return
	}
	if _, err := pgconn.ParseConfig(value); err != nil {
		c.fault(variable, "is not a PostgreSQL connection string (postgres://user:password@host:port/database)")
	}
}

// Role is a part of the program that can run alone, or All.
type Role string

// The roles.
const (
	Ingest    Role = "ingest"
	Processor Role = "processor"
	Notifier  Role = "notifier"
	Realtime  Role = "realtime"
	All       Role = "all" // of them in one process
)

// Roles lists what can be run.
func Roles() []Role { return []Role{All, Ingest, Processor, Notifier, Realtime} }

// serves reports whether a role has a public port.
func (r Role) serves() bool { return r == All || r == Ingest || r == Realtime }

// missing is what a role needs and does not have, and what production refuses of it.
func (c Config) missing(role Role) []*Fault {
	check := &checker{}
	if role != All {
		if c.DatabaseURL == "" {
			check.fault("DATABASE_URL", "is needed by %s; only all starts its own database", role)
		}
		if len(c.KafkaBrokers) == 0 {
			check.fault("KAFKA_BROKERS", "is needed by %s; only all runs its own broker", role)
		}
	}
	if c.Env == Production {
		for _, finding := range c.Security(role) {
			if finding.Level == Fail {
				check.fault(finding.Variable, "%s", finding.Why)
			}
		}
	}
	return check.faults
}
