package realtime

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
)

// sweepChunk bounds one look-up of sessions or heads.
const sweepChunk = 5_000

// sweep looks after what no event tells: every SessionEvery it asks which sessions of the
// open sockets are revoked, and for a share of the users, so that each has its turn once
// in HeadEvery, whether their inbox is ahead of their sockets. When the database is away
// the sockets stay, until their tokens expire.
func (g *Gateway) sweep(ctx context.Context) {
	ticker := time.NewTicker(g.cfg.SessionEvery)
	defer ticker.Stop()
	rounds := max(1, int(g.cfg.HeadEvery/g.cfg.SessionEvery))
	failing := false
	for round := 0; ; round++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		g.window.expire()
		list := g.hub.all()
		err := g.checkSessions(ctx, list)
		if err == nil {
			err = g.checkHeads(ctx, list, round%rounds, rounds)
		}
		if err != nil && !failing && ctx.Err() == nil {
			g.cfg.Log.WarnContext(ctx, "sessions and heads are not watched", "error", err)
		}
		failing = err != nil
	}
}

// onRevoked closes the sockets of a session that the control topic says has ended. It never
// waits: it is called by the tail. A socket that is only just saying hello is not found here
// perhaps; it looks at its session after it can be found.
func (g *Gateway) onRevoked(r contract.SessionRevoked) {
	told := false
	for _, s := range g.hub.of(r.UserID) {
		if s.session == r.SessionID {
			s.close(CloseSessionRevoked, "session revoked")
			told = true
		}
	}
	if told {
		g.m.revoked.WithLabelValues("topic").Inc()
	}
}

func (g *Gateway) checkSessions(ctx context.Context, list []*socket) error {
	dead := make(map[uuid.UUID]bool)
	for part := list; len(part) > 0; {
		n := min(len(part), sweepChunk)
		ids := make([]uuid.UUID, n)
		for i, s := range part[:n] {
			ids[i] = s.session
		}
		gone, err := g.store.revoked(ctx, ids)
		if err != nil {
			return err
		}
		for _, id := range gone {
			dead[id] = true
		}
		part = part[n:]
	}
	if len(dead) == 0 {
		return nil
	}
	g.m.revoked.WithLabelValues("database").Add(float64(len(dead)))
	for _, s := range list {
		if dead[s.session] {
			s.close(CloseSessionRevoked, "session revoked")
		}
	}
	return nil
}

func (g *Gateway) checkHeads(ctx context.Context, list []*socket, share, shares int) error {
	var users []uuid.UUID
	seen := make(map[uuid.UUID]bool)
	for _, s := range list {
		if int(binary.BigEndian.Uint32(s.user[12:]))%shares == share && !seen[s.user] {
			seen[s.user] = true
			users = append(users, s.user)
		}
	}
	for len(users) > 0 {
		n := min(len(users), sweepChunk)
		heads, err := g.store.heads(ctx, users[:n])
		if err != nil {
			return err
		}
		for _, h := range heads {
			for _, s := range g.hub.of(h.User) {
				s.behind(h.Seq, h.Epoch)
			}
		}
		users = users[n:]
	}
	return nil
}
