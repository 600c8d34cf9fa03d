// Package revocation tells the control topic which sessions have ended, so that every
// gateway closes their sockets at once and every instance of ingest refuses them.
//
// It is best effort. Whoever ends sessions says so after the commit and does not wait: the
// records are written by Run's workers, each within a deadline, from a queue with a bound. A
// record that cannot be written, or finds the queue full, is counted and given up, since
// nothing rests on it: the gateways look for ended sessions in the database every half
// second, and ingest remembers a live one for a second. So no logout fails or is slower for
// Kafka's sake.
package revocation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/contract"
)

const (
	queueSize = 1024
	workers   = 4
	// writeWithin bounds the writing of one record. Later the database has been looked at
	// anyway.
	writeWithin = 2 * time.Second
	// drainWithin is how long a stopping process goes on writing what waits.
	drainWithin = 2 * time.Second
)

// Publisher writes a record and returns once it is acknowledged.
type Publisher interface {
	Produce(ctx context.Context, rec contract.Record) error
}

// Config configures Notices. All but Registerer is required.
type Config struct {
	Publisher  Publisher
	Topic      string // the control topic
	Partitions int    // of it
	Clock      func() time.Time
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: nothing is counted
}

// Notices writes of sessions that have ended. It is safe for concurrent use.
type Notices struct {
	cfg     Config
	queue   chan contract.SessionRevoked
	records *prometheus.CounterVec // by outcome
	failing atomic.Bool
}

// New returns Notices; they are written while Run runs.
func New(cfg Config) (*Notices, error) {
	if cfg.Publisher == nil || cfg.Topic == "" || cfg.Partitions <= 0 || cfg.Clock == nil || cfg.Log == nil {
		return nil, errors.New("revocation: publisher, topic, partitions, clock and log are required")
	}
	n := &Notices{cfg: cfg, queue: make(chan contract.SessionRevoked, queueSize)}
	n.records = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bondmate_ingest_revocations_total", Help: "Sessions that ended, by whether the control topic was told of it: written, failed, dropped (too many were waiting).",
	}, []string{"outcome"})
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(n.records); err != nil {
			return nil, fmt.Errorf("revocation: %w", err)
		}
	}
	return n, nil
}

// Ended queues what there is to say of a user's sessions whose end is committed. It never
// waits.
func (n *Notices) Ended(user uuid.UUID, reason string, sessions []uuid.UUID) {
	now := n.cfg.Clock()
	for _, id := range sessions {
		select {
		case n.queue <- contract.SessionRevoked{UserID: user, SessionID: id, Reason: reason, Time: now}:
		default:
			n.records.WithLabelValues("dropped").Inc()
		}
	}
}

// Run writes what is queued until ctx ends, then what still waits, for 2 s at most. It owns
// the goroutines that write.
func (n *Notices) Run(ctx context.Context) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for {
				select {
				case r := <-n.queue:
					n.write(work, r)
				case <-ctx.Done():
					n.drain(work)
					return
				}
			}
		})
	}
	<-ctx.Done()
	late := time.AfterFunc(drainWithin, stop)
	defer late.Stop()
	all.Wait()
	return ctx.Err()
}

func (n *Notices) drain(work context.Context) {
	for {
		select {
		case r := <-n.queue:
			n.write(work, r)
		default:
			return
		}
	}
}

func (n *Notices) write(ctx context.Context, r contract.SessionRevoked) {
	err := n.produce(ctx, r)
	if err == nil {
		n.failing.Store(false)
		n.records.WithLabelValues("written").Inc()
		return
	}
	n.records.WithLabelValues("failed").Inc()
	if !n.failing.Swap(true) {
		n.cfg.Log.WarnContext(ctx, "the end of a session is not told of; sockets close when the database is next looked at", "session", r.SessionID, "error", err)
	}
}

func (n *Notices) produce(ctx context.Context, r contract.SessionRevoked) error {
	rec, err := contract.EncodeSessionRevoked(n.cfg.Topic, n.cfg.Partitions, r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, writeWithin)
	defer cancel()
	return n.cfg.Publisher.Produce(ctx, rec)
}
