package ingest_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/ingest"
	"github.com/bondmate/backend/ingest/admin"
	"github.com/bondmate/backend/pkg/identity"
)

// standing is a clock that stands until a test moves it.
type standing struct {
	mu sync.Mutex
	at time.Time
}

func (c *standing) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *standing) forward(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(by)
}

// text is a log, readable while it is written.
type text struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *text) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *text) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

// office is a world whose keys go by a clock that stands, and whose log is kept.
type office struct {
	*world
	clock  *standing
	log    *text
	counts *prometheus.Registry
}

func newOffice(t *testing.T) *office {
	t.Helper()
	o := &office{clock: &standing{at: time.Now().UTC().Truncate(time.Microsecond)}}
	return o.at(newWorld(t, o.option(t)))
}

// instance is one more server on the office's database, by the same clock.
func (o *office) instance() *office {
	o.t.Helper()
	other := &office{clock: o.clock}
	return other.at(newInstance(o.t, o.pool, o.queue, other.option(o.t)))
}

func (o *office) at(w *world) *office {
	o.world = w
	return o
}

func (o *office) option(t *testing.T) option {
	o.log, o.counts = &text{}, prometheus.NewRegistry()
	return func(cfg *ingest.Config) {
		cfg.Log = slog.New(slog.NewJSONHandler(o.log, nil))
		var err error
		cfg.Admin, err = admin.New(admin.Config{
			Pool: cfg.Pool, Partitions: partitions, Clock: o.clock.now, Log: cfg.Log, Registerer: o.counts,
		})
		must(t, err)
	}
}

// server is one that has a key.
type server struct {
	o       *office
	id, key string
}

// hire makes a key with scopes by an administrator's call.
func (o *office) hire(boss user, name string, scopes ...admin.Scope) server {
	o.t.Helper()
	made := boss.call("POST", "/api/ops/api-keys", map[string]any{"name": name, "scopes": scopes})
	if made.status != 201 || made.text("key") == "" {
		o.t.Fatalf("%d %s", made.status, made.raw)
	}
	return server{o, made.text("apiKey", "id"), made.text("key")}
}

func (s server) call(method, path string, body any) answer {
	s.o.t.Helper()
	return s.o.do(method, path, "", []string{"X-API-Key", s.key}, body)
}

// on is the same server calling another instance.
func (s server) on(o *office) server { s.o = o; return s }

// refused returns what the activity log has of refused keys, as "reason actor subject".
func (o *office) refused() []string {
	o.t.Helper()
	rows, err := o.pool.Query(o.t.Context(), `SELECT metadata->>'reason', actor::text, COALESCE(subject::text, '-'), severity, address IS NOT NULL, device, code
		FROM activity_log WHERE action = 'ops.key.refused' ORDER BY at, 1`)
	must(o.t, err)
	defer rows.Close()
	var lines []string
	for rows.Next() {
		var reason, actor, subject, device, code string
		var severity int
		var address bool
		must(o.t, rows.Scan(&reason, &actor, &subject, &severity, &address, &device, &code))
		if severity != 3 || !address || !strings.HasPrefix(device, "api key: ") || code == "" {
			o.t.Errorf("%s: severity %d, address %t, device %q, code %q", reason, severity, address, device, code)
		}
		lines = append(lines, reason+" "+actor+" "+subject)
	}
	must(o.t, rows.Err())
	return lines
}

// count returns a counter of refused keys.
func (o *office) count(reason string) (n float64) {
	o.t.Helper()
	families, err := o.counts.Gather()
	must(o.t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "bondmate_api_keys_refused_total" && m.GetLabel()[0].GetValue() == reason {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

// Every operation of the document, with the key that holds its scope, with one that holds all
// the others, and with one that is not good.
func TestKeysGoAsFarAsTheirScopes(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	boss := o.register("Boss").as(identity.RoleAdmin)
	spec, err := openapi3.NewLoader().LoadFromFile("openapi.yaml")
	must(t, err)
	all := o.hire(boss, "all", admin.Scopes()...)
	without := map[string]server{}
	for _, s := range admin.Scopes() {
		others := slices.DeleteFunc(admin.Scopes(), func(other admin.Scope) bool { return other == s })
		without[string(s)] = o.hire(boss, "without-"+strings.ReplaceAll(string(s), ":", "-"), others...)
	}
	forged, _ := identity.NewAPIKey(uuid.MustParse(all.id))
	for path, item := range spec.Paths.Map() {
		for method, op := range item.Operations() {
			if op.Security != nil && (len(*op.Security) == 0 || slices.ContainsFunc(*op.Security, func(r openapi3.SecurityRequirement) bool { return len(r) == 0 })) {
				continue // nobody is asked for anything
			}
			t.Run(method+" "+path, func(t *testing.T) {
				t.Parallel()
				call := func(s server) answer {
					return s.call(method, addressOf(path, op, uuid.New()), nil)
				}
				for name, key := range map[string]string{"forged": forged, "cut off": all.key[:60], "empty": ""} {
					if got := call(server{o, all.id, key}); got.status != 401 || got.code() != "unauthenticated" {
						t.Errorf("%s: %d %s", name, got.status, got.raw)
					}
				}
				scope, _ := op.Extensions["x-scope"].(string)
				if scope == "" {
					wantProblem(t, call(all), 403, "forbidden")
					return
				}
				wantProblem(t, call(without[scope]), 403, "forbidden")
				own := o.hire(boss, strings.ToLower(method)+"-"+op.OperationID, admin.Scope(scope))
				if got := call(own); got.status == 401 || got.status == 403 || got.status >= 500 {
					t.Errorf("%d %s", got.status, got.raw)
				}
				lines := o.lines(uuid.MustParse(own.id))
				if len(lines) > 1 || method == http.MethodGet && len(lines) != 1 || len(lines) == 1 && !strings.HasPrefix(lines[0], "ops.") {
					t.Errorf("the activity log has %q of the key", lines)
				}
			})
		}
	}
}

// A key's life: made, used, rotated, replaced, revoked.
func TestKeyFromCreationToRevocation(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	boss, ana := o.register("Boss").as(identity.RoleAdmin), o.register("Ana")
	wantProblem(t, ana.get("/api/ops/api-keys"), 403, "forbidden")
	wantProblem(t, ana.call("POST", "/api/ops/api-keys", map[string]any{"name": "x", "scopes": []string{"users:read"}}), 403, "forbidden")
	path := "/api/ops/users/" + ana.id.String()
	s := o.hire(boss, "billing", admin.ReadUsers, admin.WriteUsers)
	if got := s.call("GET", path, nil); got.text("displayName") != "Ana" {
		t.Fatalf("%d %s", got.status, got.raw)
	}
	if got := s.call("PUT", path+"/tier", map[string]any{"tier": "premium"}); got.text("tier") != "premium" {
		t.Fatalf("%d %s", got.status, got.raw)
	}
	want := []string{"ops.user.show - " + ana.id.String(), "ops.user.tier - " + ana.id.String()}
	if diff := cmp.Diff(want, o.lines(uuid.MustParse(s.id))); diff != "" {
		t.Errorf("activity of the key (-want +got):\n%s", diff)
	}
	var device string
	must(t, o.pool.QueryRow(t.Context(), `SELECT min(device) FROM activity_log WHERE actor = $1`, s.id).Scan(&device))
	if device != "api key: billing" {
		t.Errorf("the activity log has it as %q", device)
	}

	// A day for the servers to be given the new one.
	o.clock.forward(time.Hour)
	rotated := boss.call("POST", "/api/ops/api-keys/"+s.id+"/rotate", nil)
	next := server{o, s.id, rotated.text("key")}
	if rotated.status != 200 || next.key == s.key || rotated.text("apiKey", "id") != s.id {
		t.Fatalf("%d %s", rotated.status, rotated.raw)
	}
	o.clock.forward(24*time.Hour - time.Microsecond)
	for _, key := range []server{s, next} {
		if got := key.call("GET", path, nil); got.status != 200 {
			t.Errorf("within the grace: %d %s", got.status, got.raw)
		}
	}
	o.clock.forward(time.Microsecond)
	wantProblem(t, s.call("GET", path, nil), 401, "unauthenticated")
	if got := next.call("GET", path, nil); got.status != 200 {
		t.Errorf("the new one: %d %s", got.status, got.raw)
	}

	// One whose answer was lost is repeated, and nothing ends that a server has.
	lost := boss.call("POST", "/api/ops/api-keys/"+s.id+"/rotate", nil)
	again := boss.call("POST", "/api/ops/api-keys/"+s.id+"/rotate", nil)
	wantProblem(t, server{o, s.id, lost.text("key")}.call("GET", path, nil), 401, "unauthenticated")
	for _, key := range []string{next.key, again.text("key")} {
		if got := (server{o, s.id, key}).call("GET", path, nil); got.status != 200 {
			t.Errorf("after a repeated rotation: %d %s", got.status, got.raw)
		}
	}

	// With none it is over at once, and so is a grace that was still running.
	second := boss.call("POST", "/api/ops/api-keys/"+s.id+"/rotate", nil)
	third := boss.call("POST", "/api/ops/api-keys/"+s.id+"/rotate", map[string]any{"graceSeconds": 0})
	for _, key := range []string{next.key, again.text("key"), second.text("key")} {
		wantProblem(t, server{o, s.id, key}.call("GET", path, nil), 401, "unauthenticated")
	}
	last := server{o, s.id, third.text("key")}
	if got := last.call("GET", path, nil); got.status != 200 {
		t.Errorf("after two rotations: %d %s", got.status, got.raw)
	}

	for range 2 {
		if got := boss.call("POST", "/api/ops/api-keys/"+s.id+"/revoke", nil); got.status != 200 || got.text("status") != "revoked" {
			t.Fatalf("%d %s", got.status, got.raw)
		}
	}
	wantProblem(t, last.call("GET", path, nil), 401, "unauthenticated") // the clock has not moved
	wantProblem(t, boss.call("POST", "/api/ops/api-keys/"+s.id+"/rotate", nil), 404, "not_found")
	wantProblem(t, boss.call("POST", "/api/ops/api-keys/"+uuid.NewString()+"/revoke", nil), 404, "not_found")
	shown := boss.get("/api/ops/api-keys").body["apiKeys"].([]any)[0].(map[string]any)
	if shown["status"] != "revoked" || shown["createdBy"] != "user:"+boss.id.String() || shown["lastUsedAt"] == nil || shown["key"] != nil {
		t.Errorf("%v", shown)
	}
	o.hire(boss, "billing", admin.ReadUsers) // the name is free again

	for what, held := range map[string]string{"the log": o.log.String(), "a table": o.dump()} {
		for i, key := range []string{s.key, next.key, second.text("key"), last.key} {
			if strings.Contains(held, key) || strings.Contains(held, key[len("bmk_")+33:]) || strings.Contains(held, fmt.Sprintf("%x", key)) {
				t.Errorf("%s holds key %d", what, i)
			}
		}
		if !strings.Contains(held, s.id) {
			t.Errorf("%s does not name the key by its id", what)
		}
	}
}

// dump returns all that is stored of keys and of who did what.
func (o *office) dump() string {
	o.t.Helper()
	var all string
	must(o.t, o.pool.QueryRow(o.t.Context(), `
		SELECT (SELECT string_agg(x::text, E'\n') FROM api_keys x) || (SELECT string_agg(x::text, E'\n') FROM activity_log x)`).Scan(&all))
	return all
}

// What has a key in it stays with who asked for it.
func TestAnswersWithAKeyAreNotKept(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	boss := o.register("Boss").as(identity.RoleAdmin)
	made := boss.call("POST", "/api/ops/api-keys", map[string]any{"name": "billing", "scopes": []string{"users:read"}})
	for what, got := range map[string]answer{
		"create": made, "rotate": boss.call("POST", "/api/ops/api-keys/"+made.text("apiKey", "id")+"/rotate", nil),
	} {
		if cache := got.header.Get("Cache-Control"); cache != "no-store" || !strings.HasPrefix(got.text("key"), "bmk_") {
			t.Errorf("%s: Cache-Control %q: %s", what, cache, got.raw)
		}
	}
	if list := boss.get("/api/ops/api-keys"); strings.Contains(string(list.raw), "bmk_") {
		t.Errorf("the list has the key: %s", list.raw)
	}
}

func TestKeysThatExpire(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	boss := o.register("Boss").as(identity.RoleAdmin)
	order := map[string]any{"name": "billing", "scopes": []string{"reports:read"}, "expiresAt": o.clock.now().Add(time.Hour)}
	made := boss.call("POST", "/api/ops/api-keys", order)
	s := server{o, made.text("apiKey", "id"), made.text("key")}
	o.clock.forward(time.Hour - time.Microsecond)
	if got := s.call("GET", "/api/ops/reports", nil); got.status != 200 {
		t.Errorf("before: %d %s", got.status, got.raw)
	}
	o.clock.forward(time.Microsecond)
	wantProblem(t, s.call("GET", "/api/ops/reports", nil), 401, "unauthenticated")
	wantProblem(t, boss.call("POST", "/api/ops/api-keys/"+s.id+"/rotate", nil), 404, "not_found")
	if diff := cmp.Diff([]string{"expired " + s.id + " -"}, o.refused()); diff != "" {
		t.Errorf("activity (-want +got):\n%s", diff)
	}
}

func TestOrdersForKeys(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	boss := o.register("Boss").as(identity.RoleAdmin)
	o.hire(boss, "billing", admin.ReadUsers)
	long := strings.Repeat("a", 65)
	for name, tt := range map[string]struct {
		name    string
		scopes  []string
		expires any
		pointer string
	}{
		"no name":       {"", []string{"users:read"}, nil, "/name"},
		"spaces":        {"a b", []string{"users:read"}, nil, "/name"},
		"too long":      {long, []string{"users:read"}, nil, "/name"},
		"an id":         {uuid.NewString(), []string{"users:read"}, nil, "/name"},
		"taken":         {"billing", []string{"users:read"}, nil, "/name"},
		"no scope":      {"new", []string{}, nil, "/scopes"},
		"unknown scope": {"new", []string{"users:read", "keys:write"}, nil, "/scopes/1"},
		"in the past":   {"new", []string{"users:read"}, o.clock.now(), "/expiresAt"},
	} {
		body := map[string]any{"name": tt.name, "scopes": tt.scopes}
		if tt.expires != nil {
			body["expiresAt"] = tt.expires
		}
		got := boss.call("POST", "/api/ops/api-keys", body)
		if got.status != 400 || got.code() != "invalid_request" || !strings.Contains(string(got.raw), `"pointer":"`+tt.pointer+`"`) {
			t.Errorf("%s: %d %s", name, got.status, got.raw)
		}
		if tt.expires == nil && tt.name != "billing" { // a console is not held against the document
			order := admin.KeyOrder{Name: tt.name}
			for _, s := range tt.scopes {
				order.Scopes = append(order.Scopes, admin.Scope(s))
			}
			if _, _, err := o.admin.CreateKey(t.Context(), admin.Actor{}, order); err == nil {
				t.Errorf("%s: made at a console", name)
			}
		}
	}
	for _, grace := range []int{-1, 604801} {
		if got := boss.call("POST", "/api/ops/api-keys/"+uuid.NewString()+"/rotate", map[string]any{"graceSeconds": grace}); got.status != 400 {
			t.Errorf("a grace of %d: %d %s", grace, got.status, got.raw)
		}
		if _, _, err := o.admin.RotateKey(t.Context(), admin.Actor{}, uuid.New(), time.Duration(grace)*time.Second); err == nil || strings.Contains(err.Error(), "not_found") {
			t.Errorf("a grace of %d at a console: %v", grace, err)
		}
	}

	// However many ask at once, there are no more than there can be.
	_, err := o.pool.Exec(t.Context(), `INSERT INTO api_keys (id, name, scopes, hash, created_at, created_by)
		SELECT gen_random_uuid(), 'n' || n, '{}', '', now(), '' FROM generate_series(1, 197) n`)
	must(t, err)
	var calls sync.WaitGroup
	var made [6]answer
	for i := range made {
		calls.Go(func() {
			made[i] = boss.call("POST", "/api/ops/api-keys", map[string]any{"name": fmt.Sprint("last-", i), "scopes": []string{"users:read"}})
		})
	}
	calls.Wait()
	n := 0
	for _, got := range made {
		if got.status == 201 {
			n++
		} else {
			wantProblem(t, got, 400, "invalid_request")
		}
	}
	if n != 2 {
		t.Errorf("%d of 6 were made where there was room for 2", n)
	}
}

// Who says in two ways who they are is asked which one they mean.
func TestKeyAndTokenAtOnce(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	boss := o.register("Boss").as(identity.RoleAdmin)
	s := o.hire(boss, "billing", admin.ReadReports)
	for _, path := range []string{"/api/ops/reports", "/api/profile"} {
		wantProblem(t, o.do("GET", path, boss.token, []string{"X-API-Key", s.key}, nil), 400, "invalid_request")
		wantProblem(t, o.do("GET", path, boss.token, []string{"X-API-Key", ""}, nil), 400, "invalid_request")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.url+"/api/ops/reports", nil)
	must(t, err)
	req.Header["X-Api-Key"] = []string{s.key, s.key}
	res, err := http.DefaultClient.Do(req)
	must(t, err)
	_ = res.Body.Close()
	if res.StatusCode != 400 {
		t.Errorf("two keys: %d", res.StatusCode)
	}
	if got := o.do("GET", "/health", boss.token, []string{"X-API-Key", "x"}, nil); got.status != 200 {
		t.Errorf("where nobody is asked: %d", got.status)
	}
}

// A revocation holds at once where it was made, and within a second everywhere.
func TestRevocationOfAKeyHoldsEverywhere(t *testing.T) {
	t.Parallel()
	here := newOffice(t)
	there := here.instance()
	boss := here.register("Boss").as(identity.RoleAdmin)
	s := here.hire(boss, "billing", admin.ReadReports)
	get := func(at *office) int { return s.on(at).call("GET", "/api/ops/reports", nil).status }
	if get(here) != 200 || get(there) != 200 {
		t.Fatal("the key is not good")
	}
	if got := boss.call("POST", "/api/ops/api-keys/"+s.id+"/revoke", nil); got.status != 200 {
		t.Fatalf("%s", got.raw)
	}
	if got := get(here); got != 401 {
		t.Errorf("where it was revoked: %d", got)
	}
	here.clock.forward(time.Second)
	if got := get(there); got != 401 {
		t.Errorf("elsewhere, a second later: %d", got)
	}
	if diff := cmp.Diff([]string{"revoked " + s.id + " -", "revoked " + s.id + " -"}, here.refused()); diff != "" {
		t.Errorf("activity (-want +got):\n%s", diff)
	}
}

// However often a key is refused, it is taken down once a minute for each reason, and once
// for all keys that nobody has; and those cost no look-ups of their own.
func TestRefusedKeysAreTakenDownOnceInAWhile(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	boss := o.register("Boss").as(identity.RoleAdmin)
	revoked, narrow := o.hire(boss, "revoked", admin.ReadUsers), o.hire(boss, "narrow", admin.ReadUsers)
	if got := boss.call("POST", "/api/ops/api-keys/"+revoked.id+"/revoke", nil); got.status != 200 {
		t.Fatalf("%s", got.raw)
	}
	forged, _ := identity.NewAPIKey(uuid.MustParse(narrow.id))
	o.clock.forward(time.Second)
	before := o.pool.Stat().AcquireCount()
	flood := func() {
		for range 20 {
			wantProblem(t, revoked.call("GET", "/api/ops/reports", nil), 401, "unauthenticated")
			wantProblem(t, narrow.call("GET", "/api/ops/reports", nil), 403, "forbidden")
			wantProblem(t, server{o, "", forged}.call("GET", "/api/ops/reports", nil), 401, "unauthenticated")
			invented, _ := identity.NewAPIKey(uuid.New())
			wantProblem(t, server{o, "", invented}.call("GET", "/api/ops/reports", nil), 401, "unauthenticated")
			wantProblem(t, server{o, "", "password"}.call("GET", "/api/ops/reports", nil), 401, "unauthenticated")
		}
	}
	flood()
	if n := o.pool.Stat().AcquireCount() - before; n != 4 { // keys once, three lines
		t.Errorf("100 refusals took %d connections", n)
	}
	lines := []string{
		"revoked " + revoked.id + " -",
		"scope " + narrow.id + " -",
		"unknown " + uuid.Nil.String() + " " + narrow.id,
	}
	if diff := cmp.Diff(lines, o.refused()); diff != "" {
		t.Errorf("activity (-want +got):\n%s", diff)
	}
	o.clock.forward(time.Minute)
	flood()
	if got := o.refused(); len(got) != 2*len(lines) {
		t.Errorf("a minute later the activity log has %q", got)
	}
	for reason, want := range map[string]float64{"revoked": 40, "scope": 40, "unknown": 80, "malformed": 40} {
		if got := o.count(reason); got != want {
			t.Errorf("%s: counted %v, want %v", reason, got, want)
		}
	}
}

// The last use of a key is written once a minute at most, over all instances.
func TestLastUseIsWrittenOnceAMinute(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	other := o.instance()
	boss := o.register("Boss").as(identity.RoleAdmin)
	s := o.hire(boss, "billing", admin.ReadReports)
	used := func() (version string, at *time.Time) {
		must(t, o.pool.QueryRow(t.Context(), `SELECT xmin::text, last_used_at FROM api_keys WHERE id = $1`, s.id).Scan(&version, &at))
		return version, at
	}
	if _, at := used(); at != nil {
		t.Errorf("used at %v, before it was", at)
	}
	call := func() {
		for _, at := range []*office{o, other, o} {
			if got := s.on(at).call("GET", "/api/ops/reports", nil); got.status != 200 {
				t.Fatalf("%d %s", got.status, got.raw)
			}
		}
	}
	call()
	first, at := used()
	if at == nil || !at.Equal(o.clock.now()) {
		t.Errorf("used at %v, want %v", at, o.clock.now())
	}
	for range 3 {
		o.clock.forward(19 * time.Second)
		call()
	}
	if again, _ := used(); again != first {
		t.Error("written again within a minute")
	}
	o.clock.forward(3 * time.Second)
	call()
	if again, at := used(); again == first || !at.Equal(o.clock.now()) {
		t.Errorf("used at %v, want %v", at, o.clock.now())
	}
}

// What a key has done has its id where a person's would be.
func TestWhatAKeyHasDone(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	boss, ana, ben := o.register("Boss").as(identity.RoleAdmin), o.register("Ana"), o.register("Ben")
	s := o.hire(boss, "moderation", admin.ReadReports, admin.WriteReports)
	report := ana.call("POST", "/api/reports", map[string]any{"targetUserId": ben.id, "reason": "spam"}).text("id")
	got := s.call("POST", "/api/ops/reports/"+report+"/resolve", map[string]any{"resolution": "suspended"})
	if got.status != 200 || got.text("resolvedBy") != s.id {
		t.Errorf("%d %s", got.status, got.raw)
	}
	want := []string{"ops.report.resolve - " + ben.id.String(), "ops.user.suspend - " + ben.id.String()}
	lines := o.lines(uuid.MustParse(s.id))
	slices.Sort(lines)
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("activity (-want +got):\n%s", diff)
	}
}
