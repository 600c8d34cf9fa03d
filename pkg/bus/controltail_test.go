package bus_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
)

func endOf(t *testing.T, topic string) (contract.SessionRevoked, contract.Record) {
	t.Helper()
	r := contract.SessionRevoked{UserID: uuid.New(), SessionID: uuid.New(), Reason: contract.RevokedByLogout, Time: contract.Instant(time.Now())}
	rec, err := contract.EncodeSessionRevoked(topic, 2, r)
	if err != nil {
		t.Fatal(err)
	}
	return r, rec
}

func TestControlTail(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		c := b.Client(t)
		topic := kafkatest.Prefix(t) + ".control.v1"
		reg := prometheus.NewRegistry()
		tail := bus.NewControlTail(c, topic, reg)
		got := make(chan contract.SessionRevoked, 100)
		tail.Subscribe(func(r contract.SessionRevoked) { got <- r })
		// It runs before the topic is there: a rolling upgrade may begin with the readers.
		running(t, tail.Run)
		if err := c.EnsureTopics(within(t, 30*time.Second), specOf(topic, 2)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-tail.Ready():
		case <-time.After(20 * time.Second):
			t.Fatal("not ready")
		}
		first, one := endOf(t, topic)
		second, two := endOf(t, topic)
		newer := two
		newer.Value = []byte(`{"type":"session.renamed"}`)
		two.Partition = one.Partition // so that their order is known
		newer.Partition = one.Partition
		write(t, c, one, record(topic, one.Partition, "not a control record"), newer, two)
		for _, want := range []contract.SessionRevoked{first, second} {
			select {
			case r := <-got:
				if r != want {
					t.Errorf("record %+v, want %+v", r, want)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("a record did not come")
			}
		}
		if n := testutil.ToFloat64(unreadable(t, reg)); n != 2 {
			t.Errorf("%v records counted as unreadable, want 2", n)
		}
	})
}

// unreadable is the tail's own counter: registering it again returns the one there is.
func unreadable(t *testing.T, reg *prometheus.Registry) prometheus.Collector {
	t.Helper()
	err := reg.Register(prometheus.NewCounter(prometheus.CounterOpts{
		Name: "bondmate_kafka_control_unreadable_total", Help: "Records of the control topic that a tail could not decode and passed over.",
	}))
	are, ok := err.(prometheus.AlreadyRegisteredError) //nolint:errorlint // returned as it is
	if !ok {
		t.Fatalf("the counter is not registered: %v", err)
	}
	return are.ExistingCollector
}

// A topic that was deleted and made again loses records to its readers. The tail of the
// events ends the process then; this one follows the new topic.
func TestControlTailOutlivesItsTopic(t *testing.T) {
	t.Parallel()
	b := kafkatest.Embedded(t)
	c := b.Client(t)
	topic := newTopic(t, c, 2)
	tail := bus.NewControlTail(c, topic, nil)
	got := make(chan contract.SessionRevoked, 100)
	tail.Subscribe(func(r contract.SessionRevoked) { got <- r })
	running(t, tail.Run)
	<-tail.Ready()
	_, before := endOf(t, topic)
	write(t, c, before)
	<-got
	deleteTopic(t, b, topic)
	eventually(t, "the topic is made again", func() bool { // metadata says for a moment that it is still there
		return c.EnsureTopics(within(t, 30*time.Second), specOf(topic, 2)) == nil
	})
	eventually(t, "a record of the new topic comes", func() bool {
		_, after := endOf(t, topic)
		write(t, c, after)
		select {
		case <-got:
			return true
		default:
			return false
		}
	})
}
