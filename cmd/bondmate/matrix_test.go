package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

// callers are the columns of the matrix, in the order in which they call: the owner last,
// so that all before met what is there, and an owner's success shows that the request was
// good. The API key has all scopes.
var callers = [...]string{"anonymous", "API key", "other user", "support", "admin", "owner"}

// matrix is who gets which answer, for every operation of the OpenAPI document, to one
// request that is good in every respect and names what is the owner's. Operators look at
// other people's through /api/ops alone: elsewhere they are users like all others, and API keys nobody. What people wrote, and keys,
// no key gets to see.
var matrix = map[string][len(callers)]int{
	// operation           anonymous, API key, other user, support, admin, owner
	"register":          {201, 201, 201, 201, 201, 201},
	"login":             {200, 200, 200, 200, 200, 200},
	"loginWithFirebase": {404, 404, 404, 404, 404, 404}, // there is no project here
	"refresh":           {200, 200, 200, 200, 200, 200},
	"forgotPassword":    {202, 202, 202, 202, 202, 202},
	"resetPassword":     {400, 400, 400, 400, 400, 400}, // it takes a token from a mail
	"verifyEmail":       {400, 400, 400, 400, 400, 400}, // as well
	"jwks":              {200, 200, 200, 200, 200, 200},
	"root":              {200, 200, 200, 200, 200, 200},
	"health":            {200, 200, 200, 200, 200, 200},
	"apiHealth":         {200, 200, 200, 200, 200, 200},
	"detailedHealth":    {200, 200, 200, 200, 200, 200},
	"ready":             {200, 200, 200, 200, 200, 200},
	"live":              {200, 200, 200, 200, 200, 200},
	"openapiDocument":   {200, 200, 200, 200, 200, 200},
	"asyncapiDocument":  {200, 200, 200, 200, 200, 200},
	"recordSchema":      {200, 200, 200, 200, 200, 200},
	"docs":              {200, 200, 200, 200, 200, 200},
	"realtime":          {101, 101, 101, 101, 101, 101}, // then a ticket, within 5 s
	"logout":            {401, 403, 204, 204, 204, 204},
	"logoutAll":         {401, 403, 204, 204, 204, 204},
	"changePassword":    {401, 403, 204, 204, 204, 204},
	"listSessions":      {401, 403, 200, 200, 200, 200},
	"endSession":        {401, 403, 404, 404, 404, 204},
	"deleteAccount":     {401, 403, 200, 200, 200, 200},
	"exportAccount":     {401, 403, 200, 200, 200, 200},
	"getProfile":        {401, 403, 200, 200, 200, 200},
	"updateProfile":     {401, 403, 200, 200, 200, 200},
	"changePartnerCode": {401, 403, 200, 200, 200, 200},
	"sync":              {401, 403, 200, 200, 200, 200},
	"listActivity":      {401, 403, 200, 200, 200, 200},
	"searchByCode":      {401, 403, 200, 200, 200, 200},
	"sendRequest":       {401, 403, 200, 200, 200, 200},
	"listRequests":      {401, 403, 200, 200, 200, 200},
	"getRequest":        {401, 403, 404, 404, 404, 200},
	"cancelRequest":     {401, 403, 404, 404, 404, 200},
	"acceptRequest":     {401, 403, 404, 404, 404, 200},
	"rejectRequest":     {401, 403, 404, 404, 404, 200},
	"getCurrent":        {401, 403, 200, 200, 200, 200},
	"listPartners":      {401, 403, 200, 200, 200, 200},
	"getStatistics":     {401, 403, 200, 200, 200, 200},
	"getSlots":          {401, 403, 200, 200, 200, 200},
	"listHistory":       {401, 403, 200, 200, 200, 200},
	"listRestorable":    {401, 403, 200, 200, 200, 200},
	"deleteHistory":     {401, 403, 404, 404, 404, 204},
	"forfeit":           {401, 403, 404, 404, 404, 200},
	"remove":            {401, 403, 409, 409, 409, 200}, // not_current: theirs is another, or none
	"removeByDelete":    {401, 403, 409, 409, 409, 200},
	"requestBreakup":    {401, 403, 409, 409, 409, 200},
	"withdrawBreakup":   {401, 403, 404, 404, 404, 200},
	"acceptBreakup":     {401, 403, 404, 404, 404, 200},
	"rejectBreakup":     {401, 403, 404, 404, 404, 200},
	"getBreakupStatus":  {401, 403, 200, 200, 200, 200},
	"listBlocks":        {401, 403, 200, 200, 200, 200},
	"blockUser":         {401, 403, 200, 200, 200, 200},
	"unblockUser":       {401, 403, 404, 404, 404, 200},
	"report":            {401, 403, 201, 201, 201, 201},
	"listNicknames":     {401, 403, 200, 200, 200, 200},
	"setNickname":       {401, 403, 409, 409, 409, 200}, // not_current: no partner of theirs
	"getNickname":       {401, 403, 404, 404, 404, 200},
	"clearNickname":     {401, 403, 404, 404, 404, 200},
	"getCommand":        {401, 403, 404, 404, 404, 200},
	"listNotifications": {401, 403, 200, 200, 200, 200},
	"readNotifications": {401, 403, 200, 200, 200, 200},
	"getPreferences":    {401, 403, 200, 200, 200, 200},
	"putPreferences":    {401, 403, 200, 200, 200, 200},
	"registerDevice":    {401, 403, 201, 201, 201, 201},
	"listDevices":       {401, 403, 200, 200, 200, 200},
	"deleteDevice":      {401, 403, 404, 404, 404, 204},
	"createTicket":      {401, 403, 200, 200, 200, 200},

	"showUser":              {401, 200, 403, 200, 200, 403},
	"suspendUser":           {401, 200, 403, 403, 200, 403},
	"unsuspendUser":         {401, 200, 403, 403, 200, 403},
	"setTier":               {401, 200, 403, 403, 200, 403},
	"setSlots":              {401, 200, 403, 403, 200, 403},
	"listReports":           {401, 200, 403, 200, 200, 403},
	"showReport":            {401, 200, 403, 200, 200, 403},
	"resolveReport":         {401, 200, 403, 403, 200, 403},
	"listParked":            {401, 200, 403, 200, 200, 403},
	"showParked":            {401, 200, 403, 200, 200, 403},
	"readParkedPayload":     {401, 403, 403, 403, 200, 403},
	"retryParked":           {401, 200, 403, 403, 200, 403},
	"dropParked":            {401, 200, 403, 403, 200, 403},
	"showParkedAction":      {401, 200, 403, 200, 200, 403},
	"listDeadLetters":       {401, 200, 403, 200, 200, 403},
	"showDeadLetter":        {401, 200, 403, 200, 200, 403},
	"readDeadLetterPayload": {401, 403, 403, 403, 200, 403},
	"replayDeadLetter":      {401, 200, 403, 403, 200, 403},
	"listDeliveries":        {401, 200, 403, 200, 200, 403},
	"listApiKeys":           {401, 403, 403, 403, 200, 403},
	"createApiKey":          {401, 403, 403, 403, 201, 403},
	"rotateApiKey":          {401, 403, 403, 403, 200, 403},
	"revokeApiKey":          {401, 403, 403, 403, 200, 403},
}

// endsSessions are the operations after which a caller is nobody: they get people of their own.
var endsSessions = []string{"logout", "logoutAll", "changePassword", "deleteAccount"}

// Who may do what: every operation of the document, by everybody.
func TestAuthorisationMatrix(t *testing.T) {
	t.Parallel()
	w := newCity(t, "RATE_LIMITS=off")
	operations := map[string]operationAt{}
	for template, item := range w.spec.Paths.Map() {
		for method, o := range item.Operations() {
			security := w.spec.Security
			if o.Security != nil {
				security = *o.Security
			}
			operations[o.OperationID] = operationAt{method: method, template: template, closed: len(security) > 0}
		}
	}
	named := slices.Sorted(maps.Keys(operations))
	if diff := cmp.Diff(named, slices.Sorted(maps.Keys(matrix))); diff != "" {
		t.Errorf("operations (-document +matrix):\n%s", diff)
	}
	if diff := cmp.Diff(named, slices.Sorted(maps.Keys(goodRequests))); diff != "" {
		t.Errorf("operations (-document +requests):\n%s", diff)
	}
	if t.Failed() {
		return
	}
	shared := newCast(t, w)
	for _, name := range named {
		t.Run(name, func(t *testing.T) {
			c := *shared
			if slices.Contains(endsSessions, name) {
				c = *newCast(t, w)
			}
			c.testing(t)
			op, request := operations[name], goodRequests[name](&c)
			got := [len(callers)]int{}
			for i, caller := range callers {
				r := c.calls(caller, op, request)
				got[i] = r.status
				if r.status != matrix[name][i] {
					t.Errorf("%s: %s", caller, r)
				}
				// Nothing of the owner's to anybody but them, and operators in their place.
				if op.closed && caller != "owner" && !strings.HasPrefix(op.template, "/api/ops/") && strings.Contains(string(r.raw), c.mark) {
					t.Errorf("%s gets to see what is the owner's: %s", caller, r)
				}
			}
			if diff := cmp.Diff(matrix[name], got); diff != "" {
				t.Errorf("%v (-want +got):\n%s", callers, diff)
			}
		})
	}
}

type operationAt struct {
	method, template string
	closed           bool
}

// good is a request to an operation: what its path names, its query and its body.
type good struct {
	vars   map[string]string
	query  string
	body   any
	header http.Header
	// each makes a body, and anew what the path names, for each call, where one can be used only
	// once.
	each func() any
	anew func() map[string]string
}

// cast is one of everybody. What is the owner's has a mark in it that nothing else has.
type cast struct {
	t                           *testing.T
	w                           *city
	mark                        string
	owner, other, support, boss *person
	mate                        *person // the owner's partner, of whom they say a name
	key                         string  // an API key
}

func newCast(t *testing.T, w *city) *cast {
	t.Helper()
	c := &cast{t: t, w: w, mark: "mark" + uuid.NewString()[:8]}
	c.owner, c.other, c.support, c.boss = w.person(t, "Owner-"+c.mark), w.person(t, "Other"), w.person(t, "Support"), w.person(t, "Boss")
	w.operate(t, "users", "promote", c.support.email, "--role", "support")
	w.operate(t, "users", "promote", c.boss.email, "--role", "admin")
	c.boss.ops("PUT", c.owner.id.String()+"/slots", map[string]any{"total": 50}).want(200)
	c.key = c.boss.call("POST", "/api/ops/api-keys", keyOrder()).want(201).text("key")
	c.mate = c.partner()
	c.owner.call("POST", "/api/nicknames", map[string]any{"targetUserId": c.mate.id, "nickname": "Bär " + c.mark}).want(200)
	return c
}

// testing makes what goes wrong from here on be said in a test.
func (c *cast) testing(t *testing.T) {
	c.t = t
	for _, p := range []**person{&c.owner, &c.other, &c.support, &c.boss, &c.mate} {
		same := **p
		same.t = t
		*p = &same
	}
}

// somebody is a person who has nothing to do with anybody yet.
func (c *cast) somebody() *person { c.t.Helper(); return c.w.person(c.t, "Somebody") }

// partner is a new partner of the owner's.
func (c *cast) partner() *person {
	c.t.Helper()
	p := c.somebody()
	p.marry(c.owner)
	return p
}

// former is the id of a partnership of the owner's that has ended.
func (c *cast) former() string {
	c.t.Helper()
	id := c.partner().partnershipID
	c.owner.call("POST", partners+"/remove", map[string]any{"partnershipId": id, "reason": c.mark}).want(200)
	return id
}

// parting is the id of a breakup that one of the owner and a partner has asked for.
func (c *cast) parting(byOwner bool) string {
	c.t.Helper()
	p := c.partner()
	by := p
	if byOwner {
		by = c.owner
	}
	return by.call("POST", partners+"/breakup", map[string]any{"partnershipId": p.partnershipID}).want(200).text("result", "breakupId")
}

func (c *cast) reported() string {
	c.t.Helper()
	return c.owner.call("POST", "/api/reports", map[string]any{"targetUserId": c.somebody().id, "reason": "spam"}).want(201).text("id")
}

func (c *cast) parked() string {
	c.t.Helper()
	first, _ := c.w.park(c.t, c.somebody(), c.somebody(), c.mark)
	return first.ID.String()
}

func (c *cast) parkedAction() string {
	c.t.Helper()
	return c.boss.call("POST", "/api/ops/parked/"+c.parked()+"/retry", map[string]any{"dryRun": true}).want(200).text("id")
}

func (c *cast) deadLetter() (id string) {
	c.t.Helper()
	var key string
	broken := sendCommand(c.somebody(), c.somebody())
	c.w.queue(c.t, broken, breakRecord(&key))
	c.w.eventually(c.t, "the record is a dead letter", func() bool {
		for _, l := range c.boss.get("/api/ops/dead-letters").want(200).list("deadLetters") {
			if l["key"] == key {
				id = l["id"].(string)
			}
		}
		return id != ""
	})
	return id
}

// otherKey is the id of one more API key.
func (c *cast) otherKey() string {
	c.t.Helper()
	return c.boss.call("POST", "/api/ops/api-keys", keyOrder()).want(201).text("apiKey", "id")
}

// calls makes the request as somebody.
func (c *cast) calls(caller string, op operationAt, g good) reply {
	c.t.Helper()
	header := http.Header{"Prefer": {"wait=10"}}
	maps.Copy(header, g.header)
	switch caller {
	case "anonymous":
	case "API key":
		header.Set("X-API-Key", c.key)
	default:
		who := map[string]*person{"owner": c.owner, "other user": c.other, "support": c.support, "admin": c.boss}[caller]
		header.Set("Authorization", "Bearer "+who.token)
	}
	vars := g.vars
	if g.anew != nil {
		vars = g.anew()
	}
	path := regexp.MustCompile(`\{[^}]+\}`).ReplaceAllStringFunc(op.template, func(name string) string {
		value, ok := vars[strings.Trim(name, "{}")]
		if !ok {
			c.t.Fatalf("%s is not given", name)
		}
		return value
	})
	if g.query != "" {
		path += "?" + g.query
	}
	body := g.body
	if g.each != nil {
		body = g.each()
	}
	return c.w.send(c.t, caller, op.method, path, body, header)
}

// send makes a call as its header says, and holds the answer against the document. Of a
// connection that becomes a WebSocket nothing is read.
func (w *town) send(t *testing.T, who, method, path string, body any, header http.Header) reply {
	t.Helper()
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		reader = bytes.NewReader(data)
		header.Set("Content-Type", "application/json")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, w.url+path, reader)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	r := reply{t: t, what: who + ": " + method + " " + path, status: res.StatusCode, header: res.Header}
	if res.StatusCode == http.StatusSwitchingProtocols {
		return r
	}
	if r.raw, err = io.ReadAll(res.Body); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(res.Header.Get("Content-Type"), "json") {
		if err := json.Unmarshal(r.raw, &r.body); err != nil {
			t.Errorf("%s: not JSON: %v", r, err)
		}
		w.validate(req, r)
	}
	return r
}
