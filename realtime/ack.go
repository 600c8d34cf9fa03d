package realtime

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
)

// ack is what one session has acknowledged: over any of its sockets, and over visible ones.
type ack struct {
	user, session uuid.UUID
	epoch         string
	seq, visible  int64
}

// acks gathers acknowledgements between flushes: one entry a session, whatever number of
// sockets and messages. It holds no more entries than there were sockets since the last
// flush that worked, up to maxAcks; beyond that the newest are dropped: an
// acknowledgement only saves a push.
type acks struct {
	mu      sync.Mutex
	pending map[uuid.UUID]ack
}

const (
	maxAcks    = 100_000
	flushChunk = 2_000 // sessions in one statement
)

func (a *acks) add(in ack) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pending == nil {
		a.pending = make(map[uuid.UUID]ack)
	}
	old, ok := a.pending[in.session]
	switch {
	case !ok && len(a.pending) >= maxAcks:
		return
	case ok && old.epoch == in.epoch:
		in.seq, in.visible = max(in.seq, old.seq), max(in.visible, old.visible)
	}
	a.pending[in.session] = in
}

// restore puts back what could not be written, under what has come since.
func (a *acks) restore(list []ack) {
	a.mu.Lock()
	newer := a.pending
	a.pending = make(map[uuid.UUID]ack, len(list))
	for _, v := range list {
		a.pending[v.session] = v
	}
	a.mu.Unlock()
	for _, v := range newer {
		a.add(v)
	}
}

func (a *acks) take() []ack {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.pending) == 0 {
		return nil
	}
	out := make([]ack, 0, len(a.pending))
	for _, v := range a.pending {
		out = append(out, v)
	}
	a.pending = nil
	return out
}

// flushAcks writes acknowledgements until ctx ends. A flush that fails is tried again
// with the next, after a pause that grows to 5 s.
func (g *Gateway) flushAcks(ctx context.Context) {
	failures := 0
	for {
		wait := g.cfg.AckEvery
		if failures > 0 {
			wait += rand.N(min(5*time.Second, g.cfg.AckEvery<<min(failures, 10)))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if err := g.flush(ctx); err != nil {
			if failures++; failures == 1 && ctx.Err() == nil {
				g.cfg.Log.WarnContext(ctx, "acknowledgements wait", "error", err)
			}
			continue
		}
		failures = 0
	}
}

func (g *Gateway) flush(ctx context.Context) error {
	list := g.acks.take()
	for len(list) > 0 {
		n := min(len(list), flushChunk)
		if err := g.store.acknowledge(ctx, list[:n]); err != nil {
			g.acks.restore(list)
			return err
		}
		g.m.acks.Add(float64(n))
		list = list[n:]
	}
	return nil
}
