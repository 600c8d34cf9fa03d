package admin

import (
	"context"
	"crypto/subtle"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxKeys is how many keys there can be that are not revoked; see APIKeys.
	maxKeys = 200
	// knownKeys bounds what is loaded: those, and of the others so many that who goes on
	// using an old one is told apart from who makes one up.
	knownKeys = 1000
	// useEvery is how often a key's last use is written at most.
	useEvery = time.Minute
	// refusalEvery is how often the refusal of a key, for one reason, is taken down at most;
	// the others are counted.
	refusalEvery = time.Minute
)

// keyring knows the API keys as they were a moment ago: all of them, since they are few, so
// that whatever a stranger makes up costs no look-up of its own. An instance asks the
// database once in Config.KeysFor while keys are used, and never otherwise.
type keyring struct {
	pool  *pgxpool.Pool
	clock func() time.Time
	keep  time.Duration

	loading chan struct{} // held by who loads
	// changes counts what this instance has changed: what was loaded before is not good any more.
	changes atomic.Uint64
	loaded  atomic.Pointer[keys]

	refused *prometheus.CounterVec // by reason
	mu      sync.Mutex
	said    map[refusal]time.Time // of those less than refusalEvery ago; bounded by knownKeys
}

// keys is what was loaded at one time.
type keys struct {
	byID    map[uuid.UUID]*heldKey
	asOf    time.Time
	changes uint64
}

// heldKey is a key as a call needs it.
type heldKey struct {
	id                             uuid.UUID
	name                           string
	scopes                         []string
	hash, oldHash                  []byte
	oldUntil, expiresAt, revokedAt *time.Time
	used                           atomic.Int64 // Unix microseconds; zero: never
	fresh                          atomic.Bool  // nobody has used the hash yet
}

// refusal is what is taken down once in refusalEvery.
type refusal struct {
	key    uuid.UUID // zero: all that nobody has
	reason string
}

func newKeyring(cfg Config, clock func() time.Time) (*keyring, error) {
	k := &keyring{
		pool: cfg.Pool, clock: clock, keep: cfg.KeysFor, loading: make(chan struct{}, 1), said: map[refusal]time.Time{},
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bondmate_api_keys_refused_total", Help: "Calls with an API key that were not let in, by reason.",
		}, []string{"reason"}),
	}
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(k.refused); err != nil {
			return nil, fmt.Errorf("admin: %w", err)
		}
	}
	return k, nil
}

// find returns the key with an id, nil for none, as it was at most keep ago. With the
// database away it fails: who cannot be shown to have a key has none.
func (k *keyring) find(ctx context.Context, id uuid.UUID) (*heldKey, error) {
	if known := k.fresh(); known != nil {
		return known.byID[id], nil
	}
	select {
	case k.loading <- struct{}{}:
		defer func() { <-k.loading }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for API keys: %w", ctx.Err())
	}
	if known := k.fresh(); known != nil { // somebody else has loaded them meanwhile
		return known.byID[id], nil
	}
	known, err := k.load(ctx)
	if err != nil {
		return nil, fmt.Errorf("load API keys: %w", err)
	}
	k.loaded.Store(known)
	return known.byID[id], nil
}

func (k *keyring) fresh() *keys {
	known := k.loaded.Load()
	if known == nil || known.changes != k.changes.Load() {
		return nil
	}
	if age := k.clock().Sub(known.asOf); age < 0 || age >= k.keep {
		return nil
	}
	return known
}

// forget makes the next call load anew: something was changed, and is committed. What a
// load under way brings is older, and is not used again.
func (k *keyring) forget() { k.changes.Add(1) }

// Those that are not revoked first: of these none is left out.
const loadKeysSQL = `
SELECT id, name, scopes, hash, old_hash, old_until, expires_at, revoked_at, last_used_at, hash_used_at
FROM api_keys
ORDER BY revoked_at DESC NULLS FIRST, id
LIMIT $1`

func (k *keyring) load(ctx context.Context) (*keys, error) {
	known := &keys{byID: map[uuid.UUID]*heldKey{}, asOf: k.clock(), changes: k.changes.Load()} // before the query
	rows, err := k.pool.Query(ctx, loadKeysSQL, knownKeys)
	if err != nil {
		return nil, err
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*heldKey, error) {
		var h heldKey
		var used, hashUsed *time.Time
		err := row.Scan(&h.id, &h.name, &h.scopes, &h.hash, &h.oldHash, &h.oldUntil, &h.expiresAt, &h.revokedAt, &used, &hashUsed)
		h.fresh.Store(hashUsed == nil)
		if used != nil {
			h.used.Store(used.UnixMicro())
		}
		return &h, err
	})
	if err != nil {
		return nil, err
	}
	for _, h := range list {
		known.byID[h.id] = h
	}
	return known, nil
}

// Why a key is refused. They are labels of a metric, and in the activity log.
const (
	keyMalformed = "malformed" // not in the form of a key, or its checksum is wrong
	keyUnknown   = "unknown"   // well formed, and nobody has it
	keyRevoked   = "revoked"
	keyExpired   = "expired"
	keyReplaced  = "replaced" // by a rotation, longer ago than was granted
	keyScope     = "scope"    // good, and not for this operation
)

// refusedAt returns why what somebody presents is not good now; empty: it is. What is said of
// a key beyond unknown is said of one that whoever presents it has, or had.
func (h *heldKey) refusedAt(now time.Time, hash []byte) string {
	if h == nil {
		return keyUnknown
	}
	current, old := subtle.ConstantTimeCompare(hash, h.hash) == 1, subtle.ConstantTimeCompare(hash, h.oldHash) == 1
	switch {
	case !current && !old:
		return keyUnknown
	case h.revokedAt != nil:
		return keyRevoked
	case h.expiresAt != nil && !now.Before(*h.expiresAt):
		return keyExpired
	case !current && (h.oldUntil == nil || !now.Before(*h.oldUntil)):
		return keyReplaced
	default:
		return ""
	}
}

// worthALine counts a refusal, and reports whether the activity log gets a line of it: one
// for each key and reason in refusalEvery, and one for all keys that nobody has.
func (k *keyring) worthALine(r refusal) bool {
	k.refused.WithLabelValues(r.reason).Inc()
	if r.reason == keyMalformed {
		return false // a slip, or noise: who means it makes a well formed one
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.clock()
	if last, ok := k.said[r]; ok && now.Sub(last) < refusalEvery {
		return false
	}
	maps.DeleteFunc(k.said, func(_ refusal, at time.Time) bool { return now.Sub(at) >= refusalEvery })
	k.said[r] = now
	return true
}

// A rotation may have come in between: then the hash is the old one.
const usedSQL = `
UPDATE api_keys
SET last_used_at = $2, hash_used_at = CASE WHEN hash = $4 THEN COALESCE(hash_used_at, $2) ELSE hash_used_at END
WHERE id = $1 AND (last_used_at IS NULL OR last_used_at <= $3 OR hash = $4 AND hash_used_at IS NULL)`

// use notes that a key was used, at most once in useEvery over all instances; and that what
// it was made or rotated to was used for the first time, before that does anything. So
// whatever a server was ever let in with is known as such to the next rotation.
func (k *keyring) use(ctx context.Context, h *heldKey, hash []byte) error {
	now, last := k.clock(), h.used.Load()
	first := h.fresh.Load() && subtle.ConstantTimeCompare(hash, h.hash) == 1
	if !first && (now.UnixMicro()-last < useEvery.Microseconds() || !h.used.CompareAndSwap(last, now.UnixMicro())) {
		return nil
	}
	if _, err := k.pool.Exec(ctx, usedSQL, h.id, now, now.Add(-useEvery), hash); err != nil {
		h.used.CompareAndSwap(now.UnixMicro(), last)
		return fmt.Errorf("note the use of API key %s: %w", h.id, err)
	}
	if first {
		h.used.Store(now.UnixMicro())
		h.fresh.Store(false)
	}
	return nil
}
