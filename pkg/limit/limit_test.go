package limit_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/limit"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

// desk is attempts over a database of its own, by a clock that the test moves.
type desk struct {
	*testing.T
	*limit.Attempts
	pool     *pgxpool.Pool
	registry *prometheus.Registry
	now      time.Time
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{T: t, pool: postgrestest.New(t), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	d.Attempts, d.registry = d.instance()
	return d
}

func (d *desk) instance() (*limit.Attempts, *prometheus.Registry) {
	d.Helper()
	registry := prometheus.NewRegistry()
	a, err := limit.New(limit.Config{Pool: d.pool, Clock: func() time.Time { return d.now }, Registerer: registry})
	if err != nil {
		d.Fatal(err)
	}
	return a, registry
}

func login(email, address string) limit.Try {
	return limit.Try{Email: email, Address: netip.MustParseAddr(address)}
}

// fails makes an attempt that fails, and returns the wait if it is refused instead.
func (d *desk) fails(try limit.Try) time.Duration {
	d.Helper()
	_, err := d.Begin(d.Context(), try)
	f, ok := errors.AsType[*fault.Error](err)
	switch {
	case err == nil:
		return 0
	case !ok || f.Kind != fault.Limited || f.Code != "rate_limited" || f.RetryAfter <= 0:
		d.Fatalf("got %v, want rate_limited with a time", err)
	}
	return f.RetryAfter
}

// passes makes an attempt with the right password.
func (d *desk) passes(try limit.Try) {
	d.Helper()
	attempt, err := d.Begin(d.Context(), try)
	if err != nil {
		d.Fatal(err)
	}
	if err := pgx.BeginFunc(d.Context(), d.pool, func(tx pgx.Tx) error {
		return attempt.Passed(d.Context(), tx, uuid.New())
	}); err != nil {
		d.Fatal(err)
	}
}

func (d *desk) rows() (n int) {
	d.Helper()
	if err := d.pool.QueryRow(d.Context(), `SELECT count(*) FROM login_attempts`).Scan(&n); err != nil {
		d.Fatal(err)
	}
	return n
}

// ladder fails as often as it may, waiting as long as it must, and returns the waits.
func (d *desk) ladder(n int, try func(i int) limit.Try) []time.Duration {
	d.Helper()
	waits := make([]time.Duration, n)
	for i := range waits {
		if waits[i] = d.fails(try(i)); waits[i] == 0 {
			continue
		}
		d.now = d.now.Add(waits[i] - time.Microsecond)
		if left := d.fails(try(i)); left != time.Microsecond {
			d.Fatalf("attempt %d shortly before its time: wait %s", i, left)
		}
		d.now = d.now.Add(time.Microsecond)
		if left := d.fails(try(i)); left != 0 {
			d.Fatalf("attempt %d at its time: wait %s", i, left)
		}
	}
	return waits
}

func TestWaitsDouble(t *testing.T) {
	t.Parallel()
	seconds := func(free int, s ...int) []time.Duration {
		waits := make([]time.Duration, free, free+len(s))
		for _, n := range s {
			waits = append(waits, time.Duration(n)*time.Second)
		}
		return waits
	}
	for name, tc := range map[string]struct {
		try  func(i int) limit.Try
		want []time.Duration
	}{
		// From 128 s on something has faded by the time of the next attempt.
		"an account, from many addresses": {
			func(i int) limit.Try { return login("ana@example.org", fmt.Sprintf("10.0.0.%d", i)) },
			seconds(5, 1, 2, 4, 8, 16, 32, 64, 128),
		},
		"nobody's account": {
			func(i int) limit.Try { return login("nobody@example.org", fmt.Sprintf("10.0.0.%d", i)) },
			seconds(5, 1, 2, 4, 8, 16, 32, 64, 128),
		},
		"an address, for many accounts": {
			func(i int) limit.Try { return login(fmt.Sprintf("a%d@example.org", i), "10.0.0.1") },
			seconds(20, 1, 2, 4, 8, 16, 32, 64),
		},
		"an address, at nobody's account in particular": {
			func(int) limit.Try {
				return limit.Try{Unnamed: true, Address: netip.MustParseAddr("10.0.0.1")}
			},
			seconds(20, 1, 2, 4, 8, 16, 32, 64),
		},
		"an address, at accounts and at nobody's": {
			func(i int) limit.Try {
				if i%2 == 0 {
					return login(fmt.Sprintf("a%d@example.org", i), "10.0.0.1")
				}
				return limit.Try{Unnamed: true, Address: netip.MustParseAddr("10.0.0.1")}
			},
			seconds(20, 1, 2, 4, 8, 16, 32, 64),
		},
		"a network of IPv6": {
			func(i int) limit.Try {
				return login(fmt.Sprintf("a%d@example.org", i), fmt.Sprintf("2001:db8:0:1::%x", i+1))
			},
			seconds(20, 1, 2, 4),
		},
		"who is signed in": {
			func(i int) limit.Try {
				return limit.Try{UserID: uuid.MustParse("0199c2de-0a0e-7c1b-a1a5-6f4d0d0f5a01"), Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}
			},
			seconds(5, 1, 2, 4),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			if diff := cmp.Diff(tc.want, d.ladder(len(tc.want), tc.try)); diff != "" {
				t.Errorf("waits (-want +got):\n%s", diff)
			}
		})
	}
}

// However long somebody goes on, no wait is above the longest, and it is over in hours.
func TestWaitsEnd(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	try := func(i int) limit.Try {
		return login("ana@example.org", netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).String())
	}
	begin, longest := d.now, time.Duration(0)
	for _, wait := range d.ladder(300, try) {
		longest = max(longest, wait)
	}
	if longest > 15*time.Minute || longest < 8*time.Minute {
		t.Errorf("the longest wait is %s", longest)
	}
	if hours := d.now.Sub(begin).Hours(); 300/hours > 6 {
		t.Errorf("300 attempts in %.1f h: want about 5 an hour", hours)
	}
	d.now = d.now.Add(3 * time.Hour)
	for i := range 5 {
		if wait := d.fails(try(1000 + i)); wait > 0 {
			t.Errorf("attempt %d after three quiet hours: wait %s", i, wait)
		}
	}
}

func TestQuietHour(t *testing.T) {
	t.Parallel()
	for name, try := range map[string]struct {
		next func(i int) limit.Try
		free int
	}{
		"account": {func(i int) limit.Try { return login("a@example.org", fmt.Sprintf("10.0.0.%d", i)) }, 5},
		"address": {func(i int) limit.Try { return login(fmt.Sprintf("%d@example.org", i), "10.0.0.1") }, 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			for round := range 3 {
				for i := range try.free {
					if wait := d.fails(try.next(100*round/2 + i)); wait > 0 {
						t.Fatalf("round %d, attempt %d: wait %s", round, i, wait)
					}
				}
				if d.fails(try.next(round)) != time.Second {
					t.Fatalf("round %d: no wait", round)
				}
				d.now = d.now.Add(time.Hour)
			}
		})
	}
}

// A hundred at once, at two instances: the free ones are admitted and no more.
func TestAtOnce(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	other, _ := d.instance()
	for name, tc := range map[string]struct {
		try  func(i int) limit.Try
		want int64
	}{
		"account": {func(i int) limit.Try { return login("a@example.org", fmt.Sprintf("10.0.0.%d", i)) }, 5},
		"address": {func(i int) limit.Try { return login(fmt.Sprintf("%d@example.org", i), "10.1.0.1") }, 20},
	} {
		var all sync.WaitGroup
		var admitted, began atomic.Int64
		for i := range 100 {
			all.Go(func() {
				attempt, err := []*limit.Attempts{d.Attempts, other}[i%2].Begin(t.Context(), tc.try(i))
				if err == nil {
					admitted.Add(1)
				} else if fault.KindOf(err) != fault.Limited {
					t.Errorf("%s: %v", name, err)
				}
				if attempt.Started() {
					began.Add(1)
				}
			})
		}
		all.Wait()
		if admitted.Load() != tc.want || began.Load() != 1 {
			t.Errorf("%s: %d admitted, want %d; %d waits began, want 1", name, admitted.Load(), tc.want, began.Load())
		}
	}
}

// What strangers do keeps nobody out where they have logged in before.
func TestOwnersPlace(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	home := login("ana@example.org", "192.0.2.1")
	strangers := func(from int) {
		for i := range 200 {
			if d.fails(login("ana@example.org", fmt.Sprintf("10.0.%d.%d", from, i))) > 0 {
				return
			}
		}
		t.Fatal("strangers are never refused")
	}
	d.passes(home)
	strangers(1)
	d.passes(home)
	if d.fails(login("ana@example.org", "192.0.2.2")) == 0 {
		t.Error("a login at home admits strangers")
	}
	if d.fails(login("ben@example.org", "192.0.2.1")) > 0 {
		t.Error("another account is refused there")
	}
	for range 5 {
		d.fails(home)
	}
	if d.fails(home) != time.Second {
		t.Error("what is tried at home has no limit")
	}
	d.now = d.now.Add(30*24*time.Hour + time.Second)
	strangers(2)
	if d.fails(home) == 0 {
		t.Error("the place is known after 30 days")
	}
}

func TestPassed(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	try := login("ana@example.org", "10.0.0.1")
	for range 4 {
		d.fails(try)
	}
	d.passes(try)
	for range 5 { // the account's are free again, now at a known place
		if wait := d.fails(try); wait > 0 {
			t.Fatalf("wait %s", wait)
		}
	}
	// The address has failed 9 times: the right one is not among them, and cleared none.
	for i := range 11 {
		if wait := d.fails(login(fmt.Sprintf("%d@example.org", i), "10.0.0.1")); wait > 0 {
			t.Fatalf("attempt %d from the address: wait %s", 9+i, wait)
		}
	}
	if d.fails(login("z@example.org", "10.0.0.1")) != time.Second {
		t.Error("a right password has cleared what the address has failed")
	}
	if got := testutil.CollectAndCount(d.registry, "bondmate_login_refused_total"); got != 1 {
		t.Errorf("%d series of refusals", got)
	}
}

// Hundreds behind one address who know their passwords do not wait for each other.
func TestManyRightOnes(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	for i := range 200 {
		d.passes(login(fmt.Sprintf("%d@example.org", i), "10.0.0.1"))
	}
}

// A flood whose passwords nobody has looked at leaves nothing behind; and what it was
// charged is given back.
func TestTakeBack(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	ctx, cancel := context.WithCancel(t.Context())
	for i := range 300 {
		attempt, err := d.Begin(t.Context(), login(fmt.Sprintf("%d@example.org", i), fmt.Sprintf("10.0.%d.%d", i/100, i%100)))
		if err != nil {
			t.Fatal(err)
		}
		if i == 150 {
			cancel()
		}
		if err := attempt.TakeBack(ctx); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if n := d.rows(); n != 0 {
		t.Errorf("%d rows are left", n)
	}
	try := login("ana@example.org", "10.0.0.1")
	for range 4 {
		d.fails(try)
	}
	for range 10 {
		attempt, err := d.Begin(t.Context(), try)
		if err != nil {
			t.Fatal(err)
		}
		if err := attempt.TakeBack(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if wait := d.fails(try); wait > 0 {
		t.Errorf("the fifth that counts: wait %s", wait)
	}
	if d.fails(try) != time.Second {
		t.Error("no wait after the fifth")
	}
}

func TestPostgresAway(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.pool.Close()
	if attempt, err := d.Begin(t.Context(), login("a@example.org", "10.0.0.1")); err == nil || attempt != nil {
		t.Error("admitted without a count")
	}
}

// Attempts at nobody's account in particular count for their address and for nobody else, and
// a right one leaves nothing behind.
func TestUnnamedTries(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	unnamed := func(i int) limit.Try {
		return limit.Try{Unnamed: true, Address: netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", i))}
	}
	for i := range 100 {
		if wait := d.fails(unnamed(i)); wait != 0 {
			t.Fatalf("failure %d from its own address has to wait %s", i, wait)
		}
	}
	if n := d.rows(); n != 100 {
		t.Errorf("%d rows, want one an address", n)
	}
	if wait := d.fails(login("", "10.0.1.1")); wait != 0 {
		t.Errorf("a login without an e-mail has to wait %s for them", wait)
	}
	for range 100 { // as many as one likes, when they are right
		d.passes(unnamed(200))
	}
}
