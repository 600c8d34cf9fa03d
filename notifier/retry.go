package notifier

import (
	"math/rand/v2"
	"time"
)

// maxRetryAfter bounds what we believe of a Retry-After.
const maxRetryAfter = 24 * time.Hour

// maxAttempts ends a delivery that expiry somehow does not: the column is a smallint.
const maxAttempts = 1000

// jitter returns a random part of base doubled attempt−1 times, at most limit:
// exponential back-off with full jitter
// (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
func jitter(base, limit time.Duration, attempt int) time.Duration {
	d := base
	for i := 1; i < attempt && d < limit; i++ {
		d *= 2
	}
	return rand.N(min(d, limit) + 1)
}
