package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"
)

// Check reports what keeps a part from serving, or nil. It must be quick: it runs at each
// look at readiness, bounded by checkTimeout.
type Check func(ctx context.Context) error

const checkTimeout = 2 * time.Second

// Readiness knows whether the process should receive traffic. Its methods may be called
// at any time from anywhere.
type Readiness struct {
	mu       sync.Mutex
	checks   map[string]Check
	stopping bool
}

// errStopping is the answer of every check once stopping began.
var errStopping = errors.New("stopping")

// Add registers a part under a name of its own.
func (r *Readiness) Add(name string, check Check) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.checks == nil {
		r.checks = map[string]Check{}
	}
	r.checks[name] = check
}

// Stop makes the process unready for good.
func (r *Readiness) Stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopping = true
}

// Status runs all checks at once and returns each part's error; nil means ready.
func (r *Readiness) Status(ctx context.Context) map[string]error {
	r.mu.Lock()
	checks, stopping := maps.Clone(r.checks), r.stopping
	r.mu.Unlock()
	status := make(map[string]error, len(checks)+1)
	if stopping {
		status["process"] = errStopping
		return status
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	var mu sync.Mutex
	var wait sync.WaitGroup
	for name, check := range checks {
		wait.Go(func() {
			err := check(ctx)
			mu.Lock()
			defer mu.Unlock()
			status[name] = err
		})
	}
	wait.Wait()
	return status
}

// Ready returns nil when every part is ready, else what is missing.
func (r *Readiness) Ready(ctx context.Context) error {
	var faults []error
	for name, err := range r.Status(ctx) {
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(faults...)
}

// Await blocks until every part is ready, or returns what was missing when ctx ended.
func (r *Readiness) Await(ctx context.Context) error {
	for {
		err := r.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Closed is a Check that passes once the channel is closed.
func Closed(ready <-chan struct{}) Check {
	return func(context.Context) error {
		select {
		case <-ready:
			return nil
		default:
			return errNotYet
		}
	}
}

var errNotYet = errors.New("not ready yet")
