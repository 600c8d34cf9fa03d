package cache

import (
	"bytes"
	"context"
	"log/slog"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"
)

const (
	// defaultRedisWithin is about what loading costs on a busy database.
	defaultRedisWithin = 25 * time.Millisecond
	// writeWithin bounds the write of a batch, behind the answers, in Config.RedisWithin.
	writeWithin = 10
	// maxValue bounds what is read of a value, in bytes; longer ones are no entries.
	maxValue = maxBody + 256
	// writeQueue bounds what waits to be written; what finds no room is not kept.
	writeQueue = 256
	// writeBatch bounds one write.
	writeBatch = 64

	// breakerFailures in a row open the breaker.
	breakerFailures = 5
	// breakerPause is how long an open breaker waits before it lets one call try.
	breakerPause = time.Second
)

// shared is the entries in Redis. A value is the sequence in decimal, a space, and the rest
// sealed.
type shared struct {
	client  *redis.Client
	sealer  sealer
	shape   string
	log     *slog.Logger
	within  time.Duration // how long a read waits
	breaker *gobreaker.CircuitBreaker[[]byte]
	jobs    chan job
	metrics *metrics
}

// job is a write behind the answers: of an entry, or of its removal when it has no value.
type job struct {
	keys  []string
	value []byte
	seq   int64
	force bool // what is there is no entry
}

func newShared(cfg Config, m *metrics) *shared {
	s := &shared{
		client: cfg.Redis, sealer: sealer{cfg.Keys, cfg.Clock}, shape: cfg.Shape, log: cfg.Log, within: cfg.RedisWithin,
		jobs: make(chan job, writeQueue), metrics: m,
	}
	s.breaker = gobreaker.NewCircuitBreaker[[]byte](gobreaker.Settings{
		Name: "cache", Timeout: breakerPause,
		ReadyToTrip:   func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakerFailures },
		OnStateChange: func(_ string, _, to gobreaker.State) { s.switched(to) },
	})
	return s
}

// switched tells operators of a Redis that is away, once and not with each read.
func (s *shared) switched(to gobreaker.State) {
	s.metrics.breaker.Set(float64(to))
	switch to {
	case gobreaker.StateOpen:
		s.log.Warn("reads go on without the cache in redis")
	case gobreaker.StateClosed:
		s.log.Info("the cache in redis is back")
	default:
	}
}

// key names an entry. The one it seals with is named in it: after a rotation of keys
// instances that have read them and ones that have not keep out of each other's way.
func (s *shared) key(epoch string, user uuid.UUID, read Read) string {
	return "bondmate:cache:" + s.shape + ":" + s.sealer.id() + ":" + epoch + ":" + user.String() + ":" + string(read)
}

func (s *shared) get(ctx context.Context, q Query) ([]byte, outcome) {
	key := s.key(q.Version.Epoch, q.User, q.Read)
	raw, err := s.breaker.Execute(func() ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, s.within)
		defer cancel()
		raw, err := s.client.GetRange(ctx, key, 0, maxValue).Bytes()
		if redis.HasErrorPrefix(err, "WRONGTYPE") { // not ours, and no fault of the server
			return []byte("?"), nil
		}
		return raw, err
	})
	switch {
	case err != nil:
		return nil, failed
	case len(raw) == 0:
		return nil, miss
	}
	version, body, err := s.sealer.open(key, raw)
	switch {
	case err != nil:
		return nil, garbled
	case version.Seq != q.Version.Seq || version.Row != q.Version.Row:
		return nil, stale
	default:
		return body, hit
	}
}

// put has the body written. force says that what is there is not worth a comparison.
func (s *shared) put(q Query, body []byte, force bool) {
	if s.breaker.State() == gobreaker.StateOpen {
		return
	}
	key := s.key(q.Version.Epoch, q.User, q.Read)
	value, err := s.sealer.seal(key, q.Version, body)
	if err != nil {
		s.metrics.dropped.Inc()
		return
	}
	s.enqueue(job{keys: []string{key}, value: value, seq: q.Version.Seq, force: force})
}

func (s *shared) forget(epoch string, user uuid.UUID) {
	var keys []string
	for _, read := range Reads() {
		keys = append(keys, s.key(epoch, user, read))
	}
	s.enqueue(job{keys: keys})
}

func (s *shared) enqueue(j job) {
	select {
	case s.jobs <- j:
	default:
		s.metrics.dropped.Inc()
	}
}

// run writes what waits, in order, a batch a round trip, until ctx ends.
func (s *shared) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case first := <-s.jobs:
			batch := []job{first}
			for more := true; more && len(batch) < writeBatch; {
				select {
				case next := <-s.jobs:
					batch = append(batch, next)
				default:
					more = false
				}
			}
			s.write(ctx, batch)
		}
	}
}

// An entry is replaced unless it is of a later sequence: who loaded long ago must not put
// what was true then over what is true now. What is no entry has no sequence.
const putScript = `
local old = redis.pcall('GET', KEYS[1])
if ARGV[3] ~= '1' and type(old) == 'string' then
    local seq = tonumber(string.match(old, '^(%d+) '))
    if seq and seq > tonumber(ARGV[2]) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[4])
return 1`

func (s *shared) write(ctx context.Context, batch []job) {
	_, err := s.breaker.Execute(func() ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, writeWithin*s.within)
		defer cancel()
		_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, j := range batch {
				if j.value == nil {
					p.Del(ctx, j.keys...)
					continue
				}
				p.Eval(ctx, putScript, j.keys, j.value, j.seq, j.force, TTL.Milliseconds())
			}
			return nil
		})
		return nil, err
	})
	if err != nil {
		s.metrics.dropped.Add(float64(len(batch)))
	}
}

// header is the part of a value that the script reads.
func header(seq int64) []byte { return append(strconv.AppendInt(nil, seq, 10), ' ') }

func cutHeader(raw []byte) (seq int64, rest []byte, ok bool) {
	text, rest, ok := bytes.Cut(raw, []byte{' '})
	if !ok {
		return 0, nil, false
	}
	seq, err := strconv.ParseInt(string(text), 10, 64)
	return seq, rest, err == nil
}
