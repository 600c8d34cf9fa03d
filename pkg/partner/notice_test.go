package partner

import (
	"slices"
	"testing"
)

// A new event type must be decided on, not forgotten.
func TestNoticesCoverEveryEventType(t *testing.T) {
	t.Parallel()
	for _, kind := range EventTypes() {
		n := kind.notice()
		if !n.known {
			t.Errorf("%s has no place in the table", kind)
		}
		if n.category != "" && !slices.Contains(Categories(), n.category) {
			t.Errorf("%s is of the category %q, which nobody can mute", kind, n.category)
		}
	}
	if EventType(250).Unread() || EventType(250).Category() != "" {
		t.Error("a type of the future is pushed or unread")
	}
}
