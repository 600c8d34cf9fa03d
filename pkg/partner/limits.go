package partner

import "time"

// Limits are the configurable figures of the rules.
type Limits struct {
	RequestTTL     time.Duration // a pending request expires after it; default 7 days
	RestoreWindow  time.Duration // inclusive; default 720 h
	MessageMaxLen  int           // characters; default 500
	NicknameMaxLen int           // characters; default 50
	BreakupTTL     time.Duration // a breakup without an answer ends the partnership after it; default 7 days
	// Cooldowns are how long a target's first, second and third decline in a row keep the
	// sender from asking again; a further one does until the target sends. Default 24 h,
	// 7 days, 30 days.
	Cooldowns [3]time.Duration
	// SendsPerTarget is how many requests a user can send to one target within SendsWindow;
	// zero is no limit, as with RATE_LIMITS=off. Default 3 in 24 h.
	SendsPerTarget int
	SendsWindow    time.Duration
}

// DefaultLimits returns the limits of the specification.
func DefaultLimits() Limits {
	const day = 24 * time.Hour
	return Limits{
		RequestTTL: 7 * day, RestoreWindow: 30 * day, MessageMaxLen: 500, NicknameMaxLen: 50, BreakupTTL: 7 * day,
		Cooldowns: [3]time.Duration{day, 7 * day, 30 * day}, SendsPerTarget: 3, SendsWindow: day,
	}
}
