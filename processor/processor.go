package processor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// Bus is what the processor needs of Kafka. Kafka adapts a *bus.Client to it.
type Bus interface {
	RunGroup(ctx context.Context, cfg bus.GroupConfig, handle func(context.Context, bus.Generation) error) error
	// CommitOffsets tells the group how far we are, for operators' tools: we never read it.
	CommitOffsets(ctx context.Context, gen bus.Generation, next map[int]int64) error
	// Open reads a partition from an offset on. An offset out of range is an error of Read.
	Open(topic string, partition int, offset int64) Reader
	// Offsets returns the first and the next offset of each partition.
	Offsets(ctx context.Context, topic string) (start, end []int64, err error)
	// FirstOffsetAfter returns the first offset appended later than t, or -1.
	FirstOffsetAfter(ctx context.Context, topic string, partition int, t time.Time) (int64, error)
	// Write returns when all records are on their topics; a *bus.WriteError tells which are not.
	Write(ctx context.Context, recs []contract.Record) error
}

// Reader reads one partition in order.
type Reader interface {
	Read(ctx context.Context) (contract.Record, error)
	Close()
}

// Kafka adapts a client to what the processor needs.
func Kafka(c *bus.Client) Bus { return kafka{c} }

type kafka struct{ *bus.Client }

func (k kafka) CommitOffsets(ctx context.Context, gen bus.Generation, next map[int]int64) error {
	return gen.Commit(ctx, next)
}

func (k kafka) Open(topic string, partition int, offset int64) Reader {
	return k.OpenPartition(topic, partition, offset)
}

// Point names a place in the path of a batch where a fault test can step in.
type Point string

// The failpoints, in the order in which a batch passes them.
const (
	BeforeWrite  Point = "before write"  // loaded and decided, nothing written
	AfterCommit  Point = "after commit"  // committed, nothing of it published
	BeforeRelay  Point = "before relay"  // records built, not yet written to Kafka
	AfterRelay   Point = "after relay"   // on the topics, relayed_seq not yet written
	BeforeDecide Point = "before decide" // fence and locks are held, state is loaded
)

// Config says what a Processor works with. Fields that are zero take the default named.
type Config struct {
	Bus Bus
	// Connect opens a connection that the caller owns: each worker has one of its own, and
	// a relay opens one while it reads the table.
	Connect    func(context.Context) (*pgx.Conn, error)
	Topics     contract.Topics
	Partitions int    // of the commands topic and the events topic
	GroupID    string // of the consumer group
	Owner      string // names this process in processor_partitions, for operators

	Limits partner.Limits
	// Deadline is ingest's for a command, and Skew the most by which the clocks of ingest
	// and of the broker may differ: a command that the broker appended later than
	// acceptedAt + Deadline + Skew was never answered 202 and is rejected as stale.
	Deadline time.Duration // default 2.5 s
	Skew     time.Duration // default 1 s

	Workers  int // default: the cores, at most 3
	MaxBatch int // commands in one transaction; default 256
	// EraseRows bounds what one transaction of an account's erasure takes of each table; default 500.
	EraseRows int

	StatementTimeout time.Duration // default 5 s
	LockTimeout      time.Duration // default 3 s
	IdleInTxTimeout  time.Duration // default 10 s
	TxDeadline       time.Duration // for one transaction from here; default 15 s: longer than the server's own
	DrainDeadline    time.Duration // to finish when a generation ends; default 5 s
	StallAfter       time.Duration // no progress for so long despite records ends the generation; default 30 s
	TimerPoll        time.Duration // how often due timers are looked for, and the log's end for their sake; default 1 s
	RelayIdle        time.Duration // relayed_seq is written after so long without a batch; default 200 ms
	LateWrite        time.Duration // in which a write that was given up may still arrive; default 1 min: a record that it could cover is written again then
	RelayBuffer      int           // rows held for the relay in memory, per worker; default 8192

	SessionTimeout   time.Duration // of the group; zero is the bus's default
	RebalanceTimeout time.Duration

	Log        *slog.Logger
	Registerer prometheus.Registerer
	Clock      func() time.Time
	// Hook, when set, is called at each Point; an error from it ends the generation there
	// and then, as a crash would. Nil in production.
	Hook func(ctx context.Context, at Point) error

	rules rules // of the core, unless a test sets others
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.Deadline, 2500*time.Millisecond)
	def(&c.Skew, time.Second)
	def(&c.StatementTimeout, 5*time.Second)
	def(&c.LockTimeout, 3*time.Second)
	def(&c.IdleInTxTimeout, 10*time.Second)
	def(&c.TxDeadline, 15*time.Second)
	def(&c.DrainDeadline, 5*time.Second)
	def(&c.StallAfter, 30*time.Second)
	def(&c.TimerPoll, time.Second)
	def(&c.RelayIdle, 200*time.Millisecond)
	def(&c.LateWrite, time.Minute)
	if c.Workers == 0 {
		c.Workers = min(runtime.GOMAXPROCS(0), 3)
	}
	if c.MaxBatch == 0 {
		c.MaxBatch = 256
	}
	if c.EraseRows == 0 {
		c.EraseRows = 500
	}
	if c.RelayBuffer == 0 {
		c.RelayBuffer = 8192
	}
	if c.Limits == (partner.Limits{}) {
		c.Limits = partner.DefaultLimits()
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.rules.onCommand == nil {
		c.rules.onCommand = partner.Decide
	}
	if c.rules.onTimer == nil {
		c.rules.onTimer = partner.DecideDue
	}
	if c.Hook == nil {
		c.Hook = func(context.Context, Point) error { return nil }
	}
	return c
}

// Processor applies the commands of the partitions that the consumer group gives it.
type Processor struct {
	cfg     Config
	metrics *metrics
}

// New returns a Processor. It touches nothing until Run.
func New(cfg Config) (*Processor, error) {
	cfg = cfg.withDefaults()
	switch {
	case cfg.Bus == nil || cfg.Connect == nil:
		return nil, errors.New("processor: Bus and Connect must be set")
	case cfg.Partitions < 1:
		return nil, fmt.Errorf("processor: %d partitions", cfg.Partitions)
	case cfg.GroupID == "":
		return nil, errors.New("processor: GroupID must be set")
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("processor: register metrics: %w", err)
	}
	return &Processor{cfg: cfg, metrics: m}, nil
}

// fatalError is one that joining the group again cannot mend.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }
func (e *fatalError) Unwrap() error { return e.err }

func fatalf(format string, args ...any) error {
	return &fatalError{fmt.Errorf(format, args...)}
}

// Run works until ctx ends, through any number of generations, and then returns nil. It
// returns an error when only an operator can help: the topic was recreated, or has lost
// records that were not yet applied, or has another partition count than configured.
func (p *Processor) Run(ctx context.Context) error {
	cfg := bus.GroupConfig{
		ID: p.cfg.GroupID, Topic: p.cfg.Topics.Commands,
		SessionTimeout: p.cfg.SessionTimeout, RebalanceTimeout: p.cfg.RebalanceTimeout,
	}
	err := p.cfg.Bus.RunGroup(ctx, cfg, func(ctx context.Context, gen bus.Generation) error {
		err := p.generation(ctx, gen)
		if _, fatal := errors.AsType[*fatalError](err); fatal {
			return err
		}
		if err != nil && ctx.Err() == nil {
			p.metrics.retries.WithLabelValues("generation").Inc()
			p.cfg.Log.Error("processor generation failed, joining again", slog.Int("generation", int(gen.ID)), slog.Any("error", err))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("processor: %w", err)
	}
	return nil
}
