package config

import "time"

// rates checks the limits on how often who may call.
func (c *checker) rates(cfg Config) {
	if cfg.Env == Production && !bool(cfg.RateLimits) {
		c.fault("RATE_LIMITS", refusedRateLimits)
	}
	const most = 1_000_000
	c.lasts("RATE_LIMIT_WINDOW", cfg.RateLimitWindow, time.Second, 24*time.Hour)
	c.within("RATE_LIMIT_FREE", cfg.RateLimitFree, 1, most)
	c.within("RATE_LIMIT_PREMIUM", cfg.RateLimitPremium, max(cfg.RateLimitFree, 1), most)
	c.within("RATE_LIMIT_ADMIN", cfg.RateLimitAdmin, 1, most)
	c.within("RATE_LIMIT_ANONYMOUS", cfg.RateLimitAnonymous, 1, most)
	c.within("RATE_LIMIT_REGISTER", cfg.RateLimitRegister, 1, most)
	c.within("RATE_LIMIT_LOGIN", cfg.RateLimitLogin, 1, most)
	c.within("RATE_LIMIT_MAIL", cfg.RateLimitMail, 1, most)
	c.within("RATE_LIMIT_SOCKETS", cfg.RateLimitSockets, 1, most)
	c.within("RATE_LIMIT_PROBE", cfg.RateLimitProbe, 1, most)
	c.within("RATE_LIMIT_REQUESTS_MINUTE", cfg.RateLimitRequestsMinute, 1, most)
	c.within("RATE_LIMIT_REQUESTS_HOUR", cfg.RateLimitRequestsHour, 1, most)
	c.within("RATE_LIMIT_REQUESTS_DAY", cfg.RateLimitRequestsDay, 1, most)
	c.within("RATE_LIMIT_INSTANCES", cfg.RateLimitInstances, 1, 1000)
}
