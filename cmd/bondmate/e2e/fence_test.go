package e2e

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/bondmate/backend/pkg/bus/kafkatest"
)

// Two processors on Apache Kafka. One is stopped (SIGSTOP) beyond its session in the middle
// of its work, the other takes over; when the first goes on (SIGCONT) it writes nothing
// more, and the result is the one without the fault.
func TestStoppedOwnerIsFenced(t *testing.T) {
	t.Parallel()
	c := newCluster(t, kafkatest.Apache(t), "")
	ingest := c.role("ingest")
	owners := []*process{c.role("processor"), c.role("processor")}
	phones := people(t, ingest.server(), 40)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var tr traffic
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		tr.run(ctx, phones, 1<<20)
	}()
	applied := func(p *process) float64 { return p.metric("bondmate_processor_commands_total") }
	eventually(t, 30*time.Second, "both processors apply commands", func() (bool, error) {
		return applied(owners[0]) > 50 && applied(owners[1]) > 50, nil
	})

	stopped, other := owners[0], owners[1]
	owned := func() (n int) {
		err := c.pool.QueryRow(t.Context(),
			`SELECT count(DISTINCT owner) FROM processor_partitions`).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	stopped.signal(syscall.SIGSTOP)
	eventually(t, 40*time.Second, "the other processor owns every partition", func() (bool, error) { return owned() == 1, nil })
	taken := applied(other)
	eventually(t, 30*time.Second, "the other processor goes on with them", func() (bool, error) { return applied(other) > taken+200, nil })
	stopped.signal(syscall.SIGCONT)
	eventually(t, 30*time.Second, "the stopped one was fenced", func() (bool, error) {
		return stopped.metric("bondmate_processor_fenced_total") > 0, nil
	})
	eventually(t, 40*time.Second, "both share the work again", func() (bool, error) { return owned() == 2, nil })
	cancel()
	<-finished

	outcomes := awaitApplied(t, c.pool, tr.accepted, 30*time.Second)
	// Without a fault every send finds the pair free and every cancel its request pending.
	for id, outcome := range outcomes {
		if outcome != "applied" {
			t.Fatalf("command %s ended as %s; without the fault all are applied", id, outcome)
		}
	}
	verify(t, c.pool)
	repeats := verifyTopic(t, c.pool, c.bus, c.topics.Events)
	t.Logf("%d commands; fenced %v; %d event records repeated", len(outcomes),
		stopped.metric("bondmate_processor_fenced_total"), repeats)
}
