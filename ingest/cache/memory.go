package cache

import (
	"fmt"

	"github.com/google/uuid"
	"github.com/maypok86/otter/v2"
)

// entryBytes is about what an entry costs beside its body.
const entryBytes = 256

// place is where an entry lies. Entries of different epochs have no order, so they do not
// meet.
type place struct {
	read  Read
	user  uuid.UUID
	epoch string
}

func placeOf(q Query) place { return place{q.Read, q.User, q.Version.Epoch} }

type entry struct {
	version Version
	body    []byte
}

// memory is the entries of this instance, bounded by bytes and by age.
type memory struct {
	entries *otter.Cache[place, entry]
}

func newMemory(bytes int) (*memory, error) {
	entries, err := otter.New(&otter.Options[place, entry]{
		MaximumWeight:    uint64(bytes),
		Weigher:          func(_ place, e entry) uint32 { return uint32(entryBytes + len(e.body)) },
		ExpiryCalculator: otter.ExpiryWriting[place, entry](TTL),
	})
	if err != nil {
		return nil, fmt.Errorf("make memory: %w", err)
	}
	return &memory{entries}, nil
}

func (m *memory) stop() { m.entries.StopAllGoroutines() }

func (m *memory) get(q Query) ([]byte, outcome) {
	e, ok := m.entries.GetIfPresent(placeOf(q))
	switch {
	case !ok:
		return nil, miss
	case e.version != q.Version:
		return nil, stale
	default:
		return e.body, hit
	}
}

// put keeps the body unless what is there is of a later sequence. The function runs under
// the entry's lock.
func (m *memory) put(q Query, body []byte) {
	m.entries.Compute(placeOf(q), func(old entry, found bool) (entry, otter.ComputeOp) {
		if found && old.version.Seq > q.Version.Seq {
			return old, otter.CancelOp
		}
		return entry{q.Version, body}, otter.WriteOp
	})
}

func (m *memory) forget(q Query) { m.entries.Invalidate(placeOf(q)) }
