package main

import (
	"fmt"
	"net/http"

	"github.com/bondmate/backend/ingest"
	"github.com/bondmate/backend/pkg/edge"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/quota"
)

// limiter counts calls for all roles of this process, or is nil with RATE_LIMITS=off.
func (p *process) limiter() (*quota.Limiter, error) {
	if !p.cfg.RateLimits || p.quota != nil {
		return p.quota, nil
	}
	shared, err := p.openRedis()
	if err != nil {
		return nil, err
	}
	cfg := quota.Config{Instances: p.cfg.RateLimitInstances, Clock: p.clock, Registerer: p.registry}
	if shared != nil { // a nil client is no nil interface
		cfg.Redis = shared
	}
	p.quota, err = quota.New(cfg)
	return p.quota, err
}

// rates is how often who may call ingest, or nil.
func (p *process) rates() (*ingest.Rates, error) {
	limiter, err := p.limiter()
	if limiter == nil || err != nil {
		return nil, err
	}
	return &ingest.Rates{
		Limiter: limiter, Window: p.cfg.RateLimitWindow,
		Free: p.cfg.RateLimitFree, Premium: p.cfg.RateLimitPremium, Operator: p.cfg.RateLimitAdmin,
		Anonymous: p.cfg.RateLimitAnonymous, Registrations: p.cfg.RateLimitRegister,
		Mails: p.cfg.RateLimitMail, Logins: p.cfg.RateLimitLogin, Probes: p.cfg.RateLimitProbe,
		RequestsMinute: p.cfg.RateLimitRequestsMinute, RequestsHour: p.cfg.RateLimitRequestsHour, RequestsDay: p.cfg.RateLimitRequestsDay,
	}, nil
}

// handshakes counts those of WebSockets, by address: who it is they say later. It is nil with
// RATE_LIMITS=off.
func (p *process) handshakes() (func(*http.Request) error, error) {
	limiter, err := p.limiter()
	if limiter == nil || err != nil {
		return nil, err
	}
	rules := []quota.Rule{{Name: "handshake", Limit: p.cfg.RateLimitSockets, Window: p.cfg.RateLimitWindow}}
	return func(r *http.Request) error {
		d := limiter.Take(r.Context(), quota.Charge{
			Class: "handshake", Rules: rules,
			Subject: quota.Subject{Kind: quota.Address, ID: edge.ClientOf(r).Network().String()},
		})
		if d.Admitted {
			return nil
		}
		f := fault.New(fault.Limited, "rate_limited", fmt.Sprintf("At most %d handshakes in %s.", d.Rule.Limit, d.Rule.Window))
		f.RetryAfter = d.Reset
		return f
	}, nil
}
