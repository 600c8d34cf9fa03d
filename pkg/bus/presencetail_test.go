package bus_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
)

// A tail of the presence topic begins with what was said last, is ready once it has handed
// that out, and leaves what is older alone.
func TestPresenceTailBeginsBeforeTheEnd(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		c := b.Client(t)
		topic := newTopic(t, c, 2)
		said := func(ago time.Duration) (contract.Presence, contract.Record) {
			p := contract.Presence{UserID: uuid.New(), Instance: uuid.New(), Online: true, Time: contract.Instant(time.Now().Add(-ago))}
			rec, err := contract.EncodePresence(topic, 2, p)
			if err != nil {
				t.Fatal(err)
			}
			rec.Partition = 0 // so that their order is known
			return p, rec
		}
		_, old := said(time.Hour)
		recent, one := said(time.Second)
		write(t, c, old, one)
		tail := bus.NewPresenceTail(c, topic, nil)
		got := make(chan contract.Presence, 10)
		tail.Subscribe(func(p contract.Presence) { got <- p })
		running(t, tail.Run)
		select {
		case <-tail.Ready():
		case <-time.After(20 * time.Second):
			t.Fatal("not ready")
		}
		var before []contract.Presence
		for len(got) > 0 {
			before = append(before, <-got)
		}
		if diff := cmp.Diff([]contract.Presence{recent}, before); diff != "" {
			t.Errorf("handed out by the time it is ready (-want +got):\n%s", diff)
		}
		next, two := said(0)
		write(t, c, two)
		select {
		case p := <-got:
			if p != next {
				t.Errorf("record %+v, want %+v", p, next)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("a record did not come")
		}
	})
}
