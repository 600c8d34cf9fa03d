package notifier

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/contract"
)

const (
	// Enough for 4,000 pushes a second at 50 ms each; a waiting call costs some KiB.
	defaultInFlight = 256
	// So many claimed deliveries a worker: enough to keep it busy between two claims, few
	// enough that the last is called well before its lease ends, and while the look at its cuts
	// is still fresh when a call takes the usual 50 ms.
	heldPerWorker = 2
)

// Bus is what the notifier needs of Kafka; *bus.Client is one.
type Bus interface {
	RunGroup(ctx context.Context, cfg bus.GroupConfig, handle func(context.Context, bus.Generation) error) error
	OpenPartition(topic string, partition int, offset int64) *bus.PartitionReader
	// Write returns when all records are on their topics.
	Write(ctx context.Context, recs []contract.Record) error
}

// Config is what a Notifier needs. Zero values mean the defaults.
type Config struct {
	Bus        Bus             // required
	Group      bus.GroupConfig // ID "<prefix>-notifier", Topic the events topic; required
	DeadLetter string          // the topic; required
	Outcomes   string          // the pushes topic, which is told how each delivery ended; required
	Partitions int             // of it; required
	Pool       *pgxpool.Pool   // required
	Provider   Provider        // required
	Log        *slog.Logger    // required
	Registerer prometheus.Registerer
	Clock      func() time.Time // default time.Now

	// Grace is how long a push waits for a visible socket to acknowledge the event first;
	// default 1.5 s, negative none.
	Grace    time.Duration
	MaxBatch int // records in one transaction; default 500

	InFlight       int           // calls at once; default 256
	CallTimeout    time.Duration // of one call; default 10 s
	StoreTimeout   time.Duration // of one transaction; default 5 s
	Lease          time.Duration // of a claim; default enough for all that a process holds
	PollInterval   time.Duration // longest time without looking for due deliveries; default 5 s
	BreakerTimeout time.Duration // how long the breaker stays open; default 10 s
	DrainTimeout   time.Duration // for calls in hand at the stop; default 10 s
	// Probes is how many calls a half-open breaker lets through: so many successes in a row
	// close it, one failure opens it again. Default 3.
	Probes int
	// PerMinute bounds this process's calls, so that all of them stay under the project's quota;
	// default 600,000, which is what FCM gives a project; negative: no bound.
	PerMinute int

	// RetryBase and RetryCap bound the back-off; default 10 s, as FCM asks for, and 10 min.
	RetryBase, RetryCap time.Duration
	// QuotaWait is the least wait after a 429 that names none; default 1 min, as FCM asks for.
	QuotaWait time.Duration
}

func (c *Config) setDefaults() {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.Grace, 1500 * time.Millisecond},
		{&c.CallTimeout, 10 * time.Second},
		{&c.StoreTimeout, 5 * time.Second},
		{&c.PollInterval, 5 * time.Second},
		{&c.BreakerTimeout, 10 * time.Second},
		{&c.DrainTimeout, 10 * time.Second},
		{&c.RetryBase, 10 * time.Second},
		{&c.RetryCap, 10 * time.Minute},
		{&c.QuotaWait, time.Minute},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	c.Grace = max(c.Grace, 0)
	if c.Lease == 0 {
		c.Lease = (heldPerWorker+1)*c.CallTimeout + 2*c.StoreTimeout
	}
	if c.MaxBatch == 0 {
		c.MaxBatch = 500
	}
	if c.Probes == 0 {
		c.Probes = 3
	}
	if c.PerMinute == 0 {
		c.PerMinute = 600_000
	}
	if c.InFlight == 0 {
		c.InFlight = defaultInFlight
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Registerer == nil {
		c.Registerer = prometheus.NewRegistry()
	}
}

// Notifier is the notifier role.
type Notifier struct {
	consumer *consumer
	sender   *sender
}

// New returns a notifier. It registers its metrics and does nothing else until Run.
func New(cfg Config) (*Notifier, error) {
	cfg.setDefaults()
	switch {
	case cfg.DeadLetter == "":
		return nil, errors.New("notifier: DeadLetter is required")
	case cfg.Outcomes == "" || cfg.Partitions <= 0:
		return nil, errors.New("notifier: Outcomes and Partitions are required")
	case cfg.Bus == nil, cfg.Pool == nil, cfg.Provider == nil, cfg.Log == nil:
		return nil, errors.New("notifier: Bus, Pool, Provider and Log are required")
	case cfg.Group.ID == "" || cfg.Group.Topic == "":
		return nil, errors.New("notifier: Group needs ID and Topic")
	case cfg.Lease <= cfg.CallTimeout:
		return nil, errors.New("notifier: Lease must be longer than CallTimeout")
	}
	m, s := newMetrics(cfg.Registerer), store{cfg.Pool}
	snd, err := newSender(cfg, s, m)
	if err != nil {
		return nil, err
	}
	return &Notifier{
		sender: snd,
		consumer: &consumer{
			cfg: cfg, store: s, metrics: m, log: cfg.Log, clock: cfg.Clock, rules: rules(), enqueued: snd.nudge,
		},
	}, nil
}

// Run consumes and sends until ctx ends, then stops in order: consuming, claiming, calls,
// results. It returns nil after that, or the error that made it stop.
func (n *Notifier) Run(ctx context.Context) error {
	sending, stopSending := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSending()
	sent := make(chan error, 1)
	go func() { sent <- n.sender.Run(sending) }()

	err := n.consumer.Run(ctx)
	stopSending()
	return errors.Join(err, <-sent)
}
