// Package quota bounds how often somebody may do something: so many times in any stretch of
// time of a given length.
//
// What it guarantees, and on what that rests:
//
//   - With Redis, instances share one count: in no stretch as long as a rule's window are more
//     admitted than its limit, over however many instances. Looking, deciding and counting are
//     one script, which Redis runs alone and by its own clock; what is counted for a call stays
//     counted for at least the window, and a window slides, so there is no edge at which two
//     of them meet.
//   - All rules of a call are asked at once. What one of them refuses is charged to none.
//   - Without Redis, or while it does not answer within Config.Within, the instance decides by
//     itself and admits its share alone: the limit divided by Config.Instances. It counts
//     in both modes and never admits more than the whole limit by itself, whatever Redis says or
//     has forgotten: so over an outage, and over any number of them, all instances together
//     admit no more than limit × instances in a window, and one that has all of somebody's
//     calls no more than the limit.
//   - A caller never waits for Redis longer than Config.Within, and with the breaker open not
//     at all. An answer that was lost may have been counted: it errs on the strict side.
//   - Memory is bounded in bytes, apart for users and for addresses, of which anybody can have
//     any number. See memory.
//
// It is not for passwords: what tries them is counted in Postgres, by package limit.
//
// It starts no goroutine. A Limiter is safe for concurrent use.
package quota

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"
)

const (
	// steps is how finely a window slides: calls that follow each other within this part of it
	// are counted as one group, which leaves the window with its last one. So a group is never
	// forgotten early, and a call waits at most that much longer than it had to.
	steps = 16
	// breakerFailures in a row open the breaker.
	breakerFailures = 5
	// breakerPause is how long an open breaker waits before it lets one check try Redis.
	breakerPause = time.Second
)

// Rule is one bound: at most Limit in any stretch of length Window. Rules of a subject with
// the same name are one count, also when their limits differ.
type Rule struct {
	Name   string
	Limit  int
	Window time.Duration
}

// Kind is what a subject is. Each has memory of its own.
type Kind uint8

// The kinds.
const (
	User    Kind = iota // somebody who is signed in: nobody can make these up
	Address             // whoever calls from there
)

func (k Kind) String() string {
	if k == User {
		return "user"
	}
	return "address"
}

// Subject is who is counted.
type Subject struct {
	Kind Kind
	ID   string
}

func (s Subject) String() string { return s.Kind.String() + ":" + s.ID }

// Charge is a call that asks to be admitted. Class names it in the metrics.
type Charge struct {
	Class   string
	Subject Subject
	Rules   []Rule
}

// Decision is the answer to a charge. Rule is the one to tell the caller of: what refuses for
// the longest, or what is left the least of.
type Decision struct {
	Admitted  bool
	Rule      Rule
	Remaining int           // of Rule, after this call
	Reset     time.Duration // until there is more of it; above zero
	// First says that it is the first refusal by this rule within its window, as far as this
	// instance knows. See Claim.
	First bool
}

// Config configures a Limiter. Clock and Registerer are required.
type Config struct {
	Redis      redis.UniversalClient // nil: each instance for itself
	Prefix     string                // of keys in Redis; default "bondmate:quota:"
	Instances  int                   // among which the limits are divided without Redis; default 1
	Within     time.Duration         // bounds a check, retries included; default 150 ms
	Clock      func() time.Time      // must be monotonic, as time.Now is
	Registerer prometheus.Registerer

	UserBytes    int // memory for counts of users; default 64 MiB
	AddressBytes int // and of addresses; default 32 MiB
}

// Limiter admits calls and counts them.
type Limiter struct {
	cfg     Config
	began   time.Time
	memory  [2]*memory // by Kind
	breaker *gobreaker.CircuitBreaker[[]int64]
	metrics *metrics
}

// New returns a Limiter. It connects to nothing.
func New(cfg Config) (*Limiter, error) {
	if cfg.Clock == nil || cfg.Registerer == nil {
		return nil, errors.New("quota: clock and registerer are required")
	}
	setDefault(&cfg.Prefix, "bondmate:quota:")
	setDefault(&cfg.Instances, 1)
	setDefault(&cfg.Within, 150*time.Millisecond)
	setDefault(&cfg.UserBytes, 64<<20)
	setDefault(&cfg.AddressBytes, 32<<20)
	l := &Limiter{cfg: cfg, began: cfg.Clock()}
	l.memory[User], l.memory[Address] = newMemory(cfg.UserBytes), newMemory(cfg.AddressBytes)
	var err error
	if l.metrics, err = newMetrics(cfg.Registerer, l); err != nil {
		return nil, fmt.Errorf("quota: %w", err)
	}
	l.breaker = gobreaker.NewCircuitBreaker[[]int64](gobreaker.Settings{
		Name: "quota", Timeout: breakerPause,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakerFailures },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			l.metrics.breaker.Set(float64(to))
		},
	})
	return l, nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// now is what the memory counts in; it never goes back.
func (l *Limiter) now() time.Duration { return l.cfg.Clock().Sub(l.began) }

// Take admits a call and counts it, or refuses it, which counts nothing. It answers within
// Config.Within, whatever becomes of Redis, and does not end with ctx.
func (l *Limiter) Take(ctx context.Context, c Charge) Decision {
	begin := time.Now()
	d, backend := l.take(ctx, c)
	outcome := "admitted"
	if !d.Admitted {
		outcome = "refused"
	}
	l.metrics.decisions.WithLabelValues(c.Class, outcome, backend).Inc()
	l.metrics.seconds.WithLabelValues(backend).Observe(time.Since(begin).Seconds())
	return d
}

func (l *Limiter) take(ctx context.Context, c Charge) (d Decision, backend string) {
	m := l.memory[c.Subject.Kind]
	if l.cfg.Redis == nil || l.breaker.State() == gobreaker.StateOpen {
		return m.take(c, l.now(), l.cfg.Instances), onMemory
	}
	// Here first, and given back when Redis refuses: so that no crowd at one instance gets
	// past what that instance may admit by itself.
	own := m.take(c, l.now(), 1)
	if !own.Admitted {
		return own, onMemory
	}
	shared, err := l.ask(ctx, c)
	if err != nil {
		m.giveBack(c, l.now())
		return m.take(c, l.now(), l.cfg.Instances), onMemory
	}
	if !shared.Admitted {
		m.giveBack(c, l.now())
		shared.First = m.first(c.Subject, shared.Rule, l.now())
	}
	return shared, onRedis
}

// Claim reports whether this refusal is the one to write down: the first of its window over
// all instances. Without Redis it is the first of this instance, as Decision.First says.
func (l *Limiter) Claim(ctx context.Context, s Subject, r Rule) bool {
	if l.cfg.Redis == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.cfg.Within)
	defer cancel()
	won, err := l.breaker.Execute(func() ([]int64, error) {
		err := l.cfg.Redis.SetArgs(ctx, l.key(s, r)+":told", 1, redis.SetArgs{Mode: "NX", TTL: r.Window}).Err()
		if errors.Is(err, redis.Nil) {
			return nil, nil
		}
		return []int64{1}, err
	})
	return err != nil || len(won) > 0
}

// decide makes the decision of what is known of each rule: how many are counted after this
// call, and how long until there is room (refused) or more room (admitted) again.
func decide(rules []Rule, admitted bool, of func(i int) (used int, wait time.Duration)) Decision {
	d := Decision{Admitted: admitted, Remaining: -1}
	for i, r := range rules {
		used, wait := of(i)
		left := max(0, r.Limit-used)
		switch {
		case !admitted && left > 0:
			continue // this one would have let it through
		case !admitted && d.Remaining >= 0 && wait <= d.Reset:
			continue
		case admitted && d.Remaining >= 0 && left >= d.Remaining:
			continue
		}
		d.Rule, d.Remaining, d.Reset = r, left, max(wait, time.Microsecond)
	}
	return d
}
