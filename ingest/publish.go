package ingest

import (
	"context"
	"errors"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/fault"
)

const (
	// breakerFailures in a row open the breaker: a dead cluster fails all partitions, one
	// dead leader only some.
	breakerFailures = 5
	// breakerPause is how long an open breaker waits before it lets one command try.
	breakerPause = time.Second
)

// guardedPublisher stands in front of the publisher with a breaker, so that with Kafka
// away a command is refused at once and not held until its deadline.
type guardedPublisher struct {
	publisher Publisher
	line      line // calls whose record is not acknowledged yet
	breaker   *gobreaker.CircuitBreaker[struct{}]
}

func newGuardedPublisher(p Publisher, m *metrics) *guardedPublisher {
	return &guardedPublisher{publisher: p, breaker: gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:    "publisher",
		Timeout: breakerPause,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return c.ConsecutiveFailures >= breakerFailures
		},
		// Says nothing about the cluster: our own buffer is full, or the broker refused this
		// one record for what is in it.
		IsExcluded: func(err error) bool {
			return err != nil && (errors.Is(err, bus.ErrBufferFull) || !bus.Retriable(err))
		},
		OnStateChange: func(_ string, _, to gobreaker.State) {
			m.breaker.Set(float64(to))
		},
	})}
}

// publish returns when the record is acknowledged. After an error it may or may not have
// been written: the caller is told to repeat with the same key.
func (p *guardedPublisher) publish(ctx context.Context, rec contract.Record) error {
	_, err := p.breaker.Execute(func() (struct{}, error) {
		defer p.line.join()()
		return struct{}{}, p.publisher.Produce(ctx, rec)
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, bus.ErrBufferFull):
		return unavailable(err, "overloaded", "Too much is going on; try again.")
	default:
		return unavailable(err, "queue_unavailable", "The command could not be queued; try again with the same Idempotency-Key.")
	}
}

func (p *guardedPublisher) state() string { return p.breaker.State().String() }

// retryAfter is told with what is likely to be over soon.
const retryAfter = time.Second

func unavailable(cause error, code, detail string) *fault.Error {
	f := fault.Wrap(cause, fault.Unavailable, code, detail)
	f.RetryAfter = retryAfter
	return f
}
