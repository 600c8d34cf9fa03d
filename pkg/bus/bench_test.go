package bus_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
)

// BenchmarkHop measures the way of one record from Produce to a tail's handler, one at a
// time, over 12 partitions: what a hop of the pipe costs without load. Apache Kafka takes
// part when TEST_KAFKA_BROKERS names one:
//
//	.ci/with-kafka go test ./pkg/bus -run '^$' -bench Hop
func BenchmarkHop(b *testing.B) {
	onBoth(b, func(b *testing.B, broker *kafkatest.Broker) {
		c := broker.Client(b)
		topic := newTopic(b, c, 12)
		p := c.NewProducer(bus.ProducerConfig{InFlight: 2})
		arrived := startBench(b, c, p, topic, 1)
		value := make([]byte, 600)
		var hops, acks []time.Duration
		i := 0
		for b.Loop() {
			begin := time.Now()
			if err := p.Produce(context.Background(), contract.Record{Topic: topic, Partition: i % 12, Key: []byte("key"), Value: value}); err != nil {
				b.Fatal(err)
			}
			acks = append(acks, time.Since(begin))
			hops = append(hops, (<-arrived).Sub(begin))
			i++
		}
		report(b, "ack", acks)
		report(b, "hop", hops)
	})
}

// BenchmarkProduce measures how many records a second many waiting callers get through.
func BenchmarkProduce(b *testing.B) {
	for _, callers := range []int{16, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			onBoth(b, func(b *testing.B, broker *kafkatest.Broker) {
				c := broker.Client(b)
				topic := newTopic(b, c, 12)
				p := c.NewProducer(bus.ProducerConfig{InFlight: 2})
				arrived := startBench(b, c, p, topic, 1<<16)
				go func() {
					for range arrived { //nolint:revive // drained only
					}
				}()
				value := make([]byte, 600)
				jobs := make(chan int)
				var wg sync.WaitGroup
				for range callers {
					wg.Go(func() {
						for i := range jobs {
							if err := p.Produce(context.Background(), contract.Record{Topic: topic, Partition: i % 12, Key: []byte("key"), Value: value}); err != nil {
								b.Error(err)
							}
						}
					})
				}
				i := 0
				for b.Loop() {
					jobs <- i
					i++
				}
				close(jobs)
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			})
		})
	}
}

func onBoth(b *testing.B, bench func(b *testing.B, broker *kafkatest.Broker)) {
	b.Helper()
	b.Run("embedded", func(b *testing.B) { bench(b, kafkatest.Embedded(b)) })
	b.Run("apache", func(b *testing.B) { bench(b, kafkatest.Apache(b)) })
}

// startBench runs the producer and a tail that reports when each record arrived.
func startBench(b *testing.B, c *bus.Client, p *bus.Producer, topic string, buffer int) chan time.Time {
	b.Helper()
	running(b, p.Run)
	arrived := make(chan time.Time, buffer)
	ready := make(chan struct{})
	running(b, func(ctx context.Context) error {
		_ = c.Tail(ctx, bus.TailConfig{Topic: topic, OnReady: func() { close(ready) }}, func(contract.Record) {
			select {
			case arrived <- time.Now():
			case <-ctx.Done():
			}
		})
		return nil
	})
	<-ready
	return arrived
}

func report(b *testing.B, name string, d []time.Duration) {
	b.Helper()
	slices.Sort(d)
	b.ReportMetric(float64(d[len(d)/2].Microseconds()), name+"-p50-µs")
	b.ReportMetric(float64(d[len(d)*99/100].Microseconds()), name+"-p99-µs")
}
