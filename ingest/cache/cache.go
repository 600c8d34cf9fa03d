// Package cache keeps the answers to hot reads, so that a read whose answer has not changed
// costs one look-up by primary key and not the query behind it.
//
// What it guarantees: an answer is served only while it is the answer. Every entry carries
// the Version of its user's state from before it was read, and is served to a call that has
// looked the Version up since it arrived and found the same one. Whatever changes what the
// cached reads show changes the reader's Version in the same transaction (decision 20 lists
// it all), so a user reads their own applied writes, and no read shows less than a socket,
// a push or another read has told before. What the state was between the look-up and the
// loading does not matter: an answer that is newer than its entry says has a Version that
// never comes back, so the entry is never served.
//
// Entries lie in memory, and in Redis as well when there is one: there the instances find
// each other's. An older entry never replaces a newer one: memory compares under the entry's
// lock, Redis in a script. Redis is beside the path: a read waits for it for 25 ms at
// most and a breaker ends the waiting while it is away; what is written to it is written
// behind the answer, from a bounded queue. Whatever cannot be had from the cache is loaded.
//
// What lies in Redis is sealed (see seal): who reads Redis learns who reads and when, and
// whoever writes to it can make nobody see anything but what is true.
//
// A Cache starts one goroutine, which clears memory of what is too old, and Run, which owns
// the writes to Redis and ends that one too.
package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

// TTL is how long an entry is kept at most, in memory and in Redis.
const TTL = 10 * time.Minute

// maxBody bounds an answer that is kept, in bytes; larger ones are loaded each time.
const maxBody = 64 << 10

// Version says how far a user's state is. Two equal ones are the same state.
type Version struct {
	Epoch string // the history that Seq counts in
	Seq   int64  // the user's inbox
	Row   uint32 // of the user's own row: what operators and settings change without an event
}

// Read names what is asked for.
type Read string

// The reads whose answers are kept.
const (
	Profile  Read = "profile"
	Current  Read = "current"
	Partners Read = "partners"
	Slots    Read = "slots"
)

// Reads returns all of them.
func Reads() []Read { return []Read{Profile, Current, Partners, Slots} }

// Query is one read of a user about themselves.
type Query struct {
	Read    Read
	User    uuid.UUID
	Version Version // as looked up since the call arrived
}

// Keys make secrets that all instances share; identity.Keys do.
type Keys interface {
	SigningID(now time.Time) string // another one after a rotation
	Derive(label, salt string, now time.Time) ([]byte, error)
}

// Config is what a Cache needs. All fields up to Clock are required.
type Config struct {
	Shape       string // names the form of the answers: instances with another one share nothing
	MemoryBytes int    // bounds what is kept in memory
	Log         *slog.Logger
	Registerer  prometheus.Registerer
	Clock       func() time.Time

	Redis *redis.Client // nil: memory alone
	Keys  Keys          // required with Redis
	// RedisWithin is how long a read waits for Redis at most; default 25 ms.
	RedisWithin time.Duration
}

// Cache is safe for concurrent use.
type Cache struct {
	memory  *memory
	shared  *shared // nil without Redis
	metrics *metrics
}

// New returns a cache. Run must be called, or else memory is not cleared by age.
func New(cfg Config) (*Cache, error) {
	if cfg.Shape == "" || cfg.MemoryBytes <= 0 || cfg.Log == nil || cfg.Registerer == nil || cfg.Clock == nil || (cfg.Redis != nil && cfg.Keys == nil) {
		return nil, errors.New("cache: shape, memory, log, registerer and clock are required, and keys with Redis")
	}
	kept, err := newMemory(cfg.MemoryBytes)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	c := &Cache{memory: kept}
	c.metrics = newMetrics(cfg.Registerer, kept)
	if cfg.RedisWithin == 0 {
		cfg.RedisWithin = defaultRedisWithin
	}
	if cfg.Redis != nil {
		c.shared = newShared(cfg, c.metrics)
	}
	return c, nil
}

// Run writes to Redis until ctx ends.
func (c *Cache) Run(ctx context.Context) error {
	defer c.memory.stop()
	if c.shared == nil {
		<-ctx.Done()
		return nil
	}
	return c.shared.run(ctx)
}

// Answer returns what load answers, or what it answered before to the same query at the same
// Version. The caller must not change what it gets. It fails only with load's errors.
func (c *Cache) Answer(ctx context.Context, q Query, load func(context.Context) ([]byte, error)) ([]byte, error) {
	body, outcome := c.memory.get(q)
	backend := backendMemory
	if outcome != hit && c.shared != nil {
		backend = backendRedis
		if body, outcome = c.shared.get(ctx, q); outcome == hit {
			c.memory.put(q, body)
		}
	}
	c.metrics.count(q.Read, backend, outcome)
	if outcome == hit {
		return body, nil
	}
	body, err := load(ctx)
	if err != nil || len(body) > maxBody {
		return body, err
	}
	c.memory.put(q, body)
	if c.shared != nil {
		c.shared.put(q, body, outcome == garbled)
	}
	return body, nil
}

// Forget drops what is kept for a user of one history: nobody should hold it any longer. It
// does not wait. What a read under way puts back afterwards goes with its age, like what is
// in Redis while that is away.
func (c *Cache) Forget(epoch string, user uuid.UUID) {
	for _, read := range Reads() {
		c.memory.forget(Query{Read: read, User: user, Version: Version{Epoch: epoch}})
	}
	if c.shared != nil {
		c.shared.forget(epoch, user)
	}
}
