package ingest_test

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/bondmate/backend/ingest"
	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/pkg/edge"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/limit"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
	"github.com/bondmate/backend/pkg/quota"
	"github.com/bondmate/backend/pkg/redistest"
)

// limited gives a server limits, which change may make tighter.
func limited(t *testing.T, counts quota.Config, change func(*ingest.Rates)) option {
	t.Helper()
	return func(c *ingest.Config) {
		counts.Clock, counts.Registerer = time.Now, c.Registerer
		limiter, err := quota.New(counts)
		must(t, err)
		c.Rates = &ingest.Rates{
			Limiter: limiter, Window: 15 * time.Minute,
			Free: 100, Premium: 500, Operator: 1000, Anonymous: 100, Registrations: 100, Mails: 10, Logins: 300, Probes: 1000,
			RequestsMinute: 5, RequestsHour: 20, RequestsDay: 100,
		}
		if change != nil {
			change(c.Rates)
		}
	}
}

// behindProxy lets tests say where a call comes from.
func behindProxy(t *testing.T) option {
	t.Helper()
	return func(c *ingest.Config) {
		proxies, err := edge.ParseProxies([]string{"127.0.0.1"})
		must(t, err)
		c.Edge, err = edge.New(edge.Config{Proxies: proxies, Log: c.Log, Registerer: c.Registerer})
		must(t, err)
	}
}

// admitted calls until it is refused, and returns how often it was not. The last answer is
// the refusal.
func admitted(t *testing.T, most int, call func() answer) (n int, last answer) {
	t.Helper()
	for range most {
		if last = call(); last.status == http.StatusTooManyRequests {
			wantProblem(t, last, 429, "rate_limited")
			return n, last
		}
		n++
	}
	t.Errorf("%d calls, none is refused", most)
	return n, last
}

func TestTiers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limited(t, quota.Config{}, func(r *ingest.Rates) { r.Free, r.Premium, r.Operator = 3, 6, 9 }))
	ana := w.register("Ana")
	profile := func() answer { return ana.get("/api/profile") }
	first := profile()
	got := map[string]string{}
	for _, name := range []string{"Limit", "Remaining", "Reset", "Policy"} {
		got[name] = first.header.Get("RateLimit-" + name)
	}
	if diff := cmp.Diff(map[string]string{"Limit": "3", "Remaining": "2", "Reset": "900", "Policy": "3;w=900"}, got); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	n, refused := admitted(t, 10, profile)
	if n != 2 || refused.header.Get("RateLimit-Remaining") != "0" || refused.header.Get("RateLimit-Limit") != "3" {
		t.Errorf("%d more calls, then %v", n, refused.header)
	}
	retry, err := strconv.Atoi(refused.header.Get("Retry-After"))
	if err != nil || retry < 800 || retry > 900 || refused.header.Get("RateLimit-Reset") != strconv.Itoa(retry) {
		t.Errorf("Retry-After %q, RateLimit-Reset %q", refused.header.Get("Retry-After"), refused.header.Get("RateLimit-Reset"))
	}
	// What an account is counts as of a second ago at most, whatever its token says; and what was
	// used stays used.
	for _, step := range []struct {
		change string
		limit  string
		more   int
	}{{`UPDATE users SET tier = 2`, "6", 2}, {`UPDATE users SET role = 2`, "9", 2}, {`UPDATE users SET role = 3`, "9", 0}} {
		_, err := w.pool.Exec(t.Context(), step.change)
		must(t, err)
		if step.more > 0 {
			eventually(t, step.change, func() bool { return profile().status == http.StatusOK })
		}
		n, refused := admitted(t, 10, profile)
		if n != step.more || refused.header.Get("RateLimit-Limit") != step.limit {
			t.Errorf("%s: %d more calls, want %d; the limit is %s, want %s", step.change, n, step.more, refused.header.Get("RateLimit-Limit"), step.limit)
		}
	}
	if got := w.register("Ben").get("/api/profile"); got.status != http.StatusOK || got.header.Get("RateLimit-Remaining") != "2" {
		t.Errorf("somebody else: %d, %s left", got.status, got.header.Get("RateLimit-Remaining"))
	}
	// The first refusal is written down, the others are not.
	var rows int
	var metadata string
	const events = `SELECT count(*), COALESCE(min(metadata::text), '') FROM activity_log WHERE actor = $1 AND action = 'limit.reached' AND code = 'rate_limited'`
	eventually(t, "the refusal in the activity log", func() bool {
		must(t, w.pool.QueryRow(t.Context(), events, ana.id).Scan(&rows, &metadata))
		return rows > 0
	})
	if want := `{"class": "user", "limit": "3", "window": "15m0s"}`; rows != 1 || metadata != want {
		t.Errorf("%d rows, %s; want one, %s", rows, metadata, want)
	}
}

// Of requests to become partners there are three windows more, and one that refuses charges
// none of the others.
func TestPartnerRequestWindows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limited(t, quota.Config{}, func(r *ingest.Rates) { r.Free, r.RequestsMinute = 20, 4 }))
	ana := w.register("Ana")
	send := func() answer { return ana.send(user{id: uuid.New()}) }
	first := send()
	if got := first.header.Get("RateLimit-Policy"); got != "20;w=900, 4;w=60, 20;w=3600, 100;w=86400" {
		t.Errorf("policy is %q", got)
	}
	if first.status != http.StatusAccepted || first.header.Get("RateLimit-Limit") != "4" || first.header.Get("RateLimit-Remaining") != "3" {
		t.Errorf("first: %d, %v", first.status, first.header)
	}
	n, refused := admitted(t, 10, send)
	if retry, err := strconv.Atoi(refused.header.Get("Retry-After")); n != 3 || err != nil || retry > 60 {
		t.Errorf("%d more, Retry-After %d", n, retry)
	}
	for range 20 {
		wantProblem(t, send(), 429, "rate_limited")
	}
	if n, _ := admitted(t, 30, func() answer { return ana.get("/api/profile") }); n != 16 {
		t.Errorf("%d calls left of the tier, want 16", n)
	}
}

func TestLimitsByAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t, behindProxy(t), limited(t, quota.Config{}, func(r *ingest.Rates) {
		r.Anonymous, r.Registrations, r.Mails, r.Logins, r.Probes = 3, 2, 2, 4, 5
	}))
	from := func(address, method, path, token string, body any) func() answer {
		return func() answer { return w.do(method, path, token, []string{"X-Forwarded-For", address}, body) }
	}
	verify := map[string]any{"token": "none such"}
	for name, tc := range map[string]struct {
		call func() answer
		want int
	}{
		"anybody":           {from("192.0.2.1", "POST", "/api/auth/email/verify", "", verify), 3},
		"no token":          {from("192.0.2.2", "GET", "/api/profile", "", nil), 3},
		"a bad token":       {from("192.0.2.3", "GET", "/api/profile", "x.y.z", nil), 3},
		"mails":             {from("192.0.2.4", "POST", "/api/auth/password/forgot", "", map[string]any{"email": "a@example.org"}), 2},
		"logins":            {from("192.0.2.5", "POST", "/api/auth/refresh", "", map[string]any{"refreshToken": "none such"}), 4},
		"detailed health":   {from("192.0.2.6", "GET", "/health/detailed", "", nil), 5},
		"an IPv6 network":   {from("2001:db8:0:1::1", "GET", "/api/profile", "", nil), 3},
		"registrations":     {from("192.0.2.7", "POST", "/api/auth/register", "", map[string]any{"email": "x@example.org", "password": "a long pass phrase", "displayName": "X"}), 2},
		"a mapped address":  {from("::ffff:192.0.2.8", "GET", "/api/profile", "", nil), 3},
		"what is no body":   {from("192.0.2.9", "POST", "/api/auth/email/verify", "", "{"), 3},
		"another IPv6 user": {from("2001:db8:0:2::1", "GET", "/api/profile", "", nil), 3},
	} {
		if n, _ := admitted(t, 10, tc.call); n != tc.want {
			t.Errorf("%s: %d admitted, want %d", name, n, tc.want)
		}
	}
	wantProblem(t, from("2001:db8:0:1:ffff::2", "GET", "/api/profile", "", nil)(), 429, "rate_limited") // the same /64
	wantProblem(t, from("192.0.2.8", "GET", "/api/profile", "", nil)(), 429, "rate_limited")            // not mapped
	// The address is used up, and who is signed in there is served.
	ana := w.register("Ana")
	if got := from("192.0.2.3", "GET", "/api/profile", ana.token, nil)(); got.status != http.StatusOK || got.header.Get("RateLimit-Limit") != "100" {
		t.Errorf("signed in: %d %v", got.status, got.header)
	}
	for _, path := range []string{"/", "/health", "/api/health", "/ready", "/live", "/docs", "/openapi.yaml", "/.well-known/jwks.json"} {
		for range 20 {
			if got := from("192.0.2.1", "GET", path, "", nil)(); got.status != http.StatusOK || got.header.Get("RateLimit-Limit") != "" {
				t.Fatalf("%s: %d %v", path, got.status, got.header)
			}
		}
	}
}

func TestNoLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana := w.register("Ana")
	for range 300 {
		got := ana.get("/api/profile")
		if got.status != http.StatusOK || got.header.Get("RateLimit-Limit") != "" || got.header.Get("RateLimit-Policy") != "" {
			t.Fatalf("%d %v", got.status, got.header)
		}
	}
}

// redisClient is set up as the program's own, but for the test's patience with the machine.
func redisClient(t *testing.T, addr string, timeout time.Duration) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{
		Addr: addr, DialTimeout: 500 * time.Millisecond, ReadTimeout: timeout, WriteTimeout: timeout, PoolTimeout: timeout,
		ContextTimeoutEnabled: true, DialerRetries: 1, MaxRetries: 3, MinRetryBackoff: 4 * time.Millisecond, MaxRetryBackoff: 32 * time.Millisecond,
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// hammer calls from 16 clients, over the instances by turns, until stop closes or each has
// called most times. seen is told of each answer. It returns how many were admitted and
// refused, and how long each took.
func hammer(t *testing.T, most int, call func(i int) answer, seen func(answer)) (in, out int, took []time.Duration) {
	t.Helper()
	var all sync.WaitGroup
	var mu sync.Mutex
	for client := range 16 {
		all.Go(func() {
			for range most {
				a := call(client)
				mu.Lock()
				took = append(took, a.took)
				switch a.status {
				case http.StatusTooManyRequests:
					out++
				case http.StatusOK, http.StatusAccepted:
					in++
				default:
					t.Errorf("%d %s", a.status, a.raw)
				}
				mu.Unlock()
				if seen != nil {
					seen(a)
				}
			}
		})
	}
	all.Wait()
	return in, out, took
}

// Two instances and one Redis: over all of it no more are admitted than the limit. With Redis
// killed while it goes on both still refuse, and admit no more than limit × instances; once it
// is back, the limit holds exactly again.
func TestTwoInstancesShareLimits(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	counts := func() quota.Config {
		return quota.Config{Redis: redisClient(t, server.Addr, 10*time.Second), Within: 10 * time.Second, Instances: 2}
	}
	one := newWorld(t, limited(t, counts(), nil))
	two := newInstance(t, one.pool, one.queue, limited(t, counts(), nil))
	instances := []*world{one, two}
	profile := func(u user) func(int) answer {
		return func(i int) answer { return u.on(instances[i%2]).get("/api/profile") }
	}
	send := func(u user) func(int) answer {
		return func(i int) answer { return u.on(instances[i%2]).send(user{id: uuid.New()}) }
	}

	ana := one.register("Ana")
	in, out, _ := hammer(t, 25, profile(ana), nil)
	t.Logf("tier, two instances, Redis: %d of %d calls admitted, limit 100: over-admission %d", in, in+out, in-100)
	if in != 100 {
		t.Errorf("%d admitted, want 100", in)
	}
	ben := one.register("Ben")
	in, out, _ = hammer(t, 5, send(ben), nil)
	t.Logf("partner requests, two instances, Redis: %d of %d admitted, limit 5: over-admission %d", in, in+out, in-5)
	if in != 5 {
		t.Errorf("%d requests admitted, want 5", in)
	}
	if got := ben.get("/api/profile").header.Get("RateLimit-Remaining"); got != "94" {
		t.Errorf("%s left of the tier after 5 requests, want 94: what was refused is not counted", got)
	}

	hal := one.register("Hal")
	if in, _, _ = hammer(t, 10, func(int) answer { return hal.get("/api/profile") }, nil); in != 100 {
		t.Errorf("at one instance %d admitted, want 100", in)
	}
	eve := one.register("Eve")
	var some atomic.Int64
	in, out, _ = hammer(t, 40, profile(eve), func(a answer) {
		if a.status == http.StatusOK && some.Add(1) == 30 {
			server.Kill()
		}
	})
	t.Logf("Redis killed after 30 of them: %d of %d admitted, limit 100: over-admission %d, at most 100 by limit × 2", in, in+out, max(0, in-100))
	if in > 200 || out == 0 {
		t.Errorf("%d admitted, %d refused; want at most 200 and the rest refused", in, out)
	}
	in, out, _ = hammer(t, 25, profile(hal), nil)
	t.Logf("of the one whose 100 went through one instance, the other admits %d of %d without Redis: over-admission %d, at most 100", in, in+out, in)
	if in != 50 {
		t.Errorf("%d admitted without Redis, want the other instance's share of 50", in)
	}
	fay := one.register("Fay")
	in, out, _ = hammer(t, 10, send(fay), nil)
	t.Logf("partner requests without Redis: %d of %d admitted, limit 5, by halves rounded up: 6 at most", in, in+out)
	if in > 6 || in < 5 {
		t.Errorf("%d requests admitted without Redis, want 5 or 6", in)
	}
	must(t, server.Start(t.Context()))
	eventually(t, "both ask Redis again", func() bool {
		for _, w := range instances {
			before := w.counter("bondmate_quota_decisions_total", "backend", "redis")
			w.do(http.MethodGet, "/health/detailed", "", nil, nil)
			if w.counter("bondmate_quota_decisions_total", "backend", "redis") == before {
				return false
			}
		}
		return true
	})
	gus := one.register("Gus")
	in, out, _ = hammer(t, 25, profile(gus), nil)
	t.Logf("Redis is back: %d of %d admitted, limit 100: over-admission %d", in, in+out, in-100)
	if in != 100 {
		t.Errorf("%d admitted, want 100", in)
	}
}

// counter sums the series of a counter that have a label.
func (w *world) counter(name, label, value string) (sum float64) {
	w.t.Helper()
	families, err := w.registry.Gather()
	must(w.t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == name && l.GetName() == label && l.GetValue() == value {
					sum += m.GetCounter().GetValue()
				}
			}
		}
	}
	return sum
}

// A Redis that hangs makes nobody wait for long, and admits nobody more than their share.
func TestHungRedisHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := newWorld(t, limited(t, quota.Config{Redis: redisClient(t, server.Addr, 100*time.Millisecond), Instances: 2}, nil))
	ana, ben := w.register("Ana"), w.register("Ben")
	in, _, _ := hammer(t, 2, func(int) answer { return ben.get("/api/profile") }, nil)
	if in != 32 {
		t.Fatalf("%d of 32 admitted", in)
	}
	must(t, server.Pause())
	in, out, took := hammer(t, 50, func(int) answer { return ana.get("/api/profile") }, nil)
	slices.Sort(took)
	p99 := took[len(took)*99/100]
	t.Logf("Redis stopped: %d of %d calls admitted, the share of 100 among 2 is 50; p50 %s, p99 %s, longest %s",
		in, in+out, took[len(took)/2].Round(time.Microsecond), p99.Round(time.Microsecond), took[len(took)-1].Round(time.Microsecond))
	if in != 50 {
		t.Errorf("%d admitted, want the share of 50", in)
	}
	if p99 > time.Second {
		t.Errorf("p99 is %s: somebody waits for Redis", p99)
	}
	must(t, server.Resume())
	eventually(t, "Redis is asked again", func() bool {
		before := w.counter("bondmate_quota_decisions_total", "backend", "redis")
		w.do(http.MethodGet, "/health/detailed", "", nil, nil)
		return w.counter("bondmate_quota_decisions_total", "backend", "redis") > before
	})
}

// Limits of passwords are not in Redis: without it they hold, and without Postgres nobody gets in.
func TestLoginLimitsNeverOpen(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	pool := postgrestest.New(t)
	w := newInstance(t, pool, newQueue(t, pool), limited(t, quota.Config{Redis: redisClient(t, server.Addr, 100*time.Millisecond)}, nil),
		func(c *ingest.Config) {
			keys, err := devKeys()
			must(t, err)
			issuer, err := identity.NewIssuer(identity.IssuerConfig{Keys: keys, Issuer: "test", Audience: "test", Clock: time.Now})
			must(t, err)
			passwords, err := identity.NewPasswords(identity.PasswordConfig{Memory: 64, Iterations: 1})
			must(t, err)
			attempts, err := limit.New(limit.Config{Pool: pool, Clock: time.Now, Registerer: c.Registerer})
			must(t, err)
			c.Accounts, err = accounts.New(accounts.Config{
				Pool: pool, Issuer: issuer, Passwords: passwords, Clock: time.Now, Log: c.Log, Attempts: attempts,
			})
			must(t, err)
		})
	ana := w.do(http.MethodPost, "/api/auth/register", "", nil, map[string]any{"email": "ana@example.org", "password": "a long pass phrase", "displayName": "Ana"})
	if ana.status != http.StatusCreated {
		t.Fatalf("register: %d %s", ana.status, ana.raw)
	}
	login := func(password string) answer {
		return w.do(http.MethodPost, "/api/auth/login", "", nil, map[string]any{"email": "ana@example.org", "password": password})
	}
	server.Kill()
	// At once: so that nothing of what they wait has passed.
	var tried, refused atomic.Int64
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			switch a := login("a wrong one"); a.status {
			case http.StatusUnauthorized:
				tried.Add(1)
			case http.StatusTooManyRequests:
				refused.Add(1)
			case http.StatusServiceUnavailable: // no room for so many hashes
			default:
				t.Errorf("%d %s", a.status, a.raw)
			}
		})
	}
	all.Wait()
	if tried.Load() > 5+2 || refused.Load() == 0 { // two more, had it taken seconds
		t.Errorf("without Redis %d wrong passwords were looked at and %d refused, want 5", tried.Load(), refused.Load())
	}
	config := pool.Config().ConnConfig.Copy()
	database := config.Database
	config.Database = "postgres"
	other, err := pgx.ConnectConfig(t.Context(), config)
	must(t, err)
	defer func() { _ = other.Close(context.WithoutCancel(t.Context())) }()
	_, err = other.Exec(t.Context(), `ALTER DATABASE `+pgx.Identifier{database}.Sanitize()+` ALLOW_CONNECTIONS false`)
	must(t, err)
	_, err = other.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1`, database)
	must(t, err)
	for range 5 {
		wantProblem(t, login("a long pass phrase"), 503, "database_unavailable")
	}
}
