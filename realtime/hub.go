package realtime

import (
	"slices"
	"sync"

	"github.com/google/uuid"
)

// hub finds the sockets of a user. It is sharded by user, so that connecting phones and
// the events of different users rarely meet at one lock. Nothing waits inside a shard.
type hub struct {
	shards [64]shard
}

type shard struct {
	mu    sync.RWMutex
	users map[uuid.UUID][]*socket // slices are replaced, never changed: readers keep them
}

func newHub() *hub {
	h := &hub{}
	for i := range h.shards {
		h.shards[i].users = make(map[uuid.UUID][]*socket)
	}
	return h
}

func (h *hub) shard(user uuid.UUID) *shard {
	return &h.shards[user[15]%uint8(len(h.shards))]
}

// add makes the socket reachable, unless its user already has limit sockets.
func (h *hub) add(user uuid.UUID, s *socket, limit int) bool {
	sh := h.shard(user)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	old := sh.users[user]
	if len(old) >= limit {
		return false
	}
	sh.users[user] = append(slices.Clip(slices.Clone(old)), s)
	return true
}

// remove is idempotent.
func (h *hub) remove(user uuid.UUID, s *socket) {
	sh := h.shard(user)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	old := sh.users[user]
	i := slices.Index(old, s)
	switch {
	case i < 0:
	case len(old) == 1:
		delete(sh.users, user)
	default:
		sh.users[user] = slices.Delete(slices.Clone(old), i, i+1)
	}
}

// of returns the sockets of a user. The slice must not be changed.
func (h *hub) of(user uuid.UUID) []*socket {
	sh := h.shard(user)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.users[user]
}

// all returns every socket that has said hello.
func (h *hub) all() []*socket {
	var out []*socket
	for i := range h.shards {
		sh := &h.shards[i]
		sh.mu.RLock()
		for _, list := range sh.users {
			out = append(out, list...)
		}
		sh.mu.RUnlock()
	}
	return out
}
