package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// An analyst reads with kcat what becomes of a couple, and of its two users, from the
// compacted topics: formed, ended, restored, and gone with one's account.
func TestKcatReadsCouplesAndUsers(t *testing.T) {
	t.Parallel()
	needKcat(t)
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		p := launch(t, []string{"all"}, "DATA_DIR="+dir)
		readState(t, p.server(), readAddress(t, dir, "kafka.addr"), contract.NewTopics(contract.DefaultPrefix))
	})
	t.Run("apache", func(t *testing.T) {
		t.Parallel()
		broker := kafkatest.Apache(t)
		c := newCluster(t, broker, "")
		ingest := c.role("ingest")
		c.role("processor")
		readState(t, ingest.server(), broker.Brokers()[0], c.topics)
	})
}

// stateLine is one record as kcat -J prints it.
type stateLine struct {
	Partition int      `json:"partition"`
	Headers   []string `json:"headers"`
	Key       string   `json:"key"`
	Payload   *string  `json:"payload"` // null: a tombstone
}

func readState(t *testing.T, server *phone.Server, broker string, topics contract.Topics) {
	t.Helper()
	phones := people(t, server, 2)
	ann, ben := phones[0], phones[1]
	do := func(answer phone.Answer, err error) phone.Answer {
		t.Helper()
		if err == nil {
			err = answer.Decode(http.StatusOK, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	for range 2 { // the second time restores
		asked := do(ann.Send(t.Context(), ben.UserID, phone.Wait(10)))
		do(ben.Accept(t.Context(), asked.Outcome().RequestID, phone.Wait(10)))
		do(ann.Remove(t.Context(), phone.Wait(10)))
	}
	do(ben.Do(t.Context(), http.MethodPatch, "/api/profile", map[string]any{"timezone": "Europe/Vienna"}, phone.Wait(10)))
	do(ann.Do(t.Context(), http.MethodDelete, "/api/account", map[string]any{"password": phone.Password}, phone.Wait(10)))

	pair := partner.PairOf(ann.UserID, ben.UserID).String()
	type couple struct {
		Status        string     `json:"status"`
		RestoredCount int        `json:"restoredCount"`
		EndedAt       *time.Time `json:"endedAt"`
	}
	var couples []string
	records := kcatState(t, broker, topics.Couples, pair)
	for _, payload := range records {
		if payload == nil {
			couples = append(couples, "gone")
			continue
		}
		var c couple
		if err := json.Unmarshal([]byte(*payload), &c); err != nil {
			t.Fatal(err)
		}
		if (c.EndedAt == nil) != (c.Status == "active") {
			t.Errorf("%s with the end %v", c.Status, c.EndedAt)
		}
		couples = append(couples, c.Status+[]string{"", " restored"}[c.RestoredCount])
	}
	if diff := cmp.Diff([]string{"active", "ended", "active restored", "ended restored", "archived restored", "gone"}, couples); diff != "" {
		t.Errorf("the couple (-want +got):\n%s", diff)
	}

	var users []string
	for _, payload := range kcatState(t, broker, topics.Users, ann.UserID.String()) {
		if payload == nil {
			users = append(users, "gone")
			continue
		}
		var u struct {
			Status     string `json:"status"`
			CreatedDay string `json:"createdDay"`
		}
		if err := json.Unmarshal([]byte(*payload), &u); err != nil {
			t.Fatal(err)
		}
		if _, err := time.Parse(time.DateOnly, u.CreatedDay); err != nil {
			t.Error(err)
		}
		users = append(users, u.Status)
	}
	// What follows within a second of the other goes out once.
	users = slices.DeleteFunc(users, func(s string) bool { return s == "active" || s == "deleting" })
	if diff := cmp.Diff([]string{"gone"}, users); diff != "" {
		t.Errorf("the user (-want +got):\n%s", diff)
	}
	others := kcat(t, broker, topics.Users, ben.UserID.String())
	if last := others[len(others)-1]; last == nil || !bytes.Contains([]byte(*last), []byte(`"timezone":"Europe/Vienna"`)) {
		t.Errorf("the other's last record is %v", last)
	}
	for _, topic := range []string{topics.Couples, topics.Users} {
		out, err := exec.Command("kcat", "-C", "-b", broker, "-t", topic, "-o", "beginning", "-e", "-q").Output()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(out, []byte(ann.Email)) || bytes.Contains(out, []byte("example.com")) {
			t.Errorf("an e-mail address is on %s", topic)
		}
	}
}

// kcatState reads a key's records until its tombstone is there.
func kcatState(t *testing.T, broker, topic, key string) []*string {
	t.Helper()
	var found []*string
	eventually(t, 30*time.Second, "the tombstone of "+key+" is on "+topic, func() (bool, error) {
		found = kcat(t, broker, topic, key)
		return len(found) > 0 && found[len(found)-1] == nil, nil
	})
	return found
}

// kcat returns the values of a key's records in order, each checked: headers, schema,
// partition, and a version that rises.
func kcat(t *testing.T, broker, topic, key string) []*string {
	t.Helper()
	out, err := exec.Command("kcat", "-C", "-b", broker, "-t", topic, "-o", "beginning", "-e", "-q", "-J").Output()
	if err != nil {
		t.Fatal(err)
	}
	var values []*string
	version := int64(0)
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var rec stateLine
		if err := json.Unmarshal(lines.Bytes(), &rec); err != nil {
			t.Fatalf("kcat printed %s: %v", lines.Bytes(), err)
		}
		if rec.Key != key {
			continue
		}
		if want := contract.PartitionOf([]byte(key), contract.DefaultPartitions); rec.Partition != want {
			t.Errorf("%s lies on partition %d of %s, want %d", key, rec.Partition, topic, want)
		}
		headers := map[string]string{}
		for pair := range slices.Chunk(rec.Headers, 2) {
			headers[pair[0]] = pair[1]
		}
		if _, err := uuid.Parse(headers["ce_id"]); err != nil || headers["ce_specversion"] != "1.0" || headers["ce_subject"] != key || headers["ce_epoch"] == "" {
			t.Errorf("headers of %s: %v", key, headers)
		}
		if rec.Payload != nil {
			if err := contract.Validate(headers["ce_type"], []byte(*rec.Payload)); err != nil {
				t.Error(err)
			}
			var state struct {
				Version int64 `json:"version"`
			}
			if err := json.Unmarshal([]byte(*rec.Payload), &state); err != nil || state.Version <= version {
				t.Errorf("version %d of %s after %d, %v", state.Version, key, version, err)
			}
			version = state.Version
		}
		values = append(values, rec.Payload)
	}
	return values
}
