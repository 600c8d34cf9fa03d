package main

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/contract"
)

// outcomes returns what the pushes topic was told of a user, in order.
func (w *town) outcomes(t *testing.T, user uuid.UUID) (out []contract.PushOutcome) {
	t.Helper()
	client := bus.New(bus.Config{Brokers: []string{address(t, w.dir, "kafka.addr")}}, slog.New(slog.DiscardHandler))
	defer client.Close()
	topic := contract.NewTopics(contract.DefaultPrefix).Pushes
	partition := contract.PartitionOf([]byte(user.String()), contract.DefaultPartitions)
	start, end, err := client.Offsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	reader := client.OpenPartition(topic, partition, start[partition])
	defer reader.Close()
	for reader.Position() < end[partition] {
		rec, err := reader.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := contract.Validate(contract.PushOutcomeType, rec.Value); err != nil {
			t.Error(err)
		}
		o, err := contract.DecodePushOutcome(rec)
		if err != nil {
			t.Fatal(err)
		}
		if o.UserID == user {
			out = append(out, o)
		}
	}
	return out
}

// What became of a push, from the phone to the topic, over HTTP and at the console; and who
// asks for nothing that is an event's is told so.
func TestDeliveries(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	ana, ben, ops := w.person(t, "Ana"), w.person(t, "Ben"), w.person(t, "Olga")
	w.operate(t, "users", "promote", ops.email, "--role", "support")
	reached, dead := "reached-"+ana.id.String(), "dead-"+ana.id.String()
	ana.call("POST", "/api/devices", map[string]any{"kind": "fcm", "token": reached, "platform": "ios"}).want(201)
	phone, _ := ana.signIn()
	phone.call("POST", "/api/devices", map[string]any{"kind": "fcm", "token": dead, "platform": "android"}).want(201)
	ben.ask(ana).want(200)
	event := ana.get("/api/notifications").want(200).list("events")[0]["id"].(string)

	look := func() []map[string]any {
		return ops.get("/api/ops/deliveries?eventId=" + event).want(200).list("deliveries")
	}
	until(t, "both deliveries to be told", func() bool {
		all := look()
		return len(all) == 2 && all[0]["told"] == true && all[1]["told"] == true
	})
	ids := map[string]bool{}
	for _, d := range look() {
		ids[d["id"].(string)] = true
		for field, want := range map[string]any{
			"eventId": event, "userId": ana.id.String(), "type": "request.received", "status": "settled", "outcome": "delivered",
			"attempts": 1.0, "seq": 1.0, "replaced": false,
		} {
			if d[field] != want {
				t.Errorf("%s is %v, want %v", field, d[field], want)
			}
		}
		for _, field := range []string{"deviceId", "createdAt", "dueAt", "expiresAt", "handedAt", "settledAt"} {
			if text, ok := d[field].(string); !ok || text == "" {
				t.Errorf("%s is %v", field, d[field])
			}
		}
	}
	for _, o := range w.outcomes(t, ana.id) {
		if !ids[o.DeliveryID.String()] || o.SourceEventID.String() != event || o.Outcome != "delivered" || o.Attempts != 1 || o.Category != "requests" {
			t.Errorf("the topic was told %+v", o)
		}
		delete(ids, o.DeliveryID.String())
	}
	if len(ids) != 0 {
		t.Errorf("of %v the topic was told nothing", ids)
	}

	printed, asJSON := w.operate(t, "deliveries", event), w.operate(t, "deliveries", event, "--json")
	if n := strings.Count(printed, "delivered"); n != 2 {
		t.Errorf("printed\n%swant two delivered", printed)
	}
	var list struct{ Deliveries []map[string]any }
	if err := json.Unmarshal([]byte(asJSON), &list); err != nil || len(list.Deliveries) != 2 {
		t.Errorf("as JSON %s: %v", asJSON, err)
	}
	raw := ops.get("/api/ops/deliveries?eventId=" + event).want(200).raw
	for _, secretly := range []string{reached, dead} {
		if strings.Contains(printed+asJSON+string(raw), secretly) {
			t.Errorf("a push address is shown")
		}
	}

	// The sender's account ends, which takes the request back: the second outcome is told, and
	// it is the one that is shown.
	ben.call("DELETE", "/api/account", map[string]any{"password": secret}).want(200)
	until(t, "the withdrawals to be told", func() bool {
		all := look()
		return all[0]["outcome"] == "withdrawn" && all[0]["told"] == true && all[1]["outcome"] == "withdrawn" && all[1]["told"] == true
	})
	last := map[uuid.UUID]contract.PushOutcome{}
	for _, o := range w.outcomes(t, ana.id) {
		if before, ok := last[o.DeliveryID]; !ok || o.SettledAt.After(before.SettledAt) {
			last[o.DeliveryID] = o
		}
	}
	for _, d := range look() {
		if o := last[uuid.MustParse(d["id"].(string))]; o.Outcome != "withdrawn" || !o.Replaced || d["replaced"] != true {
			t.Errorf("shown %v, told last %+v", d, o)
		}
	}

	pool, err := pgxpool.New(t.Context(), address(t, w.dir, "postgres.dsn"))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()

	// Nothing, and no id.
	if n := len(ops.get("/api/ops/deliveries?eventId=" + uuid.NewString()).want(200).list("deliveries")); n != 0 {
		t.Errorf("%d deliveries of no event", n)
	}
	if printed := w.operate(t, "deliveries", uuid.NewString()); !strings.HasPrefix(printed, "no push of this event") {
		t.Errorf("printed %q", printed)
	}
	for _, query := range []string{"", "?eventId=", "?eventId=x"} {
		if got := ops.get("/api/ops/deliveries" + query); got.status != http.StatusBadRequest {
			t.Errorf("%q: %s", query, got)
		}
	}
	var out output
	err = run(t.Context(), []string{"deliveries", "x"}, terminal{environ: []string{"DATABASE_URL=" + address(t, w.dir, "postgres.dsn")}, stdout: &out, stderr: &out})
	if err == nil || !strings.Contains(err.Error(), `"x" is no event id`) {
		t.Errorf("of x: %v", err)
	}
	var lines int
	if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM activity_log WHERE action = 'ops.delivery.list' AND actor = $1 AND subject = $2`, ops.id, event).Scan(&lines); err != nil {
		t.Fatal(err)
	}
	if lines < 4 {
		t.Errorf("%d lines in the activity log, want one of each look", lines)
	}
}
