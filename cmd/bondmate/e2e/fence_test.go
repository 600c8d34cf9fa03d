package e2e

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bondmate/backend/pkg/bus/kafkatest"
)

// Two processors on Apache Kafka. One is stopped (SIGSTOP) beyond its session with a batch
// in hand, the other takes over; when the first goes on (SIGCONT) it writes nothing more,
// and the result is the one without the fault.
//
// Kafka hangs while the first wakes up: so it is not the group that tells it what it has
// lost, but its partition's row.
func TestStoppedOwnerIsFenced(t *testing.T) {
	t.Parallel()
	broker := kafkatest.StartApache(t)
	c := newCluster(t, broker, "")
	history := watchProgress(t, c.pool)
	ingest := c.role("ingest")
	owners := []*process{c.role("processor", "WORKERS=1"), c.role("processor", "WORKERS=1")}
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
	stopInTransaction(t, c.pool, stopped)
	owned := func() (n int) {
		err := c.pool.QueryRow(t.Context(),
			`SELECT count(DISTINCT owner) FROM processor_partitions`).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	eventually(t, 40*time.Second, "the other processor owns every partition", func() (bool, error) { return owned() == 1, nil })
	taken := applied(other)
	eventually(t, 30*time.Second, "the other processor goes on with them", func() (bool, error) { return applied(other) > taken+200, nil })

	broker.Pause()
	stopped.signal(syscall.SIGCONT)
	eventually(t, 10*time.Second, "the stopped one is fenced by its partition's row", func() (bool, error) {
		return stopped.metric("bondmate_processor_fenced_total") > 0, nil
	})
	broker.Resume()
	eventually(t, 60*time.Second, "both share the work again", func() (bool, error) { return owned() == 2, nil })
	cancel()
	<-finished

	outcomes := awaitApplied(t, c.pool, tr.accepted, 30*time.Second)
	// Without a fault every send finds the pair free and every cancel its request pending.
	for id, outcome := range outcomes {
		if outcome != "applied" {
			t.Fatalf("command %s ended as %s; without the fault all are applied", id, outcome)
		}
	}
	history()
	verify(t, c.pool)
	repeats := verifyTopic(t, c.pool, c.bus, c.topics.Events)
	t.Logf("%d commands; fenced %v; %d event records repeated", len(outcomes),
		stopped.metric("bondmate_processor_fenced_total"), repeats)
}

// stopInTransaction stops a processor (SIGSTOP) that waits for locks with a batch in hand,
// and returns when the server has given the transaction up: so that the first thing the
// processor does when it goes on is to try its batch again.
func stopInTransaction(t *testing.T, pool *pgxpool.Pool, p *process) {
	t.Helper()
	count := func(where string) (n int, err error) {
		err = pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid() AND `+where).Scan(&n)
		return n, err
	}
	locks, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = locks.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := locks.Exec(t.Context(), `SELECT FROM user_streams ORDER BY user_id FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the workers of both processors wait for the locks", func() (bool, error) {
		n, err := count(`wait_event_type = 'Lock'`)
		return n == 2, err
	})
	p.signal(syscall.SIGSTOP)
	eventually(t, 10*time.Second, "the stopped processor's transaction has failed", func() (bool, error) {
		n, err := count(`state = 'idle in transaction (aborted)'`)
		return n == 1, err
	})
}

// watchProgress lets the database write down every change of the processors' progress. The
// function that it returns checks that no owner ever wrote over another: a partition's
// epoch never falls, and each transaction takes the version one up and the offset forward,
// or, where timers alone were due, the events.
// One that lost its partition and wrote all the same would set them back.
func watchProgress(t *testing.T, pool *pgxpool.Pool) (check func()) {
	t.Helper()
	_, err := pool.Exec(t.Context(), `
		CREATE TABLE progress (
			n bigint GENERATED ALWAYS AS IDENTITY, partition smallint, old_epoch bigint, epoch bigint,
			old_version bigint, version bigint, old_offset bigint, next_offset bigint, old_seq bigint, event_seq bigint);
		-- With its owner's rights: the program's role may not write here.
		CREATE FUNCTION note_progress() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
			BEGIN
				INSERT INTO progress (partition, old_epoch, epoch, old_version, version, old_offset, next_offset, old_seq, event_seq)
				VALUES (NEW.partition, OLD.epoch, NEW.epoch, OLD.version, NEW.version,
					OLD.next_offset, NEW.next_offset, OLD.event_seq, NEW.event_seq);
				RETURN NULL;
			END $$;
		CREATE TRIGGER note_progress AFTER UPDATE ON processor_partitions
			FOR EACH ROW EXECUTE FUNCTION note_progress();`)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		rows, err := pool.Query(t.Context(), `
			SELECT format('partition %s: epoch %s to %s, version %s to %s, offset %s to %s, event %s to %s',
				partition, old_epoch, epoch, old_version, version, old_offset, next_offset, old_seq, event_seq)
			FROM progress
			WHERE epoch < old_epoch OR next_offset < old_offset OR event_seq < old_seq
				OR (next_offset <> old_offset OR event_seq <> old_seq OR version <> old_version)
					AND (version <> old_version + 1 OR next_offset = old_offset AND event_seq = old_seq)
			ORDER BY n LIMIT 5`)
		if err != nil {
			t.Fatal(err)
		}
		wrong, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range wrong {
			t.Errorf("written over: %s", line)
		}
		var changes, claims int
		if err := pool.QueryRow(t.Context(), `SELECT count(*), count(*) FILTER (WHERE epoch > old_epoch) FROM progress`).
			Scan(&changes, &claims); err != nil {
			t.Fatal(err)
		}
		if claims == 0 {
			t.Errorf("no partition changed hands in %d changes", changes)
		}
		t.Logf("%d changes of progress, %d of them claims", changes, claims)
	}
}
