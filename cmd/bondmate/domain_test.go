package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

// town is a running `bondmate all` with people in it. Every answer that they get is held
// against the OpenAPI document.
type town struct {
	url    string
	dir    string // its DATA_DIR
	router routers.Router
}

func newTown(t *testing.T, environ ...string) *town {
	t.Helper()
	dir := t.TempDir()
	return &town{url: startAll(t, dir, environ...).url, dir: dir, router: operations(t)}
}

// operations routes calls to their operations in the OpenAPI document.
func operations(t *testing.T) routers.Router {
	t.Helper()
	spec, err := openapi3.NewLoader().LoadFromFile("../../ingest/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	spec.Servers = nil // they are relative, and the router wants hosts
	router, err := legacy.NewRouter(spec)
	if err != nil {
		t.Fatal(err)
	}
	return router
}

// person is somebody with an account and a session.
type person struct {
	t             *testing.T
	in            *town
	id            uuid.UUID
	name          string
	email, token  string
	code          string
	partnershipID string
}

func (w *town) person(t *testing.T, name string) *person {
	t.Helper()
	return w.register(t, name, strings.ToLower(name)+"-"+uuid.NewString()+"@example.org")
}

func (w *town) register(t *testing.T, name, email string) *person {
	t.Helper()
	p := &person{t: t, in: w, name: name, email: email}
	got := p.call("POST", "/api/auth/register", map[string]any{"email": p.email, "password": secret, "displayName": name})
	if got.status != http.StatusCreated {
		t.Fatalf("register %s: %s", name, got)
	}
	p.id, p.token, p.code = uuid.MustParse(got.text("user", "id")), got.text("accessToken"), got.text("user", "partnerCode")
	return p
}

// couple is two people who are partners.
func (w *town) couple(t *testing.T, one, two string) (*person, *person) {
	t.Helper()
	a, b := w.person(t, one), w.person(t, two)
	a.marry(b)
	return a, b
}

func (p *person) marry(other *person) {
	p.t.Helper()
	request := p.ask(other).want(200).text("requestId")
	id := other.call("PUT", partners+"/request/"+request+"/accept", nil).want(200).text("result", "partnershipId")
	p.partnershipID, other.partnershipID = id, id
}

const (
	partners = "/api/enhanced-partners"
	secret   = "a long pass phrase"
)

func (p *person) ask(other *person) reply {
	p.t.Helper()
	return p.call("POST", partners+"/request", map[string]any{"toUserId": other.id})
}

func (p *person) get(path string) reply {
	p.t.Helper()
	return p.call("GET", path, nil)
}

// inbox returns the types of the events that the person has.
func (p *person) inbox() []string {
	p.t.Helper()
	types := []string{}
	for _, e := range p.get("/api/notifications?limit=100").want(200).list("events") {
		types = append(types, e["type"].(string))
	}
	return types
}

// call calls, and waits for the outcome of a command.
func (p *person) call(method, path string, body any) reply {
	p.t.Helper()
	if method == http.MethodGet {
		return p.callWith(method, path, body, nil)
	}
	return p.callWith(method, path, body, http.Header{"Prefer": {"wait=10"}})
}

// callWith calls with these headers beside the usual ones. A body that is a string is sent
// as it is.
func (p *person) callWith(method, path string, body any, header http.Header) reply {
	p.t.Helper()
	var reader io.Reader
	if text, ok := body.(string); ok {
		reader = strings.NewReader(text)
	} else if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			p.t.Fatal(err)
		}
		reader = bytes.NewReader(data)
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, p.in.url+path, reader)
	if err != nil {
		p.t.Fatal(err)
	}
	if reader != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	r := reply{t: p.t, what: p.name + ": " + method + " " + path, status: res.StatusCode, header: res.Header, raw: raw}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &r.body); err != nil {
			p.t.Errorf("%s: not JSON: %v", r, err)
		}
	}
	p.in.validate(req, r)
	return r
}

// validate holds an answer against the document: its shape, and that the code of a problem
// is one that the document has for the operation or for all of them.
func (w *town) validate(req *http.Request, r reply) {
	r.t.Helper()
	route, params, err := w.router.FindRoute(req)
	if err != nil {
		if r.status != http.StatusMethodNotAllowed && r.status != http.StatusNotFound {
			r.t.Errorf("%s: not in the document: %v", r, err)
		}
		return
	}
	if code := "`" + r.text("code") + "`"; r.status >= 400 &&
		!strings.Contains(route.Operation.Description, code) && !strings.Contains(route.Spec.Info.Description, code) {
		r.t.Errorf("%s: the document does not say that %s can be answered with %s", r, route.Operation.OperationID, code)
	}
	err = openapi3filter.ValidateResponse(req.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route},
		Status:                 r.status, Header: r.header, Body: io.NopCloser(bytes.NewReader(r.raw)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	})
	if err != nil {
		r.t.Errorf("%s: %v", r, err)
	}
}

// reply is an answer to one call.
type reply struct {
	t      *testing.T
	what   string
	status int
	header http.Header
	raw    []byte
	body   map[string]any
}

func (r reply) String() string { return fmt.Sprintf("%s: %d %s", r.what, r.status, r.raw) }

// want fails the test unless the status is this one.
func (r reply) want(status int) reply {
	r.t.Helper()
	if r.status != status {
		r.t.Fatalf("%s, want %d", r, status)
	}
	return r
}

// refused fails the test unless the answer is a problem with this status and code.
func (r reply) refused(status int, code string) reply {
	r.t.Helper()
	if r.status != status || r.text("code") != code {
		r.t.Errorf("%s, want %d %s", r, status, code)
	}
	return r
}

func (r reply) text(path ...string) string {
	var v any = r.body
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	s, _ := v.(string)
	return s
}

func (r reply) list(name string) []map[string]any {
	r.t.Helper()
	items, ok := r.body[name].([]any)
	if !ok {
		r.t.Fatalf("%s: no list %s", r, name)
	}
	list := make([]map[string]any, len(items))
	for i, item := range items {
		list[i], _ = item.(map[string]any)
	}
	return list
}

// shape is what a reply shows once what differs between any two calls is taken out: ids,
// the ETag, which is made of them, and the date. Two replies of the same shape tell a client nothing apart.
func (r reply) shape() string {
	header := r.header.Clone()
	for _, name := range []string{"Date", "X-Request-Id", "Location", "ETag"} {
		if _, ok := header[name]; ok {
			header.Set(name, "…")
		}
	}
	for _, name := range []string{"Ratelimit-Remaining", "Ratelimit-Reset"} { // of one's own calls so far
		header.Del(name)
	}
	body := string(r.raw)
	for _, name := range []string{"requestId", "commandId"} {
		if id := r.text(name); id != "" {
			body = strings.ReplaceAll(body, id, strings.Repeat("x", len(id)))
		}
	}
	return fmt.Sprintf("%d %v %s", r.status, header, body)
}

func same(t *testing.T, what, want, got string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: (-want +got)\n%s", what, diff)
	}
}

// The domain from end to end: each part through HTTP, the queue, the processor and back.
func TestDomain(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	for name, test := range map[string]func(*testing.T, *town){
		"profile":            testProfile,
		"nicknames":          testNicknames,
		"blocks and doors":   testBlocksAndDoors,
		"breakup":            testBreakup,
		"history":            testHistory,
		"what is not told":   testNotTold,
		"cooldowns":          testCooldowns,
		"withdrawn":          testWithdrawn,
		"read marks":         testReadMarks,
		"preferences":        testPreferences,
		"reports, activity":  testReportsAndActivity,
		"sync as everything": testSync,
		"export":             testExport,
		"deletion":           testDeletion,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, w)
		})
	}
}

func testProfile(t *testing.T, w *town) {
	ana, ben := w.couple(t, "Ana", "Ben")
	ana.call("PATCH", "/api/profile", map[string]any{
		"displayName": "Ana M\u202earia", "theme": "custom", "themeEntries": map[string]any{"primary": "#e91e63"},
		"timezone": "Europe/Vienna", "locale": "de-AT", "privacy": map[string]any{"presence": true, "preview": "full"},
	}).want(200)
	profile := ana.get("/api/profile")
	got := []string{
		profile.text("displayName"), profile.text("theme"), profile.text("themeEntries", "primary"),
		profile.text("timezone"), profile.text("locale"), profile.text("privacy", "preview"),
	}
	if diff := cmp.Diff([]string{"Ana Maria", "custom", "#e91e63", "Europe/Vienna", "de-AT", "full"}, got); diff != "" {
		t.Errorf("%s: %s", diff, profile)
	}
	current := ben.get(partners + "/current")
	same(t, "the partner's view", "Ana Maria custom #e91e63",
		current.text("partner", "displayName")+" "+current.text("partner", "theme")+" "+current.text("partner", "themeEntries", "primary"))
	if kinds := ben.inbox(); kinds[len(kinds)-1] != "profile.updated" {
		t.Errorf("Ben hears %v", kinds)
	}
	ana.call("PATCH", "/api/profile", map[string]any{"theme": "sea"}).refused(400, "invalid_request")
	ana.call("PATCH", "/api/profile", map[string]any{"theme": "dark"}).want(200)
	if after := ana.get("/api/profile"); after.text("theme") != "dark" || after.body["themeEntries"] != nil || after.text("locale") != "de-AT" {
		t.Errorf("only the theme was to change: %s", after)
	}

	before, heard := ana.code, len(ben.inbox())
	changed := ana.call("POST", "/api/profile/partner-code", nil).want(200).text("result", "partnerCode")
	if changed == "" || changed == before || ana.get("/api/profile").text("partnerCode") != changed {
		t.Errorf("code %q was %q", changed, before)
	}
	ben.get(partners+"/search?code="+before).refused(404, "user_not_found")
	if found := ben.get(partners + "/search?code=" + changed).want(200); found.text("user", "id") != ana.id.String() {
		t.Errorf("%s", found)
	}
	if len(ben.inbox()) != heard {
		t.Error("the partner hears of a new code")
	}
}

func testReadMarks(t *testing.T, w *town) {
	ana, ben := w.person(t, "Ana"), w.person(t, "Ben")
	ben.ask(ana).want(200)
	ana.call("PATCH", "/api/profile", map[string]any{"locale": "de"}).want(200) // one's own doing
	badge := func(who *person) string {
		t.Helper()
		got := who.get("/api/notifications").want(200)
		return fmt.Sprintf("%v of %v, %v unread", got.body["readSeq"], got.body["lastSeq"], got.body["unread"])
	}
	same(t, "before", "0 of 2, 1 unread", badge(ana))
	mark := func(seq int) any {
		t.Helper()
		return ana.call("POST", "/api/notifications/read", map[string]any{"seq": seq}).want(200).body["result"].(map[string]any)["seq"]
	}
	if got := mark(1); got != 1.0 {
		t.Errorf("the mark is at %v", got)
	}
	same(t, "read", "1 of 3, 0 unread", badge(ana))
	if got := mark(0); got != 1.0 {
		t.Errorf("the mark went to %v", got)
	}
	same(t, "nothing moved", "1 of 3, 0 unread", badge(ana))
	same(t, "the sender", "0 of 1, 0 unread", badge(ben))
	if kinds := ana.inbox(); kinds[2] != "inbox.read" {
		t.Errorf("Ana's inbox: %v", kinds)
	}
	got := ana.call("POST", "/api/notifications/read", map[string]any{"seq": 1 << 40}).want(200)
	if ana.get("/api/commands/"+got.text("commandId")).want(200).text("type") != "notifications.read" {
		t.Errorf("%s", got)
	}
	same(t, "all of it", "3 of 4, 0 unread", badge(ana))
	for _, a := range ana.get("/api/activity").want(200).list("activity") {
		if a["action"] == "notifications.read" {
			t.Errorf("reading is logged: %v", a)
		}
	}
}

// The preview has two ways in and is one.
func testPreferences(t *testing.T, w *town) {
	ana := w.person(t, "Ana")
	const path = "/api/notifications/preferences"
	put := func(body map[string]any) reply { t.Helper(); return ana.call("PUT", path, body).want(200) }
	put(map[string]any{"preview": "full", "quietHours": map[string]any{"enabled": true, "from": "23:15"}})
	same(t, "the profile", "full", ana.get("/api/profile").want(200).text("privacy", "preview"))
	ana.call("PATCH", "/api/profile", map[string]any{"displayName": "Anna"}).want(200)
	same(t, "a renaming leaves it", "full", ana.get(path).want(200).text("preview"))
	ana.call("PATCH", "/api/profile", map[string]any{"privacy": map[string]any{"preview": "discreet"}}).want(200)
	same(t, "the preferences", "discreet", ana.get(path).want(200).text("preview"))
	same(t, "the rest of them", "23:15", ana.get(path).text("quietHours", "from"))
	same(t, "the snapshot", "23:15", ana.get("/api/sync").want(200).text("preferences", "quietHours", "from"))
	same(t, "the export", "23:15", ana.get("/api/account/export").want(200).text("preferences", "quietHours", "from"))
	ana.call("PUT", path, map[string]any{"quietHours": map[string]any{"from": "07:00"}}).refused(400, "invalid_request")
}

func testNicknames(t *testing.T, w *town) {
	ana, ben := w.couple(t, "Ana", "Ben")
	eve := w.person(t, "Eve")
	name := func(who, whom *person, nickname string) reply {
		return who.call("POST", "/api/nicknames", map[string]any{"targetUserId": whom.id, "nickname": nickname})
	}
	heard := len(ben.inbox())
	name(ana, ben, "Ba\u0308r").want(200)
	same(t, "nickname", "Bär", ana.get("/api/nicknames/"+ben.id.String()).text("nickname"))
	same(t, "on the partner", "Bär", ana.get(partners+"/current").text("partner", "nickname"))
	name(ana, ben, "Schatz").want(200)
	same(t, "changed", "Schatz", ana.get("/api/sync").list("partners")[0]["partner"].(map[string]any)["nickname"].(string))
	if len(ben.inbox()) != heard || len(ben.get("/api/nicknames").list("nicknames")) != 0 {
		t.Error("Ben learns of it")
	}
	name(ana, eve, "Evil").refused(409, "not_current")
	name(ana, ana, "I").refused(409, "self_request")
	name(ana, &person{id: uuid.New()}, "Nobody").refused(404, "user_not_found")

	// It outlives a parting, comes back, and can be taken back at any time.
	ben.call("POST", partners+"/remove", nil).want(200)
	ana.marry(ben)
	same(t, "after restoration", "Schatz", ana.get(partners+"/current").text("partner", "nickname"))
	ana.call("DELETE", "/api/nicknames/"+ben.id.String(), nil).want(200)
	ana.call("DELETE", "/api/nicknames/"+ben.id.String(), nil).refused(404, "not_found")
	ana.get("/api/nicknames/"+ben.id.String()).refused(404, "not_found")
	for _, e := range ana.get("/api/notifications").list("events") {
		if e["type"] == "nickname.changed" && strings.Contains(fmt.Sprint(e["data"]), "Schatz") {
			t.Errorf("an event carries the text: %v", e)
		}
	}
}

func testBlocksAndDoors(t *testing.T, w *town) {
	ana, ben := w.couple(t, "Ana", "Ben")
	block := partners + "/blocks/"
	ana.call("PUT", block+ana.id.String(), nil).refused(409, "self_request")
	ana.call("PUT", block+uuid.NewString(), nil).refused(404, "user_not_found")
	ana.call("PUT", block+ben.id.String(), nil).want(200)
	ana.call("PUT", block+ben.id.String(), nil).want(200)
	if list := ana.get(partners + "/blocks").list("blocks"); len(list) != 1 || list[0]["user"].(map[string]any)["displayName"] != "Ben" {
		t.Errorf("blocks: %v", list)
	}
	if len(ben.get(partners+"/blocks").list("blocks")) != 0 || ben.get(partners + "/current").body["partner"] != nil {
		t.Error("Ben has a block or still a partner")
	}
	ana.ask(ben).refused(409, "blocked_by_you")
	ben.ask(ana).refused(409, "target_unavailable")
	same(t, "search", ana.id.String(), ben.get(partners+"/search?code="+ana.code).text("user", "id"))

	ana.call("DELETE", block+ben.id.String(), nil).want(200)
	ana.call("DELETE", block+ben.id.String(), nil).refused(404, "not_found")
	ben.ask(ana).refused(409, "target_unavailable") // the door
	request := ana.ask(ben).want(200).text("requestId")
	ana.call("DELETE", partners+"/request/"+request, nil).want(200)
	back := ben.ask(ana).want(200).text("requestId")
	accepted := ana.call("PUT", partners+"/request/"+back+"/accept", nil).want(200)
	if accepted.text("result", "partnershipId") == ana.partnershipID {
		t.Errorf("a block forfeits restoration: %s", accepted)
	}

	ana.call("POST", partners+"/remove", map[string]any{"quiet": true, "reason": "mine"}).want(200)
	ben.ask(ana).refused(409, "target_unavailable")
	ana.marry(ben) // the leaver's own request opens the door
}

func testBreakup(t *testing.T, w *town) {
	ana, ben := w.couple(t, "Ana", "Ben")
	eve := w.person(t, "Eve")
	breakup := partners + "/breakup"
	eve.call("POST", breakup, nil).refused(409, "not_current")
	if status := ana.get(partners + "/breakup-status"); status.body["breakup"] != nil {
		t.Errorf("%s", status)
	}
	asked := ana.call("POST", breakup, map[string]any{"partnershipId": ana.partnershipID, "reason": "my own"}).want(200)
	id := asked.text("result", "breakupId")
	if asked.text("result", "status") != "pending" || asked.text("result", "expiresAt") == "" {
		t.Errorf("%s", asked)
	}
	ana.call("POST", breakup, nil).refused(409, "request_pending")
	mine, theirs := ana.get(partners+"/breakup-status"), ben.get(partners+"/breakup-status")
	same(t, "my reason", "my own", mine.text("breakup", "reason"))
	if strings.Contains(string(theirs.raw), "my own") || theirs.text("breakup", "id") != id || theirs.body["breakup"].(map[string]any)["byYou"] != false {
		t.Errorf("%s", theirs)
	}
	same(t, "in sync", id, ben.get("/api/sync").text("breakup", "id"))

	for path, method := range map[string]string{"/accept": "PUT", "/reject": "PUT", "": "DELETE"} {
		eve.call(method, breakup+"/"+id+path, nil).refused(404, "not_found")
		ana.call("PUT", breakup+"/"+uuid.NewString()+"/accept", nil).refused(404, "not_found")
	}
	ana.call("PUT", breakup+"/"+id+"/accept", nil).refused(404, "not_found")
	ben.call("DELETE", breakup+"/"+id, nil).refused(404, "not_found")
	ana.call("DELETE", breakup+"/"+id, nil).want(200)
	ben.call("PUT", breakup+"/"+id+"/accept", nil).refused(409, "not_pending")

	id = ben.call("POST", breakup, nil).want(200).text("result", "breakupId")
	ana.call("PUT", breakup+"/"+id+"/reject", nil).want(200)
	if ana.get(partners + "/current").body["partner"] == nil {
		t.Error("they are still partners")
	}
	id = ana.call("POST", breakup, map[string]any{"reason": "my own"}).want(200).text("result", "breakupId")
	done := ben.call("PUT", breakup+"/"+id+"/accept", nil).want(200)
	if done.text("result", "endedAt") == "" || ben.get(partners + "/current").body["partner"] != nil {
		t.Errorf("%s", done)
	}
	history := ana.get(partners + "/history").list("history")[0]
	if history["endedByYou"] != true || history["reason"] != "my own" {
		t.Errorf("history of the asker: %v", history)
	}
	if theirs := ben.get(partners + "/history"); strings.Contains(string(theirs.raw), "my own") {
		t.Errorf("%s", theirs)
	}

	// Both ask: both want it. And nobody is held up: remove works while one is pending.
	ana.marry(ben)
	ana.call("POST", breakup, nil).want(200)
	if crossed := ben.call("POST", breakup, nil).want(200); crossed.body["result"].(map[string]any)["crossed"] != true {
		t.Errorf("%s", crossed)
	}
	ana.marry(ben)
	id = ana.call("POST", breakup, nil).want(200).text("result", "breakupId")
	ana.call("POST", partners+"/remove", nil).want(200)
	ben.call("PUT", breakup+"/"+id+"/reject", nil).refused(409, "not_pending")
}

func testHistory(t *testing.T, w *town) {
	ana, ben := w.couple(t, "Ana", "Ben")
	history, forfeit := partners+"/history/"+ana.partnershipID, partners+"/restorable/"+ana.partnershipID+"/forfeit"
	ana.call("DELETE", history, nil).refused(404, "not_found") // it is not over
	ana.call("POST", forfeit, nil).refused(404, "not_found")
	ana.call("POST", partners+"/remove", nil).want(200)
	if list := ben.get(partners + "/restorable").list("restorable"); len(list) != 1 || list[0]["daysLeft"] != 30.0 {
		t.Errorf("restorable: %v", list)
	}
	slots := ben.get(partners + "/slots")
	if slots.body["vacant"] != 1.0 {
		t.Errorf("%s", slots)
	}
	if kinds := strings.Join(ben.inbox(), " "); !strings.Contains(kinds, "slot.vacated") {
		t.Errorf("Ben hears %s", kinds)
	}

	w.person(t, "Eve").call("DELETE", history, nil).refused(404, "not_found")
	ana.call("DELETE", history, nil).want(204)
	ana.call("DELETE", history, nil).want(204)
	if len(ana.get(partners+"/history").list("history")) != 0 || len(ben.get(partners+"/history").list("history")) != 1 {
		t.Error("one's own copy goes, the other's stays")
	}

	ben.call("POST", forfeit, nil).want(200)
	ben.call("POST", forfeit, nil).refused(404, "not_found")
	if len(ben.get(partners+"/restorable").list("restorable")) != 0 || len(ana.get(partners+"/restorable").list("restorable")) != 1 {
		t.Error("what one has forfeited is restorable to the other alone")
	}
	before := ana.partnershipID
	ana.marry(ben)
	if ana.partnershipID == before {
		t.Error("restored although it was forfeited")
	}
}

// Whatever keeps somebody from being asked looks the same to the one who asks.
func testNotTold(t *testing.T, w *town) {
	eve := w.person(t, "Eve")
	full, _ := w.couple(t, "Filled", "Other")
	blocker, leaver := w.person(t, "Blocks"), w.person(t, "Leaves")
	blocker.call("PUT", partners+"/blocks/"+eve.id.String(), nil).want(200)
	eve.marry(leaver)
	leaver.call("POST", partners+"/remove", map[string]any{"quiet": true}).want(200)

	want := eve.ask(full).refused(409, "target_unavailable")
	for name, who := range map[string]*person{"a block": blocker, "a quiet leave": leaver} {
		got := eve.ask(who)
		same(t, name+", asked", want.shape(), got.shape())
		same(t, name+", the command", command(eve, want), command(eve, got))
		same(t, name+", found", strings.ReplaceAll(shapeOfSearch(eve, full), full.name, "…"), strings.ReplaceAll(shapeOfSearch(eve, who), who.name, "…"))
	}

	// The same for two who were partners: left quietly, or blocked.
	var views [2]string
	for i, leave := range []func(who, whom *person){
		func(who, _ *person) { who.call("POST", partners+"/remove", map[string]any{"quiet": true}).want(200) },
		func(who, whom *person) { who.call("PUT", partners+"/blocks/"+whom.id.String(), nil).want(200) },
	} {
		ana, ben := w.couple(t, "Ana", "Ben")
		leave(ana, ben)
		for _, path := range []string{"/current", "/partners", "/slots", "/history", "/restorable", "/requests", "/blocks", "/breakup-status"} {
			views[i] += anonymous(ben.get(partners + path))
		}
		views[i] += anonymous(ben.get("/api/notifications")) + anonymous(ben.get("/api/sync"))
		views[i] += ben.ask(ana).shape()
	}
	same(t, "a quiet leave and a block", views[0], views[1])
}

func shapeOfSearch(by *person, whom *person) string {
	got := by.get(partners + "/search?code=" + whom.code)
	return strings.ReplaceAll(got.shape(), whom.id.String(), "…")
}

// command is what became of a refused command, as its issuer can read it.
func command(of *person, refused reply) string {
	got := of.get("/api/commands/" + refused.text("commandId"))
	return fmt.Sprint(got.status, got.text("status"), got.text("code"), got.body["result"])
}

var (
	anyID   = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	anyTime = regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`)
	anyCode = regexp.MustCompile(`"[0-9A-HJKMNP-TV-Z]{10}"`)
)

// anonymous is a reply with all ids, times and codes taken out.
func anonymous(r reply) string {
	body := anyCode.ReplaceAllString(anyTime.ReplaceAllString(anyID.ReplaceAllString(string(r.raw), "…"), "…"), "…")
	return fmt.Sprintf("%s: %d %s", r.what, r.status, body)
}

func testCooldowns(t *testing.T, w *town) {
	ana, ben := w.person(t, "Ana"), w.person(t, "Ben")
	request := ana.ask(ben).want(200).text("requestId")
	ana.ask(ben).refused(409, "request_pending")
	ben.call("PUT", partners+"/request/"+request+"/reject", nil).want(200)
	ana.ask(ben).refused(409, "cooldown")
	request = ben.ask(ana).want(200).text("requestId")
	ben.call("DELETE", partners+"/request/"+request, nil).want(200)
	for range 2 { // with the first one three in a day
		request = ana.ask(ben).want(200).text("requestId")
		ana.call("DELETE", partners+"/request/"+request, nil).want(200)
	}
	ana.ask(ben).refused(409, "cooldown")
	if got := ana.ask(w.person(t, "Eve")); got.status != 200 {
		t.Errorf("the limit is one target's: %s", got)
	}
}

// What the one who left had sent and the other had not acknowledged is an empty place.
func testWithdrawn(t *testing.T, w *town) {
	ana, ben := w.couple(t, "Ana", "Ben")
	ana.call("PATCH", "/api/profile", map[string]any{"displayName": "Ana the first"}).want(200)
	ana.call("POST", partners+"/remove", map[string]any{"quiet": true}).want(200)
	events := ben.get("/api/notifications").list("events")
	for i, e := range events {
		if e["seq"] != float64(i+1) {
			t.Errorf("a gap at %d: %v", i, e)
		}
		if strings.Contains(fmt.Sprint(e["data"]), ana.id.String()) && e["type"] == "profile.updated" {
			t.Errorf("not withdrawn: %v", e)
		}
	}
	kinds := fmt.Sprint(ben.inbox())
	if !strings.Contains(kinds, "withdrawn") || !strings.Contains(kinds, "partnership.ended") || strings.Contains(kinds, "profile.updated") {
		t.Errorf("Ben's inbox: %s", kinds)
	}
	if kinds := fmt.Sprint(ana.inbox()); !strings.Contains(kinds, "profile.updated") {
		t.Errorf("one's own doings stay: %s", kinds)
	}
}

func testReportsAndActivity(t *testing.T, w *town) {
	ana, ben := w.couple(t, "Ana", "Ben")
	heard := len(ben.inbox())
	report := func(body map[string]any) reply { return ana.call("POST", "/api/reports", body) }
	report(map[string]any{"targetUserId": ben.id, "reason": "harassment", "detail": "line one\nline two"}).want(201)
	report(map[string]any{"targetUserId": ana.id, "reason": "x"}).refused(409, "self_request")
	report(map[string]any{"targetUserId": uuid.New(), "reason": "x"}).refused(404, "user_not_found")
	report(map[string]any{"targetUserId": ben.id, "reason": "\u202e"}).refused(400, "invalid_request")
	report(map[string]any{"targetUserId": ben.id, "reason": "x", "detail": strings.Repeat("y", 2001)}).refused(400, "invalid_request")
	if len(ben.inbox()) != heard {
		t.Error("Ben hears of the report")
	}

	ana.call("POST", partners+"/remove", nil).want(200)
	ana.ask(ana).refused(409, "self_request")
	own := ana.get("/api/activity?limit=1")
	got := own.list("activity")
	if len(got) != 1 || got[0]["action"] != "request.send" || got[0]["code"] != "self_request" || got[0]["device"] == nil {
		t.Errorf("%s", own)
	}
	next := ana.get("/api/activity?limit=1&cursor=" + own.text("nextCursor"))
	if got := next.list("activity"); len(got) != 1 || got[0]["action"] != "partnership.remove" || got[0]["targetUserId"] != ben.id.String() {
		t.Errorf("%s", next)
	}
	ana.call("DELETE", partners+"/history/"+ana.partnershipID, nil).want(204)
	ana.get("/api/account/export").want(200)
	again := ana.call("POST", "/api/auth/login", map[string]any{"email": ana.email, "password": secret}).want(200)
	if again.text("accessToken") == "" {
		t.Errorf("%s", again)
	}
	var done []string
	for _, a := range ana.get("/api/activity").list("activity")[:3] {
		done = append(done, fmt.Sprint(a["action"]))
	}
	same(t, "what is no command", "auth.login account.export history.delete", strings.Join(done, " "))
	if all := ana.get("/api/activity"); strings.Count(string(all.raw), "report.file") != 1 {
		t.Errorf("the report that was filed, and only that: %s", all)
	}
	if all := ben.get("/api/activity"); strings.Contains(string(all.raw), "partnership.remove") || strings.Contains(string(all.raw), "report.file") || len(all.list("activity")) != 1 {
		t.Errorf("what Ana did is not Ben's: %s", all)
	}
	if all := ana.get("/api/activity"); strings.Contains(string(all.raw), "127.0.0.1") {
		t.Errorf("an address shows: %s", all)
	}
}

func testSync(t *testing.T, w *town) {
	ana, ben := w.couple(t, "Ana", "Ben")
	eve := w.person(t, "Eve")
	ana.call("POST", "/api/nicknames", map[string]any{"targetUserId": ben.id, "nickname": "Bear"}).want(200)
	ana.call("POST", partners+"/breakup", nil).want(200)
	eve.ask(ana).refused(409, "target_unavailable")
	snapshot := ana.get("/api/sync").want(200)
	if len(snapshot.list("partners")) != 1 || snapshot.text("breakup", "partnershipId") != ana.partnershipID || len(snapshot.list("requests")) != 0 {
		t.Errorf("%s", snapshot)
	}
	if rest := ana.get(fmt.Sprintf("/api/notifications?after=%v&epoch=%s", snapshot.body["seq"], snapshot.text("epoch"))).want(200); len(rest.list("events")) != 0 {
		t.Errorf("%s", rest)
	}
}

// An export holds what one gave and was shown, and nothing that the other wrote about one.
func testExport(t *testing.T, w *town) {
	ana, ben := w.person(t, "Ana"), w.person(t, "Ben")
	request := ana.call("POST", partners+"/request", map[string]any{"toUserId": ben.id, "message": "given-message"}).want(200).text("requestId")
	ben.call("PUT", partners+"/request/"+request+"/reject", nil).want(200)
	request = ben.call("POST", partners+"/request", map[string]any{"toUserId": ana.id, "message": "shown-message"}).want(200).text("requestId")
	ana.call("PUT", partners+"/request/"+request+"/accept", nil).want(200)
	for who, whom := range map[*person]*person{ana: ben, ben: ana} {
		who.call("POST", "/api/nicknames", map[string]any{"targetUserId": whom.id, "nickname": who.name + "-nickname"}).want(200)
		who.call("POST", "/api/reports", map[string]any{"targetUserId": whom.id, "reason": who.name + "-report", "detail": who.name + "-detail"}).want(201)
	}
	breakup := ben.call("POST", partners+"/breakup", map[string]any{"reason": "Ben-breakup"}).want(200).text("result", "breakupId")
	for _, path := range []string{"/api/account/export", "/api/sync", partners + "/breakup-status"} { // while it is open
		if got := ana.get(path).want(200); !strings.Contains(string(got.raw), breakup) || strings.Contains(string(got.raw), "Ben-breakup") {
			t.Errorf("%s: %s", path, got)
		}
	}
	ben.call("DELETE", partners+"/breakup/"+breakup, nil).want(200)
	ana.call("POST", partners+"/breakup", map[string]any{"reason": "Ana-breakup"}).want(200)
	ben.call("POST", partners+"/remove", map[string]any{"reason": "Ben-reason", "quiet": true}).want(200)
	ana.call("PUT", partners+"/blocks/"+ben.id.String(), nil).want(200)
	eve := w.person(t, "Eve")
	eve.marry(ana)
	eve.call("POST", partners+"/remove", map[string]any{"reason": "Ben-reason"}).want(200)
	eve.call("PUT", partners+"/blocks/"+ana.id.String(), nil).want(200)
	ben.call("PUT", partners+"/blocks/"+ana.id.String(), nil).want(200)
	ana.call("POST", "/api/devices", map[string]any{"kind": "fcm", "token": "a-push-token", "platform": "ios"}).want(201)

	export := ana.get("/api/account/export").want(200)
	for _, given := range []string{"given-message", "shown-message", "Ana-nickname", "Ana-report", "Ana-detail", ana.email, ana.code, "Ben", "request.sent", "withdrawn", breakup} {
		if !strings.Contains(string(export.raw), given) {
			t.Errorf("%s is missing", given)
		}
	}
	for _, written := range []string{"Ben-nickname", "Ben-report", "Ben-detail", "Ben-breakup", "Ben-reason", "blocked_at", "a-push-token", secret, ben.email, ben.code, "127.0.0.1"} {
		if strings.Contains(string(export.raw), written) {
			t.Errorf("%s is in it", written)
		}
	}
	if blocks := export.list("blocks"); len(blocks) != 1 || blocks[0]["user"].(map[string]any)["id"] != ben.id.String() {
		t.Errorf("blocks: %v", blocks)
	}
	if name := export.header.Get("Content-Disposition"); !strings.HasPrefix(name, "attachment; filename=") {
		t.Errorf("Content-Disposition is %q", name)
	}
}

func testDeletion(t *testing.T, w *town) {
	ana, ben := w.couple(t, "Ana", "Ben")
	eve, full := w.person(t, "Eve"), w.person(t, "Full")
	full.marry(w.person(t, "Other"))
	request := eve.ask(full).refused(409, "target_unavailable")
	ben.call("POST", "/api/nicknames", map[string]any{"targetUserId": ana.id, "nickname": "about-Ana"}).want(200)
	erased := ana.call("PATCH", "/api/profile", map[string]any{"displayName": "Ana-the-erased"}).want(200)

	ana.call("DELETE", "/api/account", map[string]any{"password": "wrong"}).refused(400, "invalid_request")
	if got := ana.get("/api/commands/" + erased.text("commandId")); got.status != 200 {
		t.Errorf("%s", got)
	}
	deleted := ana.call("DELETE", "/api/account", map[string]any{"password": secret}).want(200)
	same(t, "status", "deleting", deleted.text("result", "status"))
	until(t, "the session to end", func() bool { return ana.get("/api/profile").status == 401 })
	until(t, "the partnership to end", func() bool { return ben.get(partners + "/current").body["partner"] == nil })
	until(t, "erasure", func() bool {
		login := eve.call("POST", "/api/auth/login", map[string]any{"email": ana.email, "password": secret})
		return login.status == 401 && login.text("code") == "unauthenticated"
	})
	eve.get(partners+"/search?code="+ana.code).refused(404, "user_not_found")
	same(t, "asked", request.shape(), eve.ask(ana).shape())
	for _, path := range []string{partners + "/history", partners + "/restorable", "/api/sync", "/api/notifications", "/api/account/export", "/api/nicknames"} {
		for _, gone := range []string{"Ana-the-erased", ana.email, ana.code, "about-Ana"} {
			if got := ben.get(path); strings.Contains(string(got.raw), gone) {
				t.Errorf("%s shows %s", got, gone)
			}
		}
	}
	if list := ben.get(partners + "/restorable").list("restorable"); len(list) != 0 {
		t.Errorf("restorable: %v", list)
	}
	ben.marry(eve) // the slot is vacant
	if again := w.register(t, "Ana", ana.email); again.id == ana.id {
		t.Error("the same id again")
	}
}

// until polls until ok, or fails.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s", what)
		}
	}
}
