package bus

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/contract"
)

// EventTail follows the events topic for a process: it decodes each event once, drops
// repeats and hands it to the subscribers, in order within each partition. Run owns the
// following; Subscribe may be called before and during it.
type EventTail struct {
	subscribers[contract.Event]

	client     *Client
	cfg        TailConfig
	ready      chan struct{}
	repeats    prometheus.Counter
	unreadable prometheus.Counter
	marks      map[int]*highWater // by partition; Run's handler alone uses it
}

// NewEventTail returns a tail of an events topic with the given number of partitions.
func NewEventTail(client *Client, topic string, partitions int, reg prometheus.Registerer) *EventTail {
	t := &EventTail{
		client: client,
		ready:  make(chan struct{}),
		marks:  map[int]*highWater{},
		repeats: register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bondmate_kafka_event_repeats_total", Help: "Event records dropped because the same event was read before.",
		})),
		unreadable: register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bondmate_kafka_event_unreadable_total", Help: "Event records that a tail could not decode and passed over.",
		})),
	}
	var once sync.Once
	t.cfg = TailConfig{
		Name: "events", Topic: topic, Partitions: partitions, Registerer: reg,
		OnReady: func() { once.Do(func() { close(t.ready) }) },
	}
	return t
}

// Run follows the topic until ctx ends and returns nil then. It fails when records were
// lost to it; see Tail. It is called once.
func (t *EventTail) Run(ctx context.Context) error {
	err := t.client.Tail(ctx, t.cfg, t.read)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Ready is closed when every event that is appended from then on will be handed out.
func (t *EventTail) Ready() <-chan struct{} { return t.ready }

func (t *EventTail) read(rec contract.Record) {
	ev, err := contract.DecodeEvent(rec)
	if err != nil {
		// A newer program's event or damage: its recipients find it in their inboxes.
		t.unreadable.Inc()
		t.client.log.Warn("event record passed over", slog.String("topic", rec.Topic), slog.Int("partition", rec.Partition),
			slog.Int64("offset", rec.Offset), slog.Any("error", err))
		return
	}
	mark := t.marks[rec.Partition]
	if mark == nil {
		mark = &highWater{}
		t.marks[rec.Partition] = mark
	}
	if !mark.pass(ev.Epoch, ev.Seq) {
		t.repeats.Inc()
		return
	}
	t.hand(ev)
}

// highWater is the highest sequence seen of a partition in each of its last few epochs. A
// relay repeats from where it left off and never leaves anything out, so whatever is not
// above the mark was seen before.
type highWater struct{ epochs []epochMark }

type epochMark struct {
	epoch string
	seq   int64
}

// epochsKept bounds what is remembered: a relay of an older epoch can only repeat until
// it hears that it lost its partition.
const epochsKept = 4

func (h *highWater) pass(epoch string, seq int64) bool {
	for i := range h.epochs {
		if h.epochs[i].epoch == epoch {
			if seq <= h.epochs[i].seq {
				return false
			}
			h.epochs[i].seq = seq
			return true
		}
	}
	h.epochs = append(h.epochs, epochMark{epoch, seq})
	if len(h.epochs) > epochsKept {
		h.epochs = slices.Delete(h.epochs, 0, 1)
	}
	return true
}
