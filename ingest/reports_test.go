package ingest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/identity"
)

func (u user) report(target user, reason string) string {
	u.w.t.Helper()
	got := u.call("POST", "/api/reports", map[string]any{"targetUserId": target.id, "reason": reason, "detail": reason + " in detail"})
	if got.status != 201 {
		u.w.t.Fatalf("report: %s", got.raw)
	}
	return got.text("id")
}

// reasons lists the reports that an operator sees.
func (u user) reasons(query string) []string {
	u.w.t.Helper()
	var found []string
	for next := ""; ; {
		got := u.get("/api/ops/reports?limit=2&" + query + next)
		if got.status != 200 {
			u.w.t.Fatalf("reports: %d %s", got.status, got.raw)
		}
		if strings.Contains(string(got.raw), "in detail") {
			u.w.t.Errorf("the list tells details: %s", got.raw)
		}
		list, _ := got.body["reports"].([]any)
		for _, r := range list {
			found = append(found, r.(map[string]any)["reason"].(string))
		}
		cursor, more := got.body["nextCursor"].(string)
		if !more {
			return found
		}
		next = "&cursor=" + cursor
	}
}

func TestReportQueue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben, boss := w.register("Ana"), w.register("Ben"), w.register("Boss").as(identity.RoleAdmin)
	first, second := ana.report(ben, "one"), ana.report(ben, "two")
	ben.report(ana, "three")
	about := ana.report(boss, "about the boss")

	if diff := cmp.Diff([]string{"one", "two", "three"}, boss.reasons("status=open")); diff != "" {
		t.Errorf("open: %s", diff)
	}
	wantProblem(t, boss.get("/api/ops/reports/"+about), 404, "not_found")
	wantProblem(t, boss.call("POST", "/api/ops/reports/"+about+"/resolve", map[string]any{"resolution": "dismissed"}), 404, "not_found")
	if got := boss.get("/api/ops/users/" + boss.id.String()); got.status != 200 || strings.Contains(string(got.raw), `"about":1`) {
		t.Errorf("of oneself: %s", got.raw)
	}
	wantProblem(t, boss.get("/api/ops/reports?cursor=nonsense"), 400, "invalid_request")
	wantProblem(t, boss.get("/api/ops/reports?status=lost"), 400, "invalid_request")

	shown := boss.get("/api/ops/reports/" + first)
	if shown.text("detail") != "one in detail" || shown.text("reporter", "id") != ana.id.String() || shown.text("target", "displayName") != "Ben" || shown.body["others"] != 1.0 {
		t.Errorf("%s", shown.raw)
	}
	resolve := func(id, resolution, note string) answer {
		return boss.call("POST", "/api/ops/reports/"+id+"/resolve", map[string]any{"resolution": resolution, "note": note})
	}
	if got := resolve(first, "dismissed", "a \u202emisunderstanding"); got.status != 200 || got.text("status") != "resolved" ||
		got.text("resolution") != "dismissed" || got.text("note") != "a misunderstanding" || got.text("resolvedBy") != boss.id.String() {
		t.Errorf("%d %s", got.status, got.raw)
	}
	wantProblem(t, resolve(first, "suspended", ""), 409, "not_pending")
	wantProblem(t, resolve(second, "lapsed", ""), 400, "invalid_request")
	wantProblem(t, resolve(second, "warned", strings.Repeat("x", 2001)), 400, "invalid_request")
	wantProblem(t, resolve(uuid.NewString(), "warned", ""), 404, "not_found")
	if got := ben.get("/api/profile"); got.status != 200 {
		t.Errorf("a report that was not decided so has suspended: %s", got.raw)
	}

	if got := resolve(second, "suspended", ""); got.status != 200 || got.text("target", "status") != "suspended" {
		t.Errorf("%d %s", got.status, got.raw)
	}
	eventually(t, "Ben to be out", func() bool { return ben.get("/api/profile").status == 401 })
	if diff := cmp.Diff([]string{"three"}, boss.reasons("status=open")); diff != "" {
		t.Errorf("open: %s", diff)
	}
	if diff := cmp.Diff([]string{"one", "two"}, boss.reasons("status=resolved")); diff != "" {
		t.Errorf("resolved: %s", diff)
	}
	var lines []string
	for _, line := range w.lines(boss.id) {
		if strings.Contains(line, ben.id.String()) {
			lines = append(lines, line)
		}
	}
	want := []string{
		"ops.report.resolve - ", "ops.report.resolve not_pending ", "ops.report.resolve - ", "ops.user.suspend - ",
	}
	for i := range want {
		want[i] += ben.id.String()
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("activity log: %s", diff)
	}
	// The one who is reported learns nothing, not even from their own record.
	if got := ana.get("/api/account/export"); strings.Contains(string(got.raw), "three") || strings.Contains(string(got.raw), "misunderstanding") {
		t.Errorf("%s", got.raw)
	}
}

// A report about somebody whose account is being deleted cannot suspend them, and stays.
func TestResolutionIsOneTransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben, boss := w.register("Ana"), w.register("Ben"), w.register("Boss").as(identity.RoleAdmin)
	id := ana.report(ben, "one")
	_, err := w.pool.Exec(t.Context(), `UPDATE users SET status = 4 WHERE id = $1`, ben.id)
	must(t, err)
	path := "/api/ops/reports/" + id + "/resolve"
	wantProblem(t, boss.call("POST", path, map[string]any{"resolution": "suspended"}), 409, "account_deleting")
	if got := boss.get("/api/ops/reports/" + id); got.text("status") != "open" {
		t.Errorf("%s", got.raw)
	}
	if got := boss.call("POST", path, map[string]any{"resolution": "warned"}); got.status != 200 {
		t.Errorf("%s", got.raw)
	}
}

func TestSuspension(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	boss, ana := w.register("Boss").as(identity.RoleAdmin), w.register("Ana")
	var email string
	must(t, w.pool.QueryRow(t.Context(), `SELECT email FROM credentials WHERE user_id = $1`, ana.id).Scan(&email))
	login := func(password string) answer {
		return w.do("POST", "/api/auth/login", "", nil, map[string]any{"email": email, "password": password})
	}
	const right = "a long pass phrase"
	second := login(right)
	ana.call("POST", "/api/devices", map[string]any{"kind": "fcm", "token": "a-token", "platform": "ios"})
	path := "/api/ops/users/" + ana.id.String()

	_, err := w.pool.Exec(t.Context(), `DELETE FROM timers`) // those of the registrations
	must(t, err)
	suspended := boss.call("POST", path+"/suspend", nil)
	if suspended.status != 200 || suspended.text("status") != "suspended" || suspended.body["sessions"] != 0.0 || suspended.body["devices"] != 0.0 {
		t.Fatalf("%d %s", suspended.status, suspended.raw)
	}
	var announced int
	must(t, w.pool.QueryRow(t.Context(), `SELECT count(*) FROM timers WHERE low = $1 AND high = $1 AND kind = 4`, ana.id).Scan(&announced))
	if announced != 1 {
		t.Error("the users topic will not tell")
	}
	if again := boss.call("POST", path+"/suspend", nil); again.status != 200 {
		t.Errorf("again: %s", again.raw)
	}
	eventually(t, "the sessions to end", func() bool { return ana.get("/api/profile").status == 401 })
	wantProblem(t, w.do("POST", "/api/auth/refresh", "", nil, map[string]any{"refreshToken": second.text("refreshToken")}), 401, "unauthenticated")
	wantProblem(t, login(right), 403, "forbidden")
	wrong, unknown := login("another pass phrase"), w.do("POST", "/api/auth/login", "", nil, map[string]any{"email": "x" + email, "password": right})
	wantProblem(t, wrong, 401, "unauthenticated")
	if wrong.text("detail") != unknown.text("detail") {
		t.Errorf("a wrong password tells of the suspension: %s", wrong.raw)
	}
	// To others nothing shows.
	if got := boss.get("/api/enhanced-partners/search?code=" + ana.code); got.status != 200 {
		t.Errorf("search: %s", got.raw)
	}

	if got := boss.call("POST", path+"/unsuspend", nil); got.status != 200 || got.text("status") != "active" || got.body["sessions"] != 0.0 {
		t.Errorf("%d %s", got.status, got.raw)
	}
	wantProblem(t, ana.get("/api/profile"), 401, "unauthenticated")
	if got := login(right); got.status != 200 {
		t.Errorf("login afterwards: %s", got.raw)
	}
	wantProblem(t, boss.call("POST", "/api/ops/users/"+boss.id.String()+"/suspend", nil), 409, "self_request")
	wantProblem(t, boss.call("POST", "/api/ops/users/"+uuid.NewString()+"/suspend", nil), 404, "user_not_found")
	_, err = w.pool.Exec(t.Context(), `UPDATE users SET status = 4 WHERE id = $1`, ana.id)
	must(t, err)
	for _, verb := range []string{"suspend", "unsuspend"} {
		wantProblem(t, boss.call("POST", fmt.Sprintf("%s/%s", path, verb), nil), 409, "account_deleting")
	}
}
