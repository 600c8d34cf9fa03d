package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/bondmate/backend/pkg/edge"
	"github.com/bondmate/backend/pkg/identity"
)

// Level is how bad a finding is.
type Level string

// The levels. Production does not start with what fails.
const (
	OK   Level = "ok"
	Warn Level = "warn"
	Fail Level = "fail"
)

// Finding is one look at the environment, or at what it names.
type Finding struct {
	Name     string
	Level    Level
	Variable string // that it is about
	Why      string
	Mend     string // empty when there is nothing to do
}

const (
	refusedRateLimits = "is not allowed to be off in production"
	refusedPlain      = "PLAIN sends the password as it is: production needs KAFKA_TLS=on with it"
	refusedEmulator   = "is not allowed in production: anybody could log in as anybody"
	refusedWildcard   = "* is not allowed in production: list the origins"
)

// Security judges an environment as production does, whatever APP_ENV says, as far as it
// shows without a server and concerns the role. No finding repeats a secret.
func (c Config) Security(role Role) []Finding {
	var found []Finding
	if role.serves() {
		found = append(found, c.transport(), c.redirect(), c.origins(), c.signingKey(), c.rateLimits(), c.connections(), c.emulator())
	}
	if role == All || role == Notifier {
		found = append(found, c.pushes())
	}
	found = append(found, c.databasePassword(), c.databaseTransport(), c.kafka())
	if role == All || role == Ingest {
		found = append(found, c.redisTransport(), c.mailLinks())
	}
	return append(found, c.adminPort(role))
}

func ok(name, variable, why string) Finding { return Finding{name, OK, variable, why, ""} }

func (c Config) transport() Finding {
	const name, variable = "TLS", "TLS_CERT_FILE"
	proxies, err := edge.ParseProxies(c.Proxies)
	switch {
	case c.TLSCertFile != "":
		return ok(name, variable, "PORT speaks TLS with a certificate from files")
	case len(c.TLSACMEDomains) > 0:
		return ok(name, "TLS_ACME_DOMAINS", "PORT speaks TLS with a certificate from an authority")
	case err == nil && proxies.Any():
		return ok(name, "TRUSTED_PROXIES", "a trusted proxy speaks TLS")
	default:
		return Finding{name, Fail, variable, "or TLS_ACME_DOMAINS or TRUSTED_PROXIES is needed in production: passwords would travel in the clear",
			"give PORT a certificate, or name the proxy that has one"}
	}
}

func (c Config) redirect() Finding {
	const name = "redirect to HTTPS"
	switch {
	case c.OwnTLS():
		return ok(name, "HTTP_PORT", "PORT takes nothing but TLS")
	case bool(c.HTTPSRedirect):
		return ok(name, "HTTPS_REDIRECT", "plain requests are sent to HTTPS")
	default:
		return Finding{name, Warn, "HTTPS_REDIRECT", "is off: what a proxy lets through in the clear is served", "HTTPS_REDIRECT=on, unless the proxy redirects"}
	}
}

func (c Config) origins() Finding {
	const name, variable = "web origins", "CORS_ORIGIN"
	if slices.Contains(c.CORSOrigins, "*") {
		return Finding{name, Fail, variable, refusedWildcard, "list the web apps' origins"}
	}
	for _, origin := range c.CORSOrigins {
		if u, err := url.Parse(origin); err == nil && u.Scheme == "http" && !loopback(u.Hostname()) {
			return Finding{name, Fail, variable, fmt.Sprintf("%q is not allowed in production: whoever is on the way can put a script into that page", origin),
				"serve the web app over https"}
		}
	}
	if len(c.CORSOrigins) == 0 {
		return ok(name, variable, "no web page of another origin may call")
	}
	return ok(name, variable, "only listed web pages may call")
}

func (c Config) signingKey() Finding {
	const name, variable = "signing key", "JWT_PRIVATE_KEY_FILE"
	const mend = "openssl genrsa -out jwt.pem 3072, the same file for every instance"
	switch {
	case c.JWTPrivateKeyFile == "":
		return Finding{name, Fail, variable, "is needed in production: every instance must know the same key", mend}
	case filepath.Clean(c.JWTPrivateKeyFile) == filepath.Clean(identity.DevelopmentKeyFile(c.DataDir)):
		return Finding{name, Fail, variable, "is the key that was made for development", mend}
	default:
		return ok(name, variable, "comes from a file")
	}
}

func (c Config) rateLimits() Finding {
	const name, variable = "rate limits", "RATE_LIMITS"
	if !c.RateLimits {
		return Finding{name, Fail, variable, refusedRateLimits, "RATE_LIMITS=on"}
	}
	return ok(name, variable, "are on")
}

func (c Config) connections() Finding {
	const name, variable = "connections of one client", "MAX_CONNECTIONS_PER_CLIENT"
	production := c
	production.Env = Production
	if n := production.ConnectionsPerClient(); n > 0 {
		return ok(name, variable, fmt.Sprintf("are at most %d", n))
	}
	return Finding{name, Warn, variable, "one client may take all of MAX_CONNECTIONS", "unset it, or count at the proxy"}
}

func (c Config) emulator() Finding {
	const name, variable = "Firebase logins", "FIREBASE_AUTH_EMULATOR_HOST"
	if c.FirebaseEmulator != "" {
		return Finding{name, Fail, variable, refusedEmulator, "unset it"}
	}
	return ok(name, variable, "only signed tokens are logins")
}

func (c Config) pushes() Finding {
	const name = "pushes"
	if c.FirebaseCredentialsFile == "" {
		return Finding{name, Fail, "FIREBASE_CREDENTIALS_FILE", "is needed in production: a stand-in would take the pushes, and no phone",
			"name the service account's file"}
	}
	if c.FCMEndpoint != "" {
		if u, err := url.Parse(c.FCMEndpoint); err == nil && u.Scheme == "http" && !loopback(u.Hostname()) {
			return Finding{name, Fail, "FCM_ENDPOINT", "is not https: the service account's tokens would travel in the clear", "unset it, or use https"}
		}
		return Finding{name, Warn, "FCM_ENDPOINT", "pushes go elsewhere than to Google", "unset it, unless that is meant"}
	}
	return ok(name, "FIREBASE_CREDENTIALS_FILE", "go to FCM")
}

// tried are passwords that everybody tries, with the names of what they guard.
var tried = []string{"postgres", "bondmate", "password", "passwort", "secret", "admin", "root", "test", "changeme", "change-me", "example", "123456", "12345678"}

func (c Config) databasePassword() Finding {
	const name, variable = "database password", "DATABASE_URL"
	if c.DatabaseURL == "" {
		return ok(name, variable, "the database inside the process is reached from this machine alone")
	}
	db, err := pgconn.ParseConfig(c.DatabaseURL)
	if err != nil {
		return Finding{name, Fail, variable, "is not a PostgreSQL connection string (postgres://user:password@host:port/database)", "correct it"}
	}
	password := strings.ToLower(db.Password)
	certified := db.TLSConfig != nil && len(db.TLSConfig.Certificates) > 0
	switch {
	case password == "" && (local(db.Host) || certified):
		return ok(name, variable, "none is needed: the server knows this machine or its certificate")
	case password == "":
		return Finding{name, Warn, variable, "there is none", "give the database's user one"}
	case slices.Contains(tried, password) || password == strings.ToLower(db.User) || password == strings.ToLower(db.Database):
		return Finding{name, Fail, variable, "has a password that everybody tries first", "give the database's user another"}
	case len(password) < 12:
		return Finding{name, Warn, variable, "the password has less than 12 characters", "give the database's user a longer one"}
	default:
		return ok(name, variable, "is none that everybody tries")
	}
}

func (c Config) databaseTransport() Finding {
	const name, variable = "way to the database", "DATABASE_URL"
	if c.DatabaseURL == "" {
		return Finding{name, Warn, variable, "is unset: all keeps its data on this machine alone", "a PostgreSQL server of its own, with backups"}
	}
	db, err := pgconn.ParseConfig(c.DatabaseURL)
	switch {
	case err != nil || local(db.Host):
		return ok(name, variable, "does not leave this machine")
	case db.TLSConfig == nil:
		return Finding{name, Warn, variable, "is in the clear (sslmode=disable or allow)", "sslmode=verify-full"}
	case len(db.Fallbacks) > 0 && slices.ContainsFunc(db.Fallbacks, func(f *pgconn.FallbackConfig) bool { return f.TLSConfig == nil }):
		return Finding{name, Warn, variable, "falls back to one in the clear (sslmode=prefer)", "sslmode=verify-full"}
	case db.TLSConfig.InsecureSkipVerify && db.TLSConfig.VerifyPeerCertificate == nil && db.TLSConfig.VerifyConnection == nil:
		return Finding{name, Warn, variable, "is encrypted, to whom is not checked (sslmode=require)", "sslmode=verify-full"}
	default:
		return ok(name, variable, "is encrypted, and the server is checked")
	}
}

func (c Config) kafka() Finding {
	const name = "way to Kafka"
	if len(c.KafkaBrokers) == 0 {
		return Finding{name, Warn, "KAFKA_BROKERS", "is unset: all keeps its topics on this machine alone", "a cluster with three replicas"}
	}
	outside := slices.ContainsFunc(c.KafkaBrokers, func(broker string) bool {
		host, _, err := net.SplitHostPort(broker)
		return err != nil || !loopback(host)
	})
	switch {
	case !bool(c.KafkaTLS) && c.KafkaSASLMechanism == saslPlain:
		return Finding{name, Fail, "KAFKA_SASL_MECHANISM", refusedPlain, "KAFKA_TLS=on"}
	case !outside:
		return ok(name, "KAFKA_BROKERS", "does not leave this machine")
	case !bool(c.KafkaTLS):
		return Finding{name, Warn, "KAFKA_TLS", "is off: what people write to each other is in the clear", "KAFKA_TLS=on"}
	case c.KafkaSASLMechanism == "" && c.KafkaTLSCertFile == "":
		return Finding{name, Warn, "KAFKA_SASL_MECHANISM", "the brokers do not learn who this is", "a login, or KAFKA_TLS_CERT_FILE"}
	default:
		return ok(name, "KAFKA_TLS", "is encrypted, and the brokers know who this is")
	}
}

func (c Config) redisTransport() Finding {
	const name = "way to Redis"
	server, configured := c.Redis()
	if !configured {
		return ok(name, "REDIS_URL", "there is none: each instance counts for itself")
	}
	u, err := url.Parse(server.URL)
	if err != nil || loopback(u.Hostname()) {
		return ok(name, "REDIS_URL", "does not leave this machine")
	}
	_, given := u.User.Password()
	switch {
	case !given && server.PasswordFile == "":
		return Finding{name, Warn, "REDIS_URL", "there is no password: who reaches it can lift limits", "a password, and a network of its own"}
	case u.Scheme != "rediss":
		return Finding{name, Warn, "REDIS_URL", "is in the clear, the password too", "rediss://"}
	default:
		return ok(name, "REDIS_URL", "is encrypted, with a password")
	}
}

func (c Config) mailLinks() Finding {
	const name, variable = "links in mails", "FRONTEND_URL"
	if strings.HasPrefix(strings.ToLower(c.FrontendURL), "http://") {
		return Finding{name, Warn, variable, "leads to a page in the clear: whoever is on the way can take over the account", "an https URL"}
	}
	return ok(name, variable, "do not lead through the clear")
}

func (c Config) adminPort(role Role) Finding {
	const name, variable = "admin port", "ADMIN_HOST"
	if loopback(c.AdminHost) || c.AdminHost == "" && role == All {
		return ok(name, variable, "is reached from this machine alone")
	}
	return Finding{name, Warn, variable, "metrics and profiles answer whoever reaches the port", "keep it away from the outside, or ADMIN_HOST=127.0.0.1"}
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && addr.IsLoopback()
}

// local is loopback, or the folder of a Unix socket.
func local(host string) bool { return strings.HasPrefix(host, "/") || loopback(host) }
