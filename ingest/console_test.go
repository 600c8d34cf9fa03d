package ingest_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/ingest"
	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/ingest/admin"
	"github.com/bondmate/backend/ingest/webconsole"
	"github.com/bondmate/backend/pkg/edge"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/limit"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

const passPhrase = "a long pass phrase" // of whom register makes

// hands is a clock that a test moves.
type hands struct {
	mu sync.Mutex
	at time.Time
}

func (h *hands) now() time.Time { h.mu.Lock(); defer h.mu.Unlock(); return h.at }

func (h *hands) pass(d time.Duration) { h.mu.Lock(); defer h.mu.Unlock(); h.at = h.at.Add(d) }

// building is a world with the operators' page, by a clock that stands.
type building struct {
	*world
	clock *hands
}

func newBuilding(t *testing.T, change ...func(*webconsole.Config, *ingest.Config)) building {
	t.Helper()
	b := building{clock: &hands{at: time.Now().UTC().Truncate(time.Microsecond)}}
	pool := postgrestest.New(t)
	b.world = newInstance(t, pool, newQueue(t, pool), func(c *ingest.Config) {
		keys, err := devKeys()
		must(t, err)
		log := slog.New(slog.DiscardHandler)
		issuer, err := identity.NewIssuer(identity.IssuerConfig{Keys: keys, Issuer: "test", Audience: "test", Clock: b.clock.now})
		must(t, err)
		c.Verifier, err = identity.NewVerifier(identity.VerifierConfig{Keys: keys, Issuer: "test", Audience: "test", Clock: b.clock.now})
		must(t, err)
		passwords, err := identity.NewPasswords(identity.PasswordConfig{Memory: 64, Iterations: 1})
		must(t, err)
		attempts, err := limit.New(limit.Config{Pool: pool, Clock: b.clock.now, Registerer: prometheus.NewRegistry()})
		must(t, err)
		c.Accounts, err = accounts.New(accounts.Config{
			Pool: pool, Issuer: issuer, Passwords: passwords, Clock: b.clock.now, Log: log, Attempts: attempts,
		})
		must(t, err)
		c.Admin, err = admin.New(admin.Config{Pool: pool, Partitions: partitions, Clock: b.clock.now, Log: log})
		must(t, err)
		page := webconsole.Config{Keys: keys, Issuer: "test", Clock: b.clock.now}
		c.Clock = b.clock.now
		for _, f := range change {
			f(&page, c)
		}
		c.Console, err = webconsole.New(page)
		must(t, err)
	})
	return b
}

// request is what a browser sends.
type request struct {
	method, path string
	form         url.Values
	cookie       *http.Cookie
	header       []string // pairs of name and value
}

type page struct {
	status int
	header http.Header
	text   string
	set    []*http.Cookie
}

// visit sends a request, and does not follow where the answer leads.
func (b building) visit(v request) page {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	defer cancel()
	var body io.Reader
	if v.form != nil {
		body = strings.NewReader(v.form.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, v.method, b.url+v.path, body)
	must(b.t, err)
	if v.form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if v.cookie != nil {
		req.AddCookie(v.cookie)
	}
	for i := 0; i+1 < len(v.header); i += 2 {
		req.Header.Set(v.header[i], v.header[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	must(b.t, err)
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	must(b.t, err)
	return page{res.StatusCode, res.Header, string(text), res.Cookies()}
}

func (b building) email(of user) (email string) {
	b.t.Helper()
	must(b.t, b.pool.QueryRow(b.t.Context(), `SELECT email FROM credentials WHERE user_id = $1`, of.id).Scan(&email))
	return email
}

func (b building) login(email, password string, header ...string) page {
	b.t.Helper()
	return b.visit(request{method: "POST", path: "/ops/login", form: url.Values{"email": {email}, "password": {password}}, header: header})
}

// signIn returns the cookie of an operator.
func (b building) signIn(who user, header ...string) *http.Cookie {
	b.t.Helper()
	got := b.login(b.email(who), passPhrase, header...)
	if got.status != http.StatusSeeOther || got.header.Get("Location") != "/ops" || len(got.set) != 1 {
		b.t.Fatalf("sign in: %d %v %s", got.status, got.header, got.text)
	}
	return got.set[0]
}

func (b building) get(path string, cookie *http.Cookie, header ...string) page {
	b.t.Helper()
	return b.visit(request{method: "GET", path: path, cookie: cookie, header: header})
}

func TestConsoleCookie(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		production bool
		proto      string // what the proxy says
		secure     bool
	}{
		"plain, while developing": {false, "http", false},
		"HTTPS, while developing": {false, "https", true},
		"production":              {true, "https", true},
		"production, over HTTP":   {true, "http", true}, // the browser keeps it from there
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBuilding(t, func(page *webconsole.Config, c *ingest.Config) {
				page.Secure = tt.production
				proxies, err := edge.ParseProxies([]string{"127.0.0.1", "::1"})
				must(t, err)
				c.Edge, err = edge.New(edge.Config{Proxies: proxies, Log: c.Log, Registerer: prometheus.NewRegistry()})
				must(t, err)
			})
			boss := b.register("Boss").as(identity.RoleAdmin)
			proto := []string{"X-Forwarded-Proto", tt.proto}
			cookie := b.signIn(boss, proto...)
			want := "bondmate-ops"
			if tt.secure {
				want = "__Host-bondmate-ops"
			}
			if cookie.Name != want || cookie.Secure != tt.secure || !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode ||
				cookie.Path != "/" || cookie.Domain != "" || cookie.MaxAge != 900 {
				t.Errorf("the cookie is %v", cookie)
			}
			if got := b.get("/ops", cookie, proto...); got.status != 200 {
				t.Errorf("page: %d", got.status)
			}
			if tt.secure { // what a plain connection could have planted does not count
				planted := *cookie
				planted.Name = "bondmate-ops"
				if got := b.get("/ops", &planted, proto...); got.status != 401 {
					t.Errorf("page, by a planted cookie: %d", got.status)
				}
			}
			gone := b.visit(request{method: "POST", path: "/ops/logout", cookie: cookie, header: proto})
			if len(gone.set) != 1 || gone.set[0].Name != want || gone.set[0].MaxAge >= 0 || gone.set[0].Value != "" || gone.set[0].Secure != tt.secure {
				t.Errorf("sign out sets %v", gone.set)
			}
		})
	}
}

// What another page has a browser send is refused, whatever it would have done.
func TestConsoleRefusesOtherPages(t *testing.T) {
	t.Parallel()
	const friend = "https://app.example.com" // on the allow list of the API
	b := newBuilding(t, func(_ *webconsole.Config, c *ingest.Config) {
		origins, err := edge.ParseOrigins([]string{friend})
		must(t, err)
		c.Edge, err = edge.New(edge.Config{Origins: origins, Log: c.Log, Registerer: prometheus.NewRegistry()})
		must(t, err)
	})
	boss, ana := b.register("Boss").as(identity.RoleAdmin), b.register("Ana")
	cookie, user := b.signIn(boss), "/api/ops/users/"+ana.id.String()
	form := url.Values{"email": {b.email(boss)}, "password": {passPhrase}}
	status := func() (status int) {
		must(t, b.pool.QueryRow(t.Context(), `SELECT status FROM users WHERE id = $1`, ana.id).Scan(&status))
		return status
	}
	calls := map[string]struct {
		request
		want int // from the page itself
	}{
		"a change": {request{method: "POST", path: user + "/unsuspend", cookie: cookie}, 200},
		"a look":   {request{method: "GET", path: user, cookie: cookie}, 200},
		"sign in":  {request{method: "POST", path: "/ops/login", form: form}, 303},
		"sign out": {request{method: "POST", path: "/ops/logout"}, 303},
	}
	for name, tt := range map[string]struct {
		header  []string
		refused bool
	}{
		"the page itself":                     {[]string{"Sec-Fetch-Site", "same-origin", "Origin", b.url}, false},
		"another site":                        {[]string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, true},
		"another host of the site":            {[]string{"Sec-Fetch-Site", "same-site", "Origin", friend}, true},
		"another site, without Origin":        {[]string{"Sec-Fetch-Site", "cross-site"}, true},
		"an old browser, the page itself":     {[]string{"Origin", b.url}, false},
		"an old browser, another site":        {[]string{"Origin", "https://evil.example"}, true},
		"an old browser, on the allow list":   {[]string{"Origin", friend}, true},
		"an old browser, an origin it hides":  {[]string{"Origin", "null"}, true},
		"an old browser, another port":        {[]string{"Origin", "http://127.0.0.1:1"}, true},
		"Sec-Fetch-Site counts before Origin": {[]string{"Sec-Fetch-Site", "cross-site", "Origin", b.url}, true},
	} {
		for call, c := range calls {
			c.header = tt.header
			got := b.visit(c.request)
			switch {
			case tt.refused && (got.status != 403 || !strings.Contains(got.text, `"code":"forbidden"`) || len(got.set) != 0):
				t.Errorf("%s, %s: %d %s", name, call, got.status, got.text)
			case !tt.refused && got.status != c.want:
				t.Errorf("%s, %s: %d %s, want %d", name, call, got.status, got.text, c.want)
			}
		}
		suspend := request{method: "POST", path: user + "/suspend", cookie: cookie, header: tt.header}
		if tt.refused {
			if b.visit(suspend); status() != 1 {
				t.Fatalf("%s: it was done", name)
			}
			// Who sends a token does so themselves, wherever they are.
			suspend.cookie, suspend.path, suspend.header = nil, user+"/unsuspend", append([]string{"Authorization", "Bearer " + boss.token}, tt.header...)
			if got := b.visit(suspend); got.status != 200 {
				t.Errorf("%s, with a token: %d %s", name, got.status, got.text)
			}
		}
	}
	if got := b.visit(request{method: "POST", path: user + "/suspend", cookie: cookie, header: []string{"Sec-Fetch-Site", "same-origin"}}); got.status != 200 || status() != 3 {
		t.Errorf("the page cannot suspend: %d %s", got.status, got.text)
	}
}

// A cookie is no access token, an access token is no cookie, and of both the token counts.
func TestConsoleCookieIsNoToken(t *testing.T) {
	t.Parallel()
	b := newBuilding(t)
	boss, ana := b.register("Boss").as(identity.RoleAdmin), b.register("Ana")
	cookie := b.signIn(boss)
	bearer := func(token string) []string { return []string{"Authorization", "Bearer " + token} }
	as := func(value string) *http.Cookie { c := *cookie; c.Value = value; return &c }
	const ops = "/api/ops/reports"
	for name, tt := range map[string]struct {
		path   string
		cookie *http.Cookie
		header []string
		want   int
	}{
		"the cookie at the operators' routes":     {ops, cookie, nil, 200},
		"the token at the operators' routes":      {ops, nil, bearer(boss.token), 200},
		"the cookie at an app's route":            {"/api/profile", cookie, nil, 401},
		"the cookie at an app's list":             {"/api/auth/sessions", cookie, nil, 401},
		"the cookie as a token, app":              {"/api/profile", nil, bearer(cookie.Value), 401},
		"the cookie as a token, operators":        {ops, nil, bearer(cookie.Value), 401},
		"the cookie as a token, page":             {"/ops", nil, bearer(cookie.Value), 401},
		"the token as a cookie, operators":        {ops, as(boss.token), nil, 401},
		"the token as a cookie, page":             {"/ops", as(boss.token), nil, 401},
		"a cookie cut short":                      {ops, as(cookie.Value[:len(cookie.Value)-2]), nil, 401},
		"an empty cookie":                         {ops, as(""), nil, 401},
		"an operator's cookie and a user's token": {ops, cookie, bearer(ana.token), 403},
		"an operator's cookie and a bad token":    {ops, cookie, bearer("x"), 401},
		"an operator's cookie and another scheme": {ops, cookie, []string{"Authorization", "Basic eDp5"}, 401},
		"an operator's cookie, a bad token, page": {"/ops", cookie, bearer("x"), 401},
		"nothing at all":                          {ops, nil, nil, 401},
	} {
		if got := b.get(tt.path, tt.cookie, tt.header...); got.status != tt.want {
			t.Errorf("%s: %d %s, want %d", name, got.status, got.text, tt.want)
		}
	}
	if got := b.lines(ana.id); len(got) != 1 || got[0] != "ops.report.list forbidden -" {
		t.Errorf("Ana's lines are %q", got)
	}
}

// The cookie is worth nothing as soon as its session has ended, or its owner may no more.
func TestConsoleEnds(t *testing.T) {
	t.Parallel()
	exec := func(b building, sql string, args ...any) {
		_, err := b.pool.Exec(b.t.Context(), sql, args...)
		must(b.t, err)
	}
	for name, tt := range map[string]struct {
		end  func(b building, boss user, cookie *http.Cookie)
		call int // status of a call from the page
	}{
		"signed out": {func(b building, _ user, cookie *http.Cookie) {
			if got := b.visit(request{method: "POST", path: "/ops/logout", cookie: cookie}); got.status != 303 {
				b.t.Errorf("sign out: %d %s", got.status, got.text)
			}
		}, 401},
		"the session is ended on the phone": {func(b building, boss user, _ *http.Cookie) {
			for _, s := range boss.get("/api/auth/sessions").body["sessions"].([]any) {
				if s := s.(map[string]any); s["current"] == false {
					if s["device"].(map[string]any)["name"] != "Operators' console" {
						b.t.Errorf("the list of sessions has %v", s)
					}
					boss.call("DELETE", "/api/auth/sessions/"+s["id"].(string), nil)
				}
			}
		}, 401},
		"signed out everywhere": {func(b building, boss user, _ *http.Cookie) { boss.call("POST", "/api/auth/logout-all", nil) }, 401},
		"the password is another": {func(b building, boss user, _ *http.Cookie) {
			got := boss.call("POST", "/api/auth/password", map[string]any{"current": passPhrase, "next": "another pass phrase"})
			if got.status != 204 {
				b.t.Errorf("%s", got.raw)
			}
		}, 401},
		"ended at another instance": {func(b building, boss user, _ *http.Cookie) {
			exec(b, `UPDATE sessions SET revoked_at = now() WHERE user_id = $1`, boss.id)
		}, 401},
		"demoted": {func(_ building, boss user, _ *http.Cookie) { boss.as(identity.RoleUser) }, 403},
		"suspended": {func(b building, boss user, _ *http.Cookie) {
			exec(b, `UPDATE users SET status = 3 WHERE id = $1`, boss.id)
		}, 401},
		"deactivated": {func(b building, boss user, _ *http.Cookie) {
			exec(b, `UPDATE users SET status = 2 WHERE id = $1`, boss.id)
		}, 401},
		"idle for 15 minutes": {func(b building, _ user, _ *http.Cookie) { b.clock.pass(15 * time.Minute) }, 401},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBuilding(t)
			boss := b.register("Boss").as(identity.RoleAdmin)
			cookie := b.signIn(boss)
			if got := b.get("/api/ops/reports", cookie); got.status != 200 {
				t.Fatalf("before: %d %s", got.status, got.text)
			}
			tt.end(b, boss, cookie)
			if got := b.get("/api/ops/reports", cookie); got.status != tt.call {
				t.Errorf("call: %d %s, want %d", got.status, got.text, tt.call)
			}
			got := b.get("/ops", cookie)
			if got.status != 401 || !strings.Contains(got.text, "You have been signed out") || len(got.set) != 1 || got.set[0].MaxAge >= 0 {
				t.Errorf("page: %d %v\n%s", got.status, got.set, got.text)
			}
		})
	}
}

// Who works stays signed in, but not beyond the session's 8 hours; a cookie that was taken is
// worth no more than its own 15 minutes.
func TestConsoleCookieIsRenewed(t *testing.T) {
	t.Parallel()
	b := newBuilding(t)
	boss := b.register("Boss").as(identity.RoleSupport)
	cookie := b.signIn(boss)
	began := b.clock.now()
	if got := b.get("/api/ops/reports", cookie); len(got.set) != 0 {
		t.Errorf("renewed at once: %v", got.set)
	}
	first := cookie
	for b.clock.now().Sub(began) < 8*time.Hour-10*time.Minute {
		b.clock.pass(10 * time.Minute)
		path := "/api/ops/reports"
		if b.clock.now().Sub(began)%(20*time.Minute) == 0 {
			path = "/ops"
		}
		got := b.get(path, cookie)
		if got.status != 200 || len(got.set) != 1 || got.set[0].Value == cookie.Value || got.set[0].MaxAge != 900 || !got.set[0].HttpOnly {
			t.Fatalf("%s after %s: %d %v", path, b.clock.now().Sub(began), got.status, got.set)
		}
		cookie = got.set[0]
	}
	if got := b.get("/api/ops/reports", first); got.status != 401 {
		t.Errorf("the first cookie: %d", got.status)
	}
	b.clock.pass(10 * time.Minute)
	for _, path := range []string{"/api/ops/reports", "/ops"} {
		if got := b.get(path, cookie); got.status != 401 {
			t.Errorf("%s after 8 h: %d", path, got.status)
		}
	}
}

// The answer is the same to the last byte whatever was wrong.
func TestConsoleLoginTellsNothing(t *testing.T) {
	t.Parallel()
	b := newBuilding(t)
	plain, boss := b.register("Ana"), b.register("Boss").as(identity.RoleAdmin)
	suspended, resting := b.register("Sue").as(identity.RoleAdmin), b.register("Rae").as(identity.RoleAdmin)
	for id, status := range map[uuid.UUID]int{suspended.id: 3, resting.id: 2} {
		_, err := b.pool.Exec(t.Context(), `UPDATE users SET status = $2 WHERE id = $1`, id, status)
		must(t, err)
	}
	shape := func(p page) []any {
		h := p.header.Clone()
		for _, name := range []string{"X-Request-Id", "Date"} {
			h.Del(name)
		}
		return []any{p.status, p.text, h}
	}
	want := shape(b.login(b.email(boss), "a wrong one"))
	if want[0] != 401 || !strings.Contains(want[1].(string), "The e-mail address or the password is wrong.") {
		t.Fatalf("a wrong password: %v", want)
	}
	for name, got := range map[string]page{
		"no account":                b.login("nobody@example.org", passPhrase),
		"no address":                b.login("nobody", passPhrase),
		"nothing":                   b.login("", ""),
		"no operator":               b.login(b.email(plain), passPhrase),
		"no operator, wrong":        b.login(b.email(plain), "a wrong one"),
		"suspended operator":        b.login(b.email(suspended), passPhrase),
		"operator who rests":        b.login(b.email(resting), passPhrase),
		"an address that is markup": b.login(`"><script>alert(1)</script>@example.org`, passPhrase),
	} {
		if diff := cmp.Diff(want, shape(got)); diff != "" {
			t.Errorf("%s (-wrong password +got):\n%s", name, diff)
		}
	}
	// The log of those who run the service knows better.
	if got := b.lines(plain.id); len(got) != 1 || got[0] != "ops.login forbidden -" {
		t.Errorf("Ana's lines are %q", got)
	}
	b.signIn(boss)
	if got := b.lines(boss.id); len(got) != 1 || got[0] != "ops.login - -" {
		t.Errorf("the operator's lines are %q", got)
	}
	var sessions int
	must(t, b.pool.QueryRow(t.Context(), `SELECT count(*) FROM sessions WHERE user_id = ANY ($1)`,
		[]uuid.UUID{plain.id, suspended.id, resting.id}).Scan(&sessions))
	if sessions != 3 {
		t.Errorf("%d sessions, want those of the registrations alone", sessions)
	}
}

// Passwords are tried here as rarely as at the API, with which the count is shared; the right
// one of somebody who is no operator counts as wrong.
func TestConsoleLoginIsThrottled(t *testing.T) {
	t.Parallel()
	b := newBuilding(t)
	boss, plain := b.register("Boss").as(identity.RoleAdmin), b.register("Ana")
	for who, password := range map[user]string{boss: "a wrong one", plain: passPhrase} {
		email := b.email(who)
		for i := range 5 {
			if got := b.login(email, password); got.status != 401 {
				t.Errorf("attempt %d: %d", i, got.status)
			}
		}
		got := b.login(email, passPhrase)
		if got.status != 429 || got.header.Get("Retry-After") != "1" || len(got.set) != 0 || !strings.Contains(got.text, `role="alert"`) {
			t.Errorf("%d %v\n%s", got.status, got.header, got.text)
		}
		wantProblem(t, b.do("POST", "/api/auth/login", "", nil, map[string]any{"email": email, "password": passPhrase}), 429, "rate_limited")
	}
	b.clock.pass(time.Second)
	b.signIn(boss)
	var refusals int
	must(t, b.pool.QueryRow(t.Context(), `SELECT count(*) FROM activity_log WHERE action = 'auth.refused' AND actor = $1`, uuid.Nil).Scan(&refusals))
	if refusals != 2 {
		t.Errorf("the activity log has %d lines of refusals, want one for each account", refusals)
	}
}

var inline = regexp.MustCompile(`<script[^>]*>[^<]|<style|style=|javascript:|\son[a-z]+=`)

// Nobody frames the pages, nothing in them runs that is not a file of theirs, and nobody's
// cache keeps them.
func TestConsolePages(t *testing.T) {
	t.Parallel()
	b := newBuilding(t)
	boss := b.register(`Ann`).as(identity.RoleAdmin)
	_, err := b.pool.Exec(t.Context(), `UPDATE users SET display_name = '<script>alert(1)</script>' WHERE id = $1`, boss.id)
	must(t, err)
	cookie := b.signIn(boss)
	shown := b.get("/ops", cookie)
	if shown.status != 200 || !strings.Contains(shown.text, `data-can-act="true"`) || !strings.Contains(shown.text, "&lt;script&gt;alert(1)") {
		t.Errorf("page: %d\n%s", shown.status, shown.text)
	}
	for name, got := range map[string]page{
		"page": shown, "form": b.get("/ops", nil), "refusal": b.login("nobody@example.org", passPhrase), "script": b.get("/ops/static/console.js", nil),
		"style": b.get("/ops/static/console.css", nil),
	} {
		want := map[string]string{
			"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
			"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store",
			"Content-Type": "text/html; charset=utf-8",
		}
		switch name {
		case "script":
			want["Content-Type"], want["Cache-Control"] = "text/javascript; charset=utf-8", "public, max-age=0"
		case "style":
			want["Content-Type"], want["Cache-Control"] = "text/css; charset=utf-8", "public, max-age=0"
		default:
			if found := inline.FindString(got.text); found != "" {
				t.Errorf("%s has %q", name, found)
			}
		}
		for header, value := range want {
			if got.header.Get(header) != value {
				t.Errorf("%s: %s is %q, want %q", name, header, got.header.Get(header), value)
			}
		}
		policy := got.header.Values("Content-Security-Policy")
		if len(policy) != 1 || strings.Contains(policy[0], "unsafe") || !strings.Contains(policy[0], "default-src 'none'; script-src 'self';") ||
			!strings.Contains(policy[0], "frame-ancestors 'none'") || !strings.Contains(policy[0], "form-action 'self'") {
			t.Errorf("%s: the policy is %q", name, policy)
		}
	}
	wantNoPage := func(method, path string, status int) {
		t.Helper()
		if got := b.visit(request{method: method, path: path, cookie: cookie}); got.status != status || got.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s: %d %s", method, path, got.status, got.text)
		}
	}
	wantNoPage("GET", "/ops/static/nothing.js", 404)
	wantNoPage("GET", "/ops/", 404)
	wantNoPage("GET", "/ops/static/", 404)
	wantNoPage("GET", "/ops/page.html", 404)
	wantNoPage("GET", "/ops/login", 405)
	wantNoPage("PUT", "/ops", 405)
	wantNoPage("POST", "/ops/static/console.js", 405)
	wantNoPage("POST", "/ops/login", 415)
	large := url.Values{"email": {strings.Repeat("a", 9<<10)}}
	if got := b.visit(request{method: "POST", path: "/ops/login", form: large}); got.status != 413 {
		t.Errorf("a large form: %d", got.status)
	}
	if got := b.visit(request{method: "HEAD", path: "/ops", cookie: cookie}); got.status != 200 || got.text != "" {
		t.Errorf("HEAD: %d %q", got.status, got.text)
	}
}

// With an access token the page is as any operation for operators.
func TestConsolePageTakesARole(t *testing.T) {
	t.Parallel()
	b := newBuilding(t)
	for role, want := range map[identity.Role]int{identity.RoleUser: 403, identity.RoleSupport: 200, identity.RoleAdmin: 200} {
		who := b.register("Ann").as(role)
		got := b.get("/ops", nil, "Authorization", "Bearer "+who.token)
		if got.status != want || len(got.set) != 0 || strings.Contains(got.text, `data-can-act="true"`) != (role == identity.RoleAdmin) {
			t.Errorf("%s: %d %s", role, got.status, got.text)
		}
		if role == identity.RoleUser {
			if lines := b.lines(who.id); len(lines) != 1 || lines[0] != "ops.console forbidden -" {
				t.Errorf("the activity log has %q", lines)
			}
		}
	}
}
