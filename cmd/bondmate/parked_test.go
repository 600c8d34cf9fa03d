package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/bondmate/backend/ingest/admin"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// console runs an operator's command against the city's servers.
func (w *city) console(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := run(t.Context(), args, terminal{
		environ: []string{
			"DATABASE_URL=" + address(t, w.dir, "postgres.dsn"), "KAFKA_BROKERS=" + strings.Join(w.broker.Brokers(), ","), "LOG_LEVEL=error",
		},
		stdout: &out, stderr: &out,
	})
	return out.String(), err
}

// says runs a command that succeeds and prints all of this.
func (w *city) says(t *testing.T, args []string, want ...string) string {
	t.Helper()
	out, err := w.console(t, args...)
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	for _, s := range want {
		if !strings.Contains(out, s) {
			t.Errorf("%v prints %q, want %q in it", args, out, s)
		}
	}
	return out
}

// operator is a person with the role admin.
func (w *city) operator(t *testing.T) *person {
	t.Helper()
	boss := w.person(t, "Boss")
	w.says(t, []string{"users", "promote", boss.email, "--role", "admin"})
	return boss
}

// park parks the pair of two with a command of a newer program that says something, and a
// request that waits behind it.
func (w *city) park(t *testing.T, from, to *person, text string) (first partner.Command, behind string) {
	t.Helper()
	first = sendCommand(from, to)
	first.Message = text
	w.queue(t, first, unknown)
	behind = from.callWith("POST", partners+"/request", map[string]any{"toUserId": to.id, "message": text}, nil).want(202).text("commandId")
	w.parked(t, first.Pair, 2)
	return first, behind
}

func (w *city) parked(t *testing.T, pair partner.Pair, want int) {
	t.Helper()
	w.eventually(t, fmt.Sprintf("%d commands are parked on %s", want, pair), func() bool {
		var n int
		if err := w.db.QueryRow(t.Context(), `SELECT count(*) FROM parked_commands WHERE low = $1 AND high = $2`, pair.Low, pair.High).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == want
	})
}

// lines are the actions that the activity log has about a parked pair.
func (w *city) lines(t *testing.T, pair partner.Pair) string {
	t.Helper()
	var lines string
	err := w.db.QueryRow(t.Context(), `SELECT COALESCE(string_agg(action || ' ' || severity, ', ' ORDER BY at), '') FROM activity_log
		WHERE metadata->>'pair' = $1`, pair.String()).Scan(&lines)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestOperatorsSettleWhatIsParked(t *testing.T) {
	t.Parallel()
	w := newCity(t)
	const secretText = "meet me at nine"

	t.Run("at a console", func(t *testing.T) {
		ana, ben := w.person(t, "Ana"), w.person(t, "Ben")
		first, behind := w.park(t, ana, ben, secretText)
		pair := first.Pair.String()
		printed := w.says(t, []string{"parked", "list"}, pair, "unknown_type", first.ID.String())
		printed += w.says(t, []string{"parked", "list", "--json"}, `"pair": "`+pair+`"`)
		printed += w.says(t, []string{"parked", "show", first.ID.String()}, behind, "request.hug", "message: text of 15 characters", "unknown type or newer version")
		printed += w.says(t, []string{"parked", "show", pair, "--json"}, `"readable": "yes"`)
		out, err := w.console(t, "parked", "retry", pair, "--dry-run")
		if err == nil || !strings.Contains(out, "parked decode command") {
			t.Errorf("a dry retry says %q: %v", out, err)
		}
		printed += out
		if out, err = w.console(t, "parked", "retry", pair); err == nil || !strings.Contains(out, "stopped at command "+first.ID.String()) {
			t.Errorf("a retry says %q: %v", out, err)
		}
		printed += out
		request := partner.RequestIDOf(uuid.MustParse(behind)).String()
		printed += w.says(t, []string{"parked", "drop", first.ID.String(), "--dry-run"}, "request.hug "+first.ID.String(), ": dropped",
			"request.send "+behind, ": applied", "+ request "+request+": pending", "event request.received to "+ben.id.String())
		w.parked(t, first.Pair, 2)
		printed += w.says(t, []string{"parked", "drop", first.ID.String(), "--json"}, `"outcome": "done"`, `"settled": 2`)
		if got := ana.outcome(first.ID.String()).text("code"); got != "dropped" {
			t.Errorf("the command is %s, want dropped", got)
		}
		if got := ana.outcome(behind).text("status"); got != "applied" {
			t.Errorf("the command behind is %s", got)
		}
		if strings.Contains(printed, secretText) {
			t.Errorf("what somebody wrote was printed:\n%s", printed)
		}
		if _, err := w.console(t, "parked", "retry", pair); err == nil || !strings.Contains(err.Error(), "not_found") {
			t.Errorf("a retry of nothing: %v", err)
		}
		if _, err := w.console(t, "parked", "show", "x"); err == nil || !strings.Contains(err.Error(), "invalid_request") {
			t.Errorf("showing nonsense: %v", err)
		}
		if got, want := w.lines(t, first.Pair), "ops.parked.show 1, ops.parked.show 1, ops.parked.retry 1, ops.parked.retry 2, ops.parked.drop 1, ops.parked.drop 2, ops.parked.retry 2"; got != want {
			t.Errorf("the activity log has %s, want %s", got, want)
		}
	})

	t.Run("payloads are taken down", func(t *testing.T) {
		ana, ben := w.person(t, "Ana"), w.person(t, "Ben")
		first, _ := w.park(t, ana, ben, secretText)
		w.says(t, []string{"parked", "show", first.ID.String(), "--payload"}, secretText)
		if got, want := w.lines(t, first.Pair), "ops.parked.payload 3"; got != want {
			t.Errorf("the activity log has %s, want %s", got, want)
		}
		w.says(t, []string{"parked", "drop", first.Pair.String()}, "2 settled, 0 parked")
	})

	t.Run("over HTTP", func(t *testing.T) {
		ana, ben, boss := w.person(t, "Ana"), w.person(t, "Ben"), w.operator(t)
		first, behind := w.park(t, ana, ben, secretText)
		path := "/api/ops/parked/" + first.ID.String()
		seen := string(boss.get("/api/ops/parked").want(200).raw)
		if !strings.Contains(seen, first.Pair.String()) {
			t.Errorf("the list %s lacks %s", seen, first.Pair)
		}
		seen += string(boss.get(path).want(200).raw)
		dry := boss.call("POST", path+"/drop", map[string]any{"dryRun": true}).want(200)
		seen += string(dry.raw)
		if dry.text("outcome") != "done" || !strings.Contains(string(dry.raw), `"what":"request `+partner.RequestIDOf(uuid.MustParse(behind)).String()+`"`) {
			t.Errorf("a dry drop: %s", dry)
		}
		if got := boss.call("POST", path+"/retry", nil).want(200); got.text("outcome") != "stopped" || got.text("requestedBy") != "user:"+boss.id.String() {
			t.Errorf("a retry: %s", got)
		}
		if strings.Contains(seen, secretText) {
			t.Errorf("what somebody wrote was shown: %s", seen)
		}
		var payload struct{ Value []byte }
		if err := json.Unmarshal(boss.get(path+"/payload").want(200).raw, &payload); err != nil || !bytes.Contains(payload.Value, []byte(secretText)) {
			t.Errorf("the payload is %q: %v", payload.Value, err)
		}
		dropped := boss.call("POST", path+"/drop", map[string]any{"waitSeconds": 10}).want(200)
		if dropped.text("outcome") != "done" || dropped.body["settled"] != 2.0 {
			t.Errorf("a drop: %s", dropped)
		}
		if again := boss.get("/api/ops/parked-actions/" + dropped.text("id")).want(200); again.text("outcome") != "done" {
			t.Errorf("looked at again: %s", again)
		}
		boss.get(path).want(404)
		boss.call("POST", path+"/retry", map[string]any{}).want(404)
		boss.call("POST", path+"/drop", nil).want(404)
		ana.get("/api/ops/parked").want(403)
	})
}

func TestOperatorsReplayDeadLetters(t *testing.T) {
	t.Parallel()
	w := newCity(t)
	ana, ben := w.person(t, "Ana"), w.person(t, "Ben")
	boss := w.operator(t)
	topic := contract.NewTopics(contract.DefaultPrefix).Commands
	// One lies on a partition that is not its key's, the other can be read by nobody.
	misplaced, broken := sendCommand(ana, ben), sendCommand(ben, ana)
	misplaced.Message, broken.Message = "meet me at nine", "meet me at nine"
	w.queue(t, misplaced, func(rec *contract.Record) { rec.Partition = (rec.Partition + 1) % contract.DefaultPartitions })
	w.queue(t, broken, func(rec *contract.Record) { rec.Value = rec.Value[1:] })
	var letters []map[string]any
	w.eventually(t, "there are two dead letters", func() bool {
		letters = boss.get("/api/ops/dead-letters").want(200).list("deadLetters")
		return len(letters) == 2
	})
	place := map[string]string{} // by readable
	ids := map[string]string{}
	for _, l := range letters {
		kind := "broken"
		if l["shape"].(map[string]any)["readable"] == "yes" {
			kind = "misplaced"
		}
		place[kind] = fmt.Sprintf("%s/%v/%v", topic, l["partition"], l["offset"])
		ids[kind] = l["id"].(string)
	}
	printed := w.says(t, []string{"dead-letters", "list"}, place["broken"], place["misplaced"])
	printed += w.says(t, []string{"dead-letters", "show", place["misplaced"]}, "request.send", "message: text of 15 characters", "belongs on partition")
	printed += w.says(t, []string{"dead-letters", "show", ids["broken"], "--json"}, `"readable": "decode command: malformed record`)
	printed += string(boss.get("/api/ops/dead-letters/" + ids["broken"]).want(200).raw)
	if strings.Contains(printed, "meet me") {
		t.Errorf("what somebody wrote was printed:\n%s", printed)
	}
	w.says(t, []string{"dead-letters", "show", place["broken"], "--payload"}, "meet me at nine")
	if got := boss.get("/api/ops/dead-letters/" + ids["broken"] + "/payload").want(200); got.text("value") == "" {
		t.Errorf("the payload: %s", got)
	}

	if _, err := w.console(t, "dead-letters", "replay", place["broken"]); err == nil || !strings.Contains(err.Error(), "not_replayable") {
		t.Errorf("a replay of what nobody can read: %v", err)
	}
	w.says(t, []string{"dead-letters", "replay", place["misplaced"]}, "is on "+topic)
	if got := ana.outcome(misplaced.ID.String()).text("status"); got != "applied" {
		t.Errorf("the replayed command is %s, want applied", got)
	}
	// Again, over HTTP: it takes effect once.
	boss.call("POST", "/api/ops/dead-letters/"+ids["misplaced"]+"/replay", nil).want(200)
	w.says(t, []string{"dead-letters", "show", place["misplaced"]}, "replayed", "user:"+boss.id.String())
	// Forced, it is a dead letter once more.
	boss.call("POST", "/api/ops/dead-letters/"+ids["broken"]+"/replay", map[string]any{"force": true}).want(200)
	w.eventually(t, "there is a third", func() bool {
		return len(boss.get("/api/ops/dead-letters").want(200).list("deadLetters")) == 3
	})
	if received := strings.Count(strings.Join(ben.inbox(), " "), "request.received"); received != 1 {
		t.Errorf("%d requests received, want 1", received)
	}
	// After 7 days the bytes are gone.
	w.exec(t, `UPDATE dead_letters SET value = NULL, key = NULL, headers = '[]'`)
	_, err := w.console(t, "dead-letters", "replay", place["misplaced"])
	if err == nil || !strings.Contains(err.Error(), "kept for 7 days") {
		t.Errorf("a replay of what is gone: %v", err)
	}
	if _, err := w.console(t, "dead-letters", "show", topic+"/1/999"); err == nil || !strings.Contains(err.Error(), "not_found") {
		t.Errorf("showing what is not there: %v", err)
	}
	if _, err := admin.LetterID("a/b"); err == nil {
		t.Error("a/b names a dead letter")
	}
	var seen int
	if err := w.db.QueryRow(t.Context(), `SELECT count(*) FROM activity_log
		WHERE action IN ('ops.dead_letter.payload', 'ops.dead_letter.replay') AND metadata ? 'record'`).Scan(&seen); err != nil || seen != 7 {
		t.Errorf("%d lines about payloads and replays in the activity log, want 7: %v", seen, err)
	}
}
