package processor

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// model is the core alone: one command after the other, all state in maps.
type model struct {
	users    map[uuid.UUID]partner.User
	pairs    map[partner.Pair]*partner.Partnership
	requests map[uuid.UUID]partner.Request
	all      map[uuid.UUID]partner.Partnership
	outcomes map[uuid.UUID]string
	inbox    map[uuid.UUID]int64
	order    []uuid.UUID // requests in the order of their making
}

func (m *model) apply(cmd partner.Command) {
	if _, seen := m.outcomes[cmd.ID]; seen {
		return
	}
	st := partner.State{Pair: partner.PairState{Pair: cmd.Pair, Partnership: m.pairs[cmd.Pair]}, Users: map[uuid.UUID]partner.User{}}
	for _, id := range m.order {
		r := m.requests[id]
		if partner.PairOf(r.Sender, r.Target) == cmd.Pair && (r.Status == partner.RequestPending || r.ID == cmd.RequestID) {
			st.Pair.Requests = append(st.Pair.Requests, r)
		}
	}
	for _, id := range []uuid.UUID{cmd.Pair.Low, cmd.Pair.High} {
		u := m.users[id]
		u.Pending = nil
		for _, rid := range m.order {
			if r := m.requests[rid]; r.Status == partner.RequestPending && (r.Sender == id || r.Target == id) {
				u.Pending = append(u.Pending, partner.PendingRef{RequestID: rid, Pair: partner.PairOf(r.Sender, r.Target)})
			}
		}
		st.Users[id] = u
	}
	d := partner.Decide(partner.DefaultLimits(), st, cmd)
	m.outcomes[cmd.ID] = string(d.Outcome.Code)
	for _, r := range d.Requests {
		if _, known := m.requests[r.ID]; !known {
			m.order = append(m.order, r.ID)
		}
		m.requests[r.ID] = r
	}
	for _, p := range d.Partners {
		m.all[p.ID] = p
	}
	m.pairs[cmd.Pair] = d.Next.Pair.Partnership
	for id, u := range d.Next.Users {
		m.users[id] = u
	}
	for _, ev := range d.Events {
		for _, u := range ev.Recipients {
			m.inbox[u]++
		}
	}
}

// TestHistoriesEndAsInTheCore takes random histories through Kafka's order, batches, SQL
// and crashes, and compares all tables with the core deciding one by one. All is on one
// partition: the log then holds one total order, follow-ups included, to replay.
func TestHistoriesEndAsInTheCore(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("TEST_SEED"), 10, 64); err == nil {
		seed = s
	}
	for i := range uint64(4) {
		t.Run(fmt.Sprintf("seed=%d", seed+i), func(t *testing.T) {
			t.Parallel()
			compareHistory(t, rand.New(rand.NewPCG(seed+i, 0)))
		})
	}
}

func compareHistory(t *testing.T, rnd *rand.Rand) {
	broker := newMemory(1)
	r := newRig(t, broker, contract.NewTopics("model"))
	people := make([]uuid.UUID, 8)
	m := &model{
		users: map[uuid.UUID]partner.User{}, pairs: map[partner.Pair]*partner.Partnership{}, requests: map[uuid.UUID]partner.Request{},
		all: map[uuid.UUID]partner.Partnership{}, outcomes: map[uuid.UUID]string{}, inbox: map[uuid.UUID]int64{},
	}
	for i := range people {
		slots := 1 + rnd.IntN(2)
		people[i] = r.user(slots)
		u := partner.User{ID: people[i], Status: partner.UserActive}
		for s := range slots {
			u.Slots = append(u.Slots, int16(s+1))
		}
		m.users[people[i]] = u
	}
	// Time runs fast, so that requests expire and partnerships are archived on the way.
	at := time.Now().Add(-2000 * 24 * time.Hour).UTC().Truncate(time.Microsecond)
	var sends []partner.Command
	next := func() partner.Command {
		at = at.Add(time.Duration(rnd.Int64N(int64(48 * time.Hour)))).Truncate(time.Microsecond)
		a := people[rnd.IntN(len(people))]
		b := people[rnd.IntN(len(people))]
		kind := []partner.CommandType{
			partner.Send, partner.Send, partner.Send, partner.Accept, partner.Accept, partner.Accept, partner.Decline,
			partner.Cancel, partner.Remove,
		}[rnd.IntN(9)]
		cmd := command(kind, a, b)
		if (kind == partner.Accept || kind == partner.Decline || kind == partner.Cancel) && len(sends) > 0 {
			s := sends[max(0, len(sends)-1-rnd.IntN(6))]
			by := s.Pair.Other(s.Issuer)
			if (kind == partner.Cancel) != (rnd.IntN(10) == 0) {
				by = s.Issuer
			}
			cmd = command(kind, by, s.Pair.Other(by))
			cmd.RequestID = partner.RequestIDOf(s.ID)
		} else if kind != partner.Send && kind != partner.Remove {
			cmd.RequestID = uuid.New()
		}
		cmd.AcceptedAt, cmd.Fresh, cmd.Quiet = at, rnd.IntN(8) == 0, rnd.IntN(4) == 0
		cmd.Message, cmd.Reason = "hello", "why"
		if kind == partner.Send {
			sends = append(sends, cmd)
		}
		return cmd
	}
	crash := rnd.IntN(30)
	_, stop := r.start(func(c *Config) {
		c.Partitions, c.Deadline, c.MaxBatch = 1, 100*365*24*time.Hour, 1+rnd.IntN(64)
		c.Hook = crashNow(crash)
	})
	for range 40 {
		var recs []contract.Record
		for range 1 + rnd.IntN(20) {
			rec, err := contract.EncodeCommand(r.topics, 1, next(), "")
			if err != nil {
				t.Fatal(err)
			}
			recs = append(recs, rec)
			if rnd.IntN(10) == 0 {
				recs = append(recs, rec)
			}
		}
		broker.append(time.Now(), recs...)
		if rnd.IntN(4) == 0 {
			r.settled()
		}
	}
	r.settled()
	r.settled() // once more: a follow-up of the last follow-ups
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for _, rec := range broker.all(r.topics.Commands) {
		cmd, _, err := contract.DecodeCommand(rec)
		if err != nil {
			t.Fatal(err)
		}
		m.apply(cmd)
	}
	r.gapless()
	if diff := cmp.Diff(m.outcomes, outcomes(r)); diff != "" {
		t.Errorf("outcomes (-core +tables):\n%s", diff)
	}
	if diff := cmp.Diff(m.requests, requests(r)); diff != "" {
		t.Errorf("requests (-core +tables):\n%s", diff)
	}
	if diff := cmp.Diff(m.all, partnerships(r)); diff != "" {
		t.Errorf("partnerships (-core +tables):\n%s", diff)
	}
	inbox := table(r, `SELECT user_id, count(*) FROM inbox GROUP BY user_id`, func(row pgx.CollectableRow) (id uuid.UUID, n int64, err error) {
		err = row.Scan(&id, &n)
		return id, n, err
	})
	if diff := cmp.Diff(m.inbox, inbox); diff != "" {
		t.Errorf("inboxes (-core +tables):\n%s", diff)
	}
}

func table[V any](r *rig, sql string, scan func(pgx.CollectableRow) (id uuid.UUID, v V, err error)) map[uuid.UUID]V {
	r.t.Helper()
	rows, err := r.pool.Query(r.t.Context(), sql)
	if err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
	out := map[uuid.UUID]V{}
	if _, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
		id, v, err := scan(row)
		out[id] = v
		return struct{}{}, err
	}); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
	return out
}

func outcomes(r *rig) map[uuid.UUID]string {
	return table(r, `SELECT id, COALESCE(code, '') FROM commands`, func(row pgx.CollectableRow) (id uuid.UUID, code string, err error) {
		err = row.Scan(&id, &code)
		return id, code, err
	})
}

func requests(r *rig) map[uuid.UUID]partner.Request {
	const sql = `SELECT id, sender, target, message, fresh, status, created_at, expires_at, resolved_at FROM requests`
	return table(r, sql, func(row pgx.CollectableRow) (id uuid.UUID, q partner.Request, err error) {
		var status int16
		var resolved *time.Time
		err = row.Scan(&q.ID, &q.Sender, &q.Target, &q.Message, &q.Fresh, &status, &q.CreatedAt, &q.ExpiresAt, &resolved)
		q.Status, q.CreatedAt, q.ExpiresAt = partner.RequestStatus(status), q.CreatedAt.UTC(), q.ExpiresAt.UTC()
		if resolved != nil {
			q.ResolvedAt = resolved.UTC()
		}
		return q.ID, q, err
	})
}

func partnerships(r *rig) map[uuid.UUID]partner.Partnership {
	const sql = `SELECT p.id, p.low, p.high, p.status, l.slot, h.slot, p.started_at, p.ended_at, p.restorable_until,
			COALESCE(p.ended_by, '00000000-0000-0000-0000-000000000000'), p.reason, p.quiet, p.restored_count, p.version
		FROM partnerships p
		JOIN partnership_members l ON l.partnership_id = p.id AND l.user_id = p.low AND l.active = (p.status = 1)
		JOIN partnership_members h ON h.partnership_id = p.id AND h.user_id = p.high AND h.active = (p.status = 1)`
	return table(r, sql, func(row pgx.CollectableRow) (id uuid.UUID, p partner.Partnership, err error) {
		var status int16
		var ended, until *time.Time
		err = row.Scan(&p.ID, &p.Pair.Low, &p.Pair.High, &status, &p.LowSlot, &p.HighSlot, &p.StartedAt, &ended, &until,
			&p.EndedBy, &p.Reason, &p.Quiet, &p.RestoredCount, &p.Version)
		p.Status, p.StartedAt = partner.PartnershipStatus(status), p.StartedAt.UTC()
		if ended != nil {
			p.EndedAt = ended.UTC()
		}
		if until != nil {
			p.RestorableUntil = until.UTC()
		}
		return p.ID, p, err
	})
}
