package e2e

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/embedded/fcm"
)

// One device each: a user, a session and an address are the least that a delivery needs, and
// a hundred users have a hundred devices each.
const dueSQL = `
WITH people AS (
	INSERT INTO users (id, display_name, partner_code, created_at)
	SELECT gen_random_uuid(), 'x', 'k' || n, now() FROM generate_series(1, $1::int / 100) n RETURNING id
), logins AS (
	INSERT INTO sessions (id, user_id, refresh_hash, created_at, last_used_at, expires_at)
	SELECT gen_random_uuid(), id, decode(replace(id::text, '-', ''), 'hex'), now(), now(), now() + interval '1 hour' FROM people RETURNING id, user_id
), phones AS (
	INSERT INTO devices (id, user_id, session_id, kind, value, platform, created_at, updated_at)
	SELECT gen_random_uuid(), user_id, id, 'fcm', 'phone-' || user_id || '-' || n, 'android', now(), now()
	FROM logins, generate_series(1, 100) n RETURNING id, user_id
)
INSERT INTO push_deliveries (id, user_id, device_id, event_id, seq, type, status, due_at, expires_at, payload, created_at)
SELECT gen_random_uuid(), user_id, id, $2::uuid, 1, 1, 1, now(), now() + interval '1 hour', jsonb_build_object(
	'data', jsonb_build_object('v', '1', 'eventId', $2::uuid::text, 'seq', '1', 'epoch', 'e', 'type', 'request.received', 'link', 'bondmate://notifications'),
	'text', 'push.request_received', 'category', 'requests', 'collapseId', 'event-' || id, 'appliedAt', to_jsonb(now())), now()
FROM phones`

// Two notifiers share 10,000 deliveries, and one is killed in the middle: each is delivered,
// and twice only what the killed one had in hand. How each ended is on the pushes topic.
func TestNotifierKilledAmongDeliveries(t *testing.T) {
	t.Parallel()
	const total = 10_000
	c := newCluster(t, kafkatest.Apache(t), "")
	pushes, err := fcm.New(fcm.Config{Dir: t.TempDir(), Keep: 2 * total, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- pushes.Run(serving) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("the push stand-in: %v", err)
		}
	})
	pushes.Script("", fcm.Answer{Delay: 100 * time.Millisecond, Times: -1})
	if _, err := c.pool.Exec(t.Context(), dueSQL, total, uuid.New()); err != nil {
		t.Fatal(err)
	}
	to := []string{"FIREBASE_CREDENTIALS_FILE=" + pushes.CredentialsFile(), "FCM_ENDPOINT=" + pushes.Endpoint(), "PUSH_IN_FLIGHT=64"}
	lives, dies := c.role("notifier", to...), c.role("notifier", to...)
	eventually(t, time.Minute, "both have sent and a third is there", func() (bool, error) {
		return pushes.Begun() > total/3 && lives.metric("bondmate_notifier_push_attempts_total", `result="sent"`) > 0 &&
			dies.metric("bondmate_notifier_push_attempts_total", `result="sent"`) > 0, nil
	})
	dies.kill()
	var inHand int
	if err := c.pool.QueryRow(t.Context(), `SELECT count(*)::int FROM push_deliveries WHERE status = 2`).Scan(&inHand); err != nil {
		t.Fatal(err)
	}
	eventually(t, 2*time.Minute, "all are settled and told", func() (bool, error) {
		var left int
		err := c.pool.QueryRow(t.Context(), `SELECT count(*)::int FROM push_deliveries WHERE status < 3 OR untold`).Scan(&left)
		return left == 0, err
	})
	times := map[string]int{}
	for _, p := range pushes.Recent("") {
		var message struct {
			Token string `json:"token"`
		}
		if err := json.Unmarshal(p.Message, &message); err != nil || message.Token == "" {
			t.Fatalf("a push of %s, %v", p.Message, err)
		}
		times[message.Token]++
	}
	repeated := 0
	for token, n := range times {
		if n > 2 {
			t.Errorf("%s got %d pushes", token, n)
		}
		repeated += n - 1
	}
	if len(times) != total {
		t.Errorf("%d of %d phones got a push", len(times), total)
	}
	if repeated > inHand {
		t.Errorf("%d were repeated, and no more than %d in hand", repeated, inHand)
	}
	var again int // claimed by the other once the killed one's lease had ended
	if err := c.pool.QueryRow(t.Context(), `SELECT count(*)::int FROM push_deliveries WHERE attempts > 1`).Scan(&again); err != nil || again == 0 || again < repeated {
		t.Errorf("%d were taken over and %d repeated, %v: nobody was killed in the middle", again, repeated, err)
	}
	told := map[uuid.UUID]bool{}
	records := 0
	for _, partition := range topicEvents(t, c.bus, c.topics.Pushes) {
		for _, rec := range partition {
			o, err := contract.DecodePushOutcome(rec)
			if err != nil || o.Outcome != "delivered" {
				t.Fatalf("told %+v, %v", o, err)
			}
			told[o.DeliveryID] = true
			records++
		}
	}
	if len(told) != total {
		t.Errorf("of %d of %d deliveries the topic was told", len(told), total)
	}
	t.Logf("%d deliveries, %d in hand of both at the kill, %d taken over, %d of them sent twice; %d outcomes on the topic", total, inHand, again, repeated, records)
}
