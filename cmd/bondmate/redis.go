package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/redis/go-redis/v9"
)

// Redis is beside the path of every request: what waits for it must not wait long.
const (
	redisDialWithin    = 500 * time.Millisecond
	redisCommandWithin = 100 * time.Millisecond
	redisRetries       = 3 // with jittered backoff between these two
	redisMinBackoff    = 4 * time.Millisecond
	redisMaxBackoff    = 32 * time.Millisecond
	redisConns         = 20
)

// openRedis returns the process's client of the configured Redis, or nil without one. It
// connects when it is first used: a Redis that is away keeps nothing from starting.
func (p *process) openRedis() (*redis.Client, error) {
	to, ok := p.cfg.Redis()
	if !ok || p.redis != nil {
		return p.redis, nil
	}
	options, err := redis.ParseURL(to.URL)
	if err != nil {
		return nil, fmt.Errorf("REDIS_URL: %w", err)
	}
	options.ClientName = "bondmate"
	options.DialTimeout, options.ReadTimeout, options.WriteTimeout = redisDialWithin, redisCommandWithin, redisCommandWithin
	options.PoolTimeout = redisCommandWithin
	options.ContextTimeoutEnabled = true
	options.DialerRetries = 1 // a command that fails is tried again as a whole
	options.MaxRetries, options.MinRetryBackoff, options.MaxRetryBackoff = redisRetries, redisMinBackoff, redisMaxBackoff
	options.PoolSize = redisConns
	if file := to.PasswordFile; file != "" {
		user := options.Username
		options.CredentialsProviderContext = func(context.Context) (string, string, error) {
			content, err := os.ReadFile(file) // #nosec G304 -- the operator names it
			if err != nil {
				return "", "", fmt.Errorf("REDIS_PASSWORD_FILE: %w", err)
			}
			return user, string(bytes.TrimRight(content, "\r\n")), nil
		}
	}
	p.redis = redis.NewClient(options)
	p.onClose(func() { _ = p.redis.Close() })
	return p.redis, nil
}
