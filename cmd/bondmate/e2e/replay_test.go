package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bondmate/backend/cmd/bondmate/phone"
)

// rebuilt is what of bondmate replay --json the test looks at.
type rebuilt struct {
	History      string `json:"history"`
	Compared     bool   `json:"compared"`
	Partnerships []struct {
		Status        string `json:"status"`
		RestoredCount int    `json:"restoredCount"`
		Dropped       bool   `json:"historyDropped"`
	} `json:"partnerships"`
	Requests []struct {
		Status string `json:"status"`
	} `json:"requests"`
	Breakups []struct {
		Status string `json:"status"`
	} `json:"breakups"`
	Sides []struct {
		BlockedAt *time.Time `json:"blockedAt"`
	} `json:"sides"`
	Timeline []struct {
		Type      string    `json:"type"`
		AppliedAt time.Time `json:"appliedAt"`
	} `json:"timeline"`
	Differences []struct {
		What  string `json:"what"`
		Field string `json:"field"`
	} `json:"differences"`
	Dropped []string `json:"dropped"`
}

// operator runs an operator command against the database of a bondmate all.
func operator(t *testing.T, dir string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+readAddress(t, dir, "postgres.dsn"))
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

func replayed(t *testing.T, dir string, args ...string) (r rebuilt, stderr string, failed bool) {
	t.Helper()
	stdout, stderr, err := operator(t, dir, append([]string{"replay", "--json"}, args...)...)
	if derr := json.Unmarshal([]byte(stdout), &r); derr != nil {
		t.Fatalf("replay %v: %v, %v\n%s%s", args, err, derr, stdout, stderr)
	}
	return r, stderr, err != nil
}

// A couple is rebuilt from its events: as it is, as it was, with what is wrong in the
// tables found, and without a false claim when the events of long ago are removed.
func TestReplayOfACouple(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := launch(t, []string{"all"}, "DATA_DIR="+dir)
	pool := connect(t, readAddress(t, dir, "postgres.dsn"))
	phones := people(t, p.server(), 2)
	ann, bob := phones[0], phones[1]
	do := func(who *phone.Phone, method, path string, body any) phone.Outcome {
		t.Helper()
		answer, err := who.Do(t.Context(), method, path, body, phone.Wait(10))
		if err != nil {
			t.Fatal(err)
		}
		if answer.Status >= 300 {
			t.Fatalf("%s %s: %d %s", method, path, answer.Status, answer.Body)
		}
		return answer.Outcome()
	}
	marry := func() {
		t.Helper()
		asked := do(ann, http.MethodPost, "/api/enhanced-partners/request", map[string]any{"toUserId": bob.UserID})
		do(bob, http.MethodPut, "/api/enhanced-partners/request/"+asked.RequestID.String()+"/accept", nil)
	}
	marry()
	do(ann, http.MethodPost, "/api/enhanced-partners/remove", map[string]any{"reason": "a planted reason"})
	marry() // restored
	do(ann, http.MethodPost, "/api/enhanced-partners/breakup", map[string]any{})
	couple := "--couple=" + bob.PartnerCode + ":" + ann.UserID.String() // as typed, in any order

	now, stderr, failed := replayed(t, dir, couple)
	if failed || !now.Compared || now.History != "complete" || len(now.Differences)+len(now.Dropped) > 0 {
		t.Fatalf("replay: %+v %s", now, stderr)
	}
	if len(now.Partnerships) != 1 || now.Partnerships[0].Status != "active" || now.Partnerships[0].RestoredCount != 1 ||
		len(now.Requests) != 2 || now.Requests[1].Status != "accepted" || len(now.Breakups) != 1 || now.Breakups[0].Status != "pending" {
		t.Errorf("rebuilt %+v", now)
	}

	do(bob, http.MethodPut, "/api/enhanced-partners/blocks/"+ann.UserID.String(), nil)
	blocked, stderr, failed := replayed(t, dir, couple)
	if failed || blocked.Partnerships[0].Status != "ended" || blocked.Breakups[0].Status != "superseded" ||
		!slices.ContainsFunc(blocked.Sides, func(s struct {
			BlockedAt *time.Time `json:"blockedAt"`
		}) bool {
			return s.BlockedAt != nil
		}) {
		t.Errorf("after the block %+v %s", blocked, stderr)
	}

	first := slices.IndexFunc(blocked.Timeline, func(s struct {
		Type      string    `json:"type"`
		AppliedAt time.Time `json:"appliedAt"`
	}) bool {
		return s.Type == "partnership.ended"
	})
	then, stderr, failed := replayed(t, dir, couple, "--as-of="+blocked.Timeline[first].AppliedAt.Add(time.Microsecond).Format(time.RFC3339Nano))
	if failed || then.Compared || then.Partnerships[0].Status != "ended" || then.Partnerships[0].RestoredCount != 0 || len(then.Requests) != 1 {
		t.Errorf("as of the first end %+v %s", then, stderr)
	}

	text, stderr, err := operator(t, dir, "replay", couple)
	if err != nil || !strings.Contains(text, "restored 1 times") || !strings.Contains(text, "block.changed") || !strings.HasSuffix(text, "DIFFERENCES\nnone\n") {
		t.Errorf("replay prints %v %s\n%s", err, stderr, text)
	}
	if strings.Contains(text, "planted") {
		t.Errorf("a text is printed:\n%s", text)
	}

	for _, sql := range []string{`UPDATE partnerships SET restored_count = 7`, `DELETE FROM requests WHERE status = 2`, `DELETE FROM pair_sides`} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	wrong, stderr, failed := replayed(t, dir, couple)
	var fields []string
	for _, d := range wrong.Differences {
		fields = append(fields, d.Field)
	}
	slices.Sort(fields)
	if want := []string{"blockedAt", "doorClosedAt", "forfeited", "restoredCount", "row", "row"}; !failed || !slices.Equal(fields, want) || !strings.Contains(stderr, "replay_differs") {
		t.Errorf("with three tables changed: %v, differences %v, want %v; %s", failed, fields, want, stderr)
	}

	// All events of the couple so far go, as retention takes them.
	if _, err := pool.Exec(t.Context(), `DELETE FROM events`); err != nil {
		t.Fatal(err)
	}
	gone, stderr, failed := replayed(t, dir, couple)
	if failed || gone.History != "history_dropped" || len(gone.Differences) > 0 || len(gone.Dropped) == 0 {
		t.Errorf("without events %+v %s", gone, stderr)
	}
	do(bob, http.MethodPut, "/api/enhanced-partners/blocks/"+ann.UserID.String(), nil)
	later, stderr, failed := replayed(t, dir, couple)
	if failed || later.History != "history_dropped" || len(later.Timeline) == 0 {
		t.Errorf("with events of the last command alone %+v %s", later, stderr)
	}

	for args, code := range map[string]string{
		"--couple=" + ann.PartnerCode:                                           "invalid_couple",
		"--couple=" + ann.PartnerCode + ":" + ann.PartnerCode:                   "invalid_couple",
		"--couple=" + ann.PartnerCode + ":who":                                  "invalid_user",
		"--couple=" + ann.PartnerCode + ":00000000-0000-4000-8000-000000000000": "user_not_found",
		couple + " --as-of=yesterday":                                           "invalid_time",
	} {
		if _, stderr, err := operator(t, dir, append([]string{"replay"}, strings.Fields(args)...)...); err == nil || !strings.Contains(stderr, code) {
			t.Errorf("replay %s: %v %s, want %s", args, err, stderr, code)
		}
	}
}
