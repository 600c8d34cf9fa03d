package processor

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// slowBus keeps the records for compacted topics of some writes on the way, as a network
// does that answers nothing: the writer is told that the outcome is unknown, and they
// arrive when they are let.
type slowBus struct {
	Bus
	t      *testing.T
	topics contract.Topics

	mu    sync.Mutex
	left  int // so many writes that hold compacted records are delayed
	late  []contract.Record
	block bool // the writer hears nothing until it gives up
}

func (s *slowBus) Write(ctx context.Context, recs []contract.Record) error {
	s.mu.Lock()
	state := slices.ContainsFunc(recs, func(r contract.Record) bool { return compacted(s.topics, r.Topic) })
	if !state || s.left == 0 {
		s.mu.Unlock()
		return s.Bus.Write(ctx, recs)
	}
	s.left--
	block := s.block
	for _, r := range recs {
		if compacted(s.topics, r.Topic) {
			s.late = append(s.late, r)
		}
	}
	s.mu.Unlock()
	if block {
		<-ctx.Done()
	}
	return errors.New("no answer")
}

// arrive lets what was kept back land.
func (s *slowBus) arrive() {
	s.t.Helper()
	s.mu.Lock()
	late := s.late
	s.late = nil
	s.mu.Unlock()
	if len(late) == 0 {
		s.t.Fatal("no write was kept back")
	}
	if err := s.Bus.Write(s.t.Context(), late); err != nil {
		s.t.Fatal(err)
	}
}

func (s *slowBus) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.late)
}

// last returns the last record of a key: what compaction leaves.
func (r *rig) last(topic, key string) contract.Record {
	r.t.Helper()
	var last contract.Record
	for _, rec := range r.all(topic) {
		if string(rec.Key) == key {
			last = rec
		}
	}
	return last
}

func (r *rig) lastCouple(a, b uuid.UUID) contract.Couple {
	r.t.Helper()
	c, err := contract.DecodeCouple(r.last(r.topics.Couples, partner.PairOf(a, b).String()))
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func partitionOf(a, b uuid.UUID) int {
	return contract.PartitionOf([]byte(partner.PairOf(a, b).String()), testPartitions)
}

// everyBus runs a test on a broker in memory and on both real ones.
func everyBus(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		r, _ := newMemoryRig(t)
		test(t, r)
	})
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) { test(t, newKafkaRig(t, b)) })
}

// A write whose outcome is unknown arrives behind the newer record of its key. The newer
// one is written again, and is the last.
func TestLateWriteDoesNotWin(t *testing.T) {
	t.Parallel()
	everyBus(t, func(t *testing.T, r *rig) {
		slow := &slowBus{Bus: r.bus, t: t, topics: r.topics, left: 1}
		a, b := r.user(1), r.user(1)
		r.start(func(c *Config) { c.Bus, c.LateWrite = slow, 2*time.Second })
		r.marry(a, b)
		r.post(remove(a, b))
		r.settled()
		if got := r.lastCouple(a, b).Status; got != partner.PartnershipEnded {
			t.Fatalf("the couple is %s, want ended", got)
		}
		slow.arrive()
		if got := r.lastCouple(a, b).Status; got != partner.PartnershipActive {
			t.Fatalf("the late write did not land last: the couple is %s", got)
		}
		r.eventually("the newer record is the last again", func() bool {
			return r.lastCouple(a, b).Status == partner.PartnershipEnded
		})
		r.eventually("nothing is due any more", func() bool { return one[int64](r, `SELECT count(*) FROM timers WHERE kind > 3`) == 0 })
		if got := value(t, r.reg, "bondmate_processor_published_again_total"); got != 1 {
			t.Errorf("%v keys published again, want 1", got)
		}
		r.gapless()
		r.published()
	})
}

// An owner goes with writes under way. They land behind what its successor has published,
// tombstones among it; the successor writes these again, and they are the last.
func TestLateWriteOfAFormerOwnerDoesNotWin(t *testing.T) {
	t.Parallel()
	everyBus(t, func(t *testing.T, r *rig) {
		slow := &slowBus{Bus: r.bus, t: t, topics: r.topics, left: 1000, block: true}
		a, b, leaver, other := r.user(1), r.user(1), r.user(1), r.user(1)
		for partitionOf(a, b) == partitionOf(leaver, leaver) {
			a = r.user(1)
		}
		for p := partitionOf(leaver, other); p == partitionOf(a, b) || p == partitionOf(leaver, leaver); p = partitionOf(leaver, other) {
			other = r.user(1)
		}
		_, stop := r.start(func(c *Config) { c.Bus, c.DrainDeadline, c.Workers = slow, 50*time.Millisecond, testPartitions })
		s, s2 := send(a, b), send(leaver, other)
		r.post(s, accept(b, s), s2, accept(other, s2))
		r.announce(leaver)
		r.eventually("its writes are under way", func() bool { return slow.held() == 3 })
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		r.reg = prometheus.NewRegistry()
		_, stop = r.start(func(c *Config) { c.LateWrite = time.Hour })
		r.post(remove(a, b), command(partner.DeleteAccount, leaver, leaver))
		r.erased(leaver)
		r.announced()
		// The successor goes too: what it owes is in the table.
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		slow.arrive()
		right := func() bool {
			user := r.last(r.topics.Users, leaver.String())
			return r.lastCouple(a, b).Status == partner.PartnershipEnded && r.lastCouple(leaver, other).Erased && user.Value == nil
		}
		if right() {
			t.Fatal("the late writes did not land last")
		}
		r.exec(`UPDATE timers SET due_at = now() WHERE kind IN (6, 7)`) // an hour later
		r.reg = prometheus.NewRegistry()
		r.start()
		r.eventually("the newer records are the last again", right)
		r.settled()
		r.published()
	})
}

// A process that was stopped for long with records in hand finds that its partition has
// another owner before it writes them, not after.
func TestSleeperWritesNoState(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	a, b := r.user(1), r.user(1)
	woken, asleep := make(chan struct{}), make(chan struct{})
	wait := sync.OnceFunc(func() {
		close(asleep)
		<-woken
	})
	pair := []byte(partner.PairOf(a, b).String())
	_, stop := r.start(func(c *Config) {
		c.LateWrite, c.Workers = 20*time.Millisecond, 1
		c.Hook = func(_ context.Context, at Point) error {
			if at == BeforeRelay && one[int64](r, `SELECT count(*) FROM partnerships`) > 0 {
				wait()
			}
			return nil
		}
	})
	s := send(a, b)
	r.post(s, accept(b, s))
	<-asleep
	r.exec(`UPDATE processor_partitions SET epoch = epoch + 1`)
	<-time.After(30 * time.Millisecond) // the sleep itself: longer than half of LateWrite
	close(woken)
	r.eventually("it claims anew", func() bool { return one[int64](r, `SELECT min(epoch) FROM processor_partitions`) > 2 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	claims := 0
	for _, rec := range m.all(r.topics.Couples) {
		if bytes.Equal(rec.Key, pair) {
			claims++
		}
	}
	if claims > 1 {
		t.Errorf("the record was written %d times, want by the new claim alone", claims)
	}
}
