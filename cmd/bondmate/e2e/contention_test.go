package e2e

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
)

// 100 concurrent sends, then acceptances of whatever came in, among 20 users with one slot
// each: nobody ends with two partnerships, and no answer is a server's fault.
func TestContention(t *testing.T) {
	t.Parallel()
	c := newCluster(t, kafkatest.Apache(t), "")
	ingest := c.role("ingest")
	c.role("processor")
	phones := people(t, ingest.server(), 20)
	random := seeded(t)

	all := func(n int, act func(i int) (phone.Answer, error)) {
		var group sync.WaitGroup
		for i := range n {
			group.Go(func() {
				answer, err := act(i)
				if err != nil {
					t.Error(err)
				} else if answer.Status >= 500 {
					t.Errorf("status %d: %s", answer.Status, answer.Body)
				}
			})
		}
		group.Wait()
	}
	for range 3 {
		from, to := random.Perm(100), random.Perm(100)
		all(100, func(i int) (phone.Answer, error) {
			a, b := phones[from[i]%20], phones[(from[i]%20+1+to[i]%19)%20]
			return a.Send(t.Context(), b.UserID, phone.Wait(10))
		})
		type invitation struct {
			who     *phone.Phone
			request uuid.UUID
		}
		var invitations []invitation
		for _, p := range phones {
			var page struct {
				Requests []struct {
					ID uuid.UUID `json:"id"`
				} `json:"requests"`
			}
			if err := p.Get(t.Context(), "/api/enhanced-partners/requests?direction=incoming&status=pending", &page); err != nil {
				t.Fatal(err)
			}
			for _, r := range page.Requests {
				invitations = append(invitations, invitation{p, r.ID})
			}
		}
		all(len(invitations), func(i int) (phone.Answer, error) {
			return invitations[i].who.Accept(t.Context(), invitations[i].request, phone.Wait(10))
		})
		verify(t, c.pool)
		all(10, func(i int) (phone.Answer, error) { return phones[i].Remove(t.Context(), phone.Wait(10)) })
	}
	verify(t, c.pool)
}

// The same Idempotency-Key 50 times at once, over two ingest instances: one effect, and all
// answers agree; another body with the key is refused; two bodies that race have one effect.
func TestIdempotencyKeyRaces(t *testing.T) {
	t.Parallel()
	c := newCluster(t, kafkatest.Apache(t), "")
	servers := []*phone.Server{c.role("ingest").server(), c.role("ingest").server()}
	c.role("processor")
	phones := people(t, servers[0], 4)
	ada := phones[0]

	race := func(n int, body func(i int) any) []phone.Answer {
		answers := make([]phone.Answer, n)
		key := uuid.NewString()
		var group sync.WaitGroup
		for i := range n {
			group.Go(func() {
				mine := *ada
				mine.Server = servers[i%2]
				var err error
				answers[i], err = mine.Do(t.Context(), http.MethodPost, "/api/enhanced-partners/request", body(i),
					phone.Wait(10), phone.Key(key))
				if err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		return answers
	}
	count := func(query string, args ...any) (n int) {
		if err := c.pool.QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}

	t.Run("one body", func(t *testing.T) {
		answers := race(50, func(int) any { return map[string]any{"toUserId": phones[1].UserID} })
		var first any
		for i, answer := range answers {
			var got any
			if err := answer.Decode(http.StatusOK, &got); err != nil {
				t.Fatalf("answer %d: %v", i, err)
			}
			if first == nil {
				first = got
			}
			if diff := cmp.Diff(first, got); diff != "" {
				t.Errorf("answer %d differs:\n%s", i, diff)
			}
		}
		repeat(t, c, answers[0].Outcome().CommandID)
		if n := count(`SELECT count(*) FROM requests WHERE sender = $1 AND target = $2`, ada.UserID, phones[1].UserID); n != 1 {
			t.Errorf("%d requests instead of one", n)
		}
		if n := count(`SELECT count(*) FROM events WHERE command_id = $1`, answers[0].Outcome().CommandID); n != 2 {
			t.Errorf("%d events instead of sent and received", n)
		}
	})
	t.Run("two bodies", func(t *testing.T) {
		targets := []uuid.UUID{phones[2].UserID, phones[3].UserID}
		answers := race(20, func(i int) any { return map[string]any{"toUserId": targets[i/2%2]} })
		won := map[int]int{}
		for i, answer := range answers {
			switch answer.Status {
			case http.StatusOK:
				won[i/2%2]++
			case http.StatusUnprocessableEntity:
				if code := answer.Outcome().Code; code != "idempotency_mismatch" {
					t.Errorf("code %s", code)
				}
			default:
				t.Errorf("answer %d: status %d: %s", i, answer.Status, answer.Body)
			}
		}
		if len(won) != 1 {
			t.Errorf("answers with an effect by body: %v; one body must win", won)
		}
		if n := count(`SELECT count(*) FROM requests WHERE sender = $1 AND target = ANY($2)`, ada.UserID, targets); n != 1 {
			t.Errorf("%d requests instead of one", n)
		}
	})
	t.Run("another body later", func(t *testing.T) {
		key := phone.Key(uuid.NewString())
		post := func(body any) phone.Answer {
			answer, err := ada.Do(t.Context(), http.MethodPost, "/api/enhanced-partners/request", body, phone.Wait(10), key)
			if err != nil {
				t.Fatal(err)
			}
			return answer
		}
		first := post(map[string]any{"toUserId": phones[1].UserID}) // pending already: rejected, an outcome too
		again := post(map[string]any{"toUserId": phones[1].UserID})
		if first.Status != again.Status || again.Header.Get("Idempotency-Replayed") != "true" {
			t.Errorf("replay: status %d then %d, Idempotency-Replayed %q", first.Status, again.Status,
				again.Header.Get("Idempotency-Replayed"))
		}
		other := post(map[string]any{"toUserId": phones[1].UserID, "message": "hello"})
		if other.Status != http.StatusUnprocessableEntity {
			t.Errorf("another body: status %d: %s", other.Status, other.Body)
		}
	})
	verify(t, c.pool)
}

// repeat writes a command's record once more, as a retry after a lost acknowledgement does,
// and waits until the processor has passed it.
func repeat(t *testing.T, c *cluster, id uuid.UUID) {
	t.Helper()
	for _, records := range topicEvents(t, c.bus, c.topics.Commands) {
		for _, rec := range records {
			if rec.Header("ce_id") != id.String() {
				continue
			}
			if err := c.bus.Write(t.Context(), []contract.Record{rec}); err != nil {
				t.Fatal(err)
			}
			eventually(t, 20*time.Second, "the repeat is read", func() (bool, error) {
				_, ends, err := c.bus.Offsets(t.Context(), c.topics.Commands)
				if err != nil {
					return false, err
				}
				var next int64
				err = c.pool.QueryRow(t.Context(),
					`SELECT next_offset FROM processor_partitions WHERE partition = $1`, rec.Partition).Scan(&next)
				return next == ends[rec.Partition], err
			})
			return
		}
	}
	t.Fatalf("command %s is not on its topic", id)
}
