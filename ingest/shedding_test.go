package ingest

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/bondmate/backend/pkg/fault"
)

// queued makes a line of n, the first of whom has waited for a while.
func queued(l *line, n int, since time.Duration) {
	l.waiting.Init()
	for range n {
		l.waiting.PushBack(time.Now().Add(-since))
	}
}

// The longer the first one waits, and the more wait behind, the more ranks are turned away:
// what matters most last, what tells of the process never.
func TestSheddingByRank(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		waiting  int
		since    time.Duration
		queued   int
		admitted string // of commands, too
	}{
		"nothing to wait for":          {0, 0, 0, "never last writes reads lists"},
		"a crowd that moves on":        {255, shedAfter / 2, 0, "never last writes reads lists"},
		"a few, however long":          {few, 9 * shedAfter, 0, "never last writes reads lists"},
		"a connection is long in wait": {few + 1, shedAfter * 3 / 2, 0, "never last writes reads"},
		"longer":                       {few + 1, 3 * shedAfter, 0, "never last writes"},
		"much longer":                  {few + 1, 6 * shedAfter, 0, "never last"},
		"nothing moves":                {few + 1, 9 * shedAfter, 0, "never"},
		"many wait":                    {256, 0, 0, "never last writes reads"},
		"a great many":                 {1024, 0, 0, "never last"},
		"too many":                     {2048, 0, 0, "never"},
		"the queue is full":            {0, 0, 10, "never last"},
		"fuller":                       {0, 0, 20, "never"},
	} {
		s := &shedding{database: &line{}, queue: &line{}, mostInLine: 256, mostQueued: 10, shed: newShedCounter()}
		queued(s.database, tc.waiting, tc.since)
		queued(s.queue, tc.queued, time.Minute)
		var admitted []string
		for r := never; r <= lists; r++ {
			err := s.admit(r, true)
			if err == nil {
				admitted = append(admitted, r.String())
			} else if f := asFault(err); f.Code != "overloaded" || f.Kind != fault.Unavailable || f.RetryAfter < comeBackMin || f.RetryAfter > comeBackMax {
				t.Errorf("%s: %v after %s", name, err, f.RetryAfter)
			}
			if tc.queued > 0 && s.admit(r, false) != nil {
				t.Errorf("%s: a read of rank %s is turned away", name, r)
			}
		}
		if got := strings.Join(admitted, " "); got != tc.admitted {
			t.Errorf("%s: admitted are %s, want %s", name, got, tc.admitted)
		}
	}
}

// Who leaves the line is not waited for any longer, wherever they stand in it.
func TestLine(t *testing.T) {
	t.Parallel()
	l := &line{}
	first, second := l.join(), l.join()
	queued := l.join()
	second()
	if n, _ := l.length(); n != 2 {
		t.Errorf("%d wait, want 2", n)
	}
	first()
	queued()
	if n, since := l.length(); n != 0 || since != 0 {
		t.Errorf("%d wait, for %s", n, since)
	}
}

// A route without a class, a class without a route, and a class by user where there is none
// are found at the start; and the document tells of 429 exactly where it can come.
func TestConductOfEveryOperation(t *testing.T) {
	t.Parallel()
	d, err := loadDocument()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, op := range d.byName {
		o := op.route.Operation
		all[o.OperationID] = op.permission.Least != 0
		limited := o.Responses.Value("429")
		if got := limited != nil && limited.Ref == "#/components/responses/Limited"; got != (op.conduct.class != uncounted) {
			t.Errorf("%s counts as %s; that it may be 429 is in the document: %v", o.OperationID, op.conduct.class, got)
		}
		if op.command && (op.method == http.MethodGet || o.Responses.Value("202").Ref == "") {
			t.Errorf("%s is no command", o.OperationID)
		}
	}
	if err := checkConducts(all); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(map[string]bool){
		"operation newRoute has no conduct: name its class and rank": func(m map[string]bool) { m["newRoute"] = true },
		"conduct of remove, which is no operation":                   func(m map[string]bool) { delete(m, "remove") },
		"operation login is counted as login, and needs a user: true": func(m map[string]bool) {
			m["login"] = true
		},
	} {
		changed := map[string]bool{}
		for operation, signedIn := range all {
			changed[operation] = signedIn
		}
		change(changed)
		if err := checkConducts(changed); err == nil || err.Error() != name {
			t.Errorf("got %v, want %s", err, name)
		}
	}
	if _, ok := d.byName["POST /api/enhanced-partners/remove"]; !ok || !d.byName["POST /api/enhanced-partners/remove"].command {
		t.Error("a leave is no command")
	}
}
