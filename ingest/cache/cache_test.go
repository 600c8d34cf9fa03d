package cache_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"

	"github.com/bondmate/backend/ingest/cache"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/redistest"
)

// signingKeys is one key for the whole test process: making one takes a while.
var signingKeys = sync.OnceValues(newKeys)

func newKeys() (*identity.Keys, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "cache-keys-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "keys.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	return identity.LoadKeys(file)
}

// instance is one instance's cache.
type instance struct {
	*cache.Cache
	t        *testing.T
	registry *prometheus.Registry
}

type option func(*cache.Config)

func withRedis(client *redis.Client) option { return func(c *cache.Config) { c.Redis = client } }

func newInstance(t *testing.T, options ...option) *instance {
	t.Helper()
	keys, err := signingKeys()
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	cfg := cache.Config{
		Shape: "shape", MemoryBytes: 1 << 20, Log: slog.New(slog.DiscardHandler), Registerer: registry, Clock: time.Now, Keys: keys,
		RedisWithin: 5 * time.Second, // so that a busy machine is no Redis that is away
	}
	for _, o := range options {
		o(&cfg)
	}
	c, err := cache.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return &instance{c, t, registry}
}

// loaded is what the loader of read answers, which no cache has.
const loaded = "loaded"

// read returns what the cache has, or loaded, which is kept from then on.
func (i *instance) read(q cache.Query) string { return i.load(q, loaded) }

func (i *instance) load(q cache.Query, body string) string {
	i.t.Helper()
	got, err := i.Answer(i.t.Context(), q, func(context.Context) ([]byte, error) { return []byte(body), nil })
	if err != nil {
		i.t.Fatal(err)
	}
	return string(got)
}

// has returns what the cache has, or nothing, of which nothing is kept.
func (i *instance) has(q cache.Query) string {
	body, _ := i.Answer(i.t.Context(), q, func(context.Context) ([]byte, error) { return nil, errors.New("nothing") })
	return string(body)
}

func (i *instance) count(backend, outcome string) float64 {
	i.t.Helper()
	families, err := i.registry.Gather()
	if err != nil {
		i.t.Fatal(err)
	}
	sum := 0.0
	for _, family := range families {
		if family.GetName() != "bondmate_cache_requests_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["backend"] == backend && labels["outcome"] == outcome {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func query(seq int64) cache.Query {
	return cache.Query{Read: cache.Profile, User: uuid.New(), Version: cache.Version{Epoch: "e1", Seq: seq, Row: 7}}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// keysIn counts what is in Redis.
func keysIn(t *testing.T, client *redis.Client) int {
	t.Helper()
	keys, err := client.Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	return len(keys)
}

// both runs a test on memory alone, where the second instance is the first, and on Redis,
// where it is another one that has nothing in memory.
func both(t *testing.T, test func(t *testing.T, writer *instance, reader func() *instance, kept func())) {
	t.Helper()
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		one := newInstance(t)
		test(t, one, func() *instance { return one }, func() {})
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t)
		client := server.Client(t)
		one := newInstance(t, withRedis(client))
		// A write in order behind all others shows that they are done.
		kept := func() {
			t.Helper()
			mark := query(1)
			one.read(mark)
			until(t, "what was written is in Redis", func() bool {
				keys, err := client.Keys(t.Context(), "*"+mark.User.String()+"*").Result()
				return err == nil && len(keys) == 1
			})
		}
		test(t, one, func() *instance { return newInstance(t, withRedis(client)) }, kept)
	})
}

// An entry is served to a query of its version and of no other.
func TestServedOnlyAtItsVersion(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, writer *instance, reader func() *instance, kept func()) {
		for name, test := range map[string]struct {
			change func(*cache.Query)
			want   string
		}{
			"the same":        {func(*cache.Query) {}, "five"},
			"an event more":   {func(q *cache.Query) { q.Version.Seq++ }, loaded},
			"an event less":   {func(q *cache.Query) { q.Version.Seq-- }, loaded},
			"another row":     {func(q *cache.Query) { q.Version.Row++ }, loaded},
			"another history": {func(q *cache.Query) { q.Version.Epoch = "e2" }, loaded},
			"another user":    {func(q *cache.Query) { q.User = uuid.New() }, loaded},
			"another read":    {func(q *cache.Query) { q.Read = cache.Slots }, loaded},
		} {
			q := query(5)
			writer.load(q, "five")
			kept()
			test.change(&q)
			if got := reader().read(q); got != test.want {
				t.Errorf("%s: got %q, want %q", name, got, test.want)
			}
		}
	})
}

// However loaders that were quick and slow come in, what is kept in the end is the newest.
func TestOlderNeverReplacesNewer(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, writer *instance, reader func() *instance, kept func()) {
		const newest = 40
		for range 10 {
			q := query(0)
			var group sync.WaitGroup
			for seq := int64(1); seq <= newest; seq++ {
				group.Go(func() {
					mine := q
					mine.Version.Seq = seq
					writer.load(mine, fmt.Sprint(seq))
				})
			}
			group.Wait()
			q.Version.Seq = 3 // a straggler
			writer.load(q, "3")
			kept()
			q.Version.Seq = newest
			if got := reader().read(q); got != fmt.Sprint(newest) {
				t.Fatalf("got %q, want %d from the cache", got, newest)
			}
		}
	})
}

// A change of the row alone, which has no order, is kept as well.
func TestRowReplacesRow(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, writer *instance, reader func() *instance, kept func()) {
		q := query(5)
		writer.load(q, "one")
		q.Version.Row = 3
		writer.load(q, "two")
		kept()
		if got := reader().read(q); got != "two" {
			t.Errorf("got %q, want two from the cache", got)
		}
	})
}

func TestForget(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, writer *instance, reader func() *instance, kept func()) {
		q, other := query(5), query(5)
		slots := q
		slots.Read = cache.Slots
		for _, q := range []cache.Query{q, slots, other} {
			writer.load(q, "kept")
		}
		kept()
		writer.Forget(q.Version.Epoch, q.User)
		kept()
		for _, forgotten := range []cache.Query{q, slots} {
			if got := reader().read(forgotten); got != loaded {
				t.Errorf("%s: got %q after it was forgotten", forgotten.Read, got)
			}
		}
		if got := reader().read(other); got != "kept" {
			t.Errorf("somebody else's: got %q, want it kept", got)
		}
	})
}

// What cannot be loaded is not kept, and neither is what is too large.
func TestNotKept(t *testing.T) {
	t.Parallel()
	c := newInstance(t)
	q := query(1)
	_, err := c.Answer(t.Context(), q, func(context.Context) ([]byte, error) { return nil, errors.New("away") })
	if err == nil || err.Error() != "away" {
		t.Errorf("got %v, want the loader's error", err)
	}
	if got := c.load(q, strings.Repeat("x", 64<<10+1)); len(got) != 64<<10+1 {
		t.Errorf("got %d bytes", len(got))
	}
	if got := c.read(q); got != loaded {
		t.Errorf("%d bytes came from the cache", len(got))
	}
}

// Memory holds no more bytes than it may.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	c := newInstance(t)
	for range 400 {
		c.load(query(1), strings.Repeat("x", 32<<10))
	}
	until(t, "memory is within 1 MiB", func() bool {
		families, err := c.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "bondmate_cache_memory_bytes" {
				bytes := f.GetMetric()[0].GetGauge().GetValue()
				return bytes > 0 && bytes <= 1<<20
			}
		}
		return false
	})
}

// Redis holds nothing that its reader understands, and nothing forever.
func TestRedisHoldsOnlySealedEntries(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t).Client(t)
	c := newInstance(t, withRedis(client))
	c.load(query(5), `{"displayName":"Ada"}`)
	until(t, "it is in Redis", func() bool { return keysIn(t, client) == 1 })
	key := client.Keys(t.Context(), "*").Val()[0]
	if value := client.Get(t.Context(), key).Val(); strings.Contains(value, "Ada") || strings.Contains(value, "displayName") {
		t.Errorf("it can be read: %q", value)
	}
	if ttl := client.PTTL(t.Context(), key).Val(); ttl <= cache.TTL-time.Minute || ttl > cache.TTL {
		t.Errorf("it is kept for %s, want %s", ttl, cache.TTL)
	}
}

// Whatever lies where an entry should is a miss, and an entry takes its place, however high
// a sequence it claims.
func TestGarbageIsAMiss(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t).Client(t)
	for name, put := range map[string]func(key, value, foreign string) error{
		"text":              func(key, _, _ string) error { return client.Set(t.Context(), key, "hello", 0).Err() },
		"a number":          func(key, _, _ string) error { return client.Set(t.Context(), key, "9007199254740993 ", 0).Err() },
		"cut":               func(key, value, _ string) error { return client.Set(t.Context(), key, value[:len(value)-1], 0).Err() },
		"another sequence":  func(key, value, _ string) error { return client.Set(t.Context(), key, "9"+value, 0).Err() },
		"no sequence":       func(key, value, _ string) error { return client.Set(t.Context(), key, value[2:], 0).Err() },
		"a flipped bit":     func(key, value, _ string) error { return client.Set(t.Context(), key, flipped(value), 0).Err() },
		"somebody else's":   func(key, _, foreign string) error { return client.Set(t.Context(), key, foreign, 0).Err() },
		"another type":      func(key, _, _ string) error { return list(t.Context(), client, key) },
		"megabytes of text": func(key, _, _ string) error { return client.Set(t.Context(), key, strings.Repeat("7", 2<<20), 0).Err() },
	} {
		t.Run(name, func(t *testing.T) {
			writer := newInstance(t, withRedis(client))
			q, foreign := query(5), query(5)
			value := func(q cache.Query) (key, value string) {
				until(t, "it is in Redis", func() bool {
					keys := client.Keys(t.Context(), "*"+q.User.String()+"*").Val()
					if len(keys) == 1 {
						key, value = keys[0], client.Get(t.Context(), keys[0]).Val()
					}
					return len(keys) == 1
				})
				return key, value
			}
			writer.load(q, "mine")
			writer.load(foreign, "theirs")
			key, mine := value(q)
			_, theirs := value(foreign)
			if err := put(key, mine, theirs); err != nil {
				t.Fatal(err)
			}
			reader := newInstance(t, withRedis(client))
			if got := reader.load(q, "again"); got != "again" {
				t.Fatalf("got %q, want it loaded", got)
			}
			if reader.count("redis", "garbled") != 1 {
				t.Error("it is not counted as garbled")
			}
			until(t, "the entry is there again", func() bool { return newInstance(t, withRedis(client)).has(q) == "again" })
		})
	}
}

func flipped(value string) string {
	raw := []byte(value)
	raw[len(raw)-20] ^= 1
	return string(raw)
}

func list(ctx context.Context, client *redis.Client, key string) error {
	if err := client.Del(ctx, key).Err(); err != nil {
		return err
	}
	return client.LPush(ctx, key, "x").Err()
}

// Instances with other keys, or answers of another form, keep out of each other's way.
func TestNothingIsSharedAcrossKeysAndShapes(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t).Client(t)
	q := query(5)
	newInstance(t, withRedis(client)).load(q, "mine")
	until(t, "it is in Redis", func() bool { return keysIn(t, client) == 1 })
	others, err := newKeys()
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]option{
		"keys":  func(c *cache.Config) { c.Keys = others },
		"shape": func(c *cache.Config) { c.Shape = "other" },
	} {
		if got := newInstance(t, withRedis(client), change).read(q); got != loaded {
			t.Errorf("another %s: got %q", name, got)
		}
	}
	if got := newInstance(t, withRedis(client)).read(q); got != "mine" {
		t.Errorf("got %q, want it still there", got)
	}
}

// A Redis that is gone or hangs makes a read wait for as long as the budget says and no
// longer, until the breaker opens; then not at all. When it is back it is used again.
func TestRedisAway(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]struct{ begin, end func(*redistest.Server) error }{
		"hangs":  {(*redistest.Server).Pause, (*redistest.Server).Resume},
		"killed": {func(s *redistest.Server) error { s.Kill(); return nil }, func(s *redistest.Server) error { return s.Start(context.Background()) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			// As the program has it: with longer time-outs than a read waits, and retries.
			client := redis.NewClient(&redis.Options{Addr: server.Addr, ContextTimeoutEnabled: true, MaxRetries: 3})
			t.Cleanup(func() { _ = client.Close() })
			c := newInstance(t, withRedis(client), func(c *cache.Config) { c.RedisWithin = 0 })
			until(t, "Redis is asked", func() bool { c.read(query(1)); return c.count("redis", "miss") > 0 })
			before, asked := c.count("redis", "error"), c.count("redis", "miss")
			if err := away.begin(server); err != nil {
				t.Fatal(err)
			}
			for range 30 {
				began := time.Now()
				c.read(query(1))
				// 25 ms by itself; the rest is for a machine that is busy with other things.
				if took := time.Since(began); took > time.Second {
					t.Errorf("a read took %s", took)
				}
			}
			if failed := c.count("redis", "error") - before; failed != 30 {
				t.Errorf("%v errors were counted of 30 reads", failed)
			}
			if gauge(t, c, "bondmate_cache_breaker_state") == 0 {
				t.Error("the breaker is closed")
			}
			if err := away.end(server); err != nil {
				t.Fatal(err)
			}
			until(t, "Redis is asked again", func() bool { c.read(query(1)); return c.count("redis", "miss") > asked })
		})
	}
}

func gauge(t *testing.T, c *instance, name string) float64 {
	t.Helper()
	n, err := testutil.GatherAndCount(c.registry, name)
	if err != nil || n != 1 {
		t.Fatalf("%d of %s: %v", n, name, err)
	}
	families, err := c.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return -1
}
