package notifier

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/embedded/fcm"
)

// All faults of a provider at once: what can be delivered is, and comes twice only where
// nobody can know better. It prints the table of docs/reliability.md.
func TestFaultsOfTheProvider(t *testing.T) {
	t.Parallel()
	const phones = 10 // of each kind
	slow := time.Minute
	kinds := []struct {
		name    string
		answer  fcm.Answer
		outcome Outcome
		unknown bool // whether it has reached the phone cannot be known
		device  bool // it stays
	}{
		{"200", fcm.Answer{}, Delivered, false, true},
		{"404 with details", fcm.Refuse(404, "NOT_FOUND", "UNREGISTERED"), Unregistered, false, false},
		{"404 without details", fcm.Refuse(404, "NOT_FOUND", ""), Delivered, false, true},
		{"400 with details", fcm.Refuse(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"), Rejected, false, true},
		{"400 without details", fcm.Refuse(400, "INVALID_ARGUMENT", ""), Rejected, false, true},
		{"401", fcm.Refuse(401, "UNAUTHENTICATED", ""), Delivered, false, true},
		{"403 of another project", fcm.Refuse(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"), Rejected, false, true},
		{"403 of our account", fcm.Refuse(403, "PERMISSION_DENIED", ""), Delivered, false, true},
		{"429 with Retry-After", fcm.Refuse(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED").RetryAfter("1"), Delivered, false, true},
		{"500", fcm.Refuse(500, "INTERNAL", "INTERNAL"), Delivered, false, true},
		{"503 before accepting", fcm.Answer{Status: 503}, Delivered, false, true},
		{"503 after accepting", fcm.Answer{Status: 503, Reaches: true}, Delivered, true, true},
		{"no answer in time, not accepted", fcm.Answer{Delay: slow, Drop: true}, Delivered, false, true},
		{"no answer in time, accepted", fcm.Answer{Delay: slow}, Delivered, true, true},
		{"dropped before accepting", fcm.Answer{Drop: true}, Delivered, false, true},
		{"dropped after accepting", fcm.Answer{Drop: true, Reaches: true}, Delivered, true, true},
	}
	w := newWorld(t)
	var users []uuid.UUID
	for k, kind := range kinds {
		for i := range phones {
			token := fmt.Sprintf("kind-%02d-%d", k, i)
			w.fcm.Script(token, kind.answer)
			users = append(users, w.phone(token).user)
		}
	}
	cfg := w.config()
	cfg.CallTimeout = 4 * time.Second // a busy machine answers the others within it
	n := w.notifier(cfg)
	w.deliver(n, received(1, users...))
	w.background(n.Run)
	w.awaitSettled(len(users))

	type seen struct {
		calls, reached int
		collapse       []string
	}
	by := map[string]*seen{}
	for _, p := range w.fcm.Recent("") {
		var m struct {
			Token   string `json:"token"`
			Android struct {
				CollapseKey string `json:"collapse_key"`
			} `json:"android"`
		}
		if err := json.Unmarshal(p.Message, &m); err != nil {
			t.Fatal(err)
		}
		s := by[m.Token]
		if s == nil {
			s = &seen{}
			by[m.Token] = s
		}
		s.calls++
		if p.Reached {
			s.reached++
			s.collapse = append(s.collapse, m.Android.CollapseKey)
		}
	}
	var table strings.Builder
	fmt.Fprintf(&table, "| the provider's first answer | outcome | calls a push | lost | repeated | the device |\n|---|---|---|---|---|---|\n")
	for k, kind := range kinds {
		calls, lost, repeated := 0, 0, 0
		for i := range phones {
			token := fmt.Sprintf("kind-%02d-%d", k, i)
			s := by[token]
			if s == nil {
				t.Fatalf("%s: never called", kind.name)
			}
			calls += s.calls
			if kind.outcome == Delivered && s.reached == 0 {
				lost++
			}
			repeated += max(0, s.reached-1)
			if len(slices.Compact(s.collapse)) > 1 {
				t.Errorf("%s: repeats under the collapse ids %v", kind.name, s.collapse)
			}
		}
		if lost > 0 || repeated > 0 && !kind.unknown {
			t.Errorf("%s: %d lost, %d repeated", kind.name, lost, repeated)
		}
		like := fmt.Sprintf("kind-%02d-%%", k)
		stays := query[int](w, `SELECT count(*)::int FROM devices WHERE value LIKE $1`, like)
		if want := map[bool]int{true: phones, false: 0}[kind.device]; stays != want {
			t.Errorf("%s: %d devices are left, want %d", kind.name, stays, want)
		}
		device := map[bool]string{true: "stays", false: "goes"}[kind.device]
		fmt.Fprintf(&table, "| %s | %s | %.1f | %d | %d of %d | %s |\n", kind.name, kind.outcome, float64(calls)/phones, lost, repeated, phones, device)
	}
	for outcome, n := range w.outcomes() {
		want := 0
		for _, kind := range kinds {
			if kind.outcome == outcome {
				want += phones
			}
		}
		if n != want {
			t.Errorf("%d are %s, want %d", n, outcome, want)
		}
	}
	if got := w.counter("bondmate_notifier_breaker_state", ""); got != 0 {
		t.Errorf("breaker state %v in the end, want closed", got)
	}
	t.Logf("\n%s\nbreaker: opened %v times, closed %v times", table.String(),
		w.counter("bondmate_notifier_breaker_transitions_total", "open"), w.counter("bondmate_notifier_breaker_transitions_total", "closed"))
}
