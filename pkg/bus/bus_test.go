package bus_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
)

// The tests named Test… with kafkatest.Both are the conformance suite: the embedded
// broker and Apache Kafka must look the same through this package.

// within returns a context for the whole of a test or a part of it.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// newTopic creates a topic for one test.
func newTopic(t testing.TB, c *bus.Client, partitions int, configs ...string) string {
	t.Helper()
	spec := contract.Spec{Name: kafkatest.Prefix(t) + ".topic", Partitions: partitions, Configs: map[string]string{}}
	for i := 0; i < len(configs); i += 2 {
		spec.Configs[configs[i]] = configs[i+1]
	}
	if err := c.EnsureTopics(within(t, 30*time.Second), []contract.Spec{spec}); err != nil {
		t.Fatalf("create topic: %v", err)
	}
	return spec.Name
}

func record(topic string, partition int, value string) contract.Record {
	return contract.Record{Topic: topic, Partition: partition, Key: []byte("key"), Value: []byte(value)}
}

func records(topic string, partition int, values ...string) []contract.Record {
	out := make([]contract.Record, len(values))
	for i, v := range values {
		out[i] = record(topic, partition, v)
	}
	return out
}

func write(t testing.TB, c *bus.Client, recs ...contract.Record) {
	t.Helper()
	if err := c.Write(within(t, 20*time.Second), recs); err != nil {
		t.Fatalf("write: %v", err)
	}
}

// readAll returns the values of a partition from its start to its end.
func readAll(t testing.TB, c *bus.Client, topic string, partition int) []string {
	t.Helper()
	ctx := within(t, 20*time.Second)
	start, end, err := c.Offsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	r := c.OpenPartition(topic, partition, start[partition])
	defer r.Close()
	var values []string
	for r.Position() < end[partition] {
		rec, err := r.Read(ctx)
		if err != nil {
			t.Fatalf("read at %d: %v", r.Position(), err)
		}
		values = append(values, string(rec.Value))
	}
	return values
}

// firsts returns the values without repeats, in the order of their first appearance.
func firsts(values []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, v := range values {
		if !seen[v] {
			seen[v] = true
			out = append(out, v)
		}
	}
	return out
}

// eventually polls until the condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// raw sends a request that this package has no call for.
func raw(t testing.TB, b *kafkatest.Broker, req kmsg.Request) kmsg.Response {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Brokers()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	res, err := cl.Request(within(t, 20*time.Second), req)
	if err != nil {
		t.Fatalf("request %T: %v", req, err)
	}
	return res
}

func deleteTopic(t testing.TB, b *kafkatest.Broker, topic string) {
	t.Helper()
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TimeoutMillis = 10_000
	one := kmsg.NewDeleteTopicsRequestTopic()
	one.Topic = &topic
	req.Topics, req.TopicNames = append(req.Topics, one), []string{topic}
	for _, r := range raw(t, b, req).(*kmsg.DeleteTopicsResponse).Topics {
		if r.ErrorCode != 0 {
			t.Fatalf("delete %s: error %d", topic, r.ErrorCode)
		}
	}
}

// deleteRecords moves a partition's start to an offset, as retention does.
func deleteRecords(t testing.TB, b *kafkatest.Broker, topic string, offset int64) {
	t.Helper()
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.TimeoutMillis = 10_000
	one := kmsg.NewDeleteRecordsRequestTopic()
	one.Topic = topic
	part := kmsg.NewDeleteRecordsRequestTopicPartition()
	part.Offset = offset
	one.Partitions = append(one.Partitions, part)
	req.Topics = append(req.Topics, one)
	for _, r := range raw(t, b, req).(*kmsg.DeleteRecordsResponse).Topics {
		for _, p := range r.Partitions {
			if p.ErrorCode != 0 {
				t.Fatalf("delete records of %s: error %d", topic, p.ErrorCode)
			}
		}
	}
}

// running runs fn until the test ends or stop is called, which waits for it.
func running(t testing.TB, fn func(ctx context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	stopped := false
	stop = func() {
		t.Helper()
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("run: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("does not stop within 20 s")
		}
	}
	t.Cleanup(stop)
	return stop
}

func numbers(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s%04d", prefix, i)
	}
	return out
}
