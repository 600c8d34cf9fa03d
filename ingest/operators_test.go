package ingest_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/uuid"

	"github.com/bondmate/backend/ingest/admin"
	"github.com/bondmate/backend/pkg/identity"
)

// as gives the user a role, as an operator at a console does.
func (u user) as(role identity.Role) user {
	u.w.t.Helper()
	if _, err := u.w.admin.SetRole(u.w.t.Context(), admin.Actor{Device: "console: test"}, u.id, role); err != nil {
		u.w.t.Fatal(err)
	}
	return u
}

// lines returns what the activity log says that somebody did, as "action code target".
func (w *world) lines(actor uuid.UUID) []string {
	w.t.Helper()
	rows, err := w.pool.Query(w.t.Context(), `SELECT action, COALESCE(code, '-'), COALESCE(target::text, '-')
		FROM activity_log WHERE actor = $1 ORDER BY at`, actor)
	must(w.t, err)
	defer rows.Close()
	var lines []string
	for rows.Next() {
		var action, code, target string
		must(w.t, rows.Scan(&action, &code, &target))
		lines = append(lines, action+" "+code+" "+target)
	}
	must(w.t, rows.Err())
	return lines
}

var pathParameter = regexp.MustCompile(`\{[^}]+\}`)

// addressOf is where an operation is called about something: in its path, or in the one query
// parameter that it cannot do without.
func addressOf(path string, op *openapi3.Operation, about uuid.UUID) string {
	at := pathParameter.ReplaceAllString(path, about.String())
	for _, p := range op.Parameters {
		if p.Value.In == openapi3.ParameterInQuery && p.Value.Required {
			at += "?" + p.Value.Name + "=" + about.String()
		}
	}
	return at
}

// Every operation for operators, as the document has them, for everybody: who may not is
// told so before anything of the call is looked at, who may is not.
func TestOperationsTakeTheirRole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	spec, err := openapi3.NewLoader().LoadFromFile("openapi.yaml")
	must(t, err)
	callers := []struct {
		name string
		role identity.Role // zero: anonymous
	}{{"anonymous", 0}, {"user", identity.RoleUser}, {"support", identity.RoleSupport}, {"admin", identity.RoleAdmin}}
	found := 0
	for path, item := range spec.Paths.Map() {
		if !admin.Guarded(path) {
			continue
		}
		for method, op := range item.Operations() {
			found++
			named, _ := op.Extensions["x-role"].(string)
			least, err := identity.ParseRole(named)
			if err != nil || least == identity.RoleUser {
				t.Errorf("%s %s: x-role is %q: %v", method, path, named, err)
				continue
			}
			if method != http.MethodGet && least != identity.RoleAdmin {
				t.Errorf("%s %s changes something and takes %s", method, path, least)
			}
			for _, caller := range callers {
				t.Run(fmt.Sprintf("%s %s/%s", method, path, caller.name), func(t *testing.T) {
					t.Parallel()
					who, target := user{w: w}, uuid.New()
					if caller.role != 0 {
						who = w.register("Caller").as(caller.role)
					}
					got := who.call(method, addressOf(path, op, target), nil)
					lines := w.lines(who.id)
					switch {
					case caller.role == 0:
						wantProblem(t, got, 401, "unauthenticated")
					case caller.role < least:
						wantProblem(t, got, 403, "forbidden")
						if len(lines) != 1 || !strings.HasSuffix(lines[0], " forbidden -") {
							t.Errorf("the activity log has %q", lines)
						}
					case got.status == 401 || got.status == 403 || got.status >= 500:
						t.Errorf("got %d %s", got.status, got.raw)
					case method == http.MethodGet && len(lines) != 1:
						t.Errorf("the activity log has %q", lines)
					}
				})
			}
		}
	}
	if found == 0 {
		t.Fatal("the document has no operation for operators")
	}
}

// The token that an administrator has goes on saying so; it does not count.
func TestDemotionHoldsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	boss, ana := w.register("Boss"), w.register("Ana")
	path := "/api/ops/users/" + ana.id.String()
	wantProblem(t, boss.get(path), 403, "forbidden")
	boss.as(identity.RoleAdmin)
	shown := boss.get(path)
	if shown.status != 200 || shown.text("displayName") != "Ana" || shown.text("role") != "user" || shown.body["sessions"] != 1.0 {
		t.Errorf("%d %s", shown.status, shown.raw)
	}
	wantProblem(t, boss.get("/api/ops/users/"+uuid.NewString()), 404, "user_not_found")
	wantProblem(t, boss.get("/api/ops/users/x"), 400, "invalid_request")
	boss.as(identity.RoleUser)
	wantProblem(t, boss.get(path), 403, "forbidden")

	boss.as(identity.RoleAdmin)
	_, err := w.pool.Exec(t.Context(), `UPDATE users SET status = 3 WHERE id = $1`, boss.id)
	must(t, err)
	wantProblem(t, boss.get(path), 401, "unauthenticated")
	_, err = w.pool.Exec(t.Context(), `UPDATE users SET status = 1 WHERE id = $1`, boss.id)
	must(t, err)
	eventually(t, "the session to be known again", func() bool { return boss.get("/api/profile").status == 200 })
	if got := boss.call("POST", "/api/auth/logout", nil); got.status != 204 {
		t.Fatalf("logout: %s", got.raw)
	}
	wantProblem(t, boss.get(path), 401, "unauthenticated")

	want := []string{"ops.user.show forbidden -", "ops.user.show - " + ana.id.String()}
	if got := w.lines(boss.id); len(got) != 4 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("the activity log has %q, want it to begin with %q", got, want)
	}
	if got := w.lines(uuid.Nil); len(got) != 3 || got[0] != "ops.user.role - "+boss.id.String() {
		t.Errorf("of the console the activity log has %q", got)
	}
}

// What cannot be taken down is not shown.
func TestNothingIsShownWithoutItsLine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	boss := w.register("Boss").as(identity.RoleAdmin)
	path := "/api/ops/users/" + boss.id.String()
	if got := boss.get(path); got.status != 200 {
		t.Fatalf("%d %s", got.status, got.raw)
	}
	_, err := w.pool.Exec(t.Context(), `ALTER TABLE activity_log ADD CONSTRAINT full_up CHECK (at < '2000-01-01') NOT VALID`)
	must(t, err)
	wantProblem(t, boss.get(path), 500, "internal")
	if _, err := w.admin.SetRole(t.Context(), admin.Actor{}, boss.id, identity.RoleUser); err == nil {
		t.Error("a role is changed without a line in the activity log")
	}
	var role identity.Role
	must(t, w.pool.QueryRow(t.Context(), `SELECT role FROM users WHERE id = $1`, boss.id).Scan(&role))
	if role != identity.RoleAdmin {
		t.Errorf("the role is %s", role)
	}
}

func TestRolesOfAccountsThatAreNotThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	if _, err := w.admin.SetRole(ctx, admin.Actor{}, uuid.New(), identity.RoleAdmin); err == nil || !strings.Contains(err.Error(), "user_not_found") {
		t.Errorf("got %v", err)
	}
	ana := w.register("Ana")
	_, err := w.pool.Exec(ctx, `UPDATE users SET status = 4 WHERE id = $1`, ana.id)
	must(t, err)
	if _, err := w.admin.SetRole(ctx, admin.Actor{}, ana.id, identity.RoleAdmin); err == nil || !strings.Contains(err.Error(), "account_deleting") {
		t.Errorf("got %v", err)
	}
	if got := w.lines(uuid.Nil); len(got) != 2 || !strings.Contains(got[0], "user_not_found") || !strings.Contains(got[1], "account_deleting") {
		t.Errorf("the activity log has %q", got)
	}
	if _, err := w.admin.FindUser(ctx, "nobody@example.org"); err == nil {
		t.Error("nobody is found")
	}
	var email string
	must(t, w.pool.QueryRow(ctx, `SELECT email FROM credentials WHERE user_id = $1`, ana.id).Scan(&email))
	if id, err := w.admin.FindUser(ctx, " "+strings.ToUpper(email)); err != nil || id != ana.id {
		t.Errorf("by address: %v %v", id, err)
	}
}
