package ingest

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/google/uuid"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/ingest/journal"
	"github.com/bondmate/backend/pkg/edge"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/partner"
	"github.com/bondmate/backend/pkg/quota"
)

// Rates is how often who may call. All numbers are within Window but those of requests.
type Rates struct {
	Limiter *quota.Limiter
	Window  time.Duration
	// By user, who is free, premium, or of support or administration.
	Free, Premium, Operator int
	// By address (of IPv6: its /64).
	Anonymous, Registrations, Mails, Logins, Probes int
	// Requests to become partners, by user, on top of the tier's.
	RequestsMinute, RequestsHour, RequestsDay int
}

const (
	// refusalsQueued bounds the refusals that wait to be written down.
	refusalsQueued = 256
	// refusalWithin bounds the writing of one.
	refusalWithin = 5 * time.Second
	// refusalLines is how many refused calls a second the access log shows.
	refusalLines = 10
)

// limiting counts calls. The nil value counts none.
type limiting struct {
	rates   Rates
	byClass map[class][]quota.Rule // of classes that count by address
	noted   chan limitReached      // for the activity log, written by run
	lost    func()
	lines   *rate.Limiter // of refused calls in the access log
}

// limitReached is a user who has just used up a limit.
type limitReached struct {
	user    uuid.UUID
	rule    quota.Rule
	class   class
	address string
	device  string
}

func newLimiting(r *Rates, lost func()) *limiting {
	if r == nil {
		return nil
	}
	one := func(name string, limit int) []quota.Rule {
		return []quota.Rule{{Name: name, Limit: limit, Window: r.Window}}
	}
	return &limiting{
		rates: *r, lost: lost, noted: make(chan limitReached, refusalsQueued), lines: rate.NewLimiter(refusalLines, refusalLines),
		byClass: map[class][]quota.Rule{
			anonymous: one("anonymous", r.Anonymous), registration: one("registration", r.Registrations),
			mailing: one("mail", r.Mails), signingIn: one("login", r.Logins), probing: one("probe", r.Probes),
		},
	}
}

// ofUser returns the rules of a user's call. What a tier allows is one count whatever the
// tier is, so that a change of it starts none anew.
func (l *limiting) ofUser(c class, who accounts.Standing) []quota.Rule {
	tier := l.rates.Free
	switch {
	case who.Role >= identity.RoleSupport:
		tier = l.rates.Operator
	case who.Premium:
		tier = l.rates.Premium
	}
	rules := []quota.Rule{{Name: "tier", Limit: tier, Window: l.rates.Window}}
	if c == byRequest {
		rules = append(rules,
			quota.Rule{Name: "request-minute", Limit: l.rates.RequestsMinute, Window: time.Minute},
			quota.Rule{Name: "request-hour", Limit: l.rates.RequestsHour, Window: time.Hour},
			quota.Rule{Name: "request-day", Limit: l.rates.RequestsDay, Window: 24 * time.Hour})
	}
	return rules
}

// limited counts a call and says in the answer's headers what is left, or refuses it. What
// servers do counts by their key, as much as an operator's.
func (s *Server) limited(w http.ResponseWriter, r *http.Request, c class) error {
	if s.rates == nil || c == uncounted || c == handshaking {
		return nil
	}
	x, client := exchangeOf(r.Context()), edge.ClientOf(r)
	charge := quota.Charge{Class: string(c)}
	switch {
	case c.byUser() && x.server != nil:
		charge.Subject = quota.Subject{Kind: quota.User, ID: "key:" + x.server.Actor.KeyID.String()}
		charge.Rules = s.rates.ofUser(c, accounts.Standing{Role: identity.RoleSupport})
	case c.byUser():
		charge.Subject, charge.Rules = quota.Subject{Kind: quota.User, ID: x.caller.UserID.String()}, s.rates.ofUser(c, x.standing)
	default:
		charge.Subject, charge.Rules = quota.Subject{Kind: quota.Address, ID: client.Network().String()}, s.rates.byClass[c]
	}
	d := s.rates.rates.Limiter.Take(r.Context(), charge)
	setRateHeaders(w.Header(), charge.Rules, d)
	if d.Admitted {
		return nil
	}
	if d.First && c.byUser() && x.server == nil {
		select {
		case s.rates.noted <- limitReached{x.caller.UserID, d.Rule, c, client.String(), userAgent(r)}:
		default:
			s.rates.lost()
		}
	}
	f := fault.New(fault.Limited, "rate_limited", fmt.Sprintf("At most %d of these calls in %s. Wait before the next one.", d.Rule.Limit, d.Rule.Window))
	f.RetryAfter = d.Reset
	return f
}

// setRateHeaders writes the fields of draft-ietf-httpapi-ratelimit-headers-03: the three of the
// rule that is nearest to its end, and all of the rules as the policy.
func setRateHeaders(h http.Header, rules []quota.Rule, d quota.Decision) {
	policy := make([]string, len(rules))
	for i, r := range rules {
		policy[i] = fmt.Sprintf("%d;w=%d", r.Limit, int(r.Window.Seconds()))
	}
	h.Set("RateLimit-Limit", strconv.Itoa(d.Rule.Limit))
	h.Set("RateLimit-Remaining", strconv.Itoa(d.Remaining))
	h.Set("RateLimit-Reset", strconv.Itoa(max(1, int(math.Ceil(d.Reset.Seconds())))))
	h.Set("RateLimit-Policy", strings.Join(policy, ", "))
}

// run writes refusals down, one of a user and a rule in a window over all instances: what a
// security event is worth, however often somebody goes on.
func (l *limiting) run(ctx context.Context, s *Server) {
	if l == nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-l.noted:
			if err := l.write(ctx, s, r); err != nil && ctx.Err() == nil {
				l.lost()
				s.log.WarnContext(ctx, "take down a refused user", "user_id", r.user, "error", err)
			}
		}
	}
}

func (l *limiting) write(ctx context.Context, s *Server, r limitReached) error {
	ctx, cancel := context.WithTimeout(ctx, refusalWithin)
	defer cancel()
	if !l.rates.Limiter.Claim(ctx, quota.Subject{Kind: quota.User, ID: r.user.String()}, r.rule) {
		return nil
	}
	line := journal.Entry{
		Actor: r.user, Action: "limit.reached", Severity: partner.SeverityWarning, Code: "rate_limited",
		Address: r.address, Device: r.device,
		Metadata: map[string]string{"class": string(r.class), "limit": strconv.Itoa(r.rule.Limit), "window": r.rule.Window.String()},
	}
	if err := journal.Write(ctx, s.db.pool, s.clock().UTC(), line); err != nil {
		return err
	}
	journal.Say(ctx, s.log, line)
	return nil
}

// shown reports whether the access log may have a line of a refused call; so a flood of them
// does not become one of lines. The metrics count them all.
func (l *limiting) shown(x *exchange) bool {
	return l == nil || x.code != "rate_limited" || l.lines.Allow()
}

// check reports a number that would admit nobody.
func (r *Rates) check() error {
	if r == nil {
		return nil
	}
	if r.Limiter == nil || r.Window <= 0 || min(r.Free, r.Premium, r.Operator, r.Anonymous, r.Registrations, r.Mails, r.Logins,
		r.Probes, r.RequestsMinute, r.RequestsHour, r.RequestsDay) <= 0 {
		return fmt.Errorf("ingest: rates need a limiter and numbers above zero: %+v", *r)
	}
	return nil
}
