package processor

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// TestHistoriesEndAsInTheCore takes random histories through Kafka's order, batches, SQL
// and crashes, timers that go off in between
// and deletions of accounts, and compares all tables with the core deciding one by one. All is
// on one partition: its events then hold one total order, follow-ups and timers included.
func TestHistoriesEndAsInTheCore(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("TEST_SEED"), 10, 64); err == nil {
		seed = s
	}
	var mu sync.Mutex
	all := map[string]int{}
	t.Run("histories", func(t *testing.T) {
		for i := range uint64(4) {
			t.Run(fmt.Sprintf("seed=%d", seed+i), func(t *testing.T) {
				t.Parallel()
				counts := compareHistory(t, rand.New(rand.NewPCG(seed+i, 0)))
				mu.Lock()
				defer mu.Unlock()
				for what, n := range counts {
					all[what] += n
				}
			})
		}
	})
	for what, n := range all {
		if n == 0 {
			t.Errorf("the histories have no %s", what)
		}
	}
}

// compareHistory counts what the history had.
func compareHistory(t *testing.T, rnd *rand.Rand) map[string]int {
	broker := newMemory(1)
	r := newRig(t, broker, contract.NewTopics("model"))
	people := make([]uuid.UUID, 8)
	m := newModel()
	for i := range people {
		slots := 1 + rnd.IntN(2)
		people[i] = r.user(slots)
		u := partner.User{ID: people[i], Status: partner.UserActive}
		for s := range slots {
			u.Slots = append(u.Slots, int16(s+1))
		}
		m.users[people[i]] = u
		m.names[people[i]], m.status[people[i]] = "U", partner.UserActive
	}
	// Time runs fast, so that requests expire and partnerships are archived on the way.
	// It begins after today, since what the relay writes bears the time of the machine, and a
	// log's times do not go back.
	at := time.Now().Add(day).UTC().Truncate(time.Microsecond)
	shadow := newModel() // as far as it can be told while the history is made: without follow-ups
	shadow.users = maps.Clone(m.users)
	var sends, asks []partner.Command
	kinds := []partner.CommandType{
		partner.Send, partner.Send, partner.Send, partner.Send, partner.Accept, partner.Accept, partner.Accept, partner.Accept,
		partner.Decline, partner.Cancel, partner.Remove, partner.AskBreakup, partner.AskBreakup, partner.AcceptBreakup,
		partner.DeclineBreakup, partner.WithdrawBreakup, partner.Unblock, partner.SetNickname, partner.ClearNickname,
		partner.UpdateProfile, partner.ChangeCode, partner.Forfeit, partner.Block, partner.ReadInbox, partner.DeleteAccount,
	}
	next := func() partner.Command {
		step := 4 * time.Hour
		if rnd.IntN(15) == 0 {
			step = 40 * 24 * time.Hour
		}
		at = at.Add(time.Duration(rnd.Int64N(int64(step)))).Truncate(time.Microsecond)
		a := people[rnd.IntN(len(people))]
		b := people[rnd.IntN(len(people))]
		kind := kinds[rnd.IntN(len(kinds))]
		if kind == partner.Block && rnd.IntN(4) != 0 {
			kind = partner.Unblock
		}
		if kind == partner.DeleteAccount && rnd.IntN(8) != 0 {
			kind = partner.ReadInbox
		}
		cmd := command(kind, a, b)
		answer := func(to []partner.Command, byIssuer bool) (partner.Command, partner.Command) {
			if len(to) == 0 {
				return cmd, command(kind, a, b)
			}
			s := to[max(0, len(to)-1-rnd.IntN(6))]
			by := s.Pair.Other(s.Issuer)
			if byIssuer != (rnd.IntN(10) == 0) {
				by = s.Issuer
			}
			return command(kind, by, s.Pair.Other(by)), s
		}
		// Half of the commands aim at what is there by now, as people do.
		var target partner.Pair
		aimed := rnd.IntN(2) == 0
		for _, p := range slices.SortedFunc(maps.Keys(shadow.all), func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) }) {
			if now := shadow.all[p]; now.Status == partner.PartnershipActive && (target == partner.Pair{} || rnd.IntN(3) == 0) {
				target = now.Pair
			}
		}
		switch kind {
		case partner.Accept, partner.Decline, partner.Cancel:
			var to partner.Command
			cmd, to = answer(sends, kind == partner.Cancel)
			cmd.RequestID = partner.RequestIDOf(to.ID)
		case partner.AcceptBreakup, partner.DeclineBreakup, partner.WithdrawBreakup:
			var to partner.Command
			cmd, to = answer(asks, kind == partner.WithdrawBreakup)
			cmd.BreakupID = partner.BreakupIDOf(to.ID)
		case partner.Remove, partner.AskBreakup, partner.SetNickname, partner.ClearNickname, partner.Block, partner.Unblock:
			cmd, _ = answer(sends, false)
			if aimed && target != (partner.Pair{}) {
				by := []uuid.UUID{target.Low, target.High}[rnd.IntN(2)]
				cmd = command(kind, by, target.Other(by))
			}
		case partner.Forfeit:
			var to partner.Command
			cmd, to = answer(sends, false)
			cmd.PartnershipID = partner.PartnershipIDOf(to.ID)
			for _, p := range shadow.all {
				if p.Pair == cmd.Pair && p.Status == partner.PartnershipEnded {
					cmd.PartnershipID = p.ID
				}
			}
		case partner.ReadInbox, partner.DeleteAccount:
			cmd.Pair, cmd.ReadSeq = partner.PairOf(a, a), 0
			if kind == partner.ReadInbox {
				cmd.ReadSeq = int64(1 + rnd.IntN(60))
			}
		case partner.UpdateProfile, partner.ChangeCode:
			cmd.Pair = partner.PairOf(a, a)
			name, code := fmt.Sprint("name ", rnd.IntN(100)), cmd.ID.String()[:18]
			cmd.Profile = &partner.ProfilePatch{DisplayName: &name}
			if kind == partner.ChangeCode {
				cmd.Profile = &partner.ProfilePatch{PartnerCode: &code}
			}
		default:
		}
		cmd.AcceptedAt = at
		switch kind {
		case partner.Send:
			cmd.Message, cmd.Fresh = "hello", rnd.IntN(8) == 0
			sends = append(sends, cmd)
		case partner.Accept:
			cmd.Fresh = rnd.IntN(8) == 0
		case partner.Remove:
			cmd.Reason, cmd.Quiet = "why", rnd.IntN(4) == 0
		case partner.AskBreakup:
			cmd.Reason = "because"
			asks = append(asks, cmd)
		case partner.SetNickname:
			cmd.Nickname = fmt.Sprint("nick ", rnd.IntN(10))
		default:
		}
		shadow.apply(cmd)
		return cmd
	}
	crash := rnd.IntN(30)
	clock := &traveller{at: at}
	_, stop := r.start(byTheClock(clock), func(c *Config) {
		c.Partitions, c.MaxBatch, c.Hook = 1, 1+rnd.IntN(64), crashNow(crash)
	})
	for range 40 {
		var recs []contract.Record
		var accepted []time.Time
		for range 1 + rnd.IntN(20) {
			cmd := next()
			rec, err := contract.EncodeCommand(r.topics, 1, cmd, "")
			if err != nil {
				t.Fatal(err)
			}
			for range 1 + max(0, rnd.IntN(10)-8) { // one in ten is there twice
				recs, accepted = append(recs, rec), append(accepted, cmd.AcceptedAt)
			}
		}
		for i, rec := range recs {
			broker.append(accepted[i], rec)
		}
		clock.travel(at.Sub(clock.now())) // not before they are in the log
		if rnd.IntN(4) == 0 {
			r.ripe(clock)
		}
	}
	r.ripe(clock)
	r.ripe(clock) // once more: a follow-up of the last follow-ups
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	var log []uuid.UUID
	commands := map[uuid.UUID]partner.Command{}
	for _, rec := range broker.all(r.topics.Commands) {
		cmd, _, err := contract.DecodeCommand(rec)
		if err != nil {
			t.Fatal(err)
		}
		if _, again := commands[cmd.ID]; !again {
			log = append(log, cmd.ID)
		}
		commands[cmd.ID] = cmd
	}
	fired := 0
	passed := map[partner.Pair]time.Time{} // the due time of the last timer
	for _, id := range happened(r) {
		if cmd, ok := commands[id]; ok {
			if id != log[0] {
				t.Errorf("%s took effect out of its turn", cmd.Type)
			}
			if due := passed[cmd.Pair]; !cmd.FollowUp() && !cmd.AcceptedAt.After(due) {
				t.Errorf("%s of %v took effect after what was due at %v", cmd.Type, cmd.AcceptedAt, due)
			}
			log = log[1:]
			m.apply(cmd)
			continue
		}
		for _, timer := range m.timers {
			if partner.TimerID(timer) == id {
				m.fire(timer)
				passed[timer.Pair] = timer.Due
				fired++
			}
		}
	}
	r.gapless()
	counts := map[string]int{
		"requests": len(m.requests), "partnerships": len(m.all), "breakups": len(m.breakups), "cuts": len(m.cuts),
		"timers that went off": fired, "erased accounts": len(m.erased), "read marks": len(m.read),
	}
	t.Logf("%d commands, %v", len(m.outcomes), counts)
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
	sides := map[string]partner.Side{}
	for p, st := range m.pairs {
		for owner, side := range map[uuid.UUID]partner.Side{p.Low: st.Low, p.High: st.High} {
			side.Named = false
			if !side.Empty() {
				sides[owner.String()+p.Other(owner).String()] = side
			}
		}
	}
	if diff := cmp.Diff(sides, storedSides(r), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("sides (-core +tables):\n%s", diff)
	}
	nicknames := map[string]string{}
	for n, text := range m.nicknames {
		nicknames[n.from.String()+n.to.String()] = text
	}
	erased := map[uuid.UUID]bool{}
	for user, gone := range m.erased {
		erased[user] = true
		if m.inbox[user] -= gone; m.inbox[user] == 0 { // what came after: refusals of what they still asked for
			delete(m.inbox, user)
		}
	}
	for name, tc := range map[string]struct {
		want any
		got  any
	}{
		"breakups":  {m.breakups, breakups(r)},
		"nicknames": {nicknames, keyed[string](r, `SELECT owner::text || target::text, nickname FROM nicknames`)},
		"timers":    {len(m.timers), len(keyed[int16](r, `SELECT low::text || high::text || kind, kind FROM timers WHERE kind < 4`))},
		"cuts":      {m.cuts, keyed[int](r, `SELECT recipient || ' ' || origin || ' ' || last_seq, 1 FROM cuts`)},
		"states of accounts": {m.status, table(r, `SELECT id, status FROM users`, func(row pgx.CollectableRow) (id uuid.UUID, status partner.UserStatus, err error) {
			var n int16
			err = row.Scan(&id, &n)
			status = partner.UserStatus(n)
			return id, status, err
		})},
		"read marks": {m.read, table(r, `SELECT user_id, read_seq FROM user_streams WHERE read_seq > 0`, func(row pgx.CollectableRow) (id uuid.UUID, seq int64, err error) {
			err = row.Scan(&id, &seq)
			return id, seq, err
		})},
		"erased": {erased, table(r, `SELECT id, true FROM users WHERE erased_at IS NOT NULL`, func(row pgx.CollectableRow) (id uuid.UUID, erased bool, err error) {
			err = row.Scan(&id, &erased)
			return id, erased, err
		})},
		"names": {m.names, table(r, `SELECT id, display_name FROM users`, func(row pgx.CollectableRow) (id uuid.UUID, name string, err error) {
			err = row.Scan(&id, &name)
			return id, name, err
		})},
	} {
		if diff := cmp.Diff(tc.want, tc.got); diff != "" {
			t.Errorf("%s (-core +tables):\n%s", name, diff)
		}
	}
	if diff := cmp.Diff(m.inbox, inbox); diff != "" {
		t.Errorf("inboxes (-core +tables):\n%s", diff)
	}
	checkReplay(t, r)
	return counts
}

// happened returns the ids of the commands and timers in the order in which they took effect.
func happened(r *rig) []uuid.UUID {
	r.t.Helper()
	rows, err := r.pool.Query(r.t.Context(), `SELECT command_id FROM events WHERE topic = 1 GROUP BY command_id ORDER BY min(seq)`)
	if err != nil {
		r.t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		r.t.Fatal(err)
	}
	return ids
}

// ripe waits until all that was queued, and all that is due by the clock, has happened.
func (r *rig) ripe(clock *traveller) {
	r.t.Helper()
	r.settled()
	r.eventually("nothing is due", func() bool {
		return one[int64](r, `SELECT count(*) FROM timers WHERE kind < 4 AND due_at < $1`, clock.now().Add(-4*time.Second)) == 0
	})
	r.settled()
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

// keyed reads rows of a text and a value.
func keyed[V any](r *rig, sql string, args ...any) map[string]V {
	r.t.Helper()
	rows, err := r.pool.Query(r.t.Context(), sql, args...)
	if err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
	out := map[string]V{}
	var key string
	var v V
	if _, err := pgx.ForEachRow(rows, []any{&key, &v}, func() error {
		out[key] = v
		return nil
	}); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
	return out
}

func storedSides(r *rig) map[string]partner.Side {
	r.t.Helper()
	rows, err := r.pool.Query(r.t.Context(), `SELECT user_id, other_id, blocked_at, door_closed_at,
		COALESCE(forfeited, '00000000-0000-0000-0000-000000000000'), declines, last_declined_at, sends FROM pair_sides`)
	if err != nil {
		r.t.Fatal(err)
	}
	out := map[string]partner.Side{}
	if _, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
		var (
			owner, other            uuid.UUID
			s                       partner.Side
			blocked, door, declined *time.Time
		)
		err := row.Scan(&owner, &other, &blocked, &door, &s.Forfeited, &s.Declines, &declined, &s.Sends)
		for to, from := range map[*time.Time]*time.Time{&s.BlockedAt: blocked, &s.DoorClosedAt: door, &s.LastDeclined: declined} {
			if from != nil {
				*to = from.UTC()
			}
		}
		out[owner.String()+other.String()] = s
		return struct{}{}, err
	}); err != nil {
		r.t.Fatal(err)
	}
	return out
}

func breakups(r *rig) map[uuid.UUID]partner.Breakup {
	const sql = `SELECT id, partnership_id, low, high, asker, reason, status, created_at, expires_at, resolved_at FROM breakups`
	return table(r, sql, func(row pgx.CollectableRow) (id uuid.UUID, b partner.Breakup, err error) {
		var status int16
		var resolved *time.Time
		err = row.Scan(&b.ID, &b.PartnershipID, &b.Pair.Low, &b.Pair.High, &b.Asker, &b.Reason, &status, &b.CreatedAt, &b.ExpiresAt, &resolved)
		b.Status = partner.BreakupStatus(status)
		if resolved != nil {
			b.ResolvedAt = *resolved
		}
		return b.ID, b, err
	})
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
