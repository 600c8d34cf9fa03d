package bus

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/contract"
)

// ControlTail follows the control topic for a process, from its end, without a group: every
// instance reads every record. It is a hint that saves time, never a proof: the subscribers
// look into the database as well, at leisure. So nothing that befalls the topic ends a
// process: a record that cannot be read is passed over, one that is lost is lost, and a topic
// that is not there yet, or not for this client, is asked for again. Run owns the following;
// Subscribe may be called before and during it.
type ControlTail struct {
	subscribers[contract.SessionRevoked]

	client     *Client
	cfg        TailConfig
	ready      chan struct{}
	unreadable prometheus.Counter
}

// NewControlTail returns a tail of a control topic.
func NewControlTail(client *Client, topic string, reg prometheus.Registerer) *ControlTail {
	t := &ControlTail{
		client: client, ready: make(chan struct{}),
		unreadable: register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bondmate_kafka_control_unreadable_total", Help: "Records of the control topic that a tail could not decode and passed over.",
		})),
	}
	var once sync.Once
	t.cfg = TailConfig{
		Name: "control", Topic: topic, Registerer: reg,
		OnReady: func() { once.Do(func() { close(t.ready) }) },
	}
	return t
}

// Ready is closed when every record that is appended from then on will be handed out, as far
// as the topic has them.
func (t *ControlTail) Ready() <-chan struct{} { return t.ready }

// Run follows the topic until ctx ends and returns nil then. It is called once.
func (t *ControlTail) Run(ctx context.Context) error {
	b := backoff{low: 100 * time.Millisecond, high: 30 * time.Second}
	for {
		began := time.Now()
		err := t.client.Tail(ctx, t.cfg, t.read)
		if ctx.Err() != nil {
			return nil
		}
		t.client.log.Warn("the ends of sessions are not heard of, only looked for", slog.String("topic", t.cfg.Topic), slog.Any("error", err))
		if time.Since(began) > time.Minute {
			b.reset()
		}
		if !b.wait(ctx) {
			return nil
		}
	}
}

func (t *ControlTail) read(rec contract.Record) {
	r, err := contract.DecodeSessionRevoked(rec)
	if err != nil {
		t.unreadable.Inc()
		t.client.log.Warn("control record passed over", slog.String("topic", rec.Topic), slog.Int("partition", rec.Partition),
			slog.Int64("offset", rec.Offset), slog.Any("error", err))
		return
	}
	t.hand(r)
}
