package partner_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bondmate/backend/pkg/partner"
)

var manyHistories = flag.Int("histories", 5000, "how many histories TestManyHistories lives through")

// floodedEvery is how seldom a history is flooded: it takes a hundred times as long as others.
const floodedEvery = 1000

// drawHistory draws a history of two to six people: mostly a short one, since many short
// ones find more than few long ones, now and then one as long as rapid's. Every eighth
// decides each command thrice as rapid's do, to see that state and batches do not matter.
// In a flooded one somebody has more requests than one decision holds.
func drawHistory(random *rand.Rand, flooded bool) history {
	steps := 4 + random.IntN(17)
	if random.IntN(32) == 0 {
		steps = 50 + random.IntN(50)
	}
	h := history{Once: random.IntN(8) != 0, Slots: make([]int16, 2+min(random.IntN(5), random.IntN(5))), Steps: make([]step, steps)}
	for i := range h.Slots {
		h.Slots[i] = 1 + int16(min(random.IntN(3), random.IntN(3)))
	}
	for i := range h.Steps {
		h.Steps[i] = drawStep(func(_ string, n int) int { return random.IntN(n) })
	}
	if flooded {
		h.Slots = slices.Repeat([]int16{1}, partner.PendingLimit+10)
		h.Steps[0].Kind, h.Once = "flood", true // a batch holds others of the requests than a load
		h.Steps[1] = step{Kind: "accept", A: 1}
	}
	return h
}

// shortened takes steps out of a history for as long as it still breaks a rule.
func shortened(h history, decide decider) (history, error) {
	broken := happen(h, decide)
	for again := true; again; {
		again = false
		for i := len(h.Steps) - 1; i >= 0; i-- {
			fewer := history{Once: h.Once, Slots: h.Slots, Steps: slices.Delete(slices.Clone(h.Steps), i, i+1)}
			if err := happen(fewer, decide); err != nil {
				h, broken, again = fewer, err, true
			}
		}
	}
	return h, broken
}

// census counts what happens by its name, so that millions of histories in which nothing did
// are not taken for a proof. Each worker has its own.
type census map[string]int64

func (s census) decide(l partner.Limits, st partner.State, c partner.Command) partner.Decision {
	d := partner.Decide(l, st, c)
	s[c.Type.String()]++
	if !d.Outcome.Applied() {
		s[string(d.Outcome.Code)]++
	}
	for _, e := range d.Events {
		s[e.Type.String()]++
	}
	return d
}

// TestManyHistories is TestHistories by the million, as a fast generator of our own and all
// processors make possible: `make model`. Each history has a number; TEST_SEED repeats a
// run, and what breaks a rule is shown with as few steps as do.
func TestManyHistories(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("TEST_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("TEST_SEED=%d", seed)
	var next, steps atomic.Int64
	var mu sync.Mutex
	all := census{}
	ctx, stop := context.WithCancelCause(t.Context())
	defer stop(nil)
	began := time.Now()
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			seen := census{}
			for n := next.Add(1) - 1; n < int64(*manyHistories) && ctx.Err() == nil; n = next.Add(1) - 1 {
				h := drawHistory(rand.New(rand.NewPCG(seed, uint64(n))), n%floodedEvery == 0)
				steps.Add(int64(len(h.Steps)))
				if happen(h, seen.decide) != nil {
					few, err := shortened(h, partner.Decide)
					stop(fmt.Errorf("history %d: %w\n%#v", n, err, few))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for name, n := range seen {
				all[name] += n
			}
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		workers.Wait()
	}()
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-tick.C:
			t.Logf("%d of %d histories after %v", next.Load(), *manyHistories, time.Since(began).Round(time.Second))
		}
	}
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	took := time.Since(began)
	t.Logf("%d histories with %d steps in %v, %.0f histories/s", *manyHistories, steps.Load(), took.Round(time.Millisecond),
		float64(*manyHistories)/took.Seconds())
	all.check(t, *manyHistories >= 100_000)
}

// check prints the counts, and of a long run demands that every command, every event and
// every code of the core came about.
func (s census) check(t *testing.T, demand bool) {
	t.Helper()
	for _, c := range partner.CommandTypes() {
		s[c.String()] += 0
	}
	for _, e := range partner.EventTypes() {
		s[e.String()] += 0
	}
	for _, code := range decidedCodes() {
		s[code] += 0
	}
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if t.Logf("%9d × %s", s[name], name); demand && s[name] == 0 {
			t.Errorf("no history has %s", name)
		}
	}
}
