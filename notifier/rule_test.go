package notifier

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

// A new event type must be decided on, not forgotten.
func TestRulesCoverEveryEventType(t *testing.T) {
	t.Parallel()
	all := rules()
	said := newTexts(t)
	for _, kind := range partner.EventTypes() {
		r, ok := all[kind]
		if !ok {
			t.Errorf("%s has no rule", kind)
		}
		if !r.pushed && kind.Category() != "" {
			t.Errorf("%s has the category %s and is not pushed", kind, kind.Category())
		}
		if r.quietly && (!r.pushed || r.ttl <= 0 || r.text != "" || kind.Category() != "") {
			t.Errorf("%s shows nothing and has the rule %+v", kind, r)
		}
		if r.pushed && !r.quietly && (r.ttl <= 0 || r.ttl > 28*day || kind.Category() == "" || said.text("en", r.text) == said.text("en", textDiscreet)) {
			t.Errorf("%s is pushed with an incomplete rule %+v", kind, r)
		}
	}
}

func TestPushesOf(t *testing.T) {
	t.Parallel()
	me, other := uuid.New(), uuid.New()
	request, partnership := uuid.New(), uuid.New()
	tests := []struct {
		name     string
		kind     string
		data     partner.EventData
		age      time.Duration
		fate     fate
		users    []uuid.UUID
		link     string
		collapse string
	}{
		{
			name: "a request from someone", kind: "request.received",
			data: partner.EventData{FromUserID: &other, RequestID: &request}, fate: fatePushed, users: []uuid.UUID{me},
			link: "bondmate://requests/" + request.String(), collapse: "request-" + request.String(),
		},
		{
			name: "accepted by the other", kind: "request.accepted",
			data: partner.EventData{ByUserID: &other, RequestID: &request, PartnershipID: &partnership}, fate: fatePushed,
			users: []uuid.UUID{me}, link: "bondmate://partnerships/" + partnership.String(), collapse: "request-" + request.String(),
		},
		{
			name: "ended by the other", kind: "partnership.ended",
			data: partner.EventData{ByUserID: &other, PartnershipID: &partnership}, fate: fatePushed, users: []uuid.UUID{me},
			link: "bondmate://partnerships/" + partnership.String(), collapse: "partnership-" + partnership.String(),
		},
		{
			name: "ended by me", kind: "partnership.ended",
			data: partner.EventData{ByUserID: &me, PartnershipID: &partnership}, fate: fatePushed, users: []uuid.UUID{other},
			link: "bondmate://partnerships/" + partnership.String(), collapse: "partnership-" + partnership.String(),
		},
		{
			name: "ended quietly", kind: "partnership.ended",
			data: partner.EventData{ByUserID: &other, PartnershipID: &partnership, Silent: true}, fate: fateSilent,
		},
		{
			name: "asked to part", kind: "breakup.requested",
			data: partner.EventData{ByUserID: &other, PartnershipID: &partnership}, fate: fatePushed, users: []uuid.UUID{me},
			link: "bondmate://partnerships/" + partnership.String(), collapse: "partnership-" + partnership.String(),
		},
		{name: "my own request", kind: "request.sent", data: partner.EventData{ToUserID: &other, RequestID: &request}, fate: fateNotPushed},
		{name: "too old", kind: "request.declined", data: partner.EventData{ByUserID: &other, RequestID: &request}, age: 3 * day, fate: fateExpired},
		{name: "of a newer program", kind: "anniversary.reached", fate: fateUnknown},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			ev := event(partner.EventRequestReceived, tc.data, 3, me, other)
			ev.Type = tc.kind
			if tc.kind == "request.received" {
				ev.Recipients = ev.Recipients[:1]
			}
			pushes, got, err := pushesOf(rules(), ev, ev.AppliedAt.Add(tc.age))
			if err != nil || got != tc.fate {
				t.Fatalf("fate %s, %v; want %s", got, err, tc.fate)
			}
			var users []uuid.UUID
			for _, p := range pushes {
				users = append(users, p.user)
				if p.payload.Data["link"] != tc.link || p.payload.CollapseID != tc.collapse {
					t.Errorf("link %s, collapse %s; want %s, %s", p.payload.Data["link"], p.payload.CollapseID, tc.link, tc.collapse)
				}
			}
			if diff := cmp.Diff(tc.users, users); diff != "" {
				t.Errorf("pushed to (-want +got):\n%s", diff)
			}
		})
	}
}

func TestJitter(t *testing.T) {
	t.Parallel()
	for attempt, limit := range map[int]time.Duration{1: 10 * time.Second, 2: 20 * time.Second, 5: 160 * time.Second, 500: 10 * time.Minute} {
		var most time.Duration
		for range 1000 {
			d := jitter(10*time.Second, 10*time.Minute, attempt)
			if d < 0 || d > limit {
				t.Fatalf("attempt %d waits %v, limit %v", attempt, d, limit)
			}
			most = max(most, d)
		}
		if most < limit*9/10 {
			t.Errorf("attempt %d waits at most %v of %v: not full jitter", attempt, most, limit)
		}
	}
}

func TestRetryAfterHeader(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"":                              0,
		"0":                             0,
		"-5":                            0,
		"soon":                          0,
		"120":                           2 * time.Minute,
		"99999999999":                   maxRetryAfter,
		"Fri, 02 Jan 2026 03:05:05 GMT": time.Minute,
		"Fri, 02 Jan 2026 03:03:05 GMT": 0,
	} {
		if got := retryAfter(header, now); got != want {
			t.Errorf("Retry-After %q is %v, want %v", header, got, want)
		}
	}
}

// The handbook for the app has the same table.
func TestRulesAreInTheHandbook(t *testing.T) {
	t.Parallel()
	said := newTexts(t)
	all, unread := rules(), partner.UnreadEventTypes()
	table := "| event | category | lives | priority | collapse id | unread | text, where `privacy.preview` is `full` |\n|---|---|---|---|---|---|---|\n"
	var silent []string
	for _, kind := range partner.EventTypes() {
		r := all[kind]
		if !r.pushed {
			silent = append(silent, "`"+kind.String()+"`")
			continue
		}
		priority, collapse, counts, text := "normal", map[subject]string{
			theEvent: "`event-{id}`", theRequest: "`request-{id}`", thePartnership: "`partnership-{id}`", theBadge: "`badge`",
		}[r.collapseBy], "no", "none: it sets the number on the icon"
		if r.high {
			priority = "high"
		}
		if slices.Contains(unread, int16(kind)) {
			counts = "yes"
		}
		category := "none"
		if kind.Category() != "" {
			category = "`" + string(kind.Category()) + "`"
		}
		if !r.quietly {
			text = said.text("en", r.text)
		}
		table += fmt.Sprintf("| `%s` | %s | %d d | %s | %s | %s | %s |\n", kind, category, int(r.ttl/day), priority, collapse, counts, text)
	}
	table += "\nNot pushed: " + strings.Join(silent, ", ") + "; nor what the reader did themselves, nor what is `silent`.\n"
	handbook, err := os.ReadFile("../docs/mobile.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(handbook), table) {
		t.Errorf("docs/mobile.md lacks the table\n%s", table)
	}
}
