package kafkatest

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/bondmate/backend/pkg/contract"
)

// AllowAhead makes the broker take records of the topics with times so far ahead of its
// own clock: for tests whose clock is. Apache Kafka takes an hour otherwise; kfake does not
// mind.
func (b *Broker) AllowAhead(tb testing.TB, topics []contract.Spec, ahead time.Duration) {
	tb.Helper()
	if b.Fake() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	specs := make([]contract.Spec, len(topics))
	for i, s := range topics {
		specs[i] = contract.Spec{Name: s.Name, Partitions: s.Partitions, Configs: map[string]string{
			"message.timestamp.after.max.ms": strconv.FormatInt(ahead.Milliseconds(), 10),
		}}
	}
	if err := b.Client(tb).EnsureTopics(ctx, specs); err != nil {
		tb.Fatalf("allow times ahead: %v", err)
	}
}
