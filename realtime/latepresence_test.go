package realtime

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
)

type noPeers struct{}

func (noPeers) Subscribe(func(contract.Presence)) func() { return func() {} }
func (noPeers) Ready() <-chan struct{}                   { return nil }

// A word that waited too long in a slow socket's queue is not sent, and the socket is told
// anew.
func TestLatePresenceIsNotSent(t *testing.T) {
	t.Parallel()
	now := time.Now()
	g, err := New(Config{Peers: noPeers{}, Clock: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	s := &socket{g: g, user: uuid.New(), state: stateOpen, writing: true}
	g.presence.came(s)
	late, young := uuid.New(), uuid.New()
	for _, w := range g.presence.here[s.user].sockets {
		w.told = map[uuid.UUID]bool{late: true, young: true}
		g.presence.watchers[late] = map[*socket]struct{}{s: {}}
	}
	delete(g.presence.viewers, s.user)
	s.push(frame{kind: kindPresence, body: []byte("late"), about: late, confirmed: now.Add(-g.cfg.ConfirmedFor - time.Millisecond)})
	s.push(frame{kind: kindPresence, body: []byte("young"), about: young, confirmed: now})
	if batch := s.pop(); len(batch) != 1 || string(batch[0].body) != "young" {
		t.Errorf("what is sent is %v, want the young one", batch)
	}
	if len(s.pop()) > 0 {
		t.Error("more is sent")
	}
	if _, again := g.presence.viewers[s.user]; !again || g.presence.here[s.user].sockets[0].told[late] || len(g.presence.watchers) != 0 {
		t.Error("the socket is not told anew")
	}
}
