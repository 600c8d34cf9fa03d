package notifier

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
)

// A notifier ends while Postgres refuses its rows: the offset has not moved, and the next
// one makes the rows and sends the push (G6).
func TestOffsetsFollowTheRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client := kafkatest.Embedded(t).Client(t)
	topics := contract.NewTopics(kafkatest.Prefix(t))
	if err := client.EnsureTopics(t.Context(), topics.Specs(1)); err != nil {
		t.Fatal(err)
	}
	cfg := w.config()
	cfg.Bus, cfg.Group = client, bus.GroupConfig{ID: topics.Events + "-notifier", Topic: topics.Events}
	// A sequence does not roll back: it counts the attempts.
	w.exec(`CREATE SEQUENCE attempts`)
	w.exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN PERFORM nextval('attempts'); RAISE 'disk full' USING ERRCODE = '53100'; END $$`)
	w.exec(`CREATE TRIGGER refuse BEFORE INSERT ON push_deliveries FOR EACH ROW EXECUTE FUNCTION refuse()`)
	rec, err := contract.EncodeEvent(topics.Events, 0, received(1, w.phone("phone").user))
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Write(t.Context(), []contract.Record{rec}); err != nil {
		t.Fatal(err)
	}

	stop := w.background(w.notifier(cfg).Run)
	w.await("attempts to write the row", func() bool { return query[int](w, `SELECT last_value::int FROM attempts`) >= 3 })
	stop()
	committed, err := client.Committed(t.Context(), cfg.Group.ID, topics.Events)
	if err != nil {
		t.Fatal(err)
	}
	if committed[0] > 0 {
		t.Errorf("offset %d is committed before the rows of the records below it", committed[0])
	}

	w.exec(`DROP TRIGGER refuse ON push_deliveries`)
	cfg.Registerer = nil
	w.background(w.notifier(cfg).Run)
	if diff := cmp.Diff(map[Outcome]int{Delivered: 1}, w.awaitSettled(1)); diff != "" {
		t.Errorf("outcomes of the second notifier (-want +got):\n%s", diff)
	}
}
