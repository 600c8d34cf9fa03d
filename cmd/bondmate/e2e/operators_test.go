package e2e

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
)

// A suspension while commands of the suspended one, and of others, lie in Kafka with no
// processor there; and a slot that is taken away at a console. Each role is a process.
func TestSuspensionAndSlotsOnKafka(t *testing.T) {
	t.Parallel()
	c := newCluster(t, kafkatest.Apache(t), "")
	ingest, processor := c.role("ingest"), c.role("processor")
	phones := people(t, ingest.server(), 5)
	bad, ex, left, asker, slotted := phones[0], phones[1], phones[2], phones[3], phones[4]
	ctx := t.Context()
	call := func(p *phone.Phone, method, path string, body any, want int) phone.Outcome {
		t.Helper()
		answer, err := p.Do(ctx, method, path, body, phone.Wait(10))
		if err != nil {
			t.Fatal(err)
		}
		if answer.Status != want {
			t.Fatalf("%s %s: %d %s", method, path, answer.Status, answer.Body)
		}
		return answer.Outcome()
	}
	marry := func(a, b *phone.Phone) {
		t.Helper()
		request := call(a, http.MethodPost, "/api/enhanced-partners/request", map[string]any{"toUserId": b.UserID}, http.StatusOK).RequestID
		call(b, http.MethodPut, "/api/enhanced-partners/request/"+request.String()+"/accept", nil, http.StatusOK)
	}
	c.command("users", "slots", bad.Email, "3")
	marry(bad, ex)
	marry(bad, left)

	processor.kill()
	queued := map[string]uuid.UUID{}
	post := func(name string, p *phone.Phone, method, path string, body any) {
		t.Helper()
		answer, err := p.Do(ctx, method, path, body)
		if err != nil || answer.Status != http.StatusAccepted {
			t.Fatalf("%s: %v %d %s", name, err, answer.Status, answer.Body)
		}
		queued[name] = answer.Outcome().CommandID
	}
	post("send", bad, http.MethodPost, "/api/enhanced-partners/request", map[string]any{"toUserId": asker.UserID})
	post("block", bad, http.MethodPut, "/api/enhanced-partners/blocks/"+left.UserID.String(), nil)
	post("send to them", asker, http.MethodPost, "/api/enhanced-partners/request", map[string]any{"toUserId": bad.UserID})
	post("the ex leaves", ex, http.MethodPost, "/api/enhanced-partners/remove", nil)
	c.command("users", "suspend", bad.Email)
	c.role("processor")

	want := map[string]string{"send": "forbidden", "block": "applied", "send to them": "target_unavailable", "the ex leaves": "applied"}
	for name, id := range queued {
		var got string
		eventually(t, 60*time.Second, name+" has an outcome", func() (bool, error) {
			err := c.pool.QueryRow(ctx, `SELECT COALESCE(max(COALESCE(code, 'applied')), '') FROM commands WHERE id = $1`, id).Scan(&got)
			return got != "", err
		})
		if got != want[name] {
			t.Errorf("%s is %s, want %s", name, got, want[name])
		}
	}
	login := map[string]any{"email": bad.Email, "password": phone.Password}
	if got := call(ex, http.MethodPost, "/api/auth/login", login, http.StatusForbidden); got.Code != "forbidden" {
		t.Errorf("login: %s", got.Code)
	}
	c.command("users", "unsuspend", bad.Email)
	call(ex, http.MethodPost, "/api/auth/login", login, http.StatusOK)

	c.command("users", "slots", slotted.Email, "2")
	marry(slotted, ex)
	request := call(asker, http.MethodPost, "/api/enhanced-partners/request", map[string]any{"toUserId": slotted.UserID}, http.StatusOK).RequestID
	c.command("users", "slots", slotted.Email, "1")
	eventually(t, 60*time.Second, "the request is superseded", func() (bool, error) {
		var closed bool
		err := c.pool.QueryRow(ctx, `SELECT status = 6 FROM requests WHERE id = $1`, request).Scan(&closed)
		return closed, err
	})
	verify(t, c.pool)
}
