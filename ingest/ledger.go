package ingest

import (
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

// ledgerSize is how many written commands are remembered; about 20 MB.
const ledgerSize = 65_536

// ledger knows the commands that this instance is writing or has just written: it admits
// one writer for each id and can say "accepted" of a command that has no outcome yet.
//
// Nothing rests on it: another instance has a ledger of its own, and what falls out of it
// is found in Postgres or behind the pipe.
type ledger struct {
	mu     sync.Mutex
	active map[uuid.UUID]*entry // being written; bounded by the calls under way
	done   *recent[uuid.UUID, *entry]
}

// entry is one command. The fields below written are set before it is closed.
type entry struct {
	id          uuid.UUID
	issuer      uuid.UUID
	kind        partner.CommandType
	fingerprint [16]byte

	written    chan struct{}
	acceptedAt time.Time
	err        error
}

func newLedger() *ledger {
	return &ledger{active: map[uuid.UUID]*entry{}, done: newRecent[uuid.UUID, *entry](ledgerSize)}
}

// open returns the entry of a command and whether the caller is the one to write it, who
// must then settle it.
func (l *ledger) open(in *intent) (e *entry, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if other, ok := l.active[in.id]; ok {
		return other, false
	}
	if other, ok := l.done.get(in.id); ok {
		return other, false
	}
	e = &entry{id: in.id, issuer: in.issuer, kind: in.kind, fingerprint: in.fingerprint, written: make(chan struct{})}
	l.active[in.id] = e
	return e, true
}

// settle ends the writing. After an error the next call may try again.
func (l *ledger) settle(e *entry, acceptedAt time.Time, err error) {
	e.acceptedAt, e.err = acceptedAt, err
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.active, e.id)
	if err == nil {
		l.done.put(e.id, e)
	}
	close(e.written)
}

// accepted returns the entry of a command that this instance has written.
func (l *ledger) accepted(id uuid.UUID) (*entry, bool) { return l.done.get(id) }
