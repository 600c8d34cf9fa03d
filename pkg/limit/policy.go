package limit

import (
	"math"
	"time"
)

const (
	firstWait = time.Second
	longest   = 15 * time.Minute
	// steps is how many failures beyond the free ones it takes to get to the longest wait.
	// More are not counted, so that it is over in hours, whatever was tried.
	steps = 10
)

// Policy says how many failures are free and how soon they fade.
type Policy struct {
	Free  int           // so many failures in a row have no wait before the next attempt but the last one
	Fades time.Duration // one failure is forgotten in this time
}

// count is the state of one key.
type count struct {
	failures float64 // as of at
	at       time.Time
	until    time.Time // before that nothing is admitted
}

// at lets a count fade until now.
func (p Policy) at(c count, now time.Time) float64 {
	quiet := max(0, now.Sub(c.at)) // clocks of instances differ
	return max(0, c.failures-float64(quiet)/float64(p.Fades))
}

// charge counts one more failure. started says that it is the first one with a wait behind it.
func (p Policy) charge(c count, now time.Time) (charged count, started bool) {
	failures := min(p.at(c, now)+1, float64(p.Free+steps))
	// Rounded, since a little has faded between attempts that follow each other closely.
	beyond := int(math.Round(failures)) - p.Free
	charged = count{failures: failures, at: now, until: now}
	if beyond >= 0 {
		charged.until = now.Add(min(firstWait<<beyond, longest))
	}
	return charged, beyond == 0
}

// forgotten is when a count has faded altogether.
func (p Policy) forgotten(c count) time.Time {
	return c.at.Add(time.Duration(c.failures * float64(p.Fades)))
}
