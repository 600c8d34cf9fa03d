package realtime

import (
	"encoding/json"
	"sync"
	"time"
	"unique"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
)

// window is the events that the topic brought of late, whoever they are for: a phone whose
// gateway went away resumes here. It is bounded in bytes and in age, the oldest go first,
// and it promises nothing: it may lack any event, and it does not know what was taken back
// since. Only reads.read asks it, after the primary has said what may be sent.
type window struct {
	limit int64 // bytes; 0 keeps nothing
	age   time.Duration
	clock func() time.Time

	mu    sync.Mutex
	ring  []windowed // its length is a power of two
	first uint64     // the number of the oldest event: it lies at that number in the ring, modulo its length
	next  uint64     // the number that the next one gets
	bytes int64
	// numbers holds no pointers, so that the collector does not look through it.
	numbers map[place]uint64
}

// place is one place in one inbox. An event of a younger epoch takes the place of an older one's.
type place struct {
	user uuid.UUID
	seq  int64
}

// windowed is an event as it came. It is encoded when a socket takes it: most never are.
type windowed struct {
	id      uuid.UUID
	kind    unique.Handle[string] // there are few, and the decoder makes one for each event
	epoch   unique.Handle[string]
	applied time.Time
	arrived time.Time
	data    json.RawMessage
	to      []contract.Recipient
}

// What the window counts for an event and for each recipient beyond the data: their share
// of the ring and of the index, half of which may be empty.
const (
	windowedOverhead  = 256
	recipientOverhead = 128
)

func (e windowed) size() int64 {
	return windowedOverhead + int64(cap(e.data)) + int64(len(e.to))*recipientOverhead
}

func newWindow(cfg Config) *window {
	w := &window{
		limit: max(0, int64(cfg.WindowBytes)), age: cfg.WindowAge, clock: cfg.Clock,
		numbers: make(map[place]uint64),
	}
	w.watch(cfg.Registerer)
	return w
}

// add keeps an event of the topic, and drops what there is no room for any more.
func (w *window) add(ev contract.Event) {
	if w.limit == 0 || len(ev.Recipients) == 0 {
		return
	}
	e := windowed{
		id: ev.EventID, kind: unique.Make(ev.Type), epoch: unique.Make(ev.Epoch),
		applied: ev.AppliedAt, arrived: w.clock(), data: ev.Data, to: ev.Recipients,
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dropUntil(e.arrived.Add(-w.age), w.limit-e.size())
	if e.size() > w.limit {
		return
	}
	if w.next-w.first == uint64(len(w.ring)) {
		w.grow()
	}
	w.ring[w.next&uint64(len(w.ring)-1)] = e
	for _, r := range e.to {
		w.numbers[place{r.UserID, r.InboxSeq}] = w.next
	}
	w.next++
	w.bytes += e.size()
}

// expire drops what has become too old. Events do so too, when they come.
func (w *window) expire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dropUntil(w.clock().Add(-w.age), w.limit)
}

// dropUntil drops the oldest events until all are younger than that and within the bytes.
// mu is held.
func (w *window) dropUntil(oldest time.Time, limit int64) {
	for w.first < w.next {
		e := &w.ring[w.first&uint64(len(w.ring)-1)]
		if w.bytes <= limit && e.arrived.After(oldest) {
			return
		}
		for _, r := range e.to {
			// Another event may have taken its place.
			if at := (place{r.UserID, r.InboxSeq}); w.numbers[at] == w.first {
				delete(w.numbers, at)
			}
		}
		w.bytes -= e.size()
		*e = windowed{}
		w.first++
	}
}

// grow doubles the ring. mu is held.
func (w *window) grow() {
	ring := make([]windowed, max(64, 2*len(w.ring)))
	for n := w.first; n < w.next; n++ {
		ring[n&uint64(len(ring)-1)] = w.ring[n&uint64(len(w.ring)-1)]
	}
	w.ring = ring
}

// has reports whether an event is there for that place, of whichever epoch.
func (w *window) has(user uuid.UUID, seq int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.numbers[place{user, seq}]
	return ok
}

// rows returns the events of a user from one sequence to another, both included, or
// nothing when one of them is missing or of another epoch.
func (w *window) rows(user uuid.UUID, epoch string, from, to int64) []row {
	out := make([]row, 0, to-from+1)
	w.mu.Lock()
	defer w.mu.Unlock()
	for seq := from; seq <= to; seq++ {
		n, ok := w.numbers[place{user, seq}]
		if !ok {
			return nil
		}
		e := w.ring[n&uint64(len(w.ring)-1)]
		if e.epoch.Value() != epoch {
			return nil
		}
		out = append(out, row{seq: seq, id: e.id, kind: e.kind.Value(), appliedAt: e.applied, data: e.data})
	}
	return out
}
