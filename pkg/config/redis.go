package config

import (
	"net"
	"net/url"
	"strconv"
	"strings"
)

// Redis is the server for what instances share and can do without: limits and cached reads.
type Redis struct {
	URL          string // redis://user:password@host:port/db, or rediss:// for TLS
	PasswordFile string // instead of a password in URL; read for each new connection
}

// Redis returns the server, and false when none is configured.
func (c Config) Redis() (Redis, bool) {
	switch {
	case c.RedisURL != "":
		return Redis{c.RedisURL, c.RedisPasswordFile}, true
	case c.RedisHost != "":
		u := url.URL{Scheme: "redis", Host: net.JoinHostPort(c.RedisHost, strconv.Itoa(c.RedisPort))}
		if c.RedisPassword != "" {
			u.User = url.UserPassword("", c.RedisPassword)
		}
		return Redis{u.String(), c.RedisPasswordFile}, true
	default:
		return Redis{}, false
	}
}

// redis checks how Redis is reached. No fault repeats the URL: it may hold a password.
func (c *checker) redis(cfg Config) {
	c.within("REDIS_PORT", cfg.RedisPort, 1, 65535)
	c.readable("REDIS_PASSWORD_FILE", cfg.RedisPasswordFile)
	if cfg.RedisURL == "" {
		if cfg.RedisHost == "" {
			for variable, set := range map[string]bool{
				"REDIS_PASSWORD": cfg.RedisPassword != "", "REDIS_PASSWORD_FILE": cfg.RedisPasswordFile != "",
			} {
				if set {
					c.fault(variable, "needs REDIS_URL or REDIS_HOST")
				}
			}
		}
		if cfg.RedisPassword != "" && cfg.RedisPasswordFile != "" {
			c.fault("REDIS_PASSWORD_FILE", "is set beside REDIS_PASSWORD: set one of the two")
		}
		return
	}
	if cfg.RedisHost != "" {
		c.fault("REDIS_HOST", "is not read beside REDIS_URL: set one of the two")
	}
	if cfg.RedisPassword != "" {
		c.fault("REDIS_PASSWORD", "is not read beside REDIS_URL: set one of the two")
	}
	u, err := url.Parse(cfg.RedisURL)
	if err != nil || u.Host == "" || u.Scheme != "redis" && u.Scheme != "rediss" {
		c.fault("REDIS_URL", "is not redis://user:password@host:port/db, or rediss:// for TLS")
		return
	}
	if db := strings.Trim(u.Path, "/"); db != "" {
		if n, err := strconv.Atoi(db); err != nil || n < 0 {
			c.fault("REDIS_URL", "the path is not the number of a database")
		}
	}
	if _, given := u.User.Password(); given && cfg.RedisPasswordFile != "" {
		c.fault("REDIS_PASSWORD_FILE", "is set beside a password in REDIS_URL: set one of the two")
	}
}
