package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/cmd/bondmate/phone"
)

// The published contract, held against one running `bondmate all` from outside: routes,
// shapes, status codes, headers, the order of the rules, sockets, pushes and metrics.
func TestContract(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := launch(t, []string{"all"}, "DATA_DIR="+dir, "RATE_LIMITS=off", "CORS_ORIGIN=https://app.example.org")
	a := &contractOf{dir: dir, process: p, server: p.server()}
	t.Run("surface", func(t *testing.T) { // one after the other would take several seconds longer
		t.Run("reads", a.reads)
		t.Run("refusals", a.refusals)
		t.Run("accounts", a.accounts)
		t.Run("partners", a.partners)
		t.Run("idempotency", a.idempotency)
		t.Run("inbox", a.inbox)
		t.Run("CORS", a.cors)
		t.Run("handshakes", a.handshakes)
		t.Run("sockets", a.sockets)
		t.Run("resume", a.resume)
		t.Run("presence", a.presence)
		t.Run("read marks", a.readMarks)
		t.Run("pushes", a.pushes)
		t.Run("acknowledgements", a.acknowledgements)
	})
	t.Run("metrics", a.metrics)
}

type contractOf struct {
	dir     string
	process *process
	server  *phone.Server
}

// cast is who and what a table of steps speaks of: "{name}" in a step is replaced.
type cast map[string]string

func (c cast) fill(s string) string {
	for name, value := range c {
		s = strings.ReplaceAll(s, "{"+name+"}", value)
	}
	return s
}

// people makes phones: {ana} is her id, {ana.code} her partner code, {ana.token} what she
// calls with.
func (a *contractOf) people(t *testing.T, names ...string) cast {
	t.Helper()
	c := cast{"nobody": uuid.NewString(), "unique": uuid.NewString()[:8]}
	for i, p := range people(t, a.server, len(names)) {
		c[names[i]], c[names[i]+".code"], c[names[i]+".token"] = p.UserID.String(), p.PartnerCode, p.AccessToken
		c[names[i]+".email"], c[names[i]+".refresh"] = p.Email, p.RefreshToken
	}
	return c
}

// step is one call with what must come of it.
type step struct {
	as     string // who calls; empty: without a token
	call   string // "POST /path"
	body   string
	header string // "Name: value", one a line
	status int
	code   string // of a problem
	at     string // pointers of its errors, separated by spaces
	shape  string // of the body; see misfit
	answer string // headers that must be there: "Name: value" or "Name", one a line
	save   string // "name=field" keeps a member of the body for the steps that follow
}

func (a *contractOf) run(t *testing.T, c cast, steps []step) {
	t.Helper()
	for i, s := range steps {
		name := fmt.Sprintf("step %d: %s %s %.80s", i+1, s.as, s.call, s.body)
		got := a.do(t, c, s)
		if got.Status != s.status {
			t.Fatalf("%s: status %d, not %d: %s", name, got.Status, s.status, got.Body)
		}
		if got.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s: no X-Request-Id", name)
		}
		shape := s.shape
		if s.status >= 400 {
			shape = fmt.Sprintf(`{"type":"text","title":"text","status":"=%d","detail":"text","code":"=%s","requestId":"=%s"}`,
				s.status, s.code, got.Header.Get("X-Request-Id"))
			if kind := got.Header.Get("Content-Type"); kind != "application/problem+json" {
				t.Errorf("%s: content type %q", name, kind)
			}
			if at := pointers(t, got.Body); at != s.at {
				t.Errorf("%s: errors at %q, not %q", name, at, s.at)
			}
		}
		if shape != "" {
			if wrong := misfit(c.fill(shape), got.Body); wrong != "" {
				t.Errorf("%s: %s", name, wrong)
			}
		}
		for line := range strings.Lines(c.fill(s.answer)) {
			key, value, exact := strings.Cut(strings.TrimSpace(line), ": ")
			if has := got.Header.Get(key); has == "" || exact && has != value {
				t.Errorf("%s: header %s is %q, not %q", name, key, has, value)
			}
		}
		if key, field, ok := strings.Cut(s.save, "="); ok {
			var body map[string]any
			if err := json.Unmarshal(got.Body, &body); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			c[key] = fmt.Sprint(body[field])
		}
	}
}

func pointers(t *testing.T, problem []byte) string {
	t.Helper()
	var body struct {
		Errors []struct{ Pointer, Code, Detail string }
	}
	if err := json.Unmarshal(problem, &body); err != nil {
		t.Fatal(err)
	}
	var at []string
	for _, e := range body.Errors {
		if e.Code == "" || e.Detail == "" {
			t.Errorf("an error without code or detail: %s", problem)
		}
		at = append(at, e.Pointer)
	}
	return strings.Join(at, " ")
}

func (a *contractOf) do(t *testing.T, c cast, s step) phone.Answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	method, path, _ := strings.Cut(c.fill(s.call), " ")
	var body io.Reader
	if s.body != "" {
		body = strings.NewReader(c.fill(s.body))
	}
	req, err := http.NewRequestWithContext(ctx, method, a.server.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if s.as != "" {
		req.Header.Set("Authorization", "Bearer "+c[s.as+".token"])
	}
	for line := range strings.Lines(c.fill(s.header)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		req.Header.Set(key, value)
	}
	resp, err := a.server.HTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return phone.Answer{Status: resp.StatusCode, Header: resp.Header, Body: raw}
}

const (
	healthShape  = `{"status":"=healthy","timestamp":"time","uptime":"number"}`
	personShape  = `{"id":"uuid","displayName":"text"}`
	profileShape = `{"id":"uuid","displayName":"text","partnerCode":"text","theme":"text","timezone":"text","locale":"text","tier":"=free",
		"slots":{"total":"=1","occupied":"=0","vacant":"=1"},"privacy":{"presence":"=false","preview":"=discreet"},"seq":"int"}`
	loginShape   = `{"user":` + personShape + `,"accessToken":"text","expiresAt":"time","refreshToken":"text"}`
	requestShape = `{"id":"uuid","direction":"=incoming|=outgoing","user":` + personShape + `,"message?":"text","status":"text",
		"createdAt":"time","expiresAt":"time","resolvedAt?":"time"}`
	requestsShape    = `{"requests":[` + requestShape + `],"nextCursor":"text|null"}`
	eventsShape      = `{"events":[{"seq":"int","id":"uuid","type":"text","time":"time","data":{}}],"lastSeq":"int","readSeq":"int","unread":"int","epoch":"text"}`
	preferencesShape = `{"categories":{"requests":"=true","partnership":"=true"},"quietHours":{"enabled":"=false","from":"=22:00","to":"=07:00"},"preview":"=discreet"}`
)

// Every read answers its shape, and HEAD the same without a body; what is not there yet is
// a problem like any other.
func (a *contractOf) reads(t *testing.T) {
	t.Parallel()
	c := a.people(t, "ana")
	shapes := map[string]string{
		"/": healthShape, "/health": healthShape, "/api/health": healthShape,
		"/live": `{"alive":"=true","uptime":"number"}`, "/ready": `{"ready":"=true"}`,
		"/health/detailed": `{"status":"=healthy","timestamp":"time","uptime":"number","checks":{
			"postgres":{"status":"=healthy","connected":"=true","responseTime":"number","pool":{"maxPoolSize":"int",
				"totalConnections":"int","availableConnections":"int","waitQueueSize":"int","status":"=healthy"}},
			"kafka":{"status":"=healthy","connected":"=true","responseTime":"number","lag":"int"},
			"redis":{"status":"=disabled"},"memory":{"status":"=healthy"}}}`,
		"/.well-known/jwks.json": `{"keys":[{"kty":"=RSA","use":"=sig","alg":"=RS256","kid":"text","n":"text","e":"text"}]}`,
		"/api/profile":           profileShape,
		"/api/sync": `{"seq":"int","epoch":"text","readSeq":"int","unread":"int","profile":` + profileShape + `,"partners":[],"requests":[` + requestShape + `],
			"breakup":"null","slots":{"total":"=1","occupied":"=0","vacant":"=1"},"preferences":` + preferencesShape + `}`,
		"/api/enhanced-partners/search?code={ana.code}": `{"user":{"id":"={ana}","displayName":"text"}}`,
		"/api/enhanced-partners/requests":               requestsShape,
		"/api/enhanced-partners/current":                `{"partner":"null","seq":"int"}`,
		"/api/enhanced-partners/partners":               `{"partners":[],"seq":"int"}`,
		"/api/enhanced-partners/slots":                  `{"total":"=1","occupied":"=0","vacant":"=1","slots":[{"slot":"=1","status":"=vacant"}]}`,
		"/api/enhanced-partners/statistics":             `{"partnerships":{"total":"=0"},"current":[],"requests":{"sent":{"total":"int"},"received":{"total":"int"},"medianSecondsToAccept":"null"}}`,
		"/api/enhanced-partners/history":                `{"history":[],"nextCursor":"null"}`,
		"/api/enhanced-partners/restorable":             `{"restorable":[],"nextCursor":"null"}`,
		"/api/notifications":                            eventsShape,
		"/api/notifications/preferences":                preferencesShape,
		"/api/devices":                                  `{"devices":[]}`,
		"/api/auth/sessions":                            `{"sessions":[{"id":"uuid","device":"null","createdAt":"time","lastUsedAt":"time","current":"=true"}]}`,
		"/openapi.yaml":                                 "", "/asyncapi.yaml": "", "/docs": "", "/demo/": "",
	}
	for path, shape := range shapes {
		shape = strings.ReplaceAll(shape, `[]`, `["null"]`) // an empty list fits any element
		a.run(t, c, []step{{as: "ana", call: "GET " + path, status: 200, shape: shape, answer: "X-Content-Type-Options: nosniff"}})
		if got := a.do(t, c, step{as: "ana", call: "HEAD " + path}); got.Status != 200 || len(got.Body) != 0 {
			t.Errorf("HEAD %s: %d with %d bytes", path, got.Status, len(got.Body))
		}
	}
	for _, call := range []string{
		"GET /nothing", "GET /api", "GET /api/profile/", "GET //api/profile", "GET /api/realtime/more", "GET /demo/nothing",
		"GET /api/monitoring/health", "GET /metrics",
	} {
		a.run(t, c, []step{{as: "ana", call: call, status: 404, code: "not_found"}})
	}
	// There is no Firebase project here.
	a.run(t, c, []step{{call: "POST /api/auth/firebase", body: `{"idToken":"x.y.z"}`, status: 404, code: "not_found"}})
}

// Whatever is wrong with a request has one status, one code and the places of its faults.
func (a *contractOf) refusals(t *testing.T) {
	t.Parallel()
	c := a.people(t, "ana", "ben")
	const send, remove, list = "POST /api/enhanced-partners/request", "POST /api/enhanced-partners/remove", "GET /api/enhanced-partners/requests"
	invalid := func(call, body, at string) step {
		return step{as: "ana", call: call, body: body, status: 400, code: "invalid_request", at: at}
	}
	a.run(t, c, []step{
		{call: "GET /api/profile", status: 401, code: "unauthenticated", answer: "WWW-Authenticate"},
		{call: "GET /api/profile", header: "Authorization: Bearer x.y.z", status: 401, code: "unauthenticated"},
		{call: "GET /api/profile", header: "Authorization: Basic eDp5", status: 401, code: "unauthenticated"},
		{as: "ana", call: "PATCH /api/enhanced-partners/current", status: 405, code: "method_not_allowed", answer: "Allow: GET, HEAD"},
		{as: "ana", call: "GET /api/auth/login", status: 405, code: "method_not_allowed", answer: "Allow: POST"},
		{as: "ana", call: "POST /demo/", status: 405, code: "method_not_allowed", answer: "Allow"},
		invalid(send, ``, ""),
		invalid(send, `{`, ""),
		invalid(send, `[]`, ""),
		invalid(send, `{} {}`, ""),
		invalid(send, `{}`, ""),
		invalid(send, `{"toUserId":"{ben}","extra":1}`, "/extra"),
		invalid(send, `{"toUserId":1,"fresh":"yes"}`, "/fresh /toUserId"),
		invalid(send, `{"toUserId":"ben"}`, "/toUserId"),
		invalid(send, `{"toUserId":"{ben}","message":"`+strings.Repeat("é", 501)+`"}`, "/message"),
		invalid("POST /api/auth/register", `{}`, "/email /password /displayName"),
		invalid("POST /api/devices", `{"kind":"fax","token":"t","platform":"ios"}`, "/kind"),
		invalid("POST /api/notifications/read", `{"seq":-1}`, "/seq"),
		invalid("POST /api/notifications/read", `{}`, "/seq"),
		invalid("PUT /api/notifications/preferences", `{"preview":"loud","quietHours":{"to":"25:00"}}`, "/preview /quietHours/to"),
		invalid(remove, `{"quiet":1}`, "/quiet"),
		invalid("DELETE /api/enhanced-partners/remove?quiet=perhaps", ``, "quiet"),
		invalid(list+"?limit=101", ``, "limit"),
		invalid(list+"?limit=0", ``, "limit"),
		invalid(list+"?limit=many", ``, "limit"),
		invalid(list+"?cursor=bogus", ``, "cursor"),
		invalid(list+"?direction=up", ``, "direction"),
		invalid(list+"?status=new", ``, "status"),
		invalid("GET /api/notifications?after=-1", ``, "after"),
		invalid("GET /api/commands/1", ``, "id"),
		invalid("PUT /api/enhanced-partners/request/1/accept", ``, "requestId"),
		invalid("GET /api/enhanced-partners/search", ``, "code"),
		{
			as: "ana", call: send, body: `{"toUserId":"{ben}"}`, header: "Idempotency-Key: " + strings.Repeat("k", 256),
			status: 400, code: "invalid_request", at: "Idempotency-Key",
		},
		{as: "ana", call: send, body: `toUserId={ben}`, header: "Content-Type: text/plain", status: 415, code: "unsupported_media_type"},
		{as: "ana", call: send, body: strings.Repeat(" ", 64<<10+1), status: 413, code: "payload_too_large"},
		{as: "ana", call: "POST /api/auth/logout", body: strings.Repeat(" ", 64<<10+1), status: 413, code: "payload_too_large"},
		{as: "ana", call: "GET /api/commands/{nobody}", status: 404, code: "not_found"},
		{as: "ana", call: "GET /api/enhanced-partners/request/{nobody}", status: 404, code: "not_found"},
		{as: "ana", call: "PUT /api/enhanced-partners/request/{nobody}/accept", status: 404, code: "not_found"},
		{as: "ana", call: "DELETE /api/devices/{nobody}", status: 404, code: "not_found"},
		{as: "ana", call: "GET /api/enhanced-partners/search?code=ZZZZZZZZZZ", status: 404, code: "user_not_found"},
		{as: "ana", call: "GET /api/notifications?after=1000", status: 409, code: "resync"},
		{as: "ana", call: "GET /api/notifications?after=0&epoch=other", status: 409, code: "resync"},
		{as: "ana", call: remove, status: 409, code: "not_current"},
		{as: "ana", call: "POST /api/realtime", status: 405, code: "method_not_allowed", answer: "Allow: GET"},
		{as: "ana", call: "GET /api/realtime", status: 426, code: "upgrade_required", answer: "Upgrade: websocket"},
		{as: "ana", call: "GET /api/profile", status: 200, shape: `{"seq":"=0"}`}, // none of this reached the inbox
	})
}

func (a *contractOf) accounts(t *testing.T) {
	t.Parallel()
	c := a.people(t, "ana", "ben")
	const login = `{"email":"{ana.email}","password":"` + phone.Password + `"}`
	a.run(t, c, []step{
		{
			call: "POST /api/auth/register", body: `{"email":"{ana.email}","password":"` + phone.Password + `","displayName":"Other"}`,
			status: 409, code: "email_taken",
		},
		{
			call:   "POST /api/auth/register",
			body:   `{"email":"{unique}@example.com","password":"` + phone.Password + `","displayName":"Eve","birthDate":"1990-02-28","device":{"platform":"ios"}}`,
			status: 201, shape: loginShape,
		},
		{call: "POST /api/auth/login", body: `{"email":"{ana.email}","password":"wrong"}`, status: 401, code: "unauthenticated"},
		{call: "POST /api/auth/login", body: `{"email":"{unique}@nowhere.example","password":"wrong"}`, status: 401, code: "unauthenticated"},
		{call: "POST /api/auth/refresh", body: `{"refreshToken":"wrong"}`, status: 401, code: "unauthenticated"},
		{call: "POST /api/auth/refresh", body: `{"refreshToken":"{ana.refresh}"}`, status: 200, shape: loginShape, save: "ana.token=accessToken"},
		{call: "POST /api/auth/login", body: login, status: 200, shape: loginShape, save: "phone2.token=accessToken"},
		{as: "ana", call: "POST /api/realtime/ticket", status: 200, shape: `{"ticket":"text","expiresAt":"time"}`},
		{
			as: "ana", call: "POST /api/devices", body: `{"kind":"fcm","token":"t-{unique}","platform":"ios","appVersion":"1"}`, status: 201,
			shape: `{"id":"uuid","kind":"=fcm","platform":"=ios","appVersion":"=1","createdAt":"time","updatedAt":"time"}`, save: "device=id",
		},
		{as: "ben", call: "DELETE /api/devices/{device}", status: 404, code: "not_found"},
		{as: "ben", call: "POST /api/devices", body: `{"kind":"fcm","token":"t-{unique}","platform":"android"}`, status: 201, save: "device=id"},
		{as: "ana", call: "GET /api/devices", status: 200, shape: `{"devices":["null"]}`}, // the token is Ben's now
		{as: "ben", call: "DELETE /api/devices/{device}", status: 204},
		{as: "phone2", call: "POST /api/auth/logout", status: 204},
		{as: "phone2", call: "GET /api/profile", status: 401, code: "unauthenticated"},
		{as: "ana", call: "GET /api/profile", status: 200},
		{as: "ana", call: "POST /api/auth/logout-all", status: 204},
		{as: "ana", call: "GET /api/profile", status: 401, code: "unauthenticated"},
	})
}

// The rules of requests, partnerships and restoration, each with its one code.
func (a *contractOf) partners(t *testing.T) {
	t.Parallel()
	c := a.people(t, "ana", "ben", "cem")
	const (
		send, remove = "POST /api/enhanced-partners/request", "POST /api/enhanced-partners/remove"
		one          = "/api/enhanced-partners/request/{req}"
		pending      = `{"commandId":"uuid","status":"=applied","requestId":"uuid","seq":"int","result":{"requestId":"uuid","status":"=pending"}}`
		ended        = `{"commandId":"uuid","status":"=applied","seq":"int","result":{"partnershipId":"={couple}","endedAt":"time","restorableUntil":"time"}}`
		current      = "GET /api/enhanced-partners/current"
	)
	started := func(partnership, restored string) string {
		return `{"status":"=applied","result":{"partnershipId":"` + partnership + `","startedAt":"time","restored":"=` + restored + `"}}`
	}
	steps := []step{
		{as: "ana", call: send, body: `{"toUserId":"{ana}"}`, status: 409, code: "self_request", answer: "Preference-Applied: wait=10\nLocation"},
		{as: "ana", call: send, body: `{"toUserId":"{nobody}"}`, status: 404, code: "user_not_found"},
		{as: "ana", call: send, body: `{"partnerCode":"0000000000"}`, status: 404, code: "user_not_found"},
		{as: "ana", call: send, body: `{"partnerCode":"{ben.loose}","message":" one\r\ntwo\u202e \u0007e\u0301 "}`, status: 200, shape: pending, save: "req=requestId"},
		{as: "ben", call: "GET " + one, status: 200, shape: requestShape},
		{as: "ben", call: "GET " + one, status: 200, shape: `{"message":"=one\ntwo é","direction":"=incoming","user":{"id":"={ana}"}}`},
		{as: "ana", call: "GET " + one, status: 200, shape: `{"direction":"=outgoing","user":{"id":"={ben}"}}`},
		{as: "cem", call: "GET " + one, status: 404, code: "not_found"},
		{as: "ana", call: send, body: `{"toUserId":"{ben}"}`, status: 409, code: "request_pending"},
		{as: "ana", call: "PUT " + one + "/accept", status: 404, code: "not_found"},
		{as: "ana", call: "PUT " + one + "/reject", status: 404, code: "not_found"},
		{as: "ben", call: "DELETE " + one, status: 404, code: "not_found"},
		{as: "cem", call: "PUT " + one + "/accept", status: 404, code: "not_found"},
		{as: "cem", call: send, body: `{"toUserId":"{ben}"}`, status: 200, shape: pending, save: "late=requestId"},
		{as: "ben", call: "GET /api/enhanced-partners/requests?direction=incoming&limit=1", status: 200, shape: requestsShape, save: "next=nextCursor"},
		{
			as: "ben", call: "GET /api/enhanced-partners/requests?direction=incoming&limit=1&cursor={next}", status: 200,
			shape: `{"requests":[{"id":"={req}"}],"nextCursor":"null"}`,
		},
		{as: "ben", call: "PUT " + one + "/accept", status: 200, shape: started("uuid", "false")},
		{as: "ben", call: "PUT " + one + "/accept", status: 409, code: "not_pending"},
		{as: "ana", call: "DELETE " + one, status: 409, code: "not_pending"},
		{
			as: "ana", call: current, status: 200, save: "couple=partnershipId",
			shape: `{"partner":{"userId":"={ben}","displayName":"text","theme":"text"},"partnershipId":"uuid","startedAt":"time","restored":"=false","restoredCount":"=0","seq":"int"}`,
		},
		{as: "ben", call: current, status: 200, shape: `{"partner":{"userId":"={ana}"},"partnershipId":"={couple}"}`, save: "since=startedAt"},
		{as: "ben", call: "GET /api/enhanced-partners/slots", status: 200, shape: `{"occupied":"=1","vacant":"=0","slots":[{"status":"=occupied","partnershipId":"={couple}"}]}`},
		{as: "ana", call: send, body: `{"toUserId":"{ben}"}`, status: 409, code: "already_partners"},
		{as: "ana", call: send, body: `{"toUserId":"{cem}"}`, status: 409, code: "no_vacant_slot"},
		{as: "cem", call: send, body: `{"toUserId":"{ana}"}`, status: 409, code: "target_unavailable"},
		{as: "cem", call: remove, body: `{"partnershipId":"{couple}"}`, status: 409, code: "not_current"},
		{as: "ana", call: remove, body: `{"partnershipId":"{nobody}"}`, status: 409, code: "not_current"},
		{as: "ana", call: remove, body: `{"partnershipId":"{couple}","reason":"a\nb"}`, status: 200, shape: ended},
		{as: "ana", call: remove, body: `{"partnershipId":"{couple}"}`, status: 409, code: "not_current"},
		{as: "ana", call: "GET /api/enhanced-partners/history", status: 200, shape: `{"history":[{"endedByYou":"=true","reason":"=a\nb"}]}`},
		// Both ask: the second request is the answer to the first, and restores.
		{as: "ana", call: send, body: `{"toUserId":"{ben}"}`, status: 200, shape: pending, save: "req=requestId"},
		{as: "ben", call: send, body: `{"toUserId":"{ana}"}`, status: 200, shape: `{"requestId":"={req}","result":{"requestId":"={req}","partnershipId":"={couple}","crossed":"=true"}}`},
		{as: "ana", call: current, status: 200, shape: `{"partnershipId":"={couple}","startedAt":"={since}","restored":"=true","restoredCount":"=1"}`},
		{as: "ben", call: "DELETE /api/enhanced-partners/remove?partnershipId={couple}&quiet=false", body: `{"reason":"mine"}`, status: 200, shape: ended},
		{as: "ana", call: "GET /api/enhanced-partners/restorable", status: 200, shape: `{"restorable":[{"partnershipId":"={couple}","endedByYou":"=false","restorableUntil":"time"}]}`},
		{as: "ana", call: send, body: `{"toUserId":"{ben}"}`, status: 200, save: "req=requestId"},
		{as: "ben", call: "PUT " + one + "/reject", status: 200, shape: `{"result":{"requestId":"={req}","status":"=declined"}}`},
		// After a decline the sender waits, until the target sends.
		{as: "ana", call: send, body: `{"toUserId":"{ben}"}`, status: 409, code: "cooldown"},
		{as: "ben", call: send, body: `{"toUserId":"{ana}"}`, status: 200, save: "req=requestId"},
		{as: "ben", call: "DELETE " + one, status: 200, shape: `{"result":{"requestId":"={req}","status":"=cancelled"}}`},
		// Either side may ask for a fresh start.
		{as: "ana", call: send, body: `{"toUserId":"{ben}","fresh":true}`, status: 200, save: "req=requestId"},
		{as: "ben", call: "PUT " + one + "/accept", body: `{}`, status: 200, shape: started("uuid", "false")},
		{as: "ana", call: current, status: 200, save: "couple2=partnershipId", shape: `{"restored":"=false","restoredCount":"=0"}`},
		{as: "ana", call: remove, body: `{}`, status: 200, shape: `{"result":{"partnershipId":"={couple2}"}}`},
		{as: "ana", call: send, body: `{"toUserId":"{ben}"}`, status: 200, save: "req=requestId"},
		{as: "ben", call: "PUT " + one + "/accept", body: `{"fresh":true}`, status: 200, shape: started("uuid", "false")},
	}
	c["ben.loose"] = strings.ToLower(c["ben.code"][:5] + "-" + c["ben.code"][5:])
	for i := range steps {
		steps[i].header = "Prefer: wait=10"
	}
	a.run(t, c, steps)
	// Cem's request to Ben closed when Ben's only slot filled: a follow-up, so a moment later.
	eventually(t, 10*time.Second, "the third request is superseded", func() (bool, error) {
		got := a.do(t, c, step{as: "cem", call: "GET /api/enhanced-partners/request/{late}"})
		return misfit(`{"status":"=superseded","resolvedAt":"time"}`, got.Body) == "", nil
	})
}

func (a *contractOf) idempotency(t *testing.T) {
	t.Parallel()
	c := a.people(t, "ana", "ben", "cem")
	const send = "POST /api/enhanced-partners/request"
	key, wait := "Idempotency-Key: {unique}", "\nPrefer: wait=10"
	a.run(t, c, []step{
		{
			as: "ana", call: send, body: `{"toUserId":"{ben}"}`, header: key, status: 202, save: "command=commandId",
			shape: `{"commandId":"uuid","status":"=accepted","requestId":"uuid"}`, answer: "Location",
		},
		{
			as: "ana", call: send, body: ` {"toUserId": "{ben}"}`, header: key + wait, status: 200, shape: `{"commandId":"={command}","status":"=applied"}`,
			answer: "Idempotency-Replayed: true\nLocation: /api/commands/{command}",
		},
		{as: "ana", call: send, body: `{"toUserId":"{cem}"}`, header: key + wait, status: 422, code: "idempotency_mismatch"},
		{
			as: "ana", call: "GET /api/commands/{command}", status: 200,
			shape: `{"id":"={command}","type":"text","status":"=applied","result":{"status":"=pending"},"acceptedAt":"time","appliedAt":"time"}`,
		},
		{as: "ben", call: "GET /api/commands/{command}", status: 404, code: "not_found"},
		{as: "ana", call: send, body: `{"toUserId":"{ben}"}`, header: key + "-2" + wait, status: 409, code: "request_pending"},
		{as: "ana", call: send, body: `{"toUserId":"{ben}"}`, header: key + "-2" + wait, status: 409, code: "request_pending", answer: "Idempotency-Replayed: true"},
		{as: "cem", call: send, body: `{"toUserId":"{ben}"}`, header: key + wait, status: 200, shape: `{"commandId":"uuid"}`}, // a key is its user's own
	})
}

func (a *contractOf) inbox(t *testing.T) {
	t.Parallel()
	c := a.people(t, "ana", "ben")
	received := `{"events":[{"seq":"=1","type":"=request.received","data":{"requestId":"={req}","fromUserId":"={ana}","expiresAt":"time"}}]}`
	a.run(t, c, []step{
		{as: "ana", call: "POST /api/enhanced-partners/request", body: `{"toUserId":"{ben}"}`, header: "Prefer: wait=10", status: 200, save: "req=requestId"},
		{as: "ben", call: "PUT /api/enhanced-partners/request/{req}/accept", header: "Prefer: wait=10", status: 200},
		{as: "ben", call: "GET /api/notifications?after=0&limit=1", status: 200, shape: received},
		{as: "ana", call: "POST /api/enhanced-partners/remove", body: `{"quiet":true}`, header: "Prefer: wait=10", status: 200},
		{as: "ben", call: "GET /api/notifications", status: 200, shape: eventsShape, save: "epoch=epoch"},
		{as: "ben", call: "GET /api/notifications?after=3&epoch={epoch}&limit=1", status: 200, shape: `{"lastSeq":"=5","events":[{"seq":"=4","type":"=partnership.ended","data":{"silent":"=true"}}]}`},
		{as: "ana", call: "GET /api/notifications?after=3&limit=1", status: 200, shape: `{"lastSeq":"=5","events":[{"type":"=partnership.ended","data":{"silent?":"null"}}]}`},
		// No socket had acknowledged what Ana did: Ben gets an empty placeholder for it now.
		{as: "ben", call: "GET /api/notifications?after=0&limit=1", status: 200, shape: `{"events":[{"seq":"=1","type":"=withdrawn","data":{"requestId?":"null"}}]}`},
		{as: "ben", call: "GET /api/notifications?after=2&limit=1", status: 200, shape: `{"events":[{"seq":"=3","type":"=partnership.started","data":{"partnershipId":"uuid","startedAt":"time","restored":"=false"}}]}`},
	})
}

func (a *contractOf) cors(t *testing.T) {
	t.Parallel()
	for origin, admitted := range map[string]string{"https://app.example.org": "https://app.example.org", "https://evil.example": ""} {
		got := a.do(t, cast{}, step{
			call: "OPTIONS /api/enhanced-partners/request",
			header: "Origin: " + origin + "\nAccess-Control-Request-Method: POST\n" +
				"Access-Control-Request-Headers: authorization,content-type,idempotency-key,prefer",
		})
		if got.Status != 204 || got.Header.Get("Access-Control-Allow-Origin") != admitted {
			t.Errorf("preflight from %s: %d %v", origin, got.Status, got.Header)
		}
		if admitted != "" && got.Header.Get("Access-Control-Max-Age") != "86400" {
			t.Errorf("preflight is kept for %q s", got.Header.Get("Access-Control-Max-Age"))
		}
		got = a.do(t, cast{}, step{call: "GET /live", header: "Origin: " + origin})
		if got.Header.Get("Access-Control-Allow-Origin") != admitted {
			t.Errorf("answer to %s: %v", origin, got.Header)
		}
	}
}
