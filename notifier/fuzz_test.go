package notifier

import (
	"net/http"
	"testing"
	"time"
)

// Whatever a provider answers: the wait that it asks for is never negative, and a clock that
// goes on never makes it longer.
func FuzzRetryAfter(f *testing.F) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, s := range []string{"120", "0", "-1", "99999999999999999999", "1.5", "", now.Add(time.Minute).Format(http.TimeFormat), now.Add(-time.Hour).Format(http.TimeFormat), "soon", "9223372036854775807"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		wait := retryAfter(header, now)
		if wait < 0 {
			t.Fatalf("%q: %v", header, wait)
		}
		if later := retryAfter(header, now.Add(time.Second)); later > wait {
			t.Fatalf("%q: %v, a second later %v", header, wait, later)
		}
	})
}
