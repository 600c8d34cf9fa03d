package processor

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/partner"
)

// trips remembers what connections send: one entry a round trip, the statements that go in it.
type trips struct {
	mu  sync.Mutex
	all [][]string
}

func (tr *trips) take() [][]string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	all := tr.all
	tr.all = nil
	return all
}

func (tr *trips) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.all = append(tr.all, nil)
	return ctx
}

func (tr *trips) TraceBatchQuery(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	last := len(tr.all) - 1
	tr.all[last] = append(tr.all[last], data.SQL)
}

func (tr *trips) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

func (tr *trips) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if data.SQL == saveRelayedSQL { // of idle moments, whatever was decided
		return ctx
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.all = append(tr.all, []string{data.SQL})
	return ctx
}

func (tr *trips) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TestUnavailableTakesTheSameTrips asks people whom different things keep away: what the
// processor says to the server, and in how many round trips, tells nothing of which.
func TestUnavailableTakesTheSameTrips(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	sent := &trips{}
	r.cfg.Connect = func(ctx context.Context) (*pgx.Conn, error) {
		cfg, err := pgx.ParseConfig(r.url)
		if err != nil {
			return nil, err
		}
		cfg.Tracer = sent
		return pgx.ConnectConfig(ctx, cfg)
	}
	r.start(func(c *Config) { c.Workers, c.TimerPoll = 1, time.Hour })
	eve := r.user(1)
	ways := map[string]func(target uuid.UUID){
		"full":   func(target uuid.UUID) { r.marry(target, r.user(1)) },
		"blocks": func(target uuid.UUID) { r.post(command(partner.Block, target, eve)) },
		"suspended": func(target uuid.UUID) {
			r.exec(`UPDATE users SET status = $2 WHERE id = $1`, target, int16(partner.UserSuspended))
		},
		"left quietly": func(target uuid.UUID) {
			r.marry(target, eve)
			leave := remove(target, eve)
			leave.Quiet = true
			r.post(leave)
		},
	}
	// What a connection says when it is made belongs to none of the ways.
	r.marry(r.user(1), r.user(1))
	r.settled()
	measure := func(way string) [][]string {
		target := r.user(1)
		ways[way](target)
		r.settled()
		sent.take()
		ask := send(eve, target)
		r.post(ask)
		r.settled()
		if got := r.outcome(ask.ID); got != string(partner.CodeTargetUnavailable) {
			t.Errorf("%s: %s", way, got)
		}
		return slices.DeleteFunc(sent.take(), func(trip []string) bool {
			return slices.Equal(trip, []string{"due_timers"}) || slices.Equal(trip, []string{"due_actions"})
		})
	}
	full := measure("full")
	if len(full) < 2 {
		t.Fatalf("seen of a decision: %q", full)
	}
	for way := range ways {
		// What the processor does by itself on a busy machine, such as to connect again, may fall
		// into a measurement; what tells of the way is in each of them.
		diff := cmp.Diff(full, measure(way))
		for again := 0; diff != "" && again < 4; again++ {
			full = measure("full")
			diff = cmp.Diff(full, measure(way))
		}
		if diff != "" {
			t.Errorf("-full +%s\n%s", way, diff)
		}
	}
}
