package processor

import (
	"encoding/json"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/partner"
)

// checkReplay holds each pair's tables against its events, read from the table in the order
// of their partition.
func checkReplay(t *testing.T, r *rig) {
	t.Helper()
	rows, err := r.pool.Query(t.Context(), `SELECT id, type, command_id, low, high, low_seq IS NOT NULL, high_seq IS NOT NULL, accepted_at, data
		FROM events WHERE topic = 1 AND low <> high ORDER BY partition, seq`)
	if err != nil {
		t.Fatal(err)
	}
	histories := map[partner.Pair]partner.History{}
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e partner.Event, err error) {
		var kind int16
		var toLow, toHigh bool
		var data []byte
		if err := row.Scan(&e.ID, &kind, &e.CommandID, &e.Pair.Low, &e.Pair.High, &toLow, &toHigh, &e.At, &data); err != nil {
			return e, err
		}
		e.Type, e.At = partner.EventType(kind), e.At.UTC()
		if toLow {
			e.Recipients = append(e.Recipients, e.Pair.Low)
		}
		if toHigh {
			e.Recipients = append(e.Recipients, e.Pair.High)
		}
		return e, json.Unmarshal(data, &e.Data)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		h, ok := histories[e.Pair]
		if !ok {
			h = partner.NewHistory(e.Pair, true)
		}
		histories[e.Pair] = partner.Evolve(h, e)
	}
	if len(histories) == 0 {
		t.Fatal("no pair has events")
	}
	requests, partnerships, breakups, sides := requests(r), partnerships(r), breakups(r), storedSides(r)
	for pair, h := range histories {
		stored := partner.Stored{
			Low: sides[pair.Low.String()+pair.High.String()], High: sides[pair.High.String()+pair.Low.String()],
		}
		for _, q := range requests {
			if partner.PairOf(q.Sender, q.Target) == pair {
				stored.Requests = append(stored.Requests, q)
			}
		}
		for _, p := range partnerships {
			if p.Pair == pair {
				stored.Partnerships = append(stored.Partnerships, p)
			}
		}
		for _, b := range breakups {
			if b.Pair == pair {
				stored.Breakups = append(stored.Breakups, b)
			}
		}
		differences, dropped := partner.Compare(h, stored, partner.Horizon{Complete: true})
		for _, d := range differences {
			t.Errorf("%s, %d events: %s", pair, h.Events, d)
		}
		if len(dropped) > 0 {
			t.Errorf("%s: %v cannot be compared with all events at hand", pair, dropped)
		}
	}
}
