package e2e

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/cmd/bondmate/partingtest"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/embedded/fcm"
)

// What two people see of each other when one leaves (G9), with each role a process.
func TestParting(t *testing.T) {
	t.Parallel()
	partingtest.Run(t, deploy(t, kafkatest.Apache(t)))
}

// The embedded broker, with the one case that `bondmate all` cannot show: there the owner
// does not die alone.
func TestPartingOwnerKilledOnTheEmbeddedBroker(t *testing.T) {
	t.Parallel()
	partingtest.RunLostOwner(t, deploy(t, kafkatest.Embedded(t)))
}

func deploy(t *testing.T, broker *kafkatest.Broker) partingtest.Deployment {
	t.Helper()
	c := newCluster(t, broker, "")
	pushes := partingtest.StandIn(t, fcm.Config{Log: slog.New(slog.DiscardHandler)})
	c.settings = append(c.settings, partingtest.PushSettings(pushes)...)
	ingest, sockets, owner := c.role("ingest"), c.role("realtime"), c.role("processor", "WORKERS=1")
	c.role("notifier")
	return partingtest.Deployment{
		API: ingest.server(), Sockets: sockets.server(), Pushes: pushes, Pool: c.pool,
		LoseOwner: func(t *testing.T, posts partingtest.Posts) {
			killBeforeRelay(t, c, owner, posts)
			c.role("processor")
		},
	}
}

// killBeforeRelay has the owner commit the posts as one transaction, and kills it (kill -9)
// before it knows: the owner's only worker waits for a bystander's locks while the posts
// come in; then its COMMIT waits in the server for a lock of the test's, and the owner is
// stopped (SIGSTOP) before the server goes on.
func killBeforeRelay(t *testing.T, c *cluster, owner *process, posts partingtest.Posts) {
	t.Helper()
	ctx := t.Context()
	exec := func(tx pgx.Tx, sql string, args ...any) {
		t.Helper()
		if _, err := tx.Exec(ctx, sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.pool.Exec(ctx, `
		CREATE FUNCTION wait_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN PERFORM pg_advisory_xact_lock_shared(9); RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER wait_at_commit AFTER INSERT ON cuts DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION wait_at_commit()`); err != nil {
		t.Fatal(err)
	}
	begin := func() pgx.Tx {
		tx, err := c.pool.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(ctx)) })
		return tx
	}
	waiting := func(event string) func() (bool, error) {
		return func() (waits bool, err error) {
			err = c.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_stat_activity
				WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event LIKE $1)`, event).Scan(&waits)
			return waits, err
		}
	}
	occupied, atCommit := begin(), begin()
	exec(occupied, `SELECT FROM user_streams WHERE user_id = $1 FOR UPDATE`, posts.Bystander)
	exec(atCommit, `SELECT pg_advisory_xact_lock(9)`)
	posts.First()
	eventually(t, 20*time.Second, "the owner waits with the bystander's command", waiting("%"))
	ids := posts.Rest()
	// By the time that the wait for the locks has failed, the owner holds the posts.
	failed := owner.metric("bondmate_processor_retries_total")
	eventually(t, 20*time.Second, "the owner tries again", func() (bool, error) {
		return owner.metric("bondmate_processor_retries_total") > failed, nil
	})
	if err := occupied.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the owner's COMMIT waits", waiting("advisory"))
	owner.freeze()
	if err := atCommit.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the server has committed", func() (bool, error) {
		var transactions, commands int
		err := c.pool.QueryRow(ctx, `SELECT count(*), count(DISTINCT xmin::text) FROM commands WHERE id = ANY ($1) AND status = 1`, ids).
			Scan(&commands, &transactions)
		return commands == len(ids) && transactions == 1, err
	})
	owner.kill()
	for _, records := range topicEvents(t, c.bus, c.topics.Events) {
		if i := slices.IndexFunc(records, func(rec contract.Record) bool {
			ev, err := contract.DecodeEvent(rec)
			return err != nil || slices.Contains(ids, ev.CommandID)
		}); i >= 0 {
			t.Errorf("published before the owner was killed: %s", records[i].Value)
		}
	}
}
