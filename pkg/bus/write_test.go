package bus_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
)

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func topicOf(t testing.TB, c *bus.Client, partitions int) string {
	t.Helper()
	name := kafkatest.Prefix(t) + ".x"
	if err := c.EnsureTopics(within(t, 20*time.Second), []contract.Spec{{Name: name, Partitions: partitions}}); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestSmoke(t *testing.T) {
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		c := b.Client(t)
		ctx := within(t, 10*time.Second)
		topic := topicOf(t, c, 3)
		if err := c.Write(ctx, []contract.Record{{Topic: topic, Partition: 1, Key: []byte("k"), Value: []byte("v")}, {Topic: topic, Partition: 2, Key: []byte("k"), Value: []byte("v")}}); err != nil {
			t.Fatal(err)
		}
		err := c.Write(ctx, []contract.Record{{Topic: topic, Partition: 1}, {Topic: topic, Partition: 9, Key: []byte("k"), Value: []byte("v")}})
		t.Log(err)
		p := c.NewProducer(bus.ProducerConfig{})
		pctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		wg.Go(func() { p.Run(pctx) })
		var pw sync.WaitGroup
		for i := range 500 {
			pw.Go(func() {
				if err := p.Produce(ctx, contract.Record{Topic: topic, Partition: i % 3, Value: fmt.Append(nil, i)}); err != nil {
					t.Error(err)
				}
			})
		}
		pw.Wait()
		cancel()
		wg.Wait()
		s, e, err := c.Offsets(ctx, topic)
		t.Log(s, e, err)
		t.Log(c.PlanTopics(ctx, []contract.Spec{{Name: topic, Partitions: 4, Configs: map[string]string{"retention.ms": "77"}}, {Name: topic + "y"}}))
		t.Log(c.Ping(ctx))
	})
}
