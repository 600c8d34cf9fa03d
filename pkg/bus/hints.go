package bus

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/contract"
)

// ControlTail follows the control topic for a process, from its end: who has been signed out.
// Whoever misses a record finds it in the database.
type ControlTail struct{ hints[contract.SessionRevoked] }

// NewControlTail returns a tail of a control topic.
func NewControlTail(client *Client, topic string, reg prometheus.Registerer) *ControlTail {
	return &ControlTail{hints[contract.SessionRevoked]{
		client: client, decode: contract.DecodeSessionRevoked, without: "the ends of sessions are not heard of, only looked for",
		cfg: TailConfig{Name: "control", Topic: topic, Registerer: reg}, ready: make(chan struct{}),
		unreadable: register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bondmate_kafka_control_unreadable_total", Help: "Records of the control topic that a tail could not decode and passed over.",
		})),
	}}
}

// PresenceSince is how far back a tail of the presence topic begins: what is online is said
// again more often than that.
const PresenceSince = 30 * time.Second

// PresenceTail follows the presence topic for a process, from PresenceSince before its end:
// who is online at which instance. What is missed is said again.
type PresenceTail struct{ hints[contract.Presence] }

// NewPresenceTail returns a tail of a presence topic.
func NewPresenceTail(client *Client, topic string, reg prometheus.Registerer) *PresenceTail {
	return &PresenceTail{hints[contract.Presence]{
		client: client, decode: contract.DecodePresence, without: "who is online at other instances is not heard of",
		cfg: TailConfig{Name: "presence", Topic: topic, Since: PresenceSince, Registerer: reg}, ready: make(chan struct{}),
		unreadable: register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bondmate_kafka_presence_unreadable_total", Help: "Records of the presence topic that a tail could not decode and passed over.",
		})),
	}}
}

// hints follows a topic that saves time and proves nothing, without a group: every instance
// reads every record. So nothing that befalls the topic ends a process: a record that cannot
// be read is passed over, one that is lost is lost, and a topic that is not there yet, or not
// for this client, is asked for again. Run owns the following; Subscribe may be called before
// and during it.
type hints[T any] struct {
	subscribers[T]

	client     *Client
	cfg        TailConfig
	decode     func(contract.Record) (T, error)
	without    string // what goes wrong without the topic, for the log
	once       sync.Once
	ready      chan struct{}
	unreadable prometheus.Counter
}

// Ready is closed when every record that is appended from then on will be handed out, as far
// as the topic has them, and those before it that the tail begins with have been.
func (t *hints[T]) Ready() <-chan struct{} { return t.ready }

// Run follows the topic until ctx ends and returns nil then. It is called once.
func (t *hints[T]) Run(ctx context.Context) error {
	cfg := t.cfg
	cfg.OnReady = func() { t.once.Do(func() { close(t.ready) }) }
	b := backoff{low: 100 * time.Millisecond, high: 30 * time.Second}
	for {
		began := time.Now()
		err := t.client.Tail(ctx, cfg, t.read)
		if ctx.Err() != nil {
			return nil
		}
		t.client.log.Warn("a topic of hints is not heard", slog.String("so", t.without), slog.String("topic", cfg.Topic), slog.Any("error", err))
		if time.Since(began) > time.Minute {
			b.reset()
		}
		if !b.wait(ctx) {
			return nil
		}
	}
}

func (t *hints[T]) read(rec contract.Record) {
	v, err := t.decode(rec)
	if err != nil {
		t.unreadable.Inc()
		t.client.log.Warn("record passed over", slog.String("topic", rec.Topic), slog.Int("partition", rec.Partition),
			slog.Int64("offset", rec.Offset), slog.Any("error", err))
		return
	}
	t.hand(v)
}
