package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
)

// handbook is docs/analytics.md as a reader uses it: its commands and its SQL by name.
type handbook struct {
	fetch  string // the shell commands
	blocks map[string]string
	names  []string // of the blocks, in their order
}

// readHandbook takes all SQL from the document: what has no name would not be tested.
func readHandbook(t *testing.T) handbook {
	t.Helper()
	text, err := os.ReadFile("../../../docs/analytics.md")
	if err != nil {
		t.Fatal(err)
	}
	shell := regexp.MustCompile("(?s)```sh\n(.*?)```").FindSubmatch(text)
	if shell == nil {
		t.Fatal("docs/analytics.md has no shell commands")
	}
	h := handbook{fetch: string(shell[1]), blocks: map[string]string{}}
	for _, block := range regexp.MustCompile("(?s)<!-- (?:load|query): ([a-z-]+) -->\n\n```sql\n(.*?)```").FindAllSubmatch(text, -1) {
		h.names = append(h.names, string(block[1]))
		h.blocks[string(block[1])] = string(block[2])
	}
	if all := bytes.Count(text, []byte("```sql")); all != len(h.blocks) {
		t.Fatalf("docs/analytics.md has %d SQL blocks, %d with a name of their own", all, len(h.blocks))
	}
	return h
}

// run runs the blocks in the folder, but for those left out, and returns the rows of each.
func (h handbook) run(t *testing.T, modules, dir string, without ...string) map[string]string {
	t.Helper()
	type block struct {
		Name string `json:"name"`
		SQL  string `json:"sql"`
	}
	var blocks []block
next:
	for _, name := range h.names {
		for _, out := range without {
			if name == out {
				continue next
			}
		}
		blocks = append(blocks, block{name, h.blocks[name]})
	}
	input, err := json.Marshal(blocks)
	if err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs("testdata/analytics.mjs")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", script)
	cmd.Dir, cmd.Env, cmd.Stdin = dir, append(os.Environ(), "MODULES="+modules), bytes.NewReader(input)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("queries: %v\n%s", err, errs.String())
	}
	rows := map[string]json.RawMessage{}
	if err := json.Unmarshal(out, &rows); err != nil {
		t.Fatalf("queries printed %s: %v", out, err)
	}
	texts := map[string]string{}
	for name, r := range rows {
		texts[name] = string(r)
	}
	return texts
}

// fetchWithKcat runs the document's commands against a broker.
func (h handbook) fetchWithKcat(t *testing.T, dir, broker, prefix string) {
	t.Helper()
	script := strings.NewReplacer("localhost:9092", broker, "-t bondmate.", "-t "+prefix+".").Replace(h.fetch)
	cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// analysts finds what the test needs, or skips.
func analysts(t *testing.T) (modules string) {
	t.Helper()
	missing := func(what string) {
		if os.Getenv("CI") != "" {
			t.Fatal(what)
		}
		t.Skip("!!! QUERIES OF docs/analytics.md NOT TESTED: " + what)
	}
	if _, err := exec.LookPath("kcat"); err != nil {
		missing("kcat is not installed")
	}
	cache := os.Getenv("BONDMATE_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(dir, "bondmate")
	}
	modules = filepath.Join(cache, "duckdb", "node_modules")
	if _, err := os.Stat(filepath.Join(modules, "@duckdb", "node-api")); err != nil {
		missing("DuckDB is not installed; run .ci/duckdb-setup")
	}
	return modules
}

// live makes three couples of eight people, of whom one parts and is restored, a request
// that is declined, and one that is refused. A ninth does nothing. The two of the declined
// request have a phone that gets pushes. It returns more than the
// longest time that an acceptance took.
func live(t *testing.T, server *phone.Server) (most time.Duration) {
	t.Helper()
	p := people(t, server, 9)
	must := func(answer phone.Answer, err error) phone.Outcome {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if err := answer.Decode(http.StatusOK, nil); err != nil {
			t.Fatal(err)
		}
		return answer.Outcome()
	}
	marry := func(a, b *phone.Phone) {
		t.Helper()
		began := time.Now()
		asked := must(a.Send(t.Context(), b.UserID, phone.Wait(10)))
		must(b.Accept(t.Context(), asked.RequestID, phone.Wait(10)))
		most = max(most, time.Since(began))
	}
	for i := 0; i < 6; i += 2 {
		marry(p[i], p[i+1])
	}
	must(p[0].Remove(t.Context(), phone.Wait(10)))
	marry(p[1], p[0])
	for i, who := range p[6:8] {
		device := map[string]any{"kind": "fcm", "token": fmt.Sprint("phone-", i), "platform": "android"}
		if answer, err := who.Do(t.Context(), http.MethodPost, "/api/devices", device); err != nil || answer.Decode(http.StatusCreated, nil) != nil {
			t.Fatalf("a phone for pushes: %v %s", err, answer.Body)
		}
	}
	asked := must(p[6].Send(t.Context(), p[7].UserID, phone.Wait(10)))
	must(p[7].Decline(t.Context(), asked.RequestID, phone.Wait(10)))
	if answer, err := p[6].Send(t.Context(), p[6].UserID, phone.Wait(10)); err != nil || answer.Outcome().Code != "self_request" {
		t.Fatalf("a request to oneself: %v %s", err, answer.Body)
	}
	return most
}

const day = "2006-01-02"

// The queries of docs/analytics.md, as they are in the document, give the figures of what
// people did.
func TestAnalyticsDocument(t *testing.T) {
	t.Parallel()
	modules, h := analysts(t), readHandbook(t)
	state := map[string]string{
		"couples":        `[{"status":"active","couples":"3","restorations":1}]`,
		"formed-by-tier": `[{"tier":"free","users":"6"}]`,
	}

	t.Run("kcat on Apache Kafka", func(t *testing.T) {
		t.Parallel()
		broker := kafkatest.Apache(t)
		c := newCluster(t, broker, "")
		ingest := c.role("ingest")
		c.role("processor")
		today := time.Now().UTC().Format(day)
		most := live(t, ingest.server())
		dir := t.TempDir()
		got := h.settled(t, modules, dir, func() {
			h.fetchWithKcat(t, dir, broker.Brokers()[0], strings.TrimSuffix(c.topics.Events, ".events.v1"))
		}, state, "export")
		var accepted []struct {
			Accepted      string  `json:"accepted"`
			MedianSeconds float64 `json:"median_seconds"`
		}
		if err := json.Unmarshal([]byte(got["time-to-accept"]), &accepted); err != nil || len(accepted) != 1 {
			t.Fatalf("%s: %v", got["time-to-accept"], err)
		}
		if a := accepted[0]; a.Accepted != "4" || a.MedianSeconds <= 0 || a.MedianSeconds > most.Seconds() {
			t.Errorf("time to accept %+v, want that of 4, within %s", a, most)
		}
		checkFigures(t, got, map[string]string{
			"formed": `[{"formed":"3"}]`, "restored": `[{"restored":"1"}]`, "active": `[{"day":"` + today + `","users":"8"}]`,
		})
	})

	t.Run("export of all", func(t *testing.T) {
		t.Parallel()
		data, dir := t.TempDir(), t.TempDir()
		p := launch(t, []string{"all"}, "DATA_DIR="+data)
		live(t, p.server())
		all := maps.Clone(state)
		all["pushes-by-type"] = `[{"type":"request.declined","deliveries":"1","delivered":100,"suppressed":0},{"type":"request.received","deliveries":"1","delivered":100,"suppressed":0}]`
		h.settled(t, modules, dir, func() { h.fetchWithKcat(t, dir, readAddress(t, data, "kafka.addr"), "bondmate") }, all, "export")

		// In the database it happened two days ago: one couple a month before, the others
		// accepted after 2, 10 and 20 minutes.
		pool := connect(t, readAddress(t, data, "postgres.dsn"))
		noon := time.Now().UTC().Truncate(24 * time.Hour).Add(-36 * time.Hour)
		for _, sql := range []string{
			`UPDATE events SET accepted_at = $1, applied_at = $1`,
			`WITH a AS (
				SELECT e.command_id, (ARRAY[-2592000, 120, 600, 1200])[row_number() OVER (ORDER BY c.accepted_at)] * interval '1 second' AS after
				FROM events e JOIN commands c ON c.id = e.command_id WHERE e.type = 3)
			UPDATE events e SET accepted_at = $1::timestamptz + a.after, applied_at = $1::timestamptz + a.after FROM a WHERE a.command_id = e.command_id`,
		} {
			if _, err := pool.Exec(t.Context(), sql, noon); err != nil {
				t.Fatal(err)
			}
		}
		lines, stderr, err := operator(t, data, "export", "events", "--from", noon.AddDate(0, -2, 0).Format(day))
		if err != nil {
			t.Fatalf("%v %s", err, stderr)
		}
		// Twice the same: repeats do no harm.
		if err := os.WriteFile(filepath.Join(dir, "export.jsonl"), []byte(lines+lines), 0o600); err != nil {
			t.Fatal(err)
		}
		checkFigures(t, h.run(t, modules, dir, "topic"), map[string]string{
			"formed": `[{"formed":"2"}]`, "restored": `[{"restored":"1"}]`, "active": `[{"day":"` + noon.Format(day) + `","users":"8"}]`,
			"time-to-accept": `[{"accepted":"3","median_seconds":600}]`,
			"couples":        state["couples"], "formed-by-tier": state["formed-by-tier"],
		})
		sameAsTopic(t, dir, lines)
	})
}

// settled fetches until the topics hold what they come to hold, and returns the figures.
func (h handbook) settled(t *testing.T, modules, dir string, fetch func(), want map[string]string, without string) (got map[string]string) {
	t.Helper()
	eventually(t, 60*time.Second, "all that happened is on the topics", func() (bool, error) {
		fetch()
		got = h.run(t, modules, dir, without)
		for name, rows := range want {
			if got[name] != rows {
				return false, fmt.Errorf("%s is %s, want %s", name, got[name], rows)
			}
		}
		return true, nil
	})
	return got
}

func checkFigures(t *testing.T, got, want map[string]string) {
	t.Helper()
	for name, rows := range want {
		if got[name] != rows {
			t.Errorf("%s: %s, want %s", name, got[name], rows)
		}
	}
}

// sameAsTopic: each line of the export holds the data of a record on the topic, but for the
// times that this test has changed.
func sameAsTopic(t *testing.T, dir, lines string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "events.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	type fields = map[string]any
	read := func(raw []byte) fields {
		var f fields
		if err := json.Unmarshal(raw, &f); err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		delete(f, "acceptedAt")
		delete(f, "appliedAt")
		return f
	}
	topic, export := map[any]fields{}, map[any]fields{}
	for line := range bytes.Lines(text) {
		f := read([]byte(read(line)["payload"].(string)))
		topic[f["eventId"]] = f
	}
	for line := range strings.Lines(lines) {
		event := read([]byte(line))
		f := event["data"].(fields)
		delete(f, "acceptedAt")
		delete(f, "appliedAt")
		if event["id"] != f["eventId"] || event["seq"] != fmt.Sprint(f["seq"]) || event["specversion"] != "1.0" {
			t.Errorf("attributes and data differ: %s", line)
		}
		export[f["eventId"]] = f
	}
	if diff := cmp.Diff(topic, export); diff != "" {
		t.Errorf("(-topic +export):\n%s", diff)
	}
}
