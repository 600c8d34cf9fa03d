package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newGroup(cfg GroupConfig) *Group {
	cfg.Log = slog.New(slog.DiscardHandler)
	cfg.Registerer = prometheus.NewRegistry()
	return NewGroup(cfg)
}

// journal notes who stopped when.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) note(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) read() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lines)
}

func (j *journal) member(name string, phase Phase) Member {
	return Member{Name: name, Phase: phase, Run: func(ctx context.Context) error {
		<-ctx.Done()
		j.note(name)
		return ctx.Err()
	}}
}

func TestGroupStopsPhaseByPhase(t *testing.T) {
	t.Parallel()
	var j journal
	g := newGroup(GroupConfig{Unready: func() { j.note("unready") }, Delay: time.Millisecond})
	// Added in another order than the one they stop in.
	g.Add(j.member("database", Support))
	g.Add(j.member("sockets", Delivery))
	g.Add(j.member("http", Intake))
	g.Add(j.member("processor", Work))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Run(ctx); err != nil {
		t.Fatal(err)
	}
	want := []string{"unready", "http", "processor", "sockets", "database"}
	if diff := cmp.Diff(want, j.read()); diff != "" {
		t.Errorf("order of stopping (-want +got):\n%s", diff)
	}
}

func TestGroupStopsAllAfterTheFirstFailure(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for name, test := range map[string]struct {
		run   func(context.Context) error
		check func(error) bool
	}{
		"an error":              {func(context.Context) error { return boom }, func(err error) bool { return errors.Is(err, boom) }},
		"an unexpected end":     {func(context.Context) error { return nil }, func(err error) bool { return errors.Is(err, errEnded) }},
		"a cancel of its own":   {func(context.Context) error { return context.Canceled }, func(err error) bool { return errors.Is(err, context.Canceled) }},
		"a panic with a string": {func(context.Context) error { panic("at the disco") }, isPanic},
		"a panic with nil map": {func(context.Context) error {
			var m map[string]int
			fill := func(m map[string]int) { m["x"] = 1 }
			fill(m)
			return nil
		}, isPanic},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var j journal
			g := newGroup(GroupConfig{})
			g.Add(j.member("other", Intake))
			g.Add(Member{Name: "failing", Phase: Work, Run: test.run})
			err := g.Run(t.Context())
			if !test.check(err) || !strings.HasPrefix(err.Error(), "failing: ") {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff([]string{"other"}, j.read()); diff != "" {
				t.Errorf("stopped (-want +got):\n%s", diff)
			}
			wantPanics := 0.0
			if isPanic(err) {
				wantPanics = 1
			}
			if got := testutil.ToFloat64(g.panics.WithLabelValues("failing")); got != wantPanics {
				t.Errorf("panics counted: got %v, want %v", got, wantPanics)
			}
		})
	}
}

func isPanic(err error) bool {
	_, ok := errors.AsType[*PanicError](err)
	return ok
}

func TestGroupLeavesBehindWhatDoesNotStop(t *testing.T) {
	t.Parallel()
	var j journal
	release := make(chan struct{})
	g := newGroup(GroupConfig{StopWithin: 200 * time.Millisecond})
	g.Add(Member{Name: "stubborn", Phase: Work, Run: func(context.Context) error { <-release; return nil }})
	g.Add(j.member("after", Support))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	begin := time.Now()
	err := g.Run(ctx)
	stop, ok := errors.AsType[*StopError](err)
	if !ok {
		t.Fatalf("got %v, want a *StopError", err)
	}
	if diff := cmp.Diff([]string{"stubborn"}, stop.Parts); diff != "" {
		t.Errorf("left behind (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"after"}, j.read()); diff != "" {
		t.Errorf("the next phase must stop all the same (-want +got):\n%s", diff)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	close(release)
}

func TestGroupReportsErrorsWhileStopping(t *testing.T) {
	t.Parallel()
	flush := errors.New("flush")
	g := newGroup(GroupConfig{})
	g.Add(Member{Name: "buffer", Phase: Delivery, Run: func(ctx context.Context) error { <-ctx.Done(); return flush }})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Run(ctx); !errors.Is(err, flush) {
		t.Errorf("got %v, want %v", err, flush)
	}
}

// A group must come down whatever the moment at which it is stopped or fails.
func TestGroupStress(t *testing.T) {
	t.Parallel()
	for round := range 300 {
		var j journal
		g := newGroup(GroupConfig{StopWithin: 10 * time.Second})
		for i := range 12 {
			g.Add(j.member(fmt.Sprint(i), Phase(i%int(phases))))
		}
		if round%3 == 0 {
			g.Add(Member{Name: "failing", Phase: Phase(rand.IntN(int(phases))), Run: func(context.Context) error {
				return errors.New("boom")
			}})
		}
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if err := g.Run(ctx); err != nil && round%3 != 0 {
			t.Fatalf("round %d: %v", round, err)
		}
		if got := len(j.read()); got != 12 {
			t.Fatalf("round %d: %d of 12 members stopped", round, got)
		}
	}
}
