package ingest_test

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

func TestPartnersFromRequestToRestorable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben, eve := w.register("Ana"), w.register("Ben"), w.register("Eve")

	found := ana.get("/api/enhanced-partners/search?code=" + strings.ToLower(ben.code))
	if found.status != 200 || found.text("user", "id") != ben.id.String() {
		t.Fatalf("search: %d %s", found.status, found.raw)
	}
	wantProblem(t, ana.get("/api/enhanced-partners/search?code=0000000000"), 404, "user_not_found")

	sent := ana.call("POST", "/api/enhanced-partners/request", map[string]any{"partnerCode": ben.code, "message": "hello"}, "Prefer", "wait=5")
	requestID := sent.text("requestId")
	if sent.status != 200 || sent.text("status") != "applied" || sent.text("result", "requestId") != requestID || sent.body["seq"] != 1.0 {
		t.Fatalf("send: %d %s", sent.status, sent.raw)
	}
	if got := sent.header.Get("Preference-Applied"); got != "wait=5" {
		t.Errorf("Preference-Applied is %q", got)
	}
	if got := sent.header.Get("Location"); got != "/api/commands/"+sent.text("commandId") {
		t.Errorf("Location is %q", got)
	}

	got := ben.get("/api/enhanced-partners/requests?direction=incoming&status=pending")
	list, _ := got.body["requests"].([]any)
	if len(list) != 1 || list[0].(map[string]any)["message"] != "hello" || got.body["nextCursor"] != nil {
		t.Fatalf("requests: %s", got.raw)
	}
	if got := ben.get("/api/enhanced-partners/requests?direction=outgoing"); len(got.body["requests"].([]any)) != 0 {
		t.Errorf("outgoing requests of Ben: %s", got.raw)
	}
	if got := ana.get("/api/enhanced-partners/request/" + requestID); got.text("direction") != "outgoing" || got.text("user", "displayName") != "Ben" {
		t.Errorf("request: %s", got.raw)
	}
	wantProblem(t, eve.get("/api/enhanced-partners/request/"+requestID), 404, "not_found")
	wantProblem(t, eve.call("PUT", "/api/enhanced-partners/request/"+requestID+"/accept", nil), 404, "not_found")

	accepted := ben.call("PUT", "/api/enhanced-partners/request/"+requestID+"/accept", nil, "Prefer", "wait=5")
	partnership := accepted.text("result", "partnershipId")
	if accepted.status != 200 || partnership == "" {
		t.Fatalf("accept: %d %s", accepted.status, accepted.raw)
	}
	wantProblem(t, ben.call("PUT", "/api/enhanced-partners/request/"+requestID+"/reject", nil, "Prefer", "wait=5"), 409, "not_pending")

	current := ana.get("/api/enhanced-partners/current")
	if current.text("partner", "userId") != ben.id.String() || current.text("partnershipId") != partnership || current.body["restored"] != false {
		t.Errorf("current: %s", current.raw)
	}
	if got := ana.get("/api/enhanced-partners/slots"); got.body["occupied"] != 1.0 || got.body["vacant"] != 0.0 {
		t.Errorf("slots: %s", got.raw)
	}
	sync := ana.get("/api/sync")
	if len(sync.body["partners"].([]any)) != 1 || sync.body["breakup"] != nil || sync.text("profile", "id") != ana.id.String() {
		t.Errorf("sync: %s", sync.raw)
	}
	wantProblem(t, eve.call("POST", "/api/enhanced-partners/remove", map[string]any{"partnershipId": partnership}), 409, "not_current")
	wantProblem(t, eve.call("POST", "/api/enhanced-partners/remove", nil), 409, "not_current")

	removed := ana.call("DELETE", "/api/enhanced-partners/remove?quiet=true", map[string]any{"reason": "my own"}, "Prefer", "wait=5")
	if removed.status != 200 {
		t.Fatalf("remove: %d %s", removed.status, removed.raw)
	}
	if got := ana.get("/api/enhanced-partners/current"); got.body["partner"] != nil {
		t.Errorf("current after leaving: %s", got.raw)
	}
	mine := ana.get("/api/enhanced-partners/history").body["history"].([]any)[0].(map[string]any)
	theirs := ben.get("/api/enhanced-partners/restorable").body["restorable"].([]any)[0].(map[string]any)
	if mine["reason"] != "my own" || mine["endedByYou"] != true || theirs["reason"] != nil || theirs["endedByYou"] != false {
		t.Errorf("history %v, restorable %v", mine, theirs)
	}
	if got := ana.get("/api/enhanced-partners/partners"); len(got.body["partners"].([]any)) != 0 {
		t.Errorf("partners: %s", got.raw)
	}
}

func TestRejectedCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben := w.register("Ana"), w.register("Ben")
	post := func(body any) answer {
		return ana.call("POST", "/api/enhanced-partners/request", body, "Prefer", "wait=5")
	}
	wantProblem(t, post(map[string]any{"toUserId": ana.id}), 409, "self_request")
	wantProblem(t, post(map[string]any{"toUserId": uuid.New()}), 404, "user_not_found")
	wantProblem(t, post(map[string]any{"partnerCode": "0000000000"}), 404, "user_not_found")
	if got := post(map[string]any{"toUserId": ben.id}); got.status != 200 {
		t.Fatalf("send: %s", got.raw)
	}
	again := post(map[string]any{"toUserId": ben.id})
	wantProblem(t, again, 409, "request_pending")
	command := ana.get("/api/commands/" + again.text("commandId"))
	if command.text("status") != "rejected" || command.text("code") != "request_pending" || command.text("type") != "request.send" {
		t.Errorf("command: %s", command.raw)
	}
	wantProblem(t, ben.get("/api/commands/"+again.text("commandId")), 404, "not_found")
}

func TestListsGoOnByCursor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana := w.register("Ana")
	want := map[string]bool{}
	for range 5 {
		other := w.register("Other")
		want[ana.send(other, "Prefer", "wait=5").text("requestId")] = true
	}
	got := map[string]bool{}
	path := "/api/enhanced-partners/requests?limit=2"
	for pages := 0; ; pages++ {
		page := ana.get(path)
		for _, r := range page.body["requests"].([]any) {
			got[r.(map[string]any)["id"].(string)] = true
		}
		next, more := page.body["nextCursor"].(string)
		if !more {
			if pages != 2 {
				t.Errorf("%d pages", pages+1)
			}
			break
		}
		path = "/api/enhanced-partners/requests?limit=2&cursor=" + next
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	wantProblem(t, ana.get("/api/enhanced-partners/requests?cursor=nonsense"), 400, "invalid_request")
}

func TestOverdueRequestReadsAsExpired(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben := w.register("Ana"), w.register("Ben")
	id := ana.send(ben, "Prefer", "wait=5").text("requestId")
	_, err := w.pool.Exec(t.Context(), `UPDATE requests SET created_at = created_at - interval '8 days', expires_at = expires_at - interval '8 days'`)
	must(t, err)
	got := ana.get("/api/enhanced-partners/request/" + id)
	if got.text("status") != "expired" || got.text("resolvedAt") != got.text("expiresAt") {
		t.Errorf("request: %s", got.raw)
	}
	if got := ana.get("/api/enhanced-partners/requests?status=pending"); len(got.body["requests"].([]any)) != 0 {
		t.Errorf("pending: %s", got.raw)
	}
	if got := ana.get("/api/enhanced-partners/requests?status=expired"); len(got.body["requests"].([]any)) != 1 {
		t.Errorf("expired: %s", got.raw)
	}
}

func TestNotifications(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana := w.register("Ana")
	for range 3 {
		ana.send(w.register("Other"), "Prefer", "wait=5")
	}
	w.countable()
	all := ana.get("/api/notifications")
	epoch := all.text("epoch")
	if len(all.body["events"].([]any)) != 3 || all.body["lastSeq"] != 3.0 || all.body["unread"] != 3.0 {
		t.Fatalf("notifications: %s", all.raw)
	}
	rest := ana.get("/api/notifications?after=1&limit=1&epoch=" + epoch)
	if events := rest.body["events"].([]any); len(events) != 1 || events[0].(map[string]any)["seq"] != 2.0 {
		t.Errorf("after 1: %s", rest.raw)
	}
	if got := ana.get("/api/notifications?after=3"); len(got.body["events"].([]any)) != 0 {
		t.Errorf("after the head: %s", got.raw)
	}
	_, err := w.pool.Exec(t.Context(), `INSERT INTO acks (user_id, session_id, seq, updated_at) SELECT $1, id, 2, now() FROM sessions WHERE user_id = $1`, ana.id)
	must(t, err)
	if got := ana.get("/api/notifications"); got.body["unread"] != 1.0 {
		t.Errorf("unread: %s", got.raw)
	}
	wantProblem(t, ana.get("/api/notifications?after=4"), 409, "resync")
	wantProblem(t, ana.get("/api/notifications?after=1&epoch=other"), 409, "resync")
	_, err = w.pool.Exec(t.Context(), `DELETE FROM inbox WHERE seq < 3`)
	must(t, err)
	wantProblem(t, ana.get("/api/notifications?after=1"), 409, "resync")
	if got := ana.get("/api/notifications?after=2"); len(got.body["events"].([]any)) != 1 {
		t.Errorf("what is left: %s", got.raw)
	}
	// Without a place it is all that is kept, and what is kept no longer is not unread.
	_, err = w.pool.Exec(t.Context(), `DELETE FROM acks`)
	must(t, err)
	if got := ana.get("/api/notifications"); len(got.body["events"].([]any)) != 1 || got.body["unread"] != 1.0 {
		t.Errorf("all that is kept: %s", got.raw)
	}
	_, err = w.pool.Exec(t.Context(), `DELETE FROM inbox`)
	must(t, err)
	if got := ana.get("/api/notifications"); len(got.body["events"].([]any)) != 0 || got.body["unread"] != 0.0 || got.body["lastSeq"] != 3.0 {
		t.Errorf("nothing is kept: %s", got.raw)
	}
	wantProblem(t, ana.get("/api/notifications?after=2"), 409, "resync")
}

func TestAccountsRoutes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	email := uuid.NewString() + "@example.org"
	credentials := map[string]any{"email": email, "password": "a long pass phrase"}
	first := w.do("POST", "/api/auth/register", "", nil, map[string]any{
		"email": email, "password": "a long pass phrase", "displayName": "Ana", "birthDate": "1994-05-17",
		"device": map[string]any{"name": "phone"},
	})
	if first.status != 201 {
		t.Fatalf("register: %s", first.raw)
	}
	wantProblem(t, w.do("POST", "/api/auth/register", "", nil, map[string]any{
		"email": email, "password": "a long pass phrase", "displayName": "Ana",
	}), 409, "email_taken")
	wantProblem(t, w.do("POST", "/api/auth/login", "", nil, map[string]any{"email": email, "password": "wrong"}), 401, "unauthenticated")
	login := w.do("POST", "/api/auth/login", "", nil, credentials)
	token := login.text("accessToken")
	refreshed := w.do("POST", "/api/auth/refresh", "", nil, map[string]any{"refreshToken": login.text("refreshToken")})
	if refreshed.status != 200 || refreshed.text("refreshToken") == login.text("refreshToken") {
		t.Errorf("refresh: %s", refreshed.raw)
	}
	sessions := w.do("GET", "/api/auth/sessions", token, nil, nil).body["sessions"].([]any)
	if len(sessions) != 2 {
		t.Fatalf("sessions: %v", sessions)
	}
	profile := w.do("GET", "/api/profile", token, nil, nil)
	if profile.text("displayName") != "Ana" || profile.text("tier") != "free" || len(profile.text("partnerCode")) != 10 {
		t.Errorf("profile: %s", profile.raw)
	}
	device := w.do("POST", "/api/devices", token, nil, map[string]any{"kind": "fcm", "token": "abc", "platform": "ios"})
	if device.status != 201 {
		t.Errorf("device: %s", device.raw)
	}
	if got := w.do("GET", "/api/devices", token, nil, nil); len(got.body["devices"].([]any)) != 1 {
		t.Errorf("devices: %s", got.raw)
	}
	if got := w.do("DELETE", "/api/devices/"+device.text("id"), token, nil, nil); got.status != 204 {
		t.Errorf("delete device: %s", got.raw)
	}
	wantProblem(t, w.do("DELETE", "/api/devices/"+device.text("id"), token, nil, nil), 404, "not_found")
	if got := w.do("POST", "/api/realtime/ticket", token, nil, nil); got.text("ticket") == "" {
		t.Errorf("ticket: %s", got.raw)
	}
	if got := w.do("POST", "/api/auth/password", token, nil, map[string]any{"current": "a long pass phrase", "next": "another pass phrase"}); got.status != 204 {
		t.Errorf("password: %s", got.raw)
	}
	if got := w.do("POST", "/api/auth/logout-all", token, nil, nil); got.status != 204 {
		t.Errorf("logout-all: %s", got.raw)
	}
	wantProblem(t, w.do("GET", "/api/profile", token, nil, nil), 401, "unauthenticated")
}

func TestServiceRoutes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, path := range []string{"/", "/health", "/api/health"} {
		if got := w.do("GET", path, "", nil, nil); got.status != 200 || got.text("status") != "healthy" {
			t.Errorf("%s: %d %s", path, got.status, got.raw)
		}
	}
	if got := w.do("GET", "/ready", "", nil, nil); got.status != 200 || got.body["ready"] != true {
		t.Errorf("ready: %s", got.raw)
	}
	if got := w.do("GET", "/live", "", nil, nil); got.body["alive"] != true {
		t.Errorf("live: %s", got.raw)
	}
	detailed := w.do("GET", "/health/detailed", "", nil, nil)
	checks := detailed.body["checks"].(map[string]any)
	if detailed.text("status") != "healthy" || checks["kafka"].(map[string]any)["lag"] != 0.0 ||
		checks["postgres"].(map[string]any)["pool"].(map[string]any)["maxPoolSize"] != 10.0 {
		t.Errorf("detailed: %s", detailed.raw)
	}
	if got := w.do("GET", "/.well-known/jwks.json", "", nil, nil); len(got.body["keys"].([]any)) != 1 || got.header.Get("Cache-Control") != "public, max-age=60" {
		t.Errorf("jwks: %s", got.raw)
	}
	if got := w.do("GET", "/docs", "", nil, nil); got.status != 200 || !strings.Contains(string(got.raw), "/api/enhanced-partners/request") {
		t.Errorf("docs: %d", got.status)
	}
	if got := w.do("GET", "/asyncapi.yaml", "", nil, nil); got.status != 200 || !strings.HasPrefix(string(got.raw), "asyncapi: 3.0") {
		t.Errorf("asyncapi.yaml: %d", got.status)
	}
	if got := w.do("GET", "/schemas/request.received.json", "", nil, nil); got.status != 200 || !strings.Contains(string(got.raw), "request.received") {
		t.Errorf("schema: %d", got.status)
	}
	if got := w.do("GET", "/schemas/nothing.json", "", nil, nil); got.status != 404 {
		t.Errorf("schema of an unknown type: %d", got.status)
	}
	if got := w.do("GET", "/openapi.yaml", "", nil, nil); got.status != 200 || !strings.HasPrefix(string(got.raw), "openapi: 3.0") {
		t.Errorf("openapi.yaml: %d", got.status)
	}
}

func TestUnroutedRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	wantProblem(t, w.do("GET", "/api/nothing", "", nil, nil), 404, "not_found")
	for _, path := range []string{"/api/nothing", "/live/", "//live", "/api/realtime", "/demo/"} {
		wantProblem(t, w.do("GET", path, "", nil, nil), 404, "not_found")
	}
	if got, _ := w.try("HEAD", "/live", "", nil, nil); got.status != 200 || len(got.raw) != 0 {
		t.Errorf("HEAD: %d %q", got.status, got.raw)
	}
	if got, _ := w.try("HEAD", "/api/auth/login", "", nil, nil); got.status != 405 || got.header.Get("Allow") != "POST" {
		t.Errorf("HEAD of what has no GET: %d, Allow %q", got.status, got.header.Get("Allow"))
	}
	if got := w.do("POST", "/live", "", nil, nil); got.status != 405 || got.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST of what has no POST: %d, Allow %q", got.status, got.header.Get("Allow"))
	}
	got := w.do("PATCH", "/api/enhanced-partners/remove", "", nil, nil)
	wantProblem(t, got, 405, "method_not_allowed")
	if allow := got.header.Get("Allow"); allow != "POST, DELETE" {
		t.Errorf("Allow is %q", allow)
	}
	for name, token := range map[string]string{"no token": "", "nonsense": "abc"} {
		got := w.do("GET", "/api/profile", token, nil, nil)
		wantProblem(t, got, 401, "unauthenticated")
		if got.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: no WWW-Authenticate", name)
		}
	}
	if got := w.do("GET", "/live", "", []string{"X-Request-Id", "mine-1"}, nil); got.header.Get("X-Request-Id") != "mine-1" {
		t.Errorf("request id is %q", got.header.Get("X-Request-Id"))
	}
}

func TestValidation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana := w.register("Ana")
	const send, remove = "/api/enhanced-partners/request", "/api/enhanced-partners/remove"
	before := w.queue.count()
	for name, c := range map[string]struct {
		method, path, body string
		header             []string
		status             int
		code               string
		errors             []string // pointer and code
	}{
		"unknown field":       {"POST", send, `{"toUserId":"` + ana.id.String() + `","x/y":1}`, nil, 400, "invalid_request", []string{"/x~1y unknown_field"}},
		"wrong type":          {"POST", send, `{"partnerCode":7}`, nil, 400, "invalid_request", []string{"/partnerCode wrong_type"}},
		"null":                {"POST", send, `{"partnerCode":null}`, nil, 400, "invalid_request", []string{"/partnerCode wrong_type"}},
		"bad uuid":            {"POST", send, `{"toUserId":"x"}`, nil, 400, "invalid_request", []string{"/toUserId wrong_format"}},
		"two targets":         {"POST", send, `{"toUserId":"` + ana.id.String() + `","partnerCode":"A"}`, nil, 400, "invalid_request", []string{" one_of"}},
		"no target":           {"POST", send, `{}`, nil, 400, "invalid_request", []string{" one_of"}},
		"no body":             {"POST", send, ``, nil, 400, "invalid_request", []string{" required"}},
		"not JSON":            {"POST", send, `{"toUserId":`, nil, 400, "invalid_request", []string{" malformed"}},
		"two values":          {"POST", send, `{} {}`, nil, 400, "invalid_request", []string{" malformed"}},
		"array":               {"POST", send, `[]`, nil, 400, "invalid_request", []string{" wrong_type"}},
		"deep":                {"POST", send, strings.Repeat("[", 20_000), nil, 400, "invalid_request", []string{" malformed"}},
		"long message":        {"POST", send, `{"toUserId":"` + ana.id.String() + `","message":"` + strings.Repeat("é", 501) + `"}`, nil, 400, "invalid_request", []string{"/message too_long"}},
		"too large":           {"POST", send, `{"message":"` + strings.Repeat("a", 64<<10) + `"}`, nil, 413, "payload_too_large", nil},
		"form":                {"POST", send, `a=1`, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "unsupported_media_type", nil},
		"optional body wrong": {"POST", remove, `{"quiet":"yes"}`, nil, 400, "invalid_request", []string{"/quiet wrong_type"}},
		"query type":          {"DELETE", remove + "?quiet=perhaps", ``, nil, 400, "invalid_request", []string{"quiet wrong_type"}},
		"query uuid":          {"DELETE", remove + "?partnershipId=1", ``, nil, 400, "invalid_request", []string{"partnershipId wrong_format"}},
		"path uuid":           {"GET", "/api/commands/7", ``, nil, 400, "invalid_request", []string{"id wrong_format"}},
		"limit":               {"GET", send + "s?limit=101", ``, nil, 400, "invalid_request", []string{"limit out_of_range"}},
		"not UTF-8":           {"POST", send, "{\"message\":\"\xff\"}", nil, 400, "invalid_request", []string{" malformed"}},
		"too large unread":    {"POST", "/api/auth/logout", strings.Repeat(" ", 64<<10+1), nil, 413, "payload_too_large", nil},
		"repeated parameter":  {"GET", send + "s?limit=1&limit=2", ``, nil, 400, "invalid_request", []string{"limit wrong_format"}},
		"limit type":          {"GET", send + "s?limit=many", ``, nil, 400, "invalid_request", []string{"limit wrong_type"}},
		"enum":                {"GET", send + "s?direction=up", ``, nil, 400, "invalid_request", []string{"direction not_allowed"}},
		"missing parameter":   {"GET", "/api/enhanced-partners/search", ``, nil, 400, "invalid_request", []string{"code required"}},
		"long key":            {"POST", remove, ``, []string{"Idempotency-Key", strings.Repeat("k", 256)}, 400, "invalid_request", []string{"Idempotency-Key too_long"}},
		"several":             {"POST", "/api/devices", `{"kind":"sms","platform":1}`, nil, 400, "invalid_request", []string{"/kind not_allowed", "/platform wrong_type", "/token required"}},
	} {
		t.Run(name, func(t *testing.T) {
			var body any
			if c.body != "" {
				body = c.body
			}
			got := ana.call(c.method, c.path, body, c.header...)
			wantProblem(t, got, c.status, c.code)
			var errs []string
			list, _ := got.body["errors"].([]any)
			for _, e := range list {
				e := e.(map[string]any)
				errs = append(errs, e["pointer"].(string)+" "+e["code"].(string))
			}
			slices.Sort(errs)
			if diff := cmp.Diff(c.errors, errs); diff != "" {
				t.Errorf("%s\n%s", diff, got.raw)
			}
		})
	}
	if got := w.queue.count(); got != before {
		t.Errorf("%d commands were written", got-before)
	}
}

// A body that is sent in chunks says nothing of its length beforehand.
func TestChunkedBodiesAreHeldToTheLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queue.set(func(q *queue) { q.paused = true })
	ana := w.register("Ana")
	for name, c := range map[string]struct {
		method, path string
		size, want   int
	}{
		"read, too large":   {"POST", "/api/enhanced-partners/request", 64<<10 + 1, 413},
		"unread, too large": {"DELETE", "/api/nicknames/" + ana.id.String(), 64<<10 + 1, 413},
		"unread":            {"DELETE", "/api/nicknames/" + ana.id.String(), 64 << 10, 202},
	} {
		t.Run(name, func(t *testing.T) {
			body := struct{ io.Reader }{strings.NewReader(strings.Repeat(" ", c.size))} // hides the length
			req, err := http.NewRequestWithContext(t.Context(), c.method, w.url+c.path, body)
			must(t, err)
			req.Header.Set("Authorization", "Bearer "+ana.token)
			req.Header.Set("Content-Type", "application/json")
			res, err := http.DefaultClient.Do(req)
			must(t, err)
			defer func() { _ = res.Body.Close() }()
			if res.StatusCode != c.want {
				t.Errorf("status %d, want %d", res.StatusCode, c.want)
			}
		})
	}
}
