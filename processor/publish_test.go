package processor

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// announced waits until no timer that publishes is due and everything is on its topic.
func (r *rig) announced() {
	r.t.Helper()
	r.eventually("all is published", func() bool {
		return one[int64](r, `SELECT count(*) FROM timers WHERE kind IN (4, 5)`) == 0
	})
	r.settled()
}

// all reads a topic, partition by partition.
func (r *rig) all(topic string) []contract.Record {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	start, end, err := r.bus.Offsets(ctx, topic)
	if err != nil {
		r.t.Fatalf("offsets of %s: %v", topic, err)
	}
	var out []contract.Record
	for p := range end {
		reader := r.bus.Open(topic, p, start[p])
		for o := start[p]; o < end[p]; o++ {
			rec, err := reader.Read(ctx)
			if err != nil {
				r.t.Fatalf("read %s: %v", topic, err)
			}
			out = append(out, rec)
		}
		reader.Close()
	}
	return out
}

// coupleStates and userStates read the compacted topics: each key's records in order, each
// held against its schema, and versions that rise.
func (r *rig) coupleStates() map[partner.Pair][]contract.Couple {
	r.t.Helper()
	out := map[partner.Pair][]contract.Couple{}
	for _, rec := range r.all(r.topics.Couples) {
		c, err := contract.DecodeCouple(rec)
		if err != nil {
			r.t.Fatal(err)
		}
		if want := contract.PartitionOf(rec.Key, testPartitions); rec.Partition != want {
			r.t.Errorf("couple %s lies on partition %d, want %d", c.Pair, rec.Partition, want)
		}
		r.valid(rec)
		if before := out[c.Pair]; len(before) > 0 && before[len(before)-1].Version >= c.Version {
			r.t.Errorf("couple %s has version %d after %d", c.Pair, c.Version, before[len(before)-1].Version)
		}
		out[c.Pair] = append(out[c.Pair], c)
	}
	return out
}

func (r *rig) userStates() map[uuid.UUID][]contract.User {
	r.t.Helper()
	out := map[uuid.UUID][]contract.User{}
	for _, rec := range r.all(r.topics.Users) {
		u, err := contract.DecodeUser(rec)
		if err != nil {
			r.t.Fatal(err)
		}
		if want := contract.PartitionOf(rec.Key, testPartitions); rec.Partition != want {
			r.t.Errorf("user %s lies on partition %d, want %d", u.UserID, rec.Partition, want)
		}
		r.valid(rec)
		if before := out[u.UserID]; len(before) > 0 && before[len(before)-1].Version >= u.Version {
			r.t.Errorf("user %s has version %d after %d", u.UserID, u.Version, before[len(before)-1].Version)
		}
		out[u.UserID] = append(out[u.UserID], u)
	}
	return out
}

func (r *rig) valid(rec contract.Record) {
	r.t.Helper()
	if rec.Value == nil {
		return
	}
	if err := contract.Validate(rec.Header("ce_type"), rec.Value); err != nil {
		r.t.Error(err)
	}
}

// said is what an analyst reads of a couple.
type said struct {
	Status   string
	Restored int
	Ended    bool
}

func sayings(states []contract.Couple) []said {
	var out []said
	for _, c := range states {
		if c.Erased {
			out = append(out, said{Status: "erased"})
			continue
		}
		out = append(out, said{c.Status.String(), c.RestoredCount, !c.EndedAt.IsZero()})
	}
	return out
}

// announce does what ingest does when it has changed a user's row by itself.
func (r *rig) announce(users ...uuid.UUID) {
	r.t.Helper()
	for _, u := range users {
		pair := partner.PairOf(u, u)
		r.exec(`INSERT INTO timers (low, high, kind, partition, due_at, ref) VALUES ($1, $1, 4, $2, now(), gen_random_uuid())
			ON CONFLICT (low, high, kind) DO UPDATE SET ref = excluded.ref`, u, contract.PartitionOf([]byte(pair.String()), testPartitions))
	}
}

// hookOnce does something at the first pass of a point.
func hookOnce(at Point, do func()) func(context.Context, Point) error {
	var once sync.Once
	return func(_ context.Context, now Point) error {
		if now == at {
			once.Do(do)
		}
		return nil
	}
}

func TestCouplesAndUsersAreTold(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	r.start()
	a, b, c := r.user(2), r.user(2), r.user(1)
	r.announce(a, b, c)
	r.marry(a, b)
	r.post(remove(b, a))
	r.settled()
	r.marry(a, b) // restored
	quiet := remove(a, b)
	quiet.Quiet = true
	r.post(quiet)
	r.settled()
	first := r.coupleStates()[partner.PairOf(a, b)]
	if diff := cmp.Diff([]said{{"active", 0, false}, {"ended", 0, true}, {"active", 1, false}, {"ended", 1, true}}, sayings(first)); diff != "" {
		t.Errorf("couple (-want +got):\n%s", diff)
	}
	for _, s := range first {
		if s.PartnershipID != first[0].PartnershipID || !s.StartedAt.Equal(first[0].StartedAt) {
			t.Errorf("partnership %s since %s, was %s since %s", s.PartnershipID, s.StartedAt, first[0].PartnershipID, first[0].StartedAt)
		}
	}
	// A fresh start archives the old one; the couple is the new one.
	fresh := send(a, b)
	fresh.Fresh = true
	r.post(fresh)
	r.settled()
	r.post(accept(b, fresh))
	r.settled()
	all := r.coupleStates()[partner.PairOf(a, b)]
	if diff := cmp.Diff([]said{{"archived", 1, true}, {"active", 0, false}}, sayings(all[len(first):])); diff != "" {
		t.Errorf("couple after a fresh start (-want +got):\n%s", diff)
	}
	if all[len(all)-1].PartnershipID == first[0].PartnershipID {
		t.Error("the new partnership has the old one's id")
	}

	r.announced()
	zone := command(partner.UpdateProfile, a, a)
	zone.Profile = &partner.ProfilePatch{Timezone: new("Europe/Vienna"), Locale: new("de-AT")}
	r.post(zone, rename(b, "Bob")) // a name is nothing to tell
	r.settled()
	r.announced()
	r.exec(`UPDATE users SET tier = 2, status = 3 WHERE id = $1`, c)
	r.announce(c)
	r.announced()
	users := r.userStates()
	type user struct{ Tier, Locale, Timezone, Status string }
	told := map[uuid.UUID][]user{}
	for id, states := range users {
		for _, u := range states {
			told[id] = append(told[id], user{u.Tier, u.Locale, u.Timezone, u.Status})
			if day := one[string](r, `SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') FROM users WHERE id = $1`, id); u.CreatedDay != day {
				t.Errorf("user %s was created on %s, want %s", id, u.CreatedDay, day)
			}
		}
	}
	want := map[uuid.UUID][]user{
		a: {{"free", "en", "UTC", "active"}, {"free", "de-AT", "Europe/Vienna", "active"}},
		b: {{"free", "en", "UTC", "active"}},
		c: {{"free", "en", "UTC", "active"}, {"premium", "en", "UTC", "suspended"}},
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("users (-want +got):\n%s", diff)
	}
	r.gapless()
	r.published()
}

// What is left of an erased account on the compacted topics is a tombstone under its key
// and under each pair that it ever was a couple with, archived ones too.
func TestErasureLeavesTombstones(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	r.start()
	leaver, b, c := r.user(3), r.user(2), r.user(2)
	r.announce(leaver, b)
	r.marry(leaver, b)
	r.marry(leaver, c)
	r.marry(b, c)
	r.post(remove(leaver, c))
	r.settled()
	// Archived, so that no follow-up of the deletion is about the pair.
	r.exec(`UPDATE partnerships SET status = 3 WHERE status = 2`)
	r.exec(`DELETE FROM timers WHERE kind = 2`)
	r.post(command(partner.DeleteAccount, leaver, leaver))
	r.erased(leaver)
	r.announced()
	couples, users := r.coupleStates(), r.userStates()
	for _, other := range []uuid.UUID{b, c} {
		states := couples[partner.PairOf(leaver, other)]
		if last := states[len(states)-1]; !last.Erased {
			t.Errorf("the last record with %s is %+v, want a tombstone", other, last)
		}
	}
	if others := couples[partner.PairOf(b, c)]; others[len(others)-1].Erased {
		t.Error("the record of the others is gone too")
	}
	if states := users[leaver]; !states[len(states)-1].Erased {
		t.Errorf("the last record of the user is %+v, want a tombstone", states[len(states)-1])
	}
	if states := users[b]; states[len(states)-1].Erased {
		t.Error("the other's record is gone too")
	}
	// Whatever announces an erased user, nothing of them comes back.
	r.announce(leaver)
	r.announced()
	if states := r.userStates()[leaver]; !states[len(states)-1].Erased {
		t.Errorf("after the erasure there is %+v", states[len(states)-1])
	}
}

// A user's row that changes between the reading and the end of the transaction that
// publishes it is published again: its timer is not taken for the one that was done.
func TestChangeWhilePublishingIsPublished(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	u := r.user(1)
	changed := make(chan struct{}, 1)
	r.start(func(c *Config) {
		c.Hook = hookOnce(BeforeWrite, func() {
			tx, err := r.pool.Begin(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			for _, sql := range []string{
				`UPDATE users SET tier = 2 WHERE id = $1`,
				`UPDATE timers SET ref = gen_random_uuid() WHERE low = $1`,
			} {
				if _, err := tx.Exec(t.Context(), sql, u); err != nil {
					t.Error(err)
				}
			}
			if err := tx.Commit(t.Context()); err != nil {
				t.Error(err)
			}
			changed <- struct{}{}
		})
	})
	r.announce(u)
	<-changed
	r.announced()
	states := r.userStates()[u]
	if got := states[len(states)-1].Tier; got != "premium" {
		t.Errorf("the last record says %s, want premium", got)
	}
}

// What was there before there were these topics is published by timers of the migration.
func TestStateOfBeforeIsPublished(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	_, stop := r.start()
	a, b := r.couple(2)
	c := r.user(1)
	r.marry(a, c)
	r.post(remove(a, c))
	r.settled()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	delete(m.logs, r.topics.Couples)
	m.mu.Unlock()
	// As migration 00005 has it, but due at once.
	r.exec(`INSERT INTO timers (low, high, kind, partition, due_at, ref)
		SELECT id, id, 4, -1, now(), gen_random_uuid() FROM users
		UNION ALL SELECT low, high, 5, -1, now(), gen_random_uuid() FROM (SELECT DISTINCT low, high FROM partnerships) p`)
	r.reg = prometheus.NewRegistry()
	r.start()
	r.announced()
	couples, users := r.coupleStates(), r.userStates()
	got := map[partner.Pair][]said{}
	for pair, states := range couples {
		got[pair] = sayings(states)
	}
	want := map[partner.Pair][]said{partner.PairOf(a, b): {{"active", 0, false}}, partner.PairOf(a, c): {{"ended", 0, true}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("couples (-want +got):\n%s", diff)
	}
	if len(users) != 3 {
		t.Errorf("%d users, want 3", len(users))
	}
}

// What the tables hold of a parked pair is published all the same.
func TestStateOfAParkedPairIsPublished(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	r.start()
	u := r.user(1)
	m.Write(t.Context(), []contract.Record{r.unknown(rename(u, "Uma"))}) //nolint:errcheck // memory
	r.settled()
	if got := one[int64](r, `SELECT count(*) FROM parked_commands WHERE low = $1`, u); got != 1 {
		t.Fatalf("%d commands parked, want 1", got)
	}
	r.announce(u)
	r.announced()
	if got := len(r.userStates()[u]); got != 1 {
		t.Errorf("%d records of the user, want 1", got)
	}
}
