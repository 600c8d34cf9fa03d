package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
)

// A phone that drops its socket at random and resumes, now on one gateway and now on the
// other, while others act on it: it receives exactly its inbox, in order.
func TestResumeOverTwoGateways(t *testing.T) {
	t.Parallel()
	c := newCluster(t, kafkatest.Apache(t), "")
	ingest := c.role("ingest")
	c.role("processor")
	gateways := []*phone.Server{c.role("realtime").server(), c.role("realtime").server()}
	phones := people(t, ingest.server(), 31)
	listener, senders := phones[0], phones[1:]

	// Everybody sends to the one listener and takes it back, again and again: each event is
	// one of the listener's.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	const rounds = 10
	var pairs []*phone.Phone
	for _, sender := range senders {
		pairs = append(pairs, sender, listener)
	}
	var tr traffic
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		tr.run(ctx, pairs, 2*rounds)
	}()

	random := seeded(t)
	total := int64(len(senders) * 2 * rounds)
	var got []uuid.UUID
	reconnects := 0
	for int64(len(got)) < total {
		mine := *listener
		mine.Server = gateways[random.IntN(2)]
		after := int64(len(got))
		socket, err := mine.Connect(ctx, &after)
		if err != nil {
			t.Fatalf("connect after %d: %v", after, err)
		}
		ready, err := socket.NextOp(ctx, "ready")
		if err != nil {
			t.Fatal(err)
		}
		if !ready.Resumed {
			t.Fatalf("not resumed after %d", after)
		}
		reconnects++
		for range 1 + random.IntN(60) {
			if int64(len(got)) == total {
				break
			}
			frame, err := socket.NextOp(ctx, "event")
			if err != nil {
				t.Fatalf("after %d of %d events: %v", len(got), total, err)
			}
			if frame.Seq != int64(len(got))+1 {
				t.Fatalf("event %d after event %d", frame.Seq, len(got))
			}
			got = append(got, frame.ID)
			if random.IntN(4) == 0 {
				_ = socket.Ack(frame.Seq)
			}
		}
		_ = socket.Close()
	}
	<-finished
	if n := tr.count.Load(); n != total {
		t.Fatalf("%d of %d commands accepted", n, total)
	}
	inbox, err := listener.Inbox(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var want []uuid.UUID
	for _, event := range inbox {
		want = append(want, event.ID)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the sockets' events differ from the inbox:\n%s", diff)
	}
	verify(t, c.pool)
	t.Logf("%d events over %d connections", len(got), reconnects)
}
