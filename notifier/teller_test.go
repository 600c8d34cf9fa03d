package notifier

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/embedded/fcm"
)

// pushesTopic is a Kafka that keeps what it is told, unless it is away.
type pushesTopic struct {
	noBus
	mu    sync.Mutex
	away  error
	after func() // called once a write has landed
	told  []contract.PushOutcome
}

func (p *pushesTopic) Write(_ context.Context, recs []contract.Record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away != nil {
		return p.away
	}
	for _, rec := range recs {
		o, err := contract.DecodePushOutcome(rec)
		if err != nil {
			return err
		}
		p.told = append(p.told, o)
	}
	if p.after != nil {
		p.after()
	}
	return nil
}

func (p *pushesTopic) set(away error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = away
}

// outcomes returns what was told of each delivery, in order.
func (p *pushesTopic) outcomes() map[uuid.UUID][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[uuid.UUID][]string{}
	for _, o := range p.told {
		out[o.DeliveryID] = append(out[o.DeliveryID], o.Outcome)
	}
	return out
}

func (w *world) untold() int {
	return query[int](w, `SELECT count(*) FROM push_deliveries WHERE untold AND status = 3`)
}

func (w *world) deliveryOf(p phone) (id uuid.UUID) {
	return query[uuid.UUID](w, `SELECT id FROM push_deliveries WHERE user_id = $1`, p.user)
}

// Each outcome is told once, whether a call came to it or claiming did.
func TestOutcomesAreTold(t *testing.T) {
	t.Parallel()
	w, topic := newWorld(t), &pushesTopic{}
	cfg := w.config()
	cfg.Bus = topic
	n := w.notifier(cfg)
	sent, dead, refused, acknowledged := w.phone("sent"), w.phone("dead"), w.phone("refused"), w.phone("acknowledged")
	w.fcm.Script("dead", fcm.Refuse(404, "NOT_FOUND", "UNREGISTERED"))
	w.fcm.Script("refused", fcm.Refuse(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"))
	w.exec(`INSERT INTO acks (user_id, session_id, seq, visible_seq, updated_at) VALUES ($1, $2, 5, 5, now())`, acknowledged.user, acknowledged.session)
	ev := received(5, sent.user, dead.user, refused.user, acknowledged.user)
	w.deliver(n, ev)
	w.background(n.Run)
	w.awaitSettled(4)
	w.await("all to be told", func() bool { return w.untold() == 0 })
	want := map[uuid.UUID][]string{
		w.deliveryOf(sent): {"delivered"}, w.deliveryOf(dead): {"unregistered"}, w.deliveryOf(refused): {"rejected"}, w.deliveryOf(acknowledged): {"suppressed"},
	}
	if diff := cmp.Diff(want, topic.outcomes()); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	for _, o := range topic.told {
		if o.SourceEventID != ev.EventID || o.SourceType != ev.Type || o.Seq != 5 || o.Epoch != ev.Epoch || o.SettledAt.IsZero() {
			t.Errorf("told %+v of %+v", o, ev)
		}
	}
}

// Without Kafka pushes go on, and their outcomes are told once it is back.
func TestPushesDoNotWaitForTheirTopic(t *testing.T) {
	t.Parallel()
	w, topic := newWorld(t), &pushesTopic{away: context.DeadlineExceeded}
	cfg := w.config()
	cfg.Bus = topic
	n := w.notifier(cfg)
	var phones []uuid.UUID
	for i := range 20 {
		phones = append(phones, w.phone("phone-"+string(rune('a'+i))).user)
	}
	w.deliver(n, received(1, phones...))
	w.background(n.Run)
	if diff := cmp.Diff(map[Outcome]int{Delivered: 20}, w.awaitSettled(20)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if n := w.untold(); n != 20 {
		t.Errorf("%d outcomes wait, want 20", n)
	}
	topic.set(nil)
	w.await("all to be told", func() bool { return w.untold() == 0 })
	told := topic.outcomes()
	if len(told) != 20 {
		t.Errorf("%d deliveries told of, want 20", len(told))
	}
	for id, of := range told {
		if !slices.Equal(of, []string{"delivered"}) {
			t.Errorf("of %s was told %v", id, of)
		}
	}
}

// A notifier that dies between telling and settling: the delivery is taken over, sent and
// told again, under the same id.
func TestToldAndNotSettledIsToldAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone("phone")
	// It is told, and from then on nothing can be settled: as if it had died there.
	w.exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN IF NEW.status = 3 THEN RAISE 'disk full' USING ERRCODE = '53100'; END IF; RETURN NEW; END $$`)
	w.exec(`CREATE TRIGGER refuse BEFORE UPDATE ON push_deliveries FOR EACH ROW EXECUTE FUNCTION refuse()`)
	topic := &pushesTopic{}
	cfg := w.config()
	cfg.Bus, cfg.Lease, cfg.CallTimeout = topic, 400*time.Millisecond, 100*time.Millisecond
	cfg.DrainTimeout = 50 * time.Millisecond
	first := w.notifier(cfg)
	w.deliver(first, received(1, p.user))
	stop := w.background(first.Run)
	w.await("it to be told", func() bool { return len(topic.outcomes()) == 1 })
	stop()
	w.exec(`DROP TRIGGER refuse ON push_deliveries`)
	cfg.Registerer = nil
	w.background(w.notifier(cfg).Run)
	w.awaitSettled(1)
	w.await("all to be told", func() bool { return w.untold() == 0 })
	if got := topic.outcomes()[w.deliveryOf(p)]; !slices.Equal(got, []string{"delivered", "delivered"}) {
		t.Errorf("told %v, want delivered twice", got)
	}
	if a, b := topic.told[0], topic.told[1]; a.ID() != b.ID() {
		t.Errorf("told under the ids %s and %s", a.ID(), b.ID())
	}
}

// A row that says nothing of being told, as the processor settles what it cuts and as a
// binary of before does, is told.
func TestWhatSaysNothingIsTold(t *testing.T) {
	t.Parallel()
	w, topic := newWorld(t), &pushesTopic{}
	cfg := w.config()
	cfg.Bus = topic
	n := w.notifier(cfg)
	p := w.phone("phone")
	w.deliver(n, received(5, p.user))
	w.background(n.Run)
	w.awaitSettled(1)
	w.await("it to be told", func() bool { return w.untold() == 0 })
	w.exec(`INSERT INTO push_deliveries (id, user_id, device_id, event_id, seq, type, status, outcome, due_at, expires_at, payload, created_at, settled_at)
		SELECT gen_random_uuid(), user_id, device_id, event_id, 6, type, 3, 'withdrawn', now(), now(), payload, now(), now() FROM push_deliveries WHERE user_id = $1`, p.user)
	w.await("that one to be told", func() bool { return len(topic.outcomes()) == 2 && w.untold() == 0 })
}

// Nothing of a push's address or text is on the topic.
func TestOutcomesHoldNoAddress(t *testing.T) {
	t.Parallel()
	w, topic := newWorld(t), &pushesTopic{}
	cfg := w.config()
	cfg.Bus = topic
	n := w.notifier(cfg)
	w.deliver(n, received(1, w.phone("secret-address").user))
	w.background(n.Run)
	w.awaitSettled(1)
	w.await("it to be told", func() bool { return w.untold() == 0 })
	rec, err := contract.EncodePushOutcome("t", 1, topic.told[0])
	if err != nil || strings.Contains(string(rec.Value), "secret-address") {
		t.Errorf("record %s, %v", rec.Value, err)
	}
}
