package processor

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

// memory is a broker in memory with one consumer group of one member at a time: for tests
// of the processor alone. The bus's own tests cover Kafka.
type memory struct {
	mu       sync.Mutex
	logs     map[string][][]contract.Record // by topic and partition
	starts   map[string][]int64
	appended map[string][][]time.Time
	grown    chan struct{} // closed and replaced when something was written
	count    int

	held    chan struct{} // while not nil and open, readers get nothing
	onWrite func([]contract.Record) error
	ask     int // FirstOffsetAfter was called
	ends    int // how often the log's offsets were asked for
}

func newMemory(partitions int) *memory {
	return &memory{
		logs: map[string][][]contract.Record{}, starts: map[string][]int64{}, appended: map[string][][]time.Time{},
		grown: make(chan struct{}), count: partitions,
	}
}

func (m *memory) topic(name string) [][]contract.Record {
	if m.logs[name] == nil {
		m.logs[name] = make([][]contract.Record, m.count)
		m.appended[name] = make([][]time.Time, m.count)
		m.starts[name] = make([]int64, m.count)
	}
	return m.logs[name]
}

func (m *memory) RunGroup(ctx context.Context, _ bus.GroupConfig, handle func(context.Context, bus.Generation) error) error {
	for id := int32(1); ctx.Err() == nil; id++ {
		gen := bus.Generation{ID: id}
		for i := range m.count {
			gen.Partitions = append(gen.Partitions, bus.Assigned{Partition: i, Committed: -1})
		}
		if err := handle(ctx, gen); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) CommitOffsets(context.Context, bus.Generation, map[int]int64) error { return nil }

func (m *memory) Open(topic string, partition int, offset int64) Reader {
	ctx, cancel := context.WithCancel(context.Background())
	return &memoryReader{m: m, topic: topic, partition: partition, at: offset, ctx: ctx, cancel: cancel}
}

type memoryReader struct {
	m         *memory
	topic     string
	partition int
	at        int64
	ctx       context.Context
	cancel    context.CancelFunc
}

func (r *memoryReader) Close() { r.cancel() }

func (r *memoryReader) Read(ctx context.Context) (contract.Record, error) {
	for {
		r.m.mu.Lock()
		log, grown := r.m.topic(r.topic)[r.partition], r.m.grown
		start := r.m.starts[r.topic][r.partition]
		held := r.m.held
		r.m.mu.Unlock()
		if held != nil {
			select {
			case <-held:
			case <-ctx.Done():
				return contract.Record{}, ctx.Err()
			case <-r.ctx.Done():
				return contract.Record{}, errors.New("closed")
			}
		}
		if r.at < start || r.at > int64(len(log)) {
			return contract.Record{}, &bus.OutOfRangeError{Topic: r.topic, Partition: r.partition, Wanted: r.at, Start: start, End: int64(len(log))}
		}
		if r.at < int64(len(log)) {
			r.at++
			return log[r.at-1], nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return contract.Record{}, ctx.Err()
		case <-r.ctx.Done():
			return contract.Record{}, errors.New("closed")
		}
	}
}

// hold keeps readers from what is appended from now on, until release.
func (m *memory) hold() (release func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = make(chan struct{})
	return sync.OnceFunc(func() { close(m.held) })
}

func (m *memory) Offsets(_ context.Context, topic string) (start, end []int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ends++
	for i, log := range m.topic(topic) {
		start, end = append(start, m.starts[topic][i]), append(end, int64(len(log)))
	}
	return start, end, nil
}

func (m *memory) FirstOffsetAfter(_ context.Context, topic string, partition int, t time.Time) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ask++
	m.topic(topic)
	for i, at := range m.appended[topic][partition] {
		if at.After(t) {
			return int64(i), nil
		}
	}
	return -1, nil
}

func (m *memory) Write(_ context.Context, recs []contract.Record) error {
	if m.onWrite != nil {
		if err := m.onWrite(recs); err != nil {
			return err
		}
	}
	m.append(time.Now(), recs...)
	return nil
}

func (m *memory) append(at time.Time, recs ...contract.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range recs {
		log := m.topic(r.Topic)
		r.Offset = int64(len(log[r.Partition]))
		log[r.Partition] = append(log[r.Partition], r)
		m.appended[r.Topic][r.Partition] = append(m.appended[r.Topic][r.Partition], at)
	}
	close(m.grown)
	m.grown = make(chan struct{})
}

func (m *memory) all(topic string) []contract.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []contract.Record
	for _, log := range m.topic(topic) {
		out = append(out, log...)
	}
	return out
}

// rig is a processor's world in a test: a database, a broker, and the configuration.
type rig struct {
	t      testing.TB
	pool   *pgxpool.Pool
	url    string
	bus    Bus
	topics contract.Topics
	cfg    Config
	reg    *prometheus.Registry
}

const testPartitions = 4

func newRig(t testing.TB, b Bus, topics contract.Topics) *rig {
	t.Helper()
	pool := postgrestest.New(t)
	r := &rig{t: t, pool: pool, url: postgrestest.URL(t, pool), bus: b, topics: topics, reg: prometheus.NewRegistry()}
	r.cfg = Config{
		Bus: b, Connect: r.connect, Topics: topics, Partitions: testPartitions, GroupID: topics.Commands + "-processor", Owner: "test",
		Workers: 2, RelayIdle: 20 * time.Millisecond,
		Deadline: 10 * time.Minute, // a busy machine makes no command of a test stale
		Log:      testLog(t),
	}
	return r
}

// testLog is silent unless asked for: faults under test log a lot.
func testLog(t testing.TB) *slog.Logger {
	if os.Getenv("TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

func newMemoryRig(t testing.TB) (*rig, *memory) {
	m := newMemory(testPartitions)
	return newRig(t, m, contract.NewTopics("test")), m
}

func (r *rig) connect(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, r.url) }

// start runs a processor until stop, which returns what Run did.
func (r *rig) start(change ...func(*Config)) (p *Processor, stop func() error) {
	r.t.Helper()
	cfg := r.cfg
	cfg.Registerer = r.reg
	for _, f := range change {
		f(&cfg)
	}
	p, err := New(cfg)
	if err != nil {
		r.t.Fatalf("New: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	var once sync.Once
	var result error
	stop = func() error {
		once.Do(func() {
			cancel()
			select {
			case result = <-done:
			case <-time.After(30 * time.Second):
				result = errors.New("Run did not return")
			}
		})
		return result
	}
	r.t.Cleanup(func() { _ = stop() })
	return p, stop
}

// user makes an account with slots, as ingest does.
func (r *rig) user(slots int) uuid.UUID {
	r.t.Helper()
	return r.users(1, slots)[0]
}

func (r *rig) users(n, slots int) []uuid.UUID {
	r.t.Helper()
	ids := make([]uuid.UUID, n)
	for i := range ids {
		ids[i] = uuid.New()
	}
	r.addUsers(ids, slots)
	return ids
}

func (r *rig) addUsers(ids []uuid.UUID, slots int) {
	r.t.Helper()
	ctx := r.t.Context()
	r.exec(`INSERT INTO users (id, display_name, partner_code, created_at)
		SELECT id, 'U', substr(id::text, 1, 18), now() FROM unnest($1::uuid[]) AS k (id)`, ids)
	r.exec(`INSERT INTO user_streams (user_id) SELECT unnest($1::uuid[])`, ids)
	r.exec(`INSERT INTO user_slots (user_id, slot) SELECT id, n FROM unnest($1::uuid[]) AS k (id), generate_series(1, $2::int) AS n`, ids, slots)
	_ = ctx
}

func (r *rig) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.pool.Exec(context.Background(), sql, args...); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

func one[T any](r *rig, sql string, args ...any) T {
	r.t.Helper()
	rows, err := r.pool.Query(context.Background(), sql, args...)
	if err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func (r *rig) record(cmd partner.Command) contract.Record {
	r.t.Helper()
	rec, err := contract.EncodeCommand(r.topics, testPartitions, cmd, "")
	if err != nil {
		r.t.Fatalf("encode: %v", err)
	}
	return rec
}

// post writes commands to the topic as ingest does.
func (r *rig) post(cmds ...partner.Command) {
	r.t.Helper()
	recs := make([]contract.Record, len(cmds))
	for i, c := range cmds {
		recs[i] = r.record(c)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := r.bus.Write(ctx, recs); err != nil {
		r.t.Fatalf("post: %v", err)
	}
}

// eventually polls until the condition holds.
func (r *rig) eventually(what string, cond func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			r.t.Fatalf("not in 30 s: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// settled waits until every command has an outcome and everything committed is published.
func (r *rig) settled() {
	r.t.Helper()
	r.eventually("all applied and published", func() bool {
		_, end, err := r.bus.Offsets(context.Background(), r.topics.Commands)
		if err != nil {
			return false
		}
		done := map[int]int64{}
		rows, err := r.pool.Query(context.Background(), `SELECT partition, next_offset, event_seq - relayed_seq FROM processor_partitions`)
		if err != nil {
			return false
		}
		var part int
		var next, open int64
		if _, err := pgx.ForEachRow(rows, []any{&part, &next, &open}, func() error {
			done[part] = next
			if open > 0 {
				done[part] = math.MinInt64
			}
			return nil
		}); err != nil {
			return false
		}
		for i, e := range end {
			if done[i] < e {
				return false
			}
		}
		return true
	})
}

func command(kind partner.CommandType, from, to uuid.UUID) partner.Command {
	id := uuid.New()
	cmd := partner.Command{
		ID: id, Type: kind, Issuer: from, Pair: partner.PairOf(from, to),
		AcceptedAt: time.Now().UTC().Truncate(time.Microsecond), Fingerprint: [16]byte(uuid.NewSHA1(id, []byte("body"))),
	}
	return cmd
}

func send(from, to uuid.UUID) partner.Command { return command(partner.Send, from, to) }

func accept(by uuid.UUID, s partner.Command) partner.Command {
	cmd := command(partner.Accept, by, s.Pair.Other(by))
	cmd.RequestID = partner.RequestIDOf(s.ID)
	return cmd
}

func remove(by, other uuid.UUID) partner.Command { return command(partner.Remove, by, other) }

func (r *rig) outcome(id uuid.UUID) string {
	r.t.Helper()
	return one[string](r, `SELECT CASE WHEN count(*) = 0 THEN 'none' WHEN max(status) = 1 THEN 'applied' ELSE max(code) END FROM commands WHERE id = $1`, id)
}

// gapless checks inboxes, event sequences and that the topic holds every row in order (G4, G5).
func (r *rig) gapless() {
	r.t.Helper()
	for name, sql := range map[string]string{
		"inbox with a gap": `SELECT count(*) FROM (SELECT user_id FROM inbox i WHERE NOT EXISTS (SELECT 1 FROM users u WHERE u.id = i.user_id AND u.erased_at IS NOT NULL)
			GROUP BY user_id HAVING max(seq) <> count(*)) x`,
		"stream beside inbox": `SELECT count(*) FROM user_streams s WHERE last_seq <> (SELECT count(*) FROM inbox i WHERE i.user_id = s.user_id)
			AND NOT EXISTS (SELECT 1 FROM users u WHERE u.id = s.user_id AND u.erased_at IS NOT NULL)`,
		"events with a gap":      `SELECT count(*) FROM (SELECT partition FROM events GROUP BY partition HAVING max(seq) <> count(*)) x`,
		"row beside its events":  `SELECT count(*) FROM processor_partitions p WHERE event_seq <> (SELECT count(*) FROM events e WHERE e.partition = p.partition)`,
		"inbox without event":    `SELECT count(*) FROM inbox i LEFT JOIN events e ON e.partition = i.partition AND e.seq = i.event_seq WHERE e.seq IS NULL`,
		"event id twice":         `SELECT count(*) - count(DISTINCT id) FROM events`,
		"more active than slots": `SELECT count(*) FROM (SELECT user_id FROM partnership_members m WHERE active GROUP BY user_id HAVING count(*) > (SELECT count(*) FROM user_slots s WHERE s.user_id = m.user_id)) x`,
		"active without members": `SELECT count(*) FROM partnerships p WHERE (SELECT count(*) FROM partnership_members m WHERE m.partnership_id = p.id AND m.active) <> CASE WHEN p.status = 1 THEN 2 ELSE 0 END`,
	} {
		if n := one[int64](r, sql); n != 0 {
			r.t.Errorf("%s: %d", name, n)
		}
	}
}

// published reads the events topic and checks that it holds each row, in order.
func (r *rig) published() map[uuid.UUID]contract.Event {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	start, end, err := r.bus.Offsets(ctx, r.topics.Events)
	if err != nil {
		r.t.Fatalf("offsets: %v", err)
	}
	out := map[uuid.UUID]contract.Event{}
	for p := range end {
		reader := r.bus.Open(r.topics.Events, p, start[p])
		high := int64(0)
		for o := start[p]; o < end[p]; o++ {
			rec, err := reader.Read(ctx)
			if err != nil {
				r.t.Fatalf("read events: %v", err)
			}
			ev, err := contract.DecodeEvent(rec)
			if err != nil {
				r.t.Fatalf("decode event: %v", err)
			}
			if _, repeat := out[ev.EventID]; !repeat && ev.Seq <= high {
				r.t.Errorf("partition %d: event %d first appears after %d", p, ev.Seq, high)
			}
			high = max(high, ev.Seq)
			out[ev.EventID] = ev
		}
		reader.Close()
	}
	if want := one[int64](r, `SELECT count(*) FROM events WHERE topic = 1`); want != int64(len(out)) {
		r.t.Errorf("events topic holds %d of %d events", len(out), want)
	}
	return out
}

// value sums a metric's samples, those with all the label values given.
func value(t testing.TB, reg *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatalf("gather: %v", err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var has []string
			for _, l := range m.GetLabel() {
				has = append(has, l.GetValue())
			}
			if !slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(has, l) }) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}
