package quota

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/bondmate/backend/pkg/redistest"
)

// clock is moved by the test.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(1_000_000, c.at.Load()) }
func (c *clock) forward(d time.Duration) { c.at.Add(int64(d)) }

func newLimiter(t testing.TB, cfg Config) *Limiter {
	t.Helper()
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	cfg.Registerer = prometheus.NewRegistry()
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// client is set up as the program's own.
func client(t testing.TB, server *redistest.Server) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{
		Addr: server.Addr, DialTimeout: 500 * time.Millisecond, ReadTimeout: 100 * time.Millisecond, WriteTimeout: 100 * time.Millisecond,
		PoolTimeout: 100 * time.Millisecond, ContextTimeoutEnabled: true, DialerRetries: 1,
		MaxRetries: 3, MinRetryBackoff: 4 * time.Millisecond, MaxRetryBackoff: 32 * time.Millisecond, PoolSize: 20,
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// patience is for tests that count what Redis admits: how busy the machine is must not matter.
const patience = 10 * time.Second

func patient(t testing.TB, server *redistest.Server) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: server.Addr, ContextTimeoutEnabled: true, DialerRetries: 1, PoolTimeout: patience, ReadTimeout: patience})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func user(id string, rules ...Rule) Charge {
	return Charge{Class: "test", Subject: Subject{User, id}, Rules: rules}
}

func address(id string, rules ...Rule) Charge {
	return Charge{Class: "test", Subject: Subject{Address, id}, Rules: rules}
}

// In no stretch as long as the window are more admitted than the limit, and nobody is refused
// while, of a window and a sixteenth, less than the limit is used.
func TestWindowSlides(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		at := &clock{}
		l, err := New(Config{Clock: at.now, Registerer: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		rule := Rule{"r", rapid.IntRange(1, 20).Draw(t, "limit"), time.Minute}
		var admitted []time.Time
		within := func(d time.Duration) (n int) {
			for _, a := range admitted {
				if at.now().Sub(a) < d {
					n++
				}
			}
			return n
		}
		for range 200 {
			at.forward(time.Duration(rapid.Int64Range(0, int64(10*time.Second)).Draw(t, "pause")))
			before := within(rule.Window)
			d := l.Take(context.Background(), user("u", rule))
			switch {
			case d.Admitted && before >= rule.Limit:
				t.Fatalf("admitted with %d of %d used", before, rule.Limit)
			case !d.Admitted && within(rule.Window+rule.Window/steps) < rule.Limit:
				t.Fatalf("refused with %d of %d used", before, rule.Limit)
			case !d.Admitted:
				at.forward(d.Reset)
				if !l.Take(context.Background(), user("u", rule)).Admitted {
					t.Fatalf("refused after the %s that it said", d.Reset)
				}
			}
			admitted = append(admitted, at.now()) // either this one or the one after the wait
		}
	})
}

// What is told, and that what one rule refuses is charged to none; on both backends.
func TestTakeAllOrNothing(t *testing.T) {
	t.Parallel()
	few, many := Rule{"few", 2, 10 * time.Minute}, Rule{"many", 5, time.Hour}
	check := func(t *testing.T, l *Limiter) {
		t.Helper()
		var got []string
		note := func(d Decision) {
			got = append(got, fmt.Sprintf("%v %s %d %s first=%v", d.Admitted, d.Rule.Name, d.Remaining, d.Reset.Round(time.Minute), d.First))
		}
		for range 4 {
			note(l.Take(t.Context(), user("ana", many, few)))
		}
		note(l.Take(t.Context(), user("ana", many))) // the two refused are not in it
		note(l.Take(t.Context(), user("ben", many, few)))
		want := []string{
			"true few 1 10m0s first=false", "true few 0 10m0s first=false", "false few 0 10m0s first=true", "false few 0 10m0s first=false",
			"true many 2 1h0m0s first=false", "true few 1 10m0s first=false",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("decisions (-want +got):\n%s", diff)
		}
		if d := l.Take(t.Context(), user("ana", Rule{"many", 1, time.Hour})); d.Admitted || d.Remaining != 0 || d.Rule.Limit != 1 {
			t.Errorf("a lower limit on the same count: %+v", d)
		}
		if d := l.Take(t.Context(), user("ana", Rule{"many", 10, time.Hour})); !d.Admitted || d.Remaining != 6 {
			t.Errorf("a higher limit on the same count: %+v", d)
		}
	}
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		check(t, newLimiter(t, Config{}))
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		check(t, newLimiter(t, Config{Redis: patient(t, redistest.Start(t)), Within: patience}))
	})
}

// The script's window slides as the memory's does: by Redis' own clock, seen from outside.
func TestWindowSlidesOnRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a, b := newLimiter(t, Config{Redis: patient(t, server), Within: patience}), newLimiter(t, Config{Redis: patient(t, server), Within: patience})
	rule := Rule{"r", 50, 500 * time.Millisecond}
	type call struct{ from, to time.Time }
	var mu sync.Mutex
	var admitted []call
	var all sync.WaitGroup
	end := time.Now().Add(3 * time.Second)
	for i := range 8 {
		all.Go(func() {
			for time.Now().Before(end) {
				from := time.Now()
				if []*Limiter{a, b}[i%2].Take(t.Context(), user("u", rule)).Admitted {
					mu.Lock()
					admitted = append(admitted, call{from, time.Now()})
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	// Calls that certainly were decided within one window.
	worst := 0
	for _, first := range admitted {
		n := 0
		for _, c := range admitted {
			if !c.from.Before(first.from) && c.to.Sub(first.from) < rule.Window {
				n++
			}
		}
		worst = max(worst, n)
	}
	if worst > rule.Limit {
		t.Errorf("%d admitted within %s, want at most %d", worst, rule.Window, rule.Limit)
	}
	if len(admitted) < 3*rule.Limit {
		t.Errorf("%d admitted in 3 s: the window does not slide", len(admitted))
	}
	t.Logf("two limiters, one Redis: %d admitted in 3 s, at most %d within %s; limit %d", len(admitted), worst, rule.Window, rule.Limit)
}

// crowd takes n times at once, over the limiters by turns, and returns how many got in.
func crowd(t *testing.T, n int, c Charge, limiters ...*Limiter) int {
	t.Helper()
	var all sync.WaitGroup
	var admitted atomic.Int64
	next := make(chan int)
	for range 16 {
		all.Go(func() {
			for i := range next {
				if limiters[i%len(limiters)].Take(t.Context(), c).Admitted {
					admitted.Add(1)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
	return int(admitted.Load())
}

// Two instances share one count; with Redis gone each admits its share, remembers what it
// admitted before, and never goes beyond the limit by itself.
func TestRedisGoesAndComesBack(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a := newLimiter(t, Config{Redis: patient(t, server), Instances: 2, Within: patience})
	b := newLimiter(t, Config{Redis: patient(t, server), Instances: 2, Within: patience})
	rule := Rule{"r", 100, time.Hour}
	if got := crowd(t, 300, user("before", rule), a, b); got != 100 {
		t.Errorf("with Redis: %d admitted, want 100", got)
	}
	if got := crowd(t, 30, user("half", rule), a); got != 30 {
		t.Errorf("with Redis: %d admitted, want 30", got)
	}
	server.Kill()
	for _, tc := range []struct {
		id   string
		want int
		on   []*Limiter
	}{
		{"fresh", 100, []*Limiter{a, b}},
		{"fresh at one", 50, []*Limiter{a}},
		{"half", 20, []*Limiter{a}},    // of its 50
		{"half", 50, []*Limiter{b}},    // which has seen none of them
		{"half", 0, []*Limiter{a, b}},  // 100 in all
		{"fresh", 0, []*Limiter{a, b}}, // and remembered
	} {
		if got := crowd(t, 300, user(tc.id, rule), tc.on...); got != tc.want {
			t.Errorf("without Redis, %s: %d admitted, want %d", tc.id, got, tc.want)
		}
	}
	if err := server.Start(t.Context()); err != nil { // it is empty
		t.Fatal(err)
	}
	until(t, "Redis is asked again", func() bool {
		for i, l := range []*Limiter{a, b} {
			if _, backend := l.take(t.Context(), user(fmt.Sprintf("probe %d", i), Rule{"p", 1_000_000, time.Hour})); backend != onRedis {
				return false
			}
		}
		return true
	})
	if got := crowd(t, 300, user("after", rule), a, b); got != 100 {
		t.Errorf("with Redis again: %d admitted, want 100", got)
	}
	// It has forgotten that these have had their 100; the instances have not.
	if got := crowd(t, 600, user("fresh at one", rule), a); got != 50 {
		t.Errorf("after the outage %d more at one instance, want 50: the limit is 100", got)
	}
}

// until polls, since nothing tells when a breaker closes.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// Of the first refusals of two instances one is written down.
func TestClaimOnce(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rule := Rule{"r", 1, time.Hour}
	var all []*Limiter
	for range 2 {
		all = append(all, newLimiter(t, Config{Redis: patient(t, server), Within: patience}))
	}
	all[0].Take(t.Context(), user("u", rule))
	firsts, claims := 0, 0
	for range 5 {
		for _, l := range all {
			if l.Take(t.Context(), user("u", rule)).First {
				firsts++
				if l.Claim(t.Context(), Subject{User, "u"}, rule) {
					claims++
				}
			}
		}
	}
	if firsts != 2 || claims != 1 {
		t.Errorf("%d first refusals, %d claimed; want 2 and 1", firsts, claims)
	}
}

// A million forged addresses take no more memory than there is, and do not make room for
// those who are held; users are counted apart.
func TestFloodOfAddresses(t *testing.T) {
	t.Parallel()
	const bound = 8 << 20
	l := newLimiter(t, Config{AddressBytes: bound, UserBytes: bound})
	rule := Rule{"r", 10, time.Hour}
	held := func(id string) (n int) {
		for range 50 {
			if l.Take(t.Context(), address(id, rule)).Admitted {
				n++
			}
		}
		return n
	}
	for i := range 100 {
		if got := held(fmt.Sprintf("held-%d", i)); got != 10 {
			t.Fatalf("%d admitted, want 10", got)
		}
	}
	if !l.Take(t.Context(), user("ana", rule)).Admitted {
		t.Fatal("a user is refused")
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 1_000_000 {
		ip := netip.AddrFrom4([4]byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}).String()
		if !l.Take(t.Context(), address(ip, rule)).Admitted {
			t.Fatalf("%s is refused its first call", ip)
		}
		if i%10_000 == 0 && l.Take(t.Context(), address("held-0", rule)).Admitted {
			t.Fatalf("after %d addresses one that is held gets in", i)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	entries, bytes, evicted := l.memory[Address].size()
	grown := int(after.HeapAlloc) - int(before.HeapAlloc)
	t.Logf("1,000,000 addresses: %d entries, %d bytes of %d by our count, %d evicted; the heap grew by %d", entries, bytes, bound, evicted, grown)
	if bytes > bound || evicted < 900_000 {
		t.Errorf("%d bytes, want at most %d", bytes, bound)
	}
	if grown > 2*bound {
		t.Errorf("the heap grew by %d, want at most twice the bound of %d", grown, bound)
	}
	for i := range 100 {
		if l.Take(t.Context(), address(fmt.Sprintf("held-%d", i), rule)).Admitted {
			t.Errorf("number %d of those who are held gets in", i)
		}
	}
	if entries, _, evicted := l.memory[User].size(); entries != 1 || evicted != 0 {
		t.Errorf("%d users are counted, %d forgotten, want 1 and 0", entries, evicted)
	}
	runtime.KeepAlive(l)
}

// What counts nothing any more goes when others call.
func TestForgetsAfterTheWindow(t *testing.T) {
	t.Parallel()
	at := &clock{}
	l := newLimiter(t, Config{Clock: at.now})
	rule := Rule{"r", 2, time.Minute}
	for round := range 3 {
		for i := range 1000 {
			for range 1 + i%2 { // half of them are held
				l.Take(t.Context(), address(fmt.Sprintf("%d of round %d", i, round), rule))
			}
		}
		at.forward(time.Minute)
	}
	if entries, _, evicted := l.memory[Address].size(); entries > 1000+2*shards || evicted != 0 {
		t.Errorf("%d are remembered, %d evicted; want those of the last round", entries, evicted)
	}
}

// Those who are held cannot fill it all either: newcomers are counted.
func TestNewcomersAreCounted(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, Config{AddressBytes: 1 << 20})
	rule := Rule{"r", 2, time.Hour}
	for i := range 20_000 {
		l.Take(t.Context(), address(fmt.Sprint(i), rule))
		l.Take(t.Context(), address(fmt.Sprint(i), rule))
	}
	if got := crowd(t, 50, address("new", rule), l); got != 2 {
		t.Errorf("a newcomer gets in %d times, want 2", got)
	}
	if _, bytes, _ := l.memory[Address].size(); bytes > 1<<20 {
		t.Errorf("%d bytes, want at most %d", bytes, 1<<20)
	}
}

// A Redis that hangs is waited for within the bound, and with the breaker open not at all.
func TestRedisHangs(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	l := newLimiter(t, Config{Redis: client(t, server)})
	rule := Rule{"r", 100_000, time.Hour}
	l.Take(t.Context(), user("u", rule))
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel() // a caller that has left is counted all the same
	for range breakerFailures {
		if d, backend := l.take(cancelled, user("u", rule)); !d.Admitted || backend != onMemory {
			t.Fatalf("got %+v by %s", d, backend)
		}
	}
	if state := l.breaker.State().String(); state != "open" {
		t.Errorf("the breaker is %s", state)
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	until(t, "Redis is asked again", func() bool {
		_, backend := l.take(t.Context(), user("u", rule))
		return backend == onRedis
	})
}

func benchmarkTake(b *testing.B, l *Limiter, rules ...Rule) {
	b.Helper()
	b.ReportAllocs()
	var next atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l.Take(context.Background(), user(fmt.Sprint(next.Add(1)%10_000), rules...))
		}
	})
}

// BenchmarkTake is one check: of a tier, and of a request to become partners.
func BenchmarkTake(b *testing.B) {
	tier := Rule{"tier", 100, 15 * time.Minute}
	request := []Rule{tier, {"minute", 5, time.Minute}, {"hour", 20, time.Hour}, {"day", 100, 24 * time.Hour}}
	b.Run("memory/tier", func(b *testing.B) { benchmarkTake(b, newLimiter(b, Config{}), tier) })
	b.Run("memory/request", func(b *testing.B) { benchmarkTake(b, newLimiter(b, Config{}), request...) })
	b.Run("redis/tier", func(b *testing.B) {
		benchmarkTake(b, newLimiter(b, Config{Redis: client(b, redistest.Start(b))}), tier)
	})
	b.Run("redis/request", func(b *testing.B) {
		benchmarkTake(b, newLimiter(b, Config{Redis: client(b, redistest.Start(b))}), request...)
	})
}
