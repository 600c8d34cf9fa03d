package notifier

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/embedded/fcm"
	"github.com/bondmate/backend/pkg/partner"
)

// From records on the topic to pushes, over two runs of the notifier: repeats push once,
// what cannot be read is set aside, and the second run goes on from the first's offsets.
func TestTopicToPush(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, func(t *testing.T, b *kafkatest.Broker) {
		w := newWorld(t)
		client := b.Client(t)
		prefix := kafkatest.Prefix(t)
		topics := contract.NewTopics(prefix)
		const partitions = 3
		if err := client.EnsureTopics(t.Context(), topics.Specs(partitions)); err != nil {
			t.Fatal(err)
		}
		write := func(recs ...contract.Record) {
			t.Helper()
			if err := client.Write(t.Context(), recs); err != nil {
				t.Fatal(err)
			}
		}
		encode := func(ev contract.Event) contract.Record {
			t.Helper()
			partition := contract.PartitionOf([]byte(ev.Pair), partitions)
			rec, err := contract.EncodeEvent(topics.Events, partition, ev)
			if err != nil {
				t.Fatal(err)
			}
			return rec
		}
		cfg := w.config()
		cfg.Bus, cfg.Group = client, bus.GroupConfig{ID: prefix + "-notifier", Topic: topics.Events}
		cfg.DeadLetter = topics.DeadLetter

		// Before the group exists: it must start at the earliest record.
		var recs []contract.Record
		const first = 20
		for i := range first {
			ev := received(int64(i+1), w.phone(fmt.Sprintf("first-%d", i)).user)
			recs = append(recs, encode(ev), encode(ev))
		}
		strange := received(1, uuid.New())
		strange.Type = "anniversary.reached"
		recs = append(recs, encode(strange), contract.Record{
			Topic: topics.Events, Partition: 1, Key: []byte("key"), Value: []byte("{not json"),
			Headers: []contract.Header{{Key: "binary", Value: []byte{0, 0xff}}},
		})
		write(recs...)

		stop := w.background(w.notifier(cfg).Run)
		if diff := cmp.Diff(map[Outcome]int{Delivered: first}, w.awaitSettled(first)); diff != "" {
			t.Errorf("outcomes (-want +got):\n%s", diff)
		}
		w.await("the offsets to be committed", func() bool {
			committed, err := client.Committed(t.Context(), cfg.Group.ID, topics.Events)
			if err != nil {
				t.Fatal(err)
			}
			var sum int64
			for _, o := range committed {
				sum += max(o, 0)
			}
			return sum == int64(len(recs))
		})
		stop()

		again := received(99, w.phone("second").user)
		write(recs[0], encode(again))
		cfg.Registerer = nil
		w.background(w.notifier(cfg).Run)
		if diff := cmp.Diff(map[Outcome]int{Delivered: first + 1}, w.awaitSettled(first+1)); diff != "" {
			t.Errorf("outcomes after the restart (-want +got):\n%s", diff)
		}
		if got := len(w.fcm.Recent("")); got != first+1 {
			t.Errorf("%d pushes, want %d: each once", got, first+1)
		}
		if got := query[string](w, `SELECT topic || '/' || partition FROM dead_letters`); got != topics.Events+"/1" {
			t.Errorf("dead letter of %s", got)
		}
		reader := client.OpenPartition(topics.DeadLetter, 1, 0)
		defer reader.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		rec, err := reader.Read(ctx)
		if err != nil {
			t.Fatalf("read the dead letter: %v", err)
		}
		letter, err := contract.DecodeDeadLetter(rec)
		if err != nil || letter.Topic != topics.Events || letter.Partition != 1 || letter.By != contract.ByNotifier || letter.Error == "" {
			t.Errorf("dead letter %+v, %v", letter, err)
		}
		if bytes.Contains(rec.Value, []byte("{not json")) {
			t.Error("the dead-letter record holds the bytes")
		}
	})
}

// One record whose data Postgres refuses is set aside; the others of its batch are not.
func TestPoisonRecordIsSetAside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.notifier(w.config())
	var batch []contract.Record
	for i := range 5 {
		ev := received(int64(i+1), w.phone(fmt.Sprintf("phone-%d", i)).user)
		if i == 2 {
			ev.Epoch = "\x00"
		}
		batch = append(batch, record(t, ev, int64(i)))
	}
	if err := n.consumer.persist(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	if got := query[int](w, `SELECT count(*) FROM push_deliveries`); got != 4 {
		t.Errorf("%d deliveries, want 4", got)
	}
	if got := query[int](w, `SELECT log_offset FROM dead_letters`); got != 2 {
		t.Errorf("dead letter of offset %d, want 2", got)
	}
}

func TestEnqueue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.notifier(w.config())
	one, two, none := w.phone("one"), w.phone("two"), w.phone("none")
	// A second device of the first user, and a user without any.
	w.exec(`INSERT INTO devices (id, user_id, session_id, kind, value, platform, created_at, updated_at)
		VALUES ($1, $2, $3, 'fcm', 'one-more', 'ios', now(), now())`, uuid.New(), one.user, one.session)
	w.exec(`DELETE FROM devices WHERE id = $1`, none.device)
	ev := received(4, one.user, two.user, none.user)
	w.deliver(n, ev)
	w.deliver(n, ev, ev)
	if got := query[int](w, `SELECT count(*) FROM push_deliveries`); got != 3 {
		t.Errorf("%d deliveries, want one for each of 3 devices", got)
	}
	if got := w.counter("bondmate_notifier_deliveries_total", ""); got != 3 {
		t.Errorf("counted %v deliveries, want 3", got)
	}
}

// What is nobody's push is told from its header alone.
func TestReadSkipsWhatIsNotPushed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.notifier(w.config()).consumer
	rec := record(t, event(partner.EventRequestSent, partner.EventData{}, 1, uuid.New()), 0)
	rec.Value = []byte("not read")
	if _, got, err := c.read(rec, time.Now()); got != fateNotPushed || err != nil {
		t.Errorf("%s, %v, want %s", got, err, fateNotPushed)
	}
	for _, name := range []string{"", "request.hug", partner.EventRequestReceived.String()} {
		for i, h := range rec.Headers {
			if h.Key == "ce_type" {
				rec.Headers[i].Value = []byte(name)
			}
		}
		if _, got, _ := c.read(rec, time.Now()); got != fateMalformed {
			t.Errorf("type %q: %s, want %s", name, got, fateMalformed)
		}
	}
}

// A phone whose session is over gets nothing, whether it ended before the event or between
// the event and the call.
func TestSessionMustBeLive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.notifier(w.config())
	over, ending, live := w.phone("over"), w.phone("ending"), w.phone("live")
	const expire = `UPDATE sessions SET expires_at = now() - interval '1 second' WHERE id = $1`
	w.exec(expire, over.session)
	w.deliver(n, received(1, over.user, ending.user, live.user))
	if got := query[int](w, `SELECT count(*) FROM push_deliveries`); got != 2 {
		t.Errorf("%d deliveries, want those of the 2 live sessions", got)
	}
	w.exec(expire, ending.session)
	w.background(n.Run)
	if diff := cmp.Diff(map[Outcome]int{Delivered: 1, Unregistered: 1}, w.awaitSettled(2)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if got := len(w.statuses("live")); got != 1 {
		t.Errorf("%d calls for the live session, want 1", got)
	}
}

// Every kind of fault at once, from a seed: nothing is lost, and the provider was called
// exactly as often as the rows say.
func TestStormLosesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	faults := []fcm.Answer{
		{}, {Status: 500}, {Status: 503}, fcm.Answer{Status: 503}.RetryAfter("1"), {Drop: true},
		fcm.Refuse(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), fcm.Refuse(401, "UNAUTHENTICATED", ""),
		fcm.Refuse(404, "NOT_FOUND", ""), {Status: 502, Body: "<html>"},
	}
	const total = 150
	var users []uuid.UUID
	gone := 0
	for i := range total {
		token := fmt.Sprintf("phone-%03d", i)
		users = append(users, w.phone(token).user)
		if i%10 == 0 {
			w.fcm.Script(token, fcm.Refuse(404, "NOT_FOUND", "UNREGISTERED"))
			gone++
			continue
		}
		for range rng.IntN(4) {
			w.fcm.Script(token, faults[rng.IntN(len(faults))])
		}
	}
	n := w.notifier(w.config())
	w.deliver(n, received(1, users...))
	w.background(n.Run)
	want := map[Outcome]int{Delivered: total - gone, Unregistered: gone}
	if diff := cmp.Diff(want, w.awaitSettled(total)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if attempts, calls := query[int](w, `SELECT sum(attempts)::int FROM push_deliveries`), len(w.fcm.Recent("")); attempts != calls {
		t.Errorf("%d attempts, %d calls", attempts, calls)
	}
	events := map[string]bool{}
	for _, p := range w.fcm.Recent("") {
		_, id, _ := strings.Cut(string(p.Message), `"eventId":"`)
		events[id[:36]] = true
	}
	if len(events) != 1 {
		t.Errorf("pushes name %d events, want 1: a phone could not tell a repeat", len(events))
	}
}
