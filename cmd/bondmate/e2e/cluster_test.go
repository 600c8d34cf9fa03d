package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

const partitions = 12

// cluster is what the roles share: a broker, a database, a prefix for the topics and a
// folder with the signing key.
type cluster struct {
	t        *testing.T
	bus      *bus.Client
	pool     *pgxpool.Pool
	topics   contract.Topics
	settings []string
}

// newCluster prepares Apache Kafka and a migrated database for roles of one test.
// With a database URL of its own the roles go there: through a proxy, for example.
func newCluster(t *testing.T, broker *kafkatest.Broker, databaseURL string) *cluster {
	t.Helper()
	prefix := kafkatest.Prefix(t)
	if databaseURL == "" {
		databaseURL = postgrestest.NewURL(t)
	}
	c := &cluster{
		t: t, bus: broker.Client(t), pool: connect(t, databaseURL), topics: contract.NewTopics(prefix),
		settings: []string{
			"KAFKA_BROKERS=" + strings.Join(broker.Brokers(), ","),
			"KAFKA_TOPIC_PREFIX=" + prefix,
			"KAFKA_SESSION_TIMEOUT=6s",
			"DATABASE_URL=" + databaseURL,
			"DATABASE_MAX_CONNS=12",
			"DATABASE_MIN_CONNS=1",
			"DATA_DIR=" + t.TempDir(),
		},
	}
	c.command("topics", "apply")
	return c
}

func connect(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// role starts one role as a process of its own.
func (c *cluster) role(name string, settings ...string) *process {
	c.t.Helper()
	return launch(c.t, []string{name}, append(slices.Clone(c.settings), settings...)...)
}

// command runs an operator command to its end.
func (c *cluster) command(args ...string) string {
	c.t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = append(cmd.Environ(), c.settings...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.t.Fatalf("bondmate %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// people registers phones.
func people(t *testing.T, server *phone.Server, n int) []*phone.Phone {
	t.Helper()
	phones, err := server.RegisterAll(t.Context(), "user", n)
	if err != nil {
		t.Fatal(err)
	}
	return phones
}

// awaitApplied waits until every command has an outcome and returns them by id.
func awaitApplied(t *testing.T, pool *pgxpool.Pool, ids []uuid.UUID, within time.Duration) map[uuid.UUID]string {
	t.Helper()
	outcomes := map[uuid.UUID]string{}
	eventually(t, within, fmt.Sprintf("all %d accepted commands have an outcome", len(ids)), func() (bool, error) {
		rows, err := pool.Query(t.Context(),
			`SELECT id, CASE status WHEN 1 THEN 'applied' ELSE code END FROM commands WHERE id = ANY($1)`, ids)
		if err != nil {
			return false, err
		}
		var id uuid.UUID
		var outcome string
		clear(outcomes)
		_, err = pgx.ForEachRow(rows, []any{&id, &outcome}, func() error {
			outcomes[id] = outcome
			return nil
		})
		if len(outcomes) < len(ids) {
			return false, fmt.Errorf("%d of %d", len(outcomes), len(ids))
		}
		return true, err
	})
	return outcomes
}

// verify checks what must hold in any database at rest: gapless inboxes and event
// sequences, one event at least for every command, nothing set aside, and G3.
func verify(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	for what, query := range map[string]string{
		"inboxes with a gap, a repeat or another head": `
			SELECT count(*) FROM (SELECT user_id, count(*) n, max(seq) top, min(seq) low FROM inbox GROUP BY user_id) i
			FULL JOIN user_streams s USING (user_id)
			WHERE (coalesce(i.n, 0) <> s.last_seq OR coalesce(i.top, 0) <> s.last_seq OR coalesce(i.low, 1) <> 1)
			AND NOT EXISTS (SELECT 1 FROM users u WHERE u.id = coalesce(i.user_id, s.user_id) AND u.status = 4) -- being erased, in rounds`,
		"partitions whose event sequence has a gap": `
			SELECT count(*) FROM (SELECT partition, count(*) n, max(seq) top FROM events GROUP BY partition) e
			JOIN processor_partitions p USING (partition) WHERE e.n <> p.event_seq OR e.top <> p.event_seq`,
		"inbox rows without their event": `
			SELECT count(*) FROM inbox i LEFT JOIN events e ON (e.partition, e.seq) = (i.partition, i.event_seq) WHERE e.seq IS NULL`,
		"commands that are parked":      `SELECT count(*) FROM parked_commands`,
		"records that are dead letters": `SELECT count(*) FROM dead_letters`,
		"events twice":                  `SELECT count(*) FROM (SELECT id FROM events GROUP BY id HAVING count(*) > 1) twice`,
		"commands without an event": `
			SELECT count(*) FROM commands c WHERE NOT EXISTS (SELECT 1 FROM events e
				WHERE (e.command_id = c.id OR e.id = c.id) AND e.topic = 1) -- e.id: the reuse of a command's id, rejected`,
		"users with more active partnerships than slots": `
			SELECT count(*) FROM (SELECT user_id, count(*) n FROM partnership_members WHERE active GROUP BY user_id) m
			WHERE n > (SELECT count(*) FROM user_slots s WHERE s.user_id = m.user_id)`,
		"active partnerships without two active members": `
			SELECT count(*) FROM partnerships p WHERE status = 1
			AND (SELECT count(*) FROM partnership_members m WHERE m.partnership_id = p.id AND m.active) <> 2`,
		"pairs with two pending requests": `
			SELECT count(*) FROM (SELECT 1 FROM requests WHERE status = 1
			GROUP BY LEAST(sender, target), GREATEST(sender, target) HAVING count(*) > 1) twice`,
	} {
		var n int
		if err := pool.QueryRow(t.Context(), query).Scan(&n); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
}

// seeded returns a source of random numbers whose seed is printed; TEST_SEED repeats it.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s, err := strconv.ParseUint(os.Getenv("TEST_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("TEST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// offsets returns where a topic begins and ends. A busy machine's broker may need more time
// than a client has for one call.
func offsets(t *testing.T, client *bus.Client, topic string) (starts, ends []int64) {
	t.Helper()
	eventually(t, 30*time.Second, "the ends of "+topic+" are known", func() (ok bool, err error) {
		starts, ends, err = client.Offsets(t.Context(), topic)
		return err == nil, err
	})
	return starts, ends
}

// topicEvents reads the whole events topic and returns its records in order per partition.
func topicEvents(t *testing.T, client *bus.Client, topic string) [][]contract.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	starts, ends := offsets(t, client, topic)
	all := make([][]contract.Record, len(ends))
	for partition, end := range ends {
		if starts[partition] == end {
			continue
		}
		reader := client.OpenPartition(topic, partition, starts[partition])
		for {
			rec, err := reader.Read(ctx)
			if err != nil {
				t.Fatalf("read %s/%d: %v", topic, partition, err)
			}
			all[partition] = append(all[partition], rec)
			if rec.Offset >= end-1 {
				break
			}
		}
		reader.Close()
	}
	return all
}

// verifyTopic checks G4: every committed event is on its topic, in the partition and the
// order in which it was committed once repeats are dropped. It returns the repeats.
func verifyTopic(t *testing.T, pool *pgxpool.Pool, client *bus.Client, topic string) (repeats int) {
	t.Helper()
	eventually(t, 20*time.Second, "the relay has caught up", func() (bool, error) {
		var behind int
		err := pool.QueryRow(t.Context(),
			`SELECT count(*) FROM processor_partitions WHERE relayed_seq < event_seq`).Scan(&behind)
		return behind == 0, err
	})
	rows, err := pool.Query(t.Context(), `SELECT partition, id FROM events WHERE topic = 1 ORDER BY partition, seq`)
	if err != nil {
		t.Fatal(err)
	}
	want := map[int][]uuid.UUID{}
	var partition int
	var id uuid.UUID
	if _, err := pgx.ForEachRow(rows, []any{&partition, &id}, func() error {
		want[partition] = append(want[partition], id)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for partition, records := range topicEvents(t, client, topic) {
		var got []uuid.UUID
		high := int64(0)
		for _, rec := range records {
			event, err := contract.DecodeEvent(rec)
			if err != nil {
				t.Fatalf("record %s/%d@%d: %v", topic, partition, rec.Offset, err)
			}
			if event.Seq <= high {
				repeats++
				continue
			}
			high = event.Seq
			got = append(got, event.EventID)
		}
		if !slices.Equal(got, want[partition]) {
			t.Errorf("partition %d of %s: %d events on the topic, %d committed, or in another order",
				partition, topic, len(got), len(want[partition]))
		}
	}
	return repeats
}
