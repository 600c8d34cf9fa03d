package e2e

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/migrations"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/embedded"
	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/pkg/postgres"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

// Kafka stopped: a command is refused with 503 and Retry-After within 3 s, and reads go on.
// Kafka started: service resumes by itself, and what was answered 202 has one outcome.
func TestKafkaOutage(t *testing.T) {
	t.Parallel()
	broker := kafkatest.StartApache(t)
	c := newCluster(t, broker, "")
	ingest := c.role("ingest")
	c.role("processor")
	phones := people(t, ingest.server(), 20)
	var tr traffic
	tr.run(t.Context(), phones, 4)

	broker.Stop()
	refused := func(from, to *phone.Phone) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		answer, err := from.Send(ctx, to.UserID)
		if err != nil {
			t.Errorf("no answer within 3 s while Kafka is down: %v", err)
			return
		}
		if answer.Status != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") == "" {
			t.Errorf("status %d, Retry-After %q: %s", answer.Status, answer.Header.Get("Retry-After"), answer.Body)
		}
		if code := answer.Outcome().Code; code != "queue_unavailable" {
			t.Errorf("code %s", code)
		}
	}
	refused(phones[0], phones[1]) // by the deadline
	var group sync.WaitGroup
	for i := range 9 { // enough to open the breaker
		group.Go(func() { refused(phones[2+2*i], phones[3+2*i]) })
	}
	group.Wait()
	eventually(t, 10*time.Second, "the breaker is open", func() (bool, error) {
		refused(phones[0], phones[1])
		return ingest.metric("bondmate_ingest_publisher_breaker_state") == 2, nil
	})
	for _, path := range []string{"/api/profile", "/api/enhanced-partners/current", "/api/notifications", "/api/sync"} {
		if err := phones[0].Get(t.Context(), path, nil); err != nil {
			t.Errorf("reads go on without Kafka: %v", err)
		}
	}

	broker.Start()
	eventually(t, time.Minute, "commands are applied again", func() (bool, error) {
		answer, err := phones[0].Send(t.Context(), phones[1].UserID, phone.Wait(5))
		// The first send may be pending already: a command that was answered 503 can have landed.
		return err == nil && (answer.Status == http.StatusOK || answer.Status == http.StatusConflict), err
	})
	tr.run(t.Context(), phones[2:], 4)
	awaitApplied(t, c.pool, tr.accepted, 30*time.Second)
	verify(t, c.pool)
	verifyTopic(t, c.pool, c.bus, c.topics.Events)
}

// A command that the broker appended later than its deadline plus the allowed skew was
// never answered 202: it is rejected as stale. One just in time takes effect.
func TestLateCommandIsStale(t *testing.T) {
	t.Parallel()
	c := newCluster(t, kafkatest.Apache(t), "")
	ingest := c.role("ingest")
	c.role("processor")
	phones := people(t, ingest.server(), 4)

	now := time.Now().UTC()
	late := command(phones[0], phones[1], now.Add(-time.Hour))
	fresh := command(phones[2], phones[3], now)
	var records []contract.Record
	for _, cmd := range []partner.Command{late, fresh} {
		rec, err := contract.EncodeCommand(c.topics, partitions, cmd, "")
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, rec)
	}
	if err := c.bus.Write(t.Context(), records); err != nil {
		t.Fatal(err)
	}
	outcomes := awaitApplied(t, c.pool, []uuid.UUID{late.ID, fresh.ID}, 30*time.Second)
	if got := outcomes[late.ID]; got != "stale" {
		t.Errorf("a command appended an hour late: %s instead of stale", got)
	}
	if got := outcomes[fresh.ID]; got != "applied" {
		t.Errorf("a command in time: %s instead of applied", got)
	}
	verify(t, c.pool)
}

func command(from, to *phone.Phone, acceptedAt time.Time) partner.Command {
	return partner.Command{
		ID: uuid.New(), Type: partner.Send, Issuer: from.UserID, Pair: partner.PairOf(from.UserID, to.UserID),
		AcceptedAt: acceptedAt.Truncate(time.Microsecond),
	}
}

// PostgreSQL stopped and started under load: calls that need it are refused with 503 and
// Retry-After, and what was accepted is applied afterwards, once.
func TestPostgresOutage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := embedded.PostgresConfig{Dir: dir, Log: testLog(t)}
	server, err := embedded.StartPostgres(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	if err := postgres.Migrate(t.Context(), server.DSN, migrations.FS, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	db := newProxy(t, hostOf(t, server.DSN))
	c := newCluster(t, kafkatest.Apache(t), through(t, server.DSN, db))
	ingest := c.role("ingest")
	c.role("processor")
	phones := people(t, ingest.server(), 20)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var tr traffic
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		tr.run(ctx, phones[2:], 1<<20)
	}()
	eventually(t, 30*time.Second, "commands are accepted", func() (bool, error) { return tr.count.Load() > 200, nil })
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "reads are refused with 503 and Retry-After", func() (bool, error) {
		answer, err := phones[0].Do(t.Context(), http.MethodGet, "/api/enhanced-partners/current", nil)
		return err == nil && answer.Status == http.StatusServiceUnavailable &&
			answer.Header.Get("Retry-After") != "" && answer.Outcome().Code == "database_unavailable", err
	})
	down := tr.count.Load()

	server, err = embedded.StartPostgres(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	upstream := hostOf(t, server.DSN)
	db.upstream.Store(&upstream)
	eventually(t, time.Minute, "commands are accepted again", func() (bool, error) { return tr.count.Load() > down+200, nil })
	cancel()
	<-finished
	awaitApplied(t, c.pool, tr.accepted, time.Minute)
	verify(t, c.pool)
	verifyTopic(t, c.pool, c.bus, c.topics.Events)
}

// The processor's connection breaks at COMMIT under load, before the server saw it and after
// it committed, many times: nothing is lost and nothing doubled.
func TestConnectionCutAtCommit(t *testing.T) {
	t.Parallel()
	direct := postgrestest.NewURL(t)
	db := newProxy(t, hostOf(t, direct))
	c := newCluster(t, kafkatest.Apache(t), direct)
	ingest := c.role("ingest")
	c.role("processor", "DATABASE_URL="+through(t, direct, db))
	phones := people(t, ingest.server(), 40)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var tr traffic
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		tr.run(ctx, phones, 1<<20)
	}()
	for i := range int32(10) {
		before := tr.count.Load()
		db.cutNext(cut(1 + i%cutsKinds))
		eventually(t, 30*time.Second, "the connection was cut and work goes on", func() (bool, error) {
			return db.made.Load() == i+1 && tr.count.Load() > before+50, nil
		})
	}
	cancel()
	<-finished
	awaitApplied(t, c.pool, tr.accepted, 30*time.Second)
	verify(t, c.pool)
	repeats := verifyTopic(t, c.pool, c.bus, c.topics.Events)
	t.Logf("%d commands, %d cuts, %d event records repeated", len(tr.accepted), db.made.Load(), repeats)
}

func hostOf(t *testing.T, dsn string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// through returns the address of the database behind the proxy.
func through(t *testing.T, dsn string, p *proxy) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = p.addr
	query := u.Query()
	query.Set("sslmode", "disable")
	u.RawQuery = query.Encode()
	return u.String()
}
