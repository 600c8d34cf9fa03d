package e2e

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// An operator works at the console in Chromium: signs in, drops what is parked after a dry run,
// replays a dead letter in vain, decides on a report, changes a user, and signs out. Support
// sees the same and can do none of it.
func TestConsolePage(t *testing.T) {
	t.Parallel()
	modules := browserModules(t)
	broker, dir := kafkatest.Embedded(t), t.TempDir()
	p := launch(t, []string{"all"}, "DATA_DIR="+dir, "KAFKA_BROKERS="+strings.Join(broker.Brokers(), ","))
	dsn, err := os.ReadFile(filepath.Join(dir, "postgres.dsn"))
	if err != nil {
		t.Fatal(err)
	}
	url := strings.TrimSpace(string(dsn))
	pool := connect(t, url)
	phones := people(t, p.server(), 5)
	boss, helper, ana, ben, cleo := phones[0], phones[1], phones[2], phones[3], phones[4]
	for name, p := range map[string]*phone.Phone{"Robin": boss, "Sam": helper, "Ana": ana, "Ben": ben, "Cleo": cleo} {
		if _, err := p.Do(t.Context(), http.MethodPatch, "/api/profile", map[string]any{"displayName": name}, phone.Wait(10)); err != nil {
			t.Fatal(err)
		}
	}
	c := &cluster{t: t, settings: []string{"DATABASE_URL=" + url}}
	c.command("users", "promote", boss.Email, "--role", "admin")
	c.command("users", "promote", helper.Email, "--role", "support")

	// A newer program's command parks a pair, a request waits behind it, something is no command.
	first, err := contract.EncodeCommand(contract.NewTopics(contract.DefaultPrefix), contract.DefaultPartitions, partner.Command{
		ID: uuid.Must(uuid.NewV7()), Type: partner.Send, Issuer: ana.UserID, Pair: partner.PairOf(ana.UserID, ben.UserID),
		AcceptedAt: time.Now().UTC().Truncate(time.Microsecond),
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	broken := first
	broken.Value = first.Value[1:]
	first.Value, first.Headers = bytes.Replace(first.Value, []byte("request.send"), []byte("request.hug"), 1), slices.Clone(first.Headers)
	for i, header := range first.Headers {
		if header.Key == "ce_type" {
			first.Headers[i].Value = []byte("request.hug")
		}
	}
	if err := broker.Client(t).Write(t.Context(), []contract.Record{first, broken}); err != nil {
		t.Fatal(err)
	}
	if _, err := ana.Do(t.Context(), http.MethodPost, "/api/enhanced-partners/request", map[string]any{"toUserId": ben.UserID}); err != nil {
		t.Fatal(err)
	}
	report := map[string]any{"targetUserId": ben.UserID, "reason": "harassment", "detail": "<b>He</b> writes again and again."}
	for _, by := range []*phone.Phone{ana, cleo} {
		if answer, err := by.Do(t.Context(), http.MethodPost, "/api/reports", report); err != nil || answer.Status != http.StatusCreated {
			t.Fatalf("report: %v %d %s", err, answer.Status, answer.Body)
		}
	}
	eventually(t, 30*time.Second, "two commands are parked and a record is a dead letter", func() (bool, error) {
		var parked, dead int
		err := pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM parked_commands), (SELECT count(*) FROM dead_letters)`).Scan(&parked, &dead)
		return parked == 2 && dead == 1, err
	})

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "testdata/console.mjs", p.url+"/ops")
	cmd.Env = append(os.Environ(), "MODULES="+modules, "SCREENSHOTS="+os.Getenv("SCREENSHOTS"),
		"ADMIN="+boss.Email, "SUPPORT="+helper.Email, "USER="+ana.Email, "TARGET="+ben.UserID.String(), "PASSWORD="+phone.Password)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("console page: %v\n%s", err, out)
	}

	var parked, open, tier, sessions int
	if err := pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM parked_commands), (SELECT count(*) FROM reports WHERE status = 1),
		(SELECT tier FROM users WHERE id = $1), (SELECT count(*) FROM sessions WHERE device->>'platform' = 'web' AND revoked_at IS NULL)`,
		ben.UserID).Scan(&parked, &open, &tier, &sessions); err != nil {
		t.Fatal(err)
	}
	if parked != 0 || open != 1 || tier != 2 || sessions != 0 {
		t.Errorf("%d commands are parked, %d reports open, Ben's tier is %d, %d sessions of the console go on; want 0, 1, 2, 0", parked, open, tier, sessions)
	}
}
