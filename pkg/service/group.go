// Package service runs the long-lived parts of a process and stops them in order.
//
// Every part is a blocking Run function. A Group starts them in the order of their
// addition and owns their goroutines; when its context ends, or the first of them does,
// it stops them phase by phase, so that nothing is cut off from what it needs to finish:
//
//	unready, a delay for load balancers to notice   readiness says no
//	Intake     no new requests; the ones in hand are answered
//	Work       no new records; the transaction in hand is finished and published
//	Delivery   sockets are closed in batches, buffers flushed
//	Support    what the others stood on
//
// A phase that takes longer than its share is left behind and the next one begins: the
// whole never takes longer than the stop deadline. What was not finished is safe by
// design, for every part must survive kill -9.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Phase orders the stop: lower ones stop first.
type Phase int

// The phases.
const (
	Intake Phase = iota
	Work
	Delivery
	Support
	phases
)

// Member is one long-lived part.
type Member struct {
	Name  string
	Phase Phase
	// Run blocks until ctx ends, then finishes what it has in hand and returns nil or the
	// context's error. Returning while ctx lives, even with nil, stops the group.
	Run func(ctx context.Context) error
}

// GroupConfig says how a group stops.
type GroupConfig struct {
	Log        *slog.Logger
	Registerer prometheus.Registerer
	// Unready is called first, when stopping begins. May be nil.
	Unready func()
	// Delay is how long everything goes on after Unready.
	Delay time.Duration
	// StopWithin bounds the stop of all phases, Delay included. Default 30 s.
	StopWithin time.Duration
}

// defaultStopWithin leaves a second of the 30 that Kubernetes grants before it kills.
const defaultStopWithin = 29 * time.Second

// Group runs members. Add them, then call Run once.
type Group struct {
	cfg     GroupConfig
	panics  *prometheus.CounterVec
	members []Member
}

// NewGroup returns an empty group.
func NewGroup(cfg GroupConfig) *Group {
	if cfg.StopWithin <= 0 {
		cfg.StopWithin = defaultStopWithin
	}
	g := &Group{cfg: cfg, panics: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bondmate_panics_total",
		Help: "Panics of long-lived parts; each ends the process.",
	}, []string{"part"})}
	cfg.Registerer.MustRegister(g.panics)
	return g
}

// Add appends a member. It must not be called once Run runs.
func (g *Group) Add(m Member) {
	g.panics.WithLabelValues(m.Name) // shown as 0 until it happens
	g.members = append(g.members, m)
}

// PanicError is the panic of a member.
type PanicError struct {
	Part  string
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("%s panicked: %v", e.Part, e.Value) }

// StopError names the members that did not stop in time.
type StopError struct{ Parts []string }

func (e *StopError) Error() string {
	return "not stopped in time: " + strings.Join(e.Parts, ", ")
}

// errEnded says that a member returned without being asked to.
var errEnded = errors.New("ended by itself")

// Run starts all members and blocks until they have stopped. It returns nil when ctx
// ended and every member stopped in time without an error; else what went wrong first,
// joined with what went wrong while stopping.
func (g *Group) Run(ctx context.Context) error {
	run := &running{group: g, failed: make(chan error, 1), alive: map[string]int{}}
	for phase := range phases {
		run.phase[phase] = newPhase(ctx)
	}
	for _, m := range g.members {
		run.start(m)
	}
	var cause error
	select {
	case <-ctx.Done():
	case cause = <-run.failed:
		g.cfg.Log.ErrorContext(ctx, "stopping after a failure", "error", cause)
	}
	return errors.Join(cause, run.stop(ctx))
}

// running is a group while it runs.
type running struct {
	group  *Group
	phase  [phases]phase
	failed chan error // the first failure; later ones are logged

	mu    sync.Mutex
	alive map[string]int
	late  []error // failures while stopping
}

type phase struct {
	ctx    context.Context // of its members
	cancel context.CancelFunc
	wait   *sync.WaitGroup
}

// newPhase gives a phase a context that outlives the group's: it ends when its turn comes.
func newPhase(ctx context.Context) phase {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	return phase{ctx, cancel, new(sync.WaitGroup)}
}

func (r *running) start(m Member) {
	p := r.phase[m.Phase]
	r.mu.Lock()
	r.alive[m.Name]++
	r.mu.Unlock()
	p.wait.Go(func() {
		err := r.call(p.ctx, m)
		stopping := p.ctx.Err() != nil
		if stopping && (err == nil || errors.Is(err, context.Canceled)) {
			err = nil
		} else if err == nil {
			err = errEnded
		}
		r.ended(m.Name, err, stopping)
	})
}

// call turns a panic into an error, after saying where it was.
func (r *running) call(ctx context.Context, m Member) (err error) {
	defer func() {
		if value := recover(); value != nil {
			r.group.panics.WithLabelValues(m.Name).Inc()
			stack := debug.Stack()
			r.group.cfg.Log.ErrorContext(ctx, "panic", "part", m.Name, "value", fmt.Sprint(value), "stack", string(stack))
			err = &PanicError{m.Name, value, stack}
		}
	}()
	return m.Run(ctx)
}

func (r *running) ended(name string, err error, stopping bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.alive[name]--; r.alive[name] == 0 {
		delete(r.alive, name)
	}
	if err == nil {
		return
	}
	err = fmt.Errorf("%s: %w", name, err)
	if stopping {
		r.late = append(r.late, err)
		return
	}
	select {
	case r.failed <- err:
	default:
		r.late = append(r.late, err)
	}
}

// stop ends the phases in order. Each may take what is left, less a second for each
// that follows.
func (r *running) stop(ctx context.Context) error {
	cfg := r.group.cfg
	end := time.Now().Add(cfg.StopWithin)
	cfg.Log.InfoContext(ctx, "stopping")
	if cfg.Unready != nil {
		cfg.Unready()
	}
	if cfg.Delay > 0 {
		// Only a failure cuts it short; ctx has ended already.
		select {
		case <-time.After(min(cfg.Delay, cfg.StopWithin/2)):
		case err := <-r.failed:
			r.mu.Lock()
			r.late = append(r.late, err)
			r.mu.Unlock()
		}
	}
	var stuck []string
	for i, p := range r.phase {
		p.cancel()
		reserve := min(time.Second, cfg.StopWithin/10) * time.Duration(len(r.phase)-1-i)
		if !waitUntil(p.wait, end.Add(-reserve)) {
			stuck = append(stuck, r.inPhase(Phase(i))...)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	errs := slices.Clone(r.late)
	if len(stuck) > 0 {
		errs = append(errs, &StopError{stuck})
	}
	return errors.Join(errs...)
}

// inPhase lists the members of a phase that still run.
func (r *running) inPhase(phase Phase) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for _, m := range r.group.members {
		if m.Phase == phase && r.alive[m.Name] > 0 {
			names = append(names, m.Name)
		}
	}
	return names
}

// waitUntil reports whether all have returned by then. Its goroutine outlives it only when
// they have not, and then the process is about to end.
func waitUntil(wait *sync.WaitGroup, deadline time.Time) bool {
	done := make(chan struct{})
	go func() {
		wait.Wait()
		close(done)
	}()
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
