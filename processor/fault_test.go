package processor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// cut is a connection to Postgres that can be made to break in the middle of a commit.
type cut struct {
	net.Conn
	mode *atomic.Int32
}

const (
	cutNothing  int32 = iota
	cutRequest        // the next write never reaches the server
	cutResponse       // it does, and the server's answer is lost
)

func (c *cut) Write(p []byte) (int, error) {
	if c.mode.CompareAndSwap(cutRequest, cutNothing) {
		_ = c.Close()
		return 0, errors.New("cut before the request")
	}
	return c.Conn.Write(p)
}

func (c *cut) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	// The whole answer has arrived when the server says that it is ready: Z, length 5, idle.
	if c.mode.Load() == cutResponse && err == nil {
		for !strings.HasSuffix(string(p[:n]), "Z\x00\x00\x00\x05I") {
			if n, err = c.Conn.Read(p); err != nil {
				break
			}
		}
		c.mode.Store(cutNothing)
		_ = c.Close()
		return 0, errors.New("cut before the answer")
	}
	return n, err
}

func TestLostCommit(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]int32{"not landed": cutRequest, "landed": cutResponse} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := newMemoryRig(t)
			a, b, c := r.user(2), r.user(1), r.user(1)
			var armed atomic.Int32
			var cuts, written atomic.Int32
			r.cfg.Connect = func(ctx context.Context) (*pgx.Conn, error) {
				cfg, err := pgx.ParseConfig(r.url)
				if err != nil {
					return nil, err
				}
				cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
					conn, err := new(net.Dialer).DialContext(ctx, network, addr)
					return &cut{conn, &armed}, err
				}
				return pgx.ConnectConfig(ctx, cfg)
			}
			r.cfg.Hook = func(_ context.Context, at Point) error {
				if at == BeforeWrite && written.Add(1) == 2 {
					armed.Store(mode)
					cuts.Add(1)
				}
				return nil
			}
			_, stop := r.start()
			s := send(a, b)
			r.post(s)
			r.settled()
			r.post(send(a, c), accept(b, s))
			r.settled()
			if cuts.Load() != 1 || armed.Load() != cutNothing {
				t.Fatal("the connection was not cut")
			}
			if got := value(t, r.reg, "bondmate_processor_commands_total"); got != 3 {
				t.Errorf("%v commands counted, want 3", got)
			}
			if got := one[int64](r, `SELECT count(*) FROM commands WHERE status = 1`); got != 3 {
				t.Errorf("%d commands applied, want 3", got)
			}
			r.gapless()
			r.published()
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestBackendTerminatedInTransaction(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	users := r.users(10, 1)
	var count atomic.Int32
	r.cfg.Hook = func(_ context.Context, at Point) error {
		if at == BeforeWrite && count.Add(1)%3 == 0 && count.Load() < 30 {
			r.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle in transaction'`)
		}
		return nil
	}
	r.start(func(c *Config) { c.MaxBatch = 2 })
	var cmds []partner.Command
	for i := range 40 {
		cmds = append(cmds, send(users[i%10], users[(i+1+i/10)%10]))
	}
	r.post(cmds...)
	r.settled()
	if got := one[int64](r, `SELECT count(*) FROM commands WHERE id = ANY($1)`, idsOf(cmds)); got != int64(len(cmds)) {
		t.Errorf("%d of %d commands have an outcome", got, len(cmds))
	}
	r.gapless()
	r.published()
}

func idsOf(cmds []partner.Command) []uuid.UUID {
	ids := make([]uuid.UUID, len(cmds))
	for i, c := range cmds {
		ids[i] = c.ID
	}
	return ids
}

func TestFencedOwnerWritesNothing(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	a, b := r.user(1), r.user(1)
	first := prometheus.NewRegistry()
	// The first owner is held up between reading a record and its transaction, as a stopped
	// process would be.
	gate, held := make(chan struct{}), make(chan struct{}, 10)
	_, stopFirst := r.start(func(c *Config) {
		c.Registerer, c.Owner = first, "first"
		clock := c.Clock
		if clock == nil {
			clock = time.Now
		}
		c.Connect = func(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, r.url) }
		c.Bus = &heldBus{memory: m, gate: gate, held: held}
		c.Clock = clock
	})
	r.eventually("claimed", func() bool {
		return one[int64](r, `SELECT count(*) FROM processor_partitions WHERE owner = 'first'`) == testPartitions
	})
	s := send(a, b)
	r.post(s)
	<-held
	_, stopSecond := r.start(func(c *Config) { c.Owner = "second" })
	r.settled()
	version := one[int64](r, `SELECT sum(version)::bigint FROM processor_partitions`)
	close(gate)
	r.eventually("fenced", func() bool { return value(t, first, "bondmate_processor_fenced_total") == 1 })
	if got := one[int64](r, `SELECT sum(version)::bigint FROM processor_partitions`); got != version {
		t.Errorf("version went from %d to %d: the fenced owner wrote", version, got)
	}
	r.post(accept(b, s))
	r.settled()
	if got := one[int64](r, `SELECT count(*) FROM commands WHERE status = 1`); got != 2 {
		t.Errorf("%d commands applied, want 2", got)
	}
	r.gapless()
	r.published()
	if err := errors.Join(stopFirst(), stopSecond()); err != nil {
		t.Error(err)
	}
}

// heldBus holds the first command back until the gate opens.
type heldBus struct {
	*memory
	gate, held chan struct{}
}

func (h *heldBus) Open(topic string, partition int, offset int64) Reader {
	return heldReader{h.memory.Open(topic, partition, offset), h}
}

type heldReader struct {
	Reader
	h *heldBus
}

func (r heldReader) Read(ctx context.Context) (contract.Record, error) {
	rec, err := r.Reader.Read(ctx)
	if err == nil {
		r.h.held <- struct{}{}
		select {
		case <-r.h.gate:
		case <-ctx.Done():
			return rec, ctx.Err()
		}
	}
	return rec, err
}

func TestCrashAtEachPoint(t *testing.T) {
	t.Parallel()
	for _, at := range []Point{BeforeDecide, BeforeWrite, AfterCommit, BeforeRelay, AfterRelay} {
		t.Run(string(at), func(t *testing.T) {
			t.Parallel()
			r, _ := newMemoryRig(t)
			var crashes atomic.Int32
			r.cfg.Hook = func(_ context.Context, p Point) error {
				if p == at && crashes.Add(1)%3 == 1 && crashes.Load() < 20 {
					return fmt.Errorf("crash %s", p)
				}
				return nil
			}
			r.start(func(c *Config) { c.MaxBatch = 5 })
			users := r.users(12, 1)
			var cmds []partner.Command
			for i := range 6 {
				s := send(users[2*i], users[2*i+1])
				cmds = append(cmds, s, accept(users[2*i+1], s), remove(users[2*i], users[2*i+1]))
			}
			for _, c := range cmds {
				r.post(c)
			}
			r.settled()
			if crashes.Load() == 0 {
				t.Fatal("nothing crashed")
			}
			for _, c := range cmds {
				if got := r.outcome(c.ID); got != "applied" {
					t.Errorf("%s is %s", c.Type, got)
				}
			}
			r.gapless()
			r.published()
		})
	}
}

// Many small transactions at once after the same few users, the users of each in another
// order: without one order of locking they would deadlock.
func TestHotUsersDoNotDeadlock(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	users := r.users(8, 1)
	// Each worker has one partition, so that four transactions are after the same users.
	r.start(func(c *Config) { c.Workers, c.MaxBatch = testPartitions, 6 })
	var cmds []partner.Command
	for range 40 {
		var round []partner.Command
		for i, a := range users {
			for _, b := range users[i+1:] {
				s := send(a, b)
				round = append(round, s, accept(b, s))
			}
		}
		r.post(round...)
		cmds = append(cmds, round...)
	}
	r.settled()
	if got := one[int64](r, `SELECT count(*) FROM commands WHERE id = ANY($1)`, idsOf(cmds)); got != int64(len(cmds)) {
		t.Errorf("%d of %d commands have an outcome", got, len(cmds))
	}
	// The server's own count comes with a delay.
	if got := value(t, r.reg, "bondmate_processor_retries_total", "40P01"); got != 0 {
		t.Errorf("%v transactions were in a deadlock", got)
	}
	r.gapless()
	r.published()
}

// Whatever the server takes back by itself is tried again, and no user hears of it.
func TestTransactionsThatTheServerTakesBackAreTriedAgain(t *testing.T) {
	t.Parallel()
	const inTheMiddle, atTheEnd = `AFTER INSERT ON commands`, `AFTER UPDATE OF next_offset ON processor_partitions`
	for name, fault := range map[string]struct{ code, at string }{
		"deadlock":                       {"40P01", inTheMiddle},
		"deadlock in the last statement": {"40P01", atTheEnd},
		"serialization":                  {"40001", atTheEnd},
		"lock timeout":                   {"55P03", inTheMiddle},
		"statement timeout":              {"57014", atTheEnd},
		"server is out of memory":        {"53200", inTheMiddle},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := newMemoryRig(t)
			// A sequence does not roll back: every second pass fails.
			r.exec(`CREATE SEQUENCE passes`)
			r.exec(`CREATE FUNCTION take_back() RETURNS trigger LANGUAGE plpgsql AS $$
				BEGIN
					IF nextval('passes') % 2 = 1 THEN
						RAISE EXCEPTION 'taken back' USING ERRCODE = '` + fault.code + `';
					END IF;
					RETURN NULL;
				END $$`)
			r.exec(`CREATE TRIGGER take_back ` + fault.at + ` FOR EACH STATEMENT EXECUTE FUNCTION take_back()`)
			users := r.users(12, 1)
			_, stop := r.start(func(c *Config) { c.MaxBatch = 3 })
			var cmds []partner.Command
			for i := range 6 {
				s := send(users[2*i], users[2*i+1])
				cmds = append(cmds, s, accept(users[2*i+1], s))
			}
			r.post(cmds...)
			r.settled()
			for _, c := range cmds {
				if got := r.outcome(c.ID); got != "applied" {
					t.Errorf("%s is %s", c.Type, got)
				}
			}
			if got := one[int64](r, `SELECT count(*) FROM parked_commands`); got != 0 {
				t.Errorf("%d commands are parked", got)
			}
			if got := value(t, r.reg, "bondmate_processor_retries_total", fault.code); got == 0 {
				t.Error("nothing was tried again")
			}
			r.gapless()
			r.published()
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBatchThatConcernsMoreAfterManyTries keeps a stream locked until a batch was tried
// more often than one may start again for its own sake: tries are not counted as that.
func TestBatchThatConcernsMoreAfterManyTries(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	_, stop := r.start(func(c *Config) { c.LockTimeout = 5 * time.Millisecond })
	a, _ := r.couple(1)
	held, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Rollback(context.Background()) }()
	if _, err := held.Exec(t.Context(), `SELECT FROM user_streams WHERE user_id = $1 FOR UPDATE`, a); err != nil {
		t.Fatal(err)
	}
	cmd := rename(a, "Robin") // its partner turns up only when it is decided
	r.post(cmd)
	r.eventually("many tries", func() bool {
		return value(t, r.reg, "bondmate_processor_retries_total", "55P03") >= 14
	})
	if err := held.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.settled()
	r.applied(cmd)
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestTopicThatIsNotTheOneApplied(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func(r *rig, m *memory)
		want   string
	}{
		"recreated with other records": {func(r *rig, m *memory) {
			for p := range testPartitions {
				for i := range m.logs[r.topics.Commands][p] {
					rec := &m.logs[r.topics.Commands][p][i]
					rec.Headers = []contract.Header{{Key: "ce_id", Value: []byte(uuid.NewString())}}
				}
			}
		}, "recreated"},
		"recreated and shorter": {func(r *rig, m *memory) {
			for p := range testPartitions {
				m.logs[r.topics.Commands][p] = nil
			}
		}, "recreated or lost records"},
		"gone before it was applied": {func(r *rig, m *memory) {
			for p := range testPartitions {
				m.starts[r.topics.Commands][p] = int64(len(m.logs[r.topics.Commands][p])) + 1
				m.logs[r.topics.Commands][p] = append(m.logs[r.topics.Commands][p], contract.Record{}, contract.Record{})
			}
		}, "were never applied"},
		"another partition count": {func(_ *rig, m *memory) {
			m.logs, m.count = map[string][][]contract.Record{}, testPartitions+1
		}, "has 5 partitions, configured are 4"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, m := newMemoryRig(t)
			users := r.users(20, 1)
			_, stop := r.start()
			for i := range 10 {
				r.post(send(users[2*i], users[2*i+1]))
			}
			r.settled()
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			before := one[int64](r, `SELECT sum(version)::bigint FROM processor_partitions`)
			tc.change(r, m)
			r.reg = prometheus.NewRegistry()
			p, err := New(r.cfg)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err = p.Run(ctx)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Run = %v, want an error with %q", err, tc.want)
			}
			if got := one[int64](r, `SELECT sum(version)::bigint FROM processor_partitions`); got != before {
				t.Errorf("version went from %d to %d", before, got)
			}
		})
	}
}

func TestNewPartitionBeginsAtTheLogsStart(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	a, b := r.user(1), r.user(1)
	old, s := send(a, b), send(b, a)
	m.append(time.Now(), r.record(old))
	m.append(time.Now(), r.record(s))
	m.starts[r.topics.Commands][r.record(s).Partition] = 1
	r.start()
	r.settled()
	if got := r.outcome(old.ID); got != "none" {
		t.Errorf("removed record is %s", got)
	}
	if got := r.outcome(s.ID); got != "applied" {
		t.Errorf("first record there is %s, want applied", got)
	}
}

func TestRelayReadsTheTableWhenMemoryIsFull(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	users := r.users(60, 1)
	var failing atomic.Bool
	failing.Store(true)
	m.onWrite = func(recs []contract.Record) error {
		if recs[0].Topic == r.topics.Events && failing.Load() {
			return errors.New("kafka is away")
		}
		return nil
	}
	r.start(func(c *Config) { c.RelayBuffer, c.MaxBatch = 8, 4 })
	for i := range 30 {
		r.post(send(users[2*i], users[2*i+1]))
	}
	r.eventually("applied", func() bool { return one[int64](r, `SELECT count(*) FROM commands`) == 30 })
	if got := len(m.all(r.topics.Events)); got != 0 {
		t.Fatalf("%d events published while Kafka is away", got)
	}
	failing.Store(false)
	r.settled()
	r.gapless()
	r.published()
	if got := len(m.all(r.topics.Events)); got != 60 {
		t.Errorf("%d records on the events topic, want 60 without repeats", got)
	}
}

// sessions notes what runs on connections that nobody has set up.
type sessions struct {
	mu     sync.Mutex
	set    map[*pgx.Conn]bool
	seen   map[string]bool
	faults []string
}

func (s *sessions) TraceQueryStart(ctx context.Context, conn *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[q.SQL] = true
	if q.SQL == setSQL {
		s.set[conn] = true
	} else if !s.set[conn] {
		s.faults = append(s.faults, q.SQL)
	}
	return ctx
}

func (s *sessions) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// A wait without the server's time-out ends with its context, or never.
func TestEveryConnectionHasTheTimeouts(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	users := r.users(20, 1)
	trace := &sessions{set: map[*pgx.Conn]bool{}, seen: map[string]bool{}}
	r.start(func(c *Config) {
		c.RelayBuffer = 1 // what is committed together goes through the table
		c.Connect = func(ctx context.Context) (*pgx.Conn, error) {
			cfg, err := pgx.ParseConfig(r.url)
			if err != nil {
				return nil, err
			}
			cfg.Tracer = trace
			return pgx.ConnectConfig(ctx, cfg)
		}
	})
	for i := range 10 {
		r.post(send(users[2*i], users[2*i+1]))
	}
	r.settled()
	trace.mu.Lock()
	defer trace.mu.Unlock()
	if len(trace.faults) > 0 {
		t.Errorf("without a set-up: %q", trace.faults)
	}
	for _, sql := range []string{claimSQL, outboxSQL} {
		if !trace.seen[sql] {
			t.Errorf("nobody ran %s", sql)
		}
	}
}

// Not parallel: it looks at all goroutines. Every one of a generation ends with it, also
// when Kafka takes nothing and the table has to be read.
func TestRunLeavesNoGoroutineBehind(t *testing.T) {
	r, m := newMemoryRig(t)
	users := r.users(20, 1)
	before := goleak.IgnoreCurrent()
	var failing atomic.Bool
	m.onWrite = func([]contract.Record) error {
		if failing.Load() {
			return errors.New("kafka is away")
		}
		return nil
	}
	_, stop := r.start(func(c *Config) { c.RelayBuffer, c.MaxBatch, c.DrainDeadline = 2, 4, 300*time.Millisecond })
	r.post(send(users[0], users[1]))
	r.settled()
	failing.Store(true)
	for i := 1; i < 10; i++ {
		m.append(time.Now(), r.record(send(users[2*i], users[2*i+1])))
	}
	r.eventually("applied", func() bool { return one[int64](r, `SELECT count(*) FROM commands`) == 10 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	goleak.VerifyNone(t, before, goleak.IgnoreTopFunction("github.com/jackc/pgx/v5/pgxpool.(*Pool).backgroundHealthCheck"))
}

// A gauge that outlives the ownership shows a lag that nobody has.
func TestGaugesEndWithTheOwnership(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	_, stop := r.start()
	r.post(send(r.user(1), r.user(1)))
	r.settled()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	families, err := r.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "partition" {
					t.Errorf("%s of partition %s is still there", f.GetName(), l.GetValue())
				}
			}
		}
	}
}

// crashNow returns a hook that fails once at each point, after so many passes.
func crashNow(after int) func(context.Context, Point) error {
	var mu sync.Mutex
	passes := map[Point]int{}
	return func(_ context.Context, at Point) error {
		mu.Lock()
		defer mu.Unlock()
		passes[at]++
		if passes[at] == after {
			return fmt.Errorf("crash %s", at)
		}
		return nil
	}
}

// deafBus opens readers that never return a record, the first so many times.
type deafBus struct {
	*memory
	deaf atomic.Int32
}

func (d *deafBus) Open(topic string, partition int, offset int64) Reader {
	if d.deaf.Add(-1) >= 0 {
		return deafReader{}
	}
	return d.memory.Open(topic, partition, offset)
}

type deafReader struct{}

func (deafReader) Close() {}

func (deafReader) Read(ctx context.Context) (contract.Record, error) {
	<-ctx.Done()
	return contract.Record{}, ctx.Err()
}

func TestStandstillEndsTheGeneration(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	a, b := r.user(1), r.user(1)
	deaf := &deafBus{memory: m}
	deaf.deaf.Store(testPartitions)
	r.start(func(c *Config) { c.Bus, c.StallAfter = deaf, 300*time.Millisecond })
	s := send(a, b)
	r.post(s)
	r.settled()
	if got := r.outcome(s.ID); got != "applied" {
		t.Errorf("command is %s, want applied", got)
	}
	if got := one[int64](r, `SELECT min(epoch) FROM processor_partitions`); got < 2 {
		t.Errorf("epoch %d, want a second generation", got)
	}
}

// TestOwnerThatWasAsleepIsCounted: the other claims while this one has nothing in hand.
func TestOwnerThatWasAsleepIsCounted(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	s := send(r.user(1), r.user(1))
	_, stop := r.start(func(c *Config) { c.Workers = 1 })
	r.post(s)
	r.settled()
	r.exec(`UPDATE processor_partitions SET epoch = epoch + 1 WHERE partition = 1`)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if got := value(t, r.reg, "bondmate_processor_fenced_total"); got != 1 {
		t.Errorf("fenced %v times, want 1", got)
	}
}
