package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
)

// An analyst reads the events topic with kcat: CloudEvents headers, and JSON that holds to
// the published schemas.
func TestKcatReadsEvents(t *testing.T) {
	t.Parallel()
	needKcat(t)
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		p := launch(t, []string{"all"}, "DATA_DIR="+dir)
		couple(t, p.server())
		readWithKcat(t, readAddress(t, dir, "kafka.addr"), contract.NewTopics(contract.DefaultPrefix).Events)
	})
	t.Run("apache", func(t *testing.T) {
		t.Parallel()
		broker := kafkatest.Apache(t)
		c := newCluster(t, broker, "")
		ingest := c.role("ingest")
		c.role("processor")
		couple(t, ingest.server())
		readWithKcat(t, broker.Brokers()[0], c.topics.Events)
	})
}

func needKcat(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("kcat"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("kcat is not installed")
		}
		t.Skip("!!! kcat is not installed: the topics are not read from outside")
	}
}

// couple makes a couple and ends it: six events.
func couple(t *testing.T, server *phone.Server) {
	t.Helper()
	phones := people(t, server, 2)
	asked, err := phones[0].Send(t.Context(), phones[1].UserID, phone.Wait(10))
	if err != nil {
		t.Fatal(err)
	}
	for _, act := range []func() (phone.Answer, error){
		func() (phone.Answer, error) {
			return phones[1].Accept(t.Context(), asked.Outcome().RequestID, phone.Wait(10))
		},
		func() (phone.Answer, error) { return phones[0].Remove(t.Context(), phone.Wait(10)) },
	} {
		answer, err := act()
		if err != nil {
			t.Fatal(err)
		}
		if err := answer.Decode(200, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func readWithKcat(t *testing.T, broker, topic string) {
	t.Helper()
	var seen []string
	eventually(t, 20*time.Second, "kcat shows the partnership's end", func() (bool, error) {
		out, err := exec.Command("kcat", "-C", "-b", broker, "-t", topic, "-o", "beginning", "-e", "-q", "-J").Output()
		if err != nil {
			return false, err
		}
		seen = seen[:0]
		lines := bufio.NewScanner(bytes.NewReader(out))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			seen = append(seen, checkKcatLine(t, lines.Bytes()))
		}
		return slices.Contains(seen, "partnership.ended"), nil
	})
	for _, want := range []string{"request.sent", "request.received", "request.accepted", "partnership.started"} {
		if !slices.Contains(seen, want) {
			t.Errorf("no %s on the topic: %v", want, seen)
		}
	}
}

// checkKcatLine checks one record as kcat -J prints it and returns its type.
func checkKcatLine(t *testing.T, line []byte) string {
	t.Helper()
	var rec struct {
		Headers []string `json:"headers"` // name, value, name, value, …
		Key     string   `json:"key"`
		Payload string   `json:"payload"`
	}
	if err := json.Unmarshal(line, &rec); err != nil {
		t.Fatalf("kcat printed %s: %v", line, err)
	}
	headers := map[string]string{}
	for pair := range slices.Chunk(rec.Headers, 2) {
		headers[pair[0]] = pair[1]
	}
	var data struct {
		EventID string `json:"eventId"`
		Type    string `json:"type"`
		Pair    string `json:"pair"`
	}
	if err := json.Unmarshal([]byte(rec.Payload), &data); err != nil {
		t.Fatalf("payload %s: %v", rec.Payload, err)
	}
	for name, want := range map[string]string{
		"ce_specversion": "1.0", "content-type": "application/json", "ce_id": data.EventID, "ce_type": data.Type, "ce_pair": rec.Key,
	} {
		if headers[name] != want {
			t.Errorf("header %s is %q, not %q", name, headers[name], want)
		}
	}
	for _, name := range []string{"ce_source", "ce_time", "ce_subject", "ce_seq", "ce_epoch", "ce_commandid"} {
		if headers[name] == "" {
			t.Errorf("no header %s: %v", name, headers)
		}
	}
	if data.Pair != rec.Key {
		t.Errorf("pair %s under key %s", data.Pair, rec.Key)
	}
	if err := contract.Validate(data.Type, []byte(rec.Payload)); err != nil {
		t.Errorf("%s does not hold to its schema: %v\n%s", data.Type, err, rec.Payload)
	}
	return data.Type
}
